"""Why a cell did not end well: one table from an exception's words to the kind of failure it is.

The cell itself asks with the exception (bench.run), its supervisor with the traceback that a process
left behind (bench.launch.postmortem), so the table knows exceptions by what tracebacks call them and
needs no torch.
"""

from __future__ import annotations

import re
import traceback
from enum import StrEnum


class Failure(StrEnum):
    """Why a cell did not end well; decides whether trying again makes sense (`--retry`)."""

    BUG = "BUG"  # an exception: the same again would fail again
    DATA = "DATA"  # the data are damaged: the same again would fail again
    OOM = "OOM"  # out of memory, on the device or the host
    DEVICE = "DEVICE"  # the GPU or its driver failed
    DISK = "DISK"  # nothing could be written: full, over a quota, or read-only
    KILLED = "KILLED"  # a process was killed or crashed
    TIMEOUT = "TIMEOUT"  # the time limit came before a checkpoint could be written
    NODE_FAIL = "NODE_FAIL"  # the machine went away
    NO_PROGRESS = "NO_PROGRESS"  # started again and again without getting further
    CANCELLED = "CANCELLED"  # by --cancel or scancel


class NoProgress(RuntimeError):
    """The cell was started again and again and got no further."""


# The first line that matches decides.
_MARKS = (
    (
        Failure.OOM,  # torch's allocators, numpy, mmap, OpenCV
        r"OutOfMemoryError|MemoryError|out of memory|can't allocate memory|Cannot allocate memory|"
        r"Insufficient memory",
    ),
    (
        Failure.DISK,  # the system's words, then those of torch.save, which names no error of the system
        r"No space left on device|Disk quota exceeded|Read-only file system|"
        r"PytorchStreamWriter failed writing|inline_container\S* \. unexpected pos|"
        r"basic_ios::clear: iostream error",
    ),
    (Failure.NO_PROGRESS, r"\bNoProgress\b"),
    (Failure.DATA, r"^([\w.]+\.)?(BadData|BadSample|Damaged)\b"),  # what bench.data calls them
    # torch says the one or the other
    (Failure.KILLED, r"(?s)DataLoader worker.*(killed by signal|exited unexpectedly)"),
    (Failure.BUG, r"device-side assert"),  # an index out of range, say: the GPU is well
    (
        Failure.DEVICE,
        r"CUDA error|CUDA driver|cuDNN error|NCCL error|ECC error|AcceleratorError|DistBackendError",
    ),
)


def of_exception(error: BaseException) -> Failure:
    """The kind of failure that an exception is."""
    return _kind("".join(traceback.format_exception_only(error)))


def of_traceback(text: str) -> Failure:
    """The kind of failure that a traceback tells of."""
    return _kind(message_of(text))


def message_of(text: str) -> str:
    """The exception's own lines of a traceback."""
    lines = text.strip().splitlines()
    indented = [i for i, line in enumerate(lines) if line.startswith((" ", "Traceback "))]
    return "\n".join(lines[indented[-1] + 1 :] if indented else lines)


def _kind(message: str) -> Failure:
    return next((kind for kind, mark in _MARKS if re.search(mark, message)), Failure.BUG)
