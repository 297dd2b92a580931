"""Evaluations of a trained model: rows {split, view, subset, metric, value, n} and per-sample
predictions.

    python -m bench.evaluate video.shuffle_gap --model runs/<signature> --data DIR [--out FILE.json]

The same modules run at the end of every cell (bench.run) and from this command line on any model
(bench.subject), over shards or a data set as released. What the command line measures is kept in
`<runs>/evaluated/` too, where the report finds it.
"""

from __future__ import annotations

import argparse
import logging
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from bench import find
from bench.config.mistakes import Mistake, Mistakes
from bench.config.resources import Resources
from bench.config.science import Input, RunConfig, parse_options
from bench.config.signature import digest
from bench.data import imagenet9, loader, progress
from bench.data.access import open_data, open_split
from bench.data.transforms import centre_crop, normalise, normalise_exactly
from bench.grid.patch import parse_settings
from bench.process.machine import available_cores
from bench.store.files import replacing, write_json
from bench.store.rundir import RunDir, evaluated_path
from bench.subject import TIMM, Subject, subject_of
from bench.task import Batch, DataSpec, Images, ModelSpec, Row, Samples
from bench.train.step import autocast, to_device
from bench.train.world import ALONE

log = logging.getLogger("bench")

MAX_FAILED = 0.05
"""Share of a split whose samples may be undecodable, and so wrong."""


