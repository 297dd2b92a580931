"""Contract tests: every discovered component, unnamed here, keeps the promises of `bench.task`."""

from __future__ import annotations

import ast
from pathlib import Path

import numpy as np
import pytest
import torch

from bench import find
from bench.data.transforms import normalise
from bench.identity import rng
from bench.learner import Learner, TrainingStep
from bench.models.classifier import Classifier
from bench.task import Batch, Config, DataSpec, ModelSpec

ROOT = Path(__file__).resolve().parent.parent
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


@pytest.mark.parametrize("name", find.names("backbone"))
@pytest.mark.parametrize("train", [True, False])
def test_backbone_returns_features_in_train_and_eval(name: str, train: bool) -> None:
    module, config = find.load("backbone", name), find.load("backbone", name).Config.tiny()
    model = module.build(config, frames=FRAMES, size=SIZE).train(train)
    clip = torch.randn(BATCH, FRAMES, 3, SIZE, SIZE)
    features = model(clip)
    patches = (SIZE // model.patch) ** 2
    assert features.cls_BD.shape == (BATCH, model.dim)
    assert features.tokens_BTND.shape == (BATCH, FRAMES, patches, model.dim)
    assert (model.dim, model.patch) == (config.dim, config.patch)
    stages = list(model.stages(clip))
    assert len(stages) == config.depth + 1
    assert all(s.shape == features.tokens_BTND.shape for s in stages)


@pytest.mark.parametrize("name", find.names("backbone"))
def test_backbone_state_round_trips_and_is_deterministic(name: str) -> None:
    module, config = find.load("backbone", name), find.load("backbone", name).Config.tiny()
    torch.manual_seed(0)
    one = module.build(config, frames=FRAMES, size=SIZE).eval()
    torch.manual_seed(1)
    other = module.build(config, frames=FRAMES, size=SIZE).eval()
    other.load_state_dict(one.state_dict())
    clip = torch.randn(BATCH, FRAMES, 3, SIZE, SIZE)
    assert torch.equal(one(clip).cls_BD, other(clip).cls_BD)


def _batch(spec: ModelSpec, extras: dict[str, torch.Tensor], frames: np.ndarray) -> Batch:
    clip = normalise(torch.from_numpy(frames), spec.mean, spec.std)
    labels = torch.arange(BATCH) % spec.num_classes
    return Batch(clip, labels, tuple("abc"), extras)


@pytest.mark.parametrize("name", find.names("objective"))
@pytest.mark.parametrize("options", ["default", "tiny"])
def test_objective_gives_a_finite_loss_and_gradients(name: str, options: str) -> None:
    module = find.load("objective", name)
    config = module.Config() if options == "default" else module.Config.tiny()
    backbone = find.load("backbone", "timesformer")
    model_config = backbone.Config.tiny()
    half = (0.5, 0.5, 0.5)
    spec = ModelSpec(FRAMES, SIZE, model_config.patch, model_config.dim, CLASSES, half, half)
    data = DataSpec("any", "video", tuple(f"c{i}" for i in range(CLASSES)), {}, ("train", "val"))
    if hasattr(module, "skip") and module.skip(config, spec, data):
        pytest.skip("not for video")
    frames = rng(0, name).integers(0, 256, (BATCH, FRAMES, SIZE, SIZE, 3), dtype=np.uint8)
    extras = {}
    if hasattr(module, "prepare"):
        labels = [module.prepare(config, spec, clip, rng(0)) for clip in frames]
        extras[name] = torch.from_numpy(np.stack(labels))
    classifier = Classifier(
        backbone.build(model_config, frames=FRAMES, size=SIZE), CLASSES, dropout=0.0
    )
    objective = module.Objective(config, spec)
    step = TrainingStep(classifier, run_seed=0, number=0, draws=())
    batch = _batch(spec, extras, frames)
    report = Learner(classifier, {name: objective}, {name: 1.0})(batch, step)
    assert report.total.ndim == 0 and bool(torch.isfinite(report.total))
    assert all(value.ndim == 0 for value in report.logs.values())
    report.total.backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in classifier.parameters())
    assert all(p.grad is not None for p in objective.parameters())


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
