"""Hugging Face's evaluation results: `<out>/<run>/.eval_results/time-matters-bench.yaml`, for a model's repository.

An entry for each number but those of single classes: `dataset: {id, task_id}`, value, notes. The Hub knows a
data set by its own id, which is not recorded here: `dataset.id` is this suite's name, to be replaced by the
benchmark's, and `task_id` is <evaluation>/<split>/<view>/<subset>/<metric>.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bench.export.markdown import one_line
from bench.export.numbers import numbers
from bench.export.record import Record
from bench.export.sinks._hugging_face import notes, unfit
from bench.store.files import write_text

HELP = "Hugging Face's .eval_results/*.yaml"

FILE = ".eval_results/time-matters-bench.yaml"
_HEAD = """\
# Written by time-matters export. dataset.id is the suite's own name of the data: put the benchmark's id on the
# Hub there, and the ids of its tasks, before you publish it.
"""


def check(records: Sequence[Record], folder: Path) -> list[str]:
    return unfit(records)


def write(record: Record, folder: Path) -> str:
    """The file."""
    from huggingface_hub import eval_result_entries_to_yaml
    from huggingface_hub.utils import yaml_dump

    entries = eval_result_entries_to_yaml(list(_entries(record)))
    path = folder / record.name / FILE
    write_text(path, _HEAD + yaml_dump(entries, sort_keys=False))
    return f"{path}: {len(entries)} numbers; set dataset.id before you publish it"


def _entries(record: Record) -> Iterator[Any]:
    from huggingface_hub import EvalResultEntry

    weights = f"; weights SHA-256 {record.weights_sha256() or 'not recorded'}"
    for evaluation in record.evaluations():
        for number in numbers(evaluation.rows):
            where = (evaluation.label, number.split, number.view, number.subset, number.metric)
            yield EvalResultEntry(
                dataset_id=one_line(evaluation.data),
                task_id=one_line("/".join(where)),
                value=number.value,
                notes=one_line(notes(evaluation, number) + weights),
            )
