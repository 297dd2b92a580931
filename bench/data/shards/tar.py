"""One shard: clips -> a plain WebDataset tar and a receipt that says where everything lies in it.
`pack` runs this in worker processes.

The bytes depend on the clips and the rule alone. Of every member that holds pixels a CRC-32 is
kept (of `raw` and `jpeg` frames one per frame), which `shards` verifies when it reads.
"""

from __future__ import annotations

import io
import json
import tarfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.data.image import decode_image
from bench.data.jpeg import encode_frame
from bench.data.shards import journal
from bench.data.shards.plan import Clip, Job
from bench.data.video import count_frames, decode
from bench.store.files import sha256_of, write_bytes

FRAME_EXTENSION = "{:05d}.jpg"


def write_shard(job: Job) -> None:
    """Write one tar and its receipt, the receipt last. Continues where a killed run ended."""
    for _ in write_clips(job):
        pass


def write_clips(job: Job) -> Iterator[int]:
    """The same; yields after each clip how many are done."""
    with journal.claimed(job):
        if read_receipt(job):  # the worker of a killed run had got that far
            return
        with journal.opened(job) as growing:
            for done, clip in enumerate(job.clips[len(growing.entries) :], len(growing.entries)):
                yield done
                _write_clip(job, clip, growing)
        _finish(job, growing.entries)


def _finish(job: Job, entries: Sequence[Mapping[str, Any]]) -> None:
    part = journal.part_of(job)
    _end_tar(part)
    receipt = {
        "plan": job.plan,
        "count": sum("row" in entry for entry in entries),
        "bytes": part.stat().st_size,
        "sha256": sha256_of(part),
        "rows": [entry["row"] for entry in entries if "row" in entry],
        "failed": [entry["failed"] for entry in entries if "failed" in entry],
    }
    part.replace(job.out / job.name)
    write_bytes(job.receipt, json.dumps(receipt).encode())
    journal.forget(job)


def read_receipt(job: Job) -> dict[str, Any] | None:
    """What a finished shard of an incomplete folder holds; None if it is not finished."""
    try:
        receipt: dict[str, Any] = json.loads(job.receipt.read_bytes())
        size = (job.out / job.name).stat().st_size
    except (OSError, ValueError):
        return None
    return receipt if (receipt["plan"], receipt["bytes"]) == (job.plan, size) else None


def _write_clip(job: Job, clip: Clip, growing: journal.Journal) -> None:
    try:
        members, row = encode_clip(job, clip)
    except ValueError as error:
        failure = {"split": job.split, "key": clip.key, "reason": str(error)}
        growing.append(b"", failed=failure)
        return
    data, places = _tar_members(clip.key, members, growing.end)
    growing.append(data, row=row | places)


def encode_clip(job: Job, clip: Clip) -> tuple[dict[str, bytes], dict[str, Any]]:
    """(Extension -> content of the member, row of samples.parquet without the offsets)."""
    media = job.read(job.split, clip)
    if job.media == "video" and isinstance(media, bytes):
        from bench.data.damage import examine  # imports PyAV: only who packs pays for it

        examine(media, key=clip.key)
    if job.rule.storage in ("raw", "jpeg"):
        decoded = _decoded(job, media, clip) if isinstance(media, bytes) else media
        frames = job.rule.apply(decoded)
        num_frames, height, width = frames.shape[:3]
        members, row = _frame_members(job, frames)
    else:
        assert isinstance(media, bytes), "only files can be stored as files"
        if job.rule.storage == "video":
            num_frames = count_frames(media, key=clip.key, decoder=job.rule.decoder)
            first = decode(media, [0], key=clip.key, decoder=job.rule.decoder)
            height, width = first.shape[1:3]
            members = {"webm": media}  # readers go by the content, whatever the container
        else:
            num_frames, height, width = _decoded(job, media, clip).shape[:3]
            members = {"jpg": media}  # readers go by the content, which may also be PNG
        row = {"crc32": [zlib.crc32(media)]}
    for name in clip.layers:
        members |= _layer_member(job, clip, name, (height, width))
    meta = {"label": clip.label, "num_frames": num_frames, **clip.meta}
    members["json"] = json.dumps(meta).encode()
    size = {"num_frames": num_frames, "height": height, "width": width}
    return members, {"key": clip.key, "label": clip.label, **size, **row}


