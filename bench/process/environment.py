"""The environment variables by which whoever starts a process of a cell (bench.launch.supervisor, or
torchrun) tells it which one it is; bench.run and bench.train.world read them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

_JOB, _CLAIM, _START = "BENCH_JOB", "BENCH_CLAIM", "BENCH_START"
_OF_RANKS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")  # as torchrun has them
_NAMES = {_JOB, _CLAIM, _START, *_OF_RANKS}


@dataclass(frozen=True)
class RankEnvironment:
    """Which process of which start of a cell this is."""

    job: str = ""  # "123_4" in SLURM, "local:<pid>"; empty without a supervisor
    claim: str | None = None  # the batch or the supervisor's pid, as in the cell's claim
    start: str | None = None  # names this start of several ranks; None: torchrun says where to meet
    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1

    @property
    def slurm(self) -> bool:
        """Whether the job is one of SLURM's."""
        return bool(self.job) and not self.job.startswith("local")

    @classmethod
    def from_env(cls, env: Mapping[str, str] = os.environ) -> RankEnvironment:
        """What `to_env` wrote; without ranks where there is one process."""
        found = cls(env.get(_JOB, ""), env.get(_CLAIM))
        size = int(env.get("WORLD_SIZE", 1))
        if size == 1:
            return found
        return cls(
            found.job,
            found.claim,
            env.get(_START),
            rank=int(env["RANK"]),
            size=size,
            local_rank=int(env["LOCAL_RANK"]),
            local_size=int(env.get("LOCAL_WORLD_SIZE", size)),
        )

    def to_env(self, base: Mapping[str, str] = os.environ) -> dict[str, str]:
        """`base` with these variables, and without what it may itself say of a process."""
        said: dict[str, str | int | None] = {_JOB: self.job or None, _CLAIM: self.claim}
        if self.size > 1:
            numbers = (self.rank, self.size, self.local_rank, self.local_size)
            said |= {**dict(zip(_OF_RANKS, numbers, strict=True)), _START: self.start}
        others = {name: value for name, value in base.items() if name not in _NAMES}
        return others | {name: str(value) for name, value in said.items() if value is not None}
