"""What is left running when the client of a search dies or is told to stop, and who goes on with it."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from makers import ROOT
from searching import PATIENCE_S, WEIGHT, Workers, computed, most_at_once, processes_of, states

from bench.store.rundir import RunDir
from bench.tune import command as tune

SIX = f"\n  sampler: grid\n  space: {{{WEIGHT}: {{low: 0.1, high: 0.6, step: 0.1}}}}"


def cells(it: Workers) -> list[RunDir]:
    names = {t.user_attrs.get("signature") for t in it.study.trials()} - {None}
    return [RunDir(it.runs / str(name)) for name in names]


def running(it: Workers, count: int) -> Callable[[], Any]:
    """Whether so many cells run, each of them held by a process."""
    return lambda: sum(run.is_locked() for run in cells(it)) == count


def over(it: Workers) -> Callable[[], Any]:
    """Whether no process has a cell any more, its supervisor included."""
    return lambda: not any(run.status().busy for run in cells(it))


@pytest.mark.slow
def test_workers_end_with_their_client_and_the_next_one_waits_for_their_cells(
    workers: Callable[[str], Workers],
) -> None:
    it = workers(SIX)
    for _ in range(4):  # more often than a trial may be lost
        client = it.start("--workers", "2", EPOCH_S="600")
        it.wait_for(running(it, 2), "pair of cells")
        client.send_signal(signal.SIGKILL)
        client.wait()
        it.wait_for(lambda: not processes_of(it.study.search.name), "end of the workers")
        assert running(it, 2)(), "cells outlive client and workers"
    last = it.start("--workers", "2")
    it.wait_for(it.adopted, "trials that wait for these cells")
    (it.runs / "go").touch()
    assert last.wait(timeout=PATIENCE_S) == 0
    complete = [t for t in it.study.trials() if t.state.name == "COMPLETE"]
    assert Counter(t.user_attrs["point"] for t in complete) == Counter(range(6))
    assert set(computed(it.runs).values()) == {1} and most_at_once(it.runs) == 2


@pytest.mark.slow
def test_cancel_stops_clients_workers_and_cells(
    workers: Callable[[str], Workers], capsys: pytest.CaptureFixture[str]
) -> None:
    it = workers(SIX)
    killed = it.start("--workers", "1", EPOCH_S="600")
    it.wait_for(running(it, 1), "cell")
    killed.send_signal(signal.SIGKILL)
    client = it.start("--workers", "2", EPOCH_S="600")
    alone = it.start("--worker", EPOCH_S="600")
    it.wait_for(running(it, 3), "three cells")
    options = [str(it.runs / "s.yaml"), "--scale", "smoke", "--runs", str(it.runs)]
    assert tune.main([*options, "--cancel"]) == 0
    said = capsys.readouterr().out
    for process in (client, alone):
        assert f"told the client with pid {process.pid} to stop" in said
        assert process.wait(timeout=PATIENCE_S) == 75
    it.wait_for(over(it), "end of the cells")
    assert not {"RUNNING", "COMPLETE"} & set(states(it.study))
    assert tune.main([*options, "--cancel"]) == 0
    assert "nothing is queued or running" in capsys.readouterr().out
    assert it.start("--workers", "2").wait(timeout=PATIENCE_S) == 0
    assert states(it.study).count("COMPLETE") == 6


def test_cancel_of_what_never_began_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = [str(ROOT / "sweeps/tune.yaml"), "--scale", "smoke", "--runs", str(tmp_path / "runs")]
    assert tune.main([*options, "--cancel"]) == 0
    assert "not started" in capsys.readouterr().out and not (tmp_path / "runs").exists()
