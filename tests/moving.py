"""Clips of known truth: a white square on grey ground that moves right, left, up, down, or not at all;
and models that see its direction, or cannot.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bench.config.science import Input
from bench.evaluate.context import EvaluationContext, run_one
from bench.task import DataSpec, Features, ModelSpec

CLASSES = ("moving right", "moving left", "moving up", "moving down", "lying still")
STEPS = ((1, 0), (-1, 0), (0, -1), (0, 1), (0, 0))  # pixels to the right and down, per frame
HALF = (0.5, 0.5, 0.5)
SIZE, SIDE, FRAMES = 16, 4, 8
SPEC = DataSpec(
    name="moving squares",
    media="video",
    classes=CLASSES,
    subsets={"temporal": (0, 1, 2, 3), "static": (4,)},
    splits=("train", "val"),
    mean=HALF,
    std=HALF,
    reversals=((0, 1), (2, 3)),
)


@dataclass(frozen=True)
class MovingSquares:
    """`task.Samples` of a split. With `tinted`, the class also shows in the colour of the ground."""

    split: str
    count: int
    tinted: bool = False
    classes: tuple[str, ...] = CLASSES
    digest: str = "drawn"
    provenance: str = "drawn"

    def __len__(self) -> int:
        return self.count

    @property
    def keys(self) -> tuple[str, ...]:
        return tuple(f"{self.split}-{i}" for i in range(self.count))

    @property
    def labels(self) -> np.ndarray:
        return np.arange(self.count, dtype=np.int64) % len(CLASSES)

    @property
    def subsets(self) -> Mapping[str, tuple[int, ...]]:
        return SPEC.subsets

    def num_frames(self, i: int) -> int:
        return FRAMES

    def frames(self, i: int, indices: np.ndarray) -> np.ndarray:
        rng = np.random.default_rng([i, self.split == "train"])
        right, down = STEPS[self.labels[i]]
        x, y = rng.integers(0, SIZE - SIDE - FRAMES + 2, size=2)
        x, y = (start + (step < 0) * (FRAMES - 1) for start, step in ((x, right), (y, down)))
        ground = 100 + (10 * self.labels[i] if self.tinted else rng.integers(0, 40))
        shown = np.full((len(indices), SIZE, SIZE, 3), ground, np.uint8)
        for frame, t in zip(shown, indices, strict=True):
            left, top = x + right * t, y + down * t
            frame[top : top + SIDE, left : left + SIDE] = 255
        return shown

    def with_layer(self, name: str) -> np.ndarray:
        return np.zeros(0, np.int64)

    def layer(self, i: int, name: str) -> np.ndarray:
        raise ValueError(f"{self.keys[i]} has no {name}")


def moving_context(
    model: nn.Module,
    *,
    train: int = 100,
    val: int = 60,
    tinted: bool = False,
    spec: DataSpec = SPEC,
) -> EvaluationContext:
    """Without training clips there is no training split."""
    splits = {
        "train": MovingSquares("train", train, tinted),
        "val": MovingSquares("val", val, tinted),
    }

    def opened(split: str) -> MovingSquares:
        if not len(splits[split]):
            raise ValueError(f"no {split} here")
        return splits[split]

    return EvaluationContext(
        model=model.eval(),
        spec=spec,
        model_spec=ModelSpec(FRAMES, SIZE, SIZE, 4, len(CLASSES), HALF, HALF),
        input=Input(frames=FRAMES, size=SIZE, eval_scale=1.0),
        device=torch.device("cpu"),
        seed=0,
        precision="fp32",
        batch=32,
        workers=0,
        open_split=opened,
        splits=("val",),
        report=lambda _: None,
    )


# -- models ---


class Places(nn.Module):
    """A backbone of one stage: where the square is, and what it looks like, in each frame."""

    def forward(self, clip_BTCHW: Tensor) -> Tensor:
        """(B, T, 4): centre of what is white, mean, square of the centre's x."""
        bright = (clip_BTCHW[:, :, 0] > 0.9).float()
        along = torch.linspace(-1, 1, clip_BTCHW.shape[-1])
        x_BT = (bright.mean(dim=2) * along).sum(-1) / bright.mean(dim=2).sum(-1)
        y_BT = (bright.mean(dim=3) * along).sum(-1) / bright.mean(dim=3).sum(-1)
        return torch.stack([x_BT, y_BT, clip_BTCHW.mean(dim=(2, 3, 4)), x_BT**2], dim=-1)


class Sees(nn.Module):
    """A `task.Model`, frame by frame and averaged, or by the difference between last and first."""

    def __init__(self, *, order: bool) -> None:
        super().__init__()
        self.order, self.places = order, Places()

    @property
    def backbone(self) -> Any:
        return self

    def stages(self, clip_BTCHW: Tensor) -> Generator[Tensor, None, Features]:
        places_BTD = self.places(clip_BTCHW)
        yield places_BTD[:, :, None]
        cls_BD = places_BTD.mean(dim=1)
        if self.order:
            cls_BD = torch.cat([places_BTD[:, -1] - places_BTD[:, 0], cls_BD], dim=1)
        return Features(cls_BD, places_BTD[:, :, None])

    def forward(self, clip_BTCHW: Tensor) -> Tensor:
        """Logits: the direction in which the square goes."""
        places_BTD = self.places(clip_BTCHW)
        right_B, down_B = (places_BTD[:, -1] - places_BTD[:, 0])[:, :2].unbind(1)
        still_B = torch.full_like(right_B, 0.1)
        return torch.stack([right_B, -right_B, -down_B, down_B, still_B], dim=1)


BLIND, SEEING = Sees(order=False), Sees(order=True)


# -- their rows ---

Rows = dict[tuple[str, str, str], float]
QUICK = {"folds": 3, "strengths": (0.01, 1.0)}


def numbers(name: str, options: Any, context: Any) -> Rows:
    found = run_one(name, options, context)
    return {(row["view"], row["subset"], row["metric"]): row["value"] for row in found}


def covers_chance(found: Rows, view: str, subset: str) -> bool:
    low, high, chance = (found[view, subset, m] for m in ("ci_low", "ci_high", "chance"))
    return low <= chance <= high
