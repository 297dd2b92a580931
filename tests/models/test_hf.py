"""The adapter `hf`: logits and features of transformers' own classes, and every folder it must refuse."""

from __future__ import annotations

import json
import pickle
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from einops import rearrange
from safetensors.torch import load_file, save_file
from torch import Tensor

from bench.data import views
from bench.data.transforms import eval_clip, normalise
from bench.models import released
from bench.models.adapters import hf
from bench.models.named import Asked, NamedModel

transformers = pytest.importorskip("transformers")
SIZES = {
    "hidden_size": 16,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "initializer_range": 0.5,
}
DEPTH = {"num_hidden_layers": 2}
KINDS: dict[str, dict[str, Any]] = {
    "timesformer": {"image_size": 16, "patch_size": 8, "num_frames": 4, **SIZES, **DEPTH},
    "videomae": {"image_size": 16, "patch_size": 8, "num_frames": 4, **SIZES, **DEPTH},
    "vivit": {"image_size": 16, "tubelet_size": [2, 8, 8], "num_frames": 4, **SIZES, **DEPTH},
    "vjepa2": {
        "crop_size": 16,
        "patch_size": 8,
        "frames_per_clip": 4,
        "hidden_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_pooler_layers": 1,
        "pred_hidden_size": 24,
        "pred_num_attention_heads": 2,
        "pred_num_hidden_layers": 1,
        "initializer_range": 0.5,
    },
    "videoprism_vision_model": {
        "image_size": 16,
        "tubelet_size": [1, 4, 4],  # 16 patches and 4 frames: no state looks like another
        "num_frames": 4,
        "num_spatial_layers": 2,
        "num_temporal_layers": 2,
        **SIZES,
    },
}
PROCESSORS = {
    "timesformer": "TimesformerVideoProcessor",
    "videomae": "VideoMAEVideoProcessor",
    "vivit": "VivitVideoProcessor",
    "vjepa2": "VJEPA2VideoProcessor",
    "videoprism_vision_model": "LlavaOnevisionVideoProcessor",
}
NAMES = [f"Moving [something] {side}" for side in ("left", "right", "up", "down", "away")]
FRAMES, SIZE, CLASSES = 4, 16, len(NAMES)


def processor(kind: str, **changes: Any) -> Any:
    """One of the library's own, with values that no class has by default."""
    size = {"height": SIZE, "width": SIZE}
    given: dict[str, Any] = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}
    if kind == "videoprism_vision_model":
        given["size"] = size
    else:
        given |= {"size": {"shortest_edge": 18}, "crop_size": size}
    return getattr(transformers, PROCESSORS[kind])(**(given | changes))


def make(kind: str, folder: Path) -> Any:
    """A random model of transformers, saved by it with its processor."""
    torch.manual_seed(0)
    architecture = hf.ARCHITECTURES[kind]
    config = getattr(transformers, architecture.config)(
        **KINDS[kind], id2label=dict(enumerate(NAMES)), label2id={n: i for i, n in enumerate(NAMES)}
    )
    model = getattr(transformers, architecture.model)(config).eval()
    with torch.no_grad():  # what starts at zero, biases above all, would hide a wrong name
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    processor(kind).save_pretrained(folder)
    return model


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Any, Path]]:
    folders = {kind: tmp_path_factory.mktemp(kind) for kind in KINDS}
    return {kind: (make(kind, folder), folder) for kind, folder in folders.items()}


def load(folder: Path) -> NamedModel:
    return hf.load(str(folder), Asked())


def frames(height: int = SIZE, width: int = SIZE) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (FRAMES, height, width, 3), dtype=np.uint8)


def shown(made: NamedModel, frames_THWC: np.ndarray) -> Tensor:
    clip = torch.from_numpy(eval_clip(frames_THWC, made.input))[None]
    return normalise(clip, made.mean, made.std)


def called(model: Any, clip: Tensor, **options: Any) -> Any:
    with torch.no_grad():
        return model(**{model.main_input_name: clip}, **options)


ORDERS = {
    "original": views.original(FRAMES),
    "shuffled": views.shuffled(FRAMES, seed=0, key="k", draws=1)[0],
    "reversed": views.backwards(FRAMES),
    "still": views.single_frame(FRAMES),
}


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_logits_are_those_of_the_library_in_every_view(kind: str, saved: Any) -> None:
    model, folder = saved[kind]
    made = load(folder)
    clip = shown(made, frames(20, 30))
    seen = []
    for order in ORDERS.values():
        view = views.show(clip, order)
        theirs = called(model, view).logits.reshape(1, CLASSES)
        torch.testing.assert_close(made.model(view), theirs, atol=1e-5, rtol=0)
        seen.append(theirs)
    assert not any(torch.allclose(seen[0], other, atol=1e-4) for other in seen[1:])
    assert made.class_names == tuple(NAMES) and made.num_classes == CLASSES


