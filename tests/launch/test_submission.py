"""Handing cells to SLURM, against stand-ins of its commands that keep limits, refuse, fall silent and
kill the client. What a real SLURM does is in test_slurm.py.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench.config.resources import Resources, Slurm
from bench.launch.item import Item
from bench.launch.slurm import client as slurm
from bench.store import snapshot
from bench.store.failure import Failure
from bench.store.rundir import Activity, RunDir, RunStatus, State, jobs_folder

# sbatch, squeue, scontrol, sinfo, sacct and scancel in one file, by the name they are called with.
# state.json has the jobs and what the test wants: limits, answers. Time passes at each squeue.
FAKE = r"""#!/usr/bin/python3 -S
import fcntl, json, os, re, signal, sys, time
from pathlib import Path
here = Path(__file__).resolve().parent
lock = open(here / "lock", "w")
fcntl.flock(lock, fcntl.LOCK_EX)
state = json.loads((here / "state.json").read_text())
name, arguments = Path(sys.argv[0]).name, sys.argv[1:]
state["calls"].append([name, *arguments])

def done(text="", error="", status=0):
    (here / "state.json").write_text(json.dumps(state))
    print(text, end="")
    print(error, end="", file=sys.stderr)
    sys.exit(status)

def refuse(reason):
    done(error=f"sbatch: error: Batch job submission failed: {reason}\n", status=1)

open_jobs = lambda: [j for j in state["jobs"] if j["state"] in ("PENDING", "RUNNING")]
if name == "scontrol":
    done(f"MaxArraySize            = {state['max_array']}\nMaxJobCount = 10000\n")
if name == "sinfo":
    done("gpu:a100:4\n" if state["gpus"] else "(null)\n")
if name in ("sacct", "squeue") and state["silent"]:
    done(error=f"{name}: error: Unable to contact slurm controller", status=1)
if name == "sacct":
    done("".join(f"{job}|{word}\n" for job, word in state["sacct"].items()))
if name == "scancel":
    for array, tasks in (re.match(r"(\d+)_\[(.*)\]", a).groups() for a in arguments):
        for job in state["jobs"]:
            if job["job"] in [f"{array}_{task}" for task in tasks.split(",")]:
                job["state"] = "CANCELLED"
    done()
if name == "squeue":
    rows = [j for j in state["jobs"] if j["shown"]]
    text = "".join(f"{j['job']}|{os.getuid()}|{j['state']}|n1|N/A|Priority|{j['name']}\n" for j in rows)
    for job in open_jobs() if state["work"] else ():
        batch = json.loads((Path(job["folder"]) / "batch.json").read_text())
        for cell in batch["cells"][int(job["job"].split("_")[1])]:
            with (Path(batch["runs"]) / cell / "ran").open("a") as handle:
                handle.write(job["job"] + "\n")
            (Path(batch["runs"]) / cell / "result.json").write_text('{"data_digest": ""}')
        job.update(state="COMPLETED", shown=False)
    done(text)

script = Path(arguments[-1]).read_text()
count = int(re.search(r"--array=0-(\d+)", script)[1]) + 1
job_name = re.search(r"--job-name=(\S+)", script)[1]
state["scripts"].append(script)
state["environments"].append(dict(os.environ))
if state["kill_client"] == "before":
    os.kill(os.getppid(), signal.SIGKILL)
    done()
if state["refuse"]:
    refuse(state["refuse"])
if count > state["max_array"] or count > state["max_count"]:
    refuse("Invalid job array specification")
if len(open_jobs()) + count > state["max_queued"]:
    print("sbatch: error: QOSMaxSubmitJobPerUserLimit", file=sys.stderr)
    refuse("Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)")
if state["unsure"] == "lost":
    refuse("Socket timed out on send/recv operation")
