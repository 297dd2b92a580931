"""Figures made of pictures: where they go, in inches from the top left, and what to call a class.

Used by the figure modules that show what an evaluation kept (`bench.results.picture`). Sizes are
inches, because text has a size of its own and must fit beside the pictures.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from bench import results
from reports import stats, style

SMALL = 6.0  # points, the text beside pictures


@dataclass(frozen=True)
class Kept:
    """A model of which an evaluation kept something."""

    name: str
    run_dir: str
    seed: int


@dataclass(frozen=True)
class Sheet:
    """A figure of a fixed size that is filled from the top left."""

    figure: Figure
    width: float
    height: float

    def __post_init__(self) -> None:
        self.figure.set_size_inches(self.width, self.height)

    def picture(self, image_HWC: np.ndarray | None, left: float, top: float, side: float) -> None:
        """A square picture; an empty frame where there is none."""
        place = (
            left / self.width,
            1 - (top + side) / self.height,
            side / self.width,
            side / self.height,
        )
        axes = self.figure.add_axes(place)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.grid(visible=False)
        for spine in axes.spines.values():
            spine.set_visible(image_HWC is None)
        if image_HWC is not None:
            axes.imshow(image_HWC)

    def text(self, string: str, left: float, top: float, **looks: Any) -> None:
        """One line whose middle is at `top`."""
        looks = {"fontsize": SMALL, "va": "center", "color": style.INK, **looks}
        self.figure.text(left / self.width, 1 - top / self.height, string, **looks)


def kept(frame: pd.DataFrame, methods: tuple[str, ...], evaluation: str) -> tuple[str, list[Kept]]:
    """The first backbone whose runs kept pictures, and of these methods the run of the lowest seed.

    The seed is the lowest that all of the methods have, if there is one.
    """
    everywhere = {
        backbone: {
            method: stats.run_dirs(frame, {"backbone": backbone, "method": method}, evaluation)
            for method in methods
        }
        for backbone in stats.labels(frame, "backbone", stats.BACKBONES)
    }
    paths = [p for runs in everywhere.values() for of in runs.values() for p in of.values()]
    there = with_pictures(paths, evaluation)
    for backbone, runs_of in everywhere.items():
        found = {
            method: {seed: path for seed, path in runs.items() if path in there}
            for method, runs in runs_of.items()
        }
        found = {method: runs for method, runs in found.items() if runs}
        if found:
            common = set.intersection(*map(set, found.values()))
            seeds = {m: min(common) if common else min(runs) for m, runs in found.items()}
            return backbone, [Kept(m, runs[seeds[m]], seeds[m]) for m, runs in found.items()]
    return "", []


def with_pictures(run_dirs: Iterable[str], evaluation: str) -> set[str]:
    """Those of which the evaluation kept pictures. Raises OnlyNumbers where nothing has them but runs of
    a file of rows had.
    """
    found, left_out = set(), None
    for path in run_dirs:
        try:
            if results.pictures(path, evaluation):
                found.add(path)
        except results.OnlyNumbers as error:
            left_out = left_out or error
    if left_out and not found:
        raise left_out
    return found


def seeds_text(models: list[Kept]) -> str:
    """ "seed 0", or of which model which."""
    if len({model.seed for model in models}) == 1:
        return f"seed {models[0].seed}"
    return ", ".join(f"{model.name} seed {model.seed}" for model in models)


def class_of(key: str) -> str:
    """The class in the key of a test image: "02_wheeled vehicle/n..." -> "wheeled vehicle"."""
    return key.partition("/")[0].partition("_")[2]


def short(name: str) -> str:
    """A class in the width of a small picture: its last word."""
    return name.rpartition(" ")[2]
