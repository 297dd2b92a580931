"""Checkpoints: what is read is what was saved, or it is refused; what is damaged costs time, no number."""

from __future__ import annotations

import os
import random
import shutil
import threading
import zipfile
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from damaging import KINDS, as_nobody, damage, flipped
from makers import Stop, assert_same, make_run, smoke_config, trainer_of
from worlds import as_ranks

from bench.config.science import RunConfig
from bench.data.access import prepare_data
from bench.evaluate.model import load_named
from bench.run.cell import run_cell
from bench.store.rundir import RunDir, State
from bench.train import checkpoint
from bench.train.checkpoint import DamagedCheckpoint
from bench.train.loop import Trainer
from bench.train.world import ALONE, World

DAMAGES = tuple(kind for kind in KINDS if kind != "unreadable")


def state_of(step: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(step)
    weights = {f"layer{i}": torch.randn(5, 7, generator=generator) for i in range(3)}
    moments = {name: value.square() for name, value in weights.items()}
    return {"learner": weights, "optimizer": {"state": moments, "lr": 0.1}, "step": step}


def same(one: Any, other: Any) -> bool:
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    return type(one) is type(other) and bool(one == other)


def refusing_another(state: dict[str, Any]) -> str | None:
    return "it is of another run" if state["step"] > 10 else None


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The third checkpoint of a run."""
    path = tmp_path / "last.pt"
    for step in (1, 2, 3):
        checkpoint.save(path, state_of(step), keep_previous=True)
    return path


# -- one file ---


def test_what_is_read_is_what_was_saved(path: Path) -> None:
    assert same(checkpoint.read(path), state_of(3))
    assert same(checkpoint.read(checkpoint.previous(path)), state_of(2))
    assert {found.name for found in path.parent.iterdir()} == {"last.pt", "last.previous.pt"}


def test_a_sealed_checkpoint_is_still_a_file_of_torch(path: Path) -> None:
    assert same(torch.load(path, weights_only=True), state_of(3))
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None and archive.comment.startswith(b"sha256:")


@pytest.mark.parametrize("kind", DAMAGES)
@pytest.mark.parametrize("seed", range(3))
def test_damage_is_refused_and_the_one_before_taken(kind: str, seed: int, path: Path) -> None:
    another = path.with_name("another.pt")
    checkpoint.save(another, state_of(11))
    damage(path, kind, seed, another=another)
    with pytest.raises(
        DamagedCheckpoint, match=r"last\.pt cannot be read: .*Put a copy of it back"
    ):
        checkpoint.read(path, refusing_another)
    found = checkpoint.load(path, refusing_another)
    assert same(found.state, state_of(2)) and found.path == checkpoint.previous(path)
    assert [error.path for error in found.damaged] == [path]
    damage(checkpoint.previous(path), kind, seed + 3, another=another)
    found = checkpoint.load(path, refusing_another)
    assert found.state is None and found.path is None
    assert [error.path for error in found.damaged] == [path, checkpoint.previous(path)]


def test_a_file_that_may_not_be_read_is_not_damaged(path: Path) -> None:
    damage(path, "unreadable")
    with (
        as_nobody(),
        pytest.raises(PermissionError, match=r"last\.pt is there and may not be read"),
    ):
        checkpoint.load_alike(path, ALONE)
    assert {found.name for found in path.parent.iterdir()} == {"last.pt", "last.previous.pt"}


def other_states(path: Path, flips: int, seed: int) -> int:
    """How many of so many files, each with one bit flipped, are read as another state."""
    content, rng, wrong = path.read_bytes(), random.Random(seed), 0
    for _ in range(flips):
        path.write_bytes(flipped(content, rng))
        with suppress(DamagedCheckpoint):
            wrong += not same(checkpoint.read(path), state_of(3))
    return wrong


@pytest.mark.parametrize("flips", [200, pytest.param(1000, marks=pytest.mark.slow)])
def test_no_flipped_bit_gives_another_state(flips: int, path: Path) -> None:
    assert other_states(path, flips, seed=flips) == 0


def test_every_bit_of_the_end_is_checked(path: Path) -> None:
    """Of the seal itself, and of the record that says that there is one."""
    content = path.read_bytes()
    for bit in range(8 * (len(content) - 93), 8 * len(content)):
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        with pytest.raises(DamagedCheckpoint):
            checkpoint.read(path)


def test_files_of_before_have_no_seal(path: Path) -> None:
    torch.save(state_of(3), path)
    assert same(checkpoint.read(path), state_of(3))
    assert other_states(path, 200, seed=1) == 0
    for kind in ("truncated", "empty", "zeros", "directory"):
        torch.save(state_of(3), path)
        damage(path, kind)
        with pytest.raises(DamagedCheckpoint):
            checkpoint.read(path)


def test_code_in_a_checkpoint_is_not_run(path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> Any:
            return print, ("boom",)

    checkpoint.save(path, {"step": 4, "bomb": Bomb()})
    with pytest.raises(DamagedCheckpoint, match="Weights only load failed"):
        checkpoint.read(path)
    checkpoint.save(path, [1, 2])  # type: ignore[arg-type]
    with pytest.raises(DamagedCheckpoint, match="no state but a list"):
        checkpoint.read(path)


def test_killed_when_the_one_before_is_kept_and_the_new_one_not_there(path: Path) -> None:
    child = os.fork()
    if child == 0:
        os.fsync = lambda _: os._exit(9)  # of the new file, which then is renamed
        checkpoint.save(path, state_of(4), keep_previous=True)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert same(checkpoint.read(path), state_of(3)) and path.samefile(checkpoint.previous(path))
    checkpoint.save(path, state_of(4), keep_previous=True)
    assert same(checkpoint.read(path), state_of(4))
    assert same(checkpoint.read(checkpoint.previous(path)), state_of(3))


def test_without_links_there_is_no_other(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any) -> None:
        raise PermissionError("no links here")

    checkpoint.previous(path).unlink()
    monkeypatch.setattr(os, "link", refused)
    checkpoint.save(path, state_of(4), keep_previous=True)
    assert same(checkpoint.read(path), state_of(4))
    assert list(path.parent.iterdir()) == [path]


# -- a run goes on ---


@pytest.fixture(scope="module")
def config(data_dir: Path) -> RunConfig:
    config = smoke_config("baseline", **{"model.drop_path": 0.3, "train.dropout": 0.2})
    prepare_data(config, data_dir)
    return config


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory, config: RunConfig, data_dir: Path) -> RunDir:
    run = make_run(tmp_path_factory.mktemp("straight"), config, data_dir)
    assert run_cell(run.path) == State.DONE
    return run


@pytest.fixture(scope="module")
def _stopped(tmp_path_factory: pytest.TempPathFactory, config: RunConfig, data_dir: Path) -> RunDir:
    run = make_run(tmp_path_factory.mktemp("stopped"), config, data_dir, checkpoint_steps=1)
    trainer = trainer_of(run)
    step = trainer._train_step

    def stopping(batches: Any) -> None:
        if trainer.step == 4:
            raise Stop
        step(batches)

    trainer._train_step = stopping  # type: ignore[method-assign]
    with pytest.raises(Stop):
        trainer.fit()
    return run


@pytest.fixture
def stopped(_stopped: RunDir, tmp_path: Path) -> RunDir:
    """Killed after step 4 of 6, with the checkpoints of steps 3 and 4."""
    return RunDir(Path(shutil.copytree(_stopped.path, tmp_path / _stopped.path.name)))


def resumed(run: RunDir) -> Trainer:
    trainer = trainer_of(run)
    trainer.resume()
    return trainer


@pytest.mark.parametrize("kind", DAMAGES)
def test_after_damage_a_run_ends_as_if_undisturbed(
    kind: str, straight: RunDir, stopped: RunDir, data_dir: Path, tmp_path: Path
) -> None:
    another = make_run(tmp_path / "another", smoke_config("baseline"), data_dir)
    trainer_of(another).save()
    damage(stopped.last, kind, another=another.last)
    with pytest.warns(
        UserWarning, match=r"last\.pt cannot .*from step 3 of last\.previous\.pt; kept"
    ):
        trainer = resumed(stopped)
    [kept] = stopped.last.parent.glob("*.damaged-*")
    assert kept.name.startswith("last.pt.damaged-") and not stopped.last.exists()
    assert trainer.step == 3
    trainer.fit()
    assert_same(straight, stopped)


def test_with_nothing_whole_it_starts_anew(straight: RunDir, stopped: RunDir) -> None:
    damage(stopped.last, "flipped")
    damage(checkpoint.previous(stopped.last), "truncated")
    with pytest.warns(UserWarning, match="starting without it") as warned:
        trainer = resumed(stopped)
    assert len(warned) == 2 and trainer.step == 0
    trainer.fit()
    assert_same(straight, stopped)


def goes_on(path: Path) -> int | None:
    run, world = RunDir(path), World.from_environment()
    with world.joined(run, torch.device("cpu")):
        state = checkpoint.load_alike(run.last, world)
        return state and state["step"]


@pytest.mark.slow
def test_ranks_fall_back_together(stopped: RunDir) -> None:
    damage(stopped.last, "flipped")
    assert as_ranks(2, partial(goes_on, stopped.path)) == [3, 3]
    assert len(list(stopped.last.parent.glob("*.damaged-*"))) == 1


def goes_on_apart(folder: Path) -> tuple[int, bool]:
    """Of two ranks, whose file systems show them other files until, a second later, both are whole."""
    run, world = RunDir(folder), World.from_environment()
    mine = folder / f"{world.rank}/last.pt"
    mend = threading.Timer(1.0, os.replace, (mine.with_name("whole.pt"), mine))
    with world.joined(run, torch.device("cpu")):
        mend.start()
        state = checkpoint.load_alike(mine, world)
    assert state is not None
    return state["step"], state["epoch_to_end"]


def test_ranks_that_are_shown_different_checkpoints_wait(tmp_path: Path) -> None:
    """Here two of the same step, before and after its validation."""
    for rank in ("0", "1"):
        for before in (True, False):
            state = {**state_of(3), "epoch_to_end": before}
            checkpoint.save(tmp_path / rank / "last.pt", state, keep_previous=True)
        shutil.copy(tmp_path / rank / "last.pt", tmp_path / rank / "whole.pt")
    damage(tmp_path / "1/last.pt", "flipped")
    assert as_ranks(2, partial(goes_on_apart, tmp_path)) == [(3, False)] * 2
    assert not list(tmp_path.rglob("*.damaged-*"))


def test_old_checkpoints_are_gone_on_from(straight: RunDir, stopped: RunDir) -> None:
    state = checkpoint.read(stopped.last)
    state["metrics_bytes"] = state.pop("metrics")["size"]
    del state["signature"]
    torch.save(state, stopped.last)
    trainer = resumed(stopped)
    assert trainer.step == 4
    trainer.fit()
    assert_same(straight, stopped)


# -- weights that are measured ---


def test_damaged_weights_are_not_measured(straight: RunDir, tmp_path: Path) -> None:
    run = RunDir(Path(shutil.copytree(straight.path, tmp_path / "renamed")))
    assert load_named(str(run.path)).made_by
    assert {found.name for found in run.last.parent.iterdir()} == {"last.pt", "best.pt"}
    for kind in DAMAGES:
        if run.last.is_dir():
            run.last.rmdir()
        shutil.copy(straight.last, run.last)
        state = {**checkpoint.read(run.last), "signature": "0123456789abcdef"}
        checkpoint.save(tmp_path / "another.pt", state)
        damage(run.last, kind, another=tmp_path / "another.pt")
        with pytest.raises(ValueError, match=r"renamed/checkpoint/last\.pt cannot be read: "):
            load_named(str(run.path))
    named = RunDir(Path(shutil.copytree(straight.path, tmp_path / straight.signature)))
    shutil.rmtree(named.evaluations)
    damage(named.last, "truncated")
    assert run_cell(named.path) == State.FAILED
    assert "put a copy of it back, or train the run again" in named.error_line()
    [aside] = named.last.parent.glob("last.pt.damaged-*")
    assert aside.name in named.error_line() and not named.last.exists()


# -- metrics.jsonl ---


@pytest.mark.parametrize("state", ["cut off", "other", "gone", "directory"])
def test_metrics_that_are_not_what_they_were_are_never_extended(
    state: str, straight: RunDir, stopped: RunDir
) -> None:
    content = stopped.metrics.read_bytes()
    if state == "gone":
        stopped.metrics.unlink()
    elif state == "directory":
        damage(stopped.metrics, "directory")
    else:
        damage(stopped.metrics, "truncated" if state == "cut off" else "flipped")
    with pytest.warns(UserWarning, match=r"metrics\.jsonl .*logging anew from here on"):
        trainer = resumed(stopped)
    kept = list(stopped.path.glob("metrics.jsonl.damaged-*"))
    assert len(kept) == (state != "gone")
    trainer.fit()
    assert stopped.metrics.read_bytes() == straight.metrics.read_bytes()[len(content) :]
    ours, theirs = (checkpoint.read(run.last)["learner"] for run in (stopped, straight))
    assert same(ours, theirs)
    again = resumed(stopped)  # what was logged anew is what the checkpoint now says
    assert again.step == 6 and len(list(stopped.path.glob("metrics.jsonl.damaged-*"))) == len(kept)


def test_metrics_of_after_the_checkpoint_are_forgotten(
    straight: RunDir, stopped: RunDir, recwarn: pytest.WarningsRecorder
) -> None:
    with stopped.metrics.open("ab") as file:
        file.write(b'{"step": 5, "loss')
    trainer = resumed(stopped)
    assert not [w for w in recwarn if "metrics" in str(w.message)]
    trainer.fit()
    assert_same(straight, stopped)
