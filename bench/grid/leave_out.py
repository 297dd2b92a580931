"""Objectives and evaluations that a scale or a sweep takes out of every cell, with a reason in words:

    leave_out: {video.flow: frames of 24 pixels are too small for its labels}

`null` in place of a reason puts back what the scale leaves out, in a sweep or with
`--set leave_out.video.flow=null`. Pure; plan.py says what becomes of the cells.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from bench import find
from bench.config.left_out import LeftOut
from bench.config.mistakes import Mistake, shown
from bench.config.science import KEYED, RunConfig

KEY = "leave_out"


def read_left_out(
    documents: Iterable[tuple[str, Mapping[str, Any]]], mistakes: list[Mistake]
) -> LeftOut:
    """Of (where it stands, what stands there), the last of which wins."""
    found: LeftOut = {}
    for where, document in documents:
        given = document.get(KEY)
        if given is not None and not isinstance(given, Mapping):
            text = f"must map components to reasons, got {shown(given)}"
            mistakes.append(Mistake((), f"{where}: {KEY}: {text}"))
            continue
        for name, reason in _leaves(given or {}):
            if problem := _problem(name, reason):
                mistakes.append(Mistake((), f"{where}: {KEY}.{name}: {problem}"))
            elif reason is None:
                found.pop(name, None)
            else:
                found[name] = " ".join(reason.split())
    return found


def taken_out(config: RunConfig, left_out: LeftOut) -> tuple[RunConfig, LeftOut]:
    """The config without these components, and those that it had."""
    objectives = {n: part for n, part in config.objectives.items() if n not in left_out}
    evaluations = {n: part for n, part in config.evaluations.items() if n not in left_out}
    there = {*config.objectives, *config.evaluations}
    gone = {name: reason for name, reason in left_out.items() if name in there}
    return replace(config, objectives=objectives, evaluations=evaluations), gone


def _leaves(given: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Names keep their dots, however they were written."""
    for key, value in given.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value


def _problem(name: str, reason: Any) -> str | None:
    known = [each for kind in KEYED.values() for each in find.names(kind)]
    if name not in known:
        return f"no objective or evaluation has this name{find.nearest(name, known)}"
    if reason is not None and (not isinstance(reason, str) or not reason.strip()):
        return f"say in words why (null: it stays in), got {shown(reason)}"
    return None