@dataclass
class Context:
    """What an evaluation gets: the model, the data, and places to leave progress and predictions."""

    model: nn.Module  # in eval mode, on the device
    spec: DataSpec
    model_spec: ModelSpec
    input: Input
    device: torch.device
    seed: int
    precision: str
    batch: int
    workers: int
    open_split: Callable[[str], Samples]
    splits: tuple[str, ...]
    report: Callable[[dict[str, Any]], None]
    scratch_folder: Path | None = None
    official: bool = False  # images as the Backgrounds Challenge's own evaluator shows them
    evaluation: str = ""
    predictions: list[pd.DataFrame] = field(default_factory=list)
    pictures: dict[str, np.ndarray] = field(default_factory=dict)  # "<evaluation>/<name>"
    # split -> key -> why it could not be decoded
    failed: dict[str, dict[str, str]] = field(default_factory=dict)

    @property
    def scratch(self) -> Path | None:
        """Where the running evaluation may keep its state until its rows are written."""
        return self.scratch_folder and self.scratch_folder / self.evaluation

    def samples(self, split: str) -> Samples:
        return self.open_split(split)

    def images(self, split: str) -> Iterator[Images]:
        """Every image exactly once, in stored order and as stored, on the device."""
        pin = self.device.type == "cuda"
        for batch in loader.evaluation_images(
            self.open_split(split), batch=self.batch, workers=self.workers, pin=pin
        ):
            images_BHWC, labels_B = (
                x.to(self.device, non_blocking=True) for x in (batch.images_BHWC, batch.labels_B)
            )
            yield Images(images_BHWC, labels_B, batch.keys)

    def to_clip(self, images_BHWC: Tensor) -> Tensor:
        """uint8 images on the device -> clip_BTCHW (T = 1) as the model wants it.

        The official evaluator shows images as they are stored, and normalises for all models alike.
        """
        if self.official:
            mean, std = official_normalisation(self.model_spec.num_classes)
            return normalise_exactly(images_BHWC[:, None], mean, std)
        return normalise(
            centre_crop(images_BHWC, self.input)[:, None], self.spec.mean, self.spec.std
        )

    def whole_images(self, split: str) -> Iterator[Batch]:
        """Every image exactly once, in stored order, whole, as the model wants it."""
        waiting: list[Batch] = []
        for images in self.images(split):
            clip_BTCHW = self.to_clip(images.images_BHWC)
            full = sum(len(batch.keys) for batch in waiting) + len(images.keys) > self.batch
            if waiting and (full or waiting[0].clip_BTCHW.shape[1:] != clip_BTCHW.shape[1:]):
                yield _joined(waiting)
                waiting = []
            waiting.append(Batch(clip_BTCHW, images.labels_B, images.keys))
        if waiting:
            yield _joined(waiting)

    def keep_picture(self, name: str, image_HWC: np.ndarray) -> None:
        self.pictures[f"{self.evaluation}/{name}"] = image_HWC

    def count(self, split: str) -> int:
        """How many samples the split declares; an evaluation that saw another number must fail."""
        return len(self.open_split(split))

    def batches(self, split: str) -> Iterator[Batch]:
        """Every key exactly once, in stored order: the centre crop of each clip."""
        clips = loader.Clips(self.open_split(split), self.input, resized=self._resized)
        pin = self.device.type == "cuda"
        for raw in loader.evaluation_batches(
            clips, batch=self.batch, workers=self.workers, pin=pin
        ):
            self._note_failed(split, raw.failed)
            yield to_device(raw, self.device, self.spec)

    @property
    def _resized(self) -> bool:
        """Whether loader workers resize crops: a GPU does the same in next to no time."""
        return self.device.type == "cpu"

    @property
    def clips_per_sample(self) -> int:
        return self.input.eval_clips

    def averaged(self, logits_CBK: Tensor) -> Tensor:
        """Of the clips of each sample -> (B, K)."""
        if self.input.average == "probabilities":
            return logits_CBK.float().softmax(-1).mean(dim=0).log()
        return logits_CBK.float().sum(dim=0) / len(logits_CBK)

    def _note_failed(self, split: str, failed: Mapping[str, str]) -> None:
        """Raises ValueError when so many samples fail that the data as a whole must be wrong."""
        noted = self.failed.setdefault(split, {})
        for key, reason in failed.items():
            if key not in noted:
                log.warning("counts as wrong: %s", reason)
                noted[key] = reason
        if len(noted) > max(1, MAX_FAILED * self.count(split)):
            raise ValueError(
                f"{len(noted)} of {self.count(split)} samples of split {split} cannot be decoded, more "
                f"than {MAX_FAILED:.0%}: the data are damaged (python -m bench.prepare ... --check "
                f"says where). First: {next(iter(noted.values()))}"
            )

    def crops(self, split: str) -> Iterator[tuple[Batch, ...]]:
        """Every key exactly once, in stored order: its views and crops, one batch for each."""
        clips = loader.Crops(self.open_split(split), self.input, resized=self._resized)
        pin = self.device.type == "cuda"
        for raws in loader.evaluation_crops(clips, batch=self.batch, workers=self.workers, pin=pin):
            self._note_failed(split, raws[0].failed)
            yield tuple(to_device(raw, self.device, self.spec) for raw in raws)

    def progress(self, done: int, total: int, text: str = "") -> None:
        phase = f"{self.evaluation} {text}".strip()
        self.report({"phase": phase, "done": done, "total": total})

    def record(
        self, split: str, view: str, keys: Sequence[str], labels: Tensor, logits: Tensor
    ) -> None:
        """Keep what was predicted for each sample, so that a new metric needs no new GPU hours."""
        probabilities = logits.float().softmax(-1).cpu()
        confidence, top = probabilities.topk(min(5, probabilities.shape[-1]), dim=-1)
        failed = self.failed.get(split, {})
        undecoded_B = torch.tensor([key in failed for key in keys])
        top[undecoded_B], confidence[undecoded_B] = -1, 0.0  # nothing was predicted
        self.predictions.append(
            pd.DataFrame(
                {
                    "evaluation": self.evaluation,
                    "split": split,
                    "view": view,
                    "key": list(keys),
                    "label": labels.cpu().numpy(),
                    "top5": list(top.numpy()),
                    "confidence": confidence[:, 0].numpy(),
                }
            )
        )


def run_all(config: RunConfig, context: Context) -> list[Row]:
    """Every evaluation of a run, in name order. Rows carry the evaluation's name."""
    rows: list[Row] = []
    for name, part in sorted(config.evaluations.items()):
        rows += run_one(name, part.config, context)
    return rows


def run_one(name: str, options: Any, context: Context) -> list[Row]:
    context.evaluation = name
    context.model.eval()
    with torch.no_grad(), autocast(context.device, context.precision):
        rows = find.load("evaluation", name).run(options, context)
    failed = {split: len(keys) for split, keys in context.failed.items()}
    return [{"evaluation": name, "n_failed": failed.get(row["split"], 0), **row} for row in rows]


