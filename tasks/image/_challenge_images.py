"""The images of the Backgrounds Challenge: foregrounds with their masks, backgrounds, and one put on the
other. Read once by `image.background_challenge`, and kept on the device if they fit there.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bench import task
from bench.data.imagenet9 import FG_MASK
from tasks.image._imagenet9 import imagenet9_predictions

FOREGROUNDS, BACKGROUNDS = "original", "only_bg_t"
SHOWN = 8  # files named in an error message


@dataclass(frozen=True)
class Material:
    """F foregrounds and B backgrounds as stored, on the device if they fit, else on the host."""

    images_FHWC: Tensor  # uint8
    masks_FHW1: Tensor  # bool
    backgrounds_BHWC: Tensor  # uint8
    labels_F: np.ndarray
    labels_B: np.ndarray
    keys_F: tuple[str, ...]
    keys_B: tuple[str, ...]
    device: torch.device

    def composite(self, f_N: np.ndarray, b_N: np.ndarray) -> Tensor:
        """images_NHWC, uint8, on the device: foreground f_N[i] on background b_N[i]."""
        f, b = torch.from_numpy(f_N), torch.from_numpy(b_N)
        parts = [self.masks_FHW1[f], self.images_FHWC[f], self.backgrounds_BHWC[b]]
        if parts[0].device != self.device:
            # The copies of pinned memory do not wait for each other.
            parts = [part.pin_memory().to(self.device, non_blocking=True) for part in parts]
        mask_NHW1, image_NHWC, background_NHWC = parts
        return torch.where(mask_NHW1, image_NHWC, background_NHWC)


def read(context: task.Context) -> Material:
    """Foregrounds, masks and backgrounds. Raises ValueError that names every unfit file."""
    samples = context.samples(FOREGROUNDS)
    with_mask = samples.with_layer(FG_MASK)
    if not len(with_mask):
        raise ValueError(
            f"no image of {FOREGROUNDS} has a {FG_MASK}: unpack backgrounds_challenge_data.tar.gz, "
            f"its folder {FG_MASK} belongs beside {FOREGROUNDS}"
        )
    foregrounds = Pictures(context, FOREGROUNDS, with_mask)
    backgrounds = Pictures(context, BACKGROUNDS, np.arange(context.count(BACKGROUNDS)))
    _check_one_size(foregrounds, backgrounds)
    masks_FHW = _read_masks(samples, with_mask, foregrounds.size)
    fits = _fits(foregrounds.device, foregrounds, backgrounds)
    storage = foregrounds.device if fits else torch.device("cpu")
    return Material(
        images_FHWC=foregrounds.joined(storage),
        masks_FHW1=torch.from_numpy(masks_FHW).unsqueeze(-1).to(storage),
        backgrounds_BHWC=backgrounds.joined(storage),
        labels_F=foregrounds.labels,
        labels_B=backgrounds.labels,
        keys_F=tuple(foregrounds.keys),
        keys_B=tuple(backgrounds.keys),
        device=foregrounds.device,
    )


class Pictures:
    """The wanted images of a split, on the host until it is known whether they fit."""

    def __init__(self, context: task.Context, split: str, wanted: np.ndarray) -> None:
        self.split = split
        self.keys: list[str] = []
        self.sizes: list[tuple[int, int]] = []
        self._parts: list[Tensor] = []
        labels: list[np.ndarray] = []
        total, seen = context.count(split), 0
        for batch in context.images(split):
            inside = np.flatnonzero(np.isin(np.arange(seen, seen + len(batch.keys)), wanted))
            seen += len(batch.keys)
            chosen = batch.images_BHWC.cpu()[torch.from_numpy(inside)]
            height, width = chosen.shape[1:3]
            self.device = batch.images_BHWC.device
            self._parts.append(chosen)
            self.keys += [batch.keys[i] for i in inside]
            self.sizes += [(height, width)] * len(inside)
            labels.append(batch.labels_B.cpu().numpy()[inside])
            context.progress(seen, total, f"reading {split}")
        if seen != total or not self.keys:
            raise ValueError(f"split {split} declares {total} images and gave {seen}")
        self.labels = np.concatenate(labels)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the most, pixels."""
        return Counter(self.sizes).most_common(1)[0][0]

    @property
    def num_bytes(self) -> int:
        return sum(part.numel() for part in self._parts)

    def joined(self, device: torch.device) -> Tensor:
        """images_NHWC on `device`; the parts are let go one by one."""
        count = len(self.keys)
        out = torch.empty((count, *self.size, 3), dtype=torch.uint8, device=device)
        begin = 0
        while self._parts:
            part = self._parts.pop(0)
            out[begin : begin + len(part)] = part
            begin += len(part)
        return out


def _check_one_size(foregrounds: Pictures, backgrounds: Pictures) -> None:
    height, width = size = backgrounds.size
    odd = [
        f"{pictures.split}/{key} ({h} x {w})"
        for pictures in (foregrounds, backgrounds)
        for key, (h, w) in zip(pictures.keys, pictures.sizes, strict=True)
        if (h, w) != size
    ]
    if odd:
        raise ValueError(
            "foregrounds can be put on backgrounds of their own size only; most backgrounds are "
            f"{height} x {width}, not so {_listed(odd)}; resize them together with their masks"
        )


def _read_masks(samples: task.Samples, with_mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """bool F H W"""
    masks_FHW = np.zeros((len(with_mask), *size), dtype=bool)
    wrong = []
    for f, i in enumerate(with_mask):
        try:
            mask = samples.layer(int(i), FG_MASK)
            if mask.shape == size:
                masks_FHW[f] = mask != 0
            else:
                shape = " x ".join(map(str, mask.shape))
                wrong.append(f"{samples.keys[i]}: {shape}, its image {size[0]} x {size[1]}")
        except ValueError as error:
            wrong.append(f"{samples.keys[i]}: {error}")
    if wrong:
        raise ValueError(f"unfit masks in {FG_MASK}: {_listed(wrong)}; unpack the archive again")
    return masks_FHW


def _listed(items: list[str]) -> str:
    more = f" and {len(items) - SHOWN} more" if len(items) > SHOWN else ""
    return "; ".join(items[:SHOWN]) + more


def _fits(device: torch.device, foregrounds: Pictures, backgrounds: Pictures) -> bool:
    """Whether the device has room for the images, and as much again for the model to work in."""
    if device.type != "cuda":
        return True
    masks = foregrounds.num_bytes // 3
    wanted = foregrounds.num_bytes + masks + backgrounds.num_bytes
    return 2 * wanted < torch.cuda.mem_get_info(device)[0]


def fooled(
    context: task.Context, material: Material, f_N: np.ndarray, b_N: np.ndarray
) -> np.ndarray:
    """bool (N,): whether the prediction differs from the foreground's class. One forward pass."""
    logits_NK = context.model(context.to_clip(material.composite(f_N, b_N)))
    return imagenet9_predictions(logits_NK) != material.labels_F[f_N]
