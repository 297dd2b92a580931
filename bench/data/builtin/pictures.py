"""The pictures of Mini-ImageNet-9: a cut-out in front of a view of a panorama, with its mask, and
the files that show it.

`sources/mini_imagenet9.py` says how many there are and converts the files. Nothing here needs
torch, so worker processes start quickly. What a picture shows is a function of (seed, split,
number).
"""

from __future__ import annotations

import functools
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from bench.data.builtin.cutouts import Cutout, all_cutouts, all_panoramas
from bench.data.builtin.scenes import (
    PLATE_SCALE,
    TRAIN_YAWS,
    VALID_YAWS,
    plate_of,
    rotation,
    sprite_of,
)
from bench.data.builtin.stage import held_out
from bench.data.image import encode_jpeg
from bench.data.imagenet9 import (
    CLASSES,
    DERIVED,
    FG_MASK,
    FOLDERS,
    VARIANTS,
    mix,
    mixed_stem,
    tile_background,
)
from bench.store.files import replacing

HOMES = {
    "dog": ("apartment", "park"),
    "bird": ("dawn", "sky"),
    "wheeled vehicle": ("bridge", "city"),
    "reptile": ("sunset", "warehouse"),
    "carnivore": ("forest", "sunrise"),
    "insect": ("lab", "studio"),
    "musical instrument": ("hall", "lobby"),
    "primate": ("night", "workshop"),
    "fish": ("esplanade", "venice"),
}
"""The two panoramas in which a class is at home; each of the 18 is home to one class."""
SPLITS = ("train", "val", "test")
CLEAN = "clean_bg"
LAYERS = (*DERIVED, CLEAN, FG_MASK)
"""What training pictures have beside them."""
SYNSETS = (
    "n02084071",
    "n01503061",
    "n04576211",
    "n01661091",
    "n02075296",
    "n02159955",
    "n03800933",
    "n02469914",
    "n02512053",
)
"""Of the nine classes: file names look as in the release."""
_FIRST_NUMBER = {"train": 1, "val": 1_000_001, "test": 2_000_001}
LONG_SIDE = (0.5, 0.9)  # of the object, as a share of the picture's
ROTATION = 0.35  # radians, at most, either way
OUTSIDE = 0.15  # share of the object's extent, at most, that lies beyond an edge
# Degrees that stay free at both ends of the range of view directions: the corners of a square
# plate that is pitched see further round than its 80 degrees.
YAW_MARGIN = 8.0
PITCHES = (-8.0, 12.0)  # degrees
FRAMING = (0.75, 1.0)  # the wider the view, the smaller


@dataclass(frozen=True)
class PictureRule:
    """What the pictures depend on; the fields are explained in mini_imagenet9.Config."""

    seed: int
    size: int
    rho: float
    exclude: str | None = None


class DrawnPicture(NamedTuple):
    """`background` is the scene without the object, which real data do not have."""

    image_HWC: np.ndarray  # uint8
    mask_HW: np.ndarray  # uint8, 0 or 1: where the object's alpha exceeds one half
    background_HWC: np.ndarray  # uint8


def label_of(number: int) -> int:
    """The class of the number-th picture of any split: they take turns."""
    return number % len(CLASSES)


@functools.cache
def drawings(kind: str, *, training: bool, exclude: str | None = None) -> tuple[Cutout, ...]:
    """The cut-outs of a class that one side shows: every fourth is kept for testing.

    By drawing, not by what it shows: as in ImageNet-9, test objects are new, of kinds that are not.
    Where something is excluded, training shows nothing of the concepts that mini_ssv2 holds out.
    """
    of_kind = sorted(
        (c for c in all_cutouts() if c.kind == kind), key=lambda c: (c.concept, c.style)
    )
    absent = held_out(kind) if training and exclude else frozenset()
    return tuple(
        c for i, c in enumerate(of_kind) if (i % 4 == 1) != training and c.concept not in absent
    )


def scene_of(rule: PictureRule, split: str, number: int) -> str:
    """The panorama: one at home with probability rho, else any of the 18 alike."""
    rng = np.random.default_rng([rule.seed, SPLITS.index(split), number, 0])
    at_home, scenes = rng.random() < rule.rho, all_panoramas()
    if at_home:
        scenes = HOMES[CLASSES[label_of(number)]]
    return scenes[rng.integers(len(scenes))]


def draw(rule: PictureRule, split: str, number: int) -> DrawnPicture:
    """The number-th picture of a split. Those of `test` show objects and views of the scenes that
    the others never show.
    """
    rng = np.random.default_rng([rule.seed, SPLITS.index(split), number, 1])
    training = split != "test"
    background = _background(rule, scene_of(rule, split, number), rng, training=training)
    cutouts = drawings(CLASSES[label_of(number)], training=training, exclude=rule.exclude)
    sprite = _object(rule, cutouts[rng.integers(len(cutouts))], rng)
    alpha = sprite[..., 3]
    brightness = np.float32(rng.uniform(0.8, 1.1))
    image = sprite[..., :3] * brightness + background * (1 - alpha[..., None])
    # Of a line thinner than a pixel, which has no such alpha, the mask is its darkest part.
    mask = alpha > min(0.5, 0.99 * float(alpha.max()))
    return DrawnPicture(np.clip(image, 0, 255).astype(np.uint8), mask.astype(np.uint8), background)


