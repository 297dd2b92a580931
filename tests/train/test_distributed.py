"""Several ranks train one run: what each gets of a batch, that they compute what one would, how one
rank's error ends them all.
"""

from __future__ import annotations

import json
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from makers import INPUT, ROOT, Fake, assert_same, final_weights, make_run, smoke_config, trainer_of
from worlds import DROPPING, as_ranks, in_world, losses, only_trained, rank_environment

from bench.config.resources import Resources
from bench.config.science import parse
from bench.config.seeds import seed
from bench.data import loader
from bench.data.access import prepare_data
from bench.data.order import Order, Part, Schedule
from bench.run.cell import run_cell
from bench.store.rundir import RunDir, State
from bench.train import step as optimise
from bench.train.batches import part_of
from bench.train.learner import build
from bench.train.loop import Trainer
from bench.train.world import ALONE, World


def validated(path: Path) -> float:
    """Of this rank's world; the weights are those of step 0."""
    run, world = RunDir(path), World.from_environment()
    with world.joined(run, torch.device("cpu")):
        return in_world(run, world).validate()


# -- what each rank gets ---


@given(st.integers(1, 40), st.integers(1, 16), st.integers(1, 8), st.integers(1, 5))
@settings(max_examples=60, deadline=None)
def test_ranks_load_each_batch_exactly_once(
    length: int, batch: int, world: int, micro: int
) -> None:
    size = min(batch, length)
    world = min(world, size)
    clips = loader.Clips(Fake(length), INPUT, run_seed=3)
    steps = 3

    def keys(part: Part, micro: int) -> list[list[str]]:
        schedule = Schedule(Order(3, length), batch, micro, 0, steps, part)
        found = loader.training_batches(clips, schedule, workers=0, pin=False)
        return [list(raw.keys) for raw in found]

    whole = keys(Part.of(size), size)
    shared: list[list[str]] = [[] for _ in range(steps)]
    sizes = []
    for rank in range(world):
        part = Part.of(size, rank=rank, world=world)
        pieces = keys(part, micro)
        per_step = -(-part.size // micro)
        assert len(pieces) == steps * per_step  # as many steps as without other ranks
        for i, piece in enumerate(pieces):
            shared[i // per_step] += piece
        sizes.append(part.size)
    assert shared == whole
    assert sizes == [len(piece) for piece in np.array_split(np.arange(size), world)]


@given(st.integers(1, 30), st.integers(1, 9), st.integers(1, 8))
@settings(max_examples=40, deadline=None)
def test_ranks_evaluate_the_same_batches(length: int, batch: int, world: int) -> None:
    clips = loader.Clips(Fake(length), INPUT)

    def of(rank: int, world: int) -> list[tuple[str, ...]]:
        found = loader.evaluation_batches(
            clips, batch=batch, workers=0, pin=False, rank=rank, world=world
        )
        return [raw.keys for raw in found]

    assert [keys for rank in range(world) for keys in of(rank, world)] == of(0, 1)


def test_a_rank_without_a_sample_is_an_error() -> None:
    config = smoke_config()  # train.batch is 8
    assert part_of(config, 24, World(rank=7, size=8)).size == 1
    with pytest.raises(ValueError, match=r"train\.batch is 8.*9 devices.*at most 8"):
        part_of(config, 24, World(rank=0, size=9))
    with pytest.raises(ValueError, match=r"there are 5 samples"):
        part_of(config, 5, World(rank=0, size=6))


def test_dropout_is_a_function_of_step_and_place() -> None:
    config = smoke_config()
    alone = optimise.Optimisation(build(config, weights_dir=None), config, torch.device("cpu"))
    first, second = (Part.of(8, rank=rank, world=2) for rank in (0, 1))
    as_ever = seed(0, "dropout", 5) % 2**63
    assert alone._dropout_seed(5, Part.of(8)) == as_ever == alone._dropout_seed(5, first)
    assert alone._dropout_seed(5, second) not in (as_ever, alone._dropout_seed(6, second))


def test_world_and_device() -> None:
    assert World.from_environment({}) == ALONE and ALONE.first
    two = World.from_environment(rank_environment(1, 2, "s"))
    assert (two.rank, two.size, two.local_rank, two.start, two.first) == (1, 2, 1, "s", False)
    assert two.device(Resources(device="cpu")) == torch.device("cpu")
    assert ALONE.device(Resources(device="cuda:1")) == torch.device("cuda:1")
    with pytest.raises(ValueError, match=r"set resources\.device to cuda"):
        two.device(Resources(device="cuda:1"))


@pytest.mark.parametrize(
    ("world", "resources"),
    [
        (2, {"micro_batch": 3}),
        pytest.param(4, {}, marks=pytest.mark.slow),
        pytest.param(8, {}, marks=pytest.mark.slow),
    ],
)
def test_ranks_compute_what_one_would(
    world: int, resources: dict[str, Any], tmp_path: Path, data_dir: Path
) -> None:
    # without dropped paths, whose masks differ
    config = only_trained(**{"model.drop_path": 0.0, "train.epochs": 1, "train.clip_grad": 1.0})
    alone = make_run(tmp_path / "a", config, data_dir)
    assert run_cell(alone.path) == State.DONE
    shared = make_run(tmp_path / "b", config, data_dir, devices=world, **resources)
    assert as_ranks(world, partial(run_cell, shared.path)) == [State.DONE] * world
    assert shared.state() == State.DONE
    one, many = losses(alone), losses(shared)
    assert len(one) == len(many) == 3
    for a, b in zip(one, many, strict=True):
        assert a == pytest.approx(b, abs=1e-5, rel=1e-5)
    for name, value in final_weights(alone).items():
        torch.testing.assert_close(value, final_weights(shared)[name], rtol=0, atol=2e-4)
    env = json.loads(shared.env.read_text())
    assert env["device"]["world"] == world == len({r["pid"] for r in env["ranks"]})
    result = shared.read_result()
    assert result is not None and result["resources"]["world"] == world
    assert list(shared.path.glob("rendezvous*")) == []


@pytest.mark.parametrize("world", [3, pytest.param(8, marks=pytest.mark.slow)])
def test_ranks_count_exactly(world: int, tmp_path: Path, data_dir: Path) -> None:
    config = smoke_config("baseline", **{"train.batch": 8})
    run = make_run(tmp_path, config, data_dir)
    expected = trainer_of(run).validate()
    assert as_ranks(world, partial(validated, run.path)) == [expected] * world


def unused(path: Path) -> bool:
    """Train, with parameters that no loss reaches; whether they stayed as they were."""
    run, world = RunDir(path), World.from_environment()
    with world.joined(run, torch.device("cpu")):
        trainer = in_world(run, world)
        before = trainer.learner.classifier.head.weight.clone()
        trainer.fit()
        return torch.equal(before, trainer.learner.classifier.head.weight)


@pytest.mark.slow
def test_parameters_that_no_objective_uses(tmp_path: Path, data_dir: Path) -> None:
    raw = only_trained(**{"train.epochs": 1}).dump()
    raw["objectives"] = {"video.order": raw["objectives"]["video.order"]}
    run = make_run(tmp_path, parse(raw), data_dir)
    assert as_ranks(2, partial(unused, run.path)) == [True, True]


# -- failures ---


def failing(path: Path, *, rank: int) -> str:
    """`run_cell` of a cell of which one rank raises at step 1."""
    train = Trainer._train_step

    def step(self: Trainer, batches: Any) -> None:
        if self.world.rank == rank and self.step == 1:
            raise MemoryError("no more memory here")
        train(self, batches)

    Trainer._train_step = step  # type: ignore[method-assign]
    return run_cell(path)


def test_the_error_of_one_rank_ends_all(tmp_path: Path, data_dir: Path) -> None:
    run = make_run(tmp_path, smoke_config("baseline"), data_dir)
    states = as_ranks(2, partial(failing, run.path, rank=1))
    assert states == [State.FAILED, State.FAILED]
    first, second = (run.rank_error(rank).read_text() for rank in (0, 1))
    assert second.splitlines()[0].startswith("time: ") and "no more memory here" in second
    assert second.splitlines()[1] == "kind: OOM"
    assert float(first.split()[1]) >= float(second.split()[1])
    assert not run.error.exists() and not run.outcome.exists()  # the supervisor chooses
    assert run.state() == State.INTERRUPTED


@pytest.mark.slow
def test_under_torchrun(tmp_path: Path, data_dir: Path) -> None:
    config = smoke_config("baseline", **DROPPING)
    prepare_data(config, data_dir)
    mine = make_run(tmp_path / "a", config, data_dir, devices=2)
    assert as_ranks(2, partial(run_cell, mine.path)) == [State.DONE] * 2
    theirs = make_run(tmp_path / "b", config, data_dir, devices=2)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    command += ["--master-port", "0", "--standalone", "-m", "bench.run", str(theirs.path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=240)
    assert_same(mine, theirs)
