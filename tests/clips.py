"""Test videos: frames with their number painted in, and files of every container and codec."""

from __future__ import annotations

import io
import struct
from collections.abc import Mapping, Sequence
from fractions import Fraction
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import av
import cv2
import numpy as np
from av.bitstream import BitStreamFilterContext

from bench.data.video import encode_vp9

FPS = 12
BITS = 6
# Alternate reference frames, which show nothing, in packets with the next frame that shows. Made from
# `numbered_frames` by FFmpeg 5.1 in two passes (PyAV offers only one): -c:v libvpx-vp9 -b:v 200k
# -deadline good -cpu-used 1 -auto-alt-ref 1 -lag-in-frames 25
HIDDEN = "vp9-hidden.webm"
SPLIT = "vp9-hidden.avi"  # the same, in packets of their own; its header counts them as frames
_HIDDEN_FILE = Path(__file__).parent / "fixtures/vp9_hidden.webm"
VP9 = {"deadline": "realtime", "cpu-used": "8", "crf": "18", "b": "0"}
# name -> (codec, container, codec options, container options, frames at varying times?)
KINDS: dict[str, tuple[str, str, Mapping[str, str], Mapping[str, str], bool]] = {
    "vp9.webm": ("libvpx-vp9", "webm", VP9, {}, False),
    "vp9-live.webm": ("libvpx-vp9", "webm", VP9, {"live": "1"}, False),
    "vp9-vfr.webm": ("libvpx-vp9", "webm", VP9, {}, True),
    "h264-b.mp4": ("libx264", "mp4", {"bf": "3", "crf": "20"}, {}, False),
    "h264-start.mp4": ("libx264", "mp4", {"bf": "3"}, {"movflags": "faststart"}, False),
    "h264-pieces.mp4": (
        "libx264",
        "mp4",
        {"bf": "3"},
        {"movflags": "frag_keyframe+empty_moov"},
        False,
    ),
    "h264-vfr.mp4": ("libx264", "mp4", {"bf": "3", "crf": "20"}, {}, True),
    "h264.mkv": ("libx264", "matroska", {"bf": "3"}, {}, False),
    "mpeg4.avi": ("mpeg4", "avi", {"qscale": "3"}, {}, False),
}


ALL = (*KINDS, HIDDEN, SPLIT)


def numbered_frames(count: int = 43, height: int = 96, width: int = 128) -> np.ndarray:
    """uint8 T H W 3: texture in motion; the upper quarter shows the number of the frame in bars."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 255, (2 * height, 2 * width, 3)).astype(np.uint8)
    texture = cv2.GaussianBlur(noise, (9, 9), 2)
    frames = np.stack(
        [texture[t : t + height, t % width : t % width + width] for t in range(count)]
    )
    for t, frame in enumerate(frames):
        for bit in range(BITS):
            left, right = bit * width // BITS, (bit + 1) * width // BITS
            frame[: height // 4, left:right] = 235 if t >> bit & 1 else 20
    return frames


def read_number(frame_HWC: np.ndarray) -> int:
    """The number painted into a frame."""
    height, width = frame_HWC.shape[:2]
    bars = [frame_HWC[height // 8, (2 * b + 1) * width // (2 * BITS)].mean() for b in range(BITS)]
    return sum(int(bar > 128) << bit for bit, bar in enumerate(bars))


@cache
def video(kind: str, count: int = 43, height: int = 96, width: int = 128) -> bytes:
    """A file of one of KINDS with `numbered_frames`, or HIDDEN or SPLIT (of the default size)."""
    if kind == HIDDEN:
        return _HIDDEN_FILE.read_bytes()
    if kind == SPLIT:
        return _split(_HIDDEN_FILE.read_bytes())
    codec, container, options, file_options, varying = KINDS[kind]
    times = None
    if varying:
        gaps = np.random.default_rng(1).integers(20, 200, count)
        times = (np.cumsum(gaps) - gaps[0]).tolist()
    frames = numbered_frames(count, height, width)
    return encode(frames, codec, container, options, file_options, times)


def encode(
    frames_THWC: np.ndarray,
    codec: str,
    container: str,
    options: Mapping[str, str],
    file_options: Mapping[str, str],
    times_ms: Sequence[int] | None = None,
) -> bytes:
    """A video file of these frames, at FPS or at these times."""
    given = {"fflags": "+bitexact", **file_options}
    with TemporaryDirectory() as folder:
        path = Path(folder) / "video"  # on disk: `faststart` reads what it wrote
        _encode(path, frames_THWC, codec, container, options, given, times_ms)
        return path.read_bytes()


def _encode(
    path: Path,
    frames_THWC: np.ndarray,
    codec: str,
    container: str,
    options: Mapping[str, str],
    file_options: Mapping[str, str],
    times_ms: Sequence[int] | None,
) -> None:
    with av.open(str(path), "w", format=container, options=dict(file_options)) as file:
        stream = file.add_stream(codec, rate=FPS, options=dict(options))
        stream.height, stream.width = frames_THWC.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1
        if times_ms is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        for t, array in enumerate(frames_THWC):
            frame = av.VideoFrame.from_ndarray(array, format="rgb24")
            if times_ms is not None:
                frame.pts, frame.time_base = times_ms[t], Fraction(1, 1000)
            file.mux(stream.encode(frame))
        file.mux(stream.encode())


def _split(media: bytes) -> bytes:
    buffer = io.BytesIO()
    with av.open(io.BytesIO(media)) as given, av.open(buffer, "w", format="avi") as file:
        stream = given.streams.video[0]
        copy = file.add_stream_from_template(stream)
        copy.time_base = Fraction(1, FPS)
        split = BitStreamFilterContext("vp9_superframe_split", stream)
        count = 0
        for packet in given.demux(stream):
            for part in split.filter(packet if packet.size else None):
                part.stream, part.time_base = copy, Fraction(1, FPS)
                part.pts = part.dts = count
                part.duration = 1
                count += 1
                file.mux(part)
    return buffer.getvalue()


def with_duration(media: bytes, factor: float) -> bytes:
    """The same WebM file with another duration in its header."""
    at = media.index(b"\x44\x89\x88") + 3
    (duration,) = struct.unpack(">d", media[at : at + 8])
    changed = media[:at] + struct.pack(">d", duration * factor) + media[at + 8 :]
    text = b"00:00:03.583000000"  # FFmpeg repeats it as a tag, which wins
    return changed.replace(text, f"00:00:{duration * factor / 1000:012.9f}".encode())


def grey_video(path: Path, grey: int, *, frames: int = 2) -> Path:
    """VP9 in a .webm file, H.264 in any other; every pixel grey."""
    path.parent.mkdir(parents=True, exist_ok=True)
    clip = np.full((frames, 16, 16, 3), grey, np.uint8)
    if path.suffix == ".webm":
        encode_vp9(path, clip, 12)
        return path
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=12)
        stream.width = stream.height = 16
        stream.pix_fmt = "yuv420p"
        for frame in clip:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return path
