"""What is to be packed: clips, how their frames are stored, and one job per shard. The vocabulary
of `pack` (which plans and checks) and `shard_writer` (which writes, in worker processes).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np

from bench.data.shards.read import SCHEMA

RECEIPTS = ".receipts"
"""Folder in a data set that is not complete yet: what is known about each shard."""


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
    """How stored frames are made: `video` and `image` keep the original bytes, `jpeg` stores each
    decoded frame as a JPEG file, `raw` stores decoded frames uncompressed.
    """

    storage: Literal["video", "jpeg", "raw", "image"]
    short_side: int | None = None  # jpeg and raw: shrink to this, pixels; None keeps the size
    quality: int = 90  # jpeg only: 1 .. 100
    decoder: str = "opencv"  # what decodes videos: a file of bench/data/decoders

    def apply(self, frames_THWC: np.ndarray) -> np.ndarray:
        height, width = frames_THWC.shape[1:3]
        if self.short_side is None or min(height, width) <= self.short_side:
            return np.ascontiguousarray(frames_THWC)
        scale = self.short_side / min(height, width)
        size = (round(width * scale), round(height * scale))
        return np.stack(
            [cv2.resize(frame, size, interpolation=cv2.INTER_AREA) for frame in frames_THWC]
        )

    def stored(self) -> dict[str, Any]:
        """For the index and the digest of the plan; what is absent has its default value."""
        fields: dict[str, Any] = {"storage": self.storage, "short_side": self.short_side}
        if self.storage == "jpeg":
            fields["quality"] = self.quality
        if self.decoder != "opencv":
            fields["decoder"] = self.decoder
        return fields

    def describe(self, media: Literal["video", "image"]) -> str:
        """What numbers may be averaged over, in words."""
        if media == "image":  # decoded now or when read, the pixels are the same
            return "original files"
        if self.storage == "video":
            return "original file"
        if self.storage == "raw":
            return "all frames, short side shrunk with INTER_AREA"
        size = f"{self.short_side} px" if self.short_side else "kept"
        return (
            f"all frames, short side {size} (INTER_AREA), JPEG of quality {self.quality} "
            f"by OpenCV {cv2.__version__}"
        )


@dataclass(frozen=True)
class Packing:
    """How `pack` goes about it, whatever the data set. No sample depends on it."""

    shard_clips: int = 1000
    workers: int | None = None  # processes; None: all cores
    progress: Progress | None = None
    allow_failed: bool = False  # leave out all clips that cannot be read or decoded
    allow_missing: int = 0  # else so many of them

    @property
    def allowed(self) -> int | None:
        """How many clips may be left out; None: any number."""
        return None if self.allow_failed else self.allow_missing


@dataclass(frozen=True)
class DataSetInfo:
    """What index.json says about the data set as a whole."""

    source: str
    version: int
    config: Mapping[str, Any]
    classes: Sequence[str]
    subsets: Mapping[str, Sequence[int]]
    made_by: str = ""  # what produced the frames; if empty, the decoder of the rule
    media: Literal["video", "image"] = "video"

    @property
    def noun(self) -> str:
        """For messages."""
        return f"{self.media}s"


@dataclass(frozen=True)
class Job:
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


def plan_jobs(
    out: Path,
    splits: Mapping[str, Sequence[Clip]],
    read: Read,
    read_layer: ReadLayer | None,
    info: DataSetInfo,
    rule: FrameRule,
    shard_clips: int,
) -> Iterator[Job]:
    """One job per shard, in the order of the index."""
    base = json.dumps(
        [SCHEMA, info.source, info.version, dict(info.config), rule.stored(), info.made_by],
        sort_keys=True,
    )
    for split, clips in splits.items():
        for number, start in enumerate(range(0, len(clips), shard_clips)):
            part = tuple(clips[start : start + shard_clips])
            plan = hashlib.sha256(base.encode())
            plan.update(json.dumps([split, [_planned(c) for c in part]], sort_keys=True).encode())
            name = f"{split}-{number:06d}.tar"
            yield Job(out, name, split, part, read, rule, plan.hexdigest(), info.media, read_layer)


def _planned(clip: Clip) -> list[Any]:
    plan = [clip.key, clip.label, dict(clip.meta)]
    return [*plan, dict(clip.layers)] if clip.layers else plan
