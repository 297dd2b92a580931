"""A table as data; `reports.formats` renders it as Markdown, LaTeX, CSV, JSON and HTML.

A table module (`reports/tables/*.py`) makes a `Table` out of `Aggregate`s; `reports.build` writes
it. Every rendering shows the same cell strings. JSON adds what is behind each of them: the exact
value, the seeds, the signatures of the runs (`runs/<signature>/`) and the reason for a gap.

Rules that hold for every table: a gap is a dash with a footnote, never a number; a mean over fewer
seeds than the sweep asks for says so in the cell and is never bold; bold is a complete number that is told
apart from every other complete one of its column (`best`). Backbones are not compared: where they are the
rows' first label, each has a best of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import product
from typing import Literal

from reports import evidence
from reports.stats import Aggregate, difference

DASH = "—"
MINUS = "\N{MINUS SIGN}"
BACKBONE = "Backbone"
"""The label of the rows of one backbone each; see `best`."""
ARROWS = {"up": " ↑", "down": " ↓", "": ""}
OVER_SEEDS = (
    "Numbers are percent: mean ± sample standard deviation (ddof = 1) over runs that differ in "
    "the seed only (initial weights, data order, augmentation); a single seed has no ±."
)
IN_INTERVALS = (
    "Numbers are percent: mean [95 % interval], over runs that differ in the seed only and over the test samples; of a "
    "single seed over the samples. The standard deviations are in the JSON."
)
BOLD = (
    "Bold: told apart from every other row (of its backbone) in the column, paired by seed and sample, two-sided, at "
    "5 % with Holm's correction over all such comparisons of the table; never of one seed."
)
NO_RANK = "Shuffled alone ranks nothing: a model that is worse at everything is low there too."
OVER_PAIRS = (
    "Differences are paired: per seed, then mean ± sample standard deviation over the seeds."
)

Status = Literal["complete", "incomplete", "missing", "skipped", "published", "text"]


@dataclass(frozen=True)
class Unit:
    """How numbers are written."""

    name: str
    digits: int  # after the point
    percent: float  # how much of it one percent is: what `stats.Aggregate` has

    def written(self, value: float, *, signed: bool = False) -> str:
        """A minus sign instead of a hyphen, and no minus zero."""
        digits = f"{abs(value):.{self.digits}f}"
        if float(digits) == 0:
            return digits
        return (MINUS if value < 0 else "+" if signed else "") + digits


PERCENT, NATS = Unit("percent", 1, 1.0), Unit("nats", 2, 0.01)


@dataclass(frozen=True)
class TableCell:
    """One cell: the string that is shown, and everything that is behind it. Numbers are in its unit."""

    text: str
    status: Status
    value: float | None = None
    std: float | None = None
    n_seeds: int = 0
    n_expected: int = 0
    seeds: tuple[tuple[int, float], ...] = ()
    samples: int | None = None
    signatures: tuple[str, ...] = ()
    made_from: frozenset[tuple[str, ...]] = frozenset()  # data set, digest, provenance
    unit: Unit = PERCENT
    reason: str = ""
    published: str = ""  # where a published number was read
    change: bool = False  # a difference, which zero means something to
    number: Aggregate | None = field(default=None, repr=False, compare=False)  # what is behind it
    change_of: Aggregate | None = field(default=None, repr=False, compare=False)  # in its brackets

    @cached_property
    def estimate(self) -> evidence.Estimate | None:
        """How far the mean may be off, in percent. Looks at what runs kept, so only where it is asked for."""
        return None if self.number is None else evidence.estimate(self.number)

    @property
    def interval(self) -> tuple[float, float] | None:
        """95 %, in its unit."""
        if self.estimate is None:
            return None
        low, high = self.estimate.interval
        return low * self.unit.percent, high * self.unit.percent

    @property
    def hole(self) -> bool:
        """A number that should be there and is not, or not over all its seeds."""
        return self.status in ("incomplete", "missing")


@dataclass(frozen=True)
class Column:
    """One column; neighbours with the same `group` share a heading."""

    name: str
    group: str = ""
    better: Literal["up", "down", ""] = ""
    unit: Unit = PERCENT
    from_zero: bool = False  # a share of samples that may be all but none; see `at_floor`

    @property
    def heading(self) -> str:
        return self.name + ARROWS[self.better]

    @property
    def full_heading(self) -> str:
        return f"{self.group}: {self.heading}" if self.group else self.heading


@dataclass(frozen=True)
class Row:
    labels: tuple[str, ...]
    cells: tuple[TableCell, ...]


@dataclass(frozen=True)
class Table:
    """What a table module builds."""

    title: str
    caption: str
    labels: tuple[str, ...]
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()
    sweep: str = ""  # the one that it is of, if of one alone
    aside: bool = False  # too long for a page or a paper: in files alone

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row.labels) != len(self.labels) or len(row.cells) != len(self.columns):
                raise ValueError(
                    f"table {self.title!r}: row {row.labels} has {len(row.labels)} labels and "
                    f"{len(row.cells)} cells, the header {len(self.labels)} and {len(self.columns)}"
                )

    @property
    def groups(self) -> list[tuple[str, int]]:
        """Neighbouring columns of one group: (heading, how many)."""
        runs: list[tuple[str, int]] = []
        for column in self.columns:
            if runs and runs[-1][0] == column.group:
                runs[-1] = (column.group, runs[-1][1] + 1)
            else:
                runs.append((column.group, 1))
        return runs

    @cached_property
    def winners(self) -> frozenset[tuple[int, int]]:
        return _winners(self)

    @cached_property
    def p_values(self) -> Mapping[tuple[int, int], tuple[float, float]]:
        """(row, column) -> p of a difference that it is zero, by itself and among all of the table."""
        found = {
            (i, j): cell.estimate.p_value
            for i, row in enumerate(self.rows)
            for j, cell in enumerate(row.cells)
            if cell.change and cell.estimate
        }
        adjusted = evidence.holm(list(found.values()))
        return dict(zip(found, zip(found.values(), adjusted, strict=True), strict=True))

    @property
    def has_measured(self) -> bool:
        """Whether any number in it was measured here."""
        return any(cell.made_from for row in self.rows for cell in row.cells)

    @property
    def holes(self) -> tuple[tuple[str, str, str], ...]:
        """(row, column, reason) of every hole."""
        return tuple(
            (" ".join(row.labels), column.full_heading, cell.reason)
            for row in self.rows
            for column, cell in zip(self.columns, row.cells, strict=True)
            if cell.hole
        )


# --- cells -------------------------------------------------------------------------------------


def measured(
    number: Aggregate, *, not_run: str = "", signed: bool = False, unit: Unit = PERCENT
) -> TableCell:
    """The cell of an aggregate; `not_run` is the reason to give when no sweep asks for it."""
    mean, std = (None if n is None else n * unit.percent for n in (number.mean, number.std))
    n_seeds, n_expected = len(number.measured), len(number.expected)
    reason = number.reason or ("" if number.runs else not_run or "not run")
    status: Status
    if mean is None:
        string, status = DASH, "skipped" if number.skipped else "missing"
    else:
        string, status = unit.written(mean, signed=signed), "complete"
        if _in_intervals.get():
            string += _interval(number, unit)
        elif std is not None:
            string += f" ± {unit.written(std)}"
        if not number.complete:
            string, status = string + number.fraction, "incomplete"
    return TableCell(
        text=string,
        status=status,
        value=mean,
        std=std,
        n_seeds=n_seeds,
        n_expected=n_expected,
        seeds=tuple(
            (run.seed, run.value * unit.percent) for run in number.measured if run.value is not None
        ),
        samples=number.samples,
        signatures=number.signatures,
        made_from=number.made_from,
        unit=unit,
        reason=reason,
        change=signed,
        number=number,
    )


def with_change(cell: TableCell, change: Aggregate) -> TableCell:
    """The cell with its paired difference to a reference in brackets, as the paper's tables have it."""
    if cell.value is None or change.mean is None:
        return cell
    text = f"{cell.text} ({cell.unit.written(change.mean * cell.unit.percent, signed=True)})"
    return replace(cell, text=text, change_of=change)


