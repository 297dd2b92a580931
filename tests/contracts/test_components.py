"""Contract tests: every discovered component, unnamed here, keeps the promises of `bench.task`."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from makers import ROOT

from bench import find
from bench.config.seeds import rng
from bench.data.order import Draw
from bench.data.transforms import normalise
from bench.models.classifier import Classifier
from bench.task import Batch, Config, DataSpec, ModelSpec, Picture
from bench.train.learner import Learner, TrainingStep

COMPONENTS = [
    (kind, name)
    for kind in ("source", "backbone", "objective", "evaluation")
    for name in find.names(kind)
]
FRAMES, SIZE, CLASSES, BATCH = 4, 16, 20, 3


@pytest.mark.parametrize(("kind", "name"), COMPONENTS)
def test_component_has_version_config_and_docstring(kind: str, name: str) -> None:
    module = find.load(kind, name)
    assert isinstance(module.VERSION, int) and module.VERSION >= 1
    assert issubclass(module.Config, Config)
    tiny = module.Config.tiny()
    assert module.Config.model_validate_json(tiny.model_dump_json()) == tiny
    module.Config()  # every field has a default
    assert module.__doc__ and len(module.__doc__) > 60


@pytest.mark.parametrize("name", find.names("source"))
def test_source_spec_is_consistent_and_pure(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    module = find.load("source", name)
    spec = module.spec(module.Config.tiny())
    assert isinstance(spec, DataSpec) and spec.media in ("video", "image")
    assert len(set(spec.classes)) == spec.num_classes > 1 and len(spec.splits) >= 2
    for classes in spec.subsets.values():
        assert set(classes) <= set(range(spec.num_classes)) and len(set(classes)) == len(classes)
    missing = module.missing(module.Config.tiny(), tmp_path)
    assert missing is None or "python -m bench.prepare" in missing
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "name", [n for n in find.names("source") if hasattr(find.load("source", n), "prepare")]
)
def test_source_that_prepares_itself_opens(name: str, tmp_path: Path) -> None:
    module = find.load("source", name)
    config = module.Config.tiny()
    module.prepare(config, tmp_path)
    spec = module.spec(config)
    for split in spec.splits:
        samples = module.open(config, tmp_path, split)
        assert len(samples) == len(samples.keys) == len(samples.labels) == len(set(samples.keys))
        assert samples.labels.min() >= 0 and samples.labels.max() < spec.num_classes
        indices = np.array([0, samples.num_frames(0) - 1])
        frames = samples.frames(0, indices)
        assert frames.dtype == np.uint8 and frames.shape[0] == 2 and frames.shape[-1] == 3
        shape = frames.shape[1:]
        for layer in spec.layers.get(split, ()):
            assert samples.with_layer(layer).tolist() == list(range(len(samples)))
            picture = samples.layer(0, layer)
            assert picture.dtype == np.uint8 and picture.shape in (shape, shape[:2])


def _frames(name: str) -> int:
    """FRAMES, or 1 of backbones that see a single image."""
    module = find.load("backbone", name)
    refused = module.skip(module.Config.tiny(), frames=FRAMES, size=SIZE)
    assert refused is None or module.skip(module.Config.tiny(), frames=1, size=SIZE) is None
    return FRAMES if refused is None else 1


@pytest.mark.parametrize("name", find.names("backbone"))
@pytest.mark.parametrize("train", [True, False])
def test_backbone_returns_features_in_train_and_eval(name: str, train: bool) -> None:
    module, config = find.load("backbone", name), find.load("backbone", name).Config.tiny()
    frames = _frames(name)
    model = module.build(config, frames=frames, size=SIZE).train(train)
    clip = torch.randn(BATCH, frames, 3, SIZE, SIZE)
    features = model(clip)
    patches = (SIZE // model.patch) ** 2
    assert features.cls_BD.shape == (BATCH, model.dim)
    assert features.tokens_BTND.shape == (BATCH, frames, patches, model.dim)
    assert (model.dim, model.patch) == (config.dim, config.patch)
    stages = list(model.stages(clip))
    assert len(stages) == config.depth + 1
    assert all(s.shape == features.tokens_BTND.shape for s in stages)


@pytest.mark.parametrize("name", find.names("backbone"))
def test_backbone_state_round_trips_and_is_deterministic(name: str) -> None:
    module, config = find.load("backbone", name), find.load("backbone", name).Config.tiny()
    frames = _frames(name)
    torch.manual_seed(0)
    one = module.build(config, frames=frames, size=SIZE).eval()
    torch.manual_seed(1)
    other = module.build(config, frames=frames, size=SIZE).eval()
    other.load_state_dict(one.state_dict())
    clip = torch.randn(BATCH, frames, 3, SIZE, SIZE)
    assert torch.equal(one(clip).cls_BD, other(clip).cls_BD)


@pytest.mark.parametrize("name", find.names("backbone"))
def test_backbone_that_says_so_encodes_without_positions(name: str) -> None:
    module = find.load("backbone", name)
    if not getattr(module, "POSITIONS_OPTIONAL", False):
        pytest.skip("it always has positions")
    model = module.build(module.Config.tiny(), frames=_frames(name), size=SIZE).eval()
    clip = torch.randn(BATCH, _frames(name), 3, SIZE, SIZE)
    with_positions, without = model(clip), model(clip, positions=False)
    assert with_positions.tokens_BTND.shape == without.tokens_BTND.shape
    assert not torch.equal(with_positions.tokens_BTND, without.tokens_BTND)
    assert torch.equal(with_positions.cls_BD, model(clip, positions=True).cls_BD)


def _batch(spec: ModelSpec, extras: dict[str, torch.Tensor], frames: np.ndarray) -> Batch:
    clip = normalise(torch.from_numpy(frames), spec.mean, spec.std)
    labels = torch.arange(BATCH) % spec.num_classes
    return Batch(clip, labels, tuple("abc"), extras)


LAYERS = ("only_bg_t", "only_bg_b", "clean_bg", "no_fg", "fg_mask")
WORLDS = {  # media: a backbone for it, frames, layers
    "video": ("timesformer", FRAMES, ()),
    "image": ("vit", 1, LAYERS),
}


def _picture(image_HWC: np.ndarray) -> Picture:
    """An image whose object is its upper left quarter; another colour is behind it in each layer."""
    mask_HW = np.zeros(image_HWC.shape[:2], np.uint8)
    mask_HW[: SIZE // 2, : SIZE // 2] = 1

    def layer(name: str) -> np.ndarray:
        behind = np.where(mask_HW[..., None], LAYERS.index(name), image_HWC).astype(np.uint8)
        return mask_HW if name == "fg_mask" else behind

    return Picture(image_HWC, layer)


def _extras(
    name: str, config: Config, spec: ModelSpec, frames: np.ndarray
) -> dict[str, torch.Tensor]:
    """What the loader's workers would have made for this objective."""
    module, made = find.load("objective", name), None
    if hasattr(module, "prepare"):
        made = [module.prepare(config, spec, clip, rng(0)) for clip in frames]
    if hasattr(module, "companion"):
        made = [module.companion(config, _picture(clip[0]), rng(0))[None] for clip in frames]
        assert all(m.shape == (1, SIZE, SIZE, 3) and m.dtype == np.uint8 for m in made)
    return {} if made is None else {name: torch.from_numpy(np.stack(made))}


