"""Where cells stand, which of them are started again, and what a user sees of it; from run
directories written through RunDir as launchers and cells write them.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from disks import fill, make_room, small_disk
from makers import ROOT, make_run, trainer_of

from bench import results
from bench.config import signature
from bench.grid.plan import Cell, Plan, plan
from bench.process.machine import process_started
from bench.run import directory
from bench.store.config_file import write_config
from bench.store.failure import Failure
from bench.store.files import write_json
from bench.store.rundir import Activity, RunDir, State
from bench.sweep import choose as retry
from bench.sweep import command as sweep
from bench.sweep import manifest, space
from bench.sweep.choose import Choice
from bench.sweep.status import CellStatus, count_text, read_statuses

SCALE = {
    "base": {
        "data": {"name": "mini_ssv2", "train": 24, "tune": 12, "test": 12},
        "input": {"frames": 4, "size": 16},
        "model": {"patch": 8, "dim": 16, "depth": 1, "heads": 2},
        "train": {"epochs": 1, "batch": 8},
    }
}
CODE = "c0de" * 4
Folder = Path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A sweep of three cells."""
    return written(tmp_path, 3)


def written(folder: Path, cells: int, **resources: Any) -> Path:
    (folder / "scales").mkdir()
    (folder / "scales/tiny.yaml").write_text(json.dumps(SCALE))
    document = {
        "base": {"model.name": "timesformer", "objectives": {"classify": {}}},
        "axes": {"lr": {f"lr {i}": {"train.lr": 1e-4 * (i + 1)} for i in range(cells)}},
        "resources": resources,
    }
    (folder / "sweep.yaml").write_text(json.dumps(document))
    return folder


def planned(folder: Path, *settings: str) -> Plan:
    return plan(folder / "sweep.yaml", "tiny", settings)


def made(folder: Path, number: int = 0, *settings: str, **claim: Any) -> RunDir:
    """The run of one cell as a launcher leaves it before the start."""
    cell = planned(folder, *settings).cells[number]
    run = RunDir(folder / "runs" / cell.signature)
    create(run, cell)
    local = {"launcher": "local", "pid": 2**22 + 1, "pid_started": "1", "host": os.uname().nodename}
    run.claim({**local, "code": CODE, **claim})
    return run


def create(run: RunDir, cell: Cell) -> None:
    directory.create(run, cell.config, cell.resources)


def began(run: RunDir, *steps: int) -> None:
    """Starts that went on from these steps, a second apart."""
    lines = [{"time": 100.0 + i, "host": "n7", "step": step} for i, step in enumerate(steps)]
    run.starts.write_text("".join(f"{json.dumps(line)}\n" for line in lines))


def first(folder: Path, *settings: str) -> CellStatus:
    return read_statuses(folder / "runs", planned(folder, *settings).cells)[0]


def decide(folder: Path, *settings: str, code: str = CODE) -> CellStatus | str | None:
    return retry.again(first(folder, *settings), lambda: code)


def choose(statuses: list[CellStatus], **how: bool) -> Choice:
    how = {"retry": False, "force": False, **how}
    return retry.choose(statuses, code=lambda: CODE, **how)


def command(folder: Path, *more: str) -> int:
    start = [str(folder / "sweep.yaml"), "--scale", "tiny", "--runs", str(folder / "runs")]
    return sweep.main([*start, *more])


# -- states ---


def test_states_and_kinds_come_from_the_files(folder: Path) -> None:
    run = made(folder)
    assert first(folder).state == State.NEW  # its launcher died before the start
    run.env.write_text("{}")
    assert first(folder).text == "INTERRUPTED"
    run.write_outcome(State.FAILED, Failure.OOM, traceback="Traceback\nOutOfMemoryError: 2 GiB\n")
    failed = first(folder)
    assert (failed.text, failed.note) == ("FAILED/OOM", "OutOfMemoryError: 2 GiB")
    assert not failed.busy
    run.claim({"launcher": "local"})
    run.write_outcome(State.PREEMPTED, reason="SIGTERM")
    assert (first(folder).text, first(folder).note) == ("PREEMPTED", "SIGTERM")
    run.result.write_text('{"data_digest": ""}')
    assert first(folder).text == "DONE"
    counts = count_text(read_statuses(folder / "runs", planned(folder).cells))
    assert counts == "2 NEW, 1 DONE"


