"""Shards on disk -> random access to samples: reads what `pack` wrote. The loader sees only
`ShardSamples`.

A shard folder holds plain WebDataset tars, `samples.parquet` (where in which tar each sample
lies) and `index.json` (what the data set is and how its frames were made; written last, so its
existence means complete). Byte offsets into plain tars give random access, hence an exact global
shuffle, without a format of our own.
"""

from __future__ import annotations

import hashlib
import json
import logging
import mmap
import tarfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from bench.data import decoders
from bench.data.image import decode_image
from bench.data.jpeg import decode_frame
from bench.data.shards.index import INDEX, INDEX_DIGEST, malformed
from bench.data.video import decode

log = logging.getLogger(__name__)
SCHEMA = 1
SAMPLES = "samples.parquet"


_REPLACE = f"Copy {INDEX} and {INDEX_DIGEST} anew, or delete them and make the shards again."


class BadData(ValueError):
    """The data themselves fail: damaged, incomplete, not what they say. Wrong use is a ValueError."""


def remedy(folder: Path) -> str:
    """The command that makes the shards; the source's name is known if the index can still be
    read.
    """
    try:
        source = json.loads((folder / INDEX).read_bytes())["source"].replace("_", "-")
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        source = "SOURCE"
    return (
        f"Make it with `python -m bench.prepare {source} ... --out {folder}` "
        "(`python -m bench.prepare --help` lists the sources and their options)"
    )


def read_index(folder: Path) -> dict[str, Any]:
    """The parsed index.json of a shard folder; ValueError with the remedy if it is absent,
    incomplete or unknown.
    """
    path = folder / INDEX
    if not folder.is_dir():
        raise ValueError(f"no shards at {folder}: the folder does not exist. {remedy(folder)}")
    if not path.is_file():
        state = "incomplete" if any(folder.glob("*.tar")) else "empty"
        raise ValueError(
            f"the shard folder {folder} is {state}: it has no {INDEX}. {remedy(folder)}"
        )
    content = path.read_bytes()
    try:
        index = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise BadData(f"{path} is corrupt ({error}). {_REPLACE} {remedy(folder)}") from error
    if not _is_what_was_written(folder, content):
        raise BadData(
            f"{path} and {INDEX_DIGEST} beside it disagree: one of them is damaged, or the index was "
            f"edited. {_REPLACE} {remedy(folder)}"
        )
    if not isinstance(index, dict) or index.get("schema") != SCHEMA:
        found = index.get("schema") if isinstance(index, dict) else None
        raise ValueError(
            f"{path} has schema {found!r}, this version reads {SCHEMA}. {remedy(folder)}"
        )
    return index


def _is_what_was_written(folder: Path, index: bytes) -> bool:
    """By the digest beside the index; folders of earlier versions have none."""
    try:
        said = (folder / INDEX_DIGEST).read_bytes().split()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return said[:1] == [hashlib.sha256(index).hexdigest().encode()]


def sound_index(folder: Path) -> dict[str, Any]:
    """`read_index` of a folder whose samples are to be read. BadData where the index lacks something,
    or holds what it cannot.
    """
    index = read_index(folder)
    if wrong := malformed(index):
        raise BadData(
            f"{folder / INDEX} is damaged: {'; '.join(wrong)}. {_REPLACE} {remedy(folder)}"
        )
    return index


def _read_samples(folder: Path, split: str, index: Mapping[str, Any]) -> pa.Table:
    """The rows of a split. BadData if the file is not the one that the index was written with: nothing
    but it says where a sample lies.
    """
    path = folder / SAMPLES
    if not path.is_file():
        raise BadData(
            f"the shard folder {folder} is incomplete: it has no {SAMPLES}. {remedy(folder)}"
        )
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != index["samples_sha256"]:
        raise BadData(
            f"{path} is damaged: it has another SHA-256 than when it was written. {remedy(folder)}"
        )
    return pq.read_table(pa.BufferReader(content), filters=[("split", "==", split)])


def index_digest(folder: Path) -> str:
    """SHA-256 of index.json, which holds the SHA-256 of everything else: the identity of the
    data.
    """
    return hashlib.sha256((folder / INDEX).read_bytes()).hexdigest()


def require_source(
    folder: Path,
    *,
    source: str,
    version: int,
    config: Mapping[str, Any],
    remedy: str,
    defaults: Mapping[str, Any] | None = None,
) -> None:
    """ValueError unless the folder was made by this version of this source with these options.

    `defaults` are the values of options that the index does not hold, because it was written before
    they existed. An option in `defaults` that `config` leaves out may have any value.
    """
    index = read_index(folder)
    defaults = defaults or {}
    made_by = {"source": index.get("source"), "version": index.get("source_version")}
    found = {**defaults, **index.get("config", {}), **made_by}
    wanted = {"source": source, "version": version, **config}
    asked = {**found, **wanted}.keys() - (defaults.keys() - wanted.keys())
    if differences := {
        k: (found.get(k), wanted.get(k)) for k in asked if found.get(k) != wanted.get(k)
    }:
        listed = ", ".join(
            f"{k} is {a!r} there and {b!r} here" for k, (a, b) in sorted(differences.items())
        )
        raise ValueError(f"the shards in {folder} are another data set: {listed}. {remedy}")


