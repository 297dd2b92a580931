"""Evaluations of a trained model: rows {split, view, subset, metric, value, n} and per-sample
predictions.

    python -m bench.evaluate video.shuffle_gap --model runs/<signature> --data DIR [--out FILE.json]

The same modules run at the end of every cell (bench.run) and from this command line on any model
(bench.evaluate.model), over shards or a data set where it lies. What the command line measures is kept in
`<runs>/evaluated/` too, where the report finds it.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from bench import components, find
from bench.config.mistakes import Mistake, Mistakes
from bench.config.resources import Resources
from bench.config.science import Input, model_spec_of, parse_options
from bench.data import progress
from bench.data.access import open_data
from bench.evaluate.context import EvaluationContext, Normalisation, run_one
from bench.evaluate.kept import _Kept
from bench.evaluate.labels import labelled
from bench.evaluate.model import forms, load_named
from bench.grid.patch import parse_settings
from bench.models.named import Asked, NamedModel
from bench.process.machine import available_cores
from bench.store.files import write_json
from bench.task import DataSpec, Released, Row
from bench.train.world import ALONE

_Group = argparse._ArgumentGroup


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
        seed=named.seed,
        precision="fp32" if official else named.precision,
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


def main(arguments: list[str] | None = None) -> int:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    options = _parser().parse_args(components.take(arguments))
    try:
        config, named, context = _set_up(options)
        kept = _Kept(options, config, named, context)
        with _progress() as context.report:
            rows = run_one(options.evaluation, config, context)
    except (ValueError, OSError) as error:
        print(f"python -m bench.evaluate: {error}", file=sys.stderr)
        return 2
    _show(rows)
    print(f"classes matched {named.made_by['labels']}", file=sys.stderr)
    result = kept.write(rows)
    print(
        f"kept in {result}; python -m reports.build --runs {options.runs} shows it", file=sys.stderr
    )
    if options.out:
        made_by = {
            "model": str(options.model),
            "data": str(options.data),
            "version": find.load("evaluation", options.evaluation).VERSION,
            "crops": named.input.eval_crops,
            "official": options.official,
            **named.made_by,
        }
        write_json(options.out, {**made_by, "rows": rows})
    return 0


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


def _set_up(options: argparse.Namespace) -> tuple[Any, NamedModel, EvaluationContext]:
    """Everything that can be wrong with the command, before any work."""
    find.load("evaluation", options.evaluation)
    patch, backbone = _settings(options)
    config = parse_options("evaluation", options.evaluation, patch)
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
    found = open_data(options.data)
    named = _of_one_media(named, found.spec)
    if options.frames and found.spec.media == "image":
        raise ValueError("--frames: an image has one frame; leave it out")
    mapped = find.optional("evaluation", options.evaluation, "OUTPUTS")
    named = labelled(named, found.spec, mapped=mapped, file=options.labels)
    named = replace(named, input=_shown(named.input, options))
    context = context_over(
        options.evaluation,
        config,
        named,
        found,
        resources,
        batch=options.batch,
        official=options.official,
    )
    return config, named, context


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


def _settings(options: argparse.Namespace) -> tuple[dict[str, Any], dict[str, Any]]:
    """What --set says of the evaluation, and --backbone and --heads of the model. Raises Mistakes."""
    mistakes: list[Mistake] = []
    patch = parse_settings(options.set, mistakes)
    wrong: list[Mistake] = []
    backbone = parse_settings(options.backbone, wrong)
    mistakes += [replace(m, message=m.message.replace("--set", "--backbone", 1)) for m in wrong]
    if options.heads is not None and backbone.setdefault("heads", options.heads) != options.heads:
        mistakes.append(Mistake(("heads",), "--heads and --backbone say different numbers"))
    if mistakes:
        raise Mistakes(mistakes)
    return patch, backbone


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, got {text!r}")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.evaluate",
        parents=[components.option()],
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Evaluate a trained model: rows {split, view, subset, metric, value, n}.",
        epilog=f"""evaluations: {", ".join(find.names("evaluation"))}

