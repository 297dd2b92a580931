"""A sweep from YAML to results at smoke scale, through the real command line and real processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from bench import identity, results
from bench.grid import plan
from bench.rundir import RunDir, State, load_yaml, read_json
from bench.sweep import standing

ROOT = Path(__file__).resolve().parent.parent
ABLATION = ROOT / "sweeps/ablation.yaml"


def sweep(
    runs: Path, data_dir: Path, *more: str, file: Path = ABLATION
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(runs, data_dir, *more, file=file),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def command(runs: Path, data_dir: Path, *more: str, file: Path = ABLATION) -> list[str]:
    start = [
        sys.executable,
        "-m",
        "bench.sweep",
        str(file),
        "--scale",
        "smoke",
        "--runs",
        str(runs),
    ]
    return [
        *start,
        "--set",
        f"resources.data_dir={data_dir}",
        "--set",
        "resources.device=cpu",
        *more,
    ]


def rows(runs: Path) -> pd.DataFrame:
    frame = results.load(runs)
    keys = ["backbone", "method", "seed", "evaluation", "split", "view", "subset", "metric"]
    return frame[[*keys, "value", "n", "state"]].sort_values(keys).reset_index(drop=True)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, data_dir: Path) -> Path:
    runs = tmp_path_factory.mktemp("sweep") / "runs"
    done = sweep(runs, data_dir)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "launching 5 cells" in done.stdout and "5 DONE" in done.stdout
    return runs


def test_the_second_launch_starts_nothing_and_rewrites_nothing(
    finished: Path, data_dir: Path
) -> None:
    before = {p: p.stat().st_mtime_ns for p in finished.glob("*/*") if p.parent.name != "sweeps"}
    again = sweep(finished, data_dir)
    assert again.returncode == 0 and "launching 0 cells" in again.stdout
    assert before == {
        p: p.stat().st_mtime_ns for p in finished.glob("*/*") if p.parent.name != "sweeps"
    }


def test_a_run_directory_holds_what_the_design_says(finished: Path) -> None:
    for run in (RunDir(p.parent) for p in finished.glob("*/result.json")):
        for path in (
            run.config,
            run.env,
            run.metrics,
            run.predictions,
            run.last,
            run.log,
            run.result,
        ):
            assert path.stat().st_size > 0, path
        assert not run.error.exists() and not run.progress.exists()
        env = read_json(run.env)
        assert env and len(env["data_digest"]) == 64 and env["versions"]["torch"]
        predictions = pd.read_parquet(run.predictions)
        assert {"key", "label", "top5", "confidence", "view", "split"} <= set(predictions.columns)
        original = predictions[
            (predictions["split"] == "val") & (predictions["view"] == "original")
        ]
        assert original["key"].is_unique and len(original) == 12


def test_the_long_frame_has_every_number_once(finished: Path) -> None:
    frame = rows(finished)
    assert not frame.duplicated(
        ["method", "seed", "evaluation", "split", "view", "subset", "metric"]
    ).any()
    assert set(frame["method"]) == {"baseline", "+ order", "+ debias", "+ flow", "+ TIME"}
    gap = frame[
        (frame["evaluation"] == "video.shuffle_gap")
        & (frame["subset"] == "all")
        & (frame["metric"] == "top1")
    ]
    wide = gap.pivot_table(index=["method", "split"], columns="view", values="value")
    assert ((wide["original"] - wide["shuffled"] - wide["gap"]).abs() < 1e-12).all()
    assert set(gap["split"]) == {"val", "val_unbiased"}
    probe = frame[frame["evaluation"] == "video.order_probe"]
    assert set(probe["subset"]) == {"layer_00", "layer_01", "layer_02"}


def test_predictions_rebuild_the_reported_accuracy(finished: Path) -> None:
    frame = results.load(finished)
    for signature, group in frame.groupby("signature"):
        predictions = pd.read_parquet(RunDir(finished / str(signature)).predictions)
        chosen = predictions[(predictions["split"] == "val") & (predictions["view"] == "original")]
        top1 = (chosen["top5"].str[0] == chosen["label"]).mean()
        row = group.query(
            "split == 'val' and view == 'original' and metric == 'top1' and subset == 'all'"
        )
        assert row["value"].item() == pytest.approx(top1)


def test_inline_gives_the_same_numbers(finished: Path, data_dir: Path, tmp_path: Path) -> None:
    done = sweep(tmp_path / "runs", data_dir, "--launcher", "inline")
    assert done.returncode == 0, done.stderr
    pd.testing.assert_frame_equal(rows(finished), rows(tmp_path / "runs"))


def test_plan_and_status_touch_nothing(finished: Path, data_dir: Path, tmp_path: Path) -> None:
    planned = sweep(tmp_path / "none", tmp_path / "no data", "--plan")
    assert planned.returncode == 0 and "5 NEW" in planned.stdout
    assert list(tmp_path.iterdir()) == []
    status = sweep(finished, data_dir, "--status")
    assert status.returncode == 0 and "5 DONE" in status.stdout


def test_paper_scale_plans_without_data(tmp_path: Path) -> None:
    start = [sys.executable, "-m", "bench.sweep", str(ABLATION), "--scale", "paper", "--plan"]
    done = subprocess.run(
        [*start, "--runs", str(tmp_path / "runs")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0 and "15 NEW" in done.stdout
    assert "python -m bench.prepare ssv2" in " ".join(done.stdout.split())
    assert list(tmp_path.iterdir()) == []
    launched = subprocess.run(
        [*start[:-1], "--runs", str(tmp_path / "runs")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert launched.returncode == 2 and "bench.prepare ssv2" in launched.stderr
    assert list(tmp_path.iterdir()) == []


# -- failures ---


def small_sweep(folder: Path, cells: dict[str, Any]) -> Path:
    """The ablation with other cells, at smoke scale."""
    document = load_yaml(ABLATION)
    document["axes"] = {"cell": cells}
    document["base"]["model.name"] = "timesformer"
    document["base"]["evaluations"] = {"video.shuffle_gap": {}}
    (folder / "scales").mkdir()
    (folder / "scales/smoke.yaml").write_text((ROOT / "sweeps/scales/smoke.yaml").read_text())
    path = folder / "small.yaml"
    path.write_text(json.dumps(document))
    return path


MAD = {"train.lr": 1e30, "train.schedule": "step"}  # the loss becomes infinite


def test_one_failing_cell_is_shown_and_stops_no_other(tmp_path: Path, data_dir: Path) -> None:
    path = small_sweep(tmp_path, {"fine": {}, "mad": MAD, "small": {"train.lr": 1e-5}})
    runs = tmp_path / "runs"
    done = sweep(runs, data_dir, file=path)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "2 DONE, 1 FAILED" in done.stdout
    assert (
        "loss is not finite at step" in done.stdout
        and "error.txt" in done.stdout
        and "log.txt" in done.stdout
    )
    assert "NonFiniteLoss" in sweep(runs, data_dir, "--status", file=path).stdout
    frame = results.load(runs)
    hole = frame[frame["cell"] == "mad"]
    assert len(hole) == 1 and hole["state"].item() == "FAILED" and hole["value"].isna().all()
    assert "not finite" in hole["reason"].item()
    again = sweep(runs, data_dir, "--retry", file=path)
    assert again.returncode == 1 and "launching 1 cells" in again.stdout


THREE = {
    "baseline": {},
    "+ order": {"objectives": {"video.order": {}}},
    "+ debias": {"objectives": {"video.debias": {}}},
}
LONG = ("--set", "train.epochs=40", "--set", "resources.checkpoint_steps=1")


def test_a_killed_cell_is_failed_and_goes_on(tmp_path: Path, data_dir: Path) -> None:
    """SIGKILL of one cell's process: it is FAILED with a reason, the same command repairs it."""
    path, runs = small_sweep(tmp_path, THREE), tmp_path / "runs"
    start = command(runs, data_dir, *LONG, file=path)
    with subprocess.Popen(start, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        victim = wait_for_checkpoint(runs)
        os.kill(cell_pid(victim), signal.SIGKILL)
        out = process.communicate(timeout=200)[0]
    assert process.returncode == 1 and "2 DONE, 1 FAILED" in out, out
    assert "ended without a result" in victim.error_line()
    again = sweep(runs, data_dir, *LONG, file=path)
    assert again.returncode == 0 and "launching 1 cells" in again.stdout


def test_a_killed_sweep_is_taken_over(tmp_path: Path, data_dir: Path) -> None:
    """SIGKILL of the sweep while cells run: the next call waits for those and runs the rest."""
    path, runs = small_sweep(tmp_path, THREE), tmp_path / "runs"
    start = command(runs, data_dir, *LONG, file=path)
    with subprocess.Popen(start, cwd=ROOT, stdout=subprocess.DEVNULL) as process:
        wait_for_checkpoint(runs)
        os.kill(process.pid, signal.SIGKILL)
    again = sweep(runs, data_dir, *LONG, file=path)
    assert again.returncode == 0 and "3 DONE" in again.stdout, again.stdout + again.stderr
    assert all(
        RunDir(p.parent).log.read_text().count(" start ") == 1 for p in runs.glob("*/log.txt")
    )
    reference = tmp_path / "reference"
    assert sweep(reference, data_dir, *LONG, "--launcher", "inline", file=path).returncode == 0
    numbers = ["signature", "evaluation", "split", "view", "subset", "metric", "value", "n"]
    pd.testing.assert_frame_equal(results.load(runs)[numbers], results.load(reference)[numbers])


def wait_for_checkpoint(runs: Path) -> RunDir:
    deadline = time.monotonic() + 100
    while time.monotonic() < deadline:
        for path in runs.glob("*/checkpoint/last.pt"):
            run = RunDir(path.parent.parent)
            if run.is_locked() and run.env.exists():
                return run
        time.sleep(0.01)
    raise AssertionError("no cell started")


def cell_pid(run: RunDir) -> int:
    env = read_json(run.env)
    assert env is not None
    return int(env["pid"])


# -- states ---


def test_a_changed_default_is_stale_not_reused(finished: Path, tmp_path: Path) -> None:
    cell = plan(ABLATION, "smoke").cells[0]
    run = RunDir(tmp_path / cell.signature)
    stored: dict[str, Any] = cell.config.dump()
    stored["train"]["gamma"] = 0.5
    run.create(stored, {}, identity.digest(stored))
    run.result.write_text("{}")
    found = standing(tmp_path, cell)
    assert found.state == State.STALE and "train.gamma was 0.5, is now 0.1" in found.note


def test_a_stale_run_is_a_hole_in_the_results(data_dir: Path, tmp_path: Path) -> None:
    path, runs = small_sweep(tmp_path, {"fine": {}}), tmp_path / "runs"
    assert sweep(runs, data_dir, file=path).returncode == 0
    config = next(runs.glob("*/config.yaml"))
    text = config.read_text()
    digest, rest = text.split("\n", 1)
    assert "gamma: 0.1" in rest
    config.write_text(f"{digest[:-3]}000\n{rest.replace('gamma: 0.1', 'gamma: 0.5')}")
    again = sweep(runs, data_dir, file=path)
    assert again.returncode == 1 and "train.gamma was 0.5, is now 0.1" in again.stdout
    frame = results.load(runs)
    assert frame["state"].tolist() == ["STALE"] and frame["value"].isna().all()


def test_force_leaves_running_cells_alone(data_dir: Path, tmp_path: Path) -> None:
    path, runs = small_sweep(tmp_path, {"fine": {}}), tmp_path / "runs"
    assert sweep(runs, data_dir, file=path).returncode == 0
    run = RunDir(next(runs.glob("*/config.yaml")).parent)
    run.result.unlink()
    with run.hold():
        refused = sweep(runs, data_dir, "--force", file=path)
    assert refused.returncode == 2 and "stop them first" in refused.stderr
    assert run.config.exists() and not (runs / "replaced").exists()


def test_force_moves_the_old_run_aside(data_dir: Path, tmp_path: Path) -> None:
    path, runs = small_sweep(tmp_path, {"fine": {}}), tmp_path / "runs"
    assert sweep(runs, data_dir, file=path).returncode == 0
    before = results.load(runs)["value"].tolist()
    assert sweep(runs, data_dir, "--force", file=path).returncode == 0
    assert len(list((runs / "replaced").iterdir())) == 1
    assert results.load(runs)["value"].tolist() == before
