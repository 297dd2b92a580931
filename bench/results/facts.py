"""What is known of one run beside its numbers: of what config, by which code, where, when, for how long, how its
loss went and what it said last. Read by the page of reports.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bench.results.gather import of_run
from bench.results.rows_file import facts_of
from bench.store.rundir import RunDir

POINTS = 60
"""Of a curve; each is the mean of what was logged there."""
LINES = 12
"""Of a log."""
LOG_BYTES = 4_000


@dataclass(frozen=True)
class RunFacts:
    """Empty where nothing is known: a file of rows has neither curves nor logs."""

    path: str
    about: Mapping[str, Any]  # code, device, started, seconds, parameters
    config: Mapping[str, str]  # dotted key -> value as JSON
    loss: tuple[tuple[float, float], ...] = ()  # epoch, training loss
    validation: tuple[tuple[float, float], ...] = ()  # epoch, top-1
    log: tuple[str, ...] = field(default=())  # its last lines


def run_of(run_dir: str | Path) -> Path:
    """The run that a column `run_dir` belongs to."""
    path = Path(run_dir)
    return path.parents[1] if path.parent.name == "evaluations" else path


def run_facts(run_dir: str | Path, *, at_length: bool = True) -> RunFacts:
    """Of a run in a folder or in a file of rows. Without `at_length` neither curve nor log."""
    path = run_of(run_dir)
    kept = facts_of(path)
    if kept is not None:
        return RunFacts(str(path), kept, flat(kept.get("config", {})))
    run = RunDir(path)
    about = of_run(run)
    config = flat(about.get("config", {}))
    if not at_length:
        return RunFacts(str(path), about, config)
    loss, validation = _curves(run)
    return RunFacts(str(path), about, config, loss, validation, _tail(path / "log.txt"))


def flat(config: Mapping[str, Any], above: str = "") -> dict[str, str]:
    """{"train.lr": "0.003", ...}"""
    found: dict[str, str] = {}
    for key, value in config.items():
        name = f"{above}{key}"
        if isinstance(value, Mapping) and value:
            found |= flat(value, f"{name}.")
        else:
            found[name] = json.dumps(value, ensure_ascii=False)
    return found


Curve = tuple[tuple[float, float], ...]


def _curves(run: RunDir) -> tuple[Curve, Curve]:
    loss: list[tuple[float, float]] = []
    validation: list[tuple[float, float]] = []
    with suppress(OSError), run.metrics.open("rb") as file:
        for line in file:
            with suppress(ValueError, TypeError, KeyError):  # a line that a kill cut off
                row = json.loads(line)
                if "val/top1" in row:
                    validation.append((float(row["epoch"]), float(row["val/top1"])))
                elif "loss" in row:
                    loss.append((float(row["epoch"]), float(row["loss"])))
    return _thinned(loss), tuple(validation)


def _thinned(points: list[tuple[float, float]]) -> Curve:
    if len(points) <= POINTS:
        return tuple(points)
    parts = np.array_split(np.array(points), POINTS)
    return tuple((round(float(p[:, 0].mean()), 3), round(float(p[:, 1].mean()), 4)) for p in parts)


def _tail(path: Path) -> tuple[str, ...]:
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - LOG_BYTES))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return ()
    return tuple(lines[-LINES:] if size <= LOG_BYTES else lines[1:][-LINES:])
