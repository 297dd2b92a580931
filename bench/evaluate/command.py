"""Evaluations of a trained model: rows {split, view, subset, metric, value, n} and per-sample
predictions.

    python -m bench.evaluate video.shuffle_gap,video.order_probe --model runs/<signature> --data DIR

The same modules run at the end of every cell (bench.run), from this command line, and from Python
(`bench.evaluate.evaluate`), on any model (bench.evaluate.model), over shards or a data set where it lies.
What the command line measures is kept in `<runs>/evaluated/`, where the report finds it: the same command
again shows it, and makes what is missing.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from rich.markup import escape
from rich.table import Table

from bench import components, find
from bench.config.mistakes import Mistake, Mistakes
from bench.config.resources import Resources
from bench.config.science import Input, parse_options
from bench.data import progress
from bench.data.access import open_data
from bench.data.limited import LimitedSamples
from bench.evaluate.arguments import parser
from bench.evaluate.model import label, load_named
from bench.evaluate.session import CallOptions, Measurement, measurements
from bench.grid.patch import parse_settings
from bench.models.named import Asked
from bench.shown.console import InertConsole
from bench.shown.streams import complain, log_to
from bench.store import places
from bench.store.files import write_json
from bench.task import Row, Samples


def main(arguments: list[str] | None = None) -> int:
    log_to(sys.stderr)
    options = parser().parse_args(components.take(arguments))
    rows: list[Row] = []
    try:
        made = _set_up(options)
        for measurement in made:
            with _progress() as report:
                found = measurement.rows(report, again=options.again)
            _show(measurement, found)
            rows += found
    except (ValueError, OSError) as error:
        complain(f"{components.program('bench.evaluate')}: {error}")
        return 2
    complain(f"python -m reports.build --runs {options.runs} shows it")
    if options.out:
        _write(options, made, rows)
    return 0


def _write(options: argparse.Namespace, made: Sequence[Measurement], rows: list[Row]) -> None:
    """The file of --out."""
    named = made[0].named
    made_by = {
        "model": str(options.model),
        "data": str(options.data),
        "versions": {one.name: find.load("evaluation", one.name).VERSION for one in made},
        "crops": named.input.eval_crops,
        "official": options.official,
        "limit": options.limit,
        **named.made_by,
    }
    write_json(options.out, {**made_by, "rows": rows})


@contextmanager
def _progress() -> Iterator[Callable[[dict[str, Any]], None]]:
    """A bar per phase on a terminal; without one a line per phase and tenth of it."""
    with ExitStack() as stack:
        show: Callable[[int, int], None] | None = None
        current = ""

        def report(update: dict[str, Any]) -> None:
            nonlocal show, current
            if update["phase"] != current:
                current = update["phase"]
                stack.close()
                show = stack.enter_context(progress.report(current))
            assert show is not None
            show(update["done"], update["total"])

        yield report


def _set_up(options: argparse.Namespace) -> list[Measurement]:
    """Everything that can be wrong with the command, before any work."""
    if problem := places.no_folder(options.runs):
        raise ValueError(f"--runs: {problem}")
    if problem := options.out and places.unwritable(options.out.parent):
        raise ValueError(f"--out: {problem}")
    patches, backbone = _settings(options)
    evaluations = {
        name: parse_options("evaluation", name, patches[name]) for name in options.evaluations
    }
    resources = Resources(device=options.device, workers=options.workers, threads=options.threads)
    torch.set_num_threads(options.threads)
    try:
        named = load_named(
            options.model,
            Asked(
                frames=options.frames,
                size=options.size,
                backbone=backbone,
                by_position=options.by_position,
                weights=options.weights_dir,
            ),
        )
    except RuntimeError as error:  # torch's own words for tensors that do not fit
        raise ValueError(str(error)) from error
    found = open_data(options.data, verify=options.verify)
    if options.limit:
        found = replace(found, open=partial(_limited, found.open, options.limit))
    if options.frames and found.spec.media == "image":
        raise ValueError("--frames: an image has one frame; leave it out")
    named = replace(named, input=_shown(named.input, options))
    shown = CallOptions(
        title=options.name or label(options.model),
        runs=options.runs,
        batch=options.batch,
        official=options.official,
        labels=options.labels,
    )
    return measurements(evaluations, named, found, resources, shown)


def _limited(whole: Callable[[str], Samples], count: int, split: str) -> Samples:
    return LimitedSamples(whole(split), count)


def _shown(settings: Input, options: argparse.Namespace) -> Input:
    """The model's input with what the command line says of views and crops."""
    asked = {
        "eval_crops": options.crops,
        "eval_views": options.views,
        "average": options.average,
        "stride": options.stride,
        "sampling": options.stride and "dense",
    }
    changes = {name: value for name, value in asked.items() if value is not None}
    return Input(**{**settings.model_dump(), **changes}) if changes else settings


def _settings(
    options: argparse.Namespace,
) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """What --set says of each evaluation, and --backbone and --heads of the model. Raises Mistakes."""
    for name in options.evaluations:
        find.load("evaluation", name)
    mistakes: list[Mistake] = []
    patches = _by_evaluation(options, mistakes)
    wrong: list[Mistake] = []
    backbone = parse_settings(options.backbone, wrong)
    mistakes += [replace(m, message=m.message.replace("--set", "--backbone", 1)) for m in wrong]
    if options.heads is not None and backbone.setdefault("heads", options.heads) != options.heads:
        mistakes.append(Mistake(("heads",), "--heads and --backbone say different numbers"))
    if mistakes:
        raise Mistakes(mistakes)
    return patches, backbone


def _by_evaluation(
    options: argparse.Namespace, mistakes: list[Mistake]
) -> dict[str, dict[str, Any]]:
    """What --set says of each: KEY=VALUE of the only one, EVALUATION.KEY=VALUE of one of several."""
    names = options.evaluations
    texts: dict[str, list[str]] = {name: [] for name in names}
    for text in options.set:
        named = [name for name in names if text.startswith(f"{name}.")]
        if named:
            texts[named[0]].append(text.removeprefix(f"{named[0]}."))
        elif len(names) == 1:
            texts[names[0]].append(text)
        else:
            ways = " or ".join(f"{name}.{text}" for name in names)
            mistakes.append(Mistake((), f"--set {text}: of which evaluation? {ways}"))
    return {name: parse_settings(given, mistakes) for name, given in texts.items()}


def _show(measurement: Measurement, rows: list[Row]) -> None:
    table = Table("split", "view", "subset", "metric", "value", "n", title=measurement.name)
    for row in rows:
        if not str(row["subset"]).startswith("class: "):
            cells = [row[k] for k in ("split", "view", "subset", "metric")]
            table.add_row(
                *(escape(str(cell)) for cell in cells), f"{100 * row['value']:.2f}", str(row["n"])
            )
    InertConsole().print(table)
    matched = measurement.named.made_by["labels"]
    kept = f"; kept in {measurement.kept.path}" if measurement.kept else ""
    complain(f"classes matched {matched}{kept}")
