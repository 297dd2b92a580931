"""The local queue and the snapshot of the code: real supervisors, with stand-ins for the training."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import torch
from makers import ROOT

from bench.config.resources import Resources
from bench.grid.plan import plan
from bench.launch import local as launcher
from bench.launch.item import Item
from bench.launch.local import Gpu
from bench.process.machine import process_started
from bench.run.directory import create
from bench.store import snapshot
from bench.store.failure import Failure
from bench.store.files import read_json
from bench.store.rundir import Activity, RunDir, State

STANDIN = (sys.executable, str(ROOT / "tests/standins.py"))


def make_items(runs: Path, names: str, **resources: Any) -> list[Item]:
    """A cell per letter; one thread each on the CPU unless said otherwise."""
    parsed = Resources(**({"device": "cpu"} | resources))
    items = []
    for name in names:
        run = RunDir(runs / name)
        run.create({}, parsed.model_dump(mode="json"), "")
        items.append(Item(run, parsed, f"cell {name}"))
    return items


def launch(
    items: list[Item], mode: str, runs: Path, *, tick: Callable[[], None] = lambda: None
) -> list[tuple[str, State]]:
    """Run the cells; returns the changes of state in their order."""
    changes: list[tuple[str, State]] = []
    launcher.run_local(
        items,
        runs=runs,
        on_change=lambda run, state: changes.append((run.signature, state)),
        tick=tick,
        command=(*STANDIN, *mode.split()),
    )
    return changes


def in_background(items: list[Item], mode: str, runs: Path) -> BaseProcess:
    """A client of its own, which inherits what this one was made to believe of the machine."""
    process = multiprocessing.get_context("fork").Process(
        target=launch, args=(items, mode, runs), daemon=True
    )
    process.start()
    return process


def until(what: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 60
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launcher, "available_cores", lambda: 2)


@pytest.fixture
def three_gpus(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """This machine has three GPUs, as far as the launcher knows."""
    found = tuple(Gpu(str(n), f"GPU-{n}-of-{tmp_path.name}") for n in (4, 5, 7))
    monkeypatch.setattr(launcher, "gpus", lambda: found)
    yield
    for lock in launcher.lease_folder().glob(f"*-of-{tmp_path.name}.lock"):
        lock.unlink()


def times(items: list[Item]) -> list[dict[str, Any]]:
    return [read_json(item.run.path / "times.json") or {} for item in items]


def at_once(spans: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Which cells ran, at each moment when one began."""
    return [[s for s in spans if s["begun"] <= t["begun"] < s["ended"]] for t in spans]


# -- the queue ---


def test_what_another_client_has_ended_meanwhile_is_not_started(
    tmp_path: Path, two_cores: None
) -> None:
    items = make_items(tmp_path, "ab")
    items[0].run.result.write_text('{"data_digest": ""}')  # after the choice of cells
    changes = launch(items, "done", tmp_path)
    assert [state for name, state in changes if name == "a"] == [State.DONE]
    assert items[0].run.read_claim() == {} and ("b", State.DONE) in changes


def test_no_more_cells_than_slots(tmp_path: Path, two_cores: None) -> None:
    items = make_items(tmp_path, "abcde")
    changes = launch(items, "begin meet2 end done", tmp_path)
    assert max(len(now) for now in at_once(times(items))) == 2
    assert [name for name, state in changes if state == State.RUNNING] == list("abcde")
    assert [state for _, state in changes].count(State.DONE) == 5
    assert launcher.slots(Resources(device="cpu")) == 2
    assert launcher.slots(Resources(device="cpu", devices=2)) == 1
    assert launcher.slots(Resources(device="cpu", threads=8)) == 1


def test_cells_of_several_processes_take_their_share(tmp_path: Path, two_cores: None) -> None:
    items = make_items(tmp_path, "ab") + make_items(tmp_path, "c", devices=2)
    launch([items[2], *items[:2]], "times done", tmp_path)
    big, *small = times([items[2], *items[:2]])
    assert all(big["ended"] <= other["begun"] for other in small)


def test_gpus_are_never_shared(tmp_path: Path, three_gpus: None) -> None:
    items = make_items(tmp_path, "abcdef", device="cuda")
    launch(items, "begin meet3 end done", tmp_path)
    spans = times(items)
    assert {span["gpus"] for span in spans} == {"4", "5", "7"}
    for now in at_once(spans):
        assert len({span["gpus"] for span in now}) == len(now) <= 3


@pytest.mark.slow
def test_two_clients_share_the_gpus(tmp_path: Path, three_gpus: None) -> None:
    ours = make_items(tmp_path / "ours", "abc", device="cuda", devices=2)
    theirs = make_items(tmp_path / "theirs", "abc", device="auto")
    client = in_background(theirs, "times done", tmp_path / "theirs")
    launch(ours, "times done", tmp_path / "ours")
    client.join(60)
    assert client.exitcode == 0
    for now in at_once(times(ours) + times(theirs)):
        taken = [gpu for span in now for gpu in span["gpus"].split(",")]
        assert len(set(taken)) == len(taken)


