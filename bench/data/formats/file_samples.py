"""Labelled videos read where they lie: the `Samples` of a `LabelledVideos`.

Video files go through a decoder, so frame k is the k-th that shows, as in shards; folders of
frames are read picture by picture. Headers lie, so a video is counted by decoding it, once per
process: the first reading of a clip costs two passes over its file. Damage that needs no decoding
to be seen (a truncated file, an HTML page) is an error here too; the rest, `bench.prepare` finds.
"""

from __future__ import annotations

import mmap
from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np

from bench.data import damage, decoders
from bench.data.formats.labelled import LabelledVideos, frame_files
from bench.data.jpeg import decode_frame
from bench.data.video import count_frames, decode

FRAMES_MADE_BY = f"opencv-python-headless {cv2.__version__}, image files"


class FileSamples:
    """One split of labelled videos. Pickles; opens a file when it is asked for."""

    def __init__(self, videos: LabelledVideos, split: str, *, decoder: str = "opencv") -> None:
        if split not in videos.files:
            raise ValueError(f"{videos.name} has no split {split!r}; it has {videos.splits}")
        files = videos.files[split]
        self.split = split
        self.classes = videos.classes
        self.subsets: Mapping[str, tuple[int, ...]] = dict(videos.subsets)
        self.digest = videos.digest
        self.keys = tuple(file.key for file in files)
        self.labels = np.array([file.label for file in files], np.int64)
        self.provenance = f"{made_by(videos, decoder)}; original files, read where they lie"
        self._paths = tuple(file.path for file in files)
        self._decoder = decoder
        self._counts: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self.keys)

    def num_frames(self, i: int) -> int:
        """Counted at the first call. ValueError naming the file: it cannot be read."""
        if i not in self._counts:
            self._counts[i] = self._count(self._paths[i])
        return self._counts[i]

    def _count(self, path: Path) -> int:
        if path.is_dir():
            return len(frame_files(path))
        require_whole(path)
        return count_frames(path, decoder=self._decoder)

    def frames(self, i: int, indices: np.ndarray) -> np.ndarray:
        """uint8 T H W 3 (RGB): the requested frames of sample i, in the requested order.

        ValueError naming the file if they cannot be decoded.
        """
        path = self._paths[i]
        if path.is_dir():
            return read_frames(path, indices)
        return decode(path, indices, decoder=self._decoder)

    def with_layer(self, name: str) -> np.ndarray:
        """None has any."""
        return np.empty(0, np.int64)

    def layer(self, i: int, name: str) -> np.ndarray:
        """Always a ValueError."""
        raise ValueError(f"video {self._paths[i]} has no layer {name!r}")


def made_by(videos: LabelledVideos, decoder: str) -> str:
    """What makes the frames: the decoder of the files, the reader of pictures, or both."""
    folders = {file.path.is_dir() for files in videos.files.values() for file in files}
    readers = [decoders.load(decoder).version()] if folders != {True} else []
    return " and ".join([*readers, *([FRAMES_MADE_BY] if True in folders else [])])


def require_whole(path: Path) -> None:
    """ValueError: the file cannot be read, is empty, a web page, or shorter than it declares."""
    try:
        with path.open("rb") as file:
            if not file.seek(0, 2):
                raise ValueError(f"video {str(path)!r} is empty (0 bytes)")
            with mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as media:
                problem = damage.visible_damage(media)
    except OSError as error:
        raise ValueError(f"video {str(path)!r} cannot be read: {error.strerror}") from error
    if problem:
        raise ValueError(f"video {str(path)!r} {problem}")


def read_frames(folder: Path, indices: np.ndarray | None = None) -> np.ndarray:
    """uint8 T H W 3 (RGB) of the pictures of a folder: all, or those at `indices`. ValueError names
    the one that cannot be read, or is of another size.
    """
    files = frame_files(folder)
    wanted = np.arange(len(files)) if indices is None else np.asarray(indices)
    decoded: dict[int, np.ndarray] = {}
    for t in wanted.tolist():
        if t >= len(files):
            raise ValueError(f"{folder} has {len(files)} frames, frame {t} was asked for")
        if t not in decoded:
            decoded[t] = _read_frame(files[t])
    first = decoded[int(wanted[0])]
    for t, frame in decoded.items():
        if frame.shape != first.shape:
            sizes = " and ".join(f"{f.shape[1]} x {f.shape[0]}" for f in (first, frame))
            raise ValueError(f"the frames of {folder} differ in size: {sizes} ({files[t].name})")
    return np.stack([decoded[t] for t in wanted.tolist()])


def _read_frame(path: Path) -> np.ndarray:
    try:
        data = np.fromfile(path, np.uint8)
    except OSError as error:
        raise ValueError(f"frame {path} cannot be read: {error.strerror}") from error
    if not len(data):
        raise ValueError(f"frame {path} is empty (0 bytes)")
    try:
        return decode_frame(data)
    except ValueError as error:
        raise ValueError(f"frame {path} cannot be decoded; it is broken or no picture") from error
