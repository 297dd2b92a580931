"""Runs of an earlier version of the code (commit 384f6d8, before bench/ had rooms) stay valid: what is
done is not run again, what was stopped goes on, and the report shows it.

Their data, mini_ssv2 VERSION 1 with the splits `val` and `val_unbiased`, are no longer made: the fixture names
VERSION 2 in configs and directories; everything else, rows and weights too, is as it was written then.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from makers import ROOT

from bench import results
from bench.store.rundir import RunDir, State
from bench.sweep.command import main
from reports import build
from tasks.video import flow, shuffle_gap

OLD = ROOT / "tests/fixtures/old_runs"
LONG = ("--set", "train.epochs=40")  # of the cell that was stopped


@pytest.fixture(autouse=True)
def _as_it_was_then(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flow, "SMALLEST", 0)
    monkeypatch.setattr(shuffle_gap, "VERSION", 1)


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    return Path(shutil.copytree(OLD / "runs", tmp_path / "runs"))


def sweep(runs: Path, data_dir: Path, *more: str) -> int:
    where = ("--runs", str(runs), "--set", f"resources.data_dir={data_dir}")
    return main([str(OLD / "old.yaml"), "--scale", "smoke", "--launcher", "inline", *where, *more])


def test_done_is_done(runs: Path, data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.stat().st_mtime_ns for path in runs.glob("*/*")}
    assert sweep(runs, data_dir) == 0
    assert "2 DONE; launching 0 cells" in capsys.readouterr().out
    after = {path: path.stat().st_mtime_ns for path in runs.glob("*/*")}
    assert {path for path in after if before.get(path) != after[path]} == {
        runs / "sweeps/old-smoke.json"
    }


def test_a_later_version_of_an_evaluation_trains_nothing_again(
    runs: Path, data_dir: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shuffle_gap, "VERSION", 2)
    assert sweep(runs, data_dir) == 1
    out = capsys.readouterr().out
    assert "2 TRAINED; launching 0 cells" in out and out.count("kept no weights") == 2


@pytest.mark.slow
def test_what_was_stopped_goes_on(runs: Path, data_dir: Path) -> None:
    run = RunDir(runs / "c2175aa25f9ffb96")
    stopped = run.read_outcome()["step"]
    assert run.state() == State.PREEMPTED and stopped == 24
    assert sweep(runs, data_dir, *LONG) == 0
    assert run.state() == State.DONE
    assert [start["step"] for start in run.read_starts()] == [0, stopped]
    steps = [json.loads(line)["step"] for line in run.metrics.read_text().splitlines()]
    assert steps == sorted(steps) and steps[-1] == 120


def test_the_report_shows_them(runs: Path, tmp_path: Path) -> None:
    frame = results.load(runs)
    done = frame[frame["state"] == State.DONE]
    assert set(done["signature"]) == {"0094dbc920555cda", "b9546d10603b9974"}
    arguments = ["--runs", str(runs), "--out", str(tmp_path / "out")]
    assert build.main(arguments) == 0
    page = (tmp_path / "out/index.html").read_text()
    top1 = done.query(
        "split == 'val' and view == 'original' and subset == 'all' and metric == 'top1'"
    )
    for value in top1["value"]:
        assert f"{100 * value:.1f}" in page
    predicted = results.predictions(runs / "b9546d10603b9974")
    assert set(predicted["view"]) >= {"original", "shuffled_3"}
