"""RandAugment of a clip: the operations of `timm`, drawn once and applied to all frames alike, only
where the training crop will look. Runs on loader workers, called by `transforms.train_clip`.

timm draws (which operations, how strong, in which direction); the pixels are those of its own
functions, of which each frame would get the same draw. What differs is how they are reached:

* an operation that maps grey levels to grey levels is a table of 256 entries, made by the operation
  itself from a ramp and applied to all frames in one pass;
* the others run on the part of each frame that the crop needs.

Cubuk et al., "RandAugment", 2019. The release trains with `rand-m20-mstd0.5-inc1`: timm clamps 20 to
its maximum of 10, where Posterize keeps 0 bits. Pillow of that time gave a black picture then, today's
refuses; here it is black.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any, NamedTuple

import cv2
import numpy as np
from einops import rearrange
from PIL import Image, ImageOps

FILL = (128, 128, 128)


class Box(NamedTuple):
    """A part of a frame: rows [top, bottom), columns [left, right)."""

    top: int
    left: int
    bottom: int
    right: int

    def grown(self, by: int, frame: Box) -> Box:
        """With a margin, as far as the frame goes."""
        return Box(
            max(self.top - by, 0),
            max(self.left - by, 0),
            min(self.bottom + by, frame.bottom),
            min(self.right + by, frame.right),
        )


@dataclass(frozen=True)
class Window:
    """The part `box` of all frames of a clip."""

    frames_THWC: np.ndarray
    box: Box

    def cut(self, box: Box) -> Window:
        top, left = box.top - self.box.top, box.left - self.box.left
        rows = slice(top, top + box.bottom - box.top)
        return Window(self.frames_THWC[:, rows, left : left + box.right - box.left], box)


@dataclass(frozen=True)
class Drawn:
    """One operation as timm drew it."""

    name: str
    apply: Callable[..., Image.Image]  # timm's function
    arguments: tuple[Any, ...]
    resample: Any  # of the geometric ones

    def on(self, image: Image.Image) -> Image.Image:
        return self.apply(image, *self.arguments, fillcolor=FILL, resample=self.resample)


def draw(spec: str, size: int, seed: int) -> tuple[Drawn, ...]:
    """The operations of one clip, a pure function of the arguments (timm's are not: it draws from
    the global generators, which are seeded here).
    """
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    drawn: list[Drawn] = []
    _recorder(spec, size)(drawn)
    return tuple(drawn)


@lru_cache(maxsize=8)
def _recorder(spec: str, size: int) -> Any:
    """timm's RandAugment with operations that only note what was drawn, in the list they get."""
    from timm.data import auto_augment  # a second to import: only who augments waits for it

    options = {"translate_const": int(size * 0.45), "img_mean": FILL}
    augment = auto_augment.rand_augment_transform(spec, options)
    for op in augment.ops:
        if op.name not in KINDS:
            raise ValueError(
                f"input.rand_augment: {spec} draws {op.name}, which is not among the operations known "
                f"here ({', '.join(sorted(KINDS))})"
            )
        op.aug_fn = partial(_note, op.name, op.aug_fn)
    return augment


def _note(
    name: str, function: Any, drawn: list[Drawn], *arguments: Any, resample: Any, **_: Any
) -> list[Drawn]:
    if KINDS[name] is geometric:
        resample = random.choice(resample)  # as timm's function would
    drawn.append(Drawn(name, function, arguments, resample))
    return drawn


def augment(frames_THWC: np.ndarray, drawn: Sequence[Drawn], wanted: Box) -> np.ndarray:
    """The part `wanted` of the augmented frames, uint8 T h w 3."""
    frame = Box(0, 0, *frames_THWC.shape[1:3])
    needed = [wanted]
    for step in reversed(drawn):
        needed.append(NEEDS[KINDS[step.name]](step, needed[-1], frame))
    window = Window(frames_THWC, frame).cut(needed.pop())
    for step in drawn:
        window = KINDS[step.name](step, window, needed.pop(), frame)
    return window.frames_THWC


