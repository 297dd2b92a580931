"""From the long frame of measured numbers to mean and standard deviation over seeds.

`bench.results.load` gives one row per measured number; a table or figure names what it wants as a
`Measure` and which cell of the grid as labels, and gets an `Aggregate`: the runs behind the number,
and the reason whenever there is none. Nothing here knows a concrete table.

Two numbers that were made from different data, or from the same data decoded or cropped
differently, by other code or on another device, are not averaged: the aggregate then has a `problem`
and no mean (`mixes`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from bench.results import EVALUATED
from bench.results.made_by import UNKNOWN, without_trees
from reports import asked, mixes, splits
from reports import index as indices
from reports.index import Record, distinct
from reports.mixes import MADE_BY, MADE_FROM

IDENTITY = (
    "sweep", "scale", "overrides", "seed", "signature", "run_dir", "state", "reason", "evaluations"
)  # fmt: skip
NUMBER = ("evaluation", "split", "view", "subset", "metric", "value", "n")
COLUMNS = (*IDENTITY, *MADE_FROM, *NUMBER)
# of samples that could not be decoded; of how many of each class were shown at most (0: all); of what
# file the model is; what a cell is without; of the data, where these are made; of the sweep, in their order; by
# what it was made
OPTIONAL = (
    "n_failed", "train_replaced", "limit", "weights_sha256", "left_out", "data_seed", "axes", *MADE_BY,
)  # fmt: skip
"""The columns every frame has, and those it may have; any other column is an axis of a sweep."""

METHODS = ("baseline", "+ order", "+ debias", "+ flow", "+ TIME")
EQUAL_COMPUTE = "baseline, equal compute"
"""Trained for as long as + TIME takes; what sweeps/backbones.yaml calls it."""
IN_ORDER = (METHODS[0], EQUAL_COMPUTE, *METHODS[1:])
BACKBONES = ("TimeSformer", "Motionformer", "X-ViT")
"""Order of rows and colours; a label that is not listed follows, alphabetically. The backbones are
those of the video tables, which list all of them.
"""

MODEL = "model"
"""The axis of the models that were evaluated without a run; no sweep's rows have it."""

REASON_LENGTH = 200


@dataclass(frozen=True)
class Measure:
    """Which number of an evaluation; `split` is a name, or one of reports.splits."""

    evaluation: str
    split: str
    view: str
    subset: str = "all"
    metric: str = "top1"


@dataclass(frozen=True)
class Run:
    """One seed of one cell of the grid, with its number in percent if it has one."""

    seed: int
    state: str
    reason: str
    signatures: tuple[str, ...]
    made_from: tuple[str, ...] = ()
    value: float | None = None
    samples: int | None = None
    data_seed: int | None = None
    made_by: tuple[str, ...] = ()
    kept: tuple[tuple[str, str], ...] = ()
    """Where it was measured and on which split; of a difference also of what was subtracted."""


@dataclass(frozen=True)
class Aggregate:
    """All runs that the sweeps ask for behind one number; `mean` is over those that have it."""

    runs: tuple[Run, ...]
    problem: str = ""
    measure: Measure | None = None

    @cached_property
    def measured(self) -> tuple[Run, ...]:
        return () if self.problem else tuple(run for run in self.runs if run.value is not None)

    @property
    def values(self) -> tuple[float, ...]:
        return tuple(run.value for run in self.measured if run.value is not None)

    @property
    def expected(self) -> tuple[Run, ...]:
        """The runs that should have the number: all but those skipped on purpose."""
        return tuple(run for run in self.runs if run.state != "SKIPPED")

    @property
    def complete(self) -> bool:
        return len(self.measured) == len(self.expected) > 0

    @property
    def fraction(self) -> str:
        """ " (2/3)" where seeds are missing, else nothing; follows a number or a name."""
        return "" if self.complete else f" ({len(self.measured)}/{len(self.expected)})"

    @property
    def skipped(self) -> bool:
        return bool(self.runs) and not self.expected

    @property
    def mean(self) -> float | None:
        return float(np.mean(self.values)) if self.values else None

    @property
    def std(self) -> float | None:
        """Sample standard deviation (ddof = 1); undefined below two values."""
        return float(np.std(self.values, ddof=1)) if len(self.values) > 1 else None

    @property
    def samples(self) -> int | None:
        """Size of the evaluated set; equal in all runs, or there would be a `problem`."""
        return next((run.samples for run in self.measured if run.samples is not None), None)

    @property
    def signatures(self) -> tuple[str, ...]:
        runs = self.measured or self.runs
        return tuple(dict.fromkeys(name for run in runs for name in run.signatures))

    @property
    def made_from(self) -> frozenset[tuple[str, ...]]:
        return frozenset(run.made_from for run in self.measured if run.made_from)

    @property
    def reason(self) -> str:
        """Why numbers are missing, in one line; empty when none is."""
        if self.problem:
            return self.problem
        seeds_by_reason: dict[str, list[int]] = {}
        for run in self.runs:
            if run.value is None:
                seeds_by_reason.setdefault(_why(run), []).append(run.seed)
        parts = [f"{_seeds(seeds)} {why}" for why, seeds in seeds_by_reason.items()]
        return "; ".join(parts)


