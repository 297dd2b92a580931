"""The order of an epoch: a permutation, pure in (seed, epoch), and how well it mixes."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from makers import ROOT, make_run, smoke_config, trainer_of

from bench.data.order import Order, shuffling_quality
from bench.train.batches import epoch_order


def shards_of(length: int, count: int) -> np.ndarray:
    return (np.arange(length) * count // length).astype(np.int32)


@given(st.integers(1, 300), st.integers(1, 17), st.integers(1, 400), st.integers(0, 5))
@settings(deadline=None)
def test_every_sample_comes_once(length: int, count: int, buffer: int, epoch: int) -> None:
    order = Order(1, length, shards=shards_of(length, min(count, length)), buffer=buffer)
    drawn = order(epoch)
    assert sorted(drawn) == list(range(length))
    again = Order(1, length, shards=shards_of(length, min(count, length)), buffer=buffer)
    again(epoch + 1)
    assert np.array_equal(again(epoch), drawn)


def test_another_process_draws_the_same() -> None:
    code = (
        "import numpy as np; from bench.data.order import Order;"
        "print(Order(3, 40, shards=np.arange(40) // 10, buffer=7)(2).tolist())"
    )
    told = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert told.stdout.strip() == str(
        Order(3, 40, shards=np.arange(40) // 10, buffer=7)(2).tolist()
    )


def test_epochs_and_seeds_differ() -> None:
    shards = shards_of(100, 10)
    drawn = {
        tuple(Order(seed, 100, shards=shards, buffer=30)(epoch))
        for seed in (0, 1)
        for epoch in (0, 1)
    }
    assert len(drawn) == 4


def test_a_shard_is_read_within_the_reach_of_the_buffer() -> None:
    """What is drawn lies at most so many samples back in reading order as the buffer holds."""
    shards = shards_of(1000, 10)
    order = Order(0, 1000, shards=shards, buffer=50)(0)
    opened = sorted(int(np.flatnonzero(shards[order] == shard)[0]) for shard in range(10))
    assert all(100 * k - 50 <= n < 100 * (k + 1) for k, n in enumerate(opened))


def test_quality_is_that_of_a_permutation_where_shards_are_mixed() -> None:
    labels = np.random.default_rng(0).integers(0, 174, 20_000)
    order = Order(0, 20_000, shards=shards_of(20_000, 20), buffer=2000)(0)
    assert shuffling_quality(order, labels, 64) > 0.98
    ordered = np.sort(labels)  # shards sorted by class
    assert shuffling_quality(order, ordered, 64) < 0.7
    assert shuffling_quality(Order(0, 20_000)(0), ordered, 64) > 0.98


def test_a_badly_mixed_order_is_reported(
    tmp_path: Path, data_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = smoke_config(**{"train.shuffle": "shards", "train.shuffle_buffer": 1})
    trainer = trainer_of(make_run(tmp_path, config, data_dir))
    trainer.batches.samples.labels = np.repeat(np.arange(3), 8)  # type: ignore[misc]
    caplog.clear()
    with caplog.at_level(logging.INFO, "bench"):
        epoch_order(config, trainer.batches.samples)
    (record,) = (r for r in caplog.records if "train.shuffle" in r.message)
    assert record.levelno == logging.WARNING and "% of the classes" in record.message
