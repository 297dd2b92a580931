"""`bench.speed report`: its runs are such as the report reads, and what it measures is the command."""

from __future__ import annotations

import json
from pathlib import Path

from bench import results
from bench.results.verify import verify
from bench.speed import report
from bench.speed.command import main


def test_its_runs_are_finished_runs_as_they_lie_on_disk(tmp_path: Path) -> None:
    count = report.make_runs(tmp_path, report.PER_RATE + 5)
    assert not verify(tmp_path).problems
    frame = results.load(tmp_path)
    assert len(frame) == count and set(frame["state"]) == {"DONE"}
    assert frame["signature"].nunique() == report.PER_RATE + 5
    assert set(frame["sweep"]) == {"ablation", "rates"} and frame["value"].notna().all()


def test_the_second_build_does_next_to_nothing(tmp_path: Path) -> None:
    assert main(["report", "--runs", "2", "--out", str(tmp_path / "rows.json")]) == 0
    first, second = json.loads((tmp_path / "rows.json").read_text())["rows"]
    assert (first["build"], second["build"]) == ("first", "second")
    assert second["peak"] < first["peak"] / 2  # neither pandas nor matplotlib


def test_a_wrong_number_of_runs_is_refused() -> None:
    assert main(["report", "--runs", "-1"]) == 2
