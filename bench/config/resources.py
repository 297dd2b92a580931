"""Where and how a run is computed. Nothing here changes a number, so nothing of it is signed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

import pydantic
from pydantic import Field

from bench.config.mistakes import Mistake, Mistakes
from bench.config.validate import validated
from bench.task import Config


class Slurm(Config):
    """What is asked of SLURM for one job (`resources.slurm.*`)."""

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    time: int | str = Field(
        1440,
        description="time limit of a job: minutes, HH:MM:SS or D-HH:MM:SS; a cell that is not "
        "through by then goes on in the next job",
    )
    mem_gb: float | None = Field(None, gt=0, description="memory per node")
    constraint: str | None = None
    exclude: str | None = Field(None, description="nodes never to use, e.g. node[03,17]")
    setup: tuple[str, ...] = Field(
        (), description="shell lines before the cell starts, e.g. [module load cuda]"
    )
    extra: dict[str, str | int | bool] = Field(
        {}, description="any other option of sbatch, e.g. {reservation: icml}"
    )
    array_parallelism: int = Field(256, ge=1, description="jobs of an array that run at once")
    signal_delay_s: int = Field(
        120, ge=1, description="warning before the time limit or a preemption; a step and a "
        "checkpoint must fit into it"
    )  # fmt: skip

    @pydantic.model_validator(mode="after")
    def _time_is_readable(self) -> Slurm:
        self.minutes()
        return self

    def minutes(self) -> int:
        """The time limit in whole minutes, rounded up."""
        if isinstance(self.time, int):
            if self.time < 1:
                raise ValueError(f"time must be at least a minute, got {self.time}")
            return self.time
        match = re.fullmatch(r"(?:(\d+)-)?(\d+):([0-5]?\d)(?::([0-5]?\d))?", self.time)
        if match is None or (match[1] is None and match[4] is None):
            raise ValueError(f"time must be minutes, HH:MM:SS or D-HH:MM[:SS], got {self.time!r}")
        days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
        return max(1, days * 1440 + hours * 60 + minutes + (seconds > 0))


class Resources(Config):
    """Where and how fast a run is computed. Nothing scientific may depend on any of this: it is not
    in the signature.
    """

    data_dir: str = Field("data", description="folder that holds the prepared data sets")
    weights_dir: str = Field(
        "data/weights", description="folder with <timm name>.safetensors or .pth files"
    )
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1 ...")
    threads: int = Field(
        1, ge=1, description="CPU threads of one cell; cores / threads cells run at once"
    )
    workers: int = Field(0, ge=0, description="loader processes; 0 = in the training process")
    nodes: int = Field(1, ge=1, description="machines of one cell (SLURM only)")
    devices: int = Field(
        1,
        ge=1,
        description="processes of one cell on each machine, one per GPU; the batch is split over "
        "all of them (DistributedDataParallel)",
    )
    pack: int = Field(
        1, ge=1, description="cells that share one job or slot and run side by side in it"
    )
    slurm: Slurm = Slurm()
    micro_batch: int | None = Field(
        None,
        ge=1,
        description="clips that fit on a device; default its whole share of the batch",
    )
    compile: bool = Field(
        False,
        description="torch.compile the backbone in training; takes minutes before the first step",
    )
    verify: Literal["first", "always", "never"] = Field(
        "first",
        description="the SHA-256 of the shards that a cell reads: first (once on a machine, again when "
        "a file has changed), always (at every start) or never (only what is read, clip by clip)",
    )
    log_every: int = Field(10, ge=1, description="steps between lines of metrics.jsonl")
    checkpoint_minutes: float = Field(5.0, gt=0)
    checkpoint_steps: int | None = Field(
        None, ge=1, description="also after this many steps (tests)"
    )
    keep: Literal["all", "weights", "none"] = Field(
        "all",
        description="what stays of the checkpoints once the cell is DONE: all (last and best, with "
        "the optimiser's state), weights (the last ones, which the results are of), or none",
    )

    @pydantic.model_validator(mode="after")
    def _packed_cells_are_small(self) -> Resources:
        if self.pack > 1 and self.nodes * self.devices > 1:
            raise ValueError(
                "pack is for cells of one process: set pack, or nodes and devices, not both"
            )
        return self

    @property
    def world(self) -> int:
        """Processes of one cell."""
        return self.nodes * self.devices


def parse_resources(raw: Mapping[str, Any]) -> Resources:
    """Validate the `resources` mapping. Raises Mistakes."""
    mistakes: list[Mistake] = []
    resources = validated(Resources, raw, ("resources",), mistakes)
    if mistakes:
        raise Mistakes(mistakes)
    return resources
