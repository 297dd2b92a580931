"""`runs/<signature>/evaluations/<name>-<digest>/`: what one evaluation measured of what a run trained.

Its result is written last; that it exists means that the evaluation is through. Directories of runs that
were made when results of training and evaluations were one file hold the same names.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench.store.files import read_json


class EvaluationDir:
    """One evaluation's files."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)

    @property
    def result(self) -> Path:
        """{evaluation, version, options, input, data, data_digest, provenance, rows, failed, seconds,
        code, device}
        """
        return self.path / "result.json"

    @property
    def predictions(self) -> Path:
        return self.path / "predictions.parquet"

    @property
    def pictures(self) -> Path:
        """PNG files that it kept for the figures: <evaluation>/<name>.png"""
        return self.path / "pictures"

    def read_result(self) -> dict[str, Any] | None:
        return read_json(self.result)
