"""TensorBoard: event files in `<out>/<run>/`, written anew each time.

Scalars are the columns of metrics.jsonl by step, and the rows of the evaluations at the last step; config
and all rows are texts. Times are those of the export: a run keeps steps, not times.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from bench.export.markdown import config_block, rows_table
from bench.export.numbers import scalars
from bench.export.record import Record
from bench.export.sinks import absent

HELP = "event files; tensorboard --logdir shows them"

_FLUSH_S = 5  # beside a run


def check(records: Sequence[Record], folder: Path) -> list[str]:
    return absent("tensorboard", "tensorboard")


def write(record: Record, folder: Path) -> str:
    """Event files of this run only."""
    from torch.utils.tensorboard import SummaryWriter

    place, step = folder / record.name, 0
    for path in place.glob("events.out.tfevents.*"):
        path.unlink()
    with SummaryWriter(str(place), flush_secs=_FLUSH_S) as writer:
        writer.add_text("config", config_block(record.settings))
        for step, values in record.points():
            for name, value in values.items():
                writer.add_scalar(name, value, step)
        for evaluation in record.evaluations():
            for name, value in scalars(evaluation.label, evaluation.rows).items():
                writer.add_scalar(name, value, step)
            writer.add_text(evaluation.label, rows_table(evaluation.rows), step)
    return f"{place}: `tensorboard --logdir {shlex.quote(str(folder))}` shows it"
