"""What the small files of a run directory must hold: claims, starts, endings, progress.

They steer what is done with a cell and enter no number. One that is damaged is as good as absent: the cell
is started again, and a start writes it anew.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any

from bench.store.failure import Failure
from bench.store.files import read_json_if_sound, read_lines, warn_once

Rules = Mapping[str, tuple[type, ...]]
"""Key -> what its value may be where it is there: JSON's types, or the names of an enum."""

_NUMBER, _MAYBE = (int, float), (type(None),)

CLAIM: Rules = {
    "launcher": (str,), "host": (str,), "pid": (int,), "pid_started": (str, *_MAYBE), "submitted": _NUMBER,
    "batch": (str,), "task": (int,), "code": (str, *_MAYBE), "stdout": (str, *_MAYBE),
}  # fmt: skip
OUTCOME: Rules = {
    "kind": (Failure, *_MAYBE), "reason": (str,), "goes_on": (bool,), "time": _NUMBER,
    "step": (int, *_MAYBE), "micro_batch": (int, *_MAYBE),
}  # fmt: skip
PROGRESS: Rules = {
    "phase": (str,), "done": _NUMBER, "total": (*_NUMBER, *_MAYBE), "loss": _NUMBER, "time": _NUMBER,
    "phase_started": _NUMBER,
}  # fmt: skip
START: Rules = {
    "time": _NUMBER, "host": (str, *_MAYBE), "pid": (int,), "job": (str, *_MAYBE), "step": (int, *_MAYBE),
}  # fmt: skip


def read_record(path: Path, rules: Rules, *required: str) -> dict[str, Any]:
    """What is in the file; empty, with a warning, where that is not as the rules say."""
    found = read_json_if_sound(path)
    if found and (key := _first_wrong(found, rules, required)):
        warn_once(f"{path}: {key} is {found.get(key)!r:.60}; the file is ignored")
        return {}
    return found


def read_claim(path: Path) -> dict[str, Any]:
    """As `read_record`, of who was given a cell: by which launcher, and what it is found by."""
    found = read_record(path, CLAIM)
    needed = {"slurm": ("batch", "task"), "local": ("pid", "host")}.get(
        found.get("launcher", ""), ()
    )
    return {} if any(key not in found for key in needed) else found


def read_records(path: Path, rules: Rules) -> list[dict[str, Any]]:
    """Those of a JSONL file that are as the rules say."""
    return [found for found in read_lines(path) if not _first_wrong(found, rules, ())]


def _first_wrong(record: Mapping[str, Any], rules: Rules, required: tuple[str, ...]) -> str | None:
    for key in required:
        if key not in record:
            return key
    for key, kinds in rules.items():
        if key in record and not any(_is(record[key], kind) for kind in kinds):
            return key
    return None


def _is(value: Any, kind: type) -> bool:
    if issubclass(kind, StrEnum):
        return isinstance(value, str) and value in set(kind)
    if isinstance(value, bool):  # which Python takes for a number
        return kind is bool
    return isinstance(value, kind)