def _joined(batches: Sequence[Batch]) -> Batch:
    """One batch of all of them."""
    return Batch(
        torch.cat([batch.clip_BTCHW for batch in batches]),
        torch.cat([batch.labels_B for batch in batches]),
        tuple(key for batch in batches for key in batch.keys),
    )


def write_predictions(path: Path, context: Context) -> None:
    if context.predictions:
        with replacing(path) as temporary:
            frame = pd.concat(context.predictions, ignore_index=True)
            frame.to_parquet(temporary, index=False)


def write_pictures(folder: Path, context: Context) -> None:
    for name, image_HWC in context.pictures.items():
        path = folder / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            Image.fromarray(image_HWC).save(temporary, format="png")


def context_for(
    config: RunConfig,
    resources: Resources,
    model: nn.Module,
    report: Callable[[dict[str, Any]], None],
    scratch: Path | None = None,
) -> Context:
    """The context of a run's own evaluations."""
    planned = config.data_spec()
    opened = cache(partial(open_split, config, resources))
    # The data know all their classes and which of them are in a subset; the plan, made without
    # them, need not.
    held_out = opened(planned.splits[1])
    subsets = planned.subsets or held_out.subsets
    spec = replace(planned, classes=held_out.classes, subsets=subsets)
    return Context(
        model=model.eval(),
        spec=spec,
        model_spec=config.model_spec(),
        input=config.input,
        device=ALONE.device(resources),
        seed=config.seed,
        precision=config.train.precision,
        batch=config.train.batch,
        workers=resources.workers,
        open_split=opened,
        splits=spec.splits[1:],
        report=report,
        scratch_folder=scratch,
    )


def provenance(settings: Input, samples: Samples, media: str, official: bool = False) -> str:
    """How what was evaluated was made. Rows that differ in it are never averaged together."""
    if media == "image":
        if official:
            return f"{samples.provenance}; as stored, the official normalisation"
        scale = f"short side {settings.eval_scale:g} x {settings.size}"
        return f"{samples.provenance}; whole images, {scale}, centre crop"
    clip = f"{settings.frames} frames, segment midpoints"
    if settings.sampling == "dense":
        clip = f"{settings.frames} frames, every {settings.stride}, dense"
    elif settings.eval_views > 1:
        clip = f"{settings.frames} frames, one per segment"
    scale = f"short side {settings.eval_scale:g} x {settings.size}"
    views = f"{settings.eval_views} temporal view{'s' if settings.eval_views > 1 else ''}"
    crops = {1: "1 centre crop", 3: "3 crops"}[settings.eval_crops]
    averaged = ", probabilities averaged" if settings.average == "probabilities" else ""
    return f"{samples.provenance}; {clip}, {scale}, {views} x {crops}{averaged}"


# -- command line ---


def context_over(
    name: str,
    options: Any,
    subject: Subject,
    data: Path,
    resources: Resources,
    *,
    batch: int,
    official: bool = False,
) -> Context:
    """A context over the data set in `data`, checked against the model. ValueError: a mismatch."""
    found = open_data(data)
    spec = replace(found.spec, mean=subject.mean, std=subject.std)
    if subject.media != spec.media:
        raise ValueError(f"the model sees {subject.media}s, {data} holds {spec.media}s")
    module = find.load("evaluation", name)
    outputs = (spec.num_classes, *getattr(module, "OUTPUTS", ()))
    if subject.num_classes not in outputs:
        raise ValueError(
            f"the model has {subject.num_classes} classes, {data} ({spec.name}) has "
            f"{' or '.join(map(str, outputs))}: not the data this model was trained for"
        )
    backbone = subject.model.backbone
    model_spec = ModelSpec(
        frames=subject.input.frames,
        size=subject.input.size,
        patch=getattr(backbone, "patch", subject.input.size),
        dim=getattr(backbone, "dim", 0),
        num_classes=subject.num_classes,
        mean=spec.mean,
        std=spec.std,
        tubelet=getattr(backbone, "tubelet", 1),
    )
    reason = module.skip(options, model_spec, spec) if hasattr(module, "skip") else None
    if reason:
        raise ValueError(f"{name} cannot run here: {reason}")
    if official and (spec.media != "image" or subject.num_classes not in (9, 1000)):
        raise ValueError(
            "--official is the way of the Backgrounds Challenge: images, 9 or 1000 classes"
        )
    target = ALONE.device(resources)
    context = Context(
        model=subject.model.to(target).eval(),
        spec=spec,
        model_spec=model_spec,
        input=subject.input,
        device=target,
        seed=subject.seed,
        precision="fp32" if official else subject.precision,
        batch=batch,
        workers=resources.workers,
        open_split=cache(found.open),
        splits=found.splits,
        report=lambda _: None,
        official=official,
    )
    if official:
        _try_stored_size(context)
    return context


