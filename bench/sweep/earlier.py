"""Runs of before there were two identities: as long as signatures also signed evaluations, the name of a
directory said what was measured too.

Such a run is still the cell that trains the same, under its old name; what its config asked for is measured.
One whose name is not what today's components would have given it is not looked at, but evaluations may have
another version since: then it is measured again.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from bench.config import signature
from bench.config.mistakes import Mistakes
from bench.config.science import parse
from bench.store.files import DamagedFile
from bench.store.rundir import RunDir


@dataclass(frozen=True)
class EarlierRun:
    """A directory, and the evaluations in its result, by <name>-<digest>."""

    name: str
    measured: frozenset[str]


class EarlierRuns:
    """Those among the runs, by the signature that they would have today. Nothing is read before
    somebody asks for one.
    """

    def __init__(self, runs: Path, names: Collection[str]) -> None:
        self._runs, self._names = runs, names

    def find(self, name: str) -> EarlierRun | None:
        return self._found.get(name)

    @cached_property
    def _found(self) -> dict[str, EarlierRun]:
        found: dict[str, EarlierRun] = {}
        for name in sorted(n for n in self._names if re.fullmatch("[0-9a-f]{16}", n)):
            run = RunDir(self._runs / name)
            try:
                if not run.signs_evaluations():
                    continue
                config = parse(run.read_config())
            except (Mistakes, OSError, DamagedFile):
                continue
            todays, first = signature.earlier_signatures(config)
            if name in (todays, first):
                asked = signature.asked_of(config) if run.status().trained else {}
                if name != todays:
                    asked = {key: entry for key, entry in asked.items() if entry["version"] == 1}
                now = signature.signature(config)
                if now not in found or len(asked) > len(found[now].measured):
                    found[now] = EarlierRun(name, frozenset(asked))
        return found