@pytest.mark.parametrize("kind", KINDS)
def test_pixels_are_those_of_the_librarys_processor(kind: str, saved: Any) -> None:
    """Of a clip that nobody has to resize: what is left is rescaling, offset and normalisation."""
    _, folder = saved[kind]
    made = load(folder)
    stored = frames()
    apart = {"do_resize": False, "do_center_crop": False}
    loaded = transformers.AutoVideoProcessor.from_pretrained(folder, local_files_only=True)
    theirs = loaded(
        list(rearrange(torch.from_numpy(stored), "t h w c -> t c h w")),
        return_tensors="pt",
        **apart,
    )
    (theirs,) = [theirs[key] for key in theirs if key.startswith("pixel_values")]
    ours = normalise(torch.from_numpy(stored)[None], made.mean, made.std)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
    assert made.input.frames == FRAMES and made.input.size == SIZE
    short_side = {"vjepa2": 18, "videoprism_vision_model": 16}.get(kind, 18)
    assert made.input.eval_scale == short_side / SIZE


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_features_at_each_layer_are_its_hidden_states(kind: str, saved: Any) -> None:
    model, folder = saved[kind]
    made = load(folder)
    clip = shown(made, frames(20, 30))
    states = called(model, clip, output_hidden_states=True).hidden_states
    stages = list(made.model.backbone.stages(clip))
    backbone = made.model.backbone
    times, patches = FRAMES // backbone.tubelet, (SIZE // backbone.patch) ** 2
    assert len(stages) == len(states) >= 3
    for stage, state in zip(stages, states, strict=True):
        assert stage.shape == (1, times, patches, backbone.dim)
        for t, n in np.ndindex(times, patches):
            assert torch.equal(stage[0, t, n], token_of(kind, state, t, n, times, patches))


def token_of(kind: str, state: Tensor, t: int, n: int, times: int, patches: int) -> Tensor:
    """Of patch n at time t, by the order in which each class has its tokens."""
    if kind == "timesformer":
        return state[0, 1 + n * times + t]
    if state.shape[:2] == (times, patches):  # VideoPrism's layers within frames
        return state[t, n]
    if state.shape[:2] == (patches, times):  # and within columns
        return state[n, t]
    return state[0, (kind == "vivit") + t * patches + n]


@torch.no_grad()
def test_the_order_of_tokens_is_that_of_this_suites_own_timesformer(saved: Any) -> None:
    _, folder = saved["timesformer"]
    made = load(folder)
    state = released.read(folder)
    own = released.load(state, settings=released.read_settings(folder)).model.eval()
    clip = shown(made, frames())
    for ours, theirs in zip(
        own.backbone.stages(clip), made.model.backbone.stages(clip), strict=True
    ):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(own(clip), made.model(clip), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_the_feature_is_what_the_classifier_gets(kind: str, saved: Any) -> None:
    model, folder = saved[kind]
    made = load(folder)
    clip = shown(made, frames())
    features = made.model.encode(clip)
    torch.testing.assert_close(made.model.classify(features), made.model(clip))
    base = getattr(model, model.base_model_prefix)
    options = {"skip_predictor": True} if kind == "vjepa2" else {}
    last = called(base, clip, **options).last_hidden_state
    times, patches = features.tokens_BTND.shape[1:3]
    for t, n in np.ndindex(times, patches):
        token = token_of(kind, last, t, n, times, patches)
        assert torch.equal(features.tokens_BTND[0, t, n], token)


# What a folder may look like --------------------------------------------------------------------


@pytest.fixture
def folder(saved: Any, tmp_path: Path) -> Path:
    """A VideoMAE to break."""
    return Path(shutil.copytree(saved["videomae"][1], tmp_path / "model"))


def change(file: Path, **values: Any) -> None:
    settings = json.loads(file.read_text())
    settings |= values
    file.write_text(json.dumps({k: v for k, v in settings.items() if v is not None}))


def test_older_and_split_weights_are_read_alike(folder: Path, saved: Any, tmp_path: Path) -> None:
    model, clip = saved["videomae"][0], torch.randn(1, FRAMES, 3, SIZE, SIZE)
    state = load_file(folder / "model.safetensors")
    assert any(key.endswith("q_bias") for key in state)  # transformers saves older names
    (folder / "model.safetensors").unlink()
    torch.save(state, folder / "pytorch_model.bin")
    with torch.no_grad():
        assert torch.equal(load(folder).model(clip), called(model, clip).logits)
    torch.save(model.state_dict(), folder / "pytorch_model.bin")  # and the names of its own class
    with torch.no_grad():
        assert torch.equal(load(folder).model(clip), called(model, clip).logits)
    (folder / "pytorch_model.bin").unlink()
    model.save_pretrained(folder, max_shard_size="8KB")
    assert len(list(folder.glob("*.safetensors"))) > 1
    with torch.no_grad():
        assert torch.equal(load(folder).model(clip), called(model, clip).logits)
    next(folder.glob("*.safetensors")).unlink()
    with pytest.raises(ValueError, match="lists files that are not there"):
        load(folder)


def test_files_of_version_4_and_nested_ones_count_as_the_library_says(folder: Path) -> None:
    file = folder / "video_preprocessor_config.json"
    old = folder / "preprocessor_config.json"
    shutil.copy(file, old)
    change(old, video_processor_type=None, image_processor_type="VideoMAEImageProcessor")
    change(old, image_mean=[0.7, 0.7, 0.7], crop_size=16, size=32, rescale_factor=None)
    assert load(folder).mean == (0.1, 0.2, 0.3)  # both are there: the newer one
    file.unlink()
    assert load(folder).mean == (0.7,) * 3 and load(folder).input.eval_scale == 2.0
    nested = {"video_processor": {**json.loads(old.read_text()), "image_mean": [0.8, 0.8, 0.8]}}
    (folder / "processor_config.json").write_text(json.dumps(nested))
    assert load(folder).mean == (0.8,) * 3


def test_what_cannot_be_shown_as_asked_is_written_down(saved: Any) -> None:
    for kind, (_, folder) in saved.items():
        record = load(folder).made_by["preprocessing"]
        squashed = kind == "videoprism_vision_model"
        assert bool(record["departures"]) == squashed
        assert record["processor"] == PROCESSORS[kind]
        assert record["filter"] == ("bicubic" if squashed else "bilinear")


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("touched"),)


