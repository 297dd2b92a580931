"""The results in a run directory: what training came to, what was measured of it, and whether that is what
was written.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from bench.store.evaluations import EvaluationDir
from bench.store.files import DamagedFile, read_json, sha256_of
from bench.store.result_files import Kind, is_result, read_result
from bench.store.state import Activity, RunStatus, State

ASKED = ("evaluation", "version", "options", "input")


class RunResults:
    """The part of a run directory that numbers come from."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)

    # Properties, because a plan of thousands of cells makes this object for each of them; for the same
    # reason the questions of a status are asked with strings.

    def _at(self, name: str) -> str:
        return f"{self.path}{os.sep}{name}"

    @property
    def result(self) -> Path:
        """What training came to; that it exists means that the weights are final."""
        return self.path / "result.json"

    @property
    def asked(self) -> Path:
        """What the client that started it last asks to be measured: see `read_asked`."""
        return self.path / "evaluations.json"

    @property
    def evaluations(self) -> Path:
        """A folder for each evaluation that is through, see `evaluation`."""
        return self.path / "evaluations"

    def evaluation(self, identity: str) -> EvaluationDir:
        """`identity`: <name>-<digest>"""
        return EvaluationDir(self.evaluations / identity)

    def is_trained(self) -> bool:
        """Raises DamagedFile."""
        return is_result(self._at("result.json"), Kind.TRAINING)

    def read_result(self) -> dict[str, Any] | None:
        """Raises DamagedFile."""
        return read_result(self.result, Kind.TRAINING)

    def refuse_metrics(self) -> None:
        """Raises DamagedFile where metrics.jsonl is not what it was when training was through, as far as
        the result knows.
        """
        known = ((self.read_result() or {}).get("metrics") or {}).get("sha256")
        path = self.path / "metrics.jsonl"
        if known is None:
            return
        if not path.is_file():
            raise DamagedFile(path, "is gone")
        if sha256_of(path) != known:
            raise DamagedFile(path, "is not what it was when training was through (SHA-256)")

    def read_asked(self) -> dict[str, dict[str, Any]] | None:
        """<name>-<digest> -> {evaluation, version, options, input}; None where nothing was written.
        Raises DamagedFile.
        """
        found = read_json(self._at("evaluations.json"))
        for entry in (found or {}).values():
            if not isinstance(entry, dict) or not {*ASKED} <= entry.keys():
                raise DamagedFile(self.asked, f"does not say what to measure ({entry!r:.60})")
        return found

    def measured(self) -> set[str]:
        """The evaluations that are through, by <name>-<digest>; none whose result is damaged."""
        return self._measured()[0]

    def _measured(self) -> tuple[set[str], list[DamagedFile]]:
        through, damaged = set(), []
        try:
            with os.scandir(self._at("evaluations")) as entries:
                folders = {entry.name: entry.path for entry in entries if entry.is_dir()}
        except FileNotFoundError:
            return set(), []
        except OSError as error:
            return set(), [DamagedFile(self.evaluations, f"cannot be read ({error.strerror})")]
        for name, folder in sorted(folders.items()):
            try:
                if is_result(f"{folder}{os.sep}result.json", Kind.EVALUATION):
                    through.add(name)
            except DamagedFile as error:
                damaged.append(error)
        return through, damaged

    def damage(self) -> list[DamagedFile]:
        """Results that are not what was written, the training's first."""
        try:
            self.is_trained()
        except DamagedFile as error:
            return [error, *self._measured()[1]]
        return self._measured()[1]

    def is_done(self) -> bool:
        """Whether it is trained, and all that was asked of its last start is measured."""
        return self.from_results().state == State.DONE

    def read_measured(
        self, asked: Collection[str] | None = None
    ) -> list[tuple[EvaluationDir, dict[str, Any]]]:
        """The evaluations of these (of all) that are through, with their results."""
        found = []
        for identity in sorted(self.measured() if asked is None else set(asked)):
            folder = self.evaluation(identity)
            with suppress(DamagedFile):
                if result := folder.read_result():
                    found.append((folder, result))
        return found

    def read_rows(self, asked: Collection[str] | None = None) -> list[dict[str, Any]]:
        """What these evaluations (all) measured. Rows of a run that was made when training and
        evaluations had one result are found for every evaluation that has no other.
        """
        results = [found for _, found in self.read_measured(asked)]
        earlier = (self.read_result() or {}).get("rows", [])
        anew = {found.get("evaluation") for found in results}
        rows = [row for row in earlier if row["evaluation"] not in anew]
        return rows + [row for found in results for row in found.get("rows", [])]

    def from_results(self) -> RunStatus:
        """DONE, DAMAGED, or TRAINED where something is missing, be it training itself."""
        damaged: list[DamagedFile] = []
        trained = False
        try:
            trained = self.is_trained()
        except DamagedFile as error:
            damaged.append(error)
        through, others = self._measured()
        damaged += others
        asked: Mapping[str, Any] = {}
        try:
            asked = self.read_asked() or {}
        except DamagedFile as error:
            damaged.append(error)
        state = State.DONE if trained and asked.keys() <= through else State.TRAINED
        return RunStatus(
            state=State.DAMAGED if damaged else state,
            activity=Activity.IDLE,
            reason="; ".join(map(str, damaged)),
            trained=trained,
            measured=frozenset(through),
        )
