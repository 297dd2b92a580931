"""Clips or images -> shards: writes the folder that `shards` reads. Every source ends here,
built-in or real.

Shards are written in parallel, each under a temporary name and renamed when complete; a small
receipt per shard (in `.receipts/`) lets an interrupted run continue without rewriting it.
`index.json` comes last. The bytes depend on the clips and the rule alone, not on the number of
workers or on interruptions.
"""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import shutil
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import cv2
import pyarrow as pa
import pyarrow.parquet as pq

from bench.data import decoders
from bench.data.plan import (
    RECEIPTS,
    Clip,
    DataSetInfo,
    FrameRule,
    Job,
    Progress,
    Read,
    ReadLayer,
    plan_jobs,
)
from bench.data.shard_writer import write_atomically, write_shard
from bench.data.shards import INDEX, SAMPLES, SCHEMA, BadData, require_source, sha256_of

SHOWN = 5  # how many failures a message lists

__all__ = [
    "SHOWN",
    "Clip",
    "DataSetInfo",
    "FrameRule",
    "Progress",
    "Read",
    "ReadLayer",
    "available_cores",
    "pack",
    "start_worker",
    "write_atomically",
]


def pack(
    out: Path,
    splits: Mapping[str, Sequence[Clip]],
    read: Read,
    info: DataSetInfo,
    rule: FrameRule,
    *,
    read_layer: ReadLayer | None = None,
    shard_clips: int = 1000,
    workers: int | None = None,
    progress: Progress | None = None,
    allow_failed: bool = False,
) -> Path:
    """Write all splits to `out` and return it. Restartable: finished shards of the same plan are
    kept. Clips that name layers need `read_layer`.

    Clips that `read` or the decoder rejects are listed in the index; unless `allow_failed`, they
    are an error and no index is written, so that a data set never shrinks unnoticed.
    """
    if not info.made_by:
        info = dataclasses.replace(info, made_by=decoders.load(rule.decoder).version())
    jobs = list(plan_jobs(out, splits, read, read_layer, info, rule, shard_clips))
    _refuse_foreign(out, jobs, info)
    (out / RECEIPTS).mkdir(parents=True, exist_ok=True)
    (out / INDEX).unlink(
        missing_ok=True
    )  # from here on the folder is incomplete and must not claim otherwise
    total = sum(len(job.clips) for job in jobs)
    done = 0
    for job in _run(jobs, workers or available_cores()):
        done += len(job.clips)
        if progress:
            progress(done, total)
    receipts = [json.loads(job.receipt.read_bytes()) for job in jobs]
    failed = [failure for receipt in receipts for failure in receipt["failed"]]
    if failed and not allow_failed:
        listed = "\n  ".join(f"{f['split']}/{f['key']}: {f['reason']}" for f in failed[:SHOWN])
        raise BadData(
            f"{len(failed)} of {total} {info.noun} cannot be decoded:\n  {listed}\n"
            "Replace the files, or pass --allow-failed to leave them out (the index will list them)"
        )
    _write_index(out, jobs, receipts, failed, info, rule)
    return out


def _refuse_foreign(out: Path, jobs: Sequence[Job], info: DataSetInfo) -> None:
    """ValueError if `out` holds another data set."""
    remedy = "Choose an empty folder for --out"
    if (out / INDEX).is_file():
        require_source(
            out, source=info.source, version=info.version, config=info.config, remedy=remedy
        )
    planned = {job.name for job in jobs}
    if foreign := sorted(path.name for path in out.glob("*.tar") if path.name not in planned):
        raise ValueError(
            f"{out} holds shards of another data set: {', '.join(foreign[:SHOWN])}. {remedy}"
        )


def start_worker() -> None:
    """For worker processes: no threads of OpenCV's own, and no life after the parent's.

    A killed parent leaves the workers of a process pool waiting for work for ever.
    """
    cv2.setNumThreads(0)
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)


def available_cores() -> int:
    """The cores this process may use (cgroup pinning and SLURM respected)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _run(jobs: Sequence[Job], workers: int) -> Iterator[Job]:
    """Write the shards that are not there yet; yields each job once its shard is complete."""
    waiting = []
    for job in jobs:
        if _is_finished(job):
            yield job
        else:
            waiting.append(job)
    if workers <= 1 or len(waiting) <= 1:
        for job in waiting:
            write_shard(job)
            yield job
        return
    # spawn: forking after OpenCV or torch have started threads can deadlock.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, len(waiting)), context, initializer=start_worker) as pool:
        running = {pool.submit(write_shard, job): job for job in waiting}
        try:
            for future in as_completed(running):
                future.result()
                yield running[future]
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _is_finished(job: Job) -> bool:
    path = job.out / job.name
    if not (path.is_file() and job.receipt.is_file()):
        return False
    try:
        receipt = json.loads(job.receipt.read_bytes())
    except ValueError:
        return False
    return bool(receipt["plan"] == job.plan) and receipt["bytes"] == path.stat().st_size


def _write_index(
    out: Path,
    jobs: Sequence[Job],
    receipts: Sequence[Mapping[str, Any]],
    failed: Sequence[Mapping[str, str]],
    info: DataSetInfo,
    rule: FrameRule,
) -> None:
    rows = [
        {"split": job.split, "shard": job.name, **row}
        for job, receipt in zip(jobs, receipts, strict=True)
        for row in receipt["rows"]
    ]
    if not rows:
        raise ValueError(f"no clip was written to {out}; is the annotation empty?")
    columns = {column: None for row in rows for column in row}  # in order; not all have all layers
    temporary = out / f".{SAMPLES}.tmp-{os.getpid()}"
    table = pa.Table.from_pylist([{**columns, **row} for row in rows])
    for name in {"crc32", "frame_sizes"} & set(columns):  # four bytes for each frame, not eight
        place = table.column_names.index(name)
        table = table.set_column(place, name, table[name].cast(pa.list_(pa.uint32())))
    pq.write_table(table, temporary)
    temporary.replace(out / SAMPLES)
    layers: dict[str, list[str]] = {}
    for row in rows:
        named = layers.setdefault(row["split"], [])
        present = (c.removesuffix(".size") for c in row if c.endswith(".size"))
        named += [name for name in present if name not in named]
    splits: dict[str, dict[str, Any]] = {}
    for job, receipt in zip(jobs, receipts, strict=True):
        entry = splits.setdefault(job.split, {"samples": 0, "shards": []})
        entry["samples"] += receipt["count"]
        entry["shards"].append(job.name)
    index = {
        "schema": SCHEMA,
        "source": info.source,
        "source_version": info.version,
        "config": dict(info.config),
        "classes": list(info.classes),
        "media": info.media,
        "layers": {split: sorted(names) for split, names in layers.items() if names},
        "subsets": {name: list(ids) for name, ids in info.subsets.items()},
        "frames": {
            **rule.stored(),
            "made_by": info.made_by,
            "rule": rule.describe(info.media),
        },
        "splits": splits,
        "shards": {
            job.name: {k: receipt[k] for k in ("count", "bytes", "sha256")}
            for job, receipt in zip(jobs, receipts, strict=True)
        },
        "failed": list(failed),
        "samples_sha256": sha256_of(out / SAMPLES),
    }
    for leftover in out.glob(".*.tmp-*"):  # of killed runs; ours are renamed by now
        leftover.unlink(missing_ok=True)
    write_atomically(out / INDEX, json.dumps(index, indent=1).encode())
    shutil.rmtree(out / RECEIPTS)