class _Lists:
    """A list of uint32 per sample, in two arrays: small to pickle, no Python object per sample."""

    def __init__(self, values: np.ndarray, ends: np.ndarray) -> None:
        self._values, self._ends = values, ends

    @classmethod
    def of(cls, table: pa.Table, column: str) -> _Lists | None:
        """None if the table has no such column."""
        if column not in table.column_names:
            return None
        lists = table[column]
        lengths = pc.list_value_length(lists).to_numpy().astype(np.int64)
        return cls(pc.list_flatten(lists).to_numpy().astype(np.uint32), np.cumsum(lengths))

    def __getitem__(self, i: int) -> np.ndarray:
        return self._values[self._ends[i - 1] if i else 0 : self._ends[i]]


class ShardSamples:
    """One split of a shard folder: the `Samples` protocol of bench.task. Pickles; opens shards on
    first use.

    Stored frames (`npy` members, or one `jpg` member each) are read through a memory map, so only
    the pages of the requested frames are touched; videos (`webm` members) and images (`jpg`
    members) are decoded from their bytes. What is read is compared with its checksum.
    """

    def __init__(self, folder: Path, split: str) -> None:
        index = sound_index(folder)
        if split not in index["splits"]:
            raise ValueError(
                f"{folder} has no split {split!r}; it has {', '.join(index['splits'])}"
            )
        table = _read_samples(folder, split, index)
        self.folder = folder
        self.split = split
        self.digest = index_digest(folder)
        self.classes = tuple(index["classes"])
        self.subsets = {name: tuple(ids) for name, ids in index["subsets"].items()}
        self._decoder = index["frames"].get("decoder", "opencv")
        self.provenance = f"{self._made_by(index)}; {index['frames']['rule']}"
        self.keys: tuple[str, ...] = tuple(table["key"].to_pylist())
        self.labels = table["label"].to_numpy().astype(np.int64)
        self._shards = tuple(index["splits"][split]["shards"])
        number = {name: i for i, name in enumerate(self._shards)}
        self.shards = np.array([number[name] for name in table["shard"].to_pylist()], np.int32)
        columns = ("offset", "size", "header", "num_frames", "height", "width")
        # One int64 row per sample: small to pickle, and no per-sample Python objects in the
        # workers.
        self._rows = np.stack([table[c].to_numpy().astype(np.int64) for c in columns], axis=1)
        self._storage = index["frames"]["storage"]
        self._crc32 = _Lists.of(table, "crc32")  # none in folders of earlier versions
        self._frame_sizes = _Lists.of(table, "frame_sizes")
        # The same for each layer that is there: (offset, size, header, CRC-32), -1 where absent.
        self._layers = {
            name: np.stack(
                [
                    table[f"{name}.{c}"].fill_null(-1).to_numpy().astype(np.int64)
                    if f"{name}.{c}" in table.column_names
                    else np.full(len(table), -1)
                    for c in ("offset", "size", "header", "crc32")
                ],
                axis=1,
            )
            for name in index.get("layers", {}).get(split, ())
        }
        self._maps: dict[int, mmap.mmap] = {}
        self._read_ahead = False
        if len(self.keys) != index["splits"][split]["samples"]:
            raise BadData(
                f"{folder / SAMPLES} and {INDEX} disagree on the size of {split!r}. {remedy(folder)}"
            )

    def _made_by(self, index: Mapping[str, Any]) -> str:
        """What makes the frames: the decoder that packed them, or of stored videos the one here."""
        made_by = str(index["frames"]["made_by"])
        if index["frames"]["storage"] != "video":
            return made_by
        try:
            here = decoders.load(self._decoder).version()
        except ValueError as error:
            raise ValueError(
                f"the videos in {self.folder} were prepared with {made_by} and are decoded by the "
                f"same when they are read, but {error}; or prepare them with another decoder"
            ) from error
        if here != made_by:
            log.warning("%s was prepared with %s, decoding with %s", self.folder, made_by, here)
        return here

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_maps": {}}

    def __len__(self) -> int:
        return len(self.keys)

    def read_ahead(self) -> None:
        """From now on a shard is read from start to end, in the background, when it is first opened:
        for an order that goes through the shards one by one (`train.shuffle`), on disks far away.
        """
        self._read_ahead = True

    def num_frames(self, i: int) -> int:
        return int(self._rows[i, 3])

    def frames(self, i: int, indices: np.ndarray) -> np.ndarray:
        """uint8 T H W 3 (RGB): the requested frames of sample i, in the requested order.

        ValueError naming the key if they cannot be decoded or are not what was stored.
        """
        offset, size, header, num_frames, height, width = self._rows[i].tolist()
        shard = self._map(int(self.shards[i]), end=offset + size)
        if self._storage in ("video", "image"):
            data = shard[offset : offset + size]
            self._verify(i, 0, data)
            if self._storage == "video":
                return decode(data, indices, key=self.keys[i], decoder=self._decoder)
            image = decode_image(data, name=self.keys[i])
            return np.take(image[None], indices, axis=0)
        picked = np.arange(num_frames)[indices]
        if self._storage == "jpeg":
            return self._jpeg_frames(i, shard, picked)
        shape = (num_frames, height, width, 3)
        stored = np.ndarray(shape, np.uint8, buffer=shard, offset=offset + header)
        for t in np.unique(picked):
            self._verify(i, t, stored[t].data)
        return np.take(stored, picked, axis=0)

    def _jpeg_frames(self, i: int, shard: mmap.mmap, picked: np.ndarray) -> np.ndarray:
        offset, _, header, _, height, width = self._rows[i].tolist()
        assert self._frame_sizes is not None
        sizes = self._frame_sizes[i].astype(np.int64)
        ends = np.cumsum(sizes + -sizes % tarfile.BLOCKSIZE + header)
        frames = np.empty((len(picked), height, width, 3), np.uint8)
        first: dict[int, int] = {}  # where each frame already lies
        for n, t in enumerate(picked.tolist()):
            if t in first:
                frames[n] = frames[first[t]]
                continue
            first[t] = n
            start = offset + (int(ends[t - 1]) if t else 0)
            encoded = np.frombuffer(shard, np.uint8, int(sizes[t]), start)
            self._verify(i, t, encoded.data)
            try:
                frames[n] = decode_frame(encoded)
            except ValueError as error:
                raise ValueError(f"frame {t} of {self.keys[i]!r}: {error}") from error
        return frames

    def _verify(self, i: int, t: int, stored: bytes | memoryview) -> None:
        """ValueError unless file or frame t of sample i has the CRC-32 that it was written with."""
        if self._crc32 and zlib.crc32(stored) != self._crc32[i][t]:
            what = "" if self._storage in ("video", "image") else f"frame {t} of "
            raise BadData(f"{what}{self.keys[i]!r} {self._damaged(i)}")

    def _damaged(self, i: int) -> str:
        path = self.folder / self._shards[int(self.shards[i])]
        return (
            f"is damaged: its bytes in {path} are not those that were written (CRC-32). Run the "
            f"command that made the shards again, it rewrites what is damaged. "
            f"{remedy(self.folder)}"
        )

    def with_layer(self, name: str) -> np.ndarray:
        """int64, sorted: the samples that have this layer."""
        if name not in self._layers:
            return np.empty(0, np.int64)
        return np.flatnonzero(self._layers[name][:, 0] >= 0).astype(np.int64)

    def layer(self, i: int, name: str) -> np.ndarray:
        """uint8 H W 3, or a mask of zeros and ones, uint8 H W, of the size of the image."""
        place = self._layers[name][i].tolist() if name in self._layers else (-1,) * 4
        offset, size, header, crc32 = place
        if offset < 0:
            has = ", ".join(n for n, rows in self._layers.items() if rows[i, 0] >= 0) or "none"
            raise ValueError(
                f"sample {self.keys[i]} of {self.split!r} in {self.folder} has no layer {name!r}; "
                f"it has {has}"
            )
        shard = self._map(int(self.shards[i]), end=offset + size)
        data = shard[offset : offset + size]
        if crc32 >= 0 and zlib.crc32(data) != crc32:
            raise BadData(f"{name} of {self.keys[i]!r} {self._damaged(i)}")
        if not header:
            return decode_image(data, name=f"{name} of {self.keys[i]}")
        height, width = self._rows[i, 4:6].tolist()
        is_mask = size - header == height * width
        shape = (height, width) if is_mask else (height, width, 3)
        return np.frombuffer(data, np.uint8, offset=header).reshape(shape).copy()

    def _map(self, number: int, *, end: int) -> mmap.mmap:
        mapped = self._maps.get(number)
        if mapped is None:
            path = self.folder / self._shards[number]
            try:
                with path.open("rb") as file:
                    mapped = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
            except (OSError, ValueError) as error:
                raise BadData(
                    f"shard {path} cannot be read ({error}). {remedy(self.folder)}"
                ) from error
            if self._read_ahead:
                mapped.madvise(mmap.MADV_WILLNEED)
            self._maps[number] = mapped
        if end > len(mapped):
            path = self.folder / self._shards[number]
            raise BadData(f"shard {path} is truncated. {remedy(self.folder)}")
        return mapped


def open_split(folder: Path, split: str) -> ShardSamples:
    """Random access to one split of a shard folder."""
    return ShardSamples(folder, split)