def test_an_error_of_no_known_kind_is_a_bug(folder: Path) -> None:
    run = made(folder)
    run.error.write_text("ValueError: old\n")
    assert first(folder).text == "FAILED/BUG"


def test_a_hole_in_the_results_has_its_reason(folder: Path) -> None:
    grid = planned(folder)
    preempted, pruned, failed = (made(folder, i) for i in range(3))
    preempted.write_outcome(State.PREEMPTED, reason="SIGUSR2")
    pruned.write_outcome(State.PRUNED, step=40)
    failed.write_outcome(State.FAILED, Failure.OOM, traceback="OutOfMemoryError: 2 GiB")
    manifest.write_manifest(grid, folder / "runs", read_statuses(folder / "runs", grid.cells))
    reasons = results.load(folder / "runs").set_index("state")["reason"]
    assert "goes on from its checkpoint" in reasons["PREEMPTED"]
    assert reasons["PRUNED"] == "stopped by a search at step 40"
    assert reasons["FAILED"] == "OOM: OutOfMemoryError: 2 GiB"


# -- what is started ---


def test_the_plain_command_starts_what_is_not_done_and_not_live(folder: Path) -> None:
    mine = {"pid": os.getpid(), "pid_started": process_started(os.getpid())}
    made(folder, 0, **mine)  # a live supervisor: this process
    made(folder, 1).write_outcome(State.PRUNED, step=3)
    statuses = read_statuses(folder / "runs", planned(folder).cells)
    assert [(s.state, s.busy) for s in statuses] == [
        (State.PENDING, True), (State.PRUNED, False), (State.NEW, False),
    ]  # fmt: skip
    assert choose(statuses).start == statuses[1:]
    afresh = choose(statuses, force=True).start
    assert [s.run.path for s in afresh] == [s.run.path for s in statuses[1:]]
    assert all(s.replaces is not None for s in afresh)
    assert choose(statuses, retry=True).start == []


@pytest.mark.parametrize("state", [State.PREEMPTED, State.INTERRUPTED])
def test_what_was_interrupted_goes_on(folder: Path, state: State) -> None:
    made(folder).write_outcome(state)
    assert isinstance(decide(folder), CellStatus)


@pytest.mark.parametrize("kind", [Failure.KILLED, Failure.NODE_FAIL, Failure.DEVICE])
def test_what_is_no_fault_of_the_cell_is_tried_again(folder: Path, kind: Failure) -> None:
    made(folder).write_outcome(State.FAILED, kind, reason="died")
    assert isinstance(decide(folder), CellStatus)


def test_a_full_disk_is_tried_again_when_there_is_room(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 4) as disk:
        run = made(written(disk, 1))
        run.write_outcome(State.FAILED, Failure.DISK, traceback="OSError: No space left on device")
        run.last.parent.mkdir()
        run.last.write_bytes(bytes(1 << 20))
        assert isinstance(decide(disk), CellStatus)
        fill(disk, but=1 << 20)
        left = decide(disk)
        assert isinstance(left, str) and "1.0 MB are free where two checkpoints need 2.1 MB" in left
        make_room(disk)
        assert isinstance(decide(disk), CellStatus)


def test_the_kind_of_a_failure_is_known_by_its_error_alone(folder: Path) -> None:
    """The disk had room for the first of two files."""
    made(folder).error.write_text("OSError: [Errno 28] No space left on device: 'x'\n")
    assert first(folder).text == "FAILED/DISK"


def test_retry_leaves_the_rest_alone(folder: Path) -> None:
    made(folder, 0).write_outcome(State.PRUNED, step=3)
    made(folder, 1).write_outcome(State.PREEMPTED, Failure.CANCELLED)
    choice = choose(read_statuses(folder / "runs", planned(folder).cells), retry=True)
    assert choice.start == []
    ((_, left),) = choice.refused
    assert "was cancelled" in left


def test_a_bug_is_tried_again_only_after_a_change(folder: Path) -> None:
    made(folder).write_outcome(State.FAILED, Failure.BUG, traceback="ValueError: no")
    left = decide(folder)
    assert isinstance(left, str) and "the same code would fail again" in left
    assert isinstance(decide(folder, code="0" * 16), CellStatus)
    assert isinstance(decide(folder, "resources.data_dir=elsewhere"), CellStatus)


