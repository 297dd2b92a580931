"""How much disk the cells that would be started need, and whether it is there."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

from rich.text import Text

from bench.grid.plan import Cell
from bench.store import places
from bench.sweep.status import CellStatus

_SAMPLED = 8
"""Cells whose models are built to count their parameters."""
_LARGEST = 2 * 3 + 1
"""Numbers that are kept of each parameter: weights and two moments in `last.pt` and in the one before, weights
in `best.pt`."""
_BYTES = 4


def lines(chosen: Sequence[CellStatus], measured: float | None, runs: Path) -> Iterator[Text]:
    """'needs about 12.0 GB in runs (34.0 GB free)', and in red where it does not fit. Nothing where nothing
    is trained, or where it cannot be told. `measured`: gigabytes, from runs of the same plan.
    """
    train = [s for s in chosen if not s.trained]
    needed = _estimated(train) if measured is None else measured * 1e9
    if not train or needed is None:
        return
    free = places.free(runs)
    yield Text(f"needs about {places.size(needed)} in {runs} ({places.size(free)} free)")
    if needed > free:
        yield Text(f"does not fit: make room in {runs}, or name another --runs", style="bold red")


def _estimated(train: Sequence[CellStatus]) -> float | None:
    """Bytes of the runs that are to be trained, from the sizes of their models; None where these cannot be
    built without their weights.
    """
    sampled = train[:: max(1, -(-len(train) // _SAMPLED))]
    counts = [count for s in sampled if (count := _parameters(s.cell)) is not None]
    if len(counts) < len(sampled) or not counts:
        return None
    return sum(counts) / len(counts) * _BYTES * _LARGEST * len(train)


def _parameters(cell: Cell) -> int | None:
    return _count(json.dumps(cell.config.dump_training() | {"seed": 0}))


@cache
def _count(config: str) -> int | None:
    import torch

    from bench.config.science import parse
    from bench.train.learner import build

    try:
        with torch.device("meta"):  # no memory, no draws
            learner = build(parse(json.loads(config)), weights_dir=None)
    except (NotImplementedError, RuntimeError):  # it computes with its weights where it is built
        return None
    return sum(parameter.numel() for parameter in learner.parameters())
