"""Seeds with data of their own (`data.seed: null`): planned, averaged, and paired seed by seed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from frames import BASELINE, cell, frame, top1
from makers import ROOT

from bench import results
from bench.config.science import parse
from bench.data.sources import mini_imagenet9, mini_ssv2
from bench.grid.plan import Plan, plan
from bench.store.rundir import RunDir, State
from bench.sweep.manifest import write_manifest
from bench.sweep.status import CellStatus
from reports import splits, stats

MEASURE = stats.Measure("video.shuffle_gap", splits.REPORTED, "original")
TIME = {**BASELINE, "method": "+ TIME"}


def planned(*settings: str, sweep: str = "ablation") -> Plan:
    return plan(ROOT / f"sweeps/{sweep}.yaml", "smoke", ["seeds=[0,1,2]", *settings])


@pytest.mark.parametrize("sweep", ["ablation", "background"])
def test_a_plan_says_the_number(sweep: str) -> None:
    usual, own = planned(sweep=sweep).cells, planned("data.seed=null", sweep=sweep).cells
    for before, cell_ in zip(usual, own, strict=True):
        assert cell_.config.data.config.seed == cell_.seed == cell_.config.seed
        assert parse(cell_.config.dump()) == cell_.config
        # of seed 0 both are the same run
        assert (cell_.signature == before.signature) == (cell_.seed == 0)
    assert len({cell_.signature for cell_ in own}) == len(own)


def test_a_null_that_nobody_resolved_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="give a number"):
        mini_ssv2.prepare(mini_ssv2.Config(seed=None), tmp_path)
    with pytest.raises(ValueError, match="give a number"):
        mini_imagenet9.prepare(mini_imagenet9.Config(seed=None), tmp_path)


def test_results_know_the_seed_of_the_data(tmp_path: Path) -> None:
    for settings, seeds in (([], [0, 0, 0]), (["data.seed=null"], [0, 1, 2])):
        grid = planned(*settings)
        statuses = [
            CellStatus(cell_, RunDir(tmp_path / cell_.signature), State.NEW) for cell_ in grid.cells
        ]
        write_manifest(grid, tmp_path, statuses)
        rows = results.load(tmp_path)
        rows = rows[
            (rows["method"] == "+ TIME") & (rows["overrides"].astype(bool) == bool(settings))
        ]
        assert rows.sort_values("seed")["data_seed"].tolist() == seeds


def measured(
    values: dict[str, list[float]], *, data_seeds: list[int], digest: str = ""
) -> pd.DataFrame:
    cells = []
    for method, numbers in values.items():
        for seed, value in enumerate(numbers):
            made = {"data_seed": data_seeds[seed], "data_digest": f"d{seed}{digest}"}
            cells.append(cell(method, seed, numbers=top1(value), **made))
    return frame(*cells)


VALUES = {"baseline": [0.5, 0.6, 0.4], "+ TIME": [0.6, 0.8, 0.7]}


def test_they_are_averaged_and_paired() -> None:
    rows = measured(VALUES, data_seeds=[0, 1, 2])
    base, full = (stats.aggregate(rows, labels, MEASURE) for labels in (BASELINE, TIME))
    assert base.problem == "" and base.std == pytest.approx(np.std([50, 60, 40], ddof=1))
    assert stats.difference(full, base).values == pytest.approx((10, 20, 30))


def test_other_data_under_the_same_seed_are_not() -> None:
    untied = measured(VALUES, data_seeds=[0, 0, 0])
    assert "not averaged" in stats.aggregate(untied, BASELINE, MEASURE).problem
    again = measured({"+ TIME": VALUES["+ TIME"]}, data_seeds=[0, 1, 2], digest=" made anew")
    rows = frame(
        *[
            [dict(row)]
            for row in pd.concat(
                [measured({"baseline": VALUES["baseline"]}, data_seeds=[0, 1, 2]), again]
            ).to_dict("records")
        ]
    )
    change = stats.difference(*(stats.aggregate(rows, of, MEASURE) for of in (TIME, BASELINE)))
    assert change.mean is None and "measured on other data" in change.reason