def checked(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with every contract column, the two axes that every table reads, and no missing text. ValueError
    names what it lacks.
    """
    if missing := [name for name in COLUMNS if name not in frame]:
        raise ValueError(f"the results lack the columns {', '.join(missing)}")
    # A sweep of one backbone need not have it as an axis.
    absent = {axis: None for axis in ("backbone", "method") if axis not in frame}
    unknown = {name: UNKNOWN for name in MADE_BY if name not in frame}
    frame = frame.assign(**absent, **unknown)
    text = {str(n): c for n, c in frame.items() if isinstance(c.dtype, pd.CategoricalDtype)}
    text = {n: c if "" in c.cat.categories else c.cat.add_categories("") for n, c in text.items()}
    filled = {n: text.get(n, frame[n]).fillna("") for n in IDENTITY if n != "seed"}
    filled = {n: column if n in text else column.astype(str) for n, column in filled.items()}
    short = {**without_trees(frame["code"].dropna().unique()), "": ""}
    codes = (
        frame["code"].map(short).astype("category").cat.set_categories(sorted({*short.values()}))
    )
    return frame.assign(**{**text, **filled, "code": codes})


def aggregate(frame: pd.DataFrame, labels: Mapping[str, str], measure: Measure) -> Aggregate:
    """The number `measure` of the cell with these axis labels, over its seeds.

    A sweep with further axes has cells of these labels too, e.g. + TIME at several numbers of
    frames. They give way to the cell of a sweep that has these axes alone; where there is none,
    the aggregate has a `problem` that names the further axes.
    """
    index = _index(frame)
    heads = index.cells(labels)
    further = [axis for axis in index.axes if axis not in labels]
    plain = [head for head in heads if all(head[axis] is None for axis in further)]
    heads = _without_replaced(plain or heads)
    runs = tuple(_run(head, _numbers(index, head["signature"], measure)) for head in heads)
    found = Aggregate(runs, _clash(heads, index.axes) or _mixed(runs), measure)
    asked.note(labels, measure, found)
    return found


def difference(cell: Aggregate, reference: Aggregate) -> Aggregate:
    """Paired difference cell - reference, seed by seed: what a seed does to both cancels."""
    if problem := cell.problem or reference.problem:
        return Aggregate(cell.runs, problem)
    partner = {run.seed: run for run in reference.runs}
    runs = tuple(_paired(run, partner.get(run.seed)) for run in cell.runs)
    why = mixes.why_apart([*cell.measured, *reference.measured])
    return Aggregate(runs, f"no difference taken: {why}" if why else "", cell.measure)


def of_evaluation(frame: pd.DataFrame, evaluation: str) -> pd.DataFrame:
    """The rows of the sweeps that run this evaluation; models without a run are in `evaluated`.

    What a sweep has measured, or else what its cells were planned with, says what it is about. One
    of which neither is known may be about anything.
    """
    known = [one for one in indices.about(frame) if one[0] != EVALUATED]
    ours = {sweep for sweep, planned, found in known if evaluation in (found, *planned.split())}
    others = {sweep for sweep, planned, found in known if found or planned}
    return indices.part(frame, frozenset({sweep for sweep, _, _ in known} - (others - ours)))


def evaluated(frame: pd.DataFrame, evaluation: str) -> pd.DataFrame:
    """The rows of the models that were evaluated without a run; told apart by MODEL. Without those of
    a part of the data, which compare with nothing: see `limited`.
    """
    return _evaluated(frame, evaluation, limited=False)


def limited(frame: pd.DataFrame, evaluation: str) -> tuple[str, ...]:
    """The models that `evaluated` leaves out: "name (--limit N)"."""
    rows = _evaluated(frame, evaluation, limited=True)
    found = [] if rows.empty else zip(rows[MODEL], rows["limit"].astype(int), strict=True)
    return tuple(f"{model} (--limit {count})" for model, count in sorted(set(found)))


def _evaluated(frame: pd.DataFrame, evaluation: str, *, limited: bool) -> pd.DataFrame:
    rows = frame[(frame["sweep"] == EVALUATED) & (frame["evaluation"] == evaluation)]
    if "limit" not in rows:
        return rows.head(0) if limited else rows
    return rows[(rows["limit"] > 0) == limited]


def run_dirs(frame: pd.DataFrame, labels: Mapping[str, str], evaluation: str) -> dict[int, str]:
    """By seed, where the finished runs of a cell with results of this evaluation kept what they kept."""
    rows = frame[(frame["evaluation"] == evaluation) & (frame["state"] == "DONE")]
    for axis in axes(frame):
        label = labels.get(axis)
        rows = rows[rows[axis].isna() if label is None else rows[axis] == label]
    kept = (
        rows.loc[rows["run_dir"] != "", ["seed", "run_dir"]]
        .drop_duplicates()
        .sort_values(["seed", "run_dir"])
    )
    return {int(seed): str(path) for seed, path in kept.itertuples(index=False)}


def labels(frame: pd.DataFrame, axis: str, first: Sequence[str] = ()) -> tuple[str, ...]:
    """The labels of an axis in the frame: the known ones in their order, then the rest, numbers by value."""
    found = set(frame[axis].dropna().unique()) if axis in frame else set()
    return (*(label for label in first if label in found), *sorted(found - set(first), key=natural))


def plotted(frame: pd.DataFrame, measure: Measure) -> dict[str, tuple[str, ...]]:
    """Each backbone that has this number, with the methods that have it, in the order of tables."""
    cells = distinct(frame, ["backbone", "method"])
    methods = {
        backbone: tuple(
            method
            for method in labels(cells[cells["backbone"] == backbone], "method", IN_ORDER)
            if aggregate(frame, {"backbone": backbone, "method": method}, measure).values
        )
        for backbone in labels(frame, "backbone", BACKBONES)
    }
    return {backbone: found for backbone, found in methods.items() if found}


def natural(label: str) -> tuple[float, str]:
    """To sort labels by: numbers by value and before any text."""
    try:
        value = float(label)
    except ValueError:
        value = np.inf
    return (value, "") if np.isfinite(value) else (np.inf, label)


def axes(frame: pd.DataFrame) -> tuple[str, ...]:
    """The axis columns, sorted."""
    return tuple(sorted(set(frame.columns) - {*COLUMNS, *OPTIONAL}))


def data_sets(frame: pd.DataFrame) -> tuple[str, ...]:
    """The data sets that were measured."""
    return tuple(sorted(set(frame.loc[frame["value"].notna(), "data"].dropna().unique())))


def _index(frame: pd.DataFrame) -> indices.Index:
    made = [name for name in (*MADE_FROM, *MADE_BY) if name in frame]
    return indices.index(frame, axes(frame), ["value", "n", "run_dir", "split", *made])


def _numbers(index: indices.Index, signature: str, measure: Measure) -> list[Record]:
    split = splits.named(measure.split, index.measured_on(signature, measure.evaluation))
    place = (measure.evaluation, split, measure.view, measure.subset, measure.metric)
    return index.numbers(signature, place)


def _run(head: Record, numbers: Sequence[Record]) -> Run:
    """One signature: its state, and its number unless the state says that it does not count."""
    reason = _line(head["reason"])
    value: float | None = None
    samples: int | None = None
    made_from: tuple[str, ...] = ()
    made_by: tuple[str, ...] = ()
    kept: tuple[tuple[str, str], ...] = ()
    if head["state"] == "DONE":
        if len(numbers) > 1:
            reason = f"has {len(numbers)} different values for the same number"
        elif not numbers or pd.isna(numbers[0]["value"]):
            reason = reason or "has no such number in its results"
        else:
            row = numbers[0]
            value = 100.0 * float(row["value"])
            samples = None if pd.isna(row["n"]) else int(row["n"])
            made_from = tuple("" if row[name] is None else str(row[name]) for name in MADE_FROM)
            made_by = tuple(str(row.get(name) or UNKNOWN) for name in MADE_BY)
            kept = ((str(row["run_dir"] or ""), str(row["split"])),)
    return Run(
        seed=int(head["seed"]),
        state=str(head["state"]),
        reason=reason,
        signatures=(str(head["signature"]),) if head["signature"] else (),
        made_from=made_from,
        value=value,
        samples=samples,
        data_seed=None if head.get("data_seed") is None else int(head["data_seed"]),
        made_by=made_by,
        kept=kept,
    )


def _without_replaced(heads: Sequence[Record]) -> list[Record]:
    """A stale run gives way to the run that the sweep asks for now."""
    current = {head["seed"] for head in heads if head["state"] != "STALE"}
    return [head for head in heads if head["state"] != "STALE" or head["seed"] not in current]


def _clash(heads: Sequence[Record], axes: Sequence[str]) -> str:
    """Two runs with the same labels and the same seed cannot both be the cell."""
    by_seed: dict[int, list[Record]] = {}
    for head in heads:
        by_seed.setdefault(int(head["seed"]), []).append(head)
    for seed, runs in sorted(by_seed.items()):
        if len(runs) > 1:
            varied = [axis for axis in axes if len({str(run[axis]) for run in runs}) > 1]
            if varied:
                names = " and ".join(varied) + (" also vary" if varied[1:] else " also varies")
                return f"not averaged: {names}; see the table of the sweep itself"
            names = ", ".join(sorted({str(run["signature"]) for run in runs}))
            return (
                f"not averaged: several runs have seed {seed} ({names}); they differ in the config"
            )
    return ""


def _mixed(runs: Sequence[Run]) -> str:
    measured = [run for run in runs if run.value is not None]
    if why := mixes.why_apart(measured):
        return f"not averaged: {why}"
    sizes = sorted({run.samples for run in measured if run.samples is not None})
    if len(sizes) > 1:
        return f"not averaged: the runs were measured on {' and '.join(map(str, sizes))} samples"
    return ""


def _paired(run: Run, reference: Run | None) -> Run:
    if reference is None:
        return Run(run.seed, run.state, "has no baseline with this seed", run.signatures)
    both = tuple(dict.fromkeys(run.signatures + reference.signatures))
    if run.value is None:
        return Run(run.seed, run.state, run.reason, run.signatures)
    if reference.value is None:
        reason = f"baseline {_why(reference)}"
        return Run(run.seed, "DONE", reason, both)
    if not mixes.same_data(run, reference):
        return Run(run.seed, "DONE", "baseline was measured on other data", both)
    value = run.value - reference.value
    kept = (*run.kept, *reference.kept)
    about = run.made_from, value, run.samples, run.data_seed, run.made_by, kept
    return Run(run.seed, run.state, "", both, *about)


def _why(run: Run) -> str:
    if run.state == "DONE":
        return run.reason or "has no number"
    return f"{run.state}: {run.reason}" if run.reason else run.state


def _line(text: object) -> str:
    """The first line of a reason, short enough for a footnote."""
    if text is None or (isinstance(text, float) and np.isnan(text)) or text is pd.NA:
        return ""
    lines = str(text).strip().splitlines()
    line = " ".join(lines[0].split()) if lines else ""
    return line if len(line) <= REASON_LENGTH else line[: REASON_LENGTH - 1] + "…"


def _seeds(seeds: Sequence[int]) -> str:
    return ("seed " if len(seeds) == 1 else "seeds ") + ", ".join(map(str, sorted(seeds)))
