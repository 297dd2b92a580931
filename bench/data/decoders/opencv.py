"""OpenCV with its own FFmpeg: the default decoder, from memory or from a file."""

from __future__ import annotations

import io
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from bench.data.decoders import Convert


def version() -> str:
    """Name and version, for provenance."""
    return f"opencv-python-headless {cv2.__version__}, FFmpeg backend"


def frames(source: bytes | Path, key: str) -> Iterator[Convert]:
    """Every frame; a broken one is skipped or concealed, and FFmpeg does not tell (`damage`)."""
    # Nobody calls release(): OpenCV 5.0.0 crashes in it when the capture reads from a stream; the
    # destructor is fine.
    stream: Any = io.BytesIO(source) if isinstance(source, bytes) else str(source)
    try:
        # One thread: parallelism belongs to the loader's workers, and clips are too small to
        # share one.
        capture = cv2.VideoCapture(stream, cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
    except cv2.error as error:
        raise ValueError(f"video {key!r} cannot be opened: {error}") from error
    if not capture.isOpened():
        raise ValueError(f"video {key!r} cannot be opened; the file is broken or not a video")
    convert = partial(_retrieve, capture, key)
    while capture.grab():
        yield convert


def _retrieve(capture: cv2.VideoCapture, key: str) -> np.ndarray:
    done, frame = capture.retrieve()
    if not done:
        raise ValueError(f"video {key!r} has a frame that cannot be converted to RGB")
    return cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
