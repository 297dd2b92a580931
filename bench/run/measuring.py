"""What is measured of a cell's weights once they are final: each evaluation that was asked for and is
not there yet, into a directory of its own.

One that is through is never made again; a kill costs no more than the one at work, and of that only what it
has not kept in its scratch file.
"""

from __future__ import annotations

import json
import logging
import shutil
import time
from dataclasses import replace
from typing import Any

from torch import nn

from bench.config.resources import Resources
from bench.config.science import RunConfig
from bench.evaluate.context import EvaluationContext, context_for, provenance, run_one
from bench.evaluate.kept import write_kept
from bench.models.weights import digest_of
from bench.process import interrupt
from bench.run.directory import AskedEvaluation, read_missing
from bench.run.progress import Progress
from bench.store.files import set_aside
from bench.store.result_files import Kind, files_beside, write_result
from bench.store.rundir import RunDir
from bench.store.snapshot import code_version
from bench.train import environment

log = logging.getLogger("bench")


def measure(
    run: RunDir, config: RunConfig, resources: Resources, model: nn.Module, progress: Progress
) -> None:
    """Make what is missing of what was asked for. Raises Interrupted when told to stop."""
    weights = digest_of(model)
    missing = read_missing(run, config, _measured_of(run, weights))
    if not missing:
        return

    def report(update: dict[str, Any]) -> None:
        interrupt.check()
        progress(update)

    whole = context_for(config, resources, model, report)
    alike: dict[str, EvaluationContext] = {}  # what is shown alike shares its features
    for asked in missing:
        shown = json.dumps(asked.shown, sort_keys=True)
        context = alike.setdefault(shown, replace(whole, input=asked.input(config.input)))
        result = _measure(run, config, resources, asked, context) | {"weights": weights}
        write_result(run.evaluation(asked.identity).result, Kind.EVALUATION, result)
        shutil.rmtree(run.scratch / asked.identity, ignore_errors=True)
        log.info("measured %s in %.0f s", asked.name, result["seconds"])


def _measured_of(run: RunDir, weights: str) -> set[str]:
    """The evaluations that are through. A run that was trained again may have come to other weights:
    numbers of the weights of before are renamed.
    """
    for folder, found in run.read_measured():
        if found.get("weights") not in (None, weights):
            log.warning(
                "%s is of other weights; now %s", folder.result, set_aside(folder.result).name
            )
    return run.measured()


def _measure(
    run: RunDir,
    config: RunConfig,
    resources: Resources,
    asked: AskedEvaluation,
    context: EvaluationContext,
) -> dict[str, Any]:
    """What one evaluation found; its predictions and pictures are written."""
    begun, folder = time.monotonic(), run.evaluation(asked.identity)
    context.scratch_folder = run.scratch / asked.identity
    rows = run_one(asked.name, asked.options, context)
    write_kept(folder, context)
    samples = context.samples(context.splits[0])
    device = environment.describe(context.device, threads=resources.threads)["device"]
    return {
        "signature": run.signature,
        "evaluation": asked.name,
        "version": asked.version,
        "options": asked.options.model_dump(mode="json"),
        "input": asked.shown,
        "data": config.data.name,
        "data_digest": samples.digest,
        "provenance": provenance(context.input, samples, context.spec.media),
        "rows": rows,
        "failed": {split: failed for split, failed in context.failed.items() if failed},
        "seconds": time.monotonic() - begun,
        "code": code_version(),
        "device": device,
        "files": files_beside(folder.path),
    }
