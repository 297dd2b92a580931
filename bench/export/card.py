"""The text of a model card."""

from __future__ import annotations

import importlib.metadata
import json
import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from bench.export.markdown import code_block, config_block, inert, numbers_table
from bench.export.numbers import numbers
from bench.export.record import MeasuredEvaluation, Record

_ABOUT = """\
Does this model use the temporal (or spatial) structure of its input, or only its static appearance? Measured with
time-matters-bench. Values are fractions of 1."""

_TRAINING = """\
The training: in a new folder the YAML above as `config.yaml` and `{}` as `resources.yaml`, then
`time-matters run FOLDER`, which is MODEL below."""

_REPEATED = """\
With MODEL the weights above and DATA the data of that digest. What is not among the options (frames, size; of results
of earlier versions also views and crops) is as recorded above."""

_LIMITS = """\
* These are the numbers that were measured, and no others: of these data, these views and these weights.
* A number with another data digest, or shown otherwise, is not comparable with one of these.
* Samples that could not be decoded count as wrong. Subsets of single classes are measured but not listed here.
* No interval means that the evaluation gives none, not that there is no uncertainty. Intervals are over samples;
  they say nothing of other seeds of training.
* Whether any of these samples was seen in the model's training is not known here."""


def text(record: Record) -> str:
    """Markdown, below the front matter."""
    measured = record.evaluations()
    parts = [
        f"# {inert(record.title)}",
        _ABOUT,
        *(_section(evaluation) for evaluation in measured),
        *([] if measured else ["Nothing was measured."]),
        "## Model",
        f"* SHA-256 of the file of its weights: {inert(record.weights_sha256() or 'not recorded')}",
        "What it was made from:",
        config_block(record.config),
        "## Versions",
        "\n".join(_versions(record)),
        "## How to repeat it",
        _TRAINING if record.trained_here else "",
        _REPEATED,
        code_block("\n".join(map(_command, measured))) if measured else "",
        "## Limits",
        _LIMITS,
    ]
    return "\n\n".join(part.rstrip() for part in parts if part) + "\n"


def _section(evaluation: MeasuredEvaluation) -> str:
    version = "not recorded" if evaluation.version is None else evaluation.version
    facts = {
        "version of the evaluation": version,
        "options": json.dumps(evaluation.options),
        "data": evaluation.data or "not recorded",
        "data digest": evaluation.data_digest or "not recorded",
        "shown as": evaluation.provenance or "not recorded",
    }
    listed = "\n".join(f"* {name}: {inert(value)}" for name, value in facts.items())
    return f"## {inert(evaluation.label)}\n\n{numbers_table(numbers(evaluation.rows))}\n\n{listed}"


def _versions(record: Record) -> Iterator[str]:
    try:
        yield f"* written by time-matters-bench: {inert(importlib.metadata.version('time-matters-bench'))}"
    except importlib.metadata.PackageNotFoundError:  # a checkout that was never installed
        yield "* written by time-matters-bench: not installed"
    if not record.versions:
        yield "* those that it was measured with are not recorded"
    yield from (f"* trained with {name}: {inert(value)}" for name, value in record.versions.items())


def _command(evaluation: MeasuredEvaluation) -> str:
    words = ["time-matters", "evaluate", evaluation.name, "--model", "MODEL", "--data", "DATA"]
    for name, value in evaluation.options.items():
        words += ["--set", f"{name}={json.dumps(value)}"]
    if evaluation.official:
        words.append("--official")
    elif not evaluation.name.startswith("image."):
        words += _views(evaluation.shown)
    return shlex.join(words)


def _views(shown: Mapping[str, Any]) -> list[str]:
    """The options that show clips so again."""
    flags = {"eval_views": "--views", "eval_crops": "--crops", "average": "--average"}
    if shown.get("sampling") == "dense":
        flags["stride"] = "--stride"
    found = [[flag, str(shown[name])] for name, flag in flags.items() if name in shown]
    return [word for pair in found for word in pair]
