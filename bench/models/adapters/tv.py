"""Video classifiers of torchvision: `--model tv:<name>[@<weights file>]`, all of torchvision.models.video.

The weights are those of the file, else `<name>.{safetensors,pth,bin}` in --weights-dir, else what
torchvision's own downloads left in torch's cache. Size and normalisation are those of torchvision's
weights of that name; class names too, if the file is one of them (their names hold the beginning of
their SHA-256). Otherwise the file has no names: --labels.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

import torch

from bench.config.science import Input
from bench.models.adapters._torchvision_features import TorchvisionClassifier, TorchvisionEncoder
from bench.models.named import Asked, NamedModel
from bench.models.weights import misfits, read_tensors, released_digest, state_dict_of

FORM = "<name>[@<weights file>]: a video classifier of torchvision"
OPTIONS = ("frames", "size")
SUFFIXES = (".safetensors", ".pth", ".bin")
SHOWN = 12  # mistakes of a message
# `clip_len` in the documentation of torchvision's weights; the others: 16.
FRAMES = {"s3d": 128, "swin3d_t": 32, "swin3d_s": 32, "swin3d_b": 32}


def load(name: str, asked: Asked) -> NamedModel:
    """The classifier, as wide as its file's. ValueError: no such name or file, or it does not fit."""
    from torchvision import models

    name, _, file = name.partition("@")
    known = models.list_models(module=models.video)
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise ValueError(
            f"torchvision has no video model {name!r}; {hint}known: {', '.join(known)}"
        )
    entries = list(models.get_model_weights(name))
    path = _weight_file(name, Path(file) if file else None, asked.weights, entries)
    # One that was not named and is called as torch.hub does is that one, or damaged.
    called = "" if file else next((_hash_of(e) for e in entries if _file_of(e) == path.name), "")
    digest = released_digest(path, called)
    model, classes = _filled(name, path)
    transform = entries[0].transforms()
    (size, _), short_side = transform.crop_size, transform.resize_size[0]
    side = asked.size or size
    mean, std = tuple(transform.mean), tuple(transform.std)
    frames = asked.frames or FRAMES.get(name, 16)
    classifier = TorchvisionClassifier(TorchvisionEncoder(model)).eval()
    _try(classifier, f"tv:{name}", frames, side)
    official = next((e for e in entries if digest.startswith(_hash_of(e))), None)
    departures = [] if len(transform.resize_size) == 1 else [_squashed(transform.resize_size)]
    return NamedModel(
        model=classifier,
        media="video",
        input=Input(frames=frames, size=side, eval_scale=short_side / size),
        num_classes=classes,
        made_by={
            "name": name,
            "file": path.name,
            "sha256": digest,
            "frames": frames,
            "size": side,
            "mean": mean,
            "std": std,
            "preprocessing": {"short_side": short_side, "departures": departures},
        },
        mean=mean,
        std=std,
        class_names=tuple(official.meta["categories"]) if official else None,
    )


def _squashed(resize: list[int]) -> str:
    return (
        f"torchvision makes frames {resize[0]} x {resize[1]} pixels, whatever their shape; here their "
        "shape is kept"
    )


def _file_of(entry: Any) -> str:
    return str(entry.url).rpartition("/")[2]


def _hash_of(entry: Any) -> str:
    """The beginning of the file's SHA-256, as torch.hub names and checks files."""
    return Path(_file_of(entry)).stem.rpartition("-")[2]


def _weight_file(name: str, file: Path | None, folder: Path | None, entries: list[Any]) -> Path:
    if file:
        candidates = [file] if folder is None else [file, folder / file]
    else:
        named = [f"{name}{suffix}" for suffix in SUFFIXES]
        candidates = [] if folder is None else [folder / own for own in named]
        cache = Path(torch.hub.get_dir()) / "checkpoints"
        candidates += [cache / _file_of(entry) for entry in entries]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    looked = ", ".join(map(str, candidates))
    raise ValueError(
        f"no weights for tv:{name} (looked for {looked}); name the file, tv:{name}@FILE, or get it "
        f"once with torchvision.models.get_model({name!r}, weights='DEFAULT'); nothing is downloaded here"
    )


def _filled(name: str, path: Path) -> tuple[Any, int]:
    """(the model, its number of classes); every tensor is the file's."""
    from torchvision import models

    try:
        state = state_dict_of(read_tensors(path))
    except ValueError as error:
        hint = "" if str(path) in str(error) else f"{path}: "
        raise ValueError(f"{hint}{error}") from error
    with torch.device("meta"):
        head = list(models.get_model(name, weights=None).state_dict())[-2]
    if head not in state or not state[head].ndim:
        raise ValueError(
            f"{path} does not fit torchvision's {name}: missing {head}, the classifier"
        )
    classes = len(state[head])
    model = models.get_model(name, weights=None, num_classes=classes)
    if mistakes := misfits(model.state_dict(), state):
        listed = "".join(f"\n  {mistake}" for mistake in mistakes[:SHOWN])
        more = f"\n  and {len(mistakes) - SHOWN} more" if len(mistakes) > SHOWN else ""
        raise ValueError(f"{path} does not fit torchvision's {name}:{listed}{more}")
    model.load_state_dict(state)
    return model, classes


def _try(model: TorchvisionClassifier, name: str, frames: int, size: int) -> None:
    """ValueError unless the model takes clips of this size, on one grey clip."""
    try:
        with torch.no_grad():
            model(torch.zeros(1, frames, 3, size, size))
    except (RuntimeError, ValueError, IndexError, AssertionError) as error:
        raise ValueError(
            f"{name} does not take {frames} frames of {size} x {size} pixels ({error}); leave --frames "
            "and --size out"
        ) from error


def example(folder: Path) -> str:
    """An untrained MC3, the smallest that takes short clips."""
    from torchvision import models

    path = folder / "mc3_18.pth"
    torch.save(models.get_model("mc3_18", weights=None, num_classes=5).state_dict(), path)
    return f"mc3_18@{path}"
