"""Crops of evaluation resized on the device: the bits of OpenCV's INTER_AREA, whoever resizes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.config.science import Input
from bench.data import loader, transforms
from bench.data.order import Draw
from bench.data.transforms import normalise, resize, resize_on_device, resizes_on_device
from bench.task import DataSpec
from bench.train.step import to_device

SPEC = DataSpec("fake", "video", ("a",), {}, ("train", "val"))


class Frames:
    """Clips of random pixels, sample i of `shapes[i]`; the one at `broken` cannot be decoded."""

    classes = ("a",)

    def __init__(self, *shapes: tuple[int, int], broken: int = -1) -> None:
        self.shapes, self.broken = shapes, broken
        self.keys = [str(i) for i in range(len(shapes))]
        self.labels = np.zeros(len(shapes), np.int64)
        self.asked: list[int] = []

    def __len__(self) -> int:
        return len(self.shapes)

    def num_frames(self, i: int) -> int:
        return 9

    def frames(self, i: int, indices: np.ndarray) -> np.ndarray:
        if i == self.broken:
            raise ValueError("cut off")
        self.asked += indices.tolist()
        shape = (9, *self.shapes[i], 3)
        return np.random.default_rng(i).integers(0, 256, shape, dtype=np.uint8)[indices]


def by(samples: Frames, config: Input, *, resized: bool, kind: type = loader.Clips) -> torch.Tensor:
    """What the model sees of all samples, in one batch."""
    clips = kind(samples, config, resized=resized)
    items = [clips[Draw(i, 0)] for i in range(len(samples))]
    raw = clips.collate(items)
    raws = raw if isinstance(raw, tuple) else (raw,)
    device = torch.device("cpu")
    return torch.stack([to_device(raw, device, SPEC).clip_BTCHW for raw in raws])


@settings(max_examples=60, deadline=None)
@given(size=st.integers(4, 64), data=st.data(), seed=st.integers(0, 2**32 - 1))
def test_a_device_resizes_as_opencv_does(size: int, data: st.DataObject, seed: int) -> None:
    side = data.draw(st.integers(size + 1, 2 * size - 1))
    pixels = np.random.default_rng(seed).integers(0, 256, (2, 2, side, side, 3), dtype=np.uint8)
    smooth = np.sort(pixels, axis=3)  # ramps, whose averages fall on halves more often
    for clip_BTHWC in (pixels, smooth, np.full_like(pixels, 255)):
        expected = np.stack([resize(clip, size) for clip in clip_BTHWC])
        assert np.array_equal(resize_on_device(torch.from_numpy(clip_BTHWC), size), expected)


@pytest.mark.parametrize(
    ("side", "frames"), [(240, transforms.AREA_CHUNK + 2), (256, 9), (320, 9), (341, 9), (447, 9)]
)
def test_at_the_size_of_the_paper(side: int, frames: int) -> None:
    shape = (1, frames, side, side, 3)
    clip = np.random.default_rng(side).integers(0, 256, shape, dtype=np.uint8)
    found = resize_on_device(torch.from_numpy(clip), 224)
    assert np.array_equal(found[0], resize(clip[0], 224))


def test_what_a_device_does_not_resize() -> None:
    clip = torch.zeros(1, 1, 8, 8, 3, dtype=torch.uint8)
    assert resize_on_device(clip, 8) is clip
    assert [side for side in range(1, 40) if resizes_on_device(side, 8)] == list(range(9, 16))


@pytest.mark.parametrize("eval_crops", [1, 3])
def test_whoever_resizes_the_model_sees_the_same(eval_crops: int) -> None:
    kind = loader.Crops if eval_crops == 3 else loader.Clips
    config = Input(frames=3, size=8, eval_crops=eval_crops)
    samples = Frames((10, 14), (10, 14), (10, 14))
    worker, device = (by(samples, config, resized=flag, kind=kind) for flag in (True, False))
    assert torch.equal(worker, device)
    assert kind(samples, config, resized=False).collate(
        [kind(samples, config, resized=False)[Draw(0, 0)]]
    )


def test_crops_that_a_device_can_resize_are_handed_over_as_stored() -> None:
    clips = loader.Clips(Frames((10, 14)), Input(frames=3, size=8), resized=False)
    raw = clips.collate([clips[Draw(0, 0)]])
    assert raw.clip_BTHWC.shape == (1, 3, 10, 10, 3) and raw.size == 8


def test_crops_of_several_sizes_meet_in_one_batch() -> None:
    """Smaller than the model's input, slightly larger, far larger, and black for want of a frame."""
    samples = Frames((6, 9), (10, 14), (15, 12), (33, 40), (10, 14), broken=4)
    config = Input(frames=3, size=8)
    worker, device = (by(samples, config, resized=flag) for flag in (True, False))
    assert torch.equal(worker, device)
    black = torch.zeros(1, 3, 8, 8, 3, dtype=torch.uint8)
    assert torch.equal(device[0, 4:], normalise(black, SPEC.mean, SPEC.std))


def test_who_sees_one_of_several_views_decodes_that_one() -> None:
    samples = Frames((8, 8))
    one = Input(frames=3, size=8, eval_views=1, sampling="dense", stride=1)
    clips = loader.Clips(samples, one.model_copy(update={"eval_views": 3}))
    alone = loader.Clips(Frames((8, 8)), one)
    found = clips[Draw(0, 0)].clip_THWC
    assert np.array_equal(found, alone[Draw(0, 0)].clip_THWC)
    assert len(samples.asked) == 3
