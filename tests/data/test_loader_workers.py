"""When loading fails in a worker process: the cell fails with the worker's words, and ends.

Real cells under their supervisor (`bench.launch.supervisor`), on shards of VP9 videos.
"""

from __future__ import annotations

import os
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from makers import ROOT, final_weights, make_run, trainer_of
from worlds import as_ranks, losses, only_trained

from bench.data import loader
from bench.data.loader import StoredImages
from bench.data.order import Draw
from bench.data.shards.read import SAMPLES, open_split
from bench.process.machine import process_started
from bench.run.cell import run_cell
from bench.store.failure import Failure
from bench.store.rundir import RunDir, State

pytestmark = pytest.mark.slow
PATIENCE_S = 60.0  # tells "late" from "never"; on a quiet machine all of this takes less than 10


def start(run: RunDir) -> subprocess.Popen[str]:
    """Its supervisor, as the local launcher starts it."""
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.launch.supervisor", str(run.path)],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    host, started = os.uname().nodename, process_started(process.pid)
    run.claim({"launcher": "local", "pid": process.pid, "pid_started": started, "host": host})
    return process


def cell(tmp_path: Path, data: Path, *, workers: int, ranks: int, **resources: Any) -> RunDir:
    config = only_trained(
        **{"data.frames": "video", "train.epochs": 10_000, "train.validate_every": 10_000}
    )
    places = {"workers": workers, "devices": ranks, "log_every": 1, **resources}
    return make_run(tmp_path / "runs", config, data.parent, **places)


def children(pid: int) -> list[int]:
    """The processes that a process started, and they in turn."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(path.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        if parent == pid:
            found += [int(path.parent.name), *children(int(path.parent.name))]
    return found


def loader_workers(supervisor: subprocess.Popen[str]) -> list[int]:
    commands = {}
    for pid in children(supervisor.pid):
        try:
            commands[pid] = Path(f"/proc/{pid}/cmdline").read_text()
        except OSError:
            continue
    return [pid for pid, command in commands.items() if "spawn_main" in command]


def training(run: RunDir) -> bool:
    return run.metrics.exists() and run.metrics.read_text().count("\n") > 3


def until(what: Callable[[], object], patience: float) -> float:
    """How long it took, seconds."""
    begun = time.monotonic()
    while not what():
        assert time.monotonic() - begun < patience, "in vain"
        time.sleep(0.02)
    return time.monotonic() - begun


def start_training(run: RunDir) -> subprocess.Popen[str]:
    """Its supervisor, once the cell has taken some steps."""
    supervisor = start(run)
    until(lambda: training(run), 120)
    return supervisor


def assert_fails(run: RunDir, supervisor: subprocess.Popen[str], patience: float) -> str:
    """The run is FAILED, and nothing of it lives on; returns its error.txt."""
    until(run.error.exists, patience)
    begun = time.monotonic()
    supervisor.communicate(timeout=PATIENCE_S)
    assert time.monotonic() - begun < PATIENCE_S
    assert run.state() == State.FAILED
    until(lambda: not processes_of(run), PATIENCE_S)
    return run.error.read_text()


def processes_of(run: RunDir) -> list[str]:
    """Whatever still runs on behalf of a cell: its ranks, and loader workers without a parent."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if f"BENCH_RUN_UNDER_TEST={run.path}" in path.read_text():
                found.append((path.parent / "cmdline").read_text())
        except OSError:
            continue
    return found


def break_clip(shards: Path) -> str:
    """Zeros over one video of the training split, whose key is returned."""
    table = pq.read_table(shards / SAMPLES).to_pylist()
    row = next(row for row in table if row["split"] == "train")
    with (shards / row["shard"]).open("r+b") as file:
        file.seek(row["offset"])
        file.write(bytes(row["size"]))
    return str(row["key"])


