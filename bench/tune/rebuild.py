"""A search whose journal is gone or damaged: its trials, from what else there is.

The journal up to the damage knows all of them as they were, trials.json (sealed) how they stood when the
last one ended, a lease the parameters of one that was at work. Without trials.json the run directories
tell: a trial is a cell, and the parameters of a cell of this search stand in its config; a sweep's cell
with such values is then taken for a trial too. What had not ended is given out again under its number:
its cell is waited for, goes on from its checkpoint, or is DONE and only read.

Not known afterwards: when a trial of trials.json began, and without trials.json seconds, failures and in
what order proposals were made (trials then stand in the order of their first starts). Samplers keep
nothing but the trials, so the search goes on; what they propose next may be other than it would have been.
Hyperband compares with the trials of which the journal's sound part knows how far they came, and new ones.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import BaseJournalBackend
from optuna.trial import FrozenTrial, TrialState, create_trial

from bench.grid.patch import split_path
from bench.store.files import DamagedFile, read_json_if_sound, set_aside
from bench.store.result_files import Kind, read_result
from bench.store.rundir import RunDir, State
from bench.tune.journal import Operation, head_of, open_journal, sound_part
from bench.tune.search import Params, Search
from bench.tune.validations import validations

log = logging.getLogger(__name__)

Distributions = Mapping[str, BaseDistribution]
FORGOTTEN = "forgotten"
"""The note of a trial of which nothing but its number is known: it counts for nothing."""
NOTES = ("point", "retry_of", "retries")
"""The notes that a trial keeps when it is given out again under its number."""


def open_or_rebuild(
    search: Search, runs: Path, distributions: Distributions, busy: Callable[[], str]
) -> JournalStorage:
    """The search's journal, made anew where it is not what was written. Raises DamagedFile, with the
    remedy, while somebody works with it, as `busy` says.
    """
    folder = runs / "tune" / search.name
    path = folder / "journal.log"
    try:
        if not _size(path) and (head_of(path).exists() or (folder / "trials.json").exists()):
            raise DamagedFile(path, "is empty" if path.exists() else "is gone")
        return open_journal(path)
    except DamagedFile as error:
        if who := busy():
            why = (
                f"{error.why}; {who} still works with it: --cancel, then the same command mends it"
            )
            raise DamagedFile(path, why) from error
        return _rebuilt(search, runs, path, distributions, error)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _rebuilt(
    search: Search, runs: Path, path: Path, distributions: Distributions, error: DamagedFile
) -> JournalStorage:
    trials = _Trials(search, runs, distributions)
    trials.from_journal(path)
    trials.from_record(path.with_name("trials.json"))
    trials.from_leases(path.with_name("leases"))
    # Beside, and renamed: the chain of digests begins with the name of the folder.
    new = path.with_name("rebuilt.log")
    for left in (new, head_of(new)):
        left.unlink(missing_ok=True)
    study = optuna.create_study(
        study_name=search.name, storage=open_journal(new), direction=search.options.direction
    )
    found = trials.in_order()
    for trial in found:
        study.add_trial(trial)
    kept = f"kept as {set_aside(path).name}, " if os.path.lexists(path) else ""
    new.replace(path)
    head_of(new).replace(head_of(path))
    new.with_suffix(".lock").unlink()
    log.warning("%s; %smade anew: %s", error, kept, trials.told)
    return open_journal(path)


class _Kept(BaseJournalBackend):
    """Operations that were read already."""

    def __init__(self, operations: list[Operation]) -> None:
        self._operations = operations

    def read_logs(self, log_number_from: int) -> list[Operation]:
        return self._operations[log_number_from:]

    def append_logs(self, logs: list[Operation]) -> None:
        raise AssertionError("only read")


class _Trials:
    """What is found of them, by number."""

    def __init__(self, search: Search, runs: Path, distributions: Distributions) -> None:
        self._search, self._runs, self._distributions = search, runs, distributions
        self._found: dict[int, FrozenTrial] = {}
        self._recorded = False
        self.told = ""

    def from_journal(self, path: Path) -> None:
        """Those of before the damage, as far as lines are verified."""
        operations, at = sound_part(path)
        if not at.sealed:  # nothing vouches for what they say
            return
        storage = JournalStorage(_Kept(operations))
        for study in storage.get_all_studies():
            if study.study_name == self._search.name:
                for trial in storage.get_all_trials(study._study_id):
                    self._put(trial)

    def from_record(self, path: Path) -> None:
        """trials.json, for those of which it knows more."""
        try:
            record = read_result(path, Kind.SEARCH)
        except DamagedFile as error:
            log.warning("%s", error)
            return
        if record is None or record["study"] != self._search.name:
            return
        self._recorded = True
        for entry in record["trials"]:
            before = self._found.get(entry["number"])
            if before is None or not before.state.is_finished():
                self._put(self._recorded_trial(entry))

    def from_leases(self, folder: Path) -> None:
        """What was at work, where nothing else knows it."""
        for lease in folder.glob("*.json"):
            held: Mapping[str, Any] = read_json_if_sound(lease)
            number, params = int(lease.stem), held.get("params", {})
            if number in self._found or not self._is_cell(params, held.get("signature")):
                continue
            self._put(self._waiting(number, params, _notes(held)))

    def in_order(self) -> list[FrozenTrial]:
        """All, with their numbers as their places."""
        known = len(self._found)
        last = max(self._found, default=-1)
        for number in range(last):
            if number not in self._found:
                notes = {FORGOTTEN: True, "error": "what it was is lost with the journal"}
                self._found[number] = self._ended(TrialState.FAIL, {}, notes, number=number)
        cells = [] if self._recorded else list(self._from_runs())
        for trial in cells:
            self._found[len(self._found)] = trial
        self.told = f"{known} trials from the journal's sound part, trials.json and leases"
        if not self._recorded:
            self.told += (
                f", {len(cells)} from run directories, in the order of their starts; what had failed, and "
                "the seconds of these, are not known"
            )
        return [self._found[number] for number in sorted(self._found)]

    # -- one trial ---

    def _put(self, trial: FrozenTrial) -> None:
        if not trial.state.is_finished():
            params = {**trial.system_attrs.get("fixed_params", {}), **trial.params}
            if set(params) != set(self._search.space):  # its cell is not known, and may be found
                return
            trial = self._waiting(trial.number, params, trial.user_attrs)
        self._found[trial.number] = trial

    def _waiting(self, number: int, params: Params, notes: Mapping[str, Any]) -> FrozenTrial:
        trial = create_trial(
            state=TrialState.WAITING,
            system_attrs={"fixed_params": params},
            user_attrs={key: notes[key] for key in NOTES if key in notes},
        )
        trial.number = number
        return trial

    def _ended(
        self,
        state: TrialState,
        params: Params,
        notes: Mapping[str, Any],
        *,
        number: int,
        value: float | None = None,
        curve: Mapping[int, float] | None = None,
    ) -> FrozenTrial:
        seconds, now = notes.get("seconds"), datetime.now()
        trial = create_trial(
            state=state,
            value=value,
            params=params,
            distributions={key: self._distributions[key] for key in params},
            user_attrs={"seconds": None, **notes},
            intermediate_values=dict(curve or {}),
        )
        trial.datetime_start, trial.datetime_complete = now - timedelta(seconds=seconds or 0), now
        trial.number = number
        return trial

    def _recorded_trial(self, entry: Mapping[str, Any]) -> FrozenTrial:
        """One of trials.json."""
        state, number = TrialState[entry["state"]], entry["number"]
        params = {k: v for k, v in entry["params"].items() if k in self._search.space}
        if not state.is_finished():
            return self._waiting(number, params, _notes(entry))
        curve = {int(epoch): value for epoch, value in entry["intermediate"].items()}
        value = entry["value"]
        if state == TrialState.PRUNED and curve:  # as Optuna has it
            value = curve[max(curve)]
        notes = {**_notes(entry), "seconds": entry.get("seconds")}
        return self._ended(state, params, notes, number=number, value=value, curve=curve)

    # -- run directories ---

    def _from_runs(self) -> Iterator[FrozenTrial]:
        known = {trial.user_attrs.get("signature") for trial in self._found.values()}
        known |= {
            self._search.cell(trial.system_attrs["fixed_params"]).signature
            for trial in self._found.values()
            if set(trial.system_attrs.get("fixed_params", {})) == set(self._search.space)
        }
        points = self._search.points if self._search.options.sampler == "grid" else []
        for run, params in sorted(self._cells(), key=lambda found: _first_start(found[0])):
            if run.signature in known or (points and params not in points):
                continue
            number = len(self._found)
            notes: dict[str, Any] = {"point": points.index(params)} if points else {}
            if run.state() == State.PRUNED:
                notes["signature"] = run.signature
                curve = dict(validations(run.metrics))
                last = curve[max(curve)] if curve else None
                yield self._ended(
                    TrialState.PRUNED, params, notes, number=number, value=last, curve=curve
                )
            else:  # also what is DONE: whoever gets it reads its number
                yield self._waiting(number, params, notes)

    def _cells(self) -> Iterable[tuple[RunDir, Params]]:
        """The run directories of cells that this search can have proposed."""
        for config in sorted(self._runs.glob("*/config.yaml")):
            run = RunDir(config.parent)
            try:
                written = run.read_config()
                params = {key: _value(written, split_path(key)) for key in self._search.space}
            except (KeyError, TypeError, DamagedFile, OSError):
                continue  # damaged, or a cell of something else
            if self._is_cell(params, run.signature):
                yield run, params

    def _is_cell(self, params: Any, signature: object) -> bool:
        """Whether the search can have proposed these, and their cell is this one."""
        if not isinstance(params, dict) or set(params) != set(self._search.space):
            return False
        try:
            for key, distribution in self._distributions.items():
                if not distribution._contains(distribution.to_internal_repr(params[key])):
                    return False
            return self._search.cell(params).signature == signature
        except (TypeError, ValueError):  # also Mistakes
            return False


def _notes(entry: Mapping[str, Any]) -> dict[str, Any]:
    """The notes of a trial that stand in trials.json or in a lease."""
    keys = (*NOTES, "signature", "error", "lost")
    return {key: entry[key] for key in keys if entry.get(key) not in (None, "")}


def _value(config: Any, path: tuple[str, ...]) -> Any:
    for key in path:
        config = config[key]
    return config


def _first_start(run: RunDir) -> float:
    starts = [start["time"] for start in run.read_starts() if "time" in start]
    return min(starts, default=run.config.stat().st_mtime)
