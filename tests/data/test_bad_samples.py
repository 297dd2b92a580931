"""Samples that cannot be decoded: training stops or skips as configured, evaluation counts them as
wrong, and every number says how many there were.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from makers import INPUT, Fake, assert_same, make_run, smoke_config, trainer_of
from worlds import as_ranks, in_world

from bench.config.resources import Resources
from bench.data import loader
from bench.data.access import open_split
from bench.data.loader import BadSample
from bench.data.order import Draw
from bench.data.shards.read import SAMPLES
from bench.results import rows
from bench.run.cell import run_cell
from bench.store.rundir import RunDir, State
from bench.train.world import World


def break_clips(shards: Path, split: str, count: int) -> list[str]:
    """Zeros over the first videos of a split; their keys."""
    rows = [r for r in pq.read_table(shards / SAMPLES).to_pylist() if r["split"] == split][:count]
    for row in rows:
        with (shards / row["shard"]).open("r+b") as file:
            file.seek(row["offset"])
            file.write(bytes(row["size"]))
    return [row["key"] for row in rows]


def cell(folder: Path, shards: Path, **changes: Any) -> RunDir:
    config = smoke_config(**{"data.frames": "video", **changes})
    return make_run(folder, config, shards.parent, log_every=1, verify="never")


def test_training_stops_at_a_bad_sample_unless_told_otherwise(tmp_path: Path, data: Path) -> None:
    (key,) = break_clips(data, "train", 1)
    run = cell(tmp_path, data)
    assert run_cell(run.path) == State.FAILED
    assert key in run.error.read_text() and "BadSample" in run.error.read_text()


def test_training_skips_and_counts(tmp_path: Path, data: Path) -> None:
    bad = break_clips(data, "train", 2)
    run = cell(tmp_path, data, **{"train.on_bad_sample": "skip"})
    assert run_cell(run.path) == State.DONE
    found = run.read_result()["bad_samples"]
    assert sorted(found["samples"]) == sorted(bad)
    assert all(key in reason for key, reason in found["samples"].items())
    # two epochs of three batches of eight show each of the 24 samples twice; a place may take several
    assert found["replaced"] >= 4
    logged = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    counts = [row["replaced_samples"] for row in logged if "replaced_samples" in row]
    assert counts == sorted(counts) and counts[-1] == found["replaced"]
    again = cell(tmp_path / "again", data, **{"train.on_bad_sample": "skip"})
    assert run_cell(again.path) == State.DONE
    assert_same(run, again)


def test_skipping_survives_an_interruption(
    tmp_path: Path,
    data: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    break_clips(data, "train", 2)
    skip = {"train.on_bad_sample": "skip", "evaluations": {}}
    straight = cell(tmp_path / "a", data, **skip)
    whole = trainer_of(straight)
    whole.fit()
    cut = cell(tmp_path / "b", data, **skip)
    trainer = trainer_of(cut)
    step = trainer._train_step

    def stopping(batches: Any) -> None:
        if trainer.step == 4:
            trainer.save()
            raise KeyboardInterrupt
        step(batches)

    monkeypatch.setattr(trainer, "_train_step", stopping)
    with pytest.raises(KeyboardInterrupt):
        trainer.fit()
    resumed = trainer_of(cut)
    resumed.fit()
    assert resumed.batches.bad_samples() == whole.batches.bad_samples()
    assert_same(straight, cut)


def counted(path: Path) -> dict[str, Any]:
    """Of this rank's world, trained to the end."""
    run, world = RunDir(path), World.from_environment()
    with world.joined(run, torch.device("cpu")):
        trainer = in_world(run, world)
        trainer.fit()
        return trainer.batches.bad_samples()


@pytest.mark.slow
def test_two_ranks_count_what_one_counts(tmp_path: Path, data: Path) -> None:
    break_clips(data, "train", 2)
    run = cell(tmp_path, data, **{"train.on_bad_sample": "skip", "evaluations": {}})
    alone = cell(tmp_path / "alone", data, **{"train.on_bad_sample": "skip", "evaluations": {}})
    trainer = trainer_of(alone)
    trainer.fit()
    assert as_ranks(2, partial(counted, run.path)) == [trainer.batches.bad_samples()] * 2


def test_data_of_which_nothing_decodes_stop_a_skipping_cell(tmp_path: Path, data: Path) -> None:
    break_clips(data, "train", 24)
    run = cell(tmp_path, data, **{"train.on_bad_sample": "skip"})
    assert run_cell(run.path) == State.FAILED
    assert "samples in a row cannot be decoded" in run.error.read_text()


