"""What is asked of SLURM for cells: the sbatch script of an array, and how cells fall into arrays.

Cells whose jobs need the same (their shape) go into one array, `pack` of them into each of its tasks.
submitit writes the text; submit.py hands it over, `scripts` is for --plan.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import submitit

from bench import COMPONENTS
from bench.config.resources import Resources
from bench.launch.slurm.queue import ask, batch_folder
from bench.store import snapshot
from bench.store.rundir import jobs_folder

if TYPE_CHECKING:
    from bench.launch.item import Item

T = TypeVar("T")

LONG_TIMEOUTS = 10**9
"""How often submitit may queue a job again; supervisor and cell have their own rule for the end."""
DEFAULT_MAX_ARRAY = 1000


@dataclass(frozen=True)
class Script:
    """A job array as it would be submitted: `count` jobs, and at most so many hours of GPUs (or, of
    jobs without, of cores).
    """

    count: int
    text: str
    gpu_hours: float
    core_hours: float


class Cluster:
    """What scontrol and sinfo say of the cluster; each is asked once."""

    def __init__(self) -> None:
        self._gpus: dict[str | None, bool] = {}

    @cached_property
    def max_array(self) -> int:
        """Jobs in one array; set it when sbatch says otherwise."""
        match = re.search(r"MaxArraySize\s*=\s*(\d+)", ask(["scontrol", "show", "config"]).out)
        # Indices must be smaller than MaxArraySize; ours begin at 0.
        return max(1, int(match[1])) if match else DEFAULT_MAX_ARRAY

    def gpus(self, resources: Resources) -> int:
        """GPUs to ask for on each node: one per process, if the cell can use any."""
        if resources.device == "cpu":
            return 0
        if resources.device.startswith("cuda"):
            return resources.devices
        partition = resources.slurm.partition
        if partition not in self._gpus:
            only = ["-p", partition] if partition else []
            self._gpus[partition] = "gpu" in ask(["sinfo", "-h", "-o", "%G", *only]).out
        return resources.devices if self._gpus[partition] else 0


class _Executor(submitit.SlurmExecutor):
    """Writes the script; nothing is submitted through it."""

    @classmethod
    def affinity(cls) -> int:
        return 2  # a plan needs no srun on this machine

    def text(self, count: int) -> str:
        self.parameters["map_count"] = count
        return self._make_submission_file_text(self._submitit_command_str, "")


def script_text(
    resources: Resources,
    *,
    name: str,
    folder: Path,
    code: Path | str,
    count: int,
    gpus: int,
    after: str = "",
) -> str:
    """The text for sbatch: an array of `count` tasks, one process of ours per node, which starts
    those of the cells. `after`: the job of what the cells start from; it must end well before.
    """
    slurm = resources.slurm
    minutes = slurm.minutes()
    if slurm.signal_delay_s >= minutes * 60:
        raise ValueError(
            f"resources.slurm.signal_delay_s ({slurm.signal_delay_s} s) must be shorter than "
            f"resources.slurm.time ({minutes} min)"
        )
    cores = cores_per_node(resources)
    quoted, threads = shlex.quote(str(folder)), resources.threads
    own = snapshot.own_components(code)
    setup = [
        *slurm.setup,
        # Here and not in sbatch's environment, so that a job that is queued again gets the same.
        f"export PYTHONPATH={shlex.quote(str(code))}${{PYTHONPATH:+:$PYTHONPATH}} PYTHONSAFEPATH=1",
        *([f"export {COMPONENTS}={shlex.quote(own)}"] if own else []),
        f"export OMP_NUM_THREADS={threads} MKL_NUM_THREADS={threads}",
        f"cd {quoted} && echo $SLURM_ARRAY_JOB_ID > job_id.$SLURM_ARRAY_TASK_ID"
        " && mv -f job_id.$SLURM_ARRAY_TASK_ID job_id"
        " && task=${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}_submitted.pkl"
        " && rm -f $task.save_tmp && cp -f task.pkl $task; cd - > /dev/null",
    ]
    executor = _Executor(folder, max_num_timeout=LONG_TIMEOUTS)
    executor.update_parameters(
        job_name=name,
        time=minutes,
        nodes=resources.nodes,
        ntasks_per_node=1,
        cpus_per_task=cores,
        gpus_per_node=gpus or None,
        partition=slurm.partition,
        account=slurm.account,
        qos=slurm.qos,
        mem=f"{round(slurm.mem_gb * 1024)}M" if slurm.mem_gb else None,
        constraint=slurm.constraint,
        exclude=slurm.exclude,
        setup=setup,
        signal_delay_s=slurm.signal_delay_s,
        array_parallelism=slurm.array_parallelism,
        wckey=None,
        stderr_to_stdout=True,
        srun_args=["--kill-on-bad-exit=1", f"--cpus-per-task={cores}"],
        additional_parameters={"requeue": True, **slurm.extra, **_dependency(after, slurm.extra)},
    )
    return executor.text(count)


def _dependency(after: str, extra: Mapping[str, Any]) -> dict[str, Any]:
    """A job that can never start is taken out of the queue: the client submits its cells again once
    their parent has been trained after all.
    """
    if not after:
        return {}
    own = [str(extra["dependency"])] if extra.get("dependency") else []
    return {"dependency": ",".join([*own, f"afterok:{after}"]), "kill_on_invalid_dep": "yes"}


def cores_per_node(resources: Resources) -> int:
    """Of one node."""
    return resources.pack * resources.devices * (resources.threads + resources.workers)


def job_name(sweep: str, batch: str) -> str:
    return f"bench-{re.sub(r'[^A-Za-z0-9_.-]', '_', sweep)}-{batch}"


def by_shape(items: Sequence[Item]) -> dict[str, list[Item]]:
    """Items whose jobs have the same script."""
    parts = {"nodes", "devices", "device", "threads", "workers", "pack", "slurm"}
    shapes: dict[str, list[Item]] = {}
    for item in items:
        needs = item.resources.model_dump(mode="json", include=parts)
        key = json.dumps([needs, _parent_of(item)], sort_keys=True)
        shapes.setdefault(key, []).append(item)
    return shapes


def _parent_of(item: Item) -> str:
    """What its job must wait for, if anything."""
    return "" if item.after is None or item.is_ready() else item.after.signature


def packed(items: Sequence[T], pack: int) -> list[list[T]]:
    return [list(items[i : i + pack]) for i in range(0, len(items), pack)]


def scripts(items: Sequence[Item], *, runs: Path, sweep: str) -> list[Script]:
    """What would be submitted, with <batch> and <code> where a submission has its id and the digest
    of the code. Touches nothing.
    """
    cluster = Cluster()
    found = []
    for alike in by_shape(items).values():
        resources = alike[0].resources
        gpus = cluster.gpus(resources)
        parent = _parent_of(alike[0])
        tasks = len(packed(alike, resources.pack))
        for first in range(0, tasks, cluster.max_array):
            count = min(tasks - first, cluster.max_array)
            text = script_text(
                resources,
                name=job_name(sweep, "<batch>"),
                folder=batch_folder(Path(runs).resolve(), "<batch>"),
                code=jobs_folder(Path(runs).resolve()) / "code/<code>",
                count=count,
                gpus=gpus,
                after=f"<job of {parent}>" if parent else "",
            )
            hours = count * resources.slurm.minutes() / 60 * resources.nodes
            cores = 0.0 if gpus else hours * cores_per_node(resources)
            found.append(Script(count, text, hours * gpus, cores))
    return found
