"""A sweep from YAML to results at smoke scale, through the real command line; cells in real processes
where that is what is proven.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from makers import ROOT

from bench import results
from bench.config import signature as identity
from bench.grid.plan import plan
from bench.run.command import main as bench_run
from bench.store.config_file import write_config
from bench.store.files import load_yaml, read_json
from bench.store.rundir import RunDir, State
from bench.sweep.command import main
from bench.sweep.status import read_statuses

ABLATION = ROOT / "sweeps/ablation.yaml"


def arguments(runs: Path, data_dir: Path, *more: str, file: Path = ABLATION) -> list[str]:
    places = ["--set", f"resources.data_dir={data_dir}", "--set", "resources.device=cpu"]
    return [str(file), "--scale", "smoke", "--runs", str(runs), *places, *more]


def command(runs: Path, data_dir: Path, *more: str, file: Path = ABLATION) -> list[str]:
    return [sys.executable, "-m", "bench.sweep", *arguments(runs, data_dir, *more, file=file)]


def sweep(
    runs: Path, data_dir: Path, *more: str, file: Path = ABLATION
) -> subprocess.CompletedProcess[str]:
    """A client in a process of its own, as users start it."""
    return subprocess.run(
        command(runs, data_dir, *more, file=file),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def here(runs: Path, data_dir: Path, *more: str, file: Path = ABLATION) -> int:
    """A client in this process."""
    return main(arguments(runs, data_dir, *more, file=file))


def rows(runs: Path) -> pd.DataFrame:
    frame = results.load(runs)
    keys = ["backbone", "method", "seed", "evaluation", "split", "view", "subset", "metric"]
    frame = frame[[*keys, "value", "n", "state"]].astype(dict.fromkeys((*keys, "state"), object))
    return frame.sort_values(keys).reset_index(drop=True)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, data_dir: Path) -> Path:
    """All cells of the ablation, in this process."""
    runs = tmp_path_factory.mktemp("sweep") / "runs"
    assert here(runs, data_dir, "--launcher", "inline") == 0
    return runs


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    """The finished runs, to be damaged."""
    return shutil.copytree(finished, tmp_path / "runs", ignore=shutil.ignore_patterns(".jobs"))


def test_the_second_launch_starts_nothing_and_rewrites_nothing(
    finished: Path, data_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {p: p.stat().st_mtime_ns for p in finished.glob("*/*") if p.parent.name != "sweeps"}
    assert here(finished, data_dir) == 0
    assert "launching 0 cells" in capsys.readouterr().out
    assert before == {
        p: p.stat().st_mtime_ns for p in finished.glob("*/*") if p.parent.name != "sweeps"
    }


def test_a_run_directory_holds_what_the_design_says(finished: Path) -> None:
    for run in (RunDir(p.parent) for p in finished.glob("*/result.json")):
        for path in (
            run.config,
            run.env,
            run.metrics,
            run.last,
            run.log,
            run.result,
        ):
            assert path.stat().st_size > 0, path
        assert not run.error.exists() and not run.progress.exists()
        env = read_json(run.env)
        assert env and len(env["data_digest"]) == 64 and env["versions"]["torch"]
        assert run.measured() == set(run.read_asked() or ())
        [gap] = [run.evaluation(one) for one in run.measured() if "shuffle_gap" in one]
        predictions = pd.read_parquet(gap.predictions)
        assert {"key", "label", "top5", "confidence", "view", "split"} <= set(predictions.columns)
        original = predictions[
            (predictions["split"] == "test") & (predictions["view"] == "original")
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
    assert set(gap["split"]) == {"tune", "test", "test_unbiased"}
    probe = frame[frame["evaluation"] == "video.order_probe"]
    assert set(probe["subset"]) == {"layer_00", "layer_01", "layer_02"}


def test_predictions_rebuild_the_reported_accuracy(finished: Path) -> None:
    frame = results.load(finished)
    gaps = frame[frame["evaluation"] == "video.shuffle_gap"]
    for run_dir, group in gaps.groupby("run_dir"):
        predictions = results.predictions(str(run_dir))
        chosen = predictions[(predictions["split"] == "test") & (predictions["view"] == "original")]
        top1 = (chosen["top5"].str[0] == chosen["label"]).mean()
        row = group.query(
            "split == 'test' and view == 'original' and metric == 'top1' and subset == 'all'"
        )
        assert row["value"].item() == pytest.approx(top1)


@pytest.mark.parametrize(
    "chosen",
    [pytest.param(["+ TIME"], id="one"), pytest.param(None, id="all", marks=pytest.mark.slow)],
)
def test_processes_give_the_same_numbers(
    chosen: list[str] | None, finished: Path, data_dir: Path, tmp_path: Path
) -> None:
    """As users start it: a client of its own, whose local launcher starts a process per cell."""
    path, runs = ABLATION, tmp_path / "runs"
    here_alone = rows(finished)
    if chosen:
        document = load_yaml(ABLATION)
        methods = document["axes"]["method"]
        document["axes"]["method"] = {name: methods[name] for name in chosen}
        path = with_scale(tmp_path, document, "ablation.yaml")
        here_alone = here_alone[here_alone["method"].isin(chosen)].reset_index(drop=True)
    done = sweep(runs, data_dir, file=path)
    assert done.returncode == 0, done.stdout + done.stderr
    count = len(chosen or range(4))  # + flow is left out
    assert f"launching {count} cells" in done.stdout and f"{count} DONE" in done.stdout
    pd.testing.assert_frame_equal(here_alone, rows(runs))


def test_plan_and_status_touch_nothing(
    finished: Path, data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert here(tmp_path / "none", tmp_path / "no data", "--plan") == 0
    assert "4 NEW, 1 SKIPPED" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []
    assert here(finished, data_dir, "--status") == 0
    assert "4 DONE, 1 SKIPPED" in capsys.readouterr().out


def test_paper_scale_plans_without_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    start = [str(ABLATION), "--scale", "paper", "--runs", str(tmp_path / "runs")]
    assert main([*start, "--plan"]) == 0
    out = capsys.readouterr().out
    assert "15 NEW" in out and "python -m bench.prepare ssv2" in " ".join(out.split())
    assert main(start) == 2
    assert "bench.prepare ssv2" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


# -- failures ---


def small_sweep(folder: Path, cells: dict[str, Any]) -> Path:
    """The ablation with other cells, at smoke scale."""
    document = load_yaml(ABLATION)
    document["axes"] = {"cell": cells}
    document["base"]["model.name"] = "timesformer"
    document["base"]["evaluations"] = {"video.shuffle_gap": {}}
    return with_scale(folder, document, "small.yaml")


def with_scale(folder: Path, document: dict[str, Any], name: str) -> Path:
    """A file of this sweep beside the smoke scale."""
    (folder / "scales").mkdir()
    (folder / "scales/smoke.yaml").write_text((ROOT / "sweeps/scales/smoke.yaml").read_text())
    path = folder / name
    path.write_text(json.dumps(document))
    return path


MAD = {"objectives.classify.weight": 1e39}  # the loss is infinite


def test_one_failing_cell_is_shown_and_stops_no_other(
    tmp_path: Path, data_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = small_sweep(tmp_path, {"mad": MAD, "fine": {}})
    runs = tmp_path / "runs"
    assert here(runs, data_dir, file=path) == 1
    out = capsys.readouterr().out
    assert "1 DONE, 1 FAILED (1 BUG)" in out
    assert "loss is not finite at step" in out and "error.txt" in out and "log.txt" in out
    assert here(runs, data_dir, "--status", file=path) == 0
    assert "NonFiniteLoss" in capsys.readouterr().out
    frame = results.load(runs)
    hole = frame[frame["cell"] == "mad"]
    assert len(hole) == 1 and hole["state"].item() == "FAILED" and hole["value"].isna().all()
    assert "not finite" in hole["reason"].item()
    # The same code with the same settings would fail again.
    assert here(runs, data_dir, "--retry", file=path) == 1
    out = capsys.readouterr().out
    assert "launching 0 cells" in out and "the same code would fail again" in out
    inline = ("--retry", "--launcher", "inline", "--set", "resources.micro_batch=4")
    assert here(runs, data_dir, *inline, file=path) == 1
    assert "launching 1 cells" in capsys.readouterr().out


TWO = {"baseline": {}, "+ order": {"objectives": {"video.order": {}}}}
LONG = ("--set", "train.epochs=20", "--set", "resources.checkpoint_steps=1")
NUMBERS = ["signature", "evaluation", "split", "view", "subset", "metric", "value", "n"]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, data_dir: Path) -> pd.DataFrame:
    """The numbers of TWO cells that nothing happened to."""
    folder = tmp_path_factory.mktemp("undisturbed")
    path, runs = small_sweep(folder, TWO), folder / "runs"
    assert here(runs, data_dir, *LONG, "--launcher", "inline", file=path) == 0
    return results.load(runs)[NUMBERS]


@pytest.mark.slow
def test_a_killed_cell_is_failed_and_goes_on(
    tmp_path: Path, data_dir: Path, undisturbed: pd.DataFrame, capsys: pytest.CaptureFixture[str]
) -> None:
    """SIGKILL of one cell's process: it is FAILED with a reason, --retry repairs it."""
    path, runs = small_sweep(tmp_path, TWO), tmp_path / "runs"
    start = command(runs, data_dir, *LONG, file=path)
    with subprocess.Popen(start, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        victim = wait_for_checkpoint(runs)
        os.kill(cell_pid(victim), signal.SIGKILL)
        out = process.communicate(timeout=200)[0]
    assert process.returncode == 1 and "1 DONE, 1 FAILED (1 KILLED)" in out, out
    assert "SIGKILL" in victim.error.read_text()
    assert here(runs, data_dir, *LONG, "--retry", "--launcher", "inline", file=path) == 0
    assert "launching 1 cells" in capsys.readouterr().out
    pd.testing.assert_frame_equal(results.load(runs)[NUMBERS], undisturbed)


@pytest.mark.slow
def test_a_killed_sweep_is_taken_over(
    tmp_path: Path, data_dir: Path, undisturbed: pd.DataFrame, capsys: pytest.CaptureFixture[str]
) -> None:
    """SIGKILL of the sweep while cells run: the next call waits for those and runs the rest."""
    path, runs = small_sweep(tmp_path, TWO), tmp_path / "runs"
    with subprocess.Popen(
        command(runs, data_dir, *LONG, file=path), cwd=ROOT, stdout=subprocess.DEVNULL
    ) as process:
        wait_for_checkpoint(runs)
        os.kill(process.pid, signal.SIGKILL)
    assert here(runs, data_dir, *LONG, file=path) == 0
    out = capsys.readouterr().out
    assert "queued or running already" in out and out.endswith("2 DONE\n")
    assert all(
        RunDir(p.parent).log.read_text().count(" start ") == 1 for p in runs.glob("*/log.txt")
    )
    pd.testing.assert_frame_equal(results.load(runs)[NUMBERS], undisturbed)


@pytest.mark.slow
def test_cancelled_cells_go_on_as_if_nothing_had_happened(
    tmp_path: Path, data_dir: Path, undisturbed: pd.DataFrame, capsys: pytest.CaptureFixture[str]
) -> None:
    """--cancel from another shell: the client ends, cells are PREEMPTED with their checkpoints."""
    path, runs = small_sweep(tmp_path, TWO), tmp_path / "runs"
    with subprocess.Popen(command(runs, data_dir, *LONG, file=path), cwd=ROOT) as process:
        stopped = wait_for_checkpoint(runs)
        assert here(runs, data_dir, *LONG, "--cancel", file=path) == 0
        assert process.wait(120) == 130
    assert "told" in capsys.readouterr().out
    assert stopped.state() == State.PREEMPTED and not stopped.error.exists()
    assert here(runs, data_dir, *LONG, "--launcher", "inline", file=path) == 0
    assert capsys.readouterr().out.endswith("2 DONE\n")
    assert stopped.log.read_text().count(" start ") == 2
    pd.testing.assert_frame_equal(results.load(runs)[NUMBERS], undisturbed)


def wait_for_checkpoint(runs: Path) -> RunDir:
    deadline = time.monotonic() + 120
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


def test_a_changed_default_is_stale_not_reused(tmp_path: Path) -> None:
    cell = plan(ABLATION, "smoke").cells[0]
    run = RunDir(tmp_path / cell.signature)
    stored: dict[str, Any] = cell.config.dump_training()
    stored["train"]["gamma"] = 0.5
    run.create(stored, {}, identity.digest(stored))
    run.result.write_text('{"data_digest": ""}')
    (found,) = read_statuses(tmp_path, [cell])
    assert found.state == State.STALE and "train.gamma was 0.5, is now 0.1" in found.note


def test_a_stale_run_is_a_hole_in_the_results(
    copied: Path, data_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = next(copied.glob("*/config.yaml"))
    stored = load_yaml(config)
    assert stored["train"]["gamma"] == 0.1
    stored["train"]["gamma"] = 0.5
    write_config(config, identity.digest(stored), stored)
    assert here(copied, data_dir) == 1
    assert "train.gamma was 0.5, is now 0.1" in capsys.readouterr().out
    frame = results.load(copied).query("signature == @config.parent.name")
    assert frame["state"].tolist() == ["STALE"] and frame["value"].isna().all()


def test_an_edited_config_is_not_obeyed(
    copied: Path, data_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = next(copied.glob("*/config.yaml"))
    config.write_text(config.read_text().replace("lr: 0.001", "lr: 0.5"))
    assert here(copied, data_dir, "--status") == 0
    shown = " ".join(re.sub("[│┃]", " ", capsys.readouterr().out).split())
    assert "1 EDITED" in shown and "train.lr was 0.5, is now 0.001" in shown
    assert here(copied, data_dir) == 1
    assert "not again: EDITED" in capsys.readouterr().out
    assert bench_run([str(config.parent)]) == 2
    assert "it was edited or damaged" in capsys.readouterr().err
    rows = results.load(copied).query("signature == @config.parent.name")
    assert rows["state"].tolist() == ["EDITED"] and rows["value"].isna().all()
    assert here(copied, data_dir, "--force", "--launcher", "inline") == 0
    assert load_yaml(config)["train"]["lr"] == 0.001


def test_a_directory_that_was_renamed_is_not_run(
    copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = next(copied.glob("*/config.yaml")).parent
    other = run.rename(run.with_name("my-best-run"))
    (other / "result.json").unlink()
    assert bench_run([str(other)]) == 2
    err = capsys.readouterr().err
    assert run.name in err and "the directory renamed" in err


def test_force_leaves_running_cells_alone(
    copied: Path, data_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = RunDir(next(copied.glob("*/config.yaml")).parent)
    run.result.unlink()
    with run.hold():
        assert here(copied, data_dir, "--force") == 2
    assert "stop them first" in capsys.readouterr().err
    assert run.config.exists() and not (copied / "replaced").exists()


def test_force_moves_the_old_run_aside(data_dir: Path, tmp_path: Path) -> None:
    path, runs = small_sweep(tmp_path, {"fine": {}}), tmp_path / "runs"
    assert here(runs, data_dir, "--launcher", "inline", file=path) == 0
    before = results.load(runs)["value"].tolist()
    assert here(runs, data_dir, "--launcher", "inline", "--force", file=path) == 0
    assert len(list((runs / "replaced").iterdir())) == 1
    assert results.load(runs)["value"].tolist() == before
