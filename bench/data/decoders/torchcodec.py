"""TorchCodec, where it is installed: PyTorch's decoder, on the FFmpeg libraries of the system.

Read in sequence: frame indices of TorchCodec count packets, of which some show nothing in VP9, and
asking for one out of turn can then give another frame.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from bench.data.decoders import Convert

_AT_THE_END = "no more frames"  # its error when packets that show nothing were counted as frames


def _library() -> ModuleType:
    try:
        import torchcodec
        import torchcodec.decoders
    except (ImportError, OSError, RuntimeError) as error:
        raise ValueError(_absent(error)) from error
    return torchcodec


def _absent(error: Exception) -> str:
    reason = str(error).strip().splitlines()[0]
    return (
        f"the decoder 'torchcodec' cannot be used here ({reason}): run `pip install torchcodec` "
        "and install FFmpeg's shared libraries (on Debian `apt-get install ffmpeg`)"
    )


def version() -> str:
    """Name and version, for provenance."""
    library = _library()
    try:
        return f"torchcodec {library.__version__}, FFmpeg {library.ffmpeg_major_version}"
    except (OSError, RuntimeError) as error:  # FFmpeg's libraries are loaded now
        raise ValueError(_absent(error)) from error


def frames(source: bytes | Path, key: str) -> Iterator[Convert]:
    """Every frame."""
    video = _open(source, key)
    for t in range(len(video)):
        try:
            frame_HWC = video.get_frame_at(t).data.numpy()
        except RuntimeError as error:
            if t and _AT_THE_END in str(error):
                return
            raise ValueError(f"video {key!r} cannot be decoded: {_line(error)}") from error
        yield frame_HWC.copy  # in memory of our own, not of a tensor


def _open(source: bytes | Path, key: str) -> Any:
    decoders = _library().decoders
    version()  # a missing FFmpeg is no fault of the video
    given = source if isinstance(source, bytes) else str(source)
    try:
        # exact: the header is not believed; one thread: parallelism belongs to the loader's workers
        return decoders.VideoDecoder(
            given, dimension_order="NHWC", num_ffmpeg_threads=1, seek_mode="exact"
        )
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"video {key!r} cannot be opened: {_line(error)}") from error


def _line(error: Exception) -> str:
    return (str(error).strip() or "unknown").splitlines()[0]