examples:
  python -m bench.evaluate video.shuffle_gap --model runs/0123456789abcdef --data data/ssv2
  python -m bench.evaluate video.order_probe --model TimeSformer_TIME.pyth --data data/ssv2 --out probe.json
  python -m bench.evaluate video.shuffle_gap --model MODEL --data UCF-101      a folder of class folders
  python -m bench.evaluate video.shuffle_gap --model MODEL --data val.csv      a list of paths and labels
  python -m bench.evaluate image.background_shift --model timm:resnet50.a1_in1k --data bg_challenge
  python -m bench.evaluate image.background_challenge --model timm:deit_small_patch16_224@mine.pth \\
                           --data bg_challenge --official --name DeiT-S""",
    )
    parser.add_argument("evaluation", metavar="EVALUATION", help="e.g. video.shuffle_gap")
    parser.add_argument(
        "--model",
        required=True,
        help=f"runs/<signature>, a released checkpoint (a file, or a folder of save_pretrained), or {forms()}",
    )
    parser.add_argument(
        "--data",
        type=Path,
        required=True,
        metavar="DIR",
        help="shards made by bench.prepare, any labelled videos (a folder of class folders, or a list of "
        "paths and labels), or bg_challenge as it was released",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="an option of the evaluation",
    )
    _add_result_arguments(parser.add_argument_group("the result"))
    _add_model_arguments(parser.add_argument_group("the model"))
    _add_view_arguments(parser.add_argument_group("how the data are shown"))
    _add_machine_arguments(parser.add_argument_group("the machine"))
    return parser


def _add_result_arguments(group: _Group) -> None:
    group.add_argument("--out", type=Path, metavar="FILE.json", help="also write the rows here")
    group.add_argument("--name", help="what tables call the model (default: as it was given)")
    group.add_argument(
        "--runs",
        type=Path,
        default=Path("runs"),
        metavar="DIR",
        help="where the result is kept for the report (default: %(default)s)",
    )


def _add_model_arguments(group: _Group) -> None:
    group.add_argument(
        "--weights-dir",
        type=Path,
        default=Path("data/weights"),
        metavar="DIR",
        help="where timm:<name> finds its weights (default: %(default)s, then timm's caches)",
    )
    group.add_argument(
        "--labels",
        type=Path,
        metavar="FILE",
        help="names of the model's classes in the order of its logits: a line each, or JSON (a list, or "
        "id2label); matched to the data's by name (default: the model's own names, else by position)",
    )
    group.add_argument(
        "--by-position",
        action="store_true",
        help="the weights of timm:<name>@<file> have other names, but the same order and shapes",
    )
    group.add_argument(
        "--heads",
        type=_positive,
        help="attention heads of a released checkpoint (default: config.json's, or width / 64)",
    )
    group.add_argument(
        "--backbone",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="another option of a released checkpoint's backbone that its tensors do not show",
    )
    group.add_argument(
        "--frames", type=_positive, help="frames per clip, if not those of a released checkpoint"
    )
    group.add_argument(
        "--size",
        type=_positive,
        metavar="PIXELS",
        help="side of the crop, if not that of a released checkpoint",
    )


def _add_view_arguments(group: _Group) -> None:
    group.add_argument(
        "--official",
        action="store_true",
        help="exactly as the evaluator that was released with the data: images as stored, and its "
        "normalisation instead of the model's (the Backgrounds Challenge has one)",
    )
    group.add_argument(
        "--crops",
        type=int,
        choices=[1, 3],
        help="spatial crops of videos whose logits are added; the paper: 3 (default: the run's own, "
        "else 1)",
    )
    group.add_argument(
        "--views",
        type=_positive,
        metavar="N",
        help="temporal views of videos, each in all crops (default: the run's own, else 1)",
    )
    group.add_argument(
        "--stride",
        type=_positive,
        metavar="N",
        help="frames in a row, so many apart (dense sampling, as on Kinetics), instead of one from "
        "each of equal segments",
    )
    group.add_argument(
        "--average",
        choices=["logits", "probabilities"],
        help="what is averaged over views and crops (default: the run's own, else logits)",
    )


def _add_machine_arguments(group: _Group) -> None:
    group.add_argument(
        "--batch",
        type=_positive,
        default=32,
        help="clips or images per forward pass (default: %(default)s)",
    )
    group.add_argument(
        "--device", default="auto", help="auto, cpu, cuda, cuda:1 (default: %(default)s)"
    )
    group.add_argument(
        "--workers", type=int, default=0, help="loader processes (default: %(default)s)"
    )
    group.add_argument("--threads", type=int, default=available_cores(), help="CPU threads")


def _show(rows: list[Row]) -> None:
    table = Table("split", "view", "subset", "metric", "value", "n")
    for row in rows:
        if not str(row["subset"]).startswith("class: "):
            cells = [row[k] for k in ("split", "view", "subset", "metric")]
            table.add_row(*map(str, cells), f"{100 * row['value']:.2f}", str(row["n"]))
    Console().print(table)
