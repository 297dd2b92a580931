"""`runs/<signature>/evaluations/<name>-<digest>/`: what one evaluation measured of what a run trained.

Its result is written last; that it exists means that the evaluation is through. Directories of runs that
were made when results of training and evaluations were one file hold the same names.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.store.files import DamagedFile, sha256_of
from bench.store.result_files import Kind, read_result


class EvaluationDir:
    """One evaluation's files."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)

    @property
    def result(self) -> Path:
        """{evaluation, version, options, input, data, data_digest, provenance, weights, rows, failed,
        seconds, code, device, files}; `files` are those beside it, with their SHA-256.
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
        """None where it is not through. Raises DamagedFile."""
        return read_result(self.result, Kind.EVALUATION)

    def files_beside(self) -> dict[str, str]:
        """What the result says was kept beside it, by path in the folder -> SHA-256. The result of a model
        without a run is not in the folder, but named like it. Raises DamagedFile.
        """
        if self.path.parent.name == "evaluations":
            found = self.read_result()
        else:
            found = read_result(self.path.parent / f"{self.path.name}.json", Kind.MODEL)
        return dict((found or {}).get("files", {}))

    def refuse_damage(self, file: Path, digests: Mapping[str, str] | None = None) -> None:
        """Raises DamagedFile where a file is not what `files_beside` says; `digests`: that, read before."""
        if digests is None:
            digests = self.files_beside()
        known = digests.get(file.relative_to(self.path).as_posix())
        if known is not None and sha256_of(file) != known:
            raise DamagedFile(
                file, "is not what was written (its SHA-256 is not that in the result)"
            )