def test_a_crash_frees_the_slot(tmp_path: Path, three_gpus: None) -> None:
    items = make_items(tmp_path, "ab", device="cuda", devices=3)
    for item, mode in zip(items, ("crash", "done"), strict=True):
        (item.run.path / "mode").write_text(mode)
    changes = launch(items, "by-name", tmp_path)
    assert changes[1] == ("a", State.FAILED) and changes[-1] == ("b", State.DONE)


def test_gpus_come_back_when_everything_is_killed(tmp_path: Path, three_gpus: None) -> None:
    items = make_items(tmp_path, "a", device="cuda", devices=2)
    client = in_background(items, "pids hang", tmp_path)
    until((items[0].run.path / "pid.1").exists)
    supervisor = items[0].run.read_claim()["pid"]
    client.kill()
    client.join()
    assert process_started(supervisor) is not None
    assert items[0].run.status()[:5] == (
        State.PENDING,
        Activity.ACTIVE,
        "",
        "",
        "",
    )  # the stand-in holds no lock
    assert not _can_lease(2)
    os.kill(supervisor, signal.SIGKILL)
    until(lambda: _can_lease(3))


def _can_lease(count: int) -> bool:
    with ExitStack() as held:
        return launcher._lease(launcher.gpus(), count, held) is not None


def test_more_gpus_than_there_are_is_an_error_at_once(tmp_path: Path, three_gpus: None) -> None:
    items = make_items(tmp_path, "a", device="cuda") + make_items(
        tmp_path, "b", device="cuda", devices=4
    )
    with pytest.raises(ValueError, match=r"cell b: resources.devices is 4.*offers 3 GPUs"):
        launch(items, "done", tmp_path)
    assert not (tmp_path / ".jobs").exists() and items[0].run.state() == State.NEW


def test_packed_cells_share_a_slot(tmp_path: Path, three_gpus: None) -> None:
    items = make_items(tmp_path, "abcd", device="cuda", pack=3)
    for item in items:
        (item.run.path / "mode").write_text("crash" if item.run.signature == "b" else "times")
    changes = dict(launch(items, "environment by-name done", tmp_path))
    assert changes == dict.fromkeys("acd", State.DONE) | {"b": State.FAILED}
    assert len({item.run.read_claim()["pid"] for item in items}) == 2
    gpus = [read_json(item.run.path / "environment.0") or {} for item in items]
    assert len({env["CUDA_VISIBLE_DEVICES"] for env in gpus[:3]}) == 1


def test_cells_of_a_killed_client_are_waited_for_and_count(tmp_path: Path, two_cores: None) -> None:
    items = make_items(tmp_path, "abc")
    client = in_background(items[:2], "pids go times done", tmp_path)
    for item in items[:2]:
        until((item.run.path / "pid.0").exists)
    client.kill()
    client.join()
    go = [item.run.path / "go" for item in items]
    go[2].touch()

    def tick() -> None:
        go[0].touch()  # the end of the first is what the third waits for
        if (items[2].run.path / "pid.0").exists():
            go[1].touch()

    changes = launch(items, "pids go times done", tmp_path, tick=tick)
    assert sorted(name for name, state in changes if state == State.DONE) == ["a", "b", "c"]
    first, _, third = times(items)
    assert third["begun"] >= first["ended"]
    pids = [item.run.read_claim()["pid"] for item in items]
    assert pids[2] not in pids[:2]


def test_two_clients_at_once_run_each_cell_once(tmp_path: Path, two_cores: None) -> None:
    items = make_items(tmp_path, "abcdef")
    client = in_background(items, "nap done", tmp_path)
    changes = launch(items, "nap done", tmp_path)
    client.join(60)
    assert dict(changes) == dict.fromkeys("abcdef", State.DONE)
    logs = [path.read_text() for path in tmp_path.glob(".jobs/local/*.log")]
    assert client.exitcode == 0 and logs == [""] * 6  # nobody was turned away


def test_ctrl_c_lets_cells_write_their_checkpoints(tmp_path: Path, two_cores: None) -> None:
    items = make_items(tmp_path, "abc")

    def tick() -> None:
        if all((item.run.path / "pid.0").exists() for item in items[:2]):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        launch(items, "obey pids hang", tmp_path, tick=tick)
    assert [item.run.state() for item in items] == [State.PREEMPTED, State.PREEMPTED, State.NEW]
    assert items[0].run.read_outcome()["step"] == 7