def test_every_objective_has_a_world_that_it_works_in() -> None:
    for name in find.names("objective"):
        module = find.load("objective", name)
        reasons = [_why_not(module, module.Config(), media) for media in WORLDS]
        assert None in reasons, f"{name}: {reasons}"


def _why_not(module: Any, config: Config, media: str) -> str | None:
    return module.skip(config, *_specs(media)) if hasattr(module, "skip") else None


def _specs(media: str) -> tuple[ModelSpec, DataSpec]:
    name, frames, layers = WORLDS[media]
    backbone, half = find.load("backbone", name), (0.5, 0.5, 0.5)
    sizes = backbone.Config.tiny()
    optional = getattr(backbone, "POSITIONS_OPTIONAL", False)
    classes = tuple(f"c{i}" for i in range(CLASSES))
    return (
        ModelSpec(
            frames, SIZE, sizes.patch, sizes.dim, CLASSES, half, half, positions_optional=optional
        ),
        DataSpec("any", media, classes, {}, ("train", "val"), layers={"train": layers}),
    )


@pytest.mark.parametrize("name", find.names("objective"))
@pytest.mark.parametrize("options", ["default", "tiny"])
@pytest.mark.parametrize("media", WORLDS)
def test_objective_gives_a_finite_loss_and_gradients(name: str, options: str, media: str) -> None:
    module = find.load("objective", name)
    config = module.Config() if options == "default" else module.Config.tiny()
    spec, _ = _specs(media)
    if reason := _why_not(module, config, media):
        pytest.skip(f"not for {media}: {reason}")
    frames = rng(0, name).integers(0, 256, (BATCH, spec.frames, SIZE, SIZE, 3), dtype=np.uint8)
    backbone = find.load("backbone", WORLDS[media][0])
    classifier = Classifier(
        backbone.build(backbone.Config.tiny(), frames=spec.frames, size=SIZE), CLASSES, dropout=0.0
    )
    objective = module.Objective(config, spec)
    draws = tuple(Draw(i, 0) for i in range(BATCH))
    step = TrainingStep(classifier, run_seed=0, number=0, draws=draws)
    batch = _batch(spec, _extras(name, config, spec, frames), frames)
    report = Learner(classifier, {name: objective}, {name: 1.0})(batch, step)
    assert report.total.ndim == 0 and bool(torch.isfinite(report.total))
    assert all(value.ndim == 0 for value in report.logs.values())
    report.total.backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in classifier.parameters())
    assert all(p.grad is not None for p in objective.parameters())


