"""The runs and results that a command names -> records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.config.mistakes import Mistake
from bench.export.record import EvaluatedRecord, Record, RunRecord, identity, refuse_holes
from bench.store.files import DamagedFile
from bench.store.result_files import Kind, read_result
from bench.store.rundir import RunDir, evaluated_path


def records(
    names: Sequence[str], runs: Path, mistakes: list[Mistake], *, follow: bool = False
) -> list[Record]:
    """One of each run, and one of each model that was measured without a run, whose results may be several.
    What is wrong is added to the mistakes.
    """
    found: list[Record] = []
    results: dict[str, dict[Path, Mapping[str, Any]]] = {}
    for path in dict.fromkeys(_path(name, runs) for name in names):
        try:
            if path.is_dir():
                found.append(RunRecord(RunDir(path), follow=follow))
            else:
                result = _result(path)
                results.setdefault(identity(result), {})[path] = result
        except ValueError as error:
            mistakes.append(Mistake((), str(error)))
    found += [EvaluatedRecord(group) for group in results.values()]
    names = [record.name for record in found]
    for name in dict.fromkeys(name for name in names if names.count(name) > 1):
        mistakes.append(
            Mistake((), f"{name} is named twice: give each of them an --out of its own")
        )
    return found


def _path(name: str, runs: Path) -> Path:
    """As named, or of this signature or slug among the runs."""
    places = (Path(name), runs / name, evaluated_path(runs, name))
    return next((place.resolve() for place in places if place.exists()), Path(name))


def _result(path: Path) -> Mapping[str, Any]:
    """Of bench.evaluate. ValueError for any other file."""
    if not path.exists():
        raise ValueError(
            f"{path}: no run directory, no signature of a run and no result of bench.evaluate; "
            "--runs says where signatures are looked up"
        )
    try:
        result = read_result(path, Kind.MODEL) or {}
    except DamagedFile as error:
        raise ValueError(f"{error}; evaluate the model again") from error
    refuse_holes(path, result)
    return result
