"""Every file of a run directory, damaged in every way: the same numbers, the cell again, or a refusal that
names the file. Never another number, never a traceback, never another cell's fate.

Two cells that are through, and the same two with the first one stopped between two steps. The files of the
first are damaged one at a time; then come `--status`, the results, and the sweep again.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest
from damaging import KINDS, damage

from bench import results
from bench.sweep.command import main
from bench.train.loop import Trainer

SWEEP = """title: Two cells
base:
  model.name: timesformer
  resources.checkpoint_steps: 2
  evaluations: {video.shuffle_gap: {}}
axes:
  method:
    damaged: {objectives: {classify: {}, video.order: {}}}  # starts first
    other: {objectives: {classify: {}}}
"""
BITS = {"done": 10, "stopped": 8}  # so many flips and cuts of each file
LOOP = "loop"  # a link to itself: no user can read it, where permissions do not stop root
DAMAGES = (*(kind for kind in KINDS if kind != "unreadable"), LOOP)
REFUSED = {"DAMAGED", "EDITED", "FAILED"}
STEPS = 5  # after which the first cell is stopped; of 6

counted: Counter[str] = Counter()


@dataclass(frozen=True)
class World:
    folder: Path
    data_dir: Path

    @property
    def runs(self) -> Path:
        return self.folder / "runs"

    def sweep(self, *more: str) -> int:
        sweep = self.folder / "two.yaml"
        sweep.write_text(SWEEP)
        data = ("--set", f"resources.data_dir={self.data_dir}", "--set", "resources.device=cpu")
        places = ("--runs", str(self.runs), "--launcher", "inline", "--scale", "smoke")
        return main([str(sweep), *places, *data, *more])

    def numbers(self) -> dict[str, pd.DataFrame]:
        """Cell -> its rows, without what says where and when."""
        frame = results.load(self.runs)
        stays = ["state", "reason", "evaluation", "split", "view", "subset", "metric", "value", "n"]
        frame = frame.astype(
            dict.fromkeys(stays[:7], object)
        )  # whatever other categories there are
        return {
            str(method): part[stays].reset_index(drop=True)
            for method, part in frame.groupby("method", observed=True)
        }

    def run(self, method: str) -> Path:
        frame = results.load(self.runs)
        return self.runs / frame[frame["method"] == method]["signature"].iloc[0]

    def copied(self, target: Path) -> World:
        shutil.copytree(self.folder, target)
        return World(target, self.data_dir)


@dataclass(frozen=True)
class Injection:
    """One file of the first cell, by its path in the run directory, and what befalls it."""

    world: str
    file: str
    kind: str
    seed: int

    def befalls(self, run: Path, other: Path) -> None:
        path = run / self.file
        if self.kind == LOOP:
            path.unlink()
            path.symlink_to(path.name)
        else:
            damage(path, self.kind, self.seed, another=other)


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory, data_dir: Path) -> dict[str, World]:
    done = World(tmp_path_factory.mktemp("done") / "world", data_dir)
    done.folder.mkdir()
    assert done.sweep() == 0
    stopped = World(tmp_path_factory.mktemp("stopped") / "world", data_dir)
    stopped.folder.mkdir()
    step, steps = Trainer._train_step, iter(range(100))

    def counting(trainer: Trainer, micro_batches: object) -> None:
        step(trainer, micro_batches)  # type: ignore[arg-type]
        if next(steps) == STEPS - 1:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "_train_step", counting)
        with pytest.raises(KeyboardInterrupt):
            stopped.sweep()
    shutil.copytree(done.run("other"), stopped.run("other"), dirs_exist_ok=True)
    states = {method: set(rows["state"]) for method, rows in stopped.numbers().items()}
    assert states == {"damaged": {"PREEMPTED"}, "other": {"DONE"}}
    return {"done": done, "stopped": stopped}


def injections(worlds: dict[str, World], kind: str) -> Iterator[Injection]:
    for name, world in worlds.items():
        run = world.run("damaged")
        for path in sorted(path for path in run.rglob("*") if path.is_file()):
            drawn = kind in ("flipped", "truncated")
            if drawn and path.stat().st_size < 2:  # the lock
                continue
            for seed in range(BITS[name] if drawn else 1):
                yield Injection(name, path.relative_to(run).as_posix(), kind, seed)


def judged(injection: Injection, worlds: dict[str, World], folder: Path) -> str:
    """SAME, AGAIN or REFUSED. Asserts that it is nothing else."""
    truth = worlds["done"].numbers()
    world = worlds[injection.world].copied(folder)
    before = world.numbers()
    run, other = world.run("damaged"), world.run("other")
    another = next(iter(other.rglob(Path(injection.file).name)), other / "config.yaml")
    injection.befalls(run, another if another.is_file() else other / "config.yaml")
    shown = world.numbers()
    assert shown["other"].equals(before["other"])
    _assert_honest(shown["damaged"], truth["damaged"], injection)
    assert world.sweep("--status") == 0
    assert world.sweep() in (0, 1)
    after = world.numbers()
    assert after["other"].equals(truth["other"])
    _assert_honest(after["damaged"], truth["damaged"], injection)
    if not _same(after["damaged"], truth["damaged"]):
        named = " ".join(after["damaged"]["reason"])
        assert set(after["damaged"]["state"]) <= REFUSED, named
        assert Path(injection.file).name in named, named
        return "REFUSED"
    return "SAME" if _same(shown["damaged"], truth["damaged"]) else "AGAIN"


def _same(rows: pd.DataFrame, truth: pd.DataFrame) -> bool:
    return rows["value"].tolist() == truth["value"].tolist()


def _assert_honest(rows: pd.DataFrame, truth: pd.DataFrame, injection: Injection) -> None:
    """The numbers that were measured, or none."""
    assert _same(rows, truth) or rows["value"].isna().all(), injection


def test_some_damage(worlds: dict[str, World], tmp_path: Path) -> None:
    """One of each kind, drawn; all of them are tried below."""
    rng = random.Random(0)
    for kind in DAMAGES:
        judged(rng.choice(list(injections(worlds, kind))), worlds, tmp_path / kind)


@pytest.mark.slow
@pytest.mark.parametrize("kind", DAMAGES)
def test_no_damage_makes_another_number(
    kind: str, worlds: dict[str, World], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = []
    for number, injection in enumerate(injections(worlds, kind)):
        folder = tmp_path / f"{number}"
        try:
            counted[judged(injection, worlds, folder)] += 1
        except Exception as error:
            wrong.append(f"{injection}: {type(error).__name__}: {error}")
        shutil.rmtree(folder)
    with capsys.disabled():
        print(f"\n{kind}: {dict(counted)} so far")
    assert not wrong, "\n".join(wrong)


@pytest.mark.slow
def test_enough_was_tried() -> None:
    assert sum(counted.values()) >= 500, counted