def test_evaluation_counts_it_as_wrong_and_says_so(tmp_path: Path, data: Path) -> None:
    (key,) = break_clips(data, "test", 1)
    run = cell(tmp_path, data)
    assert run_cell(run.path) == State.DONE
    [gap] = [run.evaluation(one) for one in run.measured() if "shuffle_gap" in one]
    result = gap.read_result()
    assert list(result["failed"]) == ["test"] and list(result["failed"]["test"]) == [key]
    predictions = pd.read_parquet(gap.predictions)
    of_it = predictions[predictions["key"] == key]
    assert len(of_it) and (of_it["confidence"] == 0).all()
    assert all((np.asarray(top) == -1).all() for top in of_it["top5"])
    original = predictions[(predictions["view"] == "original") & (predictions["split"] == "test")]
    right = [
        top[0] == label for top, label in zip(original["top5"], original["label"], strict=True)
    ]
    frame = results_of(run)
    row = frame[
        (frame["split"] == "test")
        & (frame["view"] == "original")
        & (frame["subset"] == "all")
        & (frame["metric"] == "top1")
    ].iloc[0]
    assert row["n"] == 12 and row["n_failed"] == 1 and row["value"] == sum(right) / 12
    others = frame[
        (frame["split"] == "test_unbiased") & (frame["evaluation"] == "video.shuffle_gap")
    ]
    assert (others["n_failed"] == 0).all()


def results_of(run: RunDir) -> pd.DataFrame:
    manifest = {"sweep": "s", "scale": "smoke", "overrides": {}}
    cell_ = {"signature": run.signature, "labels": {}, "seed": 0, "data": "mini_ssv2"}
    parts = rows._cell_rows(run.path.parent, manifest, cell_, "", [])
    return pd.DataFrame([{**head, **number} for head, numbers in parts for number in numbers])


def test_data_that_mostly_do_not_decode_are_no_measurement(tmp_path: Path, data: Path) -> None:
    break_clips(data, "test", 3)
    run = cell(tmp_path, data)
    assert run_cell(run.path) == State.FAILED
    assert "of 12 samples of split test cannot be decoded" in run.error.read_text()


def test_the_replacement_is_a_function_of_the_draw(data: Path) -> None:
    break_clips(data, "train", 5)
    config = smoke_config(**{"data.frames": "video"})
    samples = open_split(config, Resources(data_dir=str(data.parent), verify="never"), "train")
    clips = loader.Clips(samples, config.input, run_seed=3, skip_bad=True)
    items = [clips[Draw(i, epoch)] for i in range(5) for epoch in range(2)]
    again = [clips[Draw(i, epoch)] for i in range(5) for epoch in range(2)]
    assert [item.key for item in items] == [item.key for item in again]
    assert len({item.key for item in items}) > 3  # not always the same one
    assert all(samples.keys[i // 2] in item.failed for i, item in enumerate(items))
    with pytest.raises(BadSample):
        loader.Clips(samples, config.input, run_seed=3)[Draw(0, 0)]


class _Uncounted(Fake):
    """Videos that are counted by decoding them, of which one does not decode."""

    classes = ("a", "b", "c")

    def num_frames(self, i: int) -> int:
        if i == 1:
            raise ValueError("k1.mp4 is broken")
        return super().num_frames(i)


@pytest.mark.parametrize("kind", [loader.Clips, loader.Crops])
def test_a_sample_that_cannot_be_counted_is_one_that_cannot_be_decoded(
    kind: type[loader.Clips],
) -> None:
    config = INPUT.model_copy(update={"eval_views": 2})
    clips = kind(_Uncounted(3), config)
    item = clips[Draw(1, 0)]
    items = [item] if kind is loader.Clips else item
    assert len(items) == (1 if kind is loader.Clips else 2)
    for each in items:
        assert each.failed == {"k1": "sample k1: k1.mp4 is broken"}
        assert each.clip_THWC.shape == (4, 8, 8, 3) and not each.clip_THWC.any()
    with pytest.raises(BadSample, match=r"k1\.mp4 is broken"):
        loader.Clips(_Uncounted(3), config, run_seed=0)[Draw(1, 0)]
    skipping = loader.Clips(_Uncounted(3), config, run_seed=0, skip_bad=True)
    assert skipping[Draw(1, 0)].failed.keys() == {"k1"}