def test_a_killed_supervisor_is_a_failure_with_a_reason(tmp_path: Path, two_cores: None) -> None:
    (item,) = make_items(tmp_path, "a")
    killed: list[int] = []

    def tick() -> None:
        if (item.run.path / "pid.0").exists() and not killed:
            killed.append(item.run.read_claim()["pid"])
            os.kill(killed[0], signal.SIGKILL)

    assert launch([item], "pids hang", tmp_path, tick=tick)[-1] == ("a", State.FAILED)
    assert "supervisor of this cell ended without a result" in item.run.error_line()
    assert item.run.read_claim()["stdout"] in item.run.error_line()


# -- the code that runs ---


def test_a_snapshot_is_the_code_as_it_is_now(tmp_path: Path) -> None:
    taken = snapshot.take(tmp_path / "runs")
    assert snapshot.take(tmp_path / "runs") == taken
    for package in snapshot.PACKAGES:
        source, copy = ROOT / package, taken / package
        files = {p.relative_to(source) for p in source.rglob("*") if p.is_file()}
        files = {p for p in files if "__pycache__" not in p.parts}
        assert files == {p.relative_to(copy) for p in copy.rglob("*") if p.is_file()}
        assert all((source / p).read_bytes() == (copy / p).read_bytes() for p in files)
    assert any((taken / "bench/data/assets").iterdir())
    record = read_json(taken / "code.json")
    assert record and set(record) == {"commit", "dirty", "tree"}


