"""Clips for `bench.speed loader`: generated and packed once for each storage, and their stored bytes.

The clips are those of mini-ssv2 (moving camera, hands and objects before photographs), in the size
and near the bit rate of Something-Something-v2. `Stored` finds what a folder holds in its plain tars
without the readers that are measured, and `decode_alone` is the least that must be done with it.
"""

from __future__ import annotations

import io
import mmap
import tarfile
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from bench import find
from bench.data.shards.read import ShardSamples, open_split, read_index
from bench.data.shards.write import Clip, DataSetInfo, FrameRule, Packing, Progress, pack
from bench.data.video import encode_vp9

SPLIT = "train"
FPS = 12
MARGIN = 1.15  # of the rendered height, so that a part of width / height 1.53 can be cut from 4 / 3
STORAGES = ("video", "jpeg", "raw")
QUALITY = 90  # of the JPEG files


@dataclass(frozen=True)
class Shards:
    """One folder whose first clips are loaded; travels as JSON."""

    name: str  # in the rows
    storage: str
    folder: str
    split: str

    def samples(self, count: int, *, length: int | None = None) -> ClipCycle:
        return ClipCycle(open_split(Path(self.folder), self.split), count, length)


class ClipCycle:
    """The first `count` clips of a split, over and over up to `length`: `Samples` of bench.task."""

    def __init__(self, samples: ShardSamples, count: int, length: int | None = None) -> None:
        self._samples = samples
        self._count = min(count, len(samples))
        chosen = np.arange(length or self._count) % self._count
        self.keys = tuple(samples.keys[i] for i in chosen)
        self.labels = samples.labels[chosen]
        self.classes, self.digest = samples.classes, samples.digest
        self.subsets, self.provenance = samples.subsets, samples.provenance

    def __len__(self) -> int:
        return len(self.keys)

    def num_frames(self, i: int) -> int:
        return self._samples.num_frames(i % self._count)

    def frames(self, i: int, indices: np.ndarray) -> np.ndarray:
        """uint8 T H W 3"""
        return self._samples.frames(i % self._count, indices)

    def with_layer(self, name: str) -> np.ndarray:
        return np.empty(0, np.int64)

    def layer(self, i: int, name: str) -> np.ndarray:
        raise ValueError(f"clip {self.keys[i]} has no layer {name!r}")


# -- making them ---


@dataclass(frozen=True)
class Videos:
    """A folder of `<key>.webm`; pickles into the workers of `pack`."""

    folder: Path

    def path(self, key: str) -> Path:
        return self.folder / f"{key}.webm"

    def __call__(self, split: str, clip: Clip) -> bytes:
        return self.path(clip.key).read_bytes()


def generate(folder: Path, *, clips: int, height: int, progress: Progress) -> Videos:
    """Write `clips` WebM/VP9 files of 28 to 36 frames, `height` pixels high and 1.53 times as wide."""
    source = find.load("source", "mini_ssv2")
    rendered = round(height * MARGIN)
    config = source.Config(train=clips, height=rendered, min_frames=28, max_frames=36)
    render = source.ClipRenderer(config.rule)
    videos = Videos(folder)
    folder.mkdir(parents=True)
    top = (rendered - height) // 2
    for done, clip in enumerate(_planned(clips, height), 1):
        frames_THWC = render(SPLIT, clip)
        width = frames_THWC.shape[2] // 2 * 2  # VP9 at 4:2:0 takes even sizes
        encode_vp9(videos.path(clip.key), frames_THWC[:, top : top + height, :width], FPS)
        progress(done, clips)
    return videos


def _planned(clips: int, height: int) -> tuple[Clip, ...]:
    source = find.load("source", "mini_ssv2")
    return source.clips_of(source.Config(train=clips, height=round(height * MARGIN)), SPLIT)


def pack_all(videos: Videos, out: Path, *, clips: int, height: int) -> tuple[Shards, ...]:
    """The same videos as shards of each storage."""
    source = find.load("source", "mini_ssv2")
    rules = {
        "video": FrameRule("video"),
        "jpeg": FrameRule("jpeg", short_side=height, quality=QUALITY),
        "raw": FrameRule("raw"),
    }
    planned = {SPLIT: _planned(clips, height)}
    info = DataSetInfo("speed_loader", 1, {"height": height}, source.CLASSES, source.SUBSETS)
    made = []
    for name in STORAGES:
        pack(out / name, planned, videos, info, rules[name], Packing(workers=1))
        made.append(Shards(name, name, str(out / name), SPLIT))
    return tuple(made)


