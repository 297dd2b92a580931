"""One setting of the results -> all its tables and figures, made by the components of `reports/tables/` and
`reports/figures/`. Between `reports.settings` and `reports.written`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import pandas as pd
from matplotlib.figure import Figure

from bench import find, results
from bench.store.files import DamagedFile
from reports import damage, figure_data, mixes, page, published, stats, style, table
from reports.asked import noting
from reports.contracts import FigureModule, TableModule
from reports.settings import Setting

FIGURE_FORMATS = ("pdf", "png")


def ordered(kind: str) -> list[str]:
    """Every component of a kind ("table", "figure"), by its ORDER and then its name.

    A broken file is never skipped. Raises InvalidComponent.
    """
    return sorted(find.names(kind), key=lambda name: (find.optional(kind, name, "ORDER"), name))


def report(setting: Setting, tables: Sequence[str], figures: Sequence[str]) -> page.Report:
    built = [item for name in tables for item in _tables(name, setting)]
    drawn = [item for name in figures for item in _figures(name, setting)]
    if not setting.has_sweeps:  # a gap in what nobody planned is no news
        built = [item for item in built if item.table.has_measured]
        drawn = [item for item in drawn if item.files]
    return page.Report(
        folder=setting.folder,
        title=setting.title,
        frame=setting.frame,
        tables=tuple(built),
        figures=tuple(drawn),
        headline=tuple(tile for name in tables for tile in _headline(name, setting)),
    )


def _tables(name: str, setting: Setting) -> Iterator[page.BuiltTable]:
    module: TableModule = find.load("table", name)
    try:
        with noting() as asked:
            built = module.build(setting.frame)
        several = built if isinstance(built, Mapping) else {name: built}
        if wrong := [item for item in several.values() if not isinstance(item, table.Table)]:
            raise ValueError(f"build must return a Table, or several by name, not {wrong[0]!r}")
    except DamagedFile as error:  # of what one run kept; the other tables stand
        damage.note(error)
        title = name.replace("_", " ").capitalize()
        several = {name: table.Table(title, "", (), (), (), (f"Not built: {error}",))}
        asked = []
    except Exception as error:
        error.add_note(f"while building the table {name!r} for {setting.folder}")
        raise
    of_mixes = mixes.notes(asked)
    for part, item in several.items():
        item = published.shown_in(item, stats.data_sets(setting.frame))
        caption = item.caption.replace(table.OVER_SEEDS, table.over_seeds())
        item = replace(item, caption=caption, notes=(*item.notes, *of_mixes))
        yield page.BuiltTable(part, item, find.optional("table", name, "SUMMARY"))


def _headline(name: str, setting: Setting) -> tuple[tuple[str, str, str], ...]:
    headline = find.optional("table", name, "headline")
    return tuple(headline(setting.frame)) if headline else ()


def _figures(name: str, setting: Setting) -> Iterator[page.BuiltFigure]:
    title = find.optional("figure", name, "TITLE") or name.replace("_", " ").capitalize()
    parts = find.optional("figure", name, "parts")
    several = parts(setting.frame) if parts else {name: (title, setting.frame)}
    for part, (heading, frame) in several.items():
        yield _figure(name, part, heading, frame, setting.folder)


def _figure(name: str, part: str, title: str, frame: pd.DataFrame, folder: str) -> page.BuiltFigure:
    module: FigureModule = find.load("figure", name)
    with style.applied():
        figure = Figure()
        try:
            with noting() as asked:
                caption = module.draw(frame, figure)
        except (DamagedFile, results.OnlyNumbers) as error:
            # what it shows of one run; the numbers of the others stand
            if isinstance(error, DamagedFile):
                damage.note(error)
            figure, caption = Figure(), f"Not drawn: {error}"
        except Exception as error:
            error.add_note(f"while drawing the figure {part!r} for {folder}")
            raise
        drawn, inches = bool(figure.axes), float(figure.get_size_inches()[0])
        files = {form: style.render(figure, form) for form in FIGURE_FORMATS} if drawn else {}
    if drawn:
        data = find.optional("figure", name, "data")
        numbers = data(frame) if data else figure_data.of_aggregates(asked)
        files |= figure_data.files(numbers)
    return page.BuiltFigure(part, title, caption or "", files, inches)
