"""RandAugment of clips: the pixels of timm's own operations, at every strength, and never an error."""

from __future__ import annotations

import random

import numpy as np
import pytest
from PIL import Image
from timm.data import auto_augment

from bench.config import seeds
from bench.config.science import Input
from bench.data import rand_augment
from bench.data.rand_augment import FILL, Box, Drawn
from bench.data.transforms import train_clip

RELEASED = "rand-m20-mstd0.5-inc1"
WHOLE = (29, 45)  # height, width


@pytest.fixture(scope="module")
def frames_THWC() -> np.ndarray:
    """Three different frames: smooth, noisy, and of two grey levels that leave Equalize nothing."""
    rng = np.random.default_rng(0)
    height, width = WHOLE
    y, x = np.mgrid[:height, :width]
    smooth = np.stack([3 * x, 5 * y, 2 * (x + y)], axis=-1).astype(np.uint8)
    noisy = rng.integers(20, 230, (height, width, 3), dtype=np.uint8)
    flat = np.full((height, width, 3), 77, np.uint8)
    flat[:2] = 91
    return np.stack([smooth, noisy, flat])


def by_timm(step: Drawn, frame_HWC: np.ndarray) -> np.ndarray:
    """timm's own function on a whole frame; Posterize to no bits as Pillow 9 did it: mask 0."""
    image = Image.fromarray(frame_HWC)
    if step.name.startswith("Posterize") and step.arguments[0] < 1:
        return np.asarray(image.point([0] * 768))
    return np.asarray(step.on(image))


def steps_of(name: str, magnitude: float) -> list[Drawn]:
    """Both directions and both filters of an operation."""
    op = auto_augment.AugmentOp(name, prob=1.0, magnitude=magnitude)
    found = {}
    for seed in range(12):
        random.seed(seed)
        arguments = op.level_fn(magnitude, {"translate_const": 10}) if op.level_fn else ()
        resample = random.choice(auto_augment._RANDOM_INTERPOLATION)
        found[arguments, resample] = Drawn(name, op.aug_fn, arguments, resample)
    return list(found.values())


@pytest.mark.parametrize("name", sorted(rand_augment.KINDS))
def test_every_operation_at_every_magnitude_has_the_pixels_of_timm(
    name: str, frames_THWC: np.ndarray
) -> None:
    height, width = WHOLE
    for magnitude in np.linspace(0, 10, 21):
        for step in steps_of(name, float(magnitude)):
            expected = np.stack([by_timm(step, frame) for frame in frames_THWC])
            for box in (Box(0, 0, height, width), Box(3, 11, 20, 28), Box(12, 28, 29, 45)):
                shown = rand_augment.augment(frames_THWC, (step,), box)
                part = expected[:, box.top : box.bottom, box.left : box.right]
                np.testing.assert_array_equal(shown, part)


def test_ten_thousand_draws_of_the_released_recipe_are_those_of_timm(
    frames_THWC: np.ndarray,
) -> None:
    kinds, black = set(), 0
    for seed in range(10_000):
        drawn = rand_augment.draw(RELEASED, 24, seed)
        kinds.update(step.name for step in drawn)
        box = Box(2 + seed % 5, seed % 20, 24, 20 + seed % 20 + 4)
        shown = rand_augment.augment(frames_THWC[:1], drawn, box)
        black += not shown.any() and any(step.name.startswith("Poster") for step in drawn)
        if seed % 10:
            continue
        expected = frames_THWC[0]
        for step in drawn:
            expected = by_timm(step, expected)
        part = expected[box.top : box.bottom, box.left : box.right]
        np.testing.assert_array_equal(shown[0], part, str(drawn))
    assert len(kinds) == 15
    assert (
        300 < black < 700
    )  # two draws, each with probability 1/2 and one of 15: 657 have Posterize


def test_draws_are_timms(frames_THWC: np.ndarray) -> None:
    """The same seed chooses what timm's own transform would have done."""
    options = {"translate_const": 10, "img_mean": FILL}
    augment = auto_augment.rand_augment_transform("rand-m9-inc1", options)
    for seed in range(200):
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        expected = np.asarray(augment(Image.fromarray(frames_THWC[0])))
        drawn = rand_augment.draw("rand-m9-inc1", 24, seed)
        shown = rand_augment.augment(frames_THWC[:1], drawn, Box(0, 0, *WHOLE))[0]
        np.testing.assert_array_equal(shown, expected)


def test_an_unknown_operation_is_named() -> None:
    frames = np.zeros((2, 20, 20, 3), np.uint8)
    config = Input(frames=2, size=16, rand_augment="rand-m5-t3a")
    with pytest.raises(ValueError, match="GaussianBlur"):
        train_clip(frames, config, seeds.rng(0))