def _decoded(job: Job, media: bytes, clip: Clip) -> np.ndarray:
    """uint8 T H W 3 of a video or an image."""
    if job.media == "image":
        return decode_image(media, name=clip.meta.get("file", clip.key))[None]
    return decode(media, key=clip.key, decoder=job.rule.decoder)


def _frame_members(job: Job, frames_THWC: np.ndarray) -> tuple[dict[str, bytes], dict[str, Any]]:
    if job.rule.storage == "raw":
        return {"npy": _npy(frames_THWC)}, {"crc32": [zlib.crc32(frame) for frame in frames_THWC]}
    files = [encode_frame(frame, job.rule.quality) for frame in frames_THWC]
    row = {"crc32": [zlib.crc32(f) for f in files], "frame_sizes": [len(f) for f in files]}
    return {FRAME_EXTENSION.format(t): file for t, file in enumerate(files)}, row


def _layer_member(job: Job, clip: Clip, name: str, size: tuple[int, int]) -> dict[str, bytes]:
    """The member of one layer; ValueError unless it is as large as its image."""
    assert job.read_layer is not None and job.rule.short_side is None, "layers keep their size"
    data, file = job.read_layer(job.split, clip, name), clip.layers[name]
    array = decode_image(data, name=file) if isinstance(data, bytes) else data
    if array.shape[:2] != size:
        (height, width), (rows, columns) = size, array.shape[:2]
        raise ValueError(f"{file} is {columns} x {rows} pixels, its image {width} x {height}")
    if isinstance(data, bytes) and job.rule.storage == "image":
        return {f"{name}.jpg": data}
    return {f"{name}.npy": _npy(np.ascontiguousarray(array))}


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array)
    return buffer.getvalue()


def _tar_members(
    key: str, members: Mapping[str, bytes], start: int
) -> tuple[bytes, dict[str, Any]]:
    """(The members of a clip as they lie in a tar from `start` on, where its frames and layers are).

    `offset` and `size` are those of a member's content, `header` the bytes of an npy file before
    its first pixel. Of JPEG frames: from the first file to the end of the last, and `header` are
    the bytes of the tar between one file, padded to 512, and the next.
    """
    tar = bytearray()
    places: dict[str, Any] = {}
    for extension in sorted(members):  # as WebDataset's own writer orders them
        data = members[extension]
        head = _tar_header(f"{key}.{extension}", len(data))
        offset = start + len(tar) + len(head)
        tar += head + data + bytes(-len(data) % tarfile.BLOCKSIZE)
        if extension == "json":
            continue
        name, dot, encoding = extension.rpartition(".")
        if name.isdigit():  # a frame
            places.setdefault("offset", offset)
            places |= {"size": offset + len(data) - places["offset"], "header": len(head)}
            continue
        header = _npy_header_bytes(data) if encoding == "npy" else 0
        place = {"offset": offset, "size": len(data), "header": header}
        if name:
            place["crc32"] = zlib.crc32(data)
        places |= {f"{name}{dot}{k}": v for k, v in place.items()}
    return bytes(tar), places


def _tar_header(name: str, size: int) -> bytes:
    # The fields are those of WebDataset's TarWriter: its tars and ours are the same.
    member = tarfile.TarInfo(name)
    member.size, member.mode, member.mtime = size, 0o444, 0
    member.uname = member.gname = "bigdata"
    return member.tobuf(tarfile.PAX_FORMAT)


def _end_tar(path: Path) -> None:
    with path.open("ab") as file:
        file.write(bytes(2 * tarfile.BLOCKSIZE))
        file.write(bytes(-file.tell() % tarfile.RECORDSIZE))


def _npy_header_bytes(data: bytes) -> int:
    """Of an npy file of version 1.0: magic, version, length of the description, description."""
    assert data[:8] == b"\x93NUMPY\x01\x00", data[:8]
    return 10 + int.from_bytes(data[8:10], "little")
