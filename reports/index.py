"""A frame of results arranged for many look-ups: pandas would compare every row for each of them.

Used by `stats`. A frame is arranged once, and so are the rows of some of its sweeps (`part`), so that every
table and figure of an evaluation shares one arrangement. Frames are never changed in place here.
"""

from __future__ import annotations

import weakref
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

Record = dict[str, Any]
"""One row of a frame, without what is absent (None)."""

PLACE = ("evaluation", "split", "view", "subset", "metric")


class Index:
    """Of the cells of a frame by their labels, and of its numbers by signature and measure."""

    def __init__(self, frame: pd.DataFrame, axes: Sequence[str], of_number: Sequence[str]) -> None:
        self.axes, self._of_number = tuple(axes), tuple(of_number)
        self._frame = frame
        self._by_labels: dict[tuple[str, ...], dict[tuple[object, ...], list[Record]]] = {}

    @cached_property
    def heads(self) -> list[Record]:
        """One per run, without its numbers, by seed and signature."""
        # A skipped cell may have no signature, so the seed takes part in telling runs apart. A run may
        # serve several sweeps; it and its numbers are then listed once per sweep and count once.
        key = [*self.axes, "seed", "signature"]
        more = ["state", "reason", *({"data_seed"} & set(self._frame))]
        found = distinct(self._frame, [*key, *more]).drop_duplicates(key)
        return sorted(records(found), key=lambda head: (head["seed"], head["signature"]))

    def cells(self, labels: Mapping[str, str]) -> list[Record]:
        """The heads with these labels."""
        names = tuple(sorted(labels))
        if names not in self._by_labels:
            found = self._by_labels[names] = {}
            for head in self.heads:
                found.setdefault(tuple(head.get(name) for name in names), []).append(head)
        return self._by_labels[names].get(tuple(labels[name] for name in names), [])

    def measured_on(self, signature: str, evaluation: str) -> Collection[str]:
        """The splits."""
        return self._splits.get((signature, evaluation), ())

    @cached_property
    def _splits(self) -> dict[tuple[str, str], set[str]]:
        found: dict[tuple[str, str], set[str]] = {}
        rows = distinct(self._frame, ["signature", "evaluation", "split"])
        for signature, evaluation, split in rows.dropna().itertuples(index=False):
            found.setdefault((signature, evaluation), set()).add(split)
        return found

    def numbers(self, signature: str, place: tuple[str, ...]) -> list[Record]:
        """What was measured there; `place` is as PLACE says. More than one where a run says several."""
        order, of_signature, places, signatures = self._arranged
        begin, end = places.get(place, (0, 0))
        code = signatures.get(signature, -1)
        rows = of_signature[begin:end]
        first, last = np.searchsorted(rows, (code, code + 1))
        found: list[Record] = []
        for row in order[begin + first : begin + last]:
            record = {name: column[row] for name, column in self._columns.items()}
            record = {
                n: (c[v] if (c := self._names.get(n)) is not None else v) for n, v in record.items()
            }
            if record not in found and not any(_same(record, other) for other in found):
                found.append(record)
        return found

    @cached_property
    def _columns(self) -> dict[str, np.ndarray]:
        return {name: codes(self._frame[name]) for name in self._of_number}

    @cached_property
    def _names(self) -> dict[str, list[Any]]:
        """What the codes of a column of text stand for; the last, which is -1, for nothing."""
        return {
            n: names for n in self._of_number if (names := meanings(self._frame[n])) is not None
        }

    @cached_property
    def _arranged(
        self,
    ) -> tuple[np.ndarray, np.ndarray, dict[tuple[str, ...], tuple[int, int]], dict[str, int]]:
        """The measured rows by place and signature; the codes of their signatures; where each place
        begins and ends; and the code of each signature.
        """
        frame = self._frame
        rows = np.flatnonzero(frame["evaluation"].notna().to_numpy())
        place = np.zeros(len(rows), dtype=np.int64)
        for name in PLACE:
            found = codes(frame[name])[rows].astype(np.int64) + 1
            place = place * (int(found.max(initial=0)) + 1) + found
            if int(place.max(initial=0)) > 1 << 40:  # so that the next product is none too large
                place = np.unique(place, return_inverse=True)[1]
        signature = codes(frame["signature"])[rows]
        order = np.lexsort((rows, signature, place))
        ordered = place[order]
        changed = np.ones(len(ordered), dtype=bool)
        changed[1:] = ordered[1:] != ordered[:-1]
        begins = np.flatnonzero(changed)
        ends = np.append(begins[1:], len(ordered))[: len(begins)]
        firsts = frame[list(PLACE)].iloc[rows[order[begins]]]
        places = {
            tuple(map(str, names)): (int(begin), int(end))
            for names, begin, end in zip(firsts.itertuples(index=False), begins, ends, strict=True)
        }
        known = meanings(frame["signature"]) or []
        signatures = {str(name): code for code, name in enumerate(known[:-1])}
        return rows[order], signature[order], places, signatures