if state["kill_client"] == "slow":
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(0.5)
state["next"] += 1
for task in range(count):
    job = {"job": f"{state['next']}_{task}", "name": job_name, "state": "PENDING", "shown": True}
    state["jobs"].append({**job, "folder": str(Path(arguments[-1]).parent)})
if state["kill_client"] == "after":
    os.kill(os.getppid(), signal.SIGKILL)
if state["unsure"] == "taken":
    refuse("Socket timed out on send/recv operation")
done(f"{state['next']}\n")
"""


class FakeSlurm:
    """The stand-ins, on the PATH; `set` changes what they answer, `state` has what they were asked."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        folder.mkdir()
        (folder / "fake").write_text(FAKE)
        (folder / "fake").chmod(0o755)
        for name in ("sbatch", "squeue", "scontrol", "sinfo", "sacct", "scancel"):
            (folder / name).symlink_to("fake")
        state: dict[str, Any] = {"next": 0, "max_array": 1001, "max_queued": 10**6}
        state |= {"max_count": 10**6, "work": True, "gpus": False, "silent": False, "sacct": {}}
        state |= {"kill_client": "", "refuse": "", "unsure": ""}
        state |= {name: [] for name in ("jobs", "calls", "scripts", "environments")}
        self._write(state)
        monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")

    def _write(self, state: dict[str, Any]) -> None:
        (self.folder / "state.json").write_text(json.dumps(state))

    @property
    def state(self) -> dict[str, Any]:
        return json.loads((self.folder / "state.json").read_text())

    def set(self, **changes: Any) -> None:
        self._write(self.state | changes)

    def calls(self, name: str) -> int:
        return sum(call[0] == name for call in self.state["calls"])

    def end(self, word: str, *, shown: bool = True) -> None:
        """All jobs end like this; with `shown` squeue still knows."""
        jobs = [{**job, "state": word, "shown": shown} for job in self.state["jobs"]]
        self.set(jobs=jobs)


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    # The snapshot is not the subject here, and takes longer than all the rest.
    monkeypatch.setattr(snapshot, "take", lambda runs: jobs_folder(runs) / "code/0123456789abcdef")
    return FakeSlurm(tmp_path / "fake", monkeypatch)


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., list[Item]]:
    """make(n, **resources): cells as the sweep hands them over."""

    def cells(count: int, prefix: str = "cell", **resources: Any) -> list[Item]:
        items = []
        for i in range(count):
            run = RunDir(tmp_path / "runs" / f"{prefix}{i}")
            run.path.mkdir(parents=True)
            run.config.write_text("# sha256 of the full config: x\ndata: {}\nseed: 0\n")
            items.append(Item(run, Resources(**resources), run.signature))
        return items

    return cells


def launch(items: list[Item], *, wait: bool, shown: list[Any] | None = None) -> None:
    slurm.run_slurm(
        items,
        runs=items[0].run.path.parent,
        sweep="ablation",
        wait=wait,
        on_change=lambda run, state: (
            shown.append((run.signature, state)) if shown is not None else None
        ),
        tick=lambda: None,
        poll_s=(0.0, 0.0),
    )


def status_of(item: Item) -> RunStatus:
    queue = slurm.Queue(item.run.path.parent)
    queue.refresh()
    return queue.status(item.run)


def begin(item: Item, step: int) -> None:
    """As a job of the cell's claim would."""
    claim = item.run.read_claim()
    with item.run.starts.open("a") as handle:
        handle.write(json.dumps({"claimed": claim["batch"], "step": step, "time": 1.0}) + "\n")
    item.run.env.write_text("{}")


def ran(item: Item) -> int:
    path = item.run.path / "ran"
    return len(path.read_text().splitlines()) if path.exists() else 0


# -- limits ---


