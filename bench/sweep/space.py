"""How much disk the cells that would be started need, and whether it is there."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

from rich.text import Text

from bench import find
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
    """'needs about 12.0 GB in runs (34.0 GB free) and 3.0 GB in data (34.0 GB free)', and in red what does not
    fit. Nothing where nothing is written, or where it cannot be told. `measured`: gigabytes, from runs of
    the same plan.
    """
    train = [s for s in chosen if not s.trained]
    needed = _of_data(chosen)
    runs_need = _estimated(train) if measured is None else measured * 1e9
    if train and runs_need is not None:
        needed = {runs: runs_need + needed.pop(runs, 0), **needed}
    free = {folder: places.free(folder) for folder in needed}
    told = [
        f"{places.size(count)} in {folder} ({places.size(free[folder])} free)"
        for folder, count in needed.items()
    ]
    if told:
        yield Text(f"needs about {' and '.join(told)}")
    for folder, count in needed.items():
        if count > free[folder]:
            remedy = f"make room in {folder}, or name another --runs or resources.data_dir"
            yield Text(f"does not fit: {remedy}", style="bold red")


def _of_data(chosen: Sequence[CellStatus]) -> dict[Path, float]:
    """Folder -> bytes of the data that would be made there first."""
    wanted = {}
    for s in chosen:
        data, place = s.cell.config.data, s.cell.resources.data_dir
        wanted[f"{place} {data!r}"] = data, Path(place)
    found: dict[Path, float] = {}
    for data, folder in wanted.values():
        needed = find.optional("source", data.name, "needed")
        if needed and (count := needed(data.config, folder)):
            found[folder] = found.get(folder, 0) + count
    return found


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
