"""Which frames are seen: segments and dense sampling, temporal views, how they are averaged; and
mirrored clips, whose labels and flow are mirrored with them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from makers import Counted, context_of, smoke

from bench.config import seeds
from bench.config.science import Input
from bench.data import loader, transforms
from bench.data.order import Draw
from bench.data.transforms import dense_indices, eval_indices, mirrored_classes, segment_indices
from bench.evaluate.context import provenance
from tasks.video import shuffle_gap


def test_seeds_are_compared_on_the_same_shuffles(data_dir: Path) -> None:
    first, second = (context_of(replace(smoke(), seed=seed), data_dir) for seed in (0, 5))
    (batch, *_), (other, *_) = first.batches("test"), second.batches("test")
    orders = shuffle_gap._orders(shuffle_gap.Config(), batch, seed=first.seed)["shuffled"]
    again = shuffle_gap._orders(shuffle_gap.Config(), other, seed=second.seed)["shuffled"]
    assert batch.keys == other.keys and np.array_equal(orders, again)


@given(st.integers(1, 300), st.integers(1, 16), st.integers(1, 5))
def test_segment_views_lie_in_their_segments_in_order(length: int, frames: int, views: int) -> None:
    config = Input(frames=frames, eval_views=views)
    indices_VT = eval_indices(length, config)
    edges = np.round(np.arange(frames + 1) * (length - 1) / frames)
    assert (indices_VT >= edges[:-1]).all() and (indices_VT <= edges[1:]).all()
    assert (np.diff(indices_VT, axis=0) >= 0).all()
    (middle,) = eval_indices(length, Input(frames=frames))
    assert np.array_equal(middle, segment_indices(length, frames, None))
    assert np.array_equal(middle, (edges[:-1].astype(int) + edges[1:].astype(int)) // 2)


@given(st.integers(1, 300), st.integers(1, 16), st.integers(1, 8), st.integers(1, 10))
def test_dense_views_are_strided_and_reach_from_end_to_end(
    length: int, frames: int, stride: int, views: int
) -> None:
    config = Input(frames=frames, sampling="dense", stride=stride, eval_views=views)
    indices_VT = eval_indices(length, config)
    span = (frames - 1) * stride + 1
    assert indices_VT.shape == (views, frames) and indices_VT.max() <= length - 1
    if length >= span:
        assert (np.diff(indices_VT, axis=1) == stride).all()
        if views > 1:
            assert indices_VT[0, 0] == 0 and indices_VT[-1, -1] == length - 1
    else:  # the last frame is repeated
        assert np.array_equal(indices_VT[0], np.minimum(stride * np.arange(frames), length - 1))
    drawn = dense_indices(length, frames, stride, seeds.rng(length))
    assert drawn.min() >= 0 and drawn.max() <= length - 1


def test_training_draws_every_dense_start() -> None:
    starts = {int(dense_indices(12, 4, 2, seeds.rng(seed))[0]) for seed in range(200)}
    assert starts == set(range(12 - 6))


def test_a_stride_without_dense_sampling_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="needs sampling: dense"):
        Input(stride=2)


def test_each_clip_is_decoded_once_for_all_views_and_crops() -> None:
    class Numbered(Counted):
        def frames(self, i: int, indices: np.ndarray) -> np.ndarray:
            self.decoded += 1
            return np.broadcast_to(
                indices[:, None, None, None].astype(np.uint8), (len(indices), 4, 12, 3)
            ).copy()

    samples = Numbered()
    config = Input(frames=2, size=4, eval_crops=3, eval_views=2, sampling="dense", stride=3)
    crops = loader.Crops(samples, config)
    (batches,) = loader.evaluation_crops(crops, batch=5, workers=0, pin=False)
    assert samples.decoded == 5 and len(batches) == 6 == config.eval_clips
    shown = [batch.clip_BTHWC[0, :, 0, 0, 0].tolist() for batch in batches]
    assert shown == [[0, 3]] * 3 + [[2, 5]] * 3


def test_views_are_averaged_as_stated(data_dir: Path) -> None:
    """Mean logits and mean probabilities, against a direct computation."""
    context = context_of(smoke(eval_views=2, eval_crops=3), data_dir)
    logits_CBK = torch.randn(6, 4, 5, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(context.averaged(logits_CBK), logits_CBK.mean(0))
    by_probability = replace(
        context, input=context.input.model_copy(update={"average": "probabilities"})
    )
    mean_BK = logits_CBK.softmax(-1).mean(0)
    assert torch.allclose(by_probability.averaged(logits_CBK).softmax(-1), mean_BK)
    assert context.clips_per_sample == 6


def test_the_gap_of_several_views(data_dir: Path) -> None:
    config = smoke(eval_views=2, eval_crops=3, average="probabilities")
    context = context_of(config, data_dir)
    rows = shuffle_gap.run(shuffle_gap.Config.tiny(), context)
    assert {row["view"] for row in rows} >= {"original", "shuffled", "gap"}
    told = provenance(config.input, context.samples("test"), "video")
    assert told.endswith("one per segment, short side 1 x 16, 2 temporal views x 3 crops, "
                         "probabilities averaged")  # fmt: skip


def test_an_evaluation_that_sees_other_clips_than_stated_fails(data_dir: Path) -> None:
    context = context_of(smoke(eval_crops=3), data_dir)

    class Fewer(type(context)):  # type: ignore[misc]
        def crops(self, split: str) -> Iterator[tuple[object, ...]]:
            for crops in super().crops(split):
                yield crops[:1]

    context.__class__ = Fewer
    with pytest.raises(ValueError, match="shows 1 clips of a sample instead of 3"):
        shuffle_gap.run(shuffle_gap.Config.tiny(), context)


# -- mirrored clips ---

SIDES = (
    "Pulling something from left to right",
    "Pulling something from right to left",
    "Turning the camera left while filming something",
    "Turning the camera right while filming something",
    "Folding something",
)


def test_classes_that_name_a_side_are_exchanged() -> None:
    mirrored = mirrored_classes(SIDES)
    assert mirrored == (1, 0, 3, 2, 4)
    assert tuple(mirrored[k] for k in mirrored) == tuple(range(5))  # twice is the identity


def test_a_side_without_its_mirror_image_is_refused() -> None:
    with pytest.raises(ValueError, match=r"1 classes name a side.*Pulling something from right"):
        mirrored_classes(SIDES[1:])


class Clip5(Counted):
    """A noisy clip that moves to the right and a little down, of each class of SIDES."""

    classes = SIDES

    def frames(self, i: int, indices: np.ndarray) -> np.ndarray:
        noise = np.random.default_rng(i).integers(0, 255, (64, 128), dtype=np.uint8)
        smooth = cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 3), None, 0, 255, cv2.NORM_MINMAX)
        shift = [(round(0.4 * t), int(t)) for t in indices]  # 22 degrees: amid a sector
        return np.stack([np.roll(smooth, by, (0, 1))[..., None].repeat(3, 2) for by in shift])


def test_a_mirrored_clip_has_the_mirrored_label_and_flow() -> None:
    from bench.task import ModelSpec
    from tasks.video import flow

    spec = ModelSpec(2, 64, 16, 8, 5, (0.5,) * 3, (0.5,) * 3)
    labels = {"flow": lambda clip, _: flow.prepare(flow.Config(), spec, clip, None)}
    plain = Input(frames=2, size=64, jitter=(1.0, 1.0))
    turned = loader.Clips(
        Clip5(), plain.model_copy(update={"hflip": True}), run_seed=0, prepare=labels
    )
    straight = loader.Clips(Clip5(), plain, run_seed=0, prepare=labels)
    mirrored = 0
    for i in range(5):
        for epoch in range(6):
            one, other = turned[Draw(i, epoch)], straight[Draw(i, epoch)]
            assert other.label == i
            if one.label == other.label and np.array_equal(one.clip_THWC, other.clip_THWC):
                continue
            mirrored += 1
            assert one.label == mirrored_classes(SIDES)[i]
            assert np.array_equal(transforms.mirror(one.clip_THWC), other.clip_THWC)
            directions = [item.extras["flow"].reshape(-1, 4, 4) for item in (one, other)]
            agree = directions[0] == mirrored_directions(directions[1])[:, :, ::-1]
            assert agree[:, 1:3, 1:3].mean() > 0.9  # at the edges flow is no exact mirror image
    assert mirrored > 8


def mirrored_directions(labels: np.ndarray) -> np.ndarray:
    """Direction 1..8 is a sector of 45 degrees from +x on: mirrored, the k-th is the (5 - k)-th."""
    return np.where(labels > 0, (4 - labels) % 8 + 1, 0)