def test_a_snapshot_holds_own_components(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In their order, and only what a cell imports; what changes there is other code."""
    plain, runs = snapshot.name(), tmp_path / "runs"
    own = [tmp_path / "one", tmp_path / "two"]
    for folder in own:
        for name in ("tasks/video/mine.py", "tables/mine.py"):
            (folder / name).parent.mkdir(parents=True)
            (folder / name).write_text(f"# of {folder.name}")
    monkeypatch.setenv("BENCH_COMPONENTS", f"{own[0]}:{own[1]}")
    taken = snapshot.take(runs)
    copies = [taken / "components/0", taken / "components/1"]
    assert [(copy / "tasks/video/mine.py").read_text() for copy in copies] == [
        "# of one",
        "# of two",
    ]
    assert not list(taken.rglob("tables"))
    assert snapshot.environment(taken)["BENCH_COMPONENTS"] == f"{copies[0]}:{copies[1]}"
    record = read_json(taken / "code.json")
    assert record and set(record) == {"commit", "dirty", "tree", "components"}
    (own[0] / "tables/mine.py").write_text("")
    assert snapshot.name() == taken.name != plain
    (own[0] / "tasks/video/mine.py").write_text("")
    assert snapshot.name() != taken.name
    assert snapshot.code_version()["components"] != record["components"]
    monkeypatch.delenv("BENCH_COMPONENTS")
    assert snapshot.name() == plain == snapshot.take(runs).name
    assert snapshot.environment(taken)["BENCH_COMPONENTS"] == ""
    (tmp_path / "three/sweeps").mkdir(parents=True)
    monkeypatch.setenv("BENCH_COMPONENTS", str(tmp_path / "three"))
    taken = snapshot.take(runs)  # nothing for cells in it, and yet a folder that they can look into
    assert Path(snapshot.environment(taken)["BENCH_COMPONENTS"]).is_dir()


def test_the_commit_of_another_repository_is_not_this_code_s(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The suite in the site-packages of an environment that lies in a user's repository."""
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    (tmp_path / ".gitignore").write_text(".venv")
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run([*git, "add", "."], check=True)
    subprocess.run([*git, "commit", "-qm", "theirs"], check=True)
    installed = tmp_path / ".venv/site-packages/bench/store/snapshot.py"
    installed.parent.mkdir(parents=True)
    monkeypatch.setattr(snapshot, "__file__", str(installed))
    assert snapshot.code_version() == {"commit": "unknown", "dirty": None}


def test_a_snapshot_is_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(snapshot, "write_json", die)  # the last thing that is written
        with pytest.raises(KeyboardInterrupt):
            snapshot.take(tmp_path)
    assert [p.suffix for p in (tmp_path / ".jobs/code").iterdir()] == [".tmp"]
    assert (snapshot.take(tmp_path) / "code.json").exists()


def test_many_take_the_same_snapshot_at_once(tmp_path: Path) -> None:
    with multiprocessing.get_context("fork").Pool(4) as pool:
        taken = set(pool.map(snapshot.take, [tmp_path] * 8))
    assert len(taken) == 1 and len(list((tmp_path / ".jobs/code").iterdir())) == 1


@pytest.mark.slow
def test_jobs_run_the_code_of_their_submission(tmp_path: Path) -> None:
    """The source is edited while a cell waits for its slot."""
    source, runs = tmp_path / "source", tmp_path / "runs"
    for package in snapshot.PACKAGES:
        shutil.copytree(ROOT / package, source / package, ignore=shutil.ignore_patterns("*.pyc"))
    probe = source / "bench/probe.py"
    script = (
        "import sys; from pathlib import Path; import standins; from bench.store import snapshot;"
        "run = Path(sys.argv[-1]); standins.act('pids', run, 0); standins.act('go', run, 0);"
        "answer = {'data_digest': '', 'answer': VALUE, 'code': snapshot.code_version()};"
        "standins.write(run / 'result.json', answer)\n"
    )
    probe.write_text(script.replace("VALUE", "'old'"))
    items = make_items(runs, "ab")
    client = subprocess.Popen(
        [sys.executable, "-c", CLIENT, str(runs)],
        cwd=source,
        env={**os.environ, "PYTHONPATH": f"{source}{os.pathsep}{ROOT / 'tests'}"},
    )
    until((items[0].run.path / "pid.0").exists)
    probe.write_text(script.replace("VALUE", "'new'"))
    for item in items:
        (item.run.path / "go").touch()
    assert client.wait(60) == 0
    results = [item.run.read_result() or {} for item in items]
    assert [result["answer"] for result in results] == ["old", "old"]
    assert results[0]["code"]["tree"] == results[1]["code"]["tree"]


CLIENT = """
import sys
from pathlib import Path
from bench.config.resources import Resources
from bench.launch import local
from bench.launch.item import Item
from bench.store.rundir import RunDir
local.available_cores = lambda: 1
runs, resources = Path(sys.argv[1]), Resources(device="cpu")
items = [Item(RunDir(runs / name), resources, name) for name in "ab"]
command = (sys.executable, "-m", "bench.probe")
local.run_local(
    items, runs=runs, on_change=lambda *_: None, tick=lambda: None, command=command
)
"""


def test_gpus_are_those_that_torch_sees(monkeypatch: pytest.MonkeyPatch) -> None:
    launcher.gpus.cache_clear()
    assert len(launcher.gpus()) == torch.cuda.device_count()
    assert launcher.uses_gpu(Resources(device="auto")) == torch.cuda.is_available()
    assert launcher.uses_gpu(Resources(device="cuda:1")) and not launcher.uses_gpu(
        Resources(device="cpu")
    )


LONG = ["train.epochs=200", "train.validate_every=50"]


@pytest.mark.slow
def test_a_killed_rank_of_a_real_cell_fails_it_and_a_second_start_repairs_it(
    tmp_path: Path, data_dir: Path
) -> None:
    cell = plan(ROOT / "sweeps/ablation.yaml", "smoke", LONG).cells[0]
    resources = Resources(device="cpu", devices=2, data_dir=str(data_dir), checkpoint_steps=5)
    run = RunDir(tmp_path / cell.signature)
    create(run, cell.config, resources)
    item = Item(run, resources, "two ranks")
    killed: list[float] = []

    def tick() -> None:
        stack = run.rank_stack(1)
        if killed or not (
            run.last.exists() and stack.exists() and "train/loop.py" in stack.read_text()
        ):
            return
        ranks = (read_json(run.env) or {})["ranks"]
        killed.append(time.monotonic())
        os.kill(next(r["pid"] for r in ranks if r["rank"] == 1), signal.SIGKILL)

    states: list[State] = []
    launcher.run_local(
        [item], runs=tmp_path, on_change=lambda _, state: states.append(state), tick=tick
    )
    assert states[-1] == State.FAILED and time.monotonic() - killed[0] < 60
    assert run.read_outcome()["kind"] == Failure.KILLED and run.read_outcome()["rank"] == 1
    text = run.error.read_text()
    assert "rank 1 was killed by signal 9 (SIGKILL); where it was a moment before:" in text
    assert "bench/train/loop.py" in text
    launcher.run_local([item], runs=tmp_path, on_change=lambda *_: None, tick=lambda: None)
    assert run.state() == State.DONE, run.error_line()
    steps = [start["step"] for start in run.read_starts()]
    assert steps[0] == 0 and steps[-1] > 0
    assert not run.rank_stack(0).exists() and not run.rank_error(0).exists()


@pytest.mark.slow
def test_the_machinery_can_be_measured(tmp_path: Path) -> None:
    out = tmp_path / "rows.json"
    command = [sys.executable, "-m", "bench.speed", "sweep", "--cells", "2", "--grid", "4"]
    subprocess.run([*command, "--out", str(out)], check=True)
    launched, *commands = (read_json(out) or {})["rows"]
    assert launched["cells"] == 2 and launched["overhead_cpu_s"]["n"] == 2
    assert [(row["what"], row["cells"]) for row in commands] == [
        ("bench.sweep --plan", 4),
        ("bench.sweep --status", 4),
    ]
