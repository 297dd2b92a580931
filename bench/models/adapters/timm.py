"""Any image classifier of timm: `--model timm:<name>[@<weights file>]`, read by `bench.models.pretrained`.

The weights are those of the file, else `<name>.{safetensors,pth,bin}` in --weights-dir, else what
timm's own downloads left in its cache. Normalisation and size are timm's, or the file's own.

On clips it is the frozen-frame baseline: logits of single frames, averaged, so that no order of them
matters; its gap on shuffled frames is 0.
"""

from __future__ import annotations

from pathlib import Path

from bench.config.science import Input
from bench.models import pretrained
from bench.models.named import Asked, NamedModel
from bench.models.weights import timm_model

FORM = "<name>[@<weights file>]: an image classifier of timm; of a clip it sees frame by frame"
OPTIONS = ("frames", "by_position")
FRAMES = 8  # of a clip, where --frames says nothing


def load(name: str, asked: Asked) -> NamedModel:
    """The classifier, as wide as its file's. ValueError: see `pretrained.load`."""
    name, _, file = name.partition("@")
    loaded = pretrained.load(
        name,
        file=Path(file) if file else None,
        folder=asked.weights,
        by_position=asked.by_position,
    )
    return NamedModel(
        model=pretrained.ImageClassifier(loaded.model).eval(),
        media="any",
        input=Input(frames=asked.frames or FRAMES, size=loaded.size),
        num_classes=loaded.num_classes,
        made_by={
            **loaded.record,
            "size": loaded.size,
            "mean": loaded.mean,
            "std": loaded.std,
            "on_clips": "logits of its frames, averaged",
        },
        mean=loaded.mean,
        std=loaded.std,
    )


def example(folder: Path) -> str:
    """timm's smallest ViT, random."""
    import safetensors.torch

    path = folder / "test_vit.safetensors"
    safetensors.torch.save_file(timm_model("test_vit").state_dict(), path)
    return f"test_vit@{path}"