def _same(one: Record, other: Record) -> bool:
    """Also of what is not a number in both."""
    return all(
        a == b or (a != a and b != b) for a, b in zip(one.values(), other.values(), strict=True)
    )


# --- columns ---


def codes(column: pd.Series) -> np.ndarray:
    """Numbers as they are; of text a number for each, -1 for none."""
    if isinstance(column.dtype, pd.CategoricalDtype):
        return column.cat.codes.to_numpy()
    if pd.api.types.is_numeric_dtype(column.dtype):
        return column.to_numpy()
    return pd.factorize(column)[0]


def meanings(column: pd.Series) -> list[Any] | None:
    """What `codes` stand for, and None at the end; None of numbers."""
    if isinstance(column.dtype, pd.CategoricalDtype):
        return [*column.cat.categories, None]
    return None if pd.api.types.is_numeric_dtype(column.dtype) else [*pd.factorize(column)[1], None]


def distinct(frame: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """These columns without repetitions: the rows of a run, which stand together, are not compared each."""
    changed = np.zeros(len(frame), dtype=bool)
    changed[:1] = True
    for name in names:
        found = codes(frame[name])
        changed[1:] |= found[1:] != found[:-1]
    return frame.loc[changed, list(names)].drop_duplicates()


def records(frame: pd.DataFrame) -> list[Record]:
    columns = [
        [None if v != v or v is pd.NA else v for v in frame[name].tolist()] for name in frame
    ]
    names = [str(name) for name in frame]
    return [dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True)]


# --- of which frame ---


class _Known:
    """What was made of a frame."""

    def __init__(self) -> None:
        self.index: Index | None = None
        self.about: list[tuple[str, str, str | None]] | None = None
        self.parts: dict[frozenset[str], pd.DataFrame] = {}


_known: dict[int, tuple[weakref.ref[pd.DataFrame], _Known]] = {}


def _of(frame: pd.DataFrame) -> _Known:
    name = id(frame)
    reference, known = _known.get(name, (None, None))
    if reference is None or known is None or reference() is not frame:
        known = _Known()
        _known[name] = weakref.ref(frame, lambda _: _known.pop(name, None)), known
    return known


def index(frame: pd.DataFrame, axes: Sequence[str], of_number: Sequence[str]) -> Index:
    """The index of a frame, made once."""
    known = _of(frame)
    if known.index is None:
        known.index = Index(_detached(frame), axes, of_number)
    return known.index


def about(frame: pd.DataFrame) -> list[tuple[str, str, str | None]]:
    """(sweep, evaluations planned, evaluation measured) of a frame, each once."""
    known = _of(frame)
    if known.about is None:
        found = records(distinct(frame, ["sweep", "evaluations", "evaluation"]))
        known.about = [(r["sweep"], r["evaluations"], r["evaluation"]) for r in found]
    return known.about


def part(frame: pd.DataFrame, sweeps: frozenset[str]) -> pd.DataFrame:
    """The rows of these sweeps; the same frame whoever asks, and the frame itself where these are all."""
    if sweeps >= {sweep for sweep, _, _ in about(frame)}:
        return frame
    parts = _of(frame).parts
    if sweeps not in parts:
        parts[sweeps] = frame[frame["sweep"].isin(sweeps)]
    return parts[sweeps]


def _detached(frame: pd.DataFrame) -> pd.DataFrame:
    """The same columns, not the same object: an index must not keep alive the frame that it is known by."""
    return frame.copy(deep=False)
