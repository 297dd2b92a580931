"""Whether an archive is what was written: every file that a number rests on, read once and compared with
the digest that was kept of it. Nothing is changed.

Configs and results have seals of their own, checkpoints too; a result names the predictions and pictures
beside it and the weights that it is of. Numbers are counted again from the predictions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench import find
from bench.results import recount
from bench.results.kept import predictions
from bench.store.evaluations import EvaluationDir
from bench.store.files import DamagedFile
from bench.store.result_files import Kind, read_result, read_with_seal
from bench.store.rundir import RunDir, evaluated_path, manifests
from bench.store.sealed import flaw

ACCURACIES = (*recount.ACCURACIES, "top1_macro", *recount.OF_LOGITS)
DRAW = r"^shuffled_\d+$"
"""The view of one permutation; rows are of all of them."""
REMEDY = {
    "config": "`bench.sweep --force` runs it afresh",
    "result": "the sweep's command makes it again",
    "metrics": "no number of a table is of it; `bench.sweep --force` trains the run again",
    "kept": "delete the result beside it and run the same again: only this is measured anew",
    "checkpoint": "put a copy of it back, or train again: `bench.sweep --retrain`",
    "model": "delete it, or evaluate the model again",
    "manifest": "run the sweep again",
    "search": "`bench.tune` writes it again",
}


@dataclass(frozen=True)
class Problem:
    """One file that is not what was written, or does not fit what is beside it."""

    path: Path
    why: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.path} {self.why}\n  {self.remedy}"


@dataclass
class Verified:
    """`counts`: of what was looked at; `unsealed`: results of before there were seals."""

    counts: Counter[str] = field(default_factory=Counter)
    unsealed: int = 0
    problems: list[Problem] = field(default_factory=list)

    def note(self, error: DamagedFile, remedy: str) -> None:
        self.problems.append(Problem(error.path, error.why, REMEDY[remedy]))

    def __str__(self) -> str:
        counted = ", ".join(f"{n} {what}" for what, n in self.counts.items() if n) or "nothing"
        state = f"{len(self.problems)} problem(s)" if self.problems else "all as written"
        lines = [*map(str, self.problems), f"{counted}: {state}"]
        if self.unsealed:
            lines.append(
                f"{self.unsealed} result(s) are of before there were seals: only their shape was looked at"
            )
        return "\n".join(lines)


def verify(runs: Path) -> Verified:
    """All of a folder of runs."""
    found = Verified()
    for path in sorted(runs.glob("*/config.yaml")):
        _verify_run(RunDir(path.parent), found)
    for path in sorted(evaluated_path(runs, "x").parent.glob("*.json")):
        _verify_result(path, Kind.MODEL, found)
    for kind, paths in ((Kind.MANIFEST, manifests(runs)), (Kind.SEARCH, _searches(runs))):
        name = kind.name.lower()
        for path in paths:
            found.counts[{"manifest": "sweeps", "search": "searches"}[name]] += 1
            try:
                read_result(path, kind)
            except DamagedFile as error:
                found.note(error, name)
    return found


def check(files: Iterable[Path]) -> Verified:
    """Results of `bench.evaluate`, wherever they lie: they, what is in the folders of their names, and
    whether this suite has their evaluations in the same version.
    """
    found = Verified()
    for path in files:
        before = len(found.problems)
        if not path.is_file():
            found.note(DamagedFile(path, "is no file"), "model")
            continue
        result = _verify_result(path, Kind.MODEL, found)
        if result is not None and len(found.problems) == before:
            found.problems += _other_version(path, result)
    return found


def _other_version(path: Path, result: Mapping[str, Any]) -> Iterator[Problem]:
    name, version = result["evaluation"], result.get("version", 1)
    try:
        here = find.load("evaluation", name).VERSION
    except find.UnknownComponent as error:
        why = f"is of an evaluation that is not known here: {error}"
        yield Problem(path, why, "--components names it")
        return
    if version != here:
        why = f"is of version {version} of {name}, here is version {here}: never compare their numbers"
        yield Problem(path, why, "evaluate the model again, or compare within one version")


def _searches(runs: Path) -> list[Path]:
    return sorted((runs / "tune").glob("*/trials.json"))


def _verify_run(run: RunDir, found: Verified) -> None:
    found.counts["runs"] += 1
    try:
        run.read_config()
    except DamagedFile as error:
        found.note(error, "config")
    trained = _verify_result(run.result, Kind.TRAINING, found)
    for folder in sorted(run.evaluations.glob("*/result.json")):
        result = _verify_result(folder, Kind.EVALUATION, found)
        weights = [one["weights"] for one in (trained, result) if one and one.get("weights")]
        if len(set(weights)) > 1:
            found.note(DamagedFile(folder, "is of other weights than the run's"), "result")
    try:
        run.refuse_metrics()
    except DamagedFile as error:
        if error.path != run.result:  # which was noted
            found.note(error, "metrics")
    for path in sorted(run.last.parent.glob("*.pt")):
        _verify_checkpoint(path, found)


def _verify_checkpoint(path: Path, found: Verified) -> None:
    found.counts["checkpoints"] += 1
    try:
        with path.open("rb") as file:
            why = flaw(file)
    except OSError as error:
        why = f"cannot be read ({error.strerror})"
    if why:
        found.note(DamagedFile(path, f"is damaged: {why}"), "checkpoint")


def _verify_result(path: Path, kind: Kind, found: Verified) -> dict[str, Any] | None:
    try:
        result, sealed = read_with_seal(path, kind)
    except DamagedFile as error:
        found.note(error, "model" if kind == Kind.MODEL else "result")
        return None
    if result is None:
        return None
    found.unsealed += not sealed
    found.counts["evaluated models" if kind == Kind.MODEL else "results"] += 1
    folder = EvaluationDir(path.with_name(path.stem) if kind == Kind.MODEL else path.parent)
    # one that was sent alone lacks its folder
    for lost in _beside(folder, result) if folder.path.is_dir() or kind != Kind.MODEL else ():
        found.note(lost, "kept")
    for why in _impossible(result):
        found.note(DamagedFile(path, why), "model" if kind == Kind.MODEL else "result")
    return result


def _beside(folder: EvaluationDir, result: Mapping[str, Any]) -> Iterator[DamagedFile]:
    """What was kept beside a result and is not as it was, or does not give its numbers."""
    damaged = False
    digests = result.get("files", {})
    for name in digests:
        path = folder.path / name
        try:
            if not path.is_file():
                raise DamagedFile(path, "is gone")
            folder.refuse_damage(path, digests)
        except DamagedFile as error:
            damaged = True
            yield error
    if damaged or not folder.predictions.is_file():
        return
    try:
        yield from _miscounted(folder, result)
    except DamagedFile as error:
        yield error


def _miscounted(folder: EvaluationDir, result: Mapping[str, Any]) -> Iterator[DamagedFile]:
    """Accuracies that the predictions do not give."""
    kept = predictions(folder.path)
    data = {str(name): value for name, value in kept.attrs.items()}
    view = kept["view"].str.replace(DRAW, "shuffled", regex=True)
    parts = dict(iter(kept.groupby(["evaluation", "split", view])))
    for row in result.get("rows", ()):
        evaluation = row.get("evaluation", result.get("evaluation"))
        part = parts.get((evaluation, row["split"], row["view"]))
        if part is None or row["value"] is None:
            continue
        bounds = recount.bounds(row, part, data)
        if bounds is None or bounds[0] - 1e-6 <= row["value"] <= bounds[1] + 1e-6:
            continue
        what = f"{row['metric']} on {row['split']}, {row['view']}, {row['subset']}"
        counted = " to ".join(dict.fromkeys(f"{bound:.4f}" for bound in bounds))
        why = f"gives {counted} for {what}, the result says {row['value']:.4f}"
        yield DamagedFile(folder.predictions, why)


def _impossible(result: Mapping[str, Any]) -> Iterator[str]:
    """Numbers that no measurement gives."""
    for row in result.get("rows", ()):
        what = f"{row['metric']} on {row['split']}, {row['view']}, {row['subset']}"
        if row["n"] < 0 or row.get("n_failed", 0) < 0:
            yield f"counts {row['n']} samples for {what}"
        value = row["value"]
        least = -1 if row["view"] == "gap" else 0  # a difference of two accuracies
        if value is not None and row["metric"] in ACCURACIES and not least <= value <= 1:
            yield f"says {value} for {what}: an accuracy is from {least} to 1"
