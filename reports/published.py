"""The published numbers of `published.yaml`, found by (table, backbone, method, column).

Used by the table modules, which put them in a column of their own beside the measured numbers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from ruamel.yaml import YAML

from reports.manifest import PUBLISHED
from reports.table import Row, Table

PATH = Path(__file__).with_name("published.yaml")
ANY_BACKBONE = "*"


@dataclass(frozen=True)
class Checkpoint:
    """A file that was released with published numbers."""

    backbone: str
    method: str
    file: str
    sha256: str  # or its first digits, where no more are known

    def is_file(self, sha256: str) -> bool:
        """Whether this is the SHA-256 of the file, as far as that is known."""
        return len(sha256) >= len(self.sha256) and sha256.lower().startswith(self.sha256)

    def is_named(self, model: str) -> bool:
        """Whether a model of this name claims to be the file: by the file's name, or by what it is."""
        names = (self.file, Path(self.file).stem, f"{self.backbone} {self.method}")
        return _plain(model) in map(_plain, names)


@dataclass(frozen=True)
class Published:
    """One published table."""

    source: str
    data: str
    scale: str
    setup: str
    values: Mapping[str, Mapping[str, Mapping[str, float]]]
    checkpoints: tuple[Checkpoint, ...] = ()

    def number(self, backbone: str, method: str, column: str) -> float | None:
        """Percent as printed, or None where the sources give no number."""
        methods = self.values.get(backbone, self.values.get(ANY_BACKBONE, {}))
        return methods.get(method, {}).get(column)

    def compares(self, data: Iterable[str], scales: Iterable[str]) -> bool:
        """Whether a number that was measured on this, at this size, is what the published one is."""
        return set(data) == {self.data} and set(map(str, scales)) == {self.scale}

    def notes(
        self, data: Iterable[str], scales: Iterable[str], where: str = "Columns 'paper'"
    ) -> tuple[str, ...]:
        """Where the published numbers come from, and whether the measured ones compare with them.

        `where` says where in the table they stand. Without `scales` the size of models and
        training is not compared.
        """
        measured, sizes = sorted(set(data)), sorted(set(scales))
        notes = [f"{where}: {self.source} ({self.setup})."]
        if foreign := [name for name in measured if name != self.data]:
            notes.append(
                f"Measured and published numbers are not comparable: measured on {', '.join(foreign)}, "
                f"published on {self.data}; only the direction of an effect can agree."
            )
        elif measured and sizes and sizes != [self.scale]:
            notes.append(
                f"Measured and published numbers share the data set but not the set-up: measured at "
                f"scale {', '.join(sizes)}, the published one is scale {self.scale}."
            )
        return tuple(notes)


BUILT_IN = ("mini_ssv2", "mini_imagenet9")
_OF_PUBLISHED = ("Columns 'paper'", "Measured and published numbers", "A — for a published number")
_NOT_SHOWN = "The published numbers, of other data, are not shown; --published always shows them."


_choice: ContextVar[str] = ContextVar("published", default=PUBLISHED[0])


@contextmanager
def choosing(choice: str) -> Iterator[None]:
    """Meanwhile, tables show published numbers as this one of PUBLISHED says."""
    token = _choice.set(choice)
    try:
        yield
    finally:
        _choice.reset(token)


def shown_in(built: Table, data: Iterable[str]) -> Table:
    """A table with or without its columns of published numbers: nobody may compare those with what was measured on
    built-in data, and they take a third of the width.
    """
    choice = _choice.get()
    if choice == "always" or (choice == "auto" and not set(data) <= set(BUILT_IN)):
        return built
    columns = range(len(built.columns))
    kept = [
        j
        for j in columns
        if not built.rows or any(r.cells[j].status != "published" for r in built.rows)
    ]
    if len(kept) == len(built.columns):
        return built
    notes = [note for note in built.notes if not note.startswith(_OF_PUBLISHED)]
    return replace(
        built,
        columns=tuple(built.columns[j] for j in kept),
        rows=tuple(Row(row.labels, tuple(row.cells[j] for j in kept)) for row in built.rows),
        notes=(_NOT_SHOWN, *notes),
    )


@cache
def table(name: str) -> Published:
    """One table of `published.yaml`. Raises ValueError for an unknown name."""
    tables = YAML(typ="safe").load(PATH.read_text(encoding="utf-8"))
    if name not in tables:
        raise ValueError(f"{PATH.name} has no table {name!r}; it has {', '.join(sorted(tables))}")
    entry = tables[name]
    return Published(
        source=entry["source"],
        data=entry["data"],
        scale=str(entry["scale"]),
        setup=entry["setup"],
        values={
            str(backbone): {
                str(method): {str(column): float(value) for column, value in columns.items()}
                for method, columns in methods.items()
            }
            for backbone, methods in entry["values"].items()
        },
        checkpoints=tuple(
            Checkpoint(str(backbone), str(method), str(found["file"]), str(found["sha256"]))
            for backbone, methods in entry.get("checkpoints", {}).items()
            for method, found in methods.items()
        ),
    )


def _plain(name: str) -> str:
    """A name without case, spaces and punctuation."""
    return "".join(character for character in name.casefold() if character.isalnum())