def test_every_cell_gets_in_once_whatever_the_limits(fake, make, monkeypatch) -> None:
    fake.set(max_array=60, max_queued=150)
    looks = []
    real = slurm.Queue.refresh
    monkeypatch.setattr(slurm.Queue, "refresh", lambda self: (looks.append(1), real(self))[1])
    items = make(500)
    launch(items, wait=True)
    assert {ran(item) for item in items} == {1}
    assert {item.run.state() for item in items} == {State.DONE}
    assert fake.calls("squeue") == len(looks) <= 10
    assert fake.calls("sacct") == 0
    assert fake.calls("scontrol") == 1
    assert len(fake.state["jobs"]) == 500


def test_a_client_that_does_not_wait_stays_until_all_are_in(fake, make) -> None:
    fake.set(max_queued=4)
    items = make(10)
    launch(items, wait=False)
    assert len(fake.state["jobs"]) == 10
    assert {ran(item) for item in items} <= {0, 1}


def test_arrays_keep_to_the_clusters_size(fake, make) -> None:
    fake.set(max_array=4)
    launch(make(10), wait=False)
    sizes = [int(re.search(r"--array=0-(\d+)", s)[1]) + 1 for s in fake.state["scripts"]]
    assert sizes == [4, 4, 2]


def test_the_clusters_size_is_learned_where_scontrol_does_not_say(fake, make) -> None:
    fake.set(max_count=4)
    items = make(10)
    launch(items, wait=True)
    assert {ran(item) for item in items} == {1}
    sizes = [int(re.search(r"--array=0-(\d+)", s)[1]) + 1 for s in fake.state["scripts"]]
    assert sizes == [10, 5, 2, 2, 2, 2, 2]


def test_a_refusal_for_good_has_sbatchs_words_and_leaves_nothing_claimed(fake, make) -> None:
    items = make(3, slurm=Slurm(partition="gpu", time=90))
    items[0].run.write_outcome(State.FAILED, Failure.BUG, reason="x", traceback="ValueError: x\n")
    fake.set(refuse="Invalid account or account/partition combination specified")
    with pytest.raises(slurm.Refused, match="Invalid account or account/partition") as error:
        launch(items, wait=False)
    assert "partition gpu" in str(error.value)
    assert "90 min" in str(error.value)
    assert [item.run.read_claim() for item in items] == [{}, {}, {}]
    assert [item.run.state() for item in items] == [State.FAILED, State.NEW, State.NEW]
    assert items[0].run.read_outcome()["kind"] == Failure.BUG
    assert not list(jobs_folder(items[0].run.path.parent).glob("*/batch.json"))


def test_a_limit_that_one_job_alone_exceeds_is_for_good(fake, make) -> None:
    fake.set(max_queued=0)
    with pytest.raises(slurm.Refused, match="QOSMaxSubmitJobPerUserLimit"):
        launch(make(2), wait=False)


def test_warning_longer_than_the_time_limit(fake, make) -> None:
    with pytest.raises(ValueError, match="signal_delay_s"):
        launch(make(1, slurm=Slurm(time=1)), wait=False)
    assert fake.calls("sbatch") == 0


# -- what is asked for ---


def test_one_array_per_shape_and_pack_cells_per_task(fake, make) -> None:
    small = make(7, "small", pack=3, threads=2)
    large = make(
        2, "large", devices=4, nodes=2, workers=1, device="cuda", slurm=Slurm(time="1-0:0:0")
    )
    shown: list[Any] = []
    launch(small + large, wait=True, shown=shown)
    first, second = fake.state["scripts"]
    assert "--array=0-2%3" in first
    assert "--cpus-per-task=6" in first.partition("srun ")[2]
    assert "gpus-per-node" not in first
    for line in ("nodes=2", "ntasks-per-node=1", "gpus-per-node=4", "time=1440", "requeue"):
        assert f"#SBATCH --{line}\n" in second
    assert "--cpus-per-task=8" in second.partition("srun ")[2]
    assert "--kill-on-bad-exit=1" in second
    assert {ran(item) for item in small + large} == {1}
    assert ("small0", State.PENDING) in shown
    assert ("small0", State.DONE) in shown


