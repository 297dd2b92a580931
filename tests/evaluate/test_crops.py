"""Spatial crops in evaluation: where they lie, that their logits are added, that one crop is as it
was, and that training and the order probe do not see them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from makers import Counted, context_of, numbered, smoke

from bench.config.science import Input
from bench.data import loader
from bench.data.order import Draw
from bench.data.transforms import eval_clip, eval_crops
from bench.evaluate.context import EvaluationContext, run_one
from bench.train.step import to_device
from tasks.video import _shuffling, order_probe, shuffle_gap

ONE, THREE = Input(frames=2, size=4), Input(frames=2, size=4, eval_crops=3)


@pytest.mark.parametrize(
    ("height", "width", "corners"),
    [
        (4, 11, [(0, 0), (0, 4), (0, 7)]),  # 3.5 is rounded to the even 4
        (4, 10, [(0, 0), (0, 3), (0, 6)]),
        (10, 4, [(0, 0), (3, 0), (6, 0)]),
        (4, 4, [(0, 0)] * 3),
    ],
)
def test_three_crops_lie_along_the_longer_side(
    height: int, width: int, corners: list[tuple[int, int]]
) -> None:
    frames = numbered(height, width)
    crops = eval_crops(frames, THREE)
    assert len(crops) == 3
    for crop, (top, left) in zip(crops, corners, strict=True):
        assert np.array_equal(crop, frames[:, top : top + 4, left : left + 4])
    assert np.array_equal(crops[1], eval_clip(frames, ONE))


def test_a_larger_scale_moves_the_crops_and_centres_the_other_side() -> None:
    frames = numbered(8, 20)  # short side 8 = 2 x 4, so the crop is 4 pixels of the stored frame
    config = THREE.model_copy(update={"eval_scale": 2.0})
    corners = [tuple(crop[0, 0, 0, :2]) for crop in eval_crops(frames, config)]
    assert corners == [(2, 0), (2, 8), (2, 16)]


def test_one_crop_is_the_centre() -> None:
    frames = numbered(9, 13)
    (crop,) = eval_crops(frames, ONE)
    assert np.array_equal(crop, eval_clip(frames, ONE))


def test_each_clip_is_decoded_once_and_comes_in_every_crop() -> None:
    samples = Counted()
    batches = list(
        loader.evaluation_crops(loader.Crops(samples, THREE), batch=2, workers=0, pin=False)
    )
    assert samples.decoded == 5
    assert [len(crops) for crops in batches] == [3, 3, 3]
    for crops in batches:
        assert len({crop.keys for crop in crops}) == 1
        lefts = [int(crop.clip_BTHWC[0, 0, 0, 0, 1] - crop.labels_B[0]) for crop in crops]
        assert lefts == [0, 4, 8]
    assert [key for crops in batches for key in crops[0].keys] == samples.keys


def test_clips_of_training_and_validation_stay_one_crop() -> None:
    for run_seed in (None, 0):
        clip, *_ = loader.Clips(Counted(), THREE, run_seed=run_seed)[Draw(1, 0)]
        assert clip.shape == (2, 4, 4, 3)


@pytest.fixture(scope="module")
def contexts(data_dir: Path) -> dict[int, EvaluationContext]:
    return {crops: context_of(smoke(eval_crops=crops), data_dir) for crops in (1, 3)}


def gap(context: EvaluationContext) -> tuple[list[dict[str, object]], pd.DataFrame]:
    fresh = replace(context, predictions=[])
    rows = run_one("video.shuffle_gap", shuffle_gap.Config(permutations=2), fresh)
    return rows, pd.concat(fresh.predictions, ignore_index=True)


def original(rows: list[dict[str, object]], metric: str) -> object:
    where = {"split": "test", "view": "original", "subset": "all", "metric": metric}
    (row,) = (row for row in rows if where.items() <= row.items())
    return row["value"]


def centre_logits(context: EvaluationContext, split: str) -> Iterator[torch.Tensor]:
    for batch in context.batches(split):
        yield context.model(batch.clip_BTCHW)


@torch.no_grad()
def test_three_crops_are_the_sum_of_their_logits_by_hand(
    contexts: dict[int, EvaluationContext], data_dir: Path
) -> None:
    context = contexts[3]
    rows, predictions = gap(context)
    samples = context.open_split("test")
    clips = loader.Clips(samples, context.input)
    summed = torch.zeros(len(samples), context.spec.num_classes)
    for place in range(3):
        for i in range(len(samples)):
            (frames,), _ = clips._views(i, slice(None))
            clip = eval_crops(frames, context.input)[place]
            item = loader.ClipItem(clip, int(samples.labels[i]), samples.keys[i], Draw(i, 0), {})
            raw = loader.collate([item], context.input.size)
            batch = to_device(raw, context.device, context.spec)
            summed[i] += context.model(batch.clip_BTCHW)[0]
    top1 = (summed.argmax(-1).numpy() == samples.labels).mean()
    assert original(rows, "top1") == pytest.approx(top1)
    mean_confidence = (summed / 3).softmax(-1).amax(-1)
    assert original(rows, "confidence") == pytest.approx(float(mean_confidence.mean()), abs=1e-5)
    kept = predictions[(predictions["split"] == "test") & (predictions["view"] == "original")]
    assert [top[0] for top in kept["top5"]] == summed.argmax(-1).tolist()
    np.testing.assert_allclose(kept["confidence"], mean_confidence, atol=1e-5)


@torch.no_grad()
def test_one_crop_gives_the_logits_of_the_centre_bit_for_bit(
    contexts: dict[int, EvaluationContext],
) -> None:
    for centre, (crop,) in zip(contexts[1].batches("test"), contexts[1].crops("test"), strict=True):
        assert torch.equal(centre.clip_BTCHW, crop.clip_BTCHW)
        plain = contexts[1].model(centre.clip_BTCHW)
        orders = np.arange(crop.clip_BTCHW.shape[1])
        assert torch.equal(_shuffling.logits_in(contexts[1], (crop,), orders), plain)


def test_predictions_are_written_once_per_sample_and_view(
    contexts: dict[int, EvaluationContext],
) -> None:
    (_, one), (rows, three) = gap(contexts[1]), gap(contexts[3])
    place = ["evaluation", "split", "view", "key"]
    assert not three.duplicated(place).any()
    assert three[place].equals(one[place])
    assert not np.array_equal(three["confidence"], one["confidence"])
    assert {row["n"] for row in rows if row["subset"] == "all"} == {12}


def test_the_order_probe_sees_the_centre_crop_only(
    contexts: dict[int, EvaluationContext],
) -> None:
    tiny = order_probe.Config.tiny()
    one, three = (run_one("video.order_probe", tiny, contexts[n]) for n in (1, 3))
    assert one == three
