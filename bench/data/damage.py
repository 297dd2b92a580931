"""Is a video file whole? What its container declares against what decodes, before `pack` stores it.

FFmpeg hides damage: a truncated file decodes to its first frames, a broken frame to something
like its neighbour. So every file is demuxed and decoded once more with error detection on, and
is refused when bytes or frames are missing or when the demuxer or the decoder reports an error
(what `ffmpeg -v error -i FILE -f null -` prints). VP9 and VP8 go through libvpx, which unlike
FFmpeg's own decoder notices when the entropy coder runs past the end of a frame: it finds most
of the flipped bits, where FFmpeg finds next to none. What no decoder can see is left to the
checksums that `pack` stores.
"""

from __future__ import annotations

import functools
import io
import itertools
import logging
import mmap
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import av
import av.logging
from av.bitstream import BitStreamFilterContext

# Where the duration is a field of the file; elsewhere FFmpeg guesses it from the bit rate.
_DECLARE_DURATION = ("matroska", "mov", "avi")
_STRICT = {"vp9": "libvpx-vp9", "vp8": "libvpx"}
# Frames outside an edit list are part of the file too.
_OPTIONS = {"err_detect": "crccheck+bitstream+buffer", "ignore_editlist": "1"}
_HEAD = 4096  # bytes of white space before a web page


@dataclass
class _Found:
    """What one pass over a file saw; times in seconds."""

    declared_frames: int = 0  # 0: not declared
    declared_end: float | None = None
    rate: float = 0.0  # frames per second
    frames: int = 0
    packets: int = 0
    times: list[float] = field(default_factory=list)  # of the video packets
    end: float = 0.0  # of the last packet of any stream
    errors: list[str] = field(default_factory=list)


def examine(media: bytes, *, key: str) -> None:
    """ValueError, one sentence with numbers, unless the video is complete and decodes cleanly.

    Accepted: variable frame rates, B-frames, hidden frames, edit lists, files without a duration
    and headers that are off by one frame.
    """
    if reason := _no_video(media) or _damage(media):
        raise ValueError(f"video {key!r} {reason}")


def visible_damage(media: bytes | mmap.mmap) -> str | None:
    """What is wrong with a file as far as its first bytes and its length tell, in words that follow
    its name; None if nothing is. A memory map is read in a few places only.
    """
    declared = declared_bytes(media)
    if reason := _no_video(media):
        return reason
    return _cut(media, declared) if declared > len(media) else None


def _cut(media: bytes | mmap.mmap, declared: int) -> str:
    return f"ends after {len(media):,} of {declared:,} declared bytes: truncated"


def _no_video(media: bytes | mmap.mmap) -> str | None:
    if not len(media):
        return "is empty (0 bytes)"
    if media[:_HEAD].lstrip()[:1] == b"<":
        return f"is an HTML or XML page of {len(media):,} bytes, not a video: fetch it again"
    return None


def _damage(media: bytes) -> str | None:
    declared = declared_bytes(media)
    cut = _cut(media, declared)
    is_cut = declared > len(media)
    try:
        found = _scan(media)
    except (av.FFmpegError, ValueError, IndexError) as error:
        # IndexError: no video stream
        what = error.strerror if isinstance(error, av.FFmpegError) else str(error)
        reason = "it is broken or not a video"
        return f"cannot be opened: {cut if is_cut else f'{reason} ({what})'}"
    wanted = _declared_frames(found)
    if wanted > found.frames and _is_short(found, size_known=bool(declared)):
        return (
            f"decodes to {found.frames} of {wanted} declared frames{_at_rate(found)}: "
            "truncated or damaged"
        )
    if is_cut:
        return f"{cut} ({found.frames} frames decode)"
    if found.errors:
        several = len(found.errors) > 1
        return (
            f"is damaged: {found.frames} frames decode, with {len(found.errors)} "
            f"{'errors, the first' if several else 'error'}: {found.errors[0]}"
        )
    return None if found.frames else "has no decodable frame"


def _scan(media: bytes) -> _Found:
    found = _Found()
    _listen()
    with (
        av.logging.Capture() as messages,
        av.open(io.BytesIO(media), "r", options=_OPTIONS) as file,
    ):
        stream = file.streams.video[0]
        if stream.codec_context is None:
            raise ValueError("unknown codec")
        rate = stream.average_rate or stream.guessed_rate
        found.rate = float(rate) if rate else 0.0
        found.declared_frames = stream.frames
        if file.duration and file.format.name.startswith(_DECLARE_DURATION):
            found.declared_end = file.duration / av.time_base
        decoder = _strict_decoder(stream)
        split = BitStreamFilterContext("vp9_superframe_split", stream) if _is_vp9(stream) else None
        for packet in file.demux():
            _see(packet, found)
            if packet.stream_index == stream.index:
                _feed(decoder, split, packet, found)
    found.errors += [text.strip() for level, _, text in messages if level <= av.logging.ERROR]
    return found


@functools.cache
def _listen() -> None:
    """Errors of FFmpeg become messages that can be captured; they say nothing otherwise."""
    av.logging.set_level(av.logging.ERROR)
    av.logging.set_skip_repeated(False)  # the next file may be broken in the same way
    logging.getLogger("libav").setLevel(logging.CRITICAL)


