"""From stored frames to the clip a model sees: which frames, which crop, which augmentation. Runs
on loader workers.

Everything stays uint8 until the device (`normalise`), a quarter of the bytes of float32. The random
numbers of a clip come from one generator that the caller seeds with (run seed, epoch, sample), so a
clip is the same whichever worker or rank makes it. There is no horizontal flip unless asked for: it
would turn "left to right" into "right to left".

Source of the rules: the SSv2 loader of the TIME release.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from functools import cache, lru_cache

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from bench.config.science import Input
from bench.data import rand_augment


def segment_indices(
    length: int, frames: int, place: np.random.Generator | tuple[int, int] | None
) -> np.ndarray:
    """One frame index from each of `frames` equal segments of a clip of `length` frames.

    Segments are (length - 1) / frames long. In training a random index within each; in evaluation
    (`place` None) its midpoint, or for view v of V (`place` is (v, V)) the index (v + 1/2) / V into
    it. Clips shorter than `frames` repeat frames.
    """
    starts, ends = _segments(length, frames)
    if isinstance(place, np.random.Generator):
        return place.integers(starts, ends + 1)
    view, views = place or (0, 1)
    return starts + (ends - starts) * (2 * view + 1) // (2 * views)


@lru_cache(maxsize=1024)
def _segments(length: int, frames: int) -> tuple[np.ndarray, np.ndarray]:
    """First and last index of each segment, not to be written to."""
    if length < 1:
        raise ValueError("a clip needs at least one frame")
    edges = np.round(np.arange(frames + 1) * (length - 1) / frames).astype(np.int64)
    return edges[:-1], edges[1:]


def dense_indices(
    length: int, frames: int, stride: int, place: float | np.random.Generator
) -> np.ndarray:
    """`frames` indices in a row, `stride` apart, of a clip of `length` frames.

    `place` in [0, 1] is where they lie, 0 at the start and 1 at the end, or a generator that draws
    it (training). Where the clip is too short, its last frame is repeated, as VideoMAE does.
    """
    if length < 1:
        raise ValueError("a clip needs at least one frame")
    room = max(length - (frames - 1) * stride - 1, 0)
    start = place.integers(room + 1) if isinstance(place, np.random.Generator) else place * room
    start = round(float(start))
    return np.minimum(start + stride * np.arange(frames), length - 1)


def train_indices(length: int, config: Input, rng: np.random.Generator) -> np.ndarray:
    """The frames of a training clip, int64 (T,)."""
    if config.sampling == "dense":
        return dense_indices(length, config.frames, config.stride, rng)
    return segment_indices(length, config.frames, rng)


def eval_indices(length: int, config: Input) -> np.ndarray:
    """The frames of each temporal view in evaluation, int64 (V, T).

    Dense views start at equal distances from the first possible frame to the last, a single one in
    the middle. Of segments view v of V lies (v + 1/2) / V into each; a single one at the midpoint.
    """
    views = config.eval_views
    if config.sampling == "dense":
        places = [v / (views - 1) for v in range(views)] if views > 1 else [0.5]
        return np.stack(
            [dense_indices(length, config.frames, config.stride, place) for place in places]
        )
    return np.stack([segment_indices(length, config.frames, (v, views)) for v in range(views)])


def train_clip(frames_THWC: np.ndarray, config: Input, rng: np.random.Generator) -> np.ndarray:
    """Scale jitter, one random crop for all frames, optional RandAugment (same draw for all frames).
    uint8 T S S 3. Whether it is then mirrored, `draws_mirror` says.
    """
    drawn: tuple[rand_augment.Drawn, ...] = ()
    if config.rand_augment:
        drawn = rand_augment.draw(config.rand_augment, config.size, int(rng.integers(2**32)))
    low, high = config.jitter
    # Inverse-uniform in the short side, as in SlowFast's loaders: 1 / scale is uniform.
    scale = 1.0 / rng.uniform(1.0 / high, 1.0 / low)
    box = _crop(frames_THWC, scale, rng.uniform(), rng.uniform())
    return resize(rand_augment.augment(frames_THWC, drawn, box), config.size)


def draws_mirror(config: Input, rng: np.random.Generator) -> bool:
    """Whether a training clip is to be mirrored, drawn right after `train_clip` drew."""
    return config.hflip and rng.uniform() < 0.5


def mirror(clip_THWC: np.ndarray) -> np.ndarray:
    """Left and right exchanged in every frame."""
    return np.ascontiguousarray(clip_THWC[:, :, ::-1])


def mirrored_classes(classes: Sequence[str]) -> tuple[int, ...]:
    """The class of a mirrored clip of each class: the one whose name has left and right exchanged.

    Raises ValueError where there is none: a mirrored clip of it would have no label.
    """
    ids = {name: i for i, name in enumerate(classes)}
    exchanged = {"left": "right", "right": "left"}
    mirrored = [
        re.sub(r"\b(left|right)\b", lambda side: exchanged[side[0]], name) for name in classes
    ]
    lonely = [name for name, other in zip(classes, mirrored, strict=True) if other not in ids]
    if lonely:
        raise ValueError(
            f"input.hflip: {len(lonely)} classes name a side and none is their mirror image "
            f"({'; '.join(lonely[:3])}); leave input.hflip off for these data"
        )
    return tuple(ids[name] for name in mirrored)


def eval_clip(frames_THWC: np.ndarray, config: Input) -> np.ndarray:
    """The centre crop as the model sees it, uint8 T S S 3."""
    squares = eval_squares(frames_THWC, config)
    return resize(squares[len(squares) // 2], config.size)


def eval_crops(frames_THWC: np.ndarray, config: Input) -> tuple[np.ndarray, ...]:
    """The crops of evaluation as the model sees them, each uint8 T S S 3, of one view."""
    return tuple(resize(square, config.size) for square in eval_squares(frames_THWC, config))


def eval_squares(frames_THWC: np.ndarray, config: Input) -> tuple[np.ndarray, ...]:
    """The `config.eval_crops` square crops of evaluation, of one view, as large as they are stored:
    uint8 T s s 3, parts of the frames.

    Of three: left, centre, right, or top, centre, bottom of frames that are higher than wide, at
    the evaluation scale. Of squares at an `eval_scale` of 1 all three are the same.
    """
    _, height, width, _ = frames_THWC.shape
    along = (0.5,) if config.eval_crops == 1 else (0.0, 0.5, 1.0)
    boxes = [
        _crop(frames_THWC, config.eval_scale, *((at, 0.5) if height > width else (0.5, at)))
        for at in along
    ]
    return tuple(frames_THWC[:, box.top : box.bottom, box.left : box.right] for box in boxes)


def _crop(frames_THWC: np.ndarray | Tensor, scale: float, y: float, x: float) -> rand_augment.Box:
    """The square that, of frames resized to a short side of `size * scale`, would show `size` pixels
    at fraction (y, x). To crop first and resize then costs the crop alone, for the same picture.
    """
    _, height, width, _ = frames_THWC.shape
    side = max(1, min(round(min(height, width) / scale), height, width))
    top, left = round(y * (height - side)), round(x * (width - side))
    return rand_augment.Box(top, left, top + side, left + side)


def resize(crops_THWC: np.ndarray, size: int) -> np.ndarray:
    """Square crops of any side -> T S S 3; a view of them where nothing is to be resized."""
    side = crops_THWC.shape[1]
    if side == size:
        return crops_THWC
    how = cv2.INTER_AREA if side > size else cv2.INTER_LINEAR
    out = np.empty((len(crops_THWC), size, size, 3), np.uint8)
    for t, crop in enumerate(crops_THWC):
        cv2.resize(np.ascontiguousarray(crop), (size, size), dst=out[t], interpolation=how)
    return out


AREA_CHUNK = 128  # frames; 83 MB of float32 for 240 x 224 pixels


def resizes_on_device(side: int, size: int) -> bool:
    """Whether `resize_on_device` gives, bit by bit, what `resize` does. Twice the side and more it
    leaves to the loader, which then hands over a quarter of the bytes.
    """
    return size < side < 2 * size


def resize_on_device(clip_BTHWC: Tensor, size: int) -> Tensor:
    """Square crops on any device, uint8 B T s s 3 -> B T S S 3, as `resize` (OpenCV's INTER_AREA).

    To average takes twice as long as to decode a JPEG; on a GPU next to nothing. Each product and
    sum is rounded to float32 by itself and in OpenCV's order, hence the same bits everywhere.
    """
    side = clip_BTHWC.shape[-2]
    if side == size:
        return clip_BTHWC
    assert resizes_on_device(side, size), (side, size)
    frames_NHWC = clip_BTHWC.flatten(0, 1)
    out = frames_NHWC.new_empty((len(frames_NHWC), size, size, 3))
    taps = _area_taps(side, size, clip_BTHWC.device)
    for start in range(0, len(out), AREA_CHUNK):
        frames = frames_NHWC[start : start + AREA_CHUNK].float()
        rows = _weighted_sum(frames, 2, taps)
        out[start : start + AREA_CHUNK] = _weighted_sum(rows, 1, taps).round().clamp(0, 255)
    return out.unflatten(0, clip_BTHWC.shape[:2])


def _weighted_sum(frames_NHWC: Tensor, dim: int, taps: list[tuple[Tensor, Tensor]]) -> Tensor:
    (first, weights), *others = taps
    shape = [-1 if d == dim else 1 for d in range(4)]
    total = frames_NHWC.index_select(dim, first) * weights.view(shape)
    for indices, weights in others:
        total += frames_NHWC.index_select(dim, indices) * weights.view(shape)
    return total


@cache
def _area_taps(side: int, size: int, target: torch.device) -> list[tuple[Tensor, Tensor]]:
    """For the first, second ... pixel that overlaps each of `size` equal cells of `side` pixels: its
    index and its share of the cell; overlaps under a thousandth are left out, as OpenCV does.
    """
    scale = side / size
    starts = np.arange(size) * scale
    cells = np.minimum(scale, side - starts)
    first = np.floor(starts).astype(np.int64)
    taps = []
    for k in range(math.ceil(scale) + 1):
        pixels = first + k
        overlap = np.minimum(pixels + 1, starts + cells) - np.maximum(pixels, starts)
        overlap = np.where(overlap > 1e-3, np.minimum(overlap, 1.0), 0.0)
        weights = torch.from_numpy((overlap / cells).astype(np.float32))
        taps.append((torch.from_numpy(np.minimum(pixels, side - 1)).to(target), weights.to(target)))
    return taps


def normalise(clip_BTHWC: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """uint8 B T H W 3 on any device -> float32 B T 3 H W, (x / 255 - mean) / std."""
    scale, shift = _affine(mean, std, clip_BTHWC.device)
    return rearrange(clip_BTHWC.float() * scale - shift, "b t h w c -> b t c h w").contiguous()


def normalise_exactly(
    images_BTHWC: Tensor, mean: tuple[float, ...], std: tuple[float, ...]
) -> Tensor:
    """As `normalise`, rounded at every step as torchvision's ToTensor and Normalize round."""
    scaled = rearrange(images_BTHWC, "b t h w c -> b t c h w").contiguous().float() / 255
    shape = (1, 1, 3, 1, 1)
    mean_C, std_C = (torch.tensor(v, device=scaled.device).view(shape) for v in (mean, std))
    return (scaled - mean_C) / std_C


def centre_crop(images_BHWC: Tensor, config: Input) -> Tensor:
    """Whole images on any device, uint8 -> what `eval_clip` shows of each, B S S 3.

    Where the crop has the right size, exactly; else resized on the device (bilinear, antialiased,
    rounded to uint8), which differs from OpenCV's resizing in single grey levels.
    """
    box = _crop(images_BHWC, config.eval_scale, 0.5, 0.5)
    crops = images_BHWC[:, box.top : box.bottom, box.left : box.right]
    if crops.shape[1] == config.size:
        return crops
    planes = rearrange(crops, "b h w c -> b c h w").float()
    size = (config.size, config.size)
    resized = F.interpolate(planes, size, mode="bilinear", antialias=True).round().clamp(0, 255)
    return rearrange(resized, "b c h w -> b h w c").to(torch.uint8)


@cache
def _affine(
    mean: tuple[float, ...], std: tuple[float, ...], target: torch.device
) -> tuple[Tensor, Tensor]:
    """Kept on the device: to copy them there at every step would make the host wait."""
    scale = torch.tensor([1.0 / (255.0 * s) for s in std], device=target)
    shift = torch.tensor([m / s for m, s in zip(mean, std, strict=True)], device=target)
    return scale, shift