def official_normalisation(outputs: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and std that the Backgrounds Challenge's evaluator gives a model with so many outputs:
    those of ImageNet-9 for nine, those of ImageNet for 1000, whatever the model was trained with.
    """
    if outputs == len(imagenet9.CLASSES):
        return imagenet9.MEAN, imagenet9.STD
    return (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def _try_stored_size(context: Context) -> None:
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
    options = _parser().parse_args(arguments)
    try:
        config, subject, context = _set_up(options)
        kept = _Kept(options, config, subject, context)
        with _progress() as context.report:
            rows = run_one(options.evaluation, config, context)
    except (ValueError, OSError) as error:
        print(f"python -m bench.evaluate: {error}", file=sys.stderr)
        return 2
    _show(rows)
    result = kept.write(rows)
    print(
        f"kept in {result}; python -m reports.build --runs {options.runs} shows it", file=sys.stderr
    )
    if options.out:
        made_by = {
            "model": str(options.model),
            "data": str(options.data),
            "version": find.load("evaluation", options.evaluation).VERSION,
            "crops": subject.input.eval_crops,
            "official": options.official,
            **subject.made_by,
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


def _set_up(options: argparse.Namespace) -> tuple[Any, Subject, Context]:
    """Everything that can be wrong with the command, before any work."""
    find.load("evaluation", options.evaluation)
    patch, backbone = _settings(options)
    config = parse_options("evaluation", options.evaluation, patch)
    resources = Resources(device=options.device, workers=options.workers, threads=options.threads)
    torch.set_num_threads(options.threads)
    try:
        subject = subject_of(
            options.model,
            frames=options.frames,
            size=options.size,
            backbone=backbone,
            weights=options.weights_dir,
            by_position=options.by_position,
        )
    except RuntimeError as error:  # torch's own words for tensors that do not fit
        raise ValueError(str(error)) from error
    subject = replace(subject, input=_shown(subject.input, options))
    context = context_over(
        options.evaluation,
        config,
        subject,
        options.data,
        resources,
        batch=options.batch,
        official=options.official,
    )
    return config, subject, context


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


class _Kept:
    """The file among the runs that the report reads, named by model and by all that was asked."""

    def __init__(
        self, options: argparse.Namespace, config: Any, subject: Subject, context: Context
    ) -> None:
        samples = context.samples(context.splits[0])
        self._context = context
        self._result = {
            "model": options.name or _label(options.model),
            "evaluation": options.evaluation,
            "version": find.load("evaluation", options.evaluation).VERSION,
            "options": config.model_dump(mode="json"),
            "data": context.spec.name,
            "data_digest": samples.digest,
            "provenance": provenance(context.input, samples, context.spec.media, options.official),
            "official": options.official,
            "made_by": subject.made_by,
        }
        slug = re.sub(r"[^A-Za-z0-9._=+-]+", "_", f"{self._result['model']}-{options.evaluation}")
        self._path = evaluated_path(options.runs, f"{slug}-{digest(self._result)[:8]}")
        self._folder = RunDir(self._path.with_suffix(""))
        context.scratch_folder = self._folder.scratch

    def write(self, rows: list[Row]) -> Path:
        write_pictures(self._folder.pictures, self._context)
        if self._context.predictions:
            self._folder.path.mkdir(parents=True, exist_ok=True)
        write_predictions(self._folder.predictions, self._context)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        write_json(self._path, {**self._result, "failed": self._context.failed, "rows": rows})
        shutil.rmtree(self._folder.scratch, ignore_errors=True)
        return self._path


def _label(model: str) -> str:
    """How a table names a model that was given no name: without the folders of its files."""
    if not model.startswith(TIMM):
        return Path(model).name
    name, at, file = model.partition("@")
    return f"{name}{at}{Path(file).name}"


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
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Evaluate a trained model: rows {split, view, subset, metric, value, n}.",
        epilog=f"""evaluations: {", ".join(find.names("evaluation"))}

examples:
  python -m bench.evaluate video.shuffle_gap --model runs/0123456789abcdef --data data/ssv2
  python -m bench.evaluate video.order_probe --model TimeSformer_TIME.pyth --data data/ssv2 --out probe.json
  python -m bench.evaluate image.background_shift --model timm:resnet50.a1_in1k --data bg_challenge
  python -m bench.evaluate image.background_challenge --model timm:deit_small_patch16_224@mine.pth \\
                           --data bg_challenge --official --name DeiT-S""",
    )
    parser.add_argument("evaluation", metavar="EVALUATION", help="e.g. video.shuffle_gap")
    parser.add_argument(
        "--model",
        required=True,
        help="runs/<signature>, a released checkpoint file, a folder of save_pretrained, or "
        "timm:<name>[@<weights file>]",
    )
    parser.add_argument(
        "--data",
        type=Path,
        required=True,
        metavar="DIR",
        help="shards made by bench.prepare, or bg_challenge as it was released",
    )
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="also write the rows here")
    parser.add_argument("--name", help="what tables call the model (default: as it was given)")
    parser.add_argument(
        "--runs",
        type=Path,
        default=Path("runs"),
        metavar="DIR",
        help="where the result is kept for the report (default: %(default)s)",
    )
    parser.add_argument(
        "--official",
        action="store_true",
        help="exactly as the Backgrounds Challenge's own evaluator: images as stored, and its "
        "normalisation instead of the model's",
    )
    parser.add_argument(
        "--weights-dir",
        type=Path,
        default=Path("data/weights"),
        metavar="DIR",
        help="where timm:<name> finds its weights (default: %(default)s, then timm's caches)",
    )
    parser.add_argument(
        "--by-position",
        action="store_true",
        help="the weights of timm:<name>@<file> have other names, but the same order and shapes",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="an option of the evaluation",
    )
    parser.add_argument(
        "--heads",
        type=_positive,
        help="attention heads of a released checkpoint (default: config.json's, or width / 64)",
    )
    parser.add_argument(
        "--backbone",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="another option of a released checkpoint's backbone that its tensors do not show",
    )
    parser.add_argument(
        "--frames", type=_positive, help="frames per clip, if not those of a released checkpoint"
    )
    parser.add_argument(
        "--size",
        type=_positive,
        metavar="PIXELS",
        help="side of the crop, if not that of a released checkpoint",
    )
    parser.add_argument(
        "--crops",
        type=int,
        choices=[1, 3],
        help="spatial crops of videos whose logits are added; the paper: 3 (default: the run's own, "
        "else 1)",
    )
    parser.add_argument(
        "--views",
        type=_positive,
        metavar="N",
        help="temporal views of videos, each in all crops (default: the run's own, else 1)",
    )
    parser.add_argument(
        "--stride",
        type=_positive,
        metavar="N",
        help="frames in a row, so many apart (dense sampling, as on Kinetics), instead of one from "
        "each of equal segments",
    )
    parser.add_argument(
        "--average",
        choices=["logits", "probabilities"],
        help="what is averaged over views and crops (default: the run's own, else logits)",
    )
    parser.add_argument(
        "--batch",
        type=_positive,
        default=32,
        help="clips or images per forward pass (default: %(default)s)",
    )
    parser.add_argument(
        "--device", default="auto", help="auto, cpu, cuda, cuda:1 (default: %(default)s)"
    )
    parser.add_argument(
        "--workers", type=int, default=0, help="loader processes (default: %(default)s)"
    )
    parser.add_argument("--threads", type=int, default=available_cores(), help="CPU threads")
    return parser


def _show(rows: list[Row]) -> None:
    table = Table("split", "view", "subset", "metric", "value", "n")
    for row in rows:
        if not str(row["subset"]).startswith("class: "):
            cells = [row[k] for k in ("split", "view", "subset", "metric")]
            table.add_row(*map(str, cells), f"{100 * row['value']:.2f}", str(row["n"]))
    Console().print(table)


if __name__ == "__main__":
    sys.exit(main())
