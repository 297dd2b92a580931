"""What an evaluation leaves on disk: predictions, pictures, and the file that the report finds."""

from __future__ import annotations

import json
import logging
import re
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
from PIL import Image

from bench import find
from bench.config.science import EVALUATION_INPUT
from bench.config.signature import digest
from bench.data.limited import LimitedSamples
from bench.evaluate.context import EvaluationContext, provenance
from bench.models.named import NamedModel
from bench.store.evaluations import EvaluationDir
from bench.store.files import DamagedFile, clear_leftovers, replacing
from bench.store.result_files import Kind, files_beside, read_result, write_result
from bench.store.rundir import evaluated_path
from bench.task import Row

log = logging.getLogger("bench")

_SHOWN = {*EVALUATION_INPUT, "sampling", "stride"}


def write_kept(folder: EvaluationDir, context: EvaluationContext) -> None:
    """The predictions and pictures of the evaluation that ran last; no folder where there are none."""
    if context.predictions:
        folder.path.mkdir(parents=True, exist_ok=True)
        with replacing(folder.predictions) as temporary:
            frame = pd.concat(context.predictions, ignore_index=True)
            # pandas keeps them in the file: with the logits, all that accuracies are counted from
            frame.attrs = {
                "classes": list(context.spec.classes),
                "subsets": {name: list(ids) for name, ids in context.spec.subsets.items()},
                "reversals": [list(pair) for pair in context.spec.reversals],
            }
            frame.to_parquet(temporary, index=False)
    for name, image_HWC in context.pictures.items():
        path = folder.pictures / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            Image.fromarray(image_HWC).save(temporary, format="png")


def _as_json(value: Any) -> Any:
    return json.loads(json.dumps(value))


class KeptResult:
    """The file among the runs that the report reads, named by model and by all that was asked."""

    def __init__(
        self,
        evaluation: str,
        options: Any,
        named: NamedModel,
        context: EvaluationContext,
        title: str,
        runs: Path,
    ) -> None:
        """`title`: what tables call the model."""
        samples, official = context.samples(context.splits[0]), context.as_stored is not None
        self._result = {
            "model": title,
            "evaluation": evaluation,
            "version": find.load("evaluation", evaluation).VERSION,
            "options": options.model_dump(mode="json"),
            "data": context.spec.name,
            "data_digest": samples.digest,
            "provenance": provenance(context.input, samples, context.spec.media, official),
            "official": official,
            **({"limit": samples.limit} if isinstance(samples, LimitedSamples) else {}),
            "made_by": named.made_by,
        }
        slug = re.sub(r"[^A-Za-z0-9._=+-]+", "_", f"{title}-{evaluation}")
        self.path = evaluated_path(runs, f"{slug}-{digest(self._result)[:8]}")
        self._folder = EvaluationDir(self.path.with_suffix(""))
        self.scratch = self._folder.path / "scratch"

    def read(self) -> list[Row] | None:
        """The rows that were kept by an earlier call, or None."""
        try:
            found = read_result(self.path, Kind.MODEL)
        except DamagedFile as error:
            log.warning("%s; the model is evaluated again", error)
            return None
        known = found is not None and _as_json(self._result).items() <= found.items()
        return found["rows"] if found is not None and known else None

    def write(self, rows: list[Row], context: EvaluationContext) -> None:
        clear_leftovers(self.path.parent)
        write_kept(self._folder, context)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        shown = context.input.model_dump(mode="json", include=_SHOWN)
        beside = files_beside(self._folder.path)
        measured = {"input": shown, "failed": context.failed, "rows": rows, "files": beside}
        write_result(self.path, Kind.MODEL, {**self._result, **measured})
        shutil.rmtree(self.scratch, ignore_errors=True)
