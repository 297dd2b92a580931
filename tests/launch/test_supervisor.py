"""Supervisors and their ranks: real processes, with stand-ins for the training itself."""

from __future__ import annotations

import json
import os
import pickle
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import submitit
from makers import ROOT

from bench.launch import postmortem, supervisor
from bench.process.machine import process_started
from bench.store.failure import Failure
from bench.store.files import read_json, write_json
from bench.store.rundir import RunDir, State

STANDIN = (sys.executable, str(ROOT / "tests/standins.py"))
PATIENCE_S = {"CLAIM_WAIT_S": 60.0, "KILL_AFTER_S": 60.0, "SIGNAL_WAIT_S": 60.0}
"""A supervisor's, so that a busy machine changes no outcome. Tests in which it has to run out say so."""


def make_run(folder: Path, **resources: Any) -> RunDir:
    run = RunDir(folder)
    run.create({}, resources, "")
    return run


class Supervised:
    """A supervisor that was started as the local launcher does it. `patience`: see PATIENCE_S."""

    def __init__(self, mode: str, *runs: RunDir, claimed: bool = True, **patience: float) -> None:
        sets = [f"supervisor.{name} = {s}" for name, s in (PATIENCE_S | patience).items()]
        job = [
            "import sys; from bench.launch import supervisor",
            *sets,
            "sys.exit(supervisor.main())",
        ]
        command = [sys.executable, "-c", "; ".join(job)]
        command += ["--command", shlex.join([*STANDIN, *mode.split()])]
        self.process = subprocess.Popen(
            [*command, *(str(run.path) for run in runs)],
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        pid = self.process.pid
        if claimed:
            for run in runs:
                started = process_started(pid)
                claim = {"launcher": "local", "pid": pid, "pid_started": started}
                run.claim({**claim, "host": os.uname().nodename})

    def end(self) -> tuple[int, str]:
        """Its exit status and what it wrote to stderr."""
        _, err = self.process.communicate(timeout=60)
        return self.process.returncode, err


def until(what: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 60
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def pid_of(run: RunDir, rank: int) -> int:
    path = run.path / f"pid.{rank}"
    until(path.exists)
    return int(path.read_text())


def test_it_starts_without_the_heavy_libraries() -> None:
    code = (
        "import sys, bench.launch.supervisor;"
        "assert not {'torch', 'pandas', 'pydantic', 'numpy', 'submitit'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_ranks_are_told_who_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "5")  # a sweep that somebody starts inside a torchrun
    alone = make_run(tmp_path / "alone", threads=3)
    several = make_run(tmp_path / "several", devices=3)
    one = Supervised("environment done", alone)
    three = Supervised("environment done", several)
    assert one.end()[0] == 0 and three.end()[0] == 0
    assert alone.state() == several.state() == State.DONE
    told = [json.loads((several.path / f"environment.{k}").read_text()) for k in range(3)]
    assert [(e["RANK"], e["LOCAL_RANK"], e["WORLD_SIZE"]) for e in told] == [
        (str(k), str(k), "3") for k in range(3)
    ]
    assert {e["LOCAL_WORLD_SIZE"] for e in told} == {"3"}
    assert len({e["BENCH_START"] for e in told}) == 1
    assert {e["BENCH_JOB"] for e in told} == {f"local:{three.process.pid}"}
    single = json.loads((alone.path / "environment.0").read_text())
    assert not {"RANK", "WORLD_SIZE", "BENCH_START"} & set(single)
    assert single["OMP_NUM_THREADS"] == "3" and single["BENCH_CLAIM"] == str(one.process.pid)


def test_a_claim_of_another_is_left_alone(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    run.claim({"launcher": "slurm", "batch": "abc", "task": 0})
    status, err = Supervised("done", run, claimed=False, CLAIM_WAIT_S=0.1).end()
    assert status == 0 and "left alone" in err
    assert not run.result.exists() and not run.outcome.exists()


# -- failures ---


def test_a_killed_rank_ends_the_cell_with_its_last_stack(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", devices=2)
    supervised = Supervised("pids stack 0:stubborn hang", run, KILL_AFTER_S=0.1)
    other = pid_of(run, 0)
    until(run.rank_stack(1).exists)
    os.kill(pid_of(run, 1), signal.SIGKILL)
    assert supervised.end()[0] == 1
    assert run.state() == State.FAILED and process_started(other) is None
    end, text = run.read_outcome(), run.error.read_text()
    assert end["kind"] == Failure.KILLED and end["rank"] == 1
    assert "rank 1 was killed by signal 9 (SIGKILL)" in text
    assert "File was_here" in text
    assert "rank 1 ended without a result" in run.error_line()


@pytest.mark.parametrize("mode", ["1:bug 0:nap 0:lost", "0:peer 0:lost 1:nap 1:nap 1:bug"])
def test_the_rank_that_failed_is_blamed(tmp_path: Path, mode: str) -> None:
    """Not the one that lost touch with it, even if that one was quicker to say so."""
    run = make_run(tmp_path / "run", devices=2)
    assert Supervised(f"1:stubborn 1:pids {mode}", run).end()[0] == 1
    end = run.read_outcome()
    assert end["rank"] == 1 and end["kind"] == Failure.BUG
    assert run.error_line() == "ValueError: bad weights"
    assert "Connection closed" not in run.error.read_text()


def test_a_killed_rank_is_blamed_before_any_error(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", devices=2)
    assert Supervised("1:stubborn 1:pids 0:peer 0:lost 1:nap 1:crash", run).end()[0] == 1
    assert run.read_outcome()["rank"] == 1 and run.read_outcome()["kind"] == Failure.KILLED


def test_a_process_that_vanishes_leaves_its_last_words(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    status, err = Supervised("exit3", run).end()
    assert status == 1 and "something is missing" in err
    assert run.state() == State.FAILED and run.read_outcome()["kind"] == Failure.KILLED
    assert "something is missing" in run.error.read_text()
    assert "ended without a result: exit status 3" in run.error_line()


def test_what_a_dead_rank_left_running_is_ended(tmp_path: Path) -> None:
    """A loader's worker would keep the lock, and the cell RUNNING."""
    run = make_run(tmp_path / "run")
    assert Supervised("worker crash", run).end()[0] == 1
    assert run.state() == State.FAILED and not run.is_locked()


def test_ranks_die_with_their_supervisor(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", devices=2)
    supervised = Supervised("stubborn pids hang", run)
    pids = [pid_of(run, 0), pid_of(run, 1)]
    supervised.process.kill()
    supervised.end()
    until(lambda: all(process_started(pid) is None for pid in pids))
    assert not run.outcome.exists() and run.state() == State.NEW


def test_packed_cells_have_their_own_fates(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / name, pack=3) for name in "abc"]
    for run, mode in zip(runs, ("done", "crash", "done"), strict=True):
        (run.path / "mode").write_text(mode)
    assert Supervised("by-name", *runs).end()[0] == 1
    assert [run.state() for run in runs] == [State.DONE, State.FAILED, State.DONE]


@pytest.mark.parametrize(
    "message",
    [
        "RuntimeError: [/x/gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:1",
        "RuntimeError: Connection reset by peer",
        "torch.distributed.DistBackendError: NCCL error in: x.cpp:1, remote process exited",
        "torch.distributed.DistNetworkError: Failed to recv, got 0 bytes.",
    ],
)
def test_lost_connections_are_known(message: str, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    text = f"time: 1.5\nTraceback (most recent call last):\n  File 'x'\n    gloo()\n{message}\n"
    run.rank_error(0).write_text(text)
    (cause,) = postmortem.causes(run, [Dead()], several=True)
    assert cause.lost and cause.time == 1.5
    run.rank_error(0).write_text(text.replace(message, "ValueError: shape"))
    (cause,) = postmortem.causes(run, [Dead()], several=True)
    assert not cause.lost


class Dead(postmortem.Rank):
    """A rank that ended with status 1."""

    def __init__(self) -> None:
        self.number, self.tail, self.ended, self.told = 0, b"", 1.0, set()

    @property
    def status(self) -> int:
        return 1


# -- stopping ---


@pytest.mark.parametrize("devices", [1, 2])
def test_a_stop_is_passed_on(tmp_path: Path, devices: int) -> None:
    run = make_run(tmp_path / "run", devices=devices)
    supervised = Supervised("obey pids hang", run)
    for rank in range(devices):
        pid_of(run, rank)
    supervised.process.terminate()
    assert supervised.end()[0] == 75
    assert run.state() == State.PREEMPTED and run.read_outcome()["step"] == 7


@pytest.mark.parametrize("devices", [1, 2])
def test_a_stop_while_it_starts_loses_nothing(tmp_path: Path, devices: int) -> None:
    """The default action of the signal ends a process that has no handler yet."""
    run = make_run(tmp_path / "run", devices=devices)
    supervised = Supervised("0:obey pids hang" if devices == 2 else "pids hang", run)
    for rank in range(devices):
        pid_of(run, rank)
    supervised.process.send_signal(signal.SIGUSR2)
    assert supervised.end()[0] == 75
    assert run.state() == State.PREEMPTED and not run.read_outcome()["goes_on"]


def test_sigterm_from_elsewhere_is_a_failure(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    supervised = Supervised("pids hang", run, SIGNAL_WAIT_S=0.1)
    os.kill(pid_of(run, 0), signal.SIGTERM)
    assert supervised.end()[0] == 1
    assert run.state() == State.FAILED and "SIGTERM" in run.error_line()


# -- a task of a SLURM array ---


class Array:
    """A job of an array as SLURM and submitit start it, with a stand-in for scontrol."""

    def __init__(self, folder: Path, cells: Sequence[Sequence[str]], **resources: Any) -> None:
        self.folder, self.runs = folder / "batch", folder / "runs"
        self.requeued = folder / "requeued"
        self.folder.mkdir()
        scontrol = folder / "bin/scontrol"
        scontrol.parent.mkdir()
        scontrol.write_text(f'#!/bin/sh\necho "$@" >> {self.requeued}\n')
        scontrol.chmod(0o755)
        record = {"batch": "b1", "cells": cells, "runs": str(self.runs), "resources": resources}
        write_json(self.folder / "batch.json", record)
        for task, names in enumerate(cells):
            for name in names:
                run = make_run(self.runs / name)
                run.claim({"launcher": "slurm", "batch": "b1", "task": task})

    def run(self, name: str) -> RunDir:
        return RunDir(self.runs / name)

    def start(self, mode: str, *, task: int, **env: str) -> subprocess.Popen[str]:
        payload = submitit.helpers.DelayedSubmission(
            supervisor.Task(self.folder, command=(*STANDIN, *mode.split()))
        )
        payload.set_timeout(10, 10**6)
        payload.dump(self.folder / f"9_{task}_submitted.pkl")
        path = f"{self.folder.parent / 'bin'}{os.pathsep}{os.environ['PATH']}"
        slurm = {
            "SUBMITIT_EXECUTOR": "slurm",
            "SLURM_JOB_ID": "11",
            "SLURM_ARRAY_JOB_ID": "9",
            "SLURM_ARRAY_TASK_ID": str(task),
            "SLURM_JOB_NUM_NODES": "1",
            "SLURM_NODEID": "0",
            "SLURM_PROCID": "0",
        }
        return subprocess.Popen(
            [sys.executable, "-m", "submitit.core._submit", str(self.folder)],
            env={**os.environ, **slurm, "PATH": path, **env},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )


@pytest.fixture
def array(tmp_path: Path) -> Iterator[Array]:
    yield Array(tmp_path, [["zero"], ["a", "b", "taken"]])


def test_a_task_runs_its_cells_and_no_others(array: Array) -> None:
    array.run("taken").claim({"launcher": "slurm", "batch": "b2", "task": 1})
    with array.start("environment done", task=1) as process:
        out = process.communicate(timeout=60)[0]
    assert process.returncode == 0, out
    states = {name: array.run(name).state() for name in ("zero", "a", "b", "taken")}
    assert states["a"] == states["b"] == State.DONE
    assert states["zero"] == states["taken"] == State.PENDING
    env = json.loads((array.run("a").path / "environment.0").read_text())
    assert env["BENCH_JOB"] == "9_1" and env["BENCH_CLAIM"] == "b1"


def test_a_failed_cell_fails_the_job_and_is_not_tried_again_by_a_requeue(array: Array) -> None:
    for name, mode in (("a", "done"), ("b", "exit3"), ("taken", "done")):
        (array.run(name).path / "mode").write_text(mode)
    with array.start("by-name", task=1) as process:
        out = process.communicate(timeout=60)[0]
    assert process.returncode != 0 and "b: the process of this cell ended without" in out
    assert array.run("a").state() == array.run("taken").state() == State.DONE
    (array.run("b").path / "mode").write_text("done")
    with array.start("by-name", task=1, SLURM_RESTART_COUNT="1") as process:
        process.communicate(timeout=60)
    assert process.returncode != 0 and array.run("b").state() == State.FAILED


def test_a_warned_job_asks_to_be_queued_again(array: Array) -> None:
    with array.start("obey pids hang", task=0) as process:
        pid_of(array.run("zero"), 0)
        process.send_signal(signal.SIGUSR2)
        process.send_signal(signal.SIGUSR2)
        process.communicate(timeout=60)
    assert array.requeued.read_text() == "requeue 9_0\n"
    end = array.run("zero").read_outcome()
    assert end["state"] == State.PREEMPTED and end["goes_on"]
    again = submitit.helpers.DelayedSubmission.load(array.folder / "9_0_submitted.pkl")
    assert again.function.folder == str(array.folder)


def test_a_job_that_is_told_to_end_does_not(array: Array) -> None:
    with array.start("obey pids hang", task=0) as process:
        pid_of(array.run("zero"), 0)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    assert not array.requeued.exists()
    assert array.run("zero").read_outcome()["state"] == State.PREEMPTED


@pytest.mark.slow
def test_jobs_that_never_begin_are_not_queued_for_ever(array: Array) -> None:
    run = array.run("zero")
    for n in range(supervisor.EARLY_STOPS + 1):
        (run.path / "pid.0").unlink(missing_ok=True)
        with array.start("pids hang", task=0, SLURM_RESTART_COUNT=str(n)) as process:
            pid_of(run, 0)
            process.send_signal(signal.SIGUSR2)
            process.communicate(timeout=60)
    assert len(array.requeued.read_text().splitlines()) == supervisor.EARLY_STOPS
    assert run.state() == State.FAILED and run.read_outcome()["kind"] == Failure.NO_PROGRESS
    assert "signal_delay_s" in run.error_line()


def test_ranks_are_numbered_over_the_nodes(tmp_path: Path) -> None:
    array = Array(tmp_path, [["cell"]], devices=2, nodes=2)
    nodes = [
        array.start(
            "environment nap done", task=0, SLURM_JOB_NUM_NODES="2", SLURM_NODEID=k, SLURM_PROCID=k
        )
        for k in "01"
    ]
    assert [process.wait(60) for process in nodes] == [0, 0]
    run = array.run("cell")
    told = [read_json(run.path / f"environment.{rank}") or {} for rank in range(4)]
    assert [(e["RANK"], e["LOCAL_RANK"]) for e in told] == [
        ("0", "0"),
        ("1", "1"),
        ("2", "0"),
        ("3", "1"),
    ]
    assert {e["WORLD_SIZE"] for e in told} == {"4"} and len({e["BENCH_START"] for e in told}) == 1


def test_what_is_submitted_is_small_and_plain(tmp_path: Path) -> None:
    payload = pickle.dumps(supervisor.Task(tmp_path))
    assert len(payload) < 1000
    assert pickle.loads(payload).folder == str(tmp_path)
