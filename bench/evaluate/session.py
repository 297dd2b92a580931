"""The evaluations of one call: a model and a data set that fit, a context for them, and what each one
measures, kept as soon as it is through.

Between command.py and api.py (which know what is asked) and context.py (which runs an evaluation).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench import find
from bench.config.resources import Resources
from bench.config.science import Input, model_spec_of
from bench.evaluate.context import EVALUATION_SEED, EvaluationContext, Normalisation, run_one
from bench.evaluate.kept import KeptResult
from bench.evaluate.labels import labelled
from bench.models.named import NamedModel
from bench.store import places
from bench.task import DataSpec, Released, Row
from bench.train.world import ALONE


@dataclass(frozen=True)
class CallOptions:
    """What of the call is alike for all its evaluations."""

    title: str  # what tables call the model
    runs: Path | None  # where results are kept; None: nowhere
    batch: int = 32
    official: bool = False
    labels: Path | None = None  # names of the model's classes, before its own


@dataclass(frozen=True)
class Measurement:
    """One evaluation of the call, ready to be made."""

    name: str
    options: Any  # its Config
    named: NamedModel
    context: EvaluationContext
    kept: KeptResult | None

    def rows(self, report: Callable[[dict[str, Any]], None], *, again: bool) -> list[Row]:
        """What was kept, unless it is wanted `again`; else measured and kept."""
        found = None if again or self.kept is None else self.kept.read()
        if found is not None:
            return found
        if problem := self.kept and places.unwritable(self.kept.path.parent):
            raise ValueError(f"what is measured could not be kept: {problem}")
        context = self.context
        context.report = report
        context.scratch_folder = self.kept.scratch if self.kept else None
        rows = run_one(self.name, self.options, context)
        if self.kept is not None:
            self.kept.write(rows, context)
        return rows


def measurements(
    evaluations: Mapping[str, Any],
    named: NamedModel,
    found: Released,
    resources: Resources,
    shown: CallOptions,
) -> list[Measurement]:
    """One for each evaluation (name -> its Config). Raises ValueError for what cannot be measured,
    before anything is.

    Evaluations that see the model alike share a context, and so its features.
    """
    named = _of_one_media(named, found.spec)
    contexts: dict[Any, EvaluationContext] = {}
    made = []
    for name, options in evaluations.items():
        mapped = tuple(find.optional("evaluation", name, "OUTPUTS"))
        its = labelled(named, found.spec, mapped=mapped, file=shown.labels)
        context = context_over(
            name, options, its, found, resources, batch=shown.batch, official=shown.official
        )
        context = contexts.setdefault((mapped, context.as_stored), context)
        kept = (
            KeptResult(name, options, its, context, shown.title, shown.runs) if shown.runs else None
        )
        made.append(Measurement(name, options, its, context, kept))
    return made


def context_over(
    name: str,
    options: Any,
    named: NamedModel,
    found: Released,
    resources: Resources,
    *,
    batch: int,
    official: bool = False,
) -> EvaluationContext:
    """A context over opened data, checked against the model. ValueError: a mismatch."""
    named = _of_one_media(named, found.spec)
    spec = replace(found.spec, mean=named.mean, std=named.std)
    _refuse_mismatch(name, named, spec)
    model_spec = model_spec_of(named.model.backbone, named.input, spec, named.num_classes)
    skip = find.optional("evaluation", name, "skip")
    if reason := skip and skip(options, model_spec, spec):
        raise ValueError(f"{name} cannot run here: {reason}")
    as_stored = _official_way(name, named) if official else None
    target = ALONE.device(resources)
    context = EvaluationContext(
        model=named.model.to(target).eval(),
        spec=spec,
        model_spec=model_spec,
        input=named.input,
        device=target,
        seed=EVALUATION_SEED,
        precision="fp32",
        batch=batch,
        workers=resources.workers,
        open_split=cache(found.open),
        splits=found.splits,
        report=lambda _: None,
        as_stored=as_stored,
    )
    if official:
        _try_stored_size(context)
    return context


def _of_one_media(named: NamedModel, spec: DataSpec) -> NamedModel:
    """The model as it sees these data. ValueError if it cannot."""
    if named.media == "any":
        frames = named.input.frames if spec.media == "video" else 1
        shown = Input(**{**named.input.model_dump(), "frames": frames})
        return replace(named, media=spec.media, input=shown)
    if named.media != spec.media:
        raise ValueError(f"the model sees {named.media}s, the data ({spec.name}) are {spec.media}s")
    return named


def _refuse_mismatch(name: str, named: NamedModel, spec: DataSpec) -> None:
    """ValueError unless the evaluation can read the model's classes as those of the data."""
    outputs = (spec.num_classes, *find.optional("evaluation", name, "OUTPUTS"))
    if named.num_classes not in outputs:
        raise ValueError(
            f"the model has {named.num_classes} classes, the data ({spec.name}) have "
            f"{' or '.join(map(str, outputs))}: not the data this model was trained for"
        )


def _official_way(name: str, named: NamedModel) -> Normalisation:
    """The normalisation of the evaluation's released evaluator; ValueError if there is none."""
    official = find.optional("evaluation", name, "official_normalisation")
    found: Normalisation | None = official and official(named.num_classes)
    if found is None:
        raise ValueError(
            f"--official: {name} has no official way to show {named.media}s to a model of "
            f"{named.num_classes} classes; leave it out"
        )
    return found


def _try_stored_size(context: EvaluationContext) -> None:
    """Raises ValueError when the model does not take images of the size they are stored in."""
    image_HWC = context.samples(context.splits[0]).frames(0, np.zeros(1, np.int64))[0]
    height, width = image_HWC.shape[:2]
    try:
        with torch.no_grad():
            context.model(context.to_clip(torch.from_numpy(image_HWC)[None].to(context.device)))
    except (AssertionError, RuntimeError, ValueError) as error:
        raise ValueError(
            f"--official shows images as stored, {height} x {width}, and this model does not take "
            f"them ({error}); without --official they are resized to what it was trained on"
        ) from error
