"""Stopping a cell: the flag, exact resumption wherever the signal came, states and exit statuses,
pruning, classes of failure, no progress.
"""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import traceback
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from makers import ROOT, assert_same, make_run, smoke_config
from worlds import DROPPING, as_ranks, only_trained, rank_environment

from bench.data import loader
from bench.data.access import prepare_data
from bench.data.loader import BadSample
from bench.data.shards.read import BadData
from bench.evaluate.model import load_named
from bench.process import interrupt
from bench.process.interrupt import EXIT_PREEMPTED, Interrupted
from bench.run.cell import keep_checkpoints, run_cell
from bench.store.failure import Failure, NoProgress, of_exception, of_traceback
from bench.store.files import write_json
from bench.store.rundir import RunDir, State
from bench.train import checkpoint, requests
from bench.train.loop import Trainer


def tell(number: int = signal.SIGUSR2) -> None:
    os.kill(os.getpid(), number)


# -- the flag ---


def test_listening_sets_a_flag_and_leaves_no_trace() -> None:
    before = [signal.getsignal(n) for n in (*interrupt.SIGNALS, signal.SIGINT)]
    with interrupt.listening():
        interrupt.check()
        tell(signal.SIGTERM)
        tell(signal.SIGUSR2)
        assert interrupt.requested() == "SIGTERM"  # the first one
        with pytest.raises(Interrupted):
            interrupt.check()
    assert [signal.getsignal(n) for n in (*interrupt.SIGNALS, signal.SIGINT)] == before
    assert interrupt.requested() is None


def test_the_second_ctrl_c_is_not_patient() -> None:
    with interrupt.listening():
        tell(signal.SIGINT)
        assert interrupt.requested() == "SIGINT"
        with pytest.raises(KeyboardInterrupt):
            tell(signal.SIGINT)


def test_processes_started_while_held_back_get_no_signal() -> None:
    with interrupt.listening():
        with interrupt.held_back():
            helper = subprocess.Popen(["sleep", "60"])
            tell()
        assert interrupt.requested() == "SIGUSR2"  # not lost
        for number in (*interrupt.SIGNALS, signal.SIGINT):
            helper.send_signal(number)
        time.sleep(0.1)
        assert helper.poll() is None
        helper.kill()
        assert helper.wait() == -signal.SIGKILL


# -- exact resumption ---


def telling_at(step: int, tell: Callable[[], object] = tell) -> Callable[[Any, Any], None]:
    """A `Trainer._train_step` that calls `tell` in the middle of one step."""
    original = Trainer._train_step

    def train_step(self: Trainer, batches: Any) -> None:
        if self.step == step:
            tell()
        original(self, batches)

    return train_step


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, data_dir: Path) -> RunDir:
    """A finished run of two epochs of three steps."""
    run = make_run(tmp_path_factory.mktemp("straight"), smoke_config(**DROPPING), data_dir)
    assert run_cell(run.path) == State.DONE
    return run


