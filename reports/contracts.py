"""The contracts of tables and figures: what a file in `reports/tables/` or `reports/figures/` offers.

As `bench.task.modules`, which says how to read them, is for the components of the engine; they stand
here because they speak of `reports.table`, and because importing `bench.task` would import torch.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from typing import Protocol

import pandas as pd
from matplotlib.figure import Figure

from reports import table


class TableModule(Protocol):
    """A table of the report: `reports/tables/<name>.py`."""

    ORDER: int = 1000
    """Its place on the page; equal ones stand by name."""
    SUMMARY: bool = False
    """Whether it is shown in the terminal after a build."""

    @abstractmethod
    def build(self, frame: pd.DataFrame) -> table.Table | Mapping[str, table.Table]:
        """The table of `bench.results.load(...)`, one row per number, or, where it depends on the results how many
        there are, each by the name of its files. A number that is missing is a dash with a reason.
        """

    def headline(self, frame: pd.DataFrame) -> Iterable[tuple[str, str, str]]:
        """(what, number, explanation) for the top of the page. Without it: nothing there."""


class FigureModule(Protocol):
    """A figure of the report: `reports/figures/<name>.py`."""

    ORDER: int = 1000
    """Its place on the page; equal ones stand by name."""
    TITLE: str = ""
    """Its heading. Without it the name of the file."""

    @abstractmethod
    def draw(self, frame: pd.DataFrame, figure: Figure) -> str | None:
        """Draw into the figure and return the caption. A figure without axes had nothing to draw."""

    def parts(self, frame: pd.DataFrame) -> Mapping[str, tuple[str, pd.DataFrame]]:
        """Of a figure that is drawn several times: by the name of its files the heading, and the rows that `draw`
        gets. Without it: once, of all rows.
        """

    def data(self, frame: pd.DataFrame) -> pd.DataFrame:
        """The numbers that are drawn, one row each, for the files beside the picture. Without it:
        those that `draw` asked `stats.aggregate` for.
        """
