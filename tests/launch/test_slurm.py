"""Sweeps through a real SLURM: one node on loopback, real sbatch, srun, signals, requeues and time
limits. What is disturbed must end as if nothing had happened.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cluster as real
import pytest
import torch
from makers import ROOT
from running import processes_with

from bench.config.resources import Resources, Slurm
from bench.launch.item import Item
from bench.launch.slurm import client as slurm
from bench.store.failure import Failure
from bench.store.rundir import Activity, RunDir, State, jobs_folder

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(900)]
ABLATION = ROOT / "sweeps/ablation.yaml"
ONE_CELL = """
title: one cell
base:
  objectives: {classify: {}}
  evaluations: {video.shuffle_gap: {}}
axes:
  backbone:
    TimeSformer: {model.name: timesformer}
"""
LONG = ("train.epochs=60", "train.validate_every=20", "resources.checkpoint_minutes=60")
"""180 steps: some seconds, so that there is a middle to disturb."""

# Cells that end at once, in jobs that are otherwise real. Arguments: RUNS COUNT PACK.
CLIENT = """
import functools, sys
from pathlib import Path
from bench.launch.slurm import client, submit
from bench.config.resources import Resources, Slurm
from bench.launch.supervisor import Task
from bench.launch.item import Item
from bench.store.rundir import RunDir
runs, count, pack = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
submit.Task = functools.partial(Task, command=("/bin/sh", str(runs.parent / "cell.sh")))
resources = Resources(device="cpu", pack=pack, slurm=Slurm(time=5, signal_delay_s=10))
items = [Item(RunDir(runs / f"cell{i}"), resources, str(i)) for i in range(count)]
print("ready", flush=True)
client.run_slurm(
    items, runs=runs, sweep="quick", wait=True, on_change=print, tick=int, poll_s=(0.3, 0.3)
)
"""


@pytest.fixture(scope="module")
def started() -> Iterator[real.Cluster]:
    if reason := real.missing():
        if os.environ.get("BENCH_REQUIRE_SLURM"):
            pytest.fail(f"BENCH_REQUIRE_SLURM is set, but {reason}")
        pytest.skip(reason)
    with real.running() as cluster:
        yield cluster


@pytest.fixture
def cluster(started: real.Cluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[real.Cluster]:
    """The cluster, also for SLURM commands of this process, with an empty queue afterwards."""
    monkeypatch.setenv("SLURM_CONF", started.env["SLURM_CONF"])
    yield started
    if any(state in ("RUNNING", "PENDING", "COMPLETING") for state, *_ in started.jobs().values()):
        started.clear()


class Sweep:
    """A sweep at smoke scale, as users give it, in a client of its own."""

    def __init__(self, cluster: real.Cluster, runs: Path, data_dir: Path, file: Path) -> None:
        self.cluster, self.runs, self.file = cluster, runs, file
        self.sets = [f"resources.data_dir={data_dir}", "resources.device=cpu"]

    def start(self, *more: str, sets: tuple[str, ...] = ()) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "bench.sweep", str(self.file), "--scale", "smoke"]
        command += ["--runs", str(self.runs), *more]
        for change in (*self.sets, *sets):
            command += ["--set", change]
        return subprocess.Popen(
            command,
            cwd=ROOT,
            env=dict(self.cluster.env),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def finish(self, client: subprocess.Popen[str]) -> str:
        """Wait for a client, helping requeued jobs past SLURM's two minutes. Returns its output."""
        deadline = time.monotonic() + 600
        while client.poll() is None and time.monotonic() < deadline:
            self.cluster.hurry()
            time.sleep(0.3)
        if client.poll() is None:
            client.kill()
        output = client.communicate()[0]
        logs = "\n".join(
            path.read_text(errors="replace")[-3000:]
            for path in self.runs.rglob(".jobs/*/*_log.out")
        )
        assert client.returncode is not None and client.returncode >= 0, output + logs
        return f"{output}\n{logs}"

    def cells(self) -> list[RunDir]:
        return [RunDir(path.parent) for path in sorted(self.runs.glob("*/config.yaml"))]


