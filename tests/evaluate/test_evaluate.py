"""`python -m bench.evaluate` on a run and on a checkpoint in the released layout, and its messages."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from makers import ROOT, make_run

from bench import find
from bench.evaluate import command as evaluate
from bench.grid.plan import Cell, plan
from bench.run.cell import run_cell
from bench.store.rundir import RunDir, State
from bench.train import checkpoint

SWEEPS = {"video": "ablation", "image": "background"}


def first_cell(media: str) -> Cell:
    return plan(ROOT / f"sweeps/{SWEEPS[media]}.yaml", "smoke").cells[0]


def trained(media: str, runs: Path, data_dir: Path) -> RunDir:
    cell = first_cell(media)
    run = make_run(runs, cell.config, data_dir)
    assert run_cell(run.path) == State.DONE
    return run


def located(media: str, data_dir: Path) -> Path:
    config = first_cell(media).config.data
    return find.load("source", config.name).locate(config.config, data_dir)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, data_dir: Path) -> dict[str, RunDir]:
    """A baseline of each medium."""
    folder = tmp_path_factory.mktemp("runs")
    return {media: trained(media, folder, data_dir) for media in SWEEPS}


@pytest.fixture(scope="module")
def baseline(runs: dict[str, RunDir]) -> RunDir:
    return runs["video"]


@pytest.fixture(scope="module")
def shards(data_dir: Path) -> Path:
    return located("video", data_dir)


def call(model: Path | str, data: Path, *more: str, name: str = "video.shuffle_gap") -> int:
    where = ["--runs", str(data.parent / "runs"), "--device", "cpu"]
    return evaluate.main([name, "--model", str(model), "--data", str(data), *where, *more])


def own_rows(run: RunDir, name: str) -> list[dict[str, Any]]:
    return [row for row in run.read_rows() if row["evaluation"] == name]


@pytest.mark.parametrize("name", [n for m in SWEEPS for n in first_cell(m).config.evaluations])
def test_a_run_evaluates_to_its_own_numbers(
    name: str, runs: dict[str, RunDir], data_dir: Path, tmp_path: Path
) -> None:
    out, media = tmp_path / "rows.json", name.partition(".")[0]
    run = runs[media]
    [options] = [e["options"] for e in (run.read_asked() or {}).values() if e["evaluation"] == name]
    chosen = [part for k, v in options.items() for part in ("--set", f"{k}={json.dumps(v)}")]
    assert call(run.path, located(media, data_dir), "--out", str(out), *chosen, name=name) == 0
    rows = json.loads(out.read_text())["rows"]
    assert {"split", "view", "subset", "metric", "value", "n"} <= set(rows[0])
    for row, own in zip(rows, own_rows(run, name), strict=True):
        assert row == {**own, "value": pytest.approx(own["value"], abs=1e-6)}


def test_a_released_checkpoint_needs_no_config(
    baseline: RunDir, shards: Path, tmp_path: Path
) -> None:
    """Kind and sizes are read from the tensors; the numbers are those of the same weights as a run."""
    state = checkpoint.read(baseline.last)
    backbone, head = "classifier.backbone.", "classifier.head."
    released = {
        f"module.{k.removeprefix(backbone)}": v
        for k, v in state["learner"].items()
        if k.startswith(backbone)
    }
    released |= {
        f"module.head.{k.removeprefix(head)}": v
        for k, v in state["learner"].items()
        if k.startswith(head)
    }
    path, out = tmp_path / "TimeSformer.pyth", tmp_path / "rows.json"
    torch.save({"model_state": released, "epoch": 34}, path)
    assert call(path, shards, "--heads", "2", "--out", str(out)) == 0
    for row, own in zip(
        json.loads(out.read_text())["rows"], own_rows(baseline, "video.shuffle_gap"), strict=True
    ):
        assert row["value"] == pytest.approx(own["value"], abs=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": Path("nothing")}, "neither a run directory nor a checkpoint file"),
        ({"data": Path("nowhere")}, "bench.prepare"),
        ({"model": ROOT / "tests/fixtures/parity/timesformer.safetensors"}, "7 classes"),
        ({"name": "video.shufle_gap"}, "did you mean 'video.shuffle_gap'"),
        ({"more": ("--set", "permutation=2")}, "did you mean 'permutations'"),
    ],
)
def test_bad_input_gets_one_message_and_status_2(
    change: dict[str, Any],
    message: str,
    baseline: RunDir,
    shards: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments: dict[str, Any] = {
        "model": baseline.path,
        "data": shards,
        "name": "video.shuffle_gap",
    }
    arguments |= change
    more = arguments.pop("more", ())
    assert call(arguments["model"], arguments["data"], *more, name=arguments["name"]) == 2
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error