def _strict_decoder(stream: Any) -> Any:
    name = _STRICT.get(stream.codec_context.name)
    decoder = stream.codec_context
    if name in av.codecs_available:
        decoder = av.CodecContext.create(name, "r")
        decoder.extradata = stream.codec_context.extradata
    decoder.thread_count = 1  # its messages come from this thread
    decoder.options = {"err_detect": _OPTIONS["err_detect"]}
    return decoder


def _is_vp9(stream: Any) -> bool:
    return bool(stream.codec_context.name == "vp9")


def _see(packet: Any, found: _Found) -> None:
    if not packet.size:
        return
    if packet.is_corrupt:
        found.errors.append(f"a packet of {packet.size} bytes is incomplete")
    if packet.pts is None:
        return
    start = float(packet.pts * packet.time_base)
    found.end = max(found.end, start + float((packet.duration or 0) * packet.time_base))
    if packet.stream.type == "video":
        found.packets += 1
        found.times.append(start)


def _feed(decoder: Any, split: Any, packet: Any, found: _Found) -> None:
    given = packet if packet.size else None  # empty: the end of the file
    try:
        # libvpx checks a hidden frame only if it comes in a packet of its own
        parts = split.filter(given) if split else [given]
    except av.FFmpegError as error:
        found.errors.append(f"after frame {found.frames - 1}: {error.strerror}")
        return
    for part in parts:
        _decode(decoder, part, found)
    if split and given is None:
        _decode(decoder, None, found)


def _decode(decoder: Any, packet: Any, found: _Found) -> None:
    try:
        for frame in decoder.decode(packet):
            found.frames += 1
            if frame.is_corrupt:
                found.errors.append(f"frame {found.frames - 1} is corrupt")
    except av.error.EOFError:
        pass
    except av.FFmpegError as error:
        found.errors.append(f"after frame {found.frames - 1}: {error.strerror}")


def _is_short(found: _Found, *, size_known: bool) -> bool:
    """Do packets end before the declared end, or are there fewer than declared, by over a frame?"""
    if found.declared_frames and found.packets < found.declared_frames - 1:
        return _declared_end_missed(found) is not False
    if found.declared_end is None:
        return False
    steady, gap = _gaps(found)
    if not steady and size_known:
        return False  # the last frame of a variable rate may be shown for any time
    return found.declared_end - max(found.end, max(found.times, default=0.0) + gap) > 1.5 * gap


def _declared_end_missed(found: _Found) -> bool | None:
    """None if no end is declared. (AVI counts dropped frames, which have a time but no packet.)"""
    if found.declared_end is None:
        return None
    return found.declared_end - found.end > 1.5 * _gaps(found)[1]


def _gaps(found: _Found) -> tuple[bool, float]:
    """(Is the frame rate constant?, longest time from one frame to the next)."""
    times = sorted(found.times)
    gaps = [b - a for a, b in itertools.pairwise(times) if b > a]
    nominal = 1 / found.rate if found.rate else 0.0
    longest = max([*gaps, nominal])
    return longest < 1.5 * min([*gaps, longest]), longest


def _declared_frames(found: _Found) -> int:
    return found.declared_frames or round((found.declared_end or 0.0) * found.rate)


def _at_rate(found: _Found) -> str:
    if found.declared_end is None or not found.rate:
        return ""
    return f" ({found.declared_end:.2f} s at {found.rate:.4g} fps)"


def declared_bytes(media: bytes | mmap.mmap) -> int:
    """Size of the file by its own account (EBML segment, MP4 boxes, RIFF chunk); 0 if unknown."""
    if media[:4] == b"\x1aE\xdf\xa3":
        return _matroska_bytes(media)
    if media[:4] == b"RIFF":
        size = int.from_bytes(media[4:8], "little")
        return 0 if size in (0, 0xFFFFFFFF) else size + 8
    if media[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"):
        return max(_boxes(media), default=0)
    return 0


def _matroska_bytes(media: bytes | mmap.mmap) -> int:
    """End of the segment, the element after the EBML header."""
    start, length = _ebml_size(media, 4)
    segment = start + (length or 0)
    if media[segment : segment + 4] != b"\x18S\x80g":
        return 0
    start, length = _ebml_size(media, segment + 4)
    return start + length if length is not None else 0


def _ebml_size(media: bytes | mmap.mmap, at: int) -> tuple[int, int | None]:
    """(Where the content starts, its length or None if unknown): the leading zeros of the first
    byte tell how many bytes there are, all ones mean unknown.
    """
    first = media[at] if at < len(media) else 0
    width = 9 - first.bit_length()
    if width > 8:
        return at, 0
    value = int.from_bytes(media[at : at + width], "big") & ((1 << 7 * width) - 1)
    return at + width, None if value == (1 << 7 * width) - 1 else value


def _boxes(media: bytes | mmap.mmap) -> Iterator[int]:
    """Ends of the top-level MP4 boxes."""
    at = 0
    while at + 8 <= len(media) and media[at + 4 : at + 8].isascii():
        size = int.from_bytes(media[at : at + 4], "big")
        if size == 1:
            size = int.from_bytes(media[at + 8 : at + 16], "big")
        if size < 8:  # 0: up to the end of the file
            return
        at += size
        yield at