def test_damaged_data_are_to_be_mended_first(folder: Path) -> None:
    made(folder).write_outcome(State.FAILED, Failure.DATA, traceback="BadData: no")
    assert first(folder).text == "FAILED/DATA"
    left = decide(folder)
    assert isinstance(left, str) and "mend them" in left and "--check" in left
    assert len(choose([first(folder)]).start) == 1


def test_a_time_limit_is_tried_again_only_after_progress_or_with_more_time(folder: Path) -> None:
    run = made(folder)
    run.write_outcome(State.INTERRUPTED, Failure.TIMEOUT, reason="job 7_0 ended (TIMEOUT)")
    began(run, 0, 0)
    left = decide(folder)
    assert isinstance(left, str) and "resources.slurm.time" in left
    assert isinstance(decide(folder, "resources.slurm.time=2-00:00:00"), CellStatus)
    assert isinstance(decide(folder, "resources.slurm.time=60"), str)
    began(run, 0, 40)
    assert isinstance(decide(folder), CellStatus)
    began(run, 0, 40, 40)
    assert isinstance(decide(folder), str)
    run.last.parent.mkdir()
    run.last.touch()  # written after the last start
    assert isinstance(decide(folder), CellStatus)


def test_no_progress_needs_another_setting(folder: Path) -> None:
    run = made(folder)
    run.write_outcome(State.FAILED, Failure.NO_PROGRESS, reason="three starts, no step")
    began(run, 8, 8, 8)
    run.last.parent.mkdir()
    run.last.touch()  # of the same step
    assert isinstance(decide(folder), str)
    assert isinstance(decide(folder, "resources.slurm.signal_delay_s=600"), CellStatus)


def out_of_memory(folder: Path) -> CellStatus | str | None:
    """The last start ran out of memory; what --retry does, done."""
    RunDir(folder / "runs" / planned(folder).cells[0].signature).write_outcome(
        State.FAILED, Failure.OOM, traceback="OutOfMemoryError"
    )
    decision = decide(folder)
    if isinstance(decision, CellStatus):
        begin(decision)
    return decision


def begin(start: CellStatus) -> None:
    retry.prepare([start])
    start.run.claim({"launcher": "local", "code": CODE})


def test_out_of_memory_halves_the_micro_batch_until_it_is_one(folder: Path) -> None:
    run = made(folder)  # batch 8, one process, no micro_batch: all 8 at once
    for expected in (4, 2, 1):
        start = out_of_memory(folder)
        assert isinstance(start, CellStatus) and start.resources.micro_batch == expected
        assert f"micro_batch {expected} instead of the whole batch" in retry.memory_note(start)
        assert run.read_resources()["micro_batch"] == expected
    left = out_of_memory(folder)
    assert isinstance(left, str) and "micro_batch 1" in left


def test_a_halved_micro_batch_is_kept_until_another_one_is_asked_for(folder: Path) -> None:
    run = made(folder)
    out_of_memory(folder)
    run.write_outcome(State.PREEMPTED)
    (start, *_) = choose([first(folder)]).start
    begin(start)
    assert run.read_resources()["micro_batch"] == 4
    run.write_outcome(State.PREEMPTED)
    (start, *_) = choose([first(folder, "resources.micro_batch=6")]).start
    begin(start)
    assert run.read_resources()["micro_batch"] == 6
    assert choose([first(folder)]).start[0].resources.micro_batch is None


def test_the_share_of_a_device_is_halved_and_another_setting_is_tried_as_it_is(
    tmp_path: Path,
) -> None:
    folder = written(tmp_path, 1, devices=2, micro_batch=100)
    made(folder)
    start = out_of_memory(folder)
    assert isinstance(start, CellStatus) and start.resources.micro_batch == 2  # 8 / 2 devices / 2
    start.run.write_outcome(State.FAILED, Failure.OOM, traceback="OutOfMemoryError")
    changed = decide(folder, "resources.micro_batch=3")
    assert isinstance(changed, CellStatus) and changed.resources.micro_batch == 3
    assert changed.micro_batch is None


# -- with SLURM's queue ---


def fake_squeue(folder: Path, monkeypatch: pytest.MonkeyPatch, rows: str) -> Path:
    """A squeue that prints these rows and counts its calls."""
    calls = folder / "calls"
    (folder / "bin").mkdir()
    script = folder / "bin/squeue"
    script.write_text(f"#!/bin/sh\necho x >> {calls}\ncat <<'END'\n{rows}\nEND\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder / 'bin'}:{os.environ['PATH']}")
    return calls


