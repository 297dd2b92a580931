"""`python -m bench.results`: a whole archive, and results that somebody has sent."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
from damaging import damage
from makers import ROOT

from bench import find
from bench.config.science import parse
from bench.evaluate.command import main as evaluate
from bench.results.command import main
from bench.store.files import write_text
from bench.store.result_files import Kind, read_result, write_result
from bench.store.rundir import RunDir
from bench.sweep.command import main as sweep

GAP = "video.shuffle_gap"


@pytest.fixture(scope="module")
def _archive(tmp_path_factory: pytest.TempPathFactory, data_dir: Path) -> Path:
    folder = tmp_path_factory.mktemp("archive")
    text = f"""title: One cell
base: {{model.name: timesformer, evaluations: {{{GAP}: {{}}}}, objectives: {{classify: {{}}}}}}
axes: {{method: {{baseline: {{}}}}}}
"""
    write_text(folder / "one.yaml", text)
    where_data = ("--set", f"resources.data_dir={data_dir}", "--set", "resources.device=cpu")
    where = ("--scale", "smoke", "--runs", str(folder / "runs"), "--launcher", "inline")
    assert sweep([str(folder / "one.yaml"), *where, *where_data]) == 0
    [run] = (folder / "runs").glob("*/config.yaml")
    data = parse(RunDir(run.parent).read_config()).data
    shards = find.load("source", data.name).locate(data.config, data_dir)
    model = ("--model", str(run.parent), "--runs", str(folder / "runs"))
    assert evaluate([GAP, *model, "--data", str(shards), "--device", "cpu"]) == 0
    return folder / "runs"


@pytest.fixture
def archive(_archive: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(_archive, tmp_path / "runs"))


def run_of(archive: Path) -> RunDir:
    [config] = archive.glob("*/config.yaml")
    return RunDir(config.parent)


def test_a_whole_archive_is_as_written(archive: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.stat().st_mtime_ns for path in archive.rglob("*")}
    assert main(["--verify", str(archive)]) == 0
    out = capsys.readouterr().out
    assert "1 runs, 2 results, 2 checkpoints, 1 evaluated models, 1 sweeps: all as written" in out
    assert before == {path: path.stat().st_mtime_ns for path in archive.rglob("*")}


@pytest.mark.parametrize(
    "pattern",
    [
        "*/config.yaml",
        "*/metrics.jsonl",
        "*/result.json",
        "*/checkpoint/last.pt",
        "*/checkpoint/best.pt",
        "*/evaluations/*/result.json",
        "*/evaluations/*/predictions.parquet",
        "evaluated/*.json",
        "evaluated/*/predictions.parquet",
        "sweeps/*.json",
    ],
)
@pytest.mark.parametrize("kind", ["flipped", "truncated", "empty", "zeros"])
def test_every_damaged_file_is_named(
    pattern: str, kind: str, archive: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    [path] = archive.glob(pattern)
    damage(path, kind, seed=1)
    assert main(["--verify", str(archive)]) == 1
    out = capsys.readouterr().out
    assert str(path) in out and "1 problem(s)" in out


@pytest.mark.parametrize(
    ("metric", "view", "subset"),
    [
        ("top1", "original", "all"),
        ("top5", "reversed", "static"),
        ("top1_macro", "shuffled", "static"),
        ("top1_restricted", "shuffled", "temporal"),
        ("pair_top1", "shuffled", "pairs"),
    ],
)
def test_numbers_that_the_predictions_do_not_give(
    metric: str, view: str, subset: str, archive: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Written and sealed, but wrong: counted again, over all permutations."""
    [path] = archive.glob("evaluated/*.json")
    found = read_result(path, Kind.MODEL)
    assert found is not None
    place = (metric, view, subset)
    row = next(r for r in found["rows"] if (r["metric"], r["view"], r["subset"]) == place)
    row["value"] += 0.02 if row["value"] < 0.5 else -0.02
    write_result(path, Kind.MODEL, found)
    assert main(["--check", str(path)]) == 1
    assert "the result says" in capsys.readouterr().out


def test_a_result_of_other_weights_is_named(
    archive: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = run_of(archive)
    facts = run.read_result()
    assert facts is not None
    write_result(run.result, Kind.TRAINING, {**facts, "weights": "0" * 64})
    assert main(["--verify", str(archive)]) == 1
    assert "is of other weights than the run's" in capsys.readouterr().out


def test_a_result_that_was_sent_alone(
    archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    [path] = archive.glob("evaluated/*.json")
    sent = tmp_path / "sent.json"
    shutil.copy(path, sent)
    assert main(["--check", str(sent)]) == 0
    found = read_result(sent, Kind.MODEL)
    assert found is not None
    write_result(sent, Kind.MODEL, {**found, "version": 99})
    assert main(["--check", str(sent), str(path)]) == 1
    out = capsys.readouterr().out
    assert f"is of version 99 of {GAP}" in out and "2 evaluated models: 1 problem(s)" in out
    write_result(sent, Kind.MODEL, {**found, "evaluation": "video.shuffle_gab"})
    assert main(["--check", str(sent)]) == 1
    assert "video.shuffle_gap" in capsys.readouterr().out
    assert main(["--check", str(tmp_path / "no.json")]) == 1


def test_results_of_before_seals_are_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--verify", str(ROOT / "tests/fixtures/old_runs/runs")]) == 0
    assert "2 result(s) are of before there were seals" in capsys.readouterr().out


def test_wrong_use(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--verify", str(tmp_path / "nothing")]) == 2
    assert "is no folder of runs" in capsys.readouterr().err


def test_rows_that_no_measurement_gives(archive: Path, capsys: pytest.CaptureFixture[str]) -> None:
    [path] = archive.glob("evaluated/*.json")
    found = json.loads(path.read_text())
    assert pd.DataFrame(found["rows"])["value"].notna().any()
    found.pop("seal")
    found["rows"][0] |= {"metric": "top1", "value": 1.5, "subset": "x"}
    write_result(path, Kind.MODEL, found)
    assert main(["--check", str(path)]) == 1
    assert "an accuracy is from 0 to 1" in capsys.readouterr().out
    below = {"metric": "top1", "value": -0.2, "subset": "x", "view": "gap"}  # order hurts: possible
    found["rows"][0] |= below
    write_result(path, Kind.MODEL, found)
    assert main(["--check", str(path)]) == 0, capsys.readouterr().out
