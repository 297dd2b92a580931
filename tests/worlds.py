"""Several ranks on this machine (gloo), for tests."""

from __future__ import annotations

import json
import multiprocessing
import os
import uuid
from collections.abc import Callable
from typing import Any

import torch
from makers import smoke_config, trainer_of

from bench.config.science import RunConfig, parse
from bench.process.environment import RankEnvironment
from bench.store.rundir import RunDir
from bench.train.loop import Trainer
from bench.train.world import World

DROPPING = {"model.drop_path": 0.3, "train.dropout": 0.2}


def only_trained(method: str = "+ TIME", **changes: Any) -> RunConfig:
    """Without evaluations."""
    return parse({**smoke_config(method, **changes).dump(), "evaluations": {}})


# -- starting ranks ---

PRELOAD = [
    "pytest",
    "hypothesis",
    "torch._dynamo",  # every optimizer imports it
    "bench.run",
    "bench.models.backbones.timesformer",
    "tasks.classify",
]


def rank_environment(rank: int, world: int, start: str) -> dict[str, str]:
    """What a supervisor sets."""
    told = RankEnvironment(start=start, rank=rank, size=world, local_rank=rank, local_size=world)
    return told.to_env({})


def as_ranks(world: int, work: Callable[[], Any]) -> list[Any]:
    """What `work` returns in each of `world` processes (forked from one that has imported torch)."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    answers: Any = context.Queue()
    start = uuid.uuid4().hex
    processes = [
        context.Process(target=_be_rank, args=(rank_environment(rank, world, start), work, answers))
        for rank in range(world)
    ]
    for process in processes:
        process.start()
    found = dict(answers.get(timeout=300) for _ in processes)
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    return [found[rank] for rank in range(world)]


def _be_rank(environment: dict[str, str], work: Callable[[], Any], answers: Any) -> None:
    os.environ.update(environment)
    torch.set_num_threads(1)
    answers.put((int(environment["RANK"]), work()))


def in_world(run: RunDir, world: World) -> Trainer:
    alone = trainer_of(run)
    return Trainer(run, alone.config, alone.resources, lambda _: None, world)


# -- what they compute ---


def losses(run: RunDir) -> list[dict[str, float]]:
    rows = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    return [row for row in rows if "loss" in row]
