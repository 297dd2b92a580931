"""Any image classifier of timm: `--model timm:<name>[@<weights file>]`, read by `bench.models.pretrained`.

The weights are those of the file, else `<name>.{safetensors,pth,bin}` in --weights-dir, else what
timm's own downloads left in its cache. Normalisation and size are timm's, or the file's own.
"""

from __future__ import annotations

from pathlib import Path

from bench.config.science import Input
from bench.models import pretrained
from bench.models.named import Asked, NamedModel
from bench.models.weights import timm_model

FORM = "<name>[@<weights file>]: an image classifier of timm"
OPTIONS = ("by_position",)


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
        media="image",
        input=Input(frames=1, size=loaded.size),
        seed=0,
        precision="fp32",
        num_classes=loaded.num_classes,
        made_by={**loaded.record, "size": loaded.size, "mean": loaded.mean, "std": loaded.std},
        mean=loaded.mean,
        std=loaded.std,
    )


def example(folder: Path) -> str:
    """timm's smallest ViT, random."""
    import safetensors.torch

    path = folder / "test_vit.safetensors"
    safetensors.torch.save_file(timm_model("test_vit").state_dict(), path)
    return f"test_vit@{path}"