@pytest.fixture
def make(cluster: real.Cluster, tmp_path: Path, data_dir: Path) -> Callable[..., Sweep]:
    def sweep(file: Path = ABLATION, runs: str = "runs") -> Sweep:
        return Sweep(cluster, tmp_path / runs, data_dir, file)

    return sweep


@pytest.fixture(scope="module")
def one_cell(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sweeps") / "one.yaml"
    path.write_text(ONE_CELL)
    return path


@pytest.fixture(scope="module")
def undisturbed(
    started: real.Cluster, one_cell: Path, data_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[int], RunDir]:
    """undisturbed(devices): the long cell, run on this machine without SLURM; each made once."""
    made: dict[int, RunDir] = {}

    def get(devices: int) -> RunDir:
        if devices not in made:
            sweep = Sweep(started, tmp_path_factory.mktemp("undisturbed"), data_dir, one_cell)
            output = sweep.finish(sweep.start(sets=(*LONG, f"resources.devices={devices}")))
            [made[devices]] = sweep.cells()
            assert made[devices].state() == State.DONE, output
        return made[devices]

    return get


def assert_same(run: RunDir, reference: RunDir) -> None:
    """Bitwise the same weights, and the same metrics, number for number."""
    ours, theirs = (torch.load(r.last, weights_only=False)["learner"] for r in (run, reference))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert run.metrics.read_bytes() == reference.metrics.read_bytes()
    assert run.read_rows() == reference.read_rows() != []


def ranks(run: RunDir) -> list[int]:
    """Process ids of the running ranks of a cell."""
    return processes_with("bench.run", str(run.path))


def until(condition: Callable[[], Any], what: str) -> Any:
    deadline = time.monotonic() + 300
    while not (value := condition()):
        assert time.monotonic() < deadline, f"waited for {what}"
        time.sleep(0.02)
    return value


def frozen_in_training(sweep: Sweep, devices: int) -> tuple[RunDir, list[int]]:
    """The only cell and its ranks, stopped at some step, so that what is sent next comes then."""

    def training() -> RunDir | None:
        for run in sweep.cells():
            if run.metrics.exists() and run.metrics.stat().st_size and len(ranks(run)) == devices:
                return run
        return None

    run = until(training, "the cell to train")
    pids = ranks(run)
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    until(lambda: all(status(pid)["State"].startswith("T") for pid in pids), "the cell to stop")
    return run, pids


def status(pid: int) -> dict[str, str]:
    """What Linux says about a process, by field."""
    text = Path(f"/proc/{pid}/status").read_text()
    return dict(line.split(":\t", 1) for line in text.splitlines())


def was_sent(pid: int, number: signal.Signals) -> bool:
    """Whether a stopped process has been sent a signal: it waits for it, or SLURM, which sends SIGCONT
    with its warnings, has made it go on since, perhaps to its end.
    """
    try:
        fields = status(pid)
    except (FileNotFoundError, ProcessLookupError):
        return True
    masks = [int(fields[name], 16) for name in ("SigPnd", "ShdPnd")]
    return not fields["State"].startswith("T") or any(mask >> (number - 1) & 1 for mask in masks)


def warned_by_requeue(cluster: real.Cluster, job: str, pids: list[int]) -> None:
    cluster.ask("scontrol", "requeue", job)
    thaw(pids)


def warned_by_signal(cluster: real.Cluster, job: str, pids: list[int]) -> None:
    cluster.ask("scancel", "--signal=USR2", job)
    until(lambda: any(was_sent(pid, signal.SIGUSR2) for pid in pids), "the signal")
    thaw(pids)


def warned_by_time_limit(cluster: real.Cluster, job: str, pids: list[int]) -> None:
    until(lambda: any(was_sent(pid, signal.SIGUSR2) for pid in pids), "the time limit")
    thaw(pids)


def thaw(pids: list[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


# -- the whole way ---


def test_the_ablation_has_the_same_numbers_as_on_this_machine(make) -> None:
    remote, local = make(), make(runs="local")
    output = remote.finish(remote.start("--launcher", "slurm", "--wait"))
    assert "4 DONE, 1 SKIPPED" in output
    assert "submitted 4 cells as job" in output
    local.finish(local.start())
    assert len(remote.cells()) == len(local.cells()) == 4
    for run, reference in zip(remote.cells(), local.cells(), strict=True):
        assert run.signature == reference.signature
        assert_same(run, reference)


@pytest.mark.parametrize("devices", [1, 2])
@pytest.mark.parametrize("warned", [warned_by_requeue, warned_by_signal, warned_by_time_limit])
def test_a_stopped_cell_goes_on_as_if_nothing_had_happened(
    make, one_cell: Path, undisturbed, warned: Callable[..., None], devices: int
) -> None:
    sweep = make(one_cell)
    # SLURM may warn up to a minute too early: not before the cell is frozen in its training
    limits = ("resources.slurm.time=3", "resources.slurm.signal_delay_s=40")
    sets = (*LONG, f"resources.devices={devices}")
    sets += limits if warned is warned_by_time_limit else ()
    client = sweep.start("--launcher", "slurm", "--wait", sets=sets)
    run, pids = frozen_in_training(sweep, devices)
    warned(sweep.cluster, run.read_starts()[0]["job"], pids)
    output = sweep.finish(client)
    assert run.state() == State.DONE, output
    steps = [start["step"] for start in run.read_starts()]
    assert len(steps) == 2 and 0 == steps[0] < steps[1], output
    assert_same(run, undisturbed(devices))


def test_a_killed_rank_fails_its_cell_alone(make) -> None:
    """Within a minute, with the place where it was; the other cells end well; --retry repairs."""
    sweep = make()
    sets = ("resources.devices=2", "train.epochs=50", "train.validate_every=25")
    client = sweep.start("--launcher", "slurm", "--wait", sets=sets)

    def training() -> RunDir | None:
        for run in sweep.cells():
            if run.metrics.exists() and run.metrics.stat().st_size and len(ranks(run)) == 2:
                return run
        return None

    victim = until(training, "a cell to train")
    pids = ranks(victim)
    until(victim.rank_stack(1).exists, "the stack of rank 1 to be on record")
    os.kill(pids[1], signal.SIGKILL)
    killed = time.monotonic()
    until(lambda: victim.state() == State.FAILED, "the cell to fail")
    assert time.monotonic() - killed < 60
    assert "SIGKILL" in victim.error.read_text()
    output = sweep.finish(client)
    states = sorted(run.state() for run in sweep.cells())
    assert states == [State.DONE] * 3 + [State.FAILED], output
    output = sweep.finish(sweep.start("--launcher", "slurm", "--wait", "--retry", sets=sets))
    assert {run.state() for run in sweep.cells()} == {State.DONE}, output


def test_packed_cells_share_a_job_and_each_has_its_own_fate(make) -> None:
    sweep = make()
    output = sweep.finish(sweep.start("--launcher", "slurm", "--wait", sets=("resources.pack=3",)))
    assert {run.state() for run in sweep.cells()} == {State.DONE}, output
    jobs = {run.read_starts()[0]["job"] for run in sweep.cells()}
    assert len(jobs) == 2


def test_code_edited_after_the_submission_is_not_what_runs(make, cluster, tmp_path: Path) -> None:
    """The client's own copy of the suite is broken while its jobs wait."""
    copy = tmp_path / "source"
    copy.mkdir()
    for name in ("bench", "tasks", "sweeps"):
        subprocess.run(["cp", "-r", str(ROOT / name), str(copy / name)], check=True)
    cluster.ask("scontrol", "update", "partitionname=main", "state=DOWN")
    sweep = make(copy / "sweeps/ablation.yaml")
    sweep.cluster = real.Cluster(
        cluster.folder, {**cluster.env, "PYTHONPATH": str(copy), "PYTHONSAFEPATH": "1"}
    )
    try:
        output = sweep.finish(sweep.start("--launcher", "slurm"))
        assert "submitted 4 cells" in output
        for path in (*copy.glob("bench/*.py"), *copy.glob("tasks/**/*.py")):
            path.write_text("raise RuntimeError('edited')\n")
    finally:
        cluster.ask("scontrol", "update", "partitionname=main", "state=UP")
    until(lambda: {run.state() for run in sweep.cells()} == {State.DONE}, "the cells")


def test_own_components_that_are_gone_after_the_submission_run(
    make, cluster, tmp_path: Path
) -> None:
    own = tmp_path / "own"
    shutil.copytree(ROOT / "tests/fixtures/components", own)
    cluster.ask("scontrol", "update", "partitionname=main", "state=DOWN")
    sweep = make(Path("own"))
    try:
        asked = ("--launcher", "slurm", "--scale", "tiny", "--components", str(own))
        output = sweep.finish(sweep.start(*asked))
        assert "submitted 2 cells" in output
        shutil.rmtree(own)
    finally:
        cluster.ask("scontrol", "update", "partitionname=main", "state=UP")
    until(lambda: {run.state() for run in sweep.cells()} == {State.DONE}, "the cells")


# -- submitting, with cells that end at once ---


@pytest.fixture
def quick(tmp_path: Path) -> Callable[[int, str], list[RunDir]]:
    """quick(n, shell): cells whose process is a shell script; $1 is the run directory."""

    def cells(count: int, shell: str) -> list[RunDir]:
        (tmp_path / "cell.sh").write_text(f'echo "$BENCH_JOB" >> "$1/ran"\n{shell}\n')
        found = []
        for i in range(count):
            run = RunDir(tmp_path / f"runs/cell{i}")
            run.create({}, {}, "x")
            found.append(run)
        return found

    return cells


DONE = """echo '{"data_digest": ""}' > "$1/part" && mv "$1/part" "$1/result.json" """


def client_of(runs: list[RunDir], env: Any, pack: int = 1) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", CLIENT, str(runs[0].path.parent), str(len(runs)), str(pack)]
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env=dict(env),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def ran(run: RunDir) -> int:
    path = run.path / "ran"
    return len(path.read_text().splitlines()) if path.exists() else 0


def test_a_client_that_is_killed_again_and_again_runs_every_cell_once(cluster, quick) -> None:
    runs = quick(40, f"sleep 0.5; {DONE}")
    chance = random.Random(0)
    for attempt in range(20):  # each has two more cells to submit, and waits for those before
        client = client_of(runs[: 2 * attempt + 2], cluster.env)
        assert client.stdout is not None and client.stdout.readline() == "ready\n"
        time.sleep(chance.uniform(0.0, 0.5))
        client.kill()
        client.communicate()
    client = client_of(runs, cluster.env)
    output = client.communicate(timeout=400)[0]
    assert client.returncode == 0, output
    assert [ran(run) for run in runs] == [1] * 40
    assert {run.state() for run in runs} == {State.DONE}


def test_cancel_from_another_shell(cluster, quick) -> None:
    """Cells that run and cells that wait: all end, none FAILED, and the client notices."""
    # SLURM signals the sleep too: where it dies first, the shell has not heard yet
    runs = quick(12, "trap 'exit 75' TERM; while :; do sleep 600 & wait; done")
    client = client_of(runs, cluster.env)
    until(lambda: sum(ran(run) for run in runs) >= 8, "eight cells to run")
    assert slurm.cancel(runs) == 12
    output = client.communicate(timeout=200)[0]
    assert client.returncode == 0, output
    assert {run.state() for run in runs} <= {State.INTERRUPTED, State.PREEMPTED}, output
    assert {run.read_outcome()["kind"] for run in runs} == {Failure.CANCELLED}
    assert not any(state in ("RUNNING", "PENDING") for state, *_ in cluster.jobs().values())


def test_a_pending_cell_says_why_and_when(cluster, quick) -> None:
    [run] = quick(1, DONE)
    items = [Item(run, Resources(device="cpu", slurm=Slurm(extra={"hold": True})), "held")]
    folder = run.path.parent
    slurm.run_slurm(items, runs=folder, sweep="held", wait=False, on_change=print, tick=int)
    queue = slurm.Queue(folder)
    queue.refresh()
    status = queue.status(run)
    assert (status.state, status.activity) == (State.PENDING, Activity.ACTIVE)
    assert "JobHeldUser" in status.reason
    assert json.loads((jobs_folder(folder) / run.read_claim()["batch"] / "batch.json").read_text())


def test_what_the_cluster_will_never_take_is_said_in_its_words(cluster, quick) -> None:
    [run] = quick(1, DONE)
    items = [Item(run, Resources(device="cpu", slurm=Slurm(partition="nowhere")), "lost")]
    with pytest.raises(slurm.Refused, match="invalid partition specified: nowhere"):
        slurm.run_slurm(
            items, runs=run.path.parent, sweep="x", wait=False, on_change=print, tick=int
        )
    assert run.state() == State.NEW


def test_a_job_that_fails_before_its_cell_shows_its_output(cluster, quick) -> None:
    [run] = quick(1, DONE)
    broken = Slurm(setup=("module load cuda/no.such", "exit 3"))
    items = [Item(run, Resources(device="cpu", slurm=broken), "broken")]
    slurm.run_slurm(
        items,
        runs=run.path.parent,
        sweep="x",
        wait=True,
        on_change=print,
        tick=int,
        poll_s=(0.3, 0.3),
    )
    assert run.state() == State.FAILED
    assert "module" in run.error.read_text()
    assert "before the cell began" in run.error_line()


# -- cells that start from another ---

PRETRAIN = """
title: pretrain and fine-tune
cells:
  image ViT:
    data: {name: mini_imagenet9, train: 90, val: 18, test: 18, size: 24}
    input: {frames: 1, size: 24}
    model: {name: vit}
    objectives: {classify: {}}
    train: {epochs: 100, batch: 9, validate_every: 50}
base:
  model: {name: timesformer, init: {cell: image ViT}}
  objectives: {classify: {}}
  evaluations: {video.shuffle_gap: {}}
axes:
  method:
    baseline: {}
    + order: {objectives: {video.order: {}}}
seeds: [0, 1]
"""


def test_what_starts_from_a_cell_waits_for_it_and_ends_undisturbed(
    make: Callable[..., Sweep], cluster: real.Cluster, tmp_path: Path
) -> None:
    """One command, a source and four cells; the source is killed in the middle, then a cell."""
    file = tmp_path / "pretrain.yaml"
    file.write_text(PRETRAIN)
    sets = ("train.epochs=30", "train.validate_every=10", "resources.checkpoint_minutes=0.02")
    quiet = make(file, "quiet")
    output = quiet.finish(quiet.start("--launcher", "local", sets=sets))
    references = {run.signature: run for run in quiet.cells()}
    assert len(references) == 5 and all(r.is_done() for r in references.values()), output

    sweep = make(file)
    client = sweep.start("--launcher", "slurm", "--wait", sets=sets)

    def source() -> RunDir | None:
        image = [r for r in sweep.cells() if r.read_config()["model"]["name"] == "vit"]
        return image[0] if image and trains(image[0]) else None

    image = until(source, "the source to train")
    pids = ranks(image)
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    others = [run for run in sweep.cells() if run.signature != image.signature]
    until(lambda: cluster.ask("squeue", "-h", "-r", "-o", "%E").count("afterok") == 4, "the others")
    assert not any(run.read_starts() for run in others)
    [job] = [job for job, (state, *_) in cluster.jobs().items() if state == "RUNNING"]
    warned_by_requeue(cluster, job, pids)
    first = until(
        lambda: next((r for r in others if trains(r)), None),
        "a cell to train",
    )
    for pid in ranks(first):
        os.kill(pid, signal.SIGKILL)
    output = sweep.finish(client)
    output += sweep.finish(sweep.start("--launcher", "slurm", "--wait", sets=sets))
    for run in sweep.cells():
        assert run.is_done(), output
        assert_same_weights(run, references[run.signature])


def trains(run: RunDir) -> bool:
    return bool(run.metrics.exists() and run.metrics.stat().st_size and ranks(run))


def assert_same_weights(run: RunDir, reference: RunDir) -> None:
    ours, theirs = (torch.load(r.last, weights_only=False)["learner"] for r in (run, reference))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