@pytest.mark.parametrize(
    ("device", "cluster_has", "asked"),
    [("auto", True, True), ("auto", False, False), ("cpu", True, False), ("cuda", False, True)],
)
def test_gpus_are_asked_for_where_the_cell_can_use_them(
    fake, make, device: str, cluster_has: bool, asked: bool
) -> None:
    fake.set(gpus=cluster_has)
    items = make(5, device=device, devices=2, slurm=Slurm(time=30))
    [script] = slurm.scripts(items, runs=items[0].run.path.parent, sweep="ablation")
    assert ("--gpus-per-node=2" in script.text) == asked
    assert script.count == 5
    assert (script.gpu_hours, script.core_hours) == ((5.0, 0.0) if asked else (0.0, 5.0))


def test_a_plan_shows_what_would_be_submitted_and_touches_nothing(fake, make) -> None:
    items = make(
        4, slurm=Slurm(partition="gpu", account="me", setup=("module load x",), mem_gb=1.5)
    )
    runs = items[0].run.path.parent
    before = sorted(runs.rglob("*"))
    [script] = slurm.scripts(items, runs=runs, sweep="a b")
    assert sorted(runs.rglob("*")) == before
    launch(items, wait=False)
    slurm.run_slurm([], runs=runs, sweep="a b", wait=False, on_change=print, tick=int)
    [submitted] = fake.state["scripts"]
    batch = items[0].run.read_claim()["batch"]
    code = items[0].run.read_claim()["code"]
    submitted = (
        submitted.replace(batch, "<batch>").replace(code, "<code>").replace("-ablation-", "-a_b-")
    )
    assert submitted.replace("'", "") == script.text.replace("'", "")
    for line in ("partition=gpu", "account=me", "mem=1536M", "job-name=bench-a_b-"):
        assert f"#SBATCH --{line}" in submitted
    assert submitted.index("module load x") < submitted.index("export PYTHONPATH")


def test_a_job_sees_own_components_as_submitted(make, monkeypatch) -> None:
    monkeypatch.setenv("BENCH_COMPONENTS", "/home/me/one:/home/me/two")
    items = make(1)
    [script] = slurm.scripts(items, runs=items[0].run.path.parent, sweep="s")
    assert "<code>/components/0:" in script.text and "<code>/components/1'" in script.text
    assert "/home/me" not in script.text and "export BENCH_COMPONENTS=" in script.text


def test_from_inside_an_allocation_as_from_a_login_node(fake, make, monkeypatch) -> None:
    monkeypatch.setenv("SLURM_CONF", "/etc/here.conf")
    launch(make(2, "outside"), wait=True)
    for name in ("SLURM_JOB_ID", "SLURM_CPUS_PER_TASK", "SRUN_CPUS_PER_TASK", "SBATCH_TIMELIMIT",
                 "SLURMD_NODENAME", "SUBMITIT_EXECUTOR", "RANK", "WORLD_SIZE", "LOCAL_RANK",
                 "BENCH_JOB", "CUDA_VISIBLE_DEVICES", "SQUEUE_FORMAT"):  # fmt: skip
        monkeypatch.setenv(name, "1")
    launch(make(2, "inside"), wait=True)
    outside, inside = (
        re.sub(r"[0-9a-f]{12}", "<batch>", script) for script in fake.state["scripts"]
    )
    assert inside == outside
    first, second = fake.state["environments"]
    assert second == first
    assert second["SLURM_CONF"] == "/etc/here.conf"


def test_a_node_whose_devices_fail_is_left_out(fake, make) -> None:
    items = make(3, slurm=Slurm(exclude="n9"))
    for item in items[:2]:
        item.run.write_outcome(State.FAILED, Failure.DEVICE, reason="x", host="n3.cluster")
    items[2].run.write_outcome(State.FAILED, Failure.DEVICE, reason="x", host="n4")
    launch(items, wait=False)
    assert "--exclude=n9,n3\n" in fake.state["scripts"][0]


