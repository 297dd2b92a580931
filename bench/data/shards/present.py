"""What is there already: which shards of a folder need not be written again. `pack` asks first.

Of a complete folder every byte is verified and every clip compared with the plan. Of one that is
not, the receipts of finished shards say what they hold.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from bench.data.shards.plan import Clip, Job
from bench.data.shards.read import INDEX, SAMPLES, read_index
from bench.data.shards.tar import encode_clip, read_receipt
from bench.store.files import sha256_of

Receipt = Mapping[str, Any]
_FRAME_DEFAULTS = {"quality": 90, "decoder": "opencv"}


def finished(job: Job) -> Receipt | None:
    """The receipt of a shard of an incomplete folder; None if it has to be written."""
    receipt = read_receipt(job)
    return None if receipt is None or _is_mended(job, receipt) else receipt


def verified(out: Path, jobs: Sequence[Job]) -> list[Receipt | None] | None:
    """For every job of a complete folder the receipt of its shard, or None where the shard is
    damaged or of another plan. None if the folder is not complete.

    Reads the folder, writes nothing.
    """
    if not (out / INDEX).is_file():
        return None
    index = read_index(out)
    path = out / SAMPLES
    if not path.is_file() or sha256_of(path) != index["samples_sha256"]:
        return [None] * len(jobs)  # nothing says where the clips lie
    rows: dict[str, list[dict[str, Any]]] = {}
    for row in pq.read_table(path).to_pylist():
        row.pop("split")
        present = {k: v for k, v in row.items() if v is not None}
        rows.setdefault(present.pop("shard"), []).append(present)
    return [_verified_shard(job, index, rows.get(job.name, [])) for job in jobs]


def _verified_shard(job: Job, index: Mapping[str, Any], rows: list[Any]) -> Receipt | None:
    shard, path = index["shards"].get(job.name), job.out / job.name
    keys = {clip.key for clip in job.clips}
    failed = [f for f in index["failed"] if f["split"] == job.split and f["key"] in keys]
    if shard is None or not path.is_file() or path.stat().st_size != shard["bytes"]:
        return None
    if len(rows) != shard["count"] or not _is_planned(job, index, shard, rows, failed):
        return None
    if sha256_of(path) != shard["sha256"]:
        return None
    receipt = {**shard, "plan": job.plan, "rows": rows, "failed": failed}
    return None if _is_mended(job, receipt) else receipt


def _is_planned(
    job: Job, index: Mapping[str, Any], shard: Receipt, rows: list[Any], failed: list[Any]
) -> bool:
    if "plan" in shard:
        return bool(shard["plan"] == job.plan)
    # written before plans were kept: what can be compared
    rule = {**_FRAME_DEFAULTS, **job.rule.stored()}
    frames = {**_FRAME_DEFAULTS, **index["frames"]}
    left_out = {f["key"] for f in failed}
    clips = [(clip.key, clip.label) for clip in job.clips if clip.key not in left_out]
    stored = [(row["key"], row["label"]) for row in rows]
    return clips == stored and all(frames[name] == value for name, value in rule.items())


def _is_mended(job: Job, receipt: Receipt) -> bool:
    """Can a clip that failed be packed now, because its file was replaced?"""
    failed = {f["key"] for f in receipt["failed"]}
    return any(_is_sound(job, clip) for clip in job.clips if clip.key in failed)


def _is_sound(job: Job, clip: Clip) -> bool:
    try:
        encode_clip(job, clip)
    except ValueError:
        return False
    return True
