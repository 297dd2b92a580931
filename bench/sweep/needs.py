"""What the cells of a sweep need on disk: what is missing, and what is made first."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from bench import find
from bench.config.mistakes import cut
from bench.config.science import Component
from bench.grid.plan import Cell
from bench.store import places
from bench.sweep.status import CellStatus


def missing_files(cells: Iterable[Cell]) -> dict[str, str]:
    """Data and weights that this machine lacks and the suite cannot make: {what: what to do}."""
    found: dict[tuple[str, ...], str | None] = {}
    for cell in cells:
        data, model, places = cell.config.data, cell.config.model, cell.resources
        key: tuple[str, ...] = data.name, places.data_dir, repr(data.config)
        if key not in found:
            found[key] = _missing("source", data, Path(places.data_dir))
        key = f"{model.name} {getattr(model.config, 'init', None)}", places.weights_dir
        if key not in found and cell.config.parent is None:
            found[key] = _missing("backbone", model, Path(places.weights_dir))
    # Several backbones can lack the same file: said once.
    by_text: dict[str, str] = {}
    for (name, *_), text in found.items():
        if text:
            by_text.setdefault(text, name)
    return {name: text for text, name in by_text.items()}


def _missing(kind: str, part: Component, folder: Path) -> str | None:
    missing = find.optional(kind, part.name, "missing")
    try:
        return missing and missing(part.config, folder)
    except OSError as error:  # the name of a folder or of weights that no disk has
        return f"cannot be looked for in {cut(str(folder))}: {error.strerror}"


def prepare_data(chosen: list[CellStatus]) -> None:
    """Make built-in data once, before cells would wait for one another to make it. Raises ValueError."""
    wanted = {}
    for s in chosen:
        data, folder = s.cell.config.data, s.cell.resources.data_dir
        wanted[f"{folder} {data!r}"] = data, folder
    for data, folder in wanted.values():
        if prepare := find.optional("source", data.name, "prepare"):
            try:
                prepare(data.config, Path(folder))
            except OSError as error:
                problem = places.unwritable(Path(folder)) or str(error)
                raise ValueError(
                    f"resources.data_dir: {data.name} is not there yet and cannot be made: {problem}"
                ) from error
