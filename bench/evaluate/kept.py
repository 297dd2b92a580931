"""What an evaluation leaves on disk: predictions, pictures, and the file that the report finds."""

from __future__ import annotations

import argparse
import re
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
from PIL import Image

from bench import find
from bench.config.signature import digest
from bench.evaluate.context import EvaluationContext, provenance
from bench.evaluate.model import label
from bench.models.named import NamedModel
from bench.store.evaluations import EvaluationDir
from bench.store.files import replacing, write_json
from bench.store.rundir import evaluated_path
from bench.task import Row


def write_predictions(path: Path, context: EvaluationContext) -> None:
    if context.predictions:
        with replacing(path) as temporary:
            frame = pd.concat(context.predictions, ignore_index=True)
            frame.to_parquet(temporary, index=False)


def write_pictures(folder: Path, context: EvaluationContext) -> None:
    for name, image_HWC in context.pictures.items():
        path = folder / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            Image.fromarray(image_HWC).save(temporary, format="png")


class _Kept:
    """The file among the runs that the report reads, named by model and by all that was asked."""

    def __init__(
        self,
        options: argparse.Namespace,
        config: Any,
        named: NamedModel,
        context: EvaluationContext,
    ) -> None:
        samples = context.samples(context.splits[0])
        self._context = context
        self._result = {
            "model": options.name or label(options.model),
            "evaluation": options.evaluation,
            "version": find.load("evaluation", options.evaluation).VERSION,
            "options": config.model_dump(mode="json"),
            "data": context.spec.name,
            "data_digest": samples.digest,
            "provenance": provenance(context.input, samples, context.spec.media, options.official),
            "official": options.official,
            "made_by": named.made_by,
        }
        slug = re.sub(r"[^A-Za-z0-9._=+-]+", "_", f"{self._result['model']}-{options.evaluation}")
        self._path = evaluated_path(options.runs, f"{slug}-{digest(self._result)[:8]}")
        self._folder = EvaluationDir(self._path.with_suffix(""))
        self._scratch = self._folder.path / "scratch"
        context.scratch_folder = self._scratch

    def write(self, rows: list[Row]) -> Path:
        write_pictures(self._folder.pictures, self._context)
        if self._context.predictions:
            self._folder.path.mkdir(parents=True, exist_ok=True)
        write_predictions(self._folder.predictions, self._context)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        write_json(self._path, {**self._result, "failed": self._context.failed, "rows": rows})
        shutil.rmtree(self._scratch, ignore_errors=True)
        return self._path
