"""The adapter `tv`: torchvision's own logits, from files that it wrote, and the messages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torchvision import models

from bench.data import views
from bench.data.transforms import normalise
from bench.models.adapters import tv
from bench.models.named import Asked

NAMES = models.list_models(module=models.video)
FAST = ("mc3_18", "r3d_18")
CLASSES = 7


def written(name: str, folder: Path) -> tuple[Any, Path]:
    torch.manual_seed(0)
    model = models.get_model(name, weights=None, num_classes=CLASSES).eval()
    path = folder / f"{name}.pth"
    torch.save(model.state_dict(), path)
    return model, path


def same_logits(name: str, folder: Path, asked: Asked) -> None:
    model, path = written(name, folder)
    made = tv.load(f"{name}@{path}", asked)
    frames, size = made.input.frames, made.input.size
    stored = torch.randint(0, 256, (1, frames, size, size, 3), dtype=torch.uint8)
    clip = normalise(stored, made.mean, made.std)
    for order in (
        views.original(frames),
        views.shuffled(frames, seed=0, key="k", draws=1)[0],
        views.backwards(frames),
        views.single_frame(frames),
    ):
        view = views.show(clip, order)
        with torch.no_grad():
            theirs = model(view.permute(0, 2, 1, 3, 4))
            torch.testing.assert_close(made.model(view), theirs, atol=1e-5, rtol=0)
    assert made.num_classes == CLASSES and made.class_names is None


@pytest.mark.parametrize("name", FAST)
def test_logits_are_torchvisions_in_every_view(name: str, tmp_path: Path) -> None:
    same_logits(name, tmp_path, Asked(frames=4, size=32))


def states_of(model: Any, clip_BCTHW: torch.Tensor) -> list[torch.Tensor]:
    """Of each layer (B, T, N, D), written down step by step, without hooks."""
    kind, x = type(model).__name__, clip_BCTHW
    if kind == "MViT":
        x = model.pos_encoding(model.conv_proj(x).flatten(2).transpose(1, 2))
        grid = (model.pos_encoding.temporal_size, *model.pos_encoding.spatial_size)
        found = [x[:, 1:].unflatten(1, (grid[0], -1))]
        for block in model.blocks:
            x, grid = block(x, grid)
            found.append(x[:, 1:].unflatten(1, (grid[0], -1)))
        return found
    if kind == "SwinTransformer3d":
        x = model.pos_drop(model.patch_embed(x))
        found = [x.flatten(2, 3)]
        for part in model.features:
            for step in part if isinstance(part, torch.nn.Sequential) else [part]:
                x = step(x)
                found += [x.flatten(2, 3)] if step is not part else []
        return found
    steps = model.features if kind == "S3D" else list(model.children())[:5]
    found = []
    for step in steps:
        x = step(x)
        found.append(x.flatten(3).permute(0, 2, 3, 1))
    return found


def same_states(name: str, folder: Path, asked: Asked) -> None:
    model, path = written(name, folder)
    made = tv.load(f"{name}@{path}", asked)
    clip = torch.randn(1, made.input.frames, 3, made.input.size, made.input.size)
    with torch.no_grad():
        theirs = states_of(model, clip.transpose(1, 2))
        through = made.model.backbone.stages(clip)
        ours = []
        while True:
            try:
                ours.append(next(through))
            except StopIteration as end:
                features = end.value
                break
        assert len(ours) == len(theirs) >= 5
        for one, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(one, other, atol=1e-5, rtol=0)
        logits = made.model(clip)
        torch.testing.assert_close(made.model.classify(features), logits, atol=1e-5, rtol=0)
        encoded = made.model.encode(clip)
        torch.testing.assert_close(encoded.cls_BD, features.cls_BD, atol=1e-5, rtol=0)
        assert encoded.cls_BD.shape == (1, made.model.backbone.dim)
        assert encoded.tokens_BTND.shape == ours[-1].shape


@pytest.mark.parametrize("name", FAST)
def test_features_are_torchvisions_hidden_states(name: str, tmp_path: Path) -> None:
    same_states(name, tmp_path, Asked(frames=4, size=32))


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_features_are_hidden_states_at_each_models_own_size(name: str, tmp_path: Path) -> None:
    fewer = {"s3d": 16, "swin3d_t": 8, "swin3d_s": 8, "swin3d_b": 8}
    same_states(name, tmp_path, Asked(frames=fewer.get(name)))


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_logits_are_torchvisions_at_each_models_own_size(name: str, tmp_path: Path) -> None:
    fewer = {"s3d": 16, "swin3d_t": 8, "swin3d_s": 8, "swin3d_b": 8}  # for time's sake
    same_logits(name, tmp_path, Asked(frames=fewer.get(name)))


@pytest.mark.parametrize("name", NAMES)
def test_pixels_are_those_of_torchvisions_transform(name: str) -> None:
    """Of a clip that nobody has to resize."""
    for entry in models.get_model_weights(name):
        transform = entry.transforms()
        (size, _), (short, *_) = transform.crop_size, transform.resize_size
        width = transform.resize_size[-1]
        stored = torch.randint(0, 256, (1, 2, 3, short, width), dtype=torch.uint8)
        theirs = transform(stored)[0]
        top, left = round((short - size) / 2), round((width - size) / 2)
        cut = stored[..., top : top + size, left : left + size].permute(0, 1, 3, 4, 2)
        ours = normalise(cut, tuple(transform.mean), tuple(transform.std))[0].transpose(0, 1)
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


def test_official_files_are_known_by_their_digest() -> None:
    hashes = {tv._hash_of(entry) for name in NAMES for entry in models.get_model_weights(name)}
    assert len(hashes) == 10 and all(len(h) == 8 and int(h, 16) >= 0 for h in hashes)


def test_a_cached_file_is_the_one_that_torchvision_released(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or it was damaged there. A file that is named may be any."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (tmp_path / "hub/checkpoints").mkdir(parents=True)
    _, path = written("mc3_18", tmp_path)
    entry = models.get_model_weights("mc3_18").DEFAULT
    cached = path.rename(tmp_path / "hub/checkpoints" / tv._file_of(entry))
    with pytest.raises(ValueError, match=f"{cached.name} is damaged: .* {tv._hash_of(entry)};"):
        tv.load("mc3_18", Asked())
    assert tv.load(f"mc3_18@{cached}", Asked(frames=4, size=32)).class_names is None


def test_the_input_is_that_of_the_weights(tmp_path: Path) -> None:
    _, path = written("mc3_18", tmp_path)
    made = tv.load("mc3_18", Asked(weights=tmp_path, frames=2))
    assert (made.input.size, made.input.eval_scale) == (112, 128 / 112)
    assert made.mean == (0.43216, 0.394666, 0.37645) and made.made_by["file"] == path.name
    (departure,) = made.made_by["preprocessing"]["departures"]
    assert "128 x 171" in departure


def test_what_does_not_fit_gets_one_message(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    model, path = written("mc3_18", tmp_path)
    state = model.state_dict()
    state["layer1.0.conv1.0.wight"] = state.pop("layer1.0.conv1.0.weight")
    torch.save(state, tmp_path / "renamed.pth")
    cases = {
        "r3d_81": "did you mean r3d_18",
        f"mc3_18@{tmp_path / 'renamed.pth'}": "unexpected layer1.0.conv1.0.wight",
        f"mvit_v2_s@{path}": "missing head.1.weight, the classifier",
        "mc3_18@nowhere.pth": "nowhere.pth",
        "r3d_18": "nothing is downloaded here",
    }
    for name, message in cases.items():
        with pytest.raises(ValueError, match=message):
            tv.load(name, Asked())
    _, s3d = written("s3d", tmp_path)
    with pytest.raises(ValueError, match="does not take 4 frames of 1 x 1 pixels"):
        tv.load(f"s3d@{s3d}", Asked(frames=4, size=1))
