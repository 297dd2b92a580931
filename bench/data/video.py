"""Video files -> RGB frames and back. The lowest layer of the data side: `shards` and the sources
use it; what decodes is a file in `decoders`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bench.data import decoders
from bench.data.decoders import opencv
from bench.store.files import replacing

DECODER = opencv.version()
"""What turned files into frames; stored with every data set, because decoders differ in pixels."""

# Constant quality, and fast; without a two-pass look-ahead that would treat the first frames apart.
_ENCODER = {"deadline": "realtime", "cpu-used": "8", "crf": "18", "b": "0", "lag-in-frames": "0"}


def decode(
    source: bytes | Path,
    indices: Sequence[int] | np.ndarray | None = None,
    *,
    key: str = "",
    decoder: str = "opencv",
) -> np.ndarray:
    """uint8 T H W 3 (RGB): all frames, or those at `indices` (any order, repeats allowed).

    Raises ValueError naming `key` if the video is broken or has no frame of a wanted index, and
    naming the package if the decoder is not installed.
    """
    key = key or (str(source) if isinstance(source, Path) else "<bytes>")
    wanted = None if indices is None else {int(i) for i in indices}
    last = None if wanted is None else max(wanted, default=-1)
    frames: dict[int, np.ndarray] = {}
    count = 0
    for t, convert in enumerate(decoders.load(decoder).frames(source, key)):
        count = t + 1
        if wanted is None or t in wanted:
            frames[t] = convert()
        if last is not None and t >= last:
            break
    if not count:
        raise ValueError(f"video {key!r} has no decodable frame")
    if wanted is None:
        return np.stack(list(frames.values()))
    if missing := sorted(wanted - frames.keys()):
        raise ValueError(
            f"video {key!r} has {count} decodable frames, frame {missing[0]} was asked for"
        )
    assert indices is not None
    return np.stack([frames[int(i)] for i in indices])


def count_frames(source: bytes | Path, *, key: str = "", decoder: str = "opencv") -> int:
    """How many frames really decode (the header's number is not used)."""
    key = key or (str(source) if isinstance(source, Path) else "<bytes>")
    count = sum(1 for _ in decoders.load(decoder).frames(source, key))
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
    with (
        replacing(path, durable=False) as temporary,
        # bitexact: no random track id, no version strings
        av.open(str(temporary), "w", format="webm", options={"fflags": "+bitexact"}) as container,
    ):
        stream = container.add_stream("libvpx-vp9", rate=fps, options=_ENCODER)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.thread_count = 1
        for frame in frames_THWC:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
