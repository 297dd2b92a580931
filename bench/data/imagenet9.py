"""ImageNet-9: its classes, its eight test variants and the rules that make them, and the mapping
of ImageNet-1k onto it.

Xiao, Engstrom, Ilyas, Madry: "Noise or Signal: The Role of Image Backgrounds in Object
Recognition", ICLR 2021. Facts only, numpy only: objectives and evaluations import this file,
`imagenet9_format` reads the data set from disk, `sources/imagenet9` and `sources/mini_imagenet9`
offer it to sweeps.

A mask is an H W array, of any type, that is not zero where the object is.
"""

from __future__ import annotations

import numpy as np

CLASSES = (
    "dog",
    "bird",
    "wheeled vehicle",
    "reptile",
    "carnivore",
    "insect",
    "musical instrument",
    "primate",
    "fish",
)
FOLDERS = tuple(f"{number:02d}_{name}" for number, name in enumerate(CLASSES))
"""The class folders as released; two hold a space."""
VARIANTS = (
    "original",
    "mixed_same",
    "mixed_rand",
    "mixed_next",
    "only_fg",
    "no_fg",
    "only_bg_b",
    "only_bg_t",
)
"""The test sets of the release, by folder."""
FG_MASK = "fg_mask"
"""Folder and layer of the foreground masks."""
MEAN, STD = (0.4717, 0.4499, 0.3837), (0.2600, 0.2516, 0.2575)
"""Of the RGB channels, as the official evaluation normalises for 9-class models."""

_RANGES = (
    "151-170 173-268",
    "7-24 87-100 127-146",
    "407-408 428 436 444 468 511 547 555 561 565 569 573 586 603 609 612 627 656 661 665 670-671 "
    "675 690 705 717 734 751 757 791 802-803 817 820 829 847 864 866-867 870 880",
    "33-68",
    "269-280 286-299 356-362 387-388",
    "300-326",
    "401-402 420 432 486 494 513 541 546 558 566 577 579 593-594 641-642 683-684 687 699 776 822 "
    "875 881 889",
    "365-384",
    "0-6 389-397",
)
"""Per class the ImageNet-1k indices (0-based, inclusive) that the official mapping gives to it."""


def _in9_of_imagenet() -> np.ndarray:
    table = np.full(1000, -1, np.int64)
    for label, ranges in enumerate(_RANGES):
        for part in ranges.split():
            first, _, last = part.partition("-")
            table[int(first) : int(last or first) + 1] = label
    table.flags.writeable = False
    return table


IN9_OF_IMAGENET = _in9_of_imagenet()
"""int64 (1000,): the class 0 .. 8 of each ImageNet-1k class, or -1: 630 belong to none, and a
prediction of one of them is always wrong.
"""


def bounding_box(mask_HW: np.ndarray) -> tuple[int, int, int, int]:
    """(top, left, bottom, right) of the object, the last two exclusive; all 0 without an object."""
    rows, columns = np.flatnonzero(mask_HW.any(1)), np.flatnonzero(mask_HW.any(0))
    if not len(rows):
        return (0, 0, 0, 0)
    return int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1


def black_box(image_HWC: np.ndarray, mask_HW: np.ndarray) -> np.ndarray:
    """Only-BG-B: the bounding box of the object black."""
    top, left, bottom, right = bounding_box(mask_HW)
    image = image_HWC.copy()
    image[top:bottom, left:right] = 0
    return image


def tile_background(image_HWC: np.ndarray, mask_HW: np.ndarray) -> np.ndarray:
    """Only-BG-T: the bounding box filled with the largest background strip, repeated.

    The strip is the part of the image left of, right of, above or below the box that has the
    largest area; it is laid over the image as tiles from the top left corner, and shows within the
    box. A box that leaves no strip becomes black.
    """
    top, left, bottom, right = bounding_box(mask_HW)
    strips = (
        image_HWC[bottom:],
        image_HWC[:top],
        image_HWC[:, right:],
        image_HWC[:, :left],
    )
    strip = max(strips, key=lambda part: part.shape[0] * part.shape[1])
    if not strip.size:
        return black_box(image_HWC, mask_HW)
    image = image_HWC.copy()
    rows = np.arange(top, bottom) % strip.shape[0]
    columns = np.arange(left, right) % strip.shape[1]
    image[top:bottom, left:right] = strip[rows[:, None], columns]
    return image


def black_foreground(image_HWC: np.ndarray, mask_HW: np.ndarray) -> np.ndarray:
    """No-FG: the object's pixels black; its silhouette remains."""
    return np.where(mask_HW[..., None] != 0, np.uint8(0), image_HWC)


def only_foreground(image_HWC: np.ndarray, mask_HW: np.ndarray) -> np.ndarray:
    """Only-FG: the object on black."""
    return np.where(mask_HW[..., None] != 0, image_HWC, np.uint8(0))


def mix(image_HWC: np.ndarray, mask_HW: np.ndarray, background_HWC: np.ndarray) -> np.ndarray:
    """Mixed-Same, -Rand, -Next: the object on the background of another image (its Only-BG-T)."""
    return np.where(mask_HW[..., None] != 0, image_HWC, background_HWC)


DERIVED = {
    "only_bg_t": tile_background,
    "only_bg_b": black_box,
    "no_fg": black_foreground,
    "only_fg": only_foreground,
}
"""The variants that are made from one image and its mask."""
MIXED = ("mixed_same", "mixed_rand", "mixed_next")


def mixed_stem(foreground: str, background: str) -> str:
    """The file name, without its extension, of a mixed image."""
    return f"fg_{foreground}_bg_{background}"
