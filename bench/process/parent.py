"""Processes that must not outlive the one that started them, however it dies."""

from __future__ import annotations

import ctypes
import os
import signal
from typing import Any


def _prctl() -> Any:
    try:
        return ctypes.CDLL(None).prctl
    except (OSError, AttributeError):  # not Linux: they may outlive one that is killed
        return None


_PRCTL = _prctl()
_PR_SET_PDEATHSIG = 1


def die_with(parent: int) -> None:
    """In a new process: be killed when `parent` dies, also if it has died already."""
    if _PRCTL is not None:
        _PRCTL(_PR_SET_PDEATHSIG, int(signal.SIGKILL))
        if os.getppid() != parent:
            os._exit(1)