def _interval(number: Aggregate, unit: Unit) -> str:
    found = evidence.estimate(number)
    if found is None:
        return ""
    low, high = (unit.written(end * unit.percent) for end in found.interval)
    return f" [{low}, {high}]"


_in_intervals: ContextVar[bool] = ContextVar("in_intervals", default=False)


@contextmanager
def in_intervals(shown: bool) -> Iterator[None]:
    """Meanwhile, cells show the 95 % interval of a mean instead of the deviation of its seeds."""
    token = _in_intervals.set(shown)
    try:
        yield
    finally:
        _in_intervals.reset(token)


def over_seeds() -> str:
    """What the numbers of a caption are, as they are shown."""
    return IN_INTERVALS if _in_intervals.get() else OVER_SEEDS


def published(value: float | None, source: str) -> TableCell:
    """The cell of a published number, or a dash where the sources give none."""
    if value is None:
        return TableCell(DASH, "published", published=source)
    return TableCell(percent(value), "published", value=value, published=source)


def seed_count(numbers: Sequence[Aggregate]) -> TableCell:
    """How many of the expected seeds are behind a row."""
    have = sorted({len(number.measured) for number in numbers})
    expected = max((len(number.expected) for number in numbers), default=0)
    if expected == 0:
        return TableCell(DASH, "text")
    return TableCell(f"{have[0]} of {expected}", "text")


def text(string: str) -> TableCell:
    """A cell that is no number, e.g. the reference row of a difference."""
    return TableCell(string, "text")


def percent(value: float, *, signed: bool = False) -> str:
    """One decimal."""
    return PERCENT.written(value, signed=signed)


