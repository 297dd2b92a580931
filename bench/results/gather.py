"""Folders of runs -> one file of rows (`rows_file`): every row of `merged`, of each run how it was made, of
each evaluation what was asked, and the searches. Names of machines and of folders on them stay out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from bench.results import correct
from bench.results.kept import subsets
from bench.results.rows import EVALUATED, merged
from bench.results.rows_file import RowsFile
from bench.results.searches import search
from bench.store.evaluations import EvaluationDir
from bench.store.files import DamagedFile, read_json_if_sound
from bench.store.result_files import Kind, read_result
from bench.store.rundir import RunDir

OF_ENVIRONMENT = ("code", "versions", "device", "started", "deterministic")
OF_TRAINING = ("code", "device", "seconds", "parameters", "weights", "started_from")
OF_EVALUATION = (
    "evaluation", "version", "options", "input", "code", "device", "seconds", "weights", "official", "limit",
)  # fmt: skip

TUNE = "tune"


def gather(folders: Sequence[Path]) -> RowsFile:
    """Raises ValueError where there is nothing to write down."""
    frame = merged(folders)
    if frame.empty:
        raise ValueError(f"no runs in {', '.join(map(str, folders))}")
    places = _places(folders)
    names = {run_dir: _name(Path(run_dir), places) for run_dir in frame["run_dir"].unique()}
    facts: dict[str, dict[str, Any]] = {}
    for run_dir, name in names.items():
        if "/" in name:  # a cell that was skipped may have no directory
            facts |= dict(_facts(Path(run_dir), name))
    studies = {number: search(folder) for folder, number in places.items()}
    return RowsFile(
        frame.assign(run_dir=frame["run_dir"].astype(str).map(names)),
        facts,
        {number: found for number, found in studies.items() if found},
    )


def _places(folders: Sequence[Path]) -> dict[Path, str]:
    """Folder -> its number in the file, in the order of their names, which rows are sorted by."""
    found = sorted(set(map(Path, folders)))
    return {folder: f"{k:0{len(str(len(found) - 1))}}" for k, folder in enumerate(found)}


def _name(run_dir: Path, places: Mapping[Path, str]) -> str:
    """Its path in the file; of folders within each other the inner one counts."""
    above = [folder for folder in places if run_dir.is_relative_to(folder)]
    folder = max(above, key=lambda path: len(path.parts))
    return (Path(places[folder]) / run_dir.relative_to(folder)).as_posix()


def _facts(run_dir: Path, name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Of an evaluation and its run, of a run of before these had folders, or of a model without a run."""
    if run_dir.parent.name == "evaluations":
        yield name, _of_evaluation(EvaluationDir(run_dir))
        yield str(Path(name).parents[1]), of_run(RunDir(run_dir.parents[1]))
    elif run_dir.parent.name == EVALUATED:
        found = read_result(run_dir.with_name(f"{run_dir.name}.json"), Kind.MODEL) or {}
        yield name, _of_evaluation(EvaluationDir(run_dir), found)
    elif (run := RunDir(run_dir)).config.exists():
        yield name, {**of_run(run), **_beside(EvaluationDir(run_dir))}


def of_run(run: RunDir) -> dict[str, Any]:
    """Its config, code, device, and when and for how long it trained, as far as they can be read."""
    facts = _chosen(read_json_if_sound(run.env), OF_ENVIRONMENT)
    with suppress(DamagedFile):  # which its row says
        facts |= _chosen(run.read_result() or {}, OF_TRAINING)
    with suppress(DamagedFile):
        facts["config"] = run.read_config()
    return facts


def _of_evaluation(folder: EvaluationDir, found: Mapping[str, Any] | None = None) -> dict[str, Any]:
    if found is None:
        found = folder.read_result() or {}
    return {**_chosen(found, OF_EVALUATION), **_beside(folder)}


def _beside(folder: EvaluationDir) -> dict[str, Any]:
    """What was kept beside the numbers and is not in the file: whoever asks for it hears so."""
    pictures = sorted(
        {p.relative_to(folder.pictures).parts[0] for p in folder.pictures.rglob("*.png")}
    )
    beside = {"pictures": pictures, "predictions": folder.predictions.exists()}
    right = {
        place: of for place, of in correct.correct_samples(folder.path).items() if place[0] != TUNE
    }
    if right:
        beside[correct.FACT] = correct.packed(right)
    with suppress(DamagedFile):  # which `bench.results --verify` says
        beside |= {"subsets": found} if (found := subsets(folder.path)) else {}
    return beside


def _chosen(found: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    return {name: found[name] for name in names if name in found}
