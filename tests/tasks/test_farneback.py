"""The optical flow of `tasks.video.flow` on the device beside OpenCV's, which the loader takes."""

from __future__ import annotations

from itertools import pairwise

import cv2
import numpy as np
import pytest
import torch
from makers import ROOT
from safetensors import safe_open
from torch._subclasses.fake_tensor import FakeTensorMode

from bench import task
from tasks.video import _farneback, flow

FIXTURE = ROOT / "tests" / "fixtures/flow/flow_labels.safetensors"
HALF = (0.5, 0.5, 0.5)


def spec_of(frames_THWC: np.ndarray, *, patch: int = 16) -> task.ModelSpec:
    T, height = frames_THWC.shape[:2]
    return task.ModelSpec(
        frames=T, size=height, patch=patch, dim=8, num_classes=2, mean=HALF, std=HALF
    )


def texture(height: int, width: int, *, seed: int = 0) -> np.ndarray:
    """Noise of several sizes, uint8 (H, W, 3)."""
    noise = np.random.default_rng(seed).normal(size=(height, width, 3)).astype(np.float32)
    sizes = sum(cv2.GaussianBlur(noise, (0, 0), s) * s for s in (1, 3, 9))
    return np.clip(sizes / sizes.std() * 50 + 128, 0, 255).astype(np.uint8)


def moving(
    transform: np.ndarray, *, frames: int = 4, height: int = 96, width: int = 96, seed: int = 0
) -> np.ndarray:
    """A texture to which an affine map (3 x 3, about the centre) is applied between two frames."""
    picture, margin = texture(height + 80, width + 80, seed=seed), 40
    middle = np.eye(3)
    middle[:2, 2] = (picture.shape[1] / 2, picture.shape[0] / 2)
    shown = []
    for t in range(frames):
        placed = middle @ np.linalg.matrix_power(transform, t) @ np.linalg.inv(middle)
        placed[:2, 2] -= margin
        shown.append(cv2.warpAffine(picture, placed[:2], (width, height)))
    return np.stack(shown)


def shift(x: float, y: float) -> np.ndarray:
    return np.array([[1, 0, x], [0, 1, y], [0, 0, 1.0]])


def turn(degrees: float, *, scale: float = 1.0) -> np.ndarray:
    return np.vstack([cv2.getRotationMatrix2D((0, 0), degrees, scale), [0, 0, 1]])


MOTIONS = {
    "slow": shift(0.4, -0.3),
    "fast": shift(-7.0, 9.0),
    "to the right": shift(3.0, 0.0),
    "turning": turn(2.5),
    "nearer": turn(0.0, scale=1.03),
    "still": np.eye(3),
}


@pytest.mark.parametrize("motion", MOTIONS)
def test_labels_of_synthetic_motion_are_opencvs(motion: str) -> None:
    frames = moving(MOTIONS[motion])
    spec, config = spec_of(frames), flow.Config()
    expected = flow.prepare(config, spec, frames, np.random.default_rng(0))
    labels = flow.prepare_batch(config, spec, torch.from_numpy(frames)[None])
    assert labels.dtype == torch.int64 and labels.shape == (1, *expected.shape)
    same = labels[0].numpy() == expected
    speed = np.linalg.norm(flow.patch_flow(frames, patch=16, mean=HALF, std=HALF), axis=-1)
    assert same.mean() >= 0.97
    assert (speed > 0.5).any() or motion in ("slow", "still")
    assert same[speed > 0.5].all()


@pytest.mark.parametrize(("height", "width"), [(30, 40), (61, 77), (128, 67), (2, 5), (260, 264)])
def test_the_flow_of_any_size_is_opencvs(height: int, width: int) -> None:
    """One level to four of them, sizes that do not halve evenly, frames smaller than the window."""
    frames = moving(shift(1.3, -0.8), height=height, width=width, frames=3)
    grey = flow._grey(frames, HALF, HALF)
    expected = [
        cv2.calcOpticalFlowFarneback(a, b, None, 0.5, 3, 15, 3, 5, 1.2, 0)
        for a, b in pairwise(grey)
    ]
    found = _farneback.farneback(torch.from_numpy(grey)[None])
    assert found.shape == (2, 1, 2, height, width)
    np.testing.assert_allclose(found[:, 0].permute(1, 2, 3, 0), np.stack(expected), atol=1e-4)