def test_one_question_to_the_queue_answers_for_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, batch, user = written(tmp_path, 30), "0" * 12, os.getuid()
    for i in range(30):
        made(folder, i, launcher="slurm", batch=batch, task=i)
    rows = [f"7_{i}|{user}|PENDING||N/A|Priority|bench-sweep-tiny-{batch}" for i in range(29)]
    rows.append(f"7_29|{user}|RUNNING|n4|N/A|None|bench-sweep-tiny-{batch}")
    calls = fake_squeue(folder, monkeypatch, "\n".join(rows))
    statuses = read_statuses(folder / "runs", planned(folder).cells)
    assert calls.read_text().count("x") == 1
    assert {(s.state, s.note) for s in statuses[:-1]} == {
        (State.PENDING, "waits in the queue (Priority)")
    }
    assert (statuses[-1].state, statuses[-1].node) == (State.RUNNING, "n4")
    assert choose(statuses).start == [] == choose(statuses, force=True).start


def test_a_queue_that_does_not_answer_starts_nothing_twice(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made(folder, 0, launcher="slurm", batch="0" * 12, task=0)
    monkeypatch.setenv("PATH", "/nowhere")
    statuses = read_statuses(folder / "runs", planned(folder).cells)
    assert statuses[0].activity == Activity.UNKNOWN and statuses[0].state == State.PENDING
    assert choose(statuses).start == statuses[1:]


def test_without_slurm_there_is_one_clear_error(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert command(folder, "--launcher", "slurm") == 2
    assert "--launcher slurm:" in capsys.readouterr().err
    assert not (folder / "runs").exists()


# -- what is shown ---


def test_status_of_many_cells_shows_failed_and_running_ones_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = written(tmp_path, 300)
    cells = planned(folder).cells
    runs = [RunDir(folder / "runs" / cell.signature) for cell in cells]
    for run, cell in zip(runs[:250], cells, strict=False):
        run.path.mkdir(parents=True)
        write_config(run.config, signature.digest(cell.config.dump_training()), {})
        run.result.write_text('{"data_digest": ""}')
    for run in runs[100:200]:
        run.result.unlink()
        run.write_outcome(State.FAILED, Failure.OOM, traceback="OutOfMemoryError: 2 GiB")
    write_json(
        runs[249].progress,
        {"phase": "train", "done": 30, "total": 90, "loss": 2.5, "time": 60.0, "phase_started": 0},
    )
    began(runs[249], 10)
    runs[249].result.unlink()
    with runs[249].hold():
        assert command(folder, "--status") == 0
    out = capsys.readouterr().out
    assert "300 cells: 50 NEW, 1 RUNNING, 149 DONE, 100 FAILED (100 OOM)" in out
    assert "OutOfMemoryError: 2 GiB" in out and str(runs[100].error) in out
    assert "... and 240 more cells" in out
    (running,) = (line for line in out.splitlines() if "RUNNING" in line and "train" in line)
    # 20 steps in 60 s since it went on from step 10, 60 are left
    assert "train 30/90, loss 2.500" in running and "3:00" in running and "n7" in running


def test_watching_ends_when_nothing_is_live(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    supervisor = subprocess.Popen(["sleep", "0.5"])
    threading.Thread(target=supervisor.wait).start()
    made(folder, pid=supervisor.pid, pid_started=process_started(supervisor.pid))
    assert command(folder, "--status", "--watch", "0.1") == 0
    out = capsys.readouterr().out
    assert out.count("3 cells: 2 NEW, 1 PENDING") >= 2
    assert out.count("3 cells: 3 NEW") == 1  # and then it ends


def test_watching_goes_on_between_two_cells_while_their_client_lives(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is queued or running then; a client that is killed outright leaves its file behind."""
    made(folder)
    name = planned(folder).name
    script = (
        "import pathlib, sys, time; from bench.sweep.cancel import known_client\n"
        "with known_client(pathlib.Path(sys.argv[1]), sys.argv[2], 'local'): print('in', flush=True); time.sleep(600)"
    )
    client = subprocess.Popen(
        [sys.executable, "-c", script, str(folder / "runs"), name], stdout=subprocess.PIPE
    )
    assert client.stdout is not None and client.stdout.readline() == b"in\n"
    watching = threading.Thread(target=command, args=(folder, "--status", "--watch", "0.1"))
    watching.start()
    watching.join(3)
    assert watching.is_alive()
    client.kill()
    client.wait()
    watching.join(60)
    assert not watching.is_alive()
    assert capsys.readouterr().out.count("3 cells: 3 NEW") >= 2


def test_the_plan_estimates_from_what_is_done(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command(folder, "--plan")
    assert "3 to train, 0 to evaluate; nothing like it is DONE yet" in capsys.readouterr().out
    assert not (folder / "runs").exists()
    run = made(folder)
    run.last.parent.mkdir()
    run.last.write_bytes(b"0" * 5_000_000)
    run.result.write_text(json.dumps({"data_digest": "", "seconds": {"train": 3600.0}}))
    command(folder, "--plan")
    out = capsys.readouterr().out
    assert (
        "2 to train, 0 to evaluate: about 2.0 device-hours and 10 MB of disk, as measured on 1 DONE"
        in out
    )


def test_the_plan_compares_the_disk_that_is_needed_with_what_is_free(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with small_disk(tmp_path / "disk", 4) as disk:
        command(written(disk, 3), "--plan")
        out = capsys.readouterr().out.replace("\n", " ")
        needed, free = re.findall(r"about ([\d.]+) MB in .*?\(([\d.]+) MB free\)", out)[0]
        assert 0.3 < float(needed) < 1 and 4 < float(free) <= 4.2 and "does not fit" not in out
        fill(disk, but=100_000)
        command(disk, "--plan")
        assert "does not fit: make room in" in capsys.readouterr().out


def test_the_plan_counts_the_data_that_are_still_to_be_made(tmp_path: Path, data_dir: Path) -> None:
    cells = plan(ROOT / "sweeps/ablation.yaml", "smoke").cells
    for folder, said in ((tmp_path / "data", True), (data_dir, False)):
        places = cells[0].resources.model_copy(update={"data_dir": str(folder)})
        moved = [replace(cell, resources=places) for cell in cells]
        (line,) = space.lines(read_statuses(tmp_path, moved), None, tmp_path)
        assert (f"MB in {folder} (" in str(line)) == said


def test_the_estimate_is_what_a_run_needs_at_most(tmp_path: Path, data_dir: Path) -> None:
    """While its checkpoints are rewritten; what it logs and predicts is little beside these."""
    planned = plan(ROOT / "sweeps/ablation.yaml", "smoke")
    (status,) = read_statuses(tmp_path, planned.cells[:1])
    run = make_run(tmp_path, status.cell.config, data_dir)
    trainer_of(run).fit()
    kept = sum(path.stat().st_size for path in run.last.parent.iterdir())
    (line,) = space.lines([status], None, tmp_path)
    needed = float(re.findall(r"about ([\d.]+) MB", str(line))[0])
    assert 0.6 * kept < 1e6 * needed < 1.2 * kept


# -- stopping ---


def test_cancel_tells_clients_and_supervisors(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    processes = [subprocess.Popen(["sleep", "600"]) for _ in range(2)]
    client, supervisor = ({"pid": p.pid, "pid_started": process_started(p.pid)} for p in processes)
    made(folder, **supervisor)
    made(folder, 1, host="elsewhere", **supervisor).write_outcome(State.PREEMPTED)
    clients = folder / "runs/.jobs/clients"
    write_json(
        clients / f"sweep-tiny-{client['pid']}.json",
        {"host": os.uname().nodename, "launcher": "local", **client},
    )
    try:
        assert command(folder, "--cancel") == 0
        assert [p.wait(60) for p in processes] == [-signal.SIGTERM] * 2
    finally:
        for process in processes:
            process.kill()
    out = capsys.readouterr().out
    assert "told the client" in out and "lr 0 / seed 0: told to stop" in out
    assert command(folder, "--cancel") == 0
    assert "nothing is queued or running" in capsys.readouterr().out


@pytest.mark.parametrize(
    "options",
    [("--watch", "1"), ("--wait",), ("--retry", "--force"), ("--plan", "--status")],
)
def test_options_that_do_not_go_together(folder: Path, options: tuple[str, ...]) -> None:
    with pytest.raises(SystemExit) as caught:
        command(folder, *options)
    assert caught.value.code == 2
