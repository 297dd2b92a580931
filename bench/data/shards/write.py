"""Clips or images -> shards: makes the folder that `shards` reads. Every source ends here,
built-in or real.

Shards are written in parallel (`shard_writer`), each beside a journal and renamed when complete;
receipts in `.receipts/` say what each holds, so an interrupted run continues after its last clip.
`index.json` comes last. The bytes depend on the clips and the rule alone, not on the number of
workers or on interruptions.
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import hashlib
import io
import json
import logging
import multiprocessing
import os
import shutil
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from pathlib import Path
from typing import Any

import cv2
import pyarrow as pa
import pyarrow.parquet as pq

from bench.data import decoders
from bench.data.shards import journal, present
from bench.data.shards.index import INDEX, INDEX_DIGEST
from bench.data.shards.plan import (
    RECEIPTS,
    Clip,
    DataSetInfo,
    FrameRule,
    Job,
    Packing,
    Progress,
    Read,
    ReadLayer,
    plan_jobs,
)
from bench.data.shards.read import SAMPLES, SCHEMA, BadData, require_source
from bench.data.shards.space import require_space
from bench.data.shards.tar import write_clips, write_shard
from bench.process.machine import available_cores
from bench.shown.inert import csv_cell
from bench.store.files import (
    clear_leftovers,
    lock,
    replacing,
    sha256_of,
    write_bytes,
    write_text,
)

log = logging.getLogger(__name__)
FAILED = "failed.csv"
POLL_S = 0.5  # between two looks at how far the workers are
SHOWN = 5  # how many failures a message lists

__all__ = [
    "SHOWN",
    "Clip",
    "DataSetInfo",
    "FrameRule",
    "Packing",
    "Progress",
    "Read",
    "ReadLayer",
    "available_cores",
    "pack",
    "start_worker",
]


def pack(
    out: Path,
    splits: Mapping[str, Sequence[Clip]],
    read: Read,
    info: DataSetInfo,
    rule: FrameRule,
    packing: Packing,
    *,
    read_layer: ReadLayer | None = None,
) -> Path:
    """Write all splits to `out` and return it. Clips that name layers need `read_layer`.

    A killed run is continued after its last complete clip. A folder that is complete and of the
    same plan is verified: nothing is written, or only the shards that are damaged.

    Clips that `read` or the decoder rejects are listed in `failed.csv` and in the index. More than
    `allow_missing` of them, unless `allow_failed`, are an error (BadData) and no index is written,
    so that a data set never shrinks unnoticed. ValueError if the disk is too small.
    """
    if not info.made_by:
        info = dataclasses.replace(info, made_by=decoders.load(rule.decoder).version())
    jobs = list(plan_jobs(out, splits, read, read_layer, info, rule, packing.shard_clips))
    _refuse_foreign(out, jobs, info)
    if _is_complete(out, present.verified(out, jobs), info, packing.allowed):
        return out
    with _alone(out):
        clear_leftovers(out)
        receipts = present.verified(out, jobs)
        if _is_complete(out, receipts, info, packing.allowed):  # another process has just done it
            shutil.rmtree(out / RECEIPTS)
            return out
        _keep(out, jobs, receipts)
        _write(out, jobs, packing.workers or available_cores(), packing.progress)
        packed = [json.loads(job.receipt.read_bytes()) for job in jobs]
        failed = _refuse_failures(out, packed, info, packing.allowed)
        _write_index(out, jobs, packed, failed, info, rule)
        shutil.rmtree(out / RECEIPTS)
    return out


def _is_complete(
    out: Path,
    receipts: Sequence[present.Receipt | None] | None,
    info: DataSetInfo,
    allowed: int | None,
) -> bool:
    whole = [receipt for receipt in receipts or () if receipt]
    if not whole or len(whole) < len(receipts or ()):
        return False
    _refuse_failures(out, whole, info, allowed)
    count = sum(receipt["count"] for receipt in whole)
    log.info(
        "%s: verified %d shards with %d %s, nothing to write", out, len(whole), count, info.noun
    )
    return True


def _refuse_failures(
    out: Path, receipts: Sequence[present.Receipt], info: DataSetInfo, allowed: int | None
) -> list[dict[str, str]]:
    """All clips that failed, written to failed.csv; BadData if there are more than allowed."""
    failed = [failure for receipt in receipts for failure in receipt["failed"]]
    path = out / FAILED
    if not failed:
        if path.is_file():
            path.unlink()
        return failed
    write_failed(path, failed)
    if allowed is None or len(failed) <= allowed:
        log.warning("%d %s left out, see %s", len(failed), info.noun, path)
        return failed
    total = len(failed) + sum(receipt["count"] for receipt in receipts)
    listed = "\n  ".join(f"{f['split']}/{f['key']}: {f['reason']}" for f in failed[:SHOWN])
    more = f"\n  ... all of them in {path}" if len(failed) > SHOWN else f"\n(also in {path})"
    limit = f", {allowed} are allowed" if allowed else ""
    raise BadData(
        f"{len(failed)} of {total} {info.noun} cannot be decoded{limit}:\n  {listed}{more}\n"
        "Replace the files, or pass --allow-failed to leave them out (the index will list them)"
    )


def write_failed(path: Path, failed: Sequence[Mapping[str, str]]) -> None:
    """{split, key, reason} of each as CSV without formulas; a file that says so already is not
    touched.
    """
    table = io.StringIO()
    writer = csv.DictWriter(table, ["split", "key", "reason"], lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: csv_cell(text) for name, text in row.items()} for row in failed)
    content = table.getvalue().encode()
    if not path.is_file() or path.read_bytes() != content:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, content)


@contextlib.contextmanager
def _alone(out: Path) -> Iterator[None]:
    """One process at a time writes to a folder."""
    path = out / RECEIPTS / "lock"
    while True:
        with lock(path, waiting_for=f"another process, which is writing {out}") as file:
            if path.is_file() and os.path.samestat(path.stat(), os.fstat(file.fileno())):
                yield
                return


def _keep(
    out: Path, jobs: Sequence[Job], receipts: Sequence[present.Receipt | None] | None
) -> None:
    """Make an incomplete folder of a complete one: what stands is kept by its receipts."""
    for job, receipt in zip(jobs, receipts or (), strict=bool(receipts)):
        journal.forget(job)
        job.receipt.unlink(missing_ok=True)
        if receipt:
            write_bytes(job.receipt, json.dumps(receipt).encode())
        else:
            log.info("%s is damaged or of another plan, it is written anew", out / job.name)
    # from here on the folder is incomplete and must not claim otherwise
    (out / INDEX).unlink(missing_ok=True)


def _refuse_foreign(out: Path, jobs: Sequence[Job], info: DataSetInfo) -> None:
    """ValueError if `out` holds another data set."""
    remedy = "Choose an empty folder for --out"
    if (out / INDEX).is_dir():
        raise BadData(f"{out / INDEX} is a folder, not a file. Remove it and run the command again")
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


def _write(out: Path, jobs: Sequence[Job], workers: int, progress: Progress | None) -> None:
    """Write the shards that are not finished."""
    waiting = [job for job in jobs if not present.finished(job)]
    for job in waiting:
        if job.receipt.is_file():  # a clip of it was mended, or it is of another plan
            journal.forget(job)
            job.receipt.unlink()
    require_space(out, waiting)
    total = sum(len(job.clips) for job in jobs)
    before = total - sum(len(job.clips) for job in waiting)
    for done in _run(waiting, workers):
        if progress:
            progress(before + done, total)


def _run(waiting: Sequence[Job], workers: int) -> Iterator[int]:
    """Yields now and then how many clips of these shards are done."""
    if workers <= 1 or len(waiting) <= 1:
        yield from _run_here(waiting)
        return
    # spawn: forking after OpenCV or torch have started threads can deadlock.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, len(waiting)), context, initializer=start_worker) as pool:
        running = {pool.submit(write_shard, job): job for job in waiting}
        done = most = 0
        try:
            while running:
                for future in wait(running, POLL_S, FIRST_COMPLETED).done:
                    future.result()
                    done += len(running.pop(future).clips)
                most = max(most, done + sum(map(journal.clips_done, running.values())))
                yield most
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _run_here(waiting: Sequence[Job]) -> Iterator[int]:
    done = 0
    for job in waiting:
        for count in write_clips(job):
            yield done + count
        done += len(job.clips)
        yield done


def _write_index(
    out: Path,
    jobs: Sequence[Job],
    receipts: Sequence[Mapping[str, Any]],
    failed: Sequence[Mapping[str, str]],
    info: DataSetInfo,
    rule: FrameRule,
) -> None:
    """The samples as a table, then what they are as JSON: its existence says that all is there."""
    rows = [
        {"split": job.split, "shard": job.name, **row}
        for job, receipt in zip(jobs, receipts, strict=True)
        for row in receipt["rows"]
    ]
    if not rows:
        raise ValueError(f"no clip was written to {out}; is the annotation empty?")
    _write_samples(out / SAMPLES, rows)
    index = {
        "schema": SCHEMA,
        "source": info.source,
        "source_version": info.version,
        "config": dict(info.config),
        "classes": list(info.classes),
        "media": info.media,
        "layers": _layers_of(rows),
        "subsets": {name: list(ids) for name, ids in info.subsets.items()},
        "frames": {
            **rule.stored(),
            "made_by": info.made_by,
            "rule": rule.describe(info.media),
        },
        "splits": _splits_of(jobs, receipts),
        "shards": {
            job.name: {k: receipt[k] for k in ("count", "bytes", "sha256", "plan")}
            for job, receipt in zip(jobs, receipts, strict=True)
        },
        "failed": list(failed),
        "samples_sha256": sha256_of(out / SAMPLES),
    }
    for leftover in out.glob(".*.tmp*"):  # of killed runs; ours are renamed by now
        leftover.unlink(missing_ok=True)
    content = json.dumps(index, indent=1).encode()
    write_text(out / INDEX_DIGEST, f"{hashlib.sha256(content).hexdigest()}  {INDEX}\n")
    write_bytes(out / INDEX, content)


def _write_samples(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    columns = {column: None for row in rows for column in row}  # in order; not all have all layers
    table = pa.Table.from_pylist([{**columns, **row} for row in rows])
    for name in {"crc32", "frame_sizes"} & set(columns):  # four bytes for each frame, not eight
        place = table.column_names.index(name)
        table = table.set_column(place, name, table[name].cast(pa.list_(pa.uint32())))
    with replacing(path) as temporary:
        pq.write_table(table, temporary)


def _layers_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Split -> the layers that any of its samples has, sorted; without the splits that have none."""
    layers: dict[str, set[str]] = {}
    for row in rows:
        present = {c.removesuffix(".size") for c in row if c.endswith(".size")}
        layers.setdefault(row["split"], set()).update(present)
    return {split: sorted(names) for split, names in layers.items() if names}


def _splits_of(
    jobs: Sequence[Job], receipts: Sequence[Mapping[str, Any]]
) -> dict[str, dict[str, Any]]:
    """Split -> how many samples it has, in which shards."""
    splits: dict[str, dict[str, Any]] = {}
    for job, receipt in zip(jobs, receipts, strict=True):
        entry = splits.setdefault(job.split, {"samples": 0, "shards": []})
        entry["samples"] += receipt["count"]
        entry["shards"].append(job.name)
    return splits