@pytest.mark.parametrize("step", [0, 2, 5])  # in an epoch, the last of one, the last of all
def test_a_signal_in_a_step(
    step: int,
    undisturbed: RunDir,
    tmp_path: Path,
    data_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = make_run(tmp_path, smoke_config(**DROPPING), data_dir, log_every=1)
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_train_step", telling_at(step))
        assert run_cell(run.path) == State.PREEMPTED == run.state()
    ended = run.read_outcome()
    assert (ended["step"], ended["reason"], ended["goes_on"]) == (step + 1, "SIGUSR2", False)
    assert not run.error.exists() and run.last.exists() and not run.result.exists()
    assert run_cell(run.path) == State.DONE
    assert_same(undisturbed, run)
    assert [start["step"] for start in run.read_starts()] == [0, step + 1]
    assert not run.outcome.exists()


def test_a_signal_in_the_validation(
    undisturbed: RunDir, tmp_path: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path, smoke_config(**DROPPING), data_dir)
    batches = loader.evaluation_batches
    seen = []

    def telling(*arguments: Any, **named: Any) -> Iterator[Any]:
        for raw in batches(*arguments, **named):
            tell()
            seen.append(raw.keys)
            yield raw

    with monkeypatch.context() as patch:
        patch.setattr(loader, "evaluation_batches", telling)
        assert run_cell(run.path) == State.PREEMPTED
    assert len(seen) == 1  # of two batches: it did not wait for the end
    assert run.read_outcome()["step"] == 3
    state = checkpoint.read(run.last)
    assert state["epoch_to_end"] and not run.best.exists()
    assert run_cell(run.path) == State.DONE
    assert_same(undisturbed, run)


def test_a_signal_in_the_evaluation(
    undisturbed: RunDir, tmp_path: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also one whose code catches every Exception."""
    run = make_run(tmp_path, smoke_config(**DROPPING), data_dir)
    swallowed: list[Exception] = []

    def stubborn(_name: str, _options: Any, context: Any) -> Any:
        for done in range(5):
            if done == 2:
                tell(signal.SIGTERM)
            try:
                context.progress(done, 5)
            except Exception as error:
                swallowed.append(error)
        return []

    monkeypatch.setenv("BENCH_JOB", "123_4")
    with monkeypatch.context() as patch:
        patch.setattr("bench.run.measuring.run_one", stubborn)
        assert run_cell(run.path) == State.PREEMPTED == run.state()
    assert not swallowed
    assert run.read_outcome()["goes_on"] and run.read_outcome()["job"] == "123_4"
    assert run_cell(run.path) == State.DONE
    assert_same(undisturbed, run)
    assert undisturbed.read_rows() == run.read_rows() != []


def test_twice_ctrl_c(
    undisturbed: RunDir, tmp_path: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path, smoke_config(**DROPPING), data_dir, checkpoint_steps=1)

    def twice() -> None:
        tell(signal.SIGINT)
        tell(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_train_step", telling_at(4, twice))
        with pytest.raises(KeyboardInterrupt):
            run_cell(run.path)
    assert run.state() == State.INTERRUPTED
    assert run_cell(run.path) == State.DONE
    assert_same(undisturbed, run)


# -- a search stops it ---


def pruned_at(path: Path, *, step: int) -> tuple[str, int]:
    """State and step at which this rank's part ended; the request is there from `step` on."""
    run = RunDir(path)
    steps = []
    original = Trainer._train_step

    def train_step(self: Trainer, batches: Any) -> None:
        steps.append(self.step)
        if self.step == step and self.world.first:
            write_json(run.stop, {"reason": "pruned"})
        original(self, batches)

    requests.PRUNE_LOOK_S = 0.0
    Trainer._train_step = train_step  # type: ignore[method-assign]
    return run_cell(path), steps[-1]


def test_pruning_stops_all_ranks_at_one_step(tmp_path: Path, data_dir: Path) -> None:
    config = only_trained("baseline", **DROPPING)
    straight = make_run(tmp_path / "a", config, data_dir, devices=2)
    assert as_ranks(2, partial(run_cell, straight.path)) == [State.DONE] * 2
    run = make_run(tmp_path / "b", config, data_dir, devices=2)
    assert as_ranks(2, partial(pruned_at, run.path, step=3)) == [(State.PRUNED, 3)] * 2
    assert run.state() == State.PRUNED and run.read_outcome()["step"] == 4
    assert not run.read_outcome()["goes_on"]
    run.claim({"launcher": "local"})  # a sweep asks for it after all
    assert as_ranks(2, partial(run_cell, run.path)) == [State.DONE] * 2
    assert_same(straight, run)


# -- classes of failure ---


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), Failure.OOM),
        (MemoryError(), Failure.OOM),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), Failure.OOM),
        (torch.AcceleratorError("CUDA error: out of memory"), Failure.OOM),
        (torch.AcceleratorError("CUDA error: an illegal memory access"), Failure.DEVICE),
        (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), Failure.DEVICE),
        (torch.distributed.DistBackendError("NCCL error in: x"), Failure.DEVICE),
        (RuntimeError("CUDA error: device-side assert triggered"), Failure.BUG),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed."), Failure.KILLED),
        (OSError(errno.ENOSPC, "No space left on device", "runs/x"), Failure.DISK),
        (OSError(errno.EDQUOT, "Disk quota exceeded", "runs/x"), Failure.DISK),
        (OSError(errno.EROFS, "Read-only file system", "runs/x"), Failure.DISK),
        (RuntimeError("PytorchStreamWriter failed writing file data/0"), Failure.DISK),
        (
            RuntimeError("[enforce fail at inline_container.cc:671] . unexpected pos 2304 vs 2198"),
            Failure.DISK,
        ),
        (RuntimeError("basic_ios::clear: iostream error"), Failure.DISK),
        (NoProgress("no further"), Failure.NO_PROGRESS),
        (BadData("train-000000.tar is missing"), Failure.DATA),
        (BadSample("sample 7 is damaged"), Failure.DATA),
        (ValueError("BadData"), Failure.BUG),
        (ValueError("train.batch"), Failure.BUG),
    ],
)
def test_failures_have_classes(error: Exception, kind: Failure) -> None:
    assert of_exception(error) == kind
    assert of_traceback("".join(traceback.format_exception(error))) == kind


def test_a_failure_is_written_down(
    tmp_path: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path, smoke_config("baseline"), data_dir, micro_batch=4)

    def fail() -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Trainer, "_train_step", telling_at(1, fail))
    assert run_cell(run.path) == State.FAILED == run.state()
    ended = run.read_outcome()
    assert (ended["kind"], ended["step"], ended["micro_batch"]) == (Failure.OOM, 1, 4)
    assert ended["code"] and ended["host"] == os.uname().nodename and ended["rank"] == 0
    assert "Traceback" in run.error.read_text() and "CUDA out of memory" in run.error_line()


# -- no progress ---


