"""What a cell's metrics.jsonl says of its validations."""

from __future__ import annotations

from pathlib import Path

from bench.store.files import read_lines
from bench.tune.search import VALIDATION


def validations(metrics: Path) -> list[tuple[int, float]]:
    """(epoch, value) of each validation; a line that is being written is left out."""
    rows = read_lines(metrics, having=VALIDATION)
    return [(int(row["epoch"]), float(row[VALIDATION])) for row in rows if VALIDATION in row]