# --- what all renderings share -----------------------------------------------------------------


def best(table: Table) -> frozenset[tuple[int, int]]:
    """(row, column) of each number that is complete, of several seeds, the best of its column among comparable rows
    and told apart from all others there (BOLD says how); none where the best is at the floor.
    """
    return table.winners


def _winners(table: Table) -> frozenset[tuple[int, int]]:
    tops: list[tuple[int, int]] = []
    against: list[list[float]] = []
    for rows, j in product(_comparable(table).values(), range(len(table.columns))):
        column = table.columns[j]
        cells = {i: table.rows[i].cells[j] for i in rows}
        values = {
            i: c.value for i, c in cells.items() if c.status == "complete" and c.value is not None
        }
        if not column.better or len(values) < 2 or _mixed(table, rows, j):
            continue
        if any(cell.change for cell in cells.values()):
            continue  # the same comparison as of the numbers themselves
        pick = max if column.better == "up" else min
        top = pick(values, key=lambda i: values[i])
        if not (column.from_zero and at_floor(cells[top])):
            tops.append((top, j))
            against.append([_p_apart(cells[top], cells[i]) for i in values if i != top])
    adjusted = iter(evidence.holm([p for found in against for p in found]))
    apart = [max(next(adjusted) for _ in found) < evidence.LEVEL for found in against]
    return frozenset(place for place, is_apart in zip(tops, apart, strict=True) if is_apart)


def _p_apart(cell: TableCell, other: TableCell) -> float:
    if cell.number is None or other.number is None or min(cell.n_seeds, other.n_seeds) < 2:
        return 1.0
    found = evidence.estimate(difference(cell.number, other.number))
    return 1.0 if found is None else found.p_value


def at_floor(cell: TableCell) -> bool:
    """Whether a share is so few samples, about three, that its normal interval at 95 % reaches 0: a model that
    gets one of 450 right is no better than one that gets none.
    """
    if cell.value is None or not cell.samples:
        return False
    share = cell.value / 100
    return share <= 1.96 * (share * (1 - share) / cell.samples) ** 0.5


def _comparable(table: Table) -> dict[str, list[int]]:
    """The rows that a best is looked for among: those of one backbone, or all (under ""). TimeSformer against
    X-ViT is no comparison of methods.
    """
    found: dict[str, list[int]] = {}
    for i, row in enumerate(table.rows):
        found.setdefault(row.labels[0] if table.labels[0] == BACKBONE else "", []).append(i)
    return found


def notes(table: Table) -> tuple[str, ...]:
    """The notes of the table, and those that follow from its cells."""
    extra = []
    cells = [cell for row in table.rows for cell in row.cells]
    if any(cell.status == "published" and cell.value is None for cell in cells):
        extra.append(f"A {DASH} for a published number: the sources give none.")
    # A column must not rank what is not comparable.
    ranked = [(j, column) for j, column in enumerate(table.columns) if column.better]
    blocks = _comparable(table)
    if any(_ranks(table, rows, j) for j, _ in ranked for rows in blocks.values()):
        extra.append(BOLD)
    mixed = [
        column.full_heading + (f" of {block}" if len(blocks) > 1 else "")
        for j, column in ranked
        for block, rows in blocks.items()
        if _mixed(table, rows, j)
    ]
    if mixed:
        extra.append(
            "The rows were measured on data made in different ways, so no best is marked in: "
            f"{', '.join(mixed)}."
        )
    low = [
        column.full_heading
        for j, column in ranked
        if column.from_zero and any(at_floor(row.cells[j]) for row in table.rows)
    ]
    if low:
        extra.append(
            f"In {', '.join(low)} a number of no more than about three samples is not told from none, and "
            "never the best."
        )
    return (*table.notes, *extra)


def _ranks(table: Table, rows: Sequence[int], column: int) -> bool:
    cells = [table.rows[i].cells[column] for i in rows]
    return sum(c.status == "complete" for c in cells) > 1 and not any(c.change for c in cells)


def _mixed(table: Table, rows: Sequence[int], column: int) -> bool:
    # several of one cell: each seed has data of its own
    cells = [table.rows[i].cells[column] for i in rows]
    return len({cell.made_from for cell in cells if cell.made_from}) > 1


def footnotes(table: Table) -> dict[str, str]:
    """Reason -> mark, in reading order."""
    reasons = dict.fromkeys(cell.reason for row in table.rows for cell in row.cells if cell.reason)
    return {reason: _letters(position) for position, reason in enumerate(reasons)}


def shown(cell: TableCell, marks: dict[str, str]) -> str:
    """The string of a cell, the same in every rendering."""
    return f"{cell.text} [{marks[cell.reason]}]" if cell.reason else cell.text


def _letters(position: int) -> str:
    """a, b, ... z, aa, ab, ..."""
    rest, letter = divmod(position, 26)
    return (_letters(rest - 1) if rest else "") + chr(ord("a") + letter)