@pytest.mark.parametrize("name", find.names("objective"))
def test_labels_are_alike_wherever_they_are_computed(name: str) -> None:
    module, config = find.load("objective", name), find.load("objective", name).Config.tiny()
    if not hasattr(module, "prepare_batch"):
        pytest.skip("its labels, if any, are the loader's")
    spec, _ = _specs("video")
    frames = rng(0, name).integers(0, 256, (BATCH, spec.frames, SIZE, SIZE, 3), dtype=np.uint8)
    made = module.prepare_batch(config, spec, torch.from_numpy(frames))
    assert len(made) == BATCH and made.device.type == "cpu"
    if hasattr(module, "prepare"):
        assert config.where == "auto"
        loaders = _extras(name, config, spec, frames)[name]
        assert (made.shape, made.dtype) == (loaders.shape, loaders.dtype)


@pytest.mark.parametrize("kind", sorted(find.PACKAGES))
def test_unknown_names_list_what_exists(kind: str) -> None:
    for bad in ("no_such_thing", "../secrets", "os", "Video", ""):
        with pytest.raises(find.UnknownComponent):
            find.load(kind, bad)


def test_a_broken_component_is_never_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "broken_tasks"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "bad.py").write_text("import no_such_dependency\nclass Objective: ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(find.PACKAGES, "objective", "broken_tasks")
    find.names.cache_clear(), find.load.cache_clear()
    try:
        assert find.names("objective") == ("bad",)
        with pytest.raises(ModuleNotFoundError, match="no_such_dependency"):
            find.load("objective", "bad")
    finally:
        find.names.cache_clear(), find.load.cache_clear()


def test_every_module_says_what_it_is() -> None:
    for folder in ("bench", "tasks", "reports"):
        for path in (ROOT / folder).rglob("*.py"):
            if path.stat().st_size:
                assert ast.get_docstring(ast.parse(path.read_text())), path


def test_no_unsafe_loading_and_no_network_code() -> None:
    for folder in ("bench", "tasks", "reports"):
        for path in (ROOT / folder).rglob("*.py"):
            if path.name == "make_assets.py":
                continue
            text = path.read_text()
            for call in (
                "weights_only=False",
                "pickle.load",
                "urllib",
                "requests.get",
                "yaml.unsafe",
            ):
                assert call not in text, f"{path}: {call}"