# -- kinds of operations: (step, what there is, what is wanted, the whole frame) -> what was wanted ---


def pointwise(step: Drawn, window: Window, wanted: Box, frame: Box) -> Window:
    """The same table for all pixels of all frames."""
    table = np.asarray(_on_ramp(step))
    part = window.cut(wanted)
    stacked = rearrange(part.frames_THWC, "t h w c -> (t h) w c")
    looked_up = cv2.LUT(np.ascontiguousarray(stacked), table)
    return replace(part, frames_THWC=looked_up.reshape(part.frames_THWC.shape))


def _on_ramp(step: Drawn) -> Image.Image:
    ramp = _ramp()
    if step.name.startswith("Posterize") and step.arguments[0] < 1:
        return Image.new("RGB", ramp.size)
    return step.on(ramp)


@lru_cache(maxsize=1)
def _ramp() -> Image.Image:
    """All grey levels in all channels, 256 x 1."""
    return Image.fromarray(np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, axis=2))


def statistical(step: Drawn, window: Window, wanted: Box, frame: Box) -> Window:
    """A table for each frame, made from the whole of it."""
    part = window.cut(wanted)
    out = np.empty(part.frames_THWC.shape, np.uint8)
    for t, whole in enumerate(window.frames_THWC):
        table = STATISTICS[step.name](step, whole)
        cv2.LUT(np.ascontiguousarray(part.frames_THWC[t]), table, dst=out[t])
    return replace(part, frames_THWC=out)


def _contrast_table(step: Drawn, frame_HWC: np.ndarray) -> np.ndarray:
    """Blend with the mean luma, as Pillow's Contrast."""
    luma_HW = np.asarray(Image.fromarray(frame_HWC).convert("L"))
    mean = int(luma_HW.mean() + 0.5)
    ramp = _ramp()
    return np.asarray(Image.blend(Image.new("RGB", ramp.size, (mean,) * 3), ramp, *step.arguments))


def _autocontrast_table(step: Drawn, frame_HWC: np.ndarray) -> np.ndarray:
    """Of the darkest and the lightest level of each channel: those of a clipped ramp are the same."""
    used = [np.flatnonzero(counts) for counts in _histograms(frame_HWC)]
    low, high = ([int(levels[i]) for levels in used] for i in (0, -1))
    ramp = np.clip(np.asarray(_ramp()), low, high).astype(np.uint8)
    return np.asarray(ImageOps.autocontrast(Image.fromarray(ramp)))


