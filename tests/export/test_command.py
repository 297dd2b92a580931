"""`bench.export`: with a sink that writes lines, beside a run too, and what it refuses."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from components import only
from makers import ROOT, make_run, smoke_config
from recorded import copy_of, rows_of
from standins import wait_until

from bench.export import command, record
from bench.store.rundir import RunDir, State

LINES = (ROOT / "tests/fixtures/components/sinks/lines.py").read_text()


@pytest.fixture
def lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[dict[str, Any]]]:
    """Export with the sink of the fixtures, the only one there is; returns what it wrote."""
    only("sink", {"lines": LINES}, tmp_path, monkeypatch)
    out = tmp_path / "out"

    def called(*arguments: object) -> list[dict[str, Any]]:
        assert command.main(["lines", *map(str, arguments), "--out", str(out)]) == 0
        (path,) = out.iterdir()
        return [json.loads(line) for line in path.read_text().splitlines()]

    return called


# -- what a sink gets ---


def test_every_step_and_every_row_of_a_run(
    run: RunDir, runs: Path, metrics: list[dict[str, Any]], lines: Any
) -> None:
    before = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    expected = metrics + rows_of(run)
    assert len(metrics) == 8 and lines(run.path) == expected
    assert lines(run.signature, "--runs", runs) == expected, "named by its signature, and again"
    after = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    assert after == before, "the run directory is as it was"


def test_results_of_one_model_are_one_record(evaluated: list[Path], lines: Any) -> None:
    results = [json.loads(path.read_text()) for path in evaluated]
    assert {result["evaluation"] for result in results} == {
        "video.arrow_of_time",
        "video.shuffle_gap",
    }
    assert lines(*evaluated) == [row for result in results for row in result["rows"]]


# -- beside a run ---


def test_what_went_back_is_written_again(
    run: RunDir, unfinished: RunDir, lines: Any, metrics: list[dict[str, Any]], tmp_path: Path
) -> None:
    """Killed after two steps, the run goes on from the first one while it is followed."""
    first, second, *_ = run.metrics.read_bytes().splitlines(keepends=True)
    unfinished.metrics.write_bytes(first + second)
    written = tmp_path / "out" / f"{run.signature}.jsonl"

    def has(count: int) -> bool:
        return written.exists() and written.read_bytes().count(b"\n") == count

    with ExitStack() as held, ThreadPoolExecutor(1) as pool:
        held.enter_context(unfinished.hold())

        def go_on() -> None:
            with held:
                wait_until(lambda: has(2), "two steps")
                unfinished.metrics.write_bytes(first)
                wait_until(lambda: has(1), "one step")
                unfinished.metrics.write_bytes(run.metrics.read_bytes())

        other = pool.submit(go_on)
        assert lines(unfinished.path, "--follow") == metrics + rows_of(run)
        other.result()


@pytest.mark.slow
def test_beside_a_real_run(
    tmp_path: Path, data_dir: Path, lines: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(record, "POLL_S", 0.05)
    run = make_run(tmp_path, smoke_config("baseline"), data_dir)
    with subprocess.Popen(
        [sys.executable, "-m", "bench.run", str(run.path)], cwd=ROOT, stderr=subprocess.DEVNULL
    ) as process:
        wait_until(lambda: process.poll() is not None or run.is_locked(), "the run's start")
        assert run.state() == State.RUNNING
        found = lines(run.path, "--follow")
    assert run.state() == State.DONE
    steps = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    assert found == steps + rows_of(run)


def test_ctrl_c_keeps_what_was_written(run: RunDir, unfinished: RunDir, tmp_path: Path) -> None:
    first, *_ = run.metrics.read_bytes().splitlines(keepends=True)
    unfinished.metrics.write_bytes(first)
    out, own = tmp_path / "out", ROOT / "tests/fixtures/components"
    given = ["lines", unfinished.path, "--follow", "--out", out, "--components", own]
    written = out / f"{unfinished.signature}.jsonl"
    with (
        unfinished.hold(),
        subprocess.Popen(
            [sys.executable, "-m", "bench.export", *map(str, given)],
            cwd=ROOT, env=dict(os.environ), stderr=subprocess.PIPE, text=True,
        ) as process,
    ):  # fmt: skip
        wait_until(lambda: written.exists() and bool(written.read_bytes()), "the first step")
        process.send_signal(signal.SIGINT)
        said = process.communicate()[1]
    assert process.returncode == 130 and said.startswith("stopped")
    assert json.loads(written.read_text()) == json.loads(first)


# -- what is refused ---


def test_all_mistakes_at_once_and_nothing_written(
    run: RunDir, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    needy = LINES.replace("return []", 'return ["it is not here: run `pip install it`"]')
    only("sink", {"lines": needy}, tmp_path, monkeypatch)
    wrong = tmp_path / "wrong.json"
    wrong.write_text('{"model": "x", "rows": {}}')
    broken, lost = copy_of(run, tmp_path / "a"), copy_of(run, tmp_path / "b")
    broken.metrics.write_text('{"step": 1, "loss": 2}\n{"loss": 3}\n')
    lost.config.write_text("[")
    twice = copy_of(run, tmp_path / "c")
    rows = tmp_path / "rows.json"
    rows.write_text(
        '{"model": "x", "evaluation": "y", "official": false, "made_by": {}, "rows": [{}]}'
    )
    given = ["absent", run.path, twice.path, rows, wrong, broken.path, lost.path, tmp_path]
    out = tmp_path / "out"
    assert command.main(["lines", *map(str, given), "--follow", "--out", str(out)]) == 2
    said = capsys.readouterr().err
    assert said.startswith("9 mistake(s), nothing was written:")
    for part in (
        "--follow: name one run", "absent: no run directory", f"{wrong} is no result (official: Field required)",
        f"{broken.metrics}: not a line of metrics", f"{lost.config}: not readable",
        f"{tmp_path / 'config.yaml'}: not readable", "lines: it is not here: run `pip install it`",
        f"{run.signature} is named twice", f"{rows} is no result (data: Field required)",
    ):  # fmt: skip
        assert part in said
    assert not out.exists()


def test_an_unknown_sink_lists_those_that_exist(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["tensorbord", "x"]) == 2
    assert "unknown sink 'tensorbord'; did you mean 'tensorboard'?" in capsys.readouterr().err
