"""PyAV: FFmpeg's libraries as PyAV's wheel brings them. Unlike OpenCV it reports a broken frame."""

from __future__ import annotations

import io
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from bench.data.decoders import Convert


def _library() -> ModuleType:
    try:
        import av
    except ImportError as error:
        raise ValueError(
            f"the decoder 'pyav' cannot be used here ({error}): run `pip install av`"
        ) from error
    return av


def version() -> str:
    """Name and version, for provenance."""
    av = _library()
    return f"PyAV {av.__version__}, FFmpeg {av.ffmpeg_version_info}"


def frames(source: bytes | Path, key: str) -> Iterator[Convert]:
    """Every frame."""
    av = _library()
    stream: Any = io.BytesIO(source) if isinstance(source, bytes) else str(source)
    try:
        with av.open(stream) as file:
            video = file.streams.video[0]
            video.codec_context.thread_count = 1  # parallelism belongs to the loader's workers
            for frame in file.decode(video):
                yield partial(frame.to_ndarray, format="rgb24")
    except (av.FFmpegError, IndexError, AttributeError) as error:
        # IndexError: no video stream; AttributeError: no codec for it
        raise ValueError(f"video {key!r} cannot be decoded: {error}") from error