def _equalize_table(step: Drawn, frame_HWC: np.ndarray) -> np.ndarray:
    """Of the histogram of each channel, as Pillow's equalize: integer steps of an equal share of the
    pixels that are not of the lightest level.
    """
    table = np.array(_ramp())
    for channel, counts in enumerate(_histograms(frame_HWC)):
        used = counts[counts > 0]
        share = int(used.sum() - used[-1]) // 255
        if len(used) > 1 and share:
            before = np.cumsum(counts) - counts
            table[0, :, channel] = np.minimum((share // 2 + before) // share, 255)
    return table


def _histograms(frame_HWC: np.ndarray) -> list[np.ndarray]:
    """How many pixels have each level, int64 (256,) of each channel."""
    counts = (cv2.calcHist([frame_HWC], [channel], None, [256], [0, 256]) for channel in range(3))
    return [count.ravel().astype(np.int64) for count in counts]


def local(step: Drawn, window: Window, wanted: Box, frame: Box) -> Window:
    """A pixel of the output needs the pixels around it."""
    whole_THWC = np.ascontiguousarray(window.frames_THWC)
    shown = [np.asarray(step.on(Image.fromarray(frame_HWC))) for frame_HWC in whole_THWC]
    return Window(np.stack(shown), window.box).cut(wanted)


def geometric(step: Drawn, window: Window, wanted: Box, frame: Box) -> Window:
    """An affine map of coordinates. It begins at the frame's own corner: with another origin a
    coordinate is rounded otherwise, and so is now and then a grey level.
    """
    size = (wanted.right, wanted.bottom)
    shown = [
        Image.fromarray(part_HWC).transform(
            size,
            Image.Transform.AFFINE,
            _matrix(step, frame),
            resample=step.resample,
            fillcolor=FILL,
        )
        for part_HWC in np.ascontiguousarray(window.frames_THWC)
    ]
    stacked_THWC = np.stack([np.asarray(image) for image in shown])
    return Window(stacked_THWC, Box(0, 0, wanted.bottom, wanted.right)).cut(wanted)


def _matrix(step: Drawn, frame: Box) -> tuple[float, float, float, float, float, float]:
    """Output coordinates (x, y) -> (a x + b y + c, d x + e y + f) of the input, whole frames."""
    (amount,) = step.arguments
    height, width = frame.bottom, frame.right
    if step.name == "Rotate":
        angle = -math.radians(amount % 360.0)
        cos, sin = round(math.cos(angle), 15), round(math.sin(angle), 15)
        x, y = width / 2, height / 2
        return cos, sin, -cos * x - sin * y + x, -sin, cos, sin * x - cos * y + y
    return {
        "ShearX": (1.0, amount, 0.0, 0.0, 1.0, 0.0),
        "ShearY": (1.0, 0.0, 0.0, amount, 1.0, 0.0),
        "TranslateX": (1.0, 0.0, amount, 0.0, 1.0, 0.0),
        "TranslateY": (1.0, 0.0, 0.0, 0.0, 1.0, amount),
        "TranslateXRel": (1.0, 0.0, amount * width, 0.0, 1.0, 0.0),
        "TranslateYRel": (1.0, 0.0, 0.0, 0.0, 1.0, amount * height),
    }[step.name]


def _source(step: Drawn, wanted: Box, frame: Box) -> Box:
    """What a geometric operation looks at, from the frame's corner to the image of the wanted part,
    with a margin for the cubic filter. At least one pixel, where that lies outside.
    """
    a, b, c, d, e, f = _matrix(step, frame)
    corners = [(x, y) for x in (wanted.left, wanted.right) for y in (wanted.top, wanted.bottom)]
    right = max(math.ceil(a * x + b * y + c) for x, y in corners) + 3
    bottom = max(math.ceil(d * x + e * y + f) for x, y in corners) + 3
    return Box(0, 0, min(max(bottom, 1), frame.bottom), min(max(right, 1), frame.right))


Kind = Callable[[Drawn, Window, Box, Box], Window]

NEEDS: dict[Kind, Callable[[Drawn, Box, Box], Box]] = {
    pointwise: lambda step, wanted, frame: wanted,
    statistical: lambda step, wanted, frame: frame,
    local: lambda step, wanted, frame: wanted.grown(1, frame),
    geometric: _source,
}
"""Which part of its input an operation needs for a part of its output."""

STATISTICS: dict[str, Callable[[Drawn, np.ndarray], np.ndarray]] = {
    "AutoContrast": _autocontrast_table,
    "Equalize": _equalize_table,
    "Contrast": _contrast_table,
    "ContrastIncreasing": _contrast_table,
}

KINDS: dict[str, Kind] = {
    **dict.fromkeys(STATISTICS, statistical),
    **dict.fromkeys(("Invert", "Solarize", "SolarizeIncreasing", "SolarizeAdd"), pointwise),
    **dict.fromkeys(("Posterize", "PosterizeIncreasing", "PosterizeOriginal"), pointwise),
    **dict.fromkeys(("Brightness", "BrightnessIncreasing"), pointwise),
    **dict.fromkeys(("Color", "ColorIncreasing", "Desaturate"), local),
    **dict.fromkeys(("Sharpness", "SharpnessIncreasing"), local),
    **dict.fromkeys(("Rotate", "ShearX", "ShearY"), geometric),
    **dict.fromkeys(("TranslateX", "TranslateY", "TranslateXRel", "TranslateYRel"), geometric),
}
"""Every operation of timm's RandAugment but its blurs."""
