"""A contact sheet of a data set, one row per class: the frames of a clip from left to right in time,
or an image and its layers.

For looking at data before training on it (`python -m bench.prepare SOURCE --out DIR --sheet FILE`).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bench.data.shards.read import ShardSamples, open_split, read_index
from bench.data.transforms import segment_indices
from bench.store.files import replacing

MOST_ROWS = 40
NAMES = 3.4  # inches for the names of the classes
HEADING = 0.3  # inches for the names of the layers


def draw_sheet(folder: Path, split: str, out: Path, *, frames: int = 8) -> None:
    """PNG of the first sample of each class (the first 40 classes) of a split: `frames` frames of
    a clip, or an image with all its layers.
    """
    from matplotlib.figure import Figure  # here: only who draws waits for it

    index, samples = read_index(folder), open_split(folder, split)
    layers = index.get("layers", {}).get(split, []) if index.get("media") == "image" else None
    firsts = {int(label): i for i, label in reversed(list(enumerate(samples.labels)))}
    rows = sorted(firsts.items())[:MOST_ROWS]
    width = NAMES + 0.8 * (frames if layers is None else 1 + len(layers))  # inches
    heading = HEADING if layers else 0.0
    height = 0.62 * len(rows) + heading
    figure = Figure(figsize=(width, height))
    grid = figure.subplots(len(rows), 1, squeeze=False)[:, 0]
    top = 1 - heading / height
    figure.subplots_adjust(left=NAMES / width, right=1, top=top, bottom=0, hspace=0.05)
    for axes, (label, i) in zip(grid, rows, strict=True):
        pictures = _frames(samples, i, frames) if layers is None else _layers(samples, i, layers)
        axes.imshow(np.hstack(pictures), interpolation="bicubic")
        name = samples.classes[label]
        axes.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=8)
        axes.set_xticks([]), axes.set_yticks([])
        axes.spines[:].set_visible(False)
    for n, name in enumerate(["image", *layers] if layers else []):
        place = ((n + 0.5) / (1 + len(layers or [])), 1.1)
        grid[0].annotate(name, place, xycoords="axes fraction", ha="center", fontsize=7)
    with replacing(out) as temporary:
        figure.savefig(temporary, format="png", dpi=90, metadata={"Software": None})


def _frames(samples: ShardSamples, i: int, frames: int) -> list[np.ndarray]:
    return list(samples.frames(i, segment_indices(samples.num_frames(i), frames, None)))


def _layers(samples: ShardSamples, i: int, names: list[str]) -> list[np.ndarray]:
    """The image and its layers; masks white on black, grey where the sample lacks the layer."""
    image = samples.frames(i, np.zeros(1, np.int64))[0]
    pictures = [image]
    for name in names:
        if i not in samples.with_layer(name):
            pictures.append(np.full_like(image, 128))
            continue
        layer = samples.layer(i, name)
        pictures.append(layer if layer.ndim == 3 else np.repeat(255 * layer[..., None], 3, axis=2))
    return pictures