def test_labels_of_the_reference_clip_are_the_released_ones() -> None:
    with safe_open(FIXTURE, "np") as file:
        frames = file.get_tensor("input/frames_thwc_uint8")
        expected = file.get_tensor("output/flow_labels")
        speed = np.linalg.norm(file.get_tensor("output/patch_flow_xy"), axis=-1)
    labels = flow.prepare_batch(flow.Config(), spec_of(frames), torch.from_numpy(frames)[None])
    same = labels[0].numpy() == expected
    assert same.mean() >= 0.97 and same[speed > 0.5].mean() >= 0.99


def test_angles_are_opencvs() -> None:
    """Also on the diagonals, where its polynomial is on the other side of 45 degrees, and on axes."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 20_000)).astype(np.float32)
    y[:1000], y[1000:2000], x[2000:2100], y[2050:2200] = x[:1000], -x[1000:2000], 0, 0
    speed, angle = (v.ravel() for v in cv2.cartToPolar(x, y, angleInDegrees=False))
    found_speed, found_angle = _farneback.polar(torch.from_numpy(x), torch.from_numpy(y))
    np.testing.assert_allclose(found_speed, speed, rtol=1e-6)
    np.testing.assert_allclose(found_angle, angle, atol=2e-6)
    sectors = (found_angle.numpy() * 180 / np.pi // 45, angle * 180 / np.pi // 45)
    assert (sectors[0] == sectors[1]).all()


def test_thresholds_are_those_of_the_loader() -> None:
    frames = moving(turn(1.5))
    spec = spec_of(frames)
    for options in ({"min_relative": 0.4}, {"min_relative": 0.0, "min_pixels": 0.5}):
        config = flow.Config(**options)
        expected = flow.prepare(config, spec, frames, np.random.default_rng(0))
        labels = flow.prepare_batch(config, spec, torch.from_numpy(frames)[None])[0].numpy()
        assert 0.1 < (expected == 0).mean() < 0.9
        assert (labels == expected).mean() >= 0.99


def test_a_clips_labels_do_not_depend_on_the_others() -> None:
    """Nor on how many there are."""
    clips = torch.from_numpy(np.stack([moving(m, seed=i) for i, m in enumerate(MOTIONS.values())]))
    spec, config = spec_of(clips[0].numpy()), flow.Config()
    labels = flow.prepare_batch(config, spec, clips)
    for size in (1, 4):
        parts = [flow.prepare_batch(config, spec, part) for part in clips.split(size)]
        assert torch.equal(labels, torch.cat(parts))
    # A GPU takes several clips at once.
    grey = clips.float().mean(-1)
    together = _farneback.farneback(grey)
    alone = torch.cat([_farneback.farneback(one[None]) for one in grey], dim=1)
    assert (together - alone).abs().mean() < 1e-5


def test_where_nothing_determines_the_flow_it_is_finite() -> None:
    """Stripes move along themselves unseen, flat areas altogether."""
    stripes = torch.arange(64).remainder(2).mul(255.0).repeat(2, 64, 1)
    stripes[1] = 255 - stripes[1]
    steps = torch.arange(64).ge(32).mul(255.0).repeat(2, 64, 1)
    steps[1] = steps[1].T.clone()
    noise = torch.rand(2, 64, 64, generator=torch.Generator().manual_seed(0)).mul_(1e4)
    for grey in (stripes, steps, noise, torch.zeros(2, 64, 64)):
        assert _farneback.farneback(grey[None]).isfinite().all()


def test_nothing_on_a_gpu_is_waited_for_or_left_on_the_host() -> None:
    """On tensors without memory anything that reads a value, or mixes devices, raises."""
    _farneback._edge.cache_clear()
    try:
        with FakeTensorMode():
            clips = torch.empty((2, 3, 64, 64, 3), dtype=torch.uint8, device="cuda")
            spec = spec_of(np.empty((3, 64, 64, 3)))
            labels = flow.prepare_batch(flow.Config(), spec, clips)
    finally:
        _farneback._edge.cache_clear()
    assert labels.shape == (2, 2, 16) and labels.device.type == "cuda"
