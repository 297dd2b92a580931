"""Markdown in which everything that comes from a file is inert: shown, never interpreted."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bench.export.numbers import Number
from bench.shown.inert import one_line
from bench.store.files import dump_yaml

_COLUMNS = ("split", "view", "subset", "metric", "value", "n", "n_failed")


def inert(text: object) -> str:
    """As code in a line, or in a cell of a table."""
    line = one_line(text).replace("|", "\\|")
    if not line:
        return "-"
    fence = "`"
    while fence in line:
        fence += "`"
    return f"{fence} {line} {fence}" if "`" in line else f"{fence}{line}{fence}"


def table(heads: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """Of cells that are inert."""
    rows = [heads, ["--"] * len(heads), *lines]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in rows)


def code_block(text: str, language: str = "") -> str:
    """Between fences that are longer than any in it."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"


def config_block(config: Mapping[str, Any]) -> str:
    return code_block(dump_yaml(config), "yaml")


def rows_table(rows: Iterable[Mapping[str, Any]]) -> str:
    """All rows of an evaluation, as they are."""
    return table(_COLUMNS, ([inert(row.get(name, 0)) for name in _COLUMNS] for row in rows))


def numbers_table(numbers: Iterable[Number]) -> str:
    """With chance level and interval in the line of the number that they belong to."""
    heads = (
        "split",
        "view",
        "subset",
        "metric",
        "value",
        "95 % interval",
        "chance",
        "n",
        "not decoded",
    )
    return table(heads, (_line(number) for number in numbers))


def _line(number: Number) -> list[str]:
    names = [inert(n) for n in (number.split, number.view, number.subset, number.metric)]
    ends = (number.low, number.high)
    interval = "-" if None in ends else " to ".join(f"{end:.4f}" for end in ends)
    chance = "-" if number.chance is None else f"{number.chance:.4f}"
    return [*names, f"{number.value:.4f}", interval, chance, str(number.n), str(number.n_failed)]
