"""The sink `tensorboard`: its event files, read back by TensorBoard's own reader."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from trackers import points_of, scalars_of

from bench.export import command
from bench.store.rundir import RunDir

accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    read = accumulator.EventAccumulator(str(folder))
    read.Reload()
    tags = read.Tags()["scalars"]
    return {tag: [(event.step, event.value) for event in read.Scalars(tag)] for tag in tags}


def test_it_holds_every_step_and_row_once(
    run: RunDir, metrics: list[dict[str, Any]], tmp_path: Path
) -> None:
    for _ in range(2):
        assert command.main(["tensorboard", str(run.path), "--out", str(tmp_path)]) == 0
    points = [(name, metrics[-1]["step"], value) for name, value in scalars_of(run).items()]
    wanted: dict[str, list[tuple[int, float]]] = {}
    for name, step, value in [*points_of(metrics), *points]:
        wanted.setdefault(name, []).append((step, np.float32(value)))
    assert scalars(tmp_path / run.signature) == wanted
    assert len(wanted["loss"]) == 6 and len(wanted["val/top1"]) == 2


def test_runs_stand_beside_each_other(run: RunDir, evaluated: list[Path], tmp_path: Path) -> None:
    given = [str(run.path), *map(str, evaluated)]
    assert command.main(["tensorboard", *given, "--out", str(tmp_path)]) == 0
    own, other = sorted(tmp_path.iterdir())
    assert own.name == run.signature and "loss" in scalars(own)
    assert {name.split("/")[0] for name in scalars(other)} == {
        "video.arrow_of_time", "video.shuffle_gap",
    }  # fmt: skip