@pytest.mark.parametrize(
    ("steps", "job", "claim", "state"),
    [
        ([0, 0, 0], "77_1", "batch", State.FAILED),
        ([0, 0], "77_1", "batch", State.DONE),
        ([0, 1, 0], "77_1", "batch", State.DONE),
        ([1, 1, 1], "77_1", "batch", State.DONE),  # got further in the last of them
        ([0, 0, 0], "77_1", "another", State.DONE),  # submitted again
        ([0, 0, 0], "local:7", "batch", State.DONE),
    ],
)
def test_no_progress(
    steps: list[int],
    job: str,
    claim: str,
    state: State,
    tmp_path: Path,
    data_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = make_run(tmp_path, smoke_config("baseline", **{"train.epochs": 1}), data_dir)
    before = {"claimed": "batch", "scratch": None, "measured": 0}
    lines = [{"step": step, **before} for step in steps]
    run.starts.write_text("".join(json.dumps(line) + "\n" for line in lines))
    monkeypatch.setenv("BENCH_JOB", job)
    monkeypatch.setenv("BENCH_CLAIM", claim)
    monkeypatch.setattr("bench.run.measuring.run_one", lambda *_: [])
    assert run_cell(run.path) == state
    if state == State.FAILED:
        assert run.read_outcome()["kind"] == Failure.NO_PROGRESS
        assert "resources.slurm.time" in run.error_line()
        assert not run.metrics.exists()
    else:
        assert len(run.read_starts()) == len(steps) + 1


# -- what stays ---


@pytest.mark.parametrize(
    ("keep", "left"), [("all", {"last.pt", "best.pt"}), ("weights", {"last.pt"}), ("none", set())]
)
def test_checkpoints_that_stay(
    keep: str, left: set[str], undisturbed: RunDir, tmp_path: Path
) -> None:
    run = RunDir(tmp_path / "run")
    shutil.copytree(undisturbed.path, run.path)
    shutil.copy(run.last, checkpoint.previous(run.last))
    keep_checkpoints(run, keep)
    folder = run.last.parent
    assert ({p.name for p in folder.iterdir()} if folder.exists() else set()) == left
    if left:
        assert load_named(str(run.path)).made_by["signature"]
    else:
        with pytest.raises(ValueError, match="checkpoints were deleted"):
            load_named(str(run.path))


# -- real processes ---


def start(run: RunDir, world: int) -> list[subprocess.Popen[bytes]]:
    """As a supervisor does; each in a process group of its own."""
    begun = uuid.uuid4().hex
    return [
        subprocess.Popen(
            [sys.executable, "-m", "bench.run", str(run.path)],
            cwd=ROOT,
            env={**os.environ, **(rank_environment(r, world, begun) if world > 1 else {})},
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        for r in range(world)
    ]


def training(run: RunDir, processes: list[subprocess.Popen[bytes]], starts: int) -> None:
    """Wait until they train."""
    deadline = time.monotonic() + 120
    while len(run.read_starts()) < starts and time.monotonic() < deadline:
        assert all(process.poll() is None for process in processes)
        time.sleep(0.005)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("world", "resources"), [(1, {"workers": 2}), (2, {}), (2, {"workers": 1}), (4, {})]
)
def test_signals_at_random_steps(
    world: int, resources: dict[str, Any], tmp_path: Path, data_dir: Path
) -> None:
    """To the whole process group, as SLURM does it: the loader's workers get it too."""
    config = only_trained(**DROPPING, **{"train.epochs": 40})
    prepare_data(config, data_dir)
    straight = make_run(tmp_path / "a", config, data_dir, devices=world)
    assert [p.wait(300) for p in start(straight, world)] == [0] * world
    run = make_run(tmp_path / "b", config, data_dir, devices=world, **resources)
    stopped = 0
    for attempt in range(3):
        processes = start(run, world)
        training(run, processes, attempt + 1)
        time.sleep(random.uniform(0, 1.0))
        told = processes if attempt else processes[-1:]  # one rank is enough
        for process in told:
            os.killpg(process.pid, signal.SIGUSR2)
        status = {process.wait(60) for process in processes}
        assert status <= {0, EXIT_PREEMPTED}
        if run.result.exists():
            break
        assert status == {EXIT_PREEMPTED} and run.state() == State.PREEMPTED
        assert run.log.read_text().count("stopped at step") == attempt + 1
        assert not list(run.path.glob("stack*")) and not list(run.path.glob("error*"))
        stopped += 1
    assert stopped
    assert [p.wait(300) for p in start(run, world)] == [0] * world
    assert_same(straight, run)


@pytest.mark.slow
def test_a_killed_process_leaves_where_it_was(tmp_path: Path, data_dir: Path) -> None:
    config = smoke_config("baseline", **{"train.epochs": 5000})
    prepare_data(config, data_dir)
    run = make_run(tmp_path, config, data_dir)
    [process] = start(run, 1)
    deadline = time.monotonic() + 120
    while "train_step" not in _text(run.rank_stack(0)) and time.monotonic() < deadline:
        time.sleep(0.1)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert "in _train_step" in _text(run.rank_stack(0))
    assert run.state() == State.INTERRUPTED


def _text(path: Path) -> str:
    return path.read_text() if path.exists() else ""
