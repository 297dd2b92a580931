"""What the two formats of Hugging Face share: what may be published at all, and notes on a number."""

from __future__ import annotations

import json
from collections.abc import Sequence

from bench.export.numbers import Number
from bench.export.record import MeasuredEvaluation, Record
from bench.export.sinks import absent


def unfit(records: Sequence[Record]) -> list[str]:
    """Why these are not for others to read, each with the remedy."""
    problems = _library()
    for record in records:
        measured = record.measured()
        limits = sorted({evaluation.limit for evaluation in measured} - {0})
        if limits:
            problems.append(
                f"{record.title}: measured on {limits[0]} samples of each class only; evaluate it without --limit"
            )
        if not measured and not record.goes_on():
            problems.append(f"{record.title}: nothing was measured of it yet; run its sweep again")
    return problems


def _library() -> list[str]:
    install = "'huggingface_hub>=1.4'"
    if problems := absent("huggingface_hub", install):
        return problems
    import huggingface_hub

    if hasattr(huggingface_hub, "EvalResultEntry"):
        return []
    return [f"huggingface_hub is too old here: run `pip install {install}`"]


def notes(evaluation: MeasuredEvaluation, number: Number) -> str:
    """What must be known of a number wherever it stands alone."""
    said = [f"a fraction; n = {number.n}"]
    if number.low is not None and number.high is not None:
        said.append(f"95 % interval {number.low:.4f} to {number.high:.4f}")
    if number.chance is not None:
        said.append(f"chance {number.chance:.4f}")
    if number.n_failed:
        said.append(f"{number.n_failed} samples not decoded, counted as wrong")
    how = f"{evaluation.name} with {json.dumps(evaluation.options)}"
    digest = f"data digest {evaluation.data_digest or 'not recorded'}"
    return "; ".join([*said, how, evaluation.provenance, digest])