def renamed(folder: Path) -> None:
    state = load_file(folder / "model.safetensors")
    state["classifier.bais"] = state.pop("classifier.bias")
    save_file(state, folder / "model.safetensors")


def encoder(folder: Path) -> None:
    state = load_file(folder / "model.safetensors")
    save_file(
        {k: v for k, v in state.items() if "classifier" not in k}, folder / "model.safetensors"
    )


def hostile_pickle(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Evil()))


CONFIG, PROCESSOR = "config.json", "video_preprocessor_config.json"
AUTO_MAP = {"AutoModelForVideoClassification": "modeling_evil.Evil"}
BROKEN: dict[str, tuple[Callable[[Path], None], tuple[str, ...]]] = {
    "a renamed tensor": (renamed, ("missing classifier.bias", "unexpected classifier.bais")),
    "no classifier": (encoder, ("no classifier.weight",)),
    "a pickle that runs code": (hostile_pickle, ("more than tensors",)),
    "code of its own": (
        lambda f: change(f / CONFIG, auto_map=AUTO_MAP, model_type="evil"),
        ("auto_map", "never run here", "model_type evil", "known: timesformer, videomae"),
    ),
    "a processor of its own": (
        lambda f: change(f / PROCESSOR, auto_map=AUTO_MAP, image_std=None, do_rescale=False),
        ("auto_map", "never run here", "image_std is missing", "do_rescale false"),
    ),
    "another head": (
        lambda f: change(f / CONFIG, architectures=["VideoMAEForPreTraining"]),
        ("VideoMAEForPreTraining",),
    ),
    "quantised": (
        lambda f: change(f / CONFIG, quantization_config={"bits": 4}),
        ("quantised weights",),
    ),
    "another depth": (
        lambda f: change(f / CONFIG, num_hidden_layers=3),
        ("missing videomae.encoder.layer.2", "and 3 more"),
    ),
    "an activation that is none": (
        lambda f: change(f / CONFIG, hidden_act="evil.act"),
        ("cannot build a VideoMAEForVideoClassification", "evil.act"),
    ),
    "another size": (
        lambda f: change(f / PROCESSOR, crop_size=8),
        ("shows 8 x 8 pixels", "image_size is 16"),
    ),
    "no processor": (lambda f: (f / PROCESSOR).unlink(), ("no video_preprocessor_config.json",)),
    "an unknown processor": (
        lambda f: change(f / PROCESSOR, video_processor_type="CLIPImageProcessor"),
        ("CLIPImageProcessor", "not known here"),
    ),
    "no resizing": (lambda f: change(f / PROCESSOR, do_resize=False), ("do_resize false",)),
    "a crop beyond the frame": (
        lambda f: change(f / PROCESSOR, size={"shortest_edge": 8}),
        ("a crop of 16 pixels of frames with a short side of 8",),
    ),
    "names that are too many": (
        lambda f: change(f / CONFIG, id2label={str(i): f"c{i}" for i in range(6)}),
        ("id2label names 6 classes, not 0 to 4",),
    ),
    "no JSON": (lambda f: (f / CONFIG).write_text("{") and None, ("not valid JSON",)),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), ("has no weights",)),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_folder_that_is_not_right_gets_one_message(
    what: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder.parent)
    damage, texts = BROKEN[what]
    damage(folder)
    with pytest.raises(ValueError) as caught:
        load(folder)
    assert all(text in str(caught.value) for text in texts), caught.value
    assert str(folder) in str(caught.value) and not (folder.parent / "touched").exists()


def test_what_would_fetch_code_in_a_config_is_not_seen(folder: Path, saved: Any) -> None:
    """transformers takes kernels from a hub when a config names them; here they change nothing."""
    change(folder / CONFIG, _attn_implementation="evil/kernel", attn_implementation="evil/kernel")
    clip = torch.randn(1, FRAMES, 3, SIZE, SIZE)
    with torch.no_grad():
        assert torch.equal(load(folder).model(clip), called(saved["videomae"][0], clip).logits)


def test_without_transformers_the_message_has_the_command(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ValueError, match=r'pip install "transformers>=5\.23"'):
        load(folder)
