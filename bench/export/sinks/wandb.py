"""Weights & Biases, offline: a folder `<out>/wandb/offline-run-*-<run>` in place of the one before.

The id of the run is its signature, so that every export of it is the same run to W&B. Never online, whatever
the environment says: `wandb sync` is the user's to call.
"""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.export.numbers import scalars
from bench.export.record import Record
from bench.export.sinks import absent

HELP = "an offline run; `wandb sync` uploads it, if you want that"

PROJECT = "time-matters"
_COLUMNS = ["split", "view", "subset", "metric", "value", "n", "n_failed"]


def check(records: Sequence[Record], folder: Path) -> list[str]:
    return absent("wandb", "wandb")


def write(record: Record, folder: Path) -> str:
    """An offline run."""
    os.environ["WANDB_ERROR_REPORTING"] = "false"  # read when wandb is imported
    import wandb

    places = f"wandb/offline-run-????????_??????-{record.name}"
    for earlier in folder.glob(places):
        shutil.rmtree(earlier)
    folder.mkdir(parents=True, exist_ok=True)
    quiet = wandb.Settings(
        silent=True, console="off", x_disable_stats=True, x_disable_meta=True, disable_git=True,
        disable_code=True, disable_job_creation=True, x_save_requirements=False,
    )  # fmt: skip
    run = wandb.init(
        project=PROJECT, id=record.name, name=record.title, dir=str(folder), config=record.settings,
        mode="offline", settings=quiet,
    )  # fmt: skip
    try:
        _log(run, record)
    finally:
        run.finish()
    (place,) = folder.glob(places)
    return f"{place}: `wandb sync {shlex.quote(str(place))}` uploads it, if you want that"


def _log(run: Any, record: Record) -> None:
    from wandb import Table

    for step, values in record.points():
        run.log(values, step=step)
    for evaluation in record.evaluations():
        run.summary.update(scalars(evaluation.label, evaluation.rows))
        cells = [[row.get(name, 0) for name in _COLUMNS] for row in evaluation.rows]
        run.log({evaluation.label: Table(columns=_COLUMNS, data=cells)})
