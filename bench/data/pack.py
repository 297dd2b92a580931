"""Clips or images -> shards: writes the folder that `shards` reads. Every source ends here,
built-in or real.

Shards are written in parallel, each under a temporary name and renamed when complete; a small
receipt per shard (in `.receipts/`) lets an interrupted run continue without rewriting it.
`index.json` comes last. The bytes depend on the clips and the rule alone, not on the number of
workers or on interruptions.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import shutil
import tarfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Literal

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bench.data.photo import decode_image
from bench.data.shards import INDEX, SAMPLES, SCHEMA, BadData, require_source, sha256_of
from bench.data.video import DECODER, count_frames, decode

RECEIPTS = ".receipts"
SHOWN = 5  # how many failures a message lists


@dataclass(frozen=True)
class Clip:
    """One sample before packing: its key (also the member name in the tar), class id, what goes
    into its JSON and, of images, where its layers are (name -> what `ReadLayer` understands).
    """

    key: str
    label: int
    meta: Mapping[str, Any] = field(default_factory=dict)
    layers: Mapping[str, str] = field(default_factory=dict)


Read = Callable[[str, Clip], "bytes | np.ndarray"]
"""(split, clip) -> the bytes of the video or image file, or frames as uint8 T H W 3. Must pickle.
ValueError: the clip is broken.
"""

ReadLayer = Callable[[str, Clip, str], "bytes | np.ndarray"]
"""(split, clip, name of the layer) -> the bytes of an image file, or an array as `Samples.layer`
returns it. Must pickle. ValueError: the layer is broken, and so the sample.
"""

Progress = Callable[[int, int], None]
"""(clips done, clips in all)"""


@dataclass(frozen=True)
class FrameRule:
    """How stored frames are made: `video` and `image` keep the original bytes, `raw` stores decoded
    frames uncompressed.
    """

    storage: Literal["video", "image", "raw"]
    short_side: int | None = None  # raw only: shrink to this, pixels; None keeps the size

    def apply(self, frames_THWC: np.ndarray) -> np.ndarray:
        height, width = frames_THWC.shape[1:3]
        if self.short_side is None or min(height, width) <= self.short_side:
            return np.ascontiguousarray(frames_THWC)
        scale = self.short_side / min(height, width)
        size = (round(width * scale), round(height * scale))
        return np.stack(
            [cv2.resize(frame, size, interpolation=cv2.INTER_AREA) for frame in frames_THWC]
        )


@dataclass(frozen=True)
class DataSetInfo:
    """What index.json says about the data set as a whole."""

    source: str
    version: int
    config: Mapping[str, Any]
    classes: Sequence[str]
    subsets: Mapping[str, Sequence[int]]
    made_by: str = DECODER  # what produced the frames
    media: Literal["video", "image"] = "video"

    @property
    def noun(self) -> str:
        """For messages."""
        return f"{self.media}s"


@dataclass(frozen=True)
class _Job:
    """One shard to write; travels to a worker process."""

    out: Path
    name: str
    split: str
    clips: tuple[Clip, ...]
    read: Read
    rule: FrameRule
    plan: str  # digest of everything that determines this shard's content
    media: Literal["video", "image"]
    read_layer: ReadLayer | None

    @property
    def receipt(self) -> Path:
        return self.out / RECEIPTS / f"{self.name}.json"


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
    jobs = list(_jobs(out, splits, read, read_layer, info, rule, shard_clips))
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


def _refuse_foreign(out: Path, jobs: Sequence[_Job], info: DataSetInfo) -> None:
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


def _jobs(
    out: Path,
    splits: Mapping[str, Sequence[Clip]],
    read: Read,
    read_layer: ReadLayer | None,
    info: DataSetInfo,
    rule: FrameRule,
    shard_clips: int,
) -> Iterator[_Job]:
    base = json.dumps(
        [SCHEMA, info.source, info.version, dict(info.config), asdict(rule), info.made_by],
        sort_keys=True,
    )
    for split, clips in splits.items():
        for number, start in enumerate(range(0, len(clips), shard_clips)):
            part = tuple(clips[start : start + shard_clips])
            plan = hashlib.sha256(base.encode())
            plan.update(json.dumps([split, [_planned(c) for c in part]], sort_keys=True).encode())
            name = f"{split}-{number:06d}.tar"
            yield _Job(out, name, split, part, read, rule, plan.hexdigest(), info.media, read_layer)


def _planned(clip: Clip) -> list[Any]:
    plan = [clip.key, clip.label, dict(clip.meta)]
    return [*plan, dict(clip.layers)] if clip.layers else plan


def _run(jobs: Sequence[_Job], workers: int) -> Iterator[_Job]:
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


def _is_finished(job: _Job) -> bool:
    path = job.out / job.name
    if not (path.is_file() and job.receipt.is_file()):
        return False
    try:
        receipt = json.loads(job.receipt.read_bytes())
    except ValueError:
        return False
    return bool(receipt["plan"] == job.plan) and receipt["bytes"] == path.stat().st_size


def write_shard(job: _Job) -> None:
    """Write one tar and its receipt, each by temp + rename, the receipt last."""
    import webdataset  # imports torch (1.5 s): only the processes that write pay for it

    temporary = job.out / f".{job.name}.tmp-{os.getpid()}"
    rows: list[dict[str, Any]] = []
    failed: list[dict[str, str]] = []
    try:
        with temporary.open("wb") as file, webdataset.TarWriter(file, mtime=0) as writer:
            for clip in job.clips:
                try:
                    sample, row = _sample(job, clip)
                except ValueError as error:
                    failed.append({"split": job.split, "key": clip.key, "reason": str(error)})
                    continue
                writer.write(sample)
                rows.append(row)
        _locate_members(temporary, rows)
        receipt = {
            "plan": job.plan,
            "count": len(rows),
            "bytes": temporary.stat().st_size,
            "sha256": sha256_of(temporary),
            "rows": rows,
            "failed": failed,
        }
        temporary.replace(job.out / job.name)
    finally:
        temporary.unlink(missing_ok=True)
    write_atomically(job.receipt, json.dumps(receipt).encode())


def _sample(job: _Job, clip: Clip) -> tuple[dict[str, Any], dict[str, Any]]:
    """(WebDataset sample, row of samples.parquet without the offsets)."""
    media = job.read(job.split, clip)
    if job.media == "video" and isinstance(media, bytes):
        from bench.data.damage import examine  # imports PyAV: only who packs pays for it

        examine(media, key=clip.key)
    if job.rule.storage == "raw":
        frames = job.rule.apply(_decoded(job, media, clip) if isinstance(media, bytes) else media)
        num_frames, height, width = frames.shape[:3]
        stored: dict[str, Any] = {"npy": frames}
    else:
        assert isinstance(media, bytes), "only files can be stored as files"
        if job.rule.storage == "video":
            num_frames = count_frames(media, key=clip.key)
            height, width = decode(media, [0], key=clip.key).shape[1:3]
            stored = {"webm": media}
        else:
            num_frames, height, width = _decoded(job, media, clip).shape[:3]
            stored = {"jpg": media}  # readers go by the content, which may also be PNG
    for name in clip.layers:
        stored |= _stored_layer(job, clip, name, (height, width))
    meta = {"label": clip.label, "num_frames": num_frames, **clip.meta}
    row = {
        "key": clip.key,
        "label": clip.label,
        "num_frames": num_frames,
        "height": height,
        "width": width,
    }
    return {"__key__": clip.key, "json": meta, **stored}, row


def _decoded(job: _Job, media: bytes, clip: Clip) -> np.ndarray:
    """uint8 T H W 3 of a video or an image."""
    if job.media == "image":
        return decode_image(media, name=clip.meta.get("file", clip.key))[None]
    return decode(media, key=clip.key)


def _stored_layer(job: _Job, clip: Clip, name: str, size: tuple[int, int]) -> dict[str, Any]:
    """The member of one layer; ValueError unless it is as large as its image."""
    assert job.read_layer is not None and job.rule.short_side is None, "layers keep their size"
    data, file = job.read_layer(job.split, clip, name), clip.layers[name]
    array = decode_image(data, name=file) if isinstance(data, bytes) else data
    if array.shape[:2] != size:
        (height, width), (rows, columns) = size, array.shape[:2]
        raise ValueError(f"{file} is {columns} x {rows} pixels, its image {width} x {height}")
    if isinstance(data, bytes) and job.rule.storage == "image":
        return {f"{name}.jpg": data}
    return {f"{name}.npy": np.ascontiguousarray(array)}


def _locate_members(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Fill in where each sample's frames and layers lie in the tar (`header`: bytes of an npy
    member before its first pixel).
    """
    of_key = {row["key"]: row for row in rows}
    with path.open("rb") as file, tarfile.open(path) as tar:
        for member in tar:
            folder, slash, name = member.name.rpartition("/")
            stem, _, extension = name.partition(".")  # as WebDataset tells key from extension
            if extension == "json":
                continue
            layer, dot, encoding = extension.rpartition(".")
            header = _header_bytes(file, member.offset_data) if encoding == "npy" else 0
            place = {"offset": member.offset_data, "size": member.size, "header": header}
            of_key[f"{folder}{slash}{stem}"] |= {f"{layer}{dot}{k}": v for k, v in place.items()}


def _header_bytes(file: BinaryIO, offset: int) -> int:
    """Of an npy file of version 1.0: magic, version, length of the description, description."""
    file.seek(offset)
    start = file.read(10)
    assert start[:8] == b"\x93NUMPY\x01\x00", start
    return 10 + int.from_bytes(start[8:], "little")


_RULES = {
    ("video", "video"): "original file",
    ("raw", "video"): "all frames, short side shrunk with INTER_AREA",
    # decoded now or when read, the pixels are the same: so is what numbers may be averaged over
    ("image", "image"): "original files",
    ("raw", "image"): "original files",
}


def _write_index(
    out: Path,
    jobs: Sequence[_Job],
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
    pq.write_table(pa.Table.from_pylist([{**columns, **row} for row in rows]), temporary)
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
            **asdict(rule),
            "made_by": info.made_by,
            "rule": _RULES[rule.storage, info.media],
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


def write_atomically(path: Path, data: bytes) -> None:
    """Temp + rename: readers see the old content or the new, never half of it."""
    temporary = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    temporary.write_bytes(data)
    temporary.replace(path)
