"""Trackio, local: a project in a database in `<out>`, in which a run takes the place of the one before."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

from bench.export.numbers import scalars
from bench.export.record import Record
from bench.export.sinks import absent

HELP = "a local project; `trackio show` shows it"

PROJECT = "time-matters"
_ELSEWHERE = ("TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL", "TRACKIO_BUCKET_ID", "TRACKIO_WEBHOOK_URL")
"""What would make trackio send something."""


def check(records: Sequence[Record], folder: Path) -> list[str]:
    return absent("trackio", "trackio")


def write(record: Record, folder: Path) -> str:
    """A run that is called as the record."""
    for variable in _ELSEWHERE:
        os.environ.pop(variable, None)
    os.environ["TRACKIO_DIR"] = str(folder.resolve())  # read when trackio is imported
    import trackio

    if Path(trackio.utils.TRACKIO_DIR) != folder.resolve():
        raise ValueError(
            f"trackio writes to {trackio.utils.TRACKIO_DIR} in this process: start another"
        )
    if (folder / f"{PROJECT}.db").exists():
        for earlier in trackio.Api().runs(PROJECT):
            if earlier.name == record.name:
                earlier.delete()
    with redirect_stdout(StringIO()):  # it says that it uploads, to its own database
        run = trackio.init(
            project=PROJECT, name=record.name, config=record.settings, embed=False,
            auto_log_cpu=False, auto_log_gpu=False,
        )  # fmt: skip
        try:
            _log(run, record)
        finally:
            trackio.finish()
    shown = f"TRACKIO_DIR={shlex.quote(str(folder))} trackio show --project {PROJECT}"
    return f"{folder}: `{shown}` shows it"


def _log(run: Any, record: Record) -> None:
    from trackio import Table

    step = 0
    for step, values in record.points():
        run.log(values, step=step)
    for evaluation in record.evaluations():
        rows = [dict(row) for row in evaluation.rows]
        run.log({evaluation.label: Table(data=rows)}, step=step)
        run.log(scalars(evaluation.label, evaluation.rows), step=step)
