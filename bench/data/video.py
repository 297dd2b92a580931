"""Video files -> RGB frames and back, with OpenCV. The lowest layer of the data side: `shards`
and the sources use it.

Frames are always decoded from the start and counted by decoding: headers over-report, and seeking
in VP9 is not exact.
"""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

DECODER = f"opencv-python-headless {cv2.__version__}, FFmpeg backend"
"""What turned files into frames; stored with every data set, because decoders differ in pixels."""

# Constant quality, and fast; without a two-pass look-ahead that would treat the first frames apart.
_ENCODER = {"deadline": "realtime", "cpu-used": "8", "crf": "18", "b": "0", "lag-in-frames": "0"}


def _open(source: bytes | Path, key: str) -> cv2.VideoCapture:
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
    return capture


def decode(
    source: bytes | Path, indices: Sequence[int] | np.ndarray | None = None, *, key: str = ""
) -> np.ndarray:
    """uint8 T H W 3 (RGB): all frames, or those at `indices` (any order, repeats allowed).

    Raises ValueError naming `key` if the video is broken or has no frame of a wanted index.
    """
    key = key or (str(source) if isinstance(source, Path) else "<bytes>")
    wanted = None if indices is None else {int(i) for i in indices}
    last = None if wanted is None else max(wanted, default=-1)
    capture = _open(source, key)
    frames: dict[int, np.ndarray] = {}
    t = 0
    while last is None or t <= last:
        if not capture.grab():
            break
        if wanted is None or t in wanted:  # only wanted frames pay for the colour conversion
            ok, frame = capture.retrieve()
            if not ok:
                break
            frames[t] = cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
        t += 1
    if not t:
        raise ValueError(f"video {key!r} has no decodable frame")
    if wanted is None:
        return np.stack(list(frames.values()))
    if missing := sorted(wanted - frames.keys()):
        raise ValueError(
            f"video {key!r} has {t} decodable frames, frame {missing[0]} was asked for"
        )
    assert indices is not None
    return np.stack([frames[int(i)] for i in indices])


def count_frames(source: bytes | Path, *, key: str = "") -> int:
    """How many frames really decode (the header's number is not used)."""
    key = key or (str(source) if isinstance(source, Path) else "<bytes>")
    capture = _open(source, key)
    count = 0
    while capture.grab():
        count += 1
    if not count:
        raise ValueError(f"video {key!r} has no decodable frame")
    return count


def encode_vp9(path: Path, frames_THWC: np.ndarray, fps: int) -> None:
    """Write uint8 T H W 3 (RGB) as WebM/VP9, the format of Something-Something-v2.

    The same input gives the same bytes. Through PyAV: OpenCV hands no speed option to its VP9
    encoder and takes ten times as long.
    """
    import av  # here: only who makes data needs it

    assert frames_THWC.dtype == np.uint8 and frames_THWC.ndim == 4 and frames_THWC.shape[3] == 3
    height, width = frames_THWC.shape[1:3]
    temporary = path.with_name(f"{path.stem}.tmp-{os.getpid()}.webm")
    # bitexact: no random track id, no version strings
    with av.open(str(temporary), "w", format="webm", options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream("libvpx-vp9", rate=fps, options=_ENCODER)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.thread_count = 1
        for frame in frames_THWC:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    temporary.replace(path)
