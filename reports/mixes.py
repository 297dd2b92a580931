"""What must not be averaged or compared unawares: numbers of other data, of other code, of another device.

Between `stats`, which asks whether runs go together, and the command line, whose `--pool` lets some of it pass.
Numbers of other data never go together, whatever is pooled.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd

from bench.results import EVALUATED, TRAINING
from reports.index import distinct
from reports.manifest import POOLABLE

if TYPE_CHECKING:
    from reports.asked import Asked
    from reports.stats import Run

MADE_FROM = ("data", "data_digest", "provenance")
MADE_BY = ("code", "device")
_SAYS = {"code": "were made by different code", "device": "were made on different devices"}

_pooled: ContextVar[frozenset[str]] = ContextVar("pooled", default=frozenset())


@contextmanager
def pooling(names: Collection[str]) -> Iterator[None]:
    """Meanwhile, runs that differ in these (of POOLABLE) go together."""
    token = _pooled.set(frozenset(names))
    try:
        yield
    finally:
        _pooled.reset(token)


# --- runs behind a number ---


def why_apart(runs: Sequence[Run]) -> str:
    """Why these runs, which are measured, do not go together; empty where they do."""
    if len(origins := _origins(runs)) > 1:
        return "the runs differ in how their data was made: " + _differ(origins)
    parts = []
    for position, name in enumerate(MADE_BY):
        found = sorted({run.made_by[position] for run in runs if run.made_by})
        if len(found) > 1 and name not in _pooled.get():
            parts.append(
                f"the runs {_SAYS[name]}: {' | '.join(found)}; --pool {name} takes them together"
            )
    return "; ".join(parts)


def same_data(run: Run, other: Run) -> bool:
    """Whether two runs of one seed were measured on the same."""
    return len(_without_pooled({run.made_from, other.made_from})) == 1


def _origins(measured: Sequence[Run]) -> set[tuple[str, ...]]:
    """Of what the runs' data were made. Where each seed has data of its own (`data.seed: null`), the digests
    differ by intention: seeds are then averaged over data too.
    """
    tied = all(run.data_seed == run.seed for run in measured)
    found = [dict(zip(MADE_FROM, run.made_from, strict=True)) for run in measured if run.made_from]
    own = {"data_digest": "of each seed"} if tied else {}
    return _without_pooled({tuple((origin | own).values()) for origin in found})


def _without_pooled(origins: Iterable[tuple[str, ...]]) -> set[tuple[str, ...]]:
    pooled = _pooled.get()
    return {
        tuple("" if n in pooled else v for n, v in zip(MADE_FROM, origin, strict=bool(origin)))
        for origin in origins
    }


def _differ(origins: Iterable[tuple[str, ...]]) -> str:
    """Which part of (data, digest, provenance) differs between runs, and how."""
    ordered = sorted(origins)
    parts = []
    for position, name in enumerate(MADE_FROM):
        found = sorted({origin[position] for origin in ordered})
        if len(found) > 1:
            parts.append(f"{name.replace('_', ' ')} {' | '.join(found)}")
    return "; ".join(parts)


# --- in a whole report ---


@dataclass(frozen=True)
class Mix:
    """Numbers of these evaluations stand in one table and were made by different `what`."""

    what: str
    found: tuple[str, ...]
    evaluations: tuple[str, ...]

    def __str__(self) -> str:
        which = " | ".join(self.found)
        return f"{', '.join(self.evaluations)}: the runs {_SAYS[self.what]}: {which}"


def of(frame: pd.DataFrame) -> tuple[Mix, ...]:
    """The mixes of the sweeps of a setting that are not pooled."""
    found: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for name in (name for name in MADE_BY if name not in _pooled.get() and name in frame):
        rows = distinct(frame, ["sweep", "evaluation", name]).dropna()
        rows = rows[~rows["sweep"].isin([EVALUATED]) & ~rows["evaluation"].isin([TRAINING])]
        made: dict[str, set[str]] = {}
        for evaluation, by in zip(rows["evaluation"], rows[name], strict=True):
            made.setdefault(evaluation, set()).add(by)
        for evaluation, values in sorted(made.items()):
            if len(values) > 1:
                found.setdefault((name, tuple(sorted(values))), []).append(evaluation)
    return tuple(Mix(what, values, tuple(names)) for (what, values), names in found.items())


def notes(asked: Iterable[Asked]) -> tuple[str, ...]:
    """What a table says of what was pooled in it: of the numbers that it asked for."""
    runs = [number.measured for _, _, number in asked]
    found = []
    for name in (name for name in POOLABLE if name in _pooled.get()):
        if name in MADE_BY:
            position = MADE_BY.index(name)
            values = {run.made_by[position] for of in runs for run in of if run.made_by}
            differ = len(values) > 1
        else:
            position = MADE_FROM.index(name)
            of_each = [{run.made_from[position] for run in of if run.made_from} for of in runs]
            values, differ = set().union(*of_each), any(len(each) > 1 for each in of_each)
        if differ:
            found.append(f"Pooled (--pool {name}): {' | '.join(sorted(values))}.")
    return tuple(found)
