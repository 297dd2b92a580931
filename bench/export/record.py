"""What a sink gets: everything that is known of one run, or of one model that was measured without a run.

Read from files alone, of a run that has ended or still goes on.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from bench.store.files import DamagedFile, read_json_if_sound, sha256_of
from bench.store.result_files import Kind, read_result
from bench.store.rundir import Activity, RunDir, manifests

POLL_S = 1.0
"""How often a run that goes on is looked at."""


class Rewritten(Exception):
    """A run went on from a checkpoint, so that what was read of its metrics.jsonl no longer stands there."""


class Point(NamedTuple):
    """A line of metrics.jsonl."""

    step: int
    values: dict[str, float]


@dataclass(frozen=True)
class MeasuredEvaluation:
    """What one evaluation measured, and of what."""

    label: str  # its name; with its digest where a run has several of that name
    name: str
    rows: Sequence[Mapping[str, Any]]
    data: str
    data_digest: str
    provenance: str
    version: int | None = None  # None: not recorded
    options: Mapping[str, Any] = field(default_factory=dict)
    shown: Mapping[str, Any] = field(default_factory=dict)  # views and crops, as far as recorded
    limit: int = 0  # samples of each class that were shown; 0: all
    official: bool = False


class Record(ABC):
    """`name` identifies it to trackers and names its files; `title` is what people call it."""

    name: str
    title: str
    config: dict[str, Any]
    versions: dict[str, str]
    trained_here = False  # its config says how
    sweeps: Mapping[str, Mapping[str, str]] = {}  # <sweep>-<scale> -> its labels there

    @property
    def settings(self) -> dict[str, Any]:
        """The config as trackers show it: with what its sweeps call the run."""
        return {**self.config, "sweeps": self.sweeps} if self.sweeps else self.config

    def points(self) -> Iterator[Point]:
        """Of training, in order; of a run that is followed until it ends. Raises Rewritten."""
        return iter(())

    @abstractmethod
    def measured(self) -> list[MeasuredEvaluation]:
        """What has been measured until now."""

    def evaluations(self) -> list[MeasuredEvaluation]:
        """What was measured; of a run that is followed when it has ended."""
        return self.measured()

    def goes_on(self) -> bool:
        """Whether it is followed and has not ended."""
        return False

    @abstractmethod
    def weights_sha256(self) -> str:
        """Of the file that the weights are in; empty where that is not known."""


class RunRecord(Record):
    """A run directory. ValueError when it is not readable."""

    trained_here = True

    def __init__(self, run: RunDir, *, follow: bool = False) -> None:
        self._run, self._follow = run, follow
        self.title = run.path.resolve().name
        self.name = _safe(self.title)
        self.config = _readable_config(run)
        self.sweeps = _sweeps(run)
        env = read_json_if_sound(run.env)
        code = {f"code {key}": str(value) for key, value in env.get("code", {}).items() if value}
        self.versions = {**{k: str(v) for k, v in env.get("versions", {}).items()}, **code}
        for _ in self._read(0, b""):  # a line that is not readable is a mistake before all work
            pass
        self.measured()

    def points(self) -> Iterator[Point]:
        done, last = 0, b""
        while True:
            goes_on = self.goes_on()  # asked first: what is written until it ends is read
            for line, point in self._read(done, last):
                done, last = done + len(line), line
                yield point
            if not goes_on:
                return
            time.sleep(POLL_S)

    def evaluations(self) -> list[MeasuredEvaluation]:
        while self.goes_on():
            time.sleep(POLL_S)
        return self.measured()

    def weights_sha256(self) -> str:
        return sha256_of(self._run.last) if self._run.last.exists() else ""

    def goes_on(self) -> bool:
        return self._follow and self._run.status().activity == Activity.ACTIVE

    def _read(self, done: int, last: bytes) -> Iterator[tuple[bytes, Point]]:
        """The whole lines after the first `done` bytes, the last of which were `last`."""
        try:
            with self._run.metrics.open("rb") as file:
                file.seek(done - len(last))
                before, lines = file.read(len(last)), file.read()
        except FileNotFoundError:
            before, lines = b"", b""
        if before != last:
            raise Rewritten
        for line in lines[: lines.rfind(b"\n") + 1].splitlines(keepends=True):
            yield line, self._point(line)

    def _point(self, line: bytes) -> Point:
        try:
            row = json.loads(line)
            values = {key: float(value) for key, value in row.items() if key != "step"}
            return Point(int(row["step"]), values)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            shown = line[:80].decode(errors="replace").strip()
            raise ValueError(
                f"{self._run.metrics}: not a line of metrics ({shown!r}); run the cell again, or take the "
                "line out"
            ) from error

    def measured(self) -> list[MeasuredEvaluation]:
        found = self._run.read_measured()
        for folder, result in found:
            refuse_holes(folder.result, result)
        names = [result["evaluation"] for _, result in found]
        made = [
            _evaluation(result, _label(result["evaluation"], names, folder.path.name[-8:]))
            for folder, result in found
        ]
        return [*self._measured_earlier(set(names)), *made]

    def _measured_earlier(self, anew: set[str]) -> list[MeasuredEvaluation]:
        """Of a run that was made when training and evaluations had one result."""
        trained = self._run.read_result() or {}
        common = {"data": self.config.get("data", {}).get("name"), **trained}
        groups: dict[str, list[Mapping[str, Any]]] = {}
        for row in trained.get("rows", ()):
            groups.setdefault(row["evaluation"], []).append(row)
        return [
            _evaluation({**common, "evaluation": name, "rows": rows}, name)
            for name, rows in groups.items()
            if name not in anew
        ]


class EvaluatedRecord(Record):
    """Results of `bench.evaluate` of one model: runs/evaluated/<slug>.json, of each evaluation one."""

    def __init__(self, results: Mapping[Path, Mapping[str, Any]]) -> None:
        self._results = results
        first = next(iter(results.values()))
        self.title = f"{first['model']}{' (official)' if first['official'] else ''}"
        self.name = (
            f"{_safe(self.title)}-{hashlib.sha256(identity(first).encode()).hexdigest()[:8]}"
        )
        self.config = dict(first["made_by"])
        self.versions = {}

    def measured(self) -> list[MeasuredEvaluation]:
        names = [result["evaluation"] for result in self._results.values()]
        return [
            _evaluation(result, _label(result["evaluation"], names, path.stem[-8:]))
            for path, result in self._results.items()
        ]

    def weights_sha256(self) -> str:
        return str(self.config.get("sha256", ""))


def identity(result: Mapping[str, Any]) -> str:
    """Equal for results of one model: all that is known of it but how labels matched, which evaluations may
    differ in.
    """
    made_by = {key: value for key, value in result["made_by"].items() if key != "labels"}
    return json.dumps([result["model"], result["official"], made_by], sort_keys=True)


def refuse_holes(path: Path, result: Mapping[str, Any]) -> None:
    """ValueError for a result with a row without a value, which no tool that it is for takes."""
    if any(row["value"] is None for row in result["rows"]):
        raise ValueError(f"{path}: has rows without a value; evaluate again")


def _label(name: str, names: Sequence[str], digest: str) -> str:
    return name if names.count(name) == 1 else f"{name}-{digest}"


def _safe(title: str) -> str:
    """As a file's name, and as the id of a run of trackers."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", title)[:80]


def _sweeps(run: RunDir) -> dict[str, dict[str, str]]:
    """What the sweeps beside it call the run."""
    found = {}
    for path in manifests(run.path.parent):
        try:
            manifest = read_result(path, Kind.MANIFEST) or {}
        except DamagedFile:  # which is the report's to say
            continue
        for cell in manifest.get("cells", ()):
            if cell["signature"] == run.signature:
                found[path.stem] = {**cell["labels"], "seed": str(cell["seed"])}
    return found


def _evaluation(result: Mapping[str, Any], label: str) -> MeasuredEvaluation:
    return MeasuredEvaluation(
        label=label,
        name=result["evaluation"],
        rows=result["rows"],
        data=str(result.get("data") or ""),
        data_digest=str(result.get("data_digest") or ""),
        provenance=str(result.get("provenance") or ""),
        version=result.get("version"),
        options=result.get("options", {}),
        shown=result.get("input", {}),
        limit=result.get("limit", 0),
        official=result.get("official", False),
    )


def _readable_config(run: RunDir) -> dict[str, Any]:
    try:
        return run.read_config()
    except (OSError, ValueError) as error:
        raise ValueError(f"{run.config}: not readable ({error}); run the sweep again") from error