def cut_shard(shards: Path) -> str:
    (path,) = shards.glob("train-*.tar")
    os.truncate(path, path.stat().st_size // 3)
    return "is truncated"


WORLDS = [(1, 1), (4, 1), (1, 2), (4, 2)]


@pytest.mark.parametrize(("workers", "ranks"), WORLDS)
@pytest.mark.parametrize("damage", [break_clip, cut_shard])
def test_data_that_a_worker_cannot_read(
    damage: Callable[[Path], str],
    workers: int,
    ranks: int,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    words = damage(data)
    run = cell(tmp_path, data, workers=workers, ranks=ranks, verify="never")
    monkeypatch.setenv("BENCH_RUN_UNDER_TEST", str(run.path))
    text = assert_fails(run, start(run), patience=120)  # the start of all processes is in it
    assert words in text and "in DataLoader worker process" in text
    assert re.search(r"File .*bench/data/shards/read\.py", text)  # the worker's own traceback
    assert run.read_outcome()["kind"] == Failure.DATA


@pytest.mark.parametrize(("workers", "ranks"), WORLDS)
def test_a_worker_that_is_killed(
    workers: int, ranks: int, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = cell(tmp_path, data, workers=workers, ranks=ranks)
    monkeypatch.setenv("BENCH_RUN_UNDER_TEST", str(run.path))
    supervisor = start_training(run)
    victims = loader_workers(supervisor)
    assert len(victims) == workers * ranks
    os.kill(victims[-1], signal.SIGKILL)
    text = assert_fails(run, supervisor, PATIENCE_S)
    said = r"DataLoader worker \(pid(\(s\))? {}\) (is killed by signal: Killed|exited unexpectedly)"
    assert re.search(said.format(victims[-1]), text)  # torch says the one or the other
    assert run.read_outcome()["kind"] == Failure.KILLED


@pytest.mark.parametrize(("workers", "ranks"), WORLDS)
def test_a_worker_without_memory(
    workers: int, ranks: int, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = cell(tmp_path, data, workers=workers, ranks=ranks)
    monkeypatch.setenv("BENCH_RUN_UNDER_TEST", str(run.path))
    supervisor = start_training(run)
    for pid in loader_workers(supervisor):
        resource.prlimit(pid, resource.RLIMIT_AS, (1, resource.RLIM_INFINITY))
    text = assert_fails(run, supervisor, PATIENCE_S)
    assert run.read_outcome()["kind"] in (Failure.OOM, Failure.KILLED), text


class Unsendable:
    def __reduce__(self) -> str:
        raise MemoryError("no memory to map the batch")


class UnsendableImages(StoredImages):
    def collate(self, items: list[Any]) -> Any:
        return Unsendable()


def test_a_batch_that_a_worker_cannot_send_is_not_awaited_for_ever(data: Path) -> None:
    images = UnsendableImages(open_split(data, "train"))
    batches = loader._loader(images, [[Draw(0, 0)]], workers=1, pin=False)
    with pytest.raises(RuntimeError, match=r"DataLoader worker .* exited unexpectedly"):
        next(loader._iterate(batches))


def test_signals_of_others_do_not_end_a_worker(data: Path, tmp_path: Path) -> None:
    """A terminal and SLURM signal all processes of a job; the workers must deliver what was begun."""
    run = cell(tmp_path, data, workers=1, ranks=1)
    supervisor = start_training(run)
    (worker,) = loader_workers(supervisor)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2):
        os.kill(worker, number)
    lines = run.metrics.read_text().count("\n")
    until(lambda: run.metrics.read_text().count("\n") > lines + 10, 60)
    os.kill(supervisor.pid, signal.SIGTERM)
    supervisor.communicate(timeout=60)
    assert run.state() == State.PREEMPTED
    until(lambda: not Path(f"/proc/{worker}").exists(), PATIENCE_S)


# -- going on with other workers and ranks ---


@pytest.mark.parametrize("shuffle", ["global", "shards"])
def test_a_run_goes_on_in_the_middle_of_an_epoch_with_other_workers_and_ranks(
    shuffle: str, videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Real shards, gloo: the same samples in the same steps, so the same weights up to rounding."""
    # without dropped paths, whose masks differ
    order = {"train.shuffle": shuffle, "train.shuffle_buffer": 10, "train.clip_grad": 1.0}
    config = only_trained(**{"data.frames": "video", "model.drop_path": 0.0, **order})
    straight = make_run(tmp_path / "straight", config, videos)
    trainer_of(straight).fit()
    run = make_run(tmp_path / "cut", config, videos, checkpoint_steps=1, workers=1)
    trainer = trainer_of(run)
    step = trainer._train_step

    def stopping(batches: Any) -> None:
        if trainer.step == 2:
            raise KeyboardInterrupt
        step(batches)

    monkeypatch.setattr(trainer, "_train_step", stopping)
    with pytest.raises(KeyboardInterrupt):
        trainer.fit()
    run.resources.unlink()
    wider = make_run(tmp_path / "cut", config, videos, workers=2)
    assert as_ranks(2, partial(run_cell, wider.path)) == [State.DONE] * 2
    assert [start["step"] for start in wider.read_starts()] == [2]
    for one, many in zip(losses(straight), losses(wider), strict=True):
        assert one == pytest.approx(many, abs=1e-4, rel=1e-4)
    for name, value in final_weights(straight).items():
        torch.testing.assert_close(value, final_weights(wider)[name], rtol=0, atol=4e-4)
