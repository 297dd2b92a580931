"""`index.html`: one page with every table, figure, state and gap of a report.

`reports.build` hands over what it built, one `Report` per setting; `templates/page.html` lays it
out. The page loads nothing: figures are inside it, and it reads in light and dark.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
from markupsafe import Markup
from PIL import Image

from bench.shown.inert import printable
from reports import browse, formats, hypertext, stats, table
from reports.index import distinct

TEMPLATES = Path(__file__).parent / "templates"
STATES = (
    "DONE", "TRAINED", "RUNNING", "PENDING", "NEW", "PREEMPTED", "INTERRUPTED", "PRUNED", "STALE",
    "EDITED", "DAMAGED", "FAILED", "SKIPPED",
)  # fmt: skip


@dataclass(frozen=True)
class BuiltTable:
    name: str
    table: table.Table
    summary: bool

    @property
    def sweep(self) -> str:
        """The one whose own table it is."""
        return self.table.sweep

    @property
    def html(self) -> Markup:
        return Markup(hypertext.html(self.table, self.name))


@dataclass(frozen=True)
class BuiltFigure:
    name: str
    title: str
    caption: str
    files: Mapping[str, bytes]  # by format; empty when there was nothing to draw
    inches: float = 0.0  # width in print

    @property
    def pixels(self) -> int:
        """Width on the page, where a figure's text is about as large as the page's."""
        return round(140 * self.inches)

    @property
    def source(self) -> str:
        """The picture as a data URL, without loss and smaller than the PNG."""
        smaller = io.BytesIO()
        with Image.open(io.BytesIO(self.files["png"])) as picture:
            picture.convert("RGB").save(smaller, "webp", lossless=True, quality=60, method=4)
        return "data:image/webp;base64," + base64.b64encode(smaller.getvalue()).decode()


@dataclass(frozen=True)
class GridRun:
    """One cell of the grid at one seed."""

    seed: int
    state: str
    reason: str
    signature: str


@dataclass(frozen=True)
class GridRow:
    sweep: str
    label: str
    runs: Mapping[int, tuple[GridRun, ...]]


@dataclass(frozen=True)
class Origin:
    """One way in which measured data was made, and what was measured on it."""

    data: str
    digest: str
    provenance: str
    evaluations: str
    runs: int


@dataclass(frozen=True)
class Report:
    """Everything that was built for one setting."""

    folder: str
    title: str
    frame: pd.DataFrame
    tables: tuple[BuiltTable, ...]
    figures: tuple[BuiltFigure, ...]
    headline: tuple[tuple[str, str, str], ...]

    @property
    def filled(self) -> list[BuiltTable]:
        return [item for item in self.tables if item.table.rows and not item.table.aside]

    @property
    def beside(self) -> list[BuiltTable]:
        """What is too long for the page."""
        return [item for item in self.tables if item.table.rows and item.table.aside]

    @property
    def not_filled(self) -> list[BuiltTable]:
        return [item for item in self.tables if not item.table.rows]

    @property
    def drawn(self) -> list[BuiltFigure]:
        return [figure for figure in self.figures if figure.files]

    @property
    def not_drawn(self) -> list[BuiltFigure]:
        return [figure for figure in self.figures if not figure.files]

    @cached_property
    def runs(self) -> pd.DataFrame:
        """One row per run and sweep."""
        names = ["sweep", *stats.axes(self.frame), "seed", "signature", "state", "reason"]
        runs = distinct(self.frame, names).astype({"state": str, "sweep": str, "signature": str})
        return runs.sort_values(["sweep", "seed", "signature"]).reset_index(drop=True)

    @property
    def tally(self) -> list[tuple[str, int]]:
        """How many runs are in each state; a run that serves two sweeps counts once."""
        # A skipped cell may have no signature; its labels then tell it apart.
        names = self.runs["signature"].where(self.runs["signature"] != "", self.runs.index)
        once = self.runs[~names.duplicated()]
        counts = once["state"].value_counts()
        order = [*STATES, *sorted(set(counts.index) - set(STATES))]
        return [(state, int(counts[state])) for state in order if state in counts.index]

    @property
    def data(self) -> str:
        return ", ".join(stats.data_sets(self.frame)) or "nothing measured yet"

    @cached_property
    def told(self) -> dict[str, Any]:
        """Of each run, what it can be asked."""
        return browse.runs(self.frame)

    @cached_property
    def made(self) -> list[tuple[str, str]]:
        """By what, when and in which time."""
        return browse.made(self.told)

    @cached_property
    def holes(self) -> list[tuple[str, str, str, str]]:
        """(table, row, column, reason) of every missing or incomplete number."""
        return [
            (item.table.title, *hole)
            for item in self.tables
            if not item.table.aside  # what is missing there is missing in a table beside it too
            for hole in item.table.holes
        ]

    @property
    def holes_by_reason(self) -> list[tuple[str, list[str]]]:
        """Each reason once, with the places it explains."""
        places: dict[str, list[str]] = {}
        for title, row, column, reason in self.holes:
            places.setdefault(reason, []).append(f"{title}: {row}, {column}")
        return list(places.items())

    @cached_property
    def seeds(self) -> list[int]:
        return sorted(map(int, self.runs["seed"].unique()))

    @property
    def grid(self) -> list[GridRow]:
        """The cells of the grid by seed, in the order of the tables."""
        names = stats.axes(self.frame)
        rows: dict[tuple[str, ...], list[GridRun]] = {}
        for run in self.runs.to_dict("records"):
            cell = (str(run["sweep"]), *("" if pd.isna(run[n]) else str(run[n]) for n in names))
            rows.setdefault(cell, []).append(
                GridRun(int(run["seed"]), run["state"], run["reason"], run["signature"])
            )
        return [
            GridRow(
                sweep=cell[0],
                label=" · ".join(label for label in cell[1:] if label),
                runs={
                    seed: tuple(run for run in rows[cell] if run.seed == seed)
                    for seed in self.seeds
                },
            )
            for cell in sorted(rows, key=_rank)
        ]

    @property
    def origins(self) -> list[Origin]:
        measured = self.frame[self.frame["value"].notna()]
        measured = measured.fillna(dict.fromkeys(stats.MADE_FROM, ""))
        return [
            Origin(
                str(data),
                str(digest),
                str(provenance),
                ", ".join(sorted(set(part["evaluation"]))),
                part["signature"].nunique(),
            )
            for (data, digest, provenance), part in measured.groupby(list(stats.MADE_FROM))
        ]


def _printable(value: object) -> object:
    """What a template shows, as it is on a terminal; markup is made of such text already."""
    return value if isinstance(value, Markup) or not isinstance(value, str) else printable(value)


def render(
    reports: Sequence[Report], damaged: Sequence[tuple[str, str]] = (), mixed: Sequence[str] = ()
) -> str:
    """The whole page. `damaged`: path and reason of each file that was left out; `mixed`: what stands in one
    table and was made by different code or on different devices.
    """
    environment = jinja2.Environment(
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        finalize=_printable,
    )
    page, css, script = (
        (TEMPLATES / f"page.{kind}").read_text(encoding="utf-8") for kind in ("html", "css", "js")
    )
    return (
        environment.from_string(page).render(
            reports=reports,
            damaged=damaged,
            mixed=mixed,
            formats=list(formats.FORMATS),
            css=Markup(css),
            script=Markup(script),
            told=Markup(browse.embedded({k: v for r in reports for k, v in r.told.items()})),
        )
        + "\n"
    )


def _rank(cell: tuple[str, ...]) -> tuple[tuple[int, float, str], ...]:
    """Known backbones and methods in their own order, then numbers, then text."""
    known = (*stats.BACKBONES, *stats.METHODS)
    return tuple(
        (known.index(label) if label in known else len(known), *stats.natural(label))
        for label in cell
    )