def _background(
    rule: PictureRule, scene: str, rng: np.random.Generator, *, training: bool
) -> np.ndarray:
    low, high = TRAIN_YAWS if training else VALID_YAWS
    side = round(rule.size * rng.uniform(*FRAMING))
    plate = plate_of(
        scene,
        yaw=rng.uniform(low + YAW_MARGIN, high - YAW_MARGIN),
        pitch=rng.uniform(*PITCHES),
        height=side,
        width=side,
    )
    assert len(plate) == round(side * PLATE_SCALE) >= rule.size
    top, left = rng.integers(len(plate) - rule.size + 1, size=2)
    view = plate[top : top + rule.size, left : left + rule.size]
    view = view[:, ::-1] if rng.random() < 0.5 else view
    return cv2.convertScaleAbs(np.ascontiguousarray(view), alpha=rng.uniform(0.8, 1.15))


def _object(rule: PictureRule, cutout: Cutout, rng: np.random.Generator) -> np.ndarray:
    """float32 H W 4: the cut-out (premultiplied RGB 0 .. 255, alpha 0 .. 1) where it will be."""
    long_side = rule.size * rng.uniform(*LONG_SIDE)
    sprite = sprite_of(cutout, long_side, mirrored=bool(rng.random() < 0.5))
    rows, columns = sprite.shape[:2]
    scale = long_side / max(rows - 2, columns - 2)  # without the transparent rim
    matrix = scale * rotation(rng.uniform(-ROTATION, ROTATION))
    reach = (1 - 2 * OUTSIDE) * np.abs(matrix) @ [columns / 2, rows / 2]
    centre = rng.uniform(reach, rule.size - reach) - 0.5
    offset = centre - matrix @ [(columns - 1) / 2, (rows - 1) / 2]
    placed = cv2.warpAffine(sprite, np.column_stack([matrix, offset]), (rule.size, rule.size))
    return np.clip(placed, 0, None)


# The files ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tree:
    """Where the files of the pictures go; pickles into worker processes.

    `folders` are those of the training archives (for train and val) and of the release (test).
    """

    rule: PictureRule
    counts: Mapping[str, int]  # pictures in each split
    folders: Mapping[str, str]

    def folder(self, split: str, variant: str, number: int) -> str:
        part = "val" if split == "test" else split
        return f"{self.folders[split]}/{variant}/{part}/{FOLDERS[label_of(number)]}"

    def make_folders(self) -> None:
        for split in SPLITS:
            for variant in (*VARIANTS, FG_MASK) if split == "test" else ("original", *LAYERS):
                for number in range(len(FOLDERS)):
                    Path(self.folder(split, variant, number)).mkdir(parents=True, exist_ok=True)


def stem_of(split: str, number: int) -> str:
    return f"{SYNSETS[label_of(number)]}_{_FIRST_NUMBER[split] + number}"


def write_chunk(chunk: tuple[Tree, str, range]) -> int:
    """Write some pictures of a split; returns how many."""
    tree, split, numbers = chunk
    for number in numbers:
        _write(tree, split, number)
    return len(numbers)


def _write(tree: Tree, split: str, number: int) -> None:
    """All files that show one picture; `original` last, so that its existence says done."""
    stem = stem_of(split, number)
    done = Path(tree.folder(split, "original", number), f"{stem}.JPEG")
    if done.is_file():
        return
    picture = draw(tree.rule, split, number)
    image, mask, background = picture
    images = {(name, stem): make(image, mask) for name, make in DERIVED.items()}
    images |= _mixed(tree, number, picture) if split == "test" else {(CLEAN, stem): background}
    for (variant, name), content in images.items():
        _write_bytes(f"{tree.folder(split, variant, number)}/{name}.JPEG", encode_jpeg(content))
    array = io.BytesIO()
    np.save(array, mask)
    _write_bytes(f"{tree.folder(split, FG_MASK, number)}/{stem}.npy", array.getvalue())
    with replacing(done, durable=False) as temporary:
        temporary.write_bytes(encode_jpeg(image))


def _write_bytes(path: str, content: bytes) -> None:
    with open(path, "wb", buffering=0) as file:  # noqa: PTH123 (25,000 of them: Path costs a second)
        file.write(content)


def _mixed(tree: Tree, number: int, picture: DrawnPicture) -> dict[tuple[str, str], np.ndarray]:
    """(variant, stem) -> the object on the tiled background of another test picture, whose class
    is its own, any, or the next.
    """
    rng = np.random.default_rng([tree.rule.seed, len(SPLITS), number])
    label, count = label_of(number), len(CLASSES)
    classes = {
        "mixed_same": label,
        "mixed_rand": int(rng.integers(count)),
        "mixed_next": (label + 1) % count,
    }
    images = {}
    for variant, wanted in classes.items():
        others = [n for n in range(wanted, tree.counts["test"], count) if n != number]
        other = others[rng.integers(len(others))]
        image, mask, _ = draw(tree.rule, "test", other)
        stem = mixed_stem(stem_of("test", number), stem_of("test", other))
        images[variant, stem] = mix(
            picture.image_HWC, picture.mask_HW, tile_background(image, mask)
        )
    return images
