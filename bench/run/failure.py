"""An exception -> the kind of failure it is, by which a cell is tried again or not."""

from __future__ import annotations

import torch

from bench.store.rundir import Failure


class NoProgress(RuntimeError):
    """The cell was started again and again and got no further."""


def failure(error: BaseException) -> Failure:
    """The class of an exception that ended a cell."""
    text = str(error)
    # torch's allocators, mmap, OpenCV
    full = (
        "out of memory",
        "can't allocate memory",
        "Cannot allocate memory",
        "Insufficient memory",
    )
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or any(m in text for m in full):
        return Failure.OOM
    if isinstance(error, NoProgress):
        return Failure.NO_PROGRESS
    ends = ("killed by signal", "exited unexpectedly")  # torch says the one or the other
    if "DataLoader worker" in text and any(end in text for end in ends):
        return Failure.KILLED
    if "device-side assert" in text:  # an index out of range, say: the GPU is well
        return Failure.BUG
    marks = ("CUDA error", "CUDA driver error", "cuDNN error", "NCCL error", "ECC error")
    if isinstance(error, (torch.AcceleratorError, torch.distributed.DistBackendError)) or any(
        mark in text for mark in marks
    ):
        return Failure.DEVICE
    return Failure.BUG
