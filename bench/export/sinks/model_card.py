"""A model card: `<out>/<run>/README.md`, whose front matter is a `model-index` as huggingface_hub writes it.

It says what was measured, how it was shown, of which weights and data, how to repeat it, and what it does not
say. Values are fractions, as measured; whatever comes from a file is inert.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.export.card import text
from bench.export.markdown import one_line
from bench.export.numbers import Number, numbers
from bench.export.record import MeasuredEvaluation, Record
from bench.export.sinks._hugging_face import unfit
from bench.store.files import write_text

HELP = "a README.md with a model-index, as on Hugging Face"

_MARK = "<!-- Written by time-matters export model_card; the same command writes it anew. -->"


def check(records: Sequence[Record], folder: Path) -> list[str]:
    """Nobody's own README is overwritten."""
    places = [folder / record.name / "README.md" for record in records]
    others = [
        place
        for place in places
        if place.exists() and _MARK not in place.read_text("utf-8", "replace")
    ]
    return [
        *unfit(records),
        *(f"{place} was written by others: move it, or take another --out" for place in others),
    ]


def write(record: Record, folder: Path) -> str:
    """The card."""
    from huggingface_hub import ModelCardData

    results = [
        _result(evaluation, number)
        for evaluation in record.evaluations()
        for number in numbers(evaluation.rows)
    ]
    data = ModelCardData(
        model_name=one_line(record.title), tags=["time-matters-bench"], eval_results=results or None
    )
    path = folder / record.name / "README.md"
    write_text(path, f"---\n{data.to_yaml()}\n---\n\n{_MARK}\n\n{text(record)}")
    return f"{path}: {len(results)} numbers"


def _result(evaluation: MeasuredEvaluation, number: Number) -> Any:
    from huggingface_hub import EvalResult

    arguments = {
        "view": number.view, "subset": number.subset, "n": number.n, "n_failed": number.n_failed,
        "chance": number.chance, "ci_low": number.low, "ci_high": number.high,
        "shown": evaluation.provenance, "data_digest": evaluation.data_digest,
    }  # fmt: skip
    shown = f"{evaluation.label}: {number.metric}, view {number.view}, subset {number.subset}"
    return EvalResult(
        task_type="image-classification"
        if evaluation.name.startswith("image.")
        else "video-classification",
        dataset_type=one_line(evaluation.data),
        dataset_name=one_line(evaluation.data),
        dataset_split=number.split,
        metric_type=number.metric,
        metric_name=one_line(shown),
        metric_value=number.value,
        metric_args={name: value for name, value in arguments.items() if value is not None},
    )