# -- a client that dies ---


@pytest.mark.parametrize("when", ["before", "after", "slow"])
def test_client_killed_during_sbatch(fake, make, when: str) -> None:
    """Before SLURM has the job: the next client submits. After, or while sbatch lives on: it does
    not.
    """
    fake.set(kill_client=when, work=False)
    items = make(3)
    client = multiprocessing.get_context("fork").Process(
        target=launch, args=(items,), kwargs={"wait": False}
    )
    client.start()
    client.join()
    assert client.exitcode == -signal.SIGKILL
    fake.set(kill_client="")
    launch(items, wait=False)
    fake.set(work=True)
    launch(items, wait=True)
    assert {ran(item) for item in items} == {1}
    assert len(fake.state["jobs"]) == 3
    assert fake.calls("sbatch") == (2 if when == "before" else 1)


def test_cells_in_the_queue_are_not_submitted_again_but_waited_for(fake, make) -> None:
    fake.set(work=False)
    items = make(3)
    launch(items[:2], wait=False)
    assert status_of(items[0]).state == State.PENDING
    assert status_of(items[0]).reason == "Priority"
    fake.set(work=True)
    launch(items, wait=True)
    assert {ran(item) for item in items} == {1}
    assert len(fake.state["jobs"]) == 3


# -- a controller that does not answer ---


def test_nothing_is_submitted_again_while_squeue_is_silent(fake, make, caplog) -> None:
    fake.set(work=False)
    items = make(2)
    launch(items, wait=False)
    fake.set(silent=True)
    launch(items, wait=False)
    assert status_of(items[0]).activity == Activity.UNKNOWN
    assert "Unable to contact" in status_of(items[0]).reason
    assert len(fake.state["jobs"]) == 2
    assert fake.calls("sbatch") == 1
    assert any("queue is unknown" in record.message for record in caplog.records)


