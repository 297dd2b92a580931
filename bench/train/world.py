"""The ranks of one cell: who this process is among them, how they find one another, and the few
things that they tell each other beside gradients.

    World.from_environment()      of what bench.launch.supervisor or torchrun set; alone without it
    with world.joined(run, device):
        world.agreed([...])       one small exchange on the host: it never waits for a GPU

Between bench.run, which makes it, and bench.train.loop, which trains with it. A world of one does none of
this.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from bench.config.resources import Resources
from bench.process.environment import RankEnvironment
from bench.process.interrupt import Interrupted
from bench.store.files import read_json, write_json
from bench.store.rundir import RunDir

PATIENCE = timedelta(minutes=30)
"""How long ranks wait for one another: data are made, weights are read, checkpoints are written at
different speeds. A rank that died is noticed at once."""


@dataclass(frozen=True)
class World:
    """This process among those that train one run together."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    start: str | None = None  # names this start of the cell; None: torchrun says where to meet

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> World:
        """As the variables say that this process was started with."""
        told = RankEnvironment.from_env(environment)
        return cls(told.rank, told.size, told.local_rank, told.local_size, told.start)

    @property
    def first(self) -> bool:
        """Whether this rank writes the run's files."""
        return self.rank == 0

    @property
    def _on_one_machine(self) -> bool:
        return self.local_size == self.size

    def device(self, resources: Resources) -> torch.device:
        """Where this rank computes. Raises ValueError where there are not enough GPUs."""
        name = resources.device
        if name == "auto":
            name = "cuda" if torch.cuda.is_available() else "cpu"
        asked = torch.device(name)
        if self.size == 1 or asked.type != "cuda":
            return asked
        if asked.index is not None:
            raise ValueError(
                f"resources.device {resources.device} names one GPU and the run has {self.size} "
                "processes: set resources.device to cuda"
            )
        visible = torch.cuda.device_count()
        # A launcher that gives each process a GPU of its own lets it see no other.
        index = self.local_rank if visible > 1 else 0
        if index >= visible:
            raise ValueError(
                f"resources.devices asks for {self.local_size} GPUs on each machine and "
                f"{visible} are visible on {os.uname().nodename}"
            )
        return torch.device("cuda", index)

    # -- meeting and leaving ---

    @contextmanager
    def joined(self, run: RunDir, device: torch.device) -> Iterator[None]:
        """Within the block the ranks are connected. Raises TimeoutError when rank 0 does not come."""
        if self.size == 1:
            yield
            return
        if self._on_one_machine:
            os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # a host name need not resolve
        if device.type == "cuda":
            torch.cuda.set_device(device)
        dist.init_process_group(
            # Also beside GPUs the flags go by gloo: NCCL would wait for the work before them.
            "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo",
            store=self._store(run),
            init_method=None if self.start else "env://",
            rank=self.rank,
            world_size=self.size,
            timeout=PATIENCE,
        )
        if self.first and self.start:
            run.rendezvous(self.start).unlink(missing_ok=True)  # all have come
        try:
            yield
        except Interrupted:
            dist.destroy_process_group()
            raise
        # Not after an error: the others may be gone, and taking leave would wait for them.
        dist.destroy_process_group()

    def _store(self, run: RunDir) -> dist.Store | None:
        """A connection to the store that rank 0 opens, on a port that the system picks: jobs on one
        machine never meet by accident.
        """
        if self.start is None:
            return None
        path = run.rendezvous(self.start)
        if self.first:
            host = "127.0.0.1" if self._on_one_machine else os.uname().nodename
            store = dist.TCPStore(
                host, 0, self.size, is_master=True, timeout=PATIENCE, wait_for_workers=False
            )
            write_json(path, {"host": host, "port": store.port})
            return store
        deadline = time.monotonic() + PATIENCE.total_seconds()
        while (place := read_json(path)) is None:
            if time.monotonic() > deadline:
                raise TimeoutError(
                    f"rank {self.rank} waited {PATIENCE} for rank 0 to write {path}: did it start?"
                )
            time.sleep(0.05)
        return dist.TCPStore(place["host"], place["port"], self.size, timeout=PATIENCE)

    # -- what they tell each other ---

    def agreed(self, flags: Sequence[int]) -> list[int]:
        """The largest that any rank says, flag by flag: the same answer on all of them."""
        if self.size == 1:
            return list(flags)
        largest = torch.tensor(flags, dtype=torch.int64)
        dist.all_reduce(largest, dist.ReduceOp.MAX)
        return largest.tolist()

    def total(self, values: Tensor) -> Tensor:
        """Their sum over the ranks, on the host."""
        if self.size == 1:
            return values
        summed = values.to("cpu", copy=True)
        dist.all_reduce(summed)
        return summed

    def gathered(self, value: Any) -> list[Any]:
        """What each rank says, in their order."""
        found: list[Any] = [value]
        if self.size > 1:
            found = [None] * self.size
            dist.all_gather_object(found, value)
        return found


ALONE = World()
