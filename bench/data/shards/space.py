"""Does a data set fit on the disk? Estimated before `pack` writes its first byte."""

from __future__ import annotations

import logging
import tarfile
from collections.abc import Sequence
from pathlib import Path

from bench.data.shards.plan import RECEIPTS, Clip, Job
from bench.data.shards.tar import encode_clip
from bench.store import places

log = logging.getLogger(__name__)
_SAMPLED = 16  # clips, spread over the whole


def require_space(out: Path, jobs: Sequence[Job]) -> None:
    """ValueError with both numbers unless these shards fit on the disk of `out` by estimate.

    Where original files are stored and the reader offers `size(split, clip)` in bytes, the
    estimate is their sum; otherwise some clips are packed in memory to see.
    """
    size = _estimate(jobs)
    present = sum(part.stat().st_size for part in (out / RECEIPTS).glob("*.part"))
    needed, free = max(size - present, 0), places.free(out)
    if needed > free:
        raise ValueError(
            f"the shards need about {places.size(needed)}, but only {places.size(free)} are free at {out}. "
            "Free some space, choose another folder, or store smaller frames"
        )
    if needed:
        log.info("about %s to write, %s are free", places.size(needed), places.size(free))


def _estimate(jobs: Sequence[Job]) -> int:
    clips = [(job, clip) for job in jobs for clip in job.clips]
    if not clips:
        return 0
    size_of = getattr(jobs[0].read, "size", None)
    has_layers = any(clip.layers for _, clip in clips)
    if size_of and jobs[0].rule.storage in ("video", "image") and not has_layers:
        return sum(_in_tar(size_of(job.split, clip)) + _in_tar(0) for job, clip in clips)
    count = min(_SAMPLED, 1 + len(clips) // _SAMPLED)
    picked = [clips[len(clips) * n // count] for n in range(count)]
    sizes = [size for size in (_packed_size(job, clip) for job, clip in picked) if size]
    return sum(sizes) * len(clips) // len(sizes) if sizes else 0


def _packed_size(job: Job, clip: Clip) -> int:
    """0 for a clip that fails."""
    try:
        members, _ = encode_clip(job, clip)
    except ValueError:
        return 0
    return sum(_in_tar(len(data)) for data in members.values())


def _in_tar(size: int) -> int:
    return tarfile.BLOCKSIZE + size + -size % tarfile.BLOCKSIZE
