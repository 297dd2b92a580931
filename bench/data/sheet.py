"""A contact sheet of a data set: one clip per class, frames from left to right in time.

For looking at data before training on it (`python -m bench.prepare SOURCE --out DIR --sheet FILE`).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bench.data.shards import open_split
from bench.data.transforms import segment_indices
from bench.rundir import replacing

MOST_ROWS = 40
NAMES = 3.4  # inches for the names of the classes


def draw_sheet(folder: Path, split: str, out: Path, *, frames: int = 8) -> None:
    """PNG of the first clip of each class (the first 40 classes) of a split."""
    from matplotlib.figure import Figure  # here: only who draws waits for it

    samples = open_split(folder, split)
    firsts = {int(label): i for i, label in reversed(list(enumerate(samples.labels)))}
    rows = sorted(firsts.items())[:MOST_ROWS]
    width = NAMES + 0.8 * frames  # inches
    figure = Figure(figsize=(width, 0.62 * len(rows)))
    grid = figure.subplots(len(rows), 1, squeeze=False)[:, 0]
    figure.subplots_adjust(left=NAMES / width, right=1, top=1, bottom=0, hspace=0.05)
    for axes, (label, i) in zip(grid, rows, strict=True):
        indices = segment_indices(samples.num_frames(i), frames, None)
        axes.imshow(np.hstack(list(samples.frames(i, indices))), interpolation="bicubic")
        name = samples.classes[label]
        axes.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=8)
        axes.set_xticks([]), axes.set_yticks([])
        axes.spines[:].set_visible(False)
    with replacing(out) as temporary:
        figure.savefig(temporary, format="png", dpi=90, metadata={"Software": None})