@pytest.mark.parametrize("fate", ["taken", "lost"])
def test_sbatch_that_cannot_say_whether_it_worked(fake, make, fate: str) -> None:
    fake.set(unsure=fate)
    items = make(2)

    real_refresh = slurm.Queue.refresh
    count = []

    def looked(self: slurm.Queue) -> None:
        count.append(1)
        if len(count) == 2:
            fake.set(unsure="")
        real_refresh(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(slurm.Queue, "refresh", looked)
        launch(items, wait=True)
    assert {ran(item) for item in items} == {1}
    assert fake.calls("sbatch") == (1 if fate == "taken" else 2)


# -- jobs that are gone ---


@pytest.mark.parametrize("source", ["squeue", "sacct"])
@pytest.mark.parametrize(
    ("word", "state", "kind"),
    [
        ("TIMEOUT", State.INTERRUPTED, Failure.TIMEOUT),
        ("NODE_FAIL", State.INTERRUPTED, Failure.NODE_FAIL),
        ("OUT_OF_MEMORY", State.FAILED, Failure.OOM),
        ("CANCELLED", State.INTERRUPTED, Failure.CANCELLED),
        ("FAILED", State.INTERRUPTED, None),
    ],
)
def test_a_cell_that_began_and_whose_job_is_gone(
    fake, make, source: str, word: str, state: State, kind: Failure | None
) -> None:
    fake.set(work=False)
    [item] = make(1)
    launch([item], wait=False)
    begin(item, 0)
    fake.end(word, shown=source == "squeue")
    fake.set(sacct={"1_0": f"{word} by 0"})
    assert status_of(item).state == state
    assert item.run.read_outcome()["kind"] == kind
    assert item.run.state() == state
    assert fake.calls("sacct") == (source == "sacct")
    assert status_of(item).activity == Activity.IDLE


def test_a_cell_that_was_stopped_and_whose_job_does_not_come_back(fake, make) -> None:
    fake.set(work=False)
    [item] = make(1)
    launch([item], wait=False)
    begin(item, 0)
    item.run.write_outcome(State.PREEMPTED, reason="SIGTERM", goes_on=True)
    waiting = status_of(item)
    assert (waiting.state, waiting.activity) == (State.PREEMPTED, Activity.ACTIVE)
    fake.end("CANCELLED", shown=True)
    gone = status_of(item)
    assert (gone.state, gone.activity) == (State.PREEMPTED, Activity.IDLE)
    assert item.run.read_outcome()["kind"] == Failure.CANCELLED


@pytest.mark.parametrize(
    ("word", "output", "state"),
    [
        ("FAILED", "module: command not found\n", State.FAILED),
        ("CANCELLED", None, State.INTERRUPTED),
        ("NODE_FAIL", None, State.NEW),
        ("", None, State.NEW),
        ("", "module: command not found\n", State.FAILED),
    ],
)
def test_a_cell_that_never_began_and_whose_job_is_gone(
    fake, make, word: str, output: str | None, state: State
) -> None:
    fake.set(work=False)
    [item] = make(1)
    launch([item], wait=False)
    if output:
        batch = item.run.read_claim()["batch"]
        (jobs_folder(item.run.path.parent) / batch / "1_0_0_log.out").write_text(output)
    fake.end(word or "COMPLETED", shown=bool(word))
    assert status_of(item).state == state
    assert item.run.state() == state
    if state == State.FAILED:
        assert "command not found" in item.run.error.read_text()
        assert "1_0_0_log.out" in item.run.error_line()


def test_who_waits_goes_on_with_what_got_further(fake, make) -> None:
    """A cell whose node died is submitted again as long as its starts get further; one that was
    cancelled is not.
    """
    fake.set(work=False)
    items = make(3)
    launch(items, wait=False)
    for item, steps in zip(items, ([0], [7, 7], [0]), strict=True):
        for step in steps:
            begin(item, step)
    jobs = fake.state["jobs"]
    words = ("NODE_FAIL", "NODE_FAIL", "CANCELLED")
    jobs = [{**job, "state": word} for job, word in zip(jobs, words, strict=True)]
    fake.set(jobs=jobs)
    shown: list[Any] = []

    fake.set(work=True)
    launch(items, wait=True, shown=shown)
    assert [ran(item) for item in items] == [1, 0, 0]
    # The cells were chosen by whoever called; the first look finds their jobs gone.
    assert ("cell1", State.INTERRUPTED) in shown


# -- cancelling ---


def test_cancel_stops_only_these_cells_and_whoever_would_submit_them(fake, make) -> None:
    fake.set(work=False, max_queued=2)
    items = make(4)
    shown: list[Any] = []
    real_refresh = slurm.Queue.refresh
    count = []

    def looked(self: slurm.Queue) -> None:
        count.append(1)
        if len(count) == 2:  # two are in the queue, two wait: somebody else cancels two
            assert slurm.cancel([items[1].run, items[3].run]) == 1
            fake.set(work=True)
        real_refresh(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(slurm.Queue, "refresh", looked)
        launch(items, wait=True, shown=shown)
    assert [ran(item) for item in items] == [1, 0, 1, 0]
    assert items[1].run.state() == State.INTERRUPTED
    assert items[1].run.read_outcome()["kind"] == Failure.CANCELLED
    assert items[3].run.state() == State.NEW
    cancels = [call for call in fake.state["calls"] if call[0] == "scancel"]
    assert cancels == [["scancel", "1_[1]"]]


def test_cancel_leaves_a_job_that_has_other_cells_to_do(fake, make) -> None:
    fake.set(work=False)
    items = make(4, pack=2)
    launch(items, wait=False)
    assert slurm.cancel([items[0].run, items[2].run, items[3].run]) == 1
    assert [job["state"] for job in fake.state["jobs"]] == ["PENDING", "CANCELLED"]