def existing(folders: list[Path]) -> tuple[Shards, ...]:
    """Folders of shards, each by its training split. Raises ValueError if one holds no clips."""
    found = []
    for folder in folders:
        index = read_index(folder)
        storage = index["frames"]["storage"]
        if index["media"] != "video":
            raise ValueError(f"{folder} holds images; this benchmark loads video clips")
        found.append(Shards(storage, storage, str(folder), next(iter(index["splits"]))))
    if len({shards.name for shards in found}) < len(found):
        found = [replace(shards, name=Path(shards.folder).name) for shards in found]
    return tuple(found)


# -- what is stored ---


class Stored:
    """The bytes of the first clips of a folder."""

    def __init__(self, shards: Shards, keys: tuple[str, ...]) -> None:
        self.storage = shards.storage
        self._places: dict[str, dict[str, tuple[mmap.mmap, int, int]]] = {key: {} for key in keys}
        self._keys = keys
        index = read_index(Path(shards.folder))
        for name in index["splits"][shards.split]["shards"]:
            self._find(Path(shards.folder) / name)
            if all(self._places.values()):
                return

    def _find(self, path: Path) -> None:
        with path.open("rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
        with closing(tarfile.open(path)) as tar:
            for member in tar:
                key, _, extension = member.name.partition(".")
                if key in self._places and extension != "json":
                    place = (mapped, member.offset_data, member.size)
                    self._places[key][extension] = place

    def read(self, i: int, indices: np.ndarray) -> list[bytes]:
        """The whole video file, or of each of the frames (once) its JPEG file or its pixels."""
        places = self._places[self._keys[i]]
        if self.storage == "video":
            ((mapped, offset, size),) = places.values()
            return [mapped[offset : offset + size]]
        needed = np.unique(indices).tolist()
        if self.storage == "jpeg":
            files = (places[f"{t:05d}.jpg"] for t in needed)
            return [mapped[offset : offset + size] for mapped, offset, size in files]
        mapped, offset, size = places["npy"]
        count, header = _npy_header(mapped, offset)
        each = (size - header) // count
        starts = (offset + header + t * each for t in needed)
        return [mapped[start : start + each] for start in starts]

    def size(self, i: int) -> int:
        """Bytes of all that is stored of clip i."""
        return sum(size for _, _, size in self._places[self._keys[i]].values())


def _npy_header(mapped: mmap.mmap, offset: int) -> tuple[int, int]:
    """(frames, bytes before the first pixel)"""
    file = io.BytesIO(mapped[offset : offset + 256])
    np.lib.format.read_magic(file)
    shape, _, _ = np.lib.format.read_array_header_1_0(file)
    return shape[0], file.tell()


def decode_alone(storage: str, files: list[bytes], indices: np.ndarray) -> Callable[[], Any]:
    """What the library has to do for the needed frames, from bytes in memory: VP9 decoded up to the
    last of them (nothing is converted to RGB), JPEG files to RGB, pixels copied to memory that is
    ready.
    """
    if storage == "video":
        return partial(_grab, files[0], int(indices.max()) + 1)
    buffers = [np.frombuffer(file, np.uint8) for file in files]
    if storage == "jpeg":
        return lambda: [cv2.imdecode(buffer, cv2.IMREAD_COLOR_RGB) for buffer in buffers]
    out = np.ones((len(buffers), len(buffers[0])), np.uint8)  # not zeros: its pages exist
    return lambda: np.stack(buffers, out=out)


def _grab(data: bytes, count: int) -> int:
    stream: Any = io.BytesIO(data)
    capture = cv2.VideoCapture(stream, cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
    grabbed = sum(capture.grab() for _ in range(count))
    assert grabbed == count
    return grabbed


def describe(stored: Mapping[str, Stored], clips: int) -> dict[str, float]:
    """kB (10^3 bytes) per clip of each folder."""
    return {
        name: sum(folder.size(i) for i in range(clips)) / clips / 1e3
        for name, folder in stored.items()
    }
