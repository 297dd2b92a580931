"""Models measured on data: `evaluate` from Python, `python -m bench.evaluate` from the shell."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bench.evaluate.api import evaluate as evaluate

__all__ = ["evaluate"]


def __getattr__(name: str) -> Any:
    """On first use: it imports all that training does."""
    if name == "evaluate":
        from bench.evaluate.api import evaluate

        return evaluate
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
