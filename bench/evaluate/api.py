"""The evaluations from Python: any model, also one in memory, on any data set.

    from bench.evaluate import evaluate
    evaluate(model, "UCF-101", ["video.shuffle_gap"], shown={"frames": 16, "size": 224, ...})

The same as `python -m bench.evaluate`, whose words it takes, but for a DataFrame that it returns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from torch import nn

from bench import find
from bench.config.mistakes import Mistake, Mistakes
from bench.config.resources import Resources
from bench.config.science import parse_options
from bench.data.access import open_data
from bench.evaluate.model import label, load_named
from bench.evaluate.session import CallOptions, measurements
from bench.models.named import NamedModel

COLUMNS = ("evaluation", "split", "view", "subset", "metric", "value", "n", "n_failed")


def evaluate(
    model: str | Path | NamedModel | nn.Module,
    data: str | Path,
    evaluations: Sequence[str] | Mapping[str, Mapping[str, Any]],
    *,
    shown: Mapping[str, Any] | None = None,
    runs: str | Path | None = None,
    batch: int = 32,
    device: str = "auto",
) -> pd.DataFrame:
    """Measure a model: COLUMNS, a row per number; values are fractions, n counts samples.

    `model`: an nn.Module that gives logits (B, K) of normalised clips (B, T, 3, H, W), or as `--model`
    names one. `shown` belongs to a module and says of its input {frames, size, mean, std} and perhaps
    {eval_scale, classes, axes}, see `bench.models.adapters.py.OwnInput`. `data`: shards, a folder of
    class folders, a list of videos. `evaluations`: names, or names with their options. With `runs` the
    results are kept there, for the report. Raises ValueError with all that is wrong before any work.
    """
    options: dict[str, Mapping[str, Any]] = {name: {} for name in evaluations}
    if isinstance(evaluations, Mapping):
        options |= evaluations
    configs = {name: parse_options("evaluation", name, given) for name, given in options.items()}
    named, title = _named(model, shown)
    call = CallOptions(title=title, runs=None if runs is None else Path(runs), batch=batch)
    made = measurements(configs, named, open_data(Path(data)), Resources(device=device), call)
    # A module in memory may compute something else with the same weights: it is measured anew.
    rows = [row for one in made for row in one.rows(lambda _: None, again=True)]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _named(
    model: str | Path | NamedModel | nn.Module, shown: Mapping[str, Any] | None
) -> tuple[NamedModel, str]:
    """And what tables call it."""
    if isinstance(model, nn.Module):
        name = type(model).__name__
        if shown is None:
            where = ("shown",)
            text = "missing: how the module sees clips, {frames, size, mean, std, ...}"
            raise Mistakes([Mistake(where, text)])
        return find.load("adapter", "py").described(name, model, shown), name
    if shown is not None:
        raise ValueError("shown: only an nn.Module is described; other models say it themselves")
    if isinstance(model, NamedModel):
        return model, type(model.model).__name__
    return load_named(str(model)), label(str(model))
