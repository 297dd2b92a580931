"""The options of `bench.evaluate`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import get_args

from bench import components, find
from bench.data.shards.stamps import Verify
from bench.evaluate.model import forms
from bench.process.machine import available_cores

_Group = argparse._ArgumentGroup


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, got {text!r}")
    return int(text)


def _names(text: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    if not names:
        raise argparse.ArgumentTypeError("name at least one evaluation")
    return names


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog=components.program("bench.evaluate"),
        parents=[components.option()],
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Evaluate a trained model: rows {split, view, subset, metric, value, n}.",
        epilog=f"""evaluations: {", ".join(find.names("evaluation"))}

examples:
  python -m bench.evaluate video.shuffle_gap --model runs/0123456789abcdef --data data/ssv2
  python -m bench.evaluate video.order_probe --model TimeSformer_TIME.pyth --data data/ssv2 --out probe.json
  python -m bench.evaluate video.shuffle_gap,video.order_probe --model MODEL --data data/ssv2
  python -m bench.evaluate video.shuffle_gap --model MODEL --data UCF-101      a folder of class folders
  python -m bench.evaluate video.shuffle_gap --model MODEL --data val.csv      a list of paths and labels
  python -m bench.evaluate image.background_shift --model timm:resnet50.a1_in1k --data bg_challenge
  python -m bench.evaluate image.background_challenge --model timm:deit_small_patch16_224@mine.pth \\
                           --data bg_challenge --official --name DeiT-S""",
    )
    made.add_argument(
        "evaluations",
        type=_names,
        metavar="EVALUATION[,EVALUATION...]",
        help="e.g. video.shuffle_gap; several share the model's features and are kept one by one",
    )
    made.add_argument(
        "--model",
        required=True,
        help=f"runs/<signature>, a released checkpoint (a file, or a folder of save_pretrained), or {forms()}",
    )
    made.add_argument(
        "--data",
        type=Path,
        required=True,
        metavar="DIR",
        help="shards made by bench.prepare, any labelled videos (a folder of class folders, or a list of "
        "paths and labels), or bg_challenge as it was released",
    )
    made.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="an option of the evaluation; of one of several: EVALUATION.KEY=VALUE",
    )
    _add_result_arguments(made.add_argument_group("the result"))
    _add_model_arguments(made.add_argument_group("the model"))
    _add_view_arguments(made.add_argument_group("how the data are shown"))
    _add_machine_arguments(made.add_argument_group("the machine"))
    return made


def _add_result_arguments(group: _Group) -> None:
    group.add_argument("--out", type=Path, metavar="FILE.json", help="also write the rows here")
    group.add_argument(
        "--again",
        action="store_true",
        help="measure what is kept already too (without it that is only shown: the same command goes on "
        "where it was stopped)",
    )
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
        "--limit",
        type=_positive,
        metavar="N",
        help="only N samples of each class, the same for every model: a first look, which stands in no "
        "table",
    )
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
    group.add_argument(
        "--verify",
        choices=get_args(Verify),
        default="first",
        help="compare the shards of --data with their SHA-256: first (once on a machine, again when a file "
        "has changed), always, or never (default: %(default)s)",
    )
