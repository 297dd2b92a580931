"""Evaluations of a trained model: rows {split, view, subset, metric, value, n} and per-sample
predictions.

    python -m bench.evaluate video.shuffle_gap --model runs/<signature> --data DIR [--out FILE.json]

The same modules run at the end of every cell (bench.run) and from this command line on any model.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from torch import Tensor

from bench import checkpoint, find
from bench.config import Input, Mistake, Mistakes, Resources, RunConfig, parse, parse_options
from bench.data import loader, shards
from bench.data.pack import available_cores
from bench.learner import build
from bench.models import released
from bench.models.classifier import Classifier
from bench.patch import parse_settings
from bench.rundir import RunDir, replacing, write_json
from bench.task import Batch, DataSpec, ModelSpec, Row, Samples
from bench.train import autocast, device, open_split, to_device


@dataclass
class Context:
    """What an evaluation gets: the model, the data, and places to leave progress and predictions."""

    model: Classifier  # in eval mode, on the device
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
    evaluation: str = ""
    predictions: list[pd.DataFrame] = field(default_factory=list)

    def count(self, split: str) -> int:
        """How many samples the split declares; an evaluation that saw another number must fail."""
        return len(self.open_split(split))

    def batches(self, split: str) -> Iterator[Batch]:
        """Every key exactly once, in stored order: the centre crop of each clip."""
        clips = loader.Clips(self.open_split(split), self.input)
        pin = self.device.type == "cuda"
        for raw in loader.evaluation_batches(
            clips, batch=self.batch, workers=self.workers, pin=pin
        ):
            yield to_device(raw, self.device, self.spec)

    def crops(self, split: str) -> Iterator[tuple[Batch, ...]]:
        """Every key exactly once, in stored order: its crops, one batch per crop."""
        clips = loader.Crops(self.open_split(split), self.input)
        pin = self.device.type == "cuda"
        for raws in loader.evaluation_crops(clips, batch=self.batch, workers=self.workers, pin=pin):
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
    return [{"evaluation": name, **row} for row in rows]


def write_predictions(path: Path, context: Context) -> None:
    if context.predictions:
        with replacing(path) as temporary:
            frame = pd.concat(context.predictions, ignore_index=True)
            frame.to_parquet(temporary, index=False)


def context_for(
    config: RunConfig,
    resources: Resources,
    model: Classifier,
    report: Callable[[dict[str, Any]], None],
) -> Context:
    """The context of a run's own evaluations."""
    planned = config.data_spec()
    opened = cache(partial(open_split, config, resources))
    # The data know the names of all their classes; the plan, made without them, need not.
    spec = replace(planned, classes=opened(planned.splits[1]).classes)
    return Context(
        model=model.eval(),
        spec=spec,
        model_spec=config.model_spec(),
        input=config.input,
        device=device(resources),
        seed=config.seed,
        precision=config.train.precision,
        batch=config.train.batch,
        workers=resources.workers,
        open_split=opened,
        splits=spec.splits[1:],
        report=report,
    )


# -- command line ---


@dataclass(frozen=True)
class Subject:
    """A model to evaluate and what is known of its input."""

    model: Classifier
    input: Input
    seed: int
    precision: str
    num_classes: int
    made_by: dict[str, Any]  # what to write down about the model
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


def subject_of(
    model: str,
    *,
    frames: int | None = None,
    size: int | None = None,
    backbone: Mapping[str, Any] | None = None,
) -> Subject:
    """runs/<signature>, or a released checkpoint: a file, or a folder of `save_pretrained`.

    `frames`, `size` and `backbone` (fields of its Config) say of a released checkpoint what its
    tensors do not show, or how to show clips to it. Raises ValueError with the remedy.
    """
    path = Path(model)
    run = RunDir(path)
    if run.config.exists():
        if frames or size or backbone:
            raise ValueError(
                f"--model {model} is a run, with a config of its own; --frames, --size, --heads "
                "and --backbone are for released checkpoints"
            )
        return _run_subject(run)
    if not path.exists():
        raise ValueError(f"--model {model}: neither a run directory nor a checkpoint file")
    return _released_subject(path, frames=frames, size=size, backbone=backbone or {})


def _run_subject(run: RunDir) -> Subject:
    config = parse(run.read_config())
    learner = build(config, weights_dir=None)
    state = checkpoint.load(run.last)
    if state is None:
        raise ValueError(
            f"{run.path} has no checkpoint yet; run it first: python -m bench.run {run.path}"
        )
    learner.load_state_dict(state["learner"])
    spec = config.data_spec()
    return Subject(
        model=learner.classifier,
        input=config.input,
        seed=config.seed,
        precision=config.train.precision,
        num_classes=spec.num_classes,
        made_by={
            "signature": run.signature,
            "backbone": config.dump()["model"],
            "frames": config.input.frames,
            "size": config.input.size,
        },
        mean=spec.mean,
        std=spec.std,
    )


def _released_subject(
    path: Path, *, frames: int | None, size: int | None, backbone: Mapping[str, Any]
) -> Subject:
    state = released.read(path)
    found = released.describe(state, settings=released.read_settings(path))
    loaded = released.build(state, found, backbone, frames=frames, size=size)
    built = loaded.description
    return Subject(
        model=loaded.model,
        input=Input(frames=built.frames, size=built.size),
        seed=0,
        precision="fp32",
        num_classes=built.num_classes,
        made_by={
            "sha256": shards.sha256_of(released.weights_file(path)),
            "backbone": {"name": built.backbone, **built.config},
            "frames": built.frames,
            "size": built.size,
            "mean": built.mean,
            "std": built.std,
        },
        mean=built.mean,
        std=built.std,
    )


def context_over(
    name: str, options: Any, subject: Subject, data: Path, resources: Resources, *, batch: int
) -> Context:
    """A context over the shards in `data`, checked against the model."""
    index = shards.read_index(data)
    spec = DataSpec(
        name=index["source"],
        media="video",
        classes=tuple(index["classes"]),
        subsets={k: tuple(v) for k, v in index["subsets"].items()},
        splits=tuple(index["splits"]),
        mean=subject.mean,
        std=subject.std,
    )
    if spec.num_classes != subject.num_classes:
        raise ValueError(
            f"the model has {subject.num_classes} classes, {data} has {spec.num_classes}: "
            "not the data this model was trained for"
        )
    backbone = subject.model.backbone
    model_spec = ModelSpec(
        frames=subject.input.frames,
        size=subject.input.size,
        patch=backbone.patch,
        dim=backbone.dim,
        num_classes=spec.num_classes,
        mean=spec.mean,
        std=spec.std,
        tubelet=getattr(backbone, "tubelet", 1),
    )
    module = find.load("evaluation", name)
    reason = module.skip(options, model_spec, spec) if hasattr(module, "skip") else None
    if reason:
        raise ValueError(f"{name} cannot run here: {reason}")
    target = device(resources)
    return Context(
        model=subject.model.to(target).eval(),
        spec=spec,
        model_spec=model_spec,
        input=subject.input,
        device=target,
        seed=subject.seed,
        precision=subject.precision,
        batch=batch,
        workers=resources.workers,
        open_split=cache(partial(shards.open_split, data)),
        splits=spec.splits[1:],
        report=lambda _: None,
    )


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    try:
        module = find.load("evaluation", options.evaluation)
        patch, backbone = _settings(options)
        config = parse_options("evaluation", options.evaluation, patch)
        resources = Resources(
            device=options.device, workers=options.workers, threads=options.threads
        )
        torch.set_num_threads(options.threads)
        subject = subject_of(
            options.model, frames=options.frames, size=options.size, backbone=backbone
        )
        if options.crops is not None:
            crops = subject.input.model_copy(update={"eval_crops": options.crops})
            subject = replace(subject, input=crops)
        context = context_over(
            options.evaluation, config, subject, options.data, resources, batch=options.batch
        )
    except (ValueError, RuntimeError, OSError) as error:
        print(f"python -m bench.evaluate: {error}", file=sys.stderr)
        return 2
    with Progress(console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task(options.evaluation, total=None)
        context.report = lambda p: bars.update(task, completed=p["done"], total=p["total"])
        rows = run_one(options.evaluation, config, context)
    _show(rows)
    if options.out:
        made_by = {
            "model": str(options.model),
            "data": str(options.data),
            "version": module.VERSION,
            "crops": subject.input.eval_crops,
            **subject.made_by,
        }
        write_json(options.out, {**made_by, "rows": rows})
    return 0


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
  python -m bench.evaluate video.order_probe --model TimeSformer_TIME.pyth --data data/ssv2 --out probe.json""",
    )
    parser.add_argument("evaluation", metavar="EVALUATION", help="e.g. video.shuffle_gap")
    parser.add_argument(
        "--model",
        required=True,
        help="runs/<signature>, a released checkpoint file, or a folder of save_pretrained",
    )
    parser.add_argument(
        "--data", type=Path, required=True, metavar="DIR", help="shards made by bench.prepare"
    )
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="also write the rows here")
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
        help="spatial crops whose logits are added; the paper: 3 (default: the run's own, else 1)",
    )
    parser.add_argument(
        "--batch", type=_positive, default=32, help="clips per forward pass (default: %(default)s)"
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
            table.add_row(*map(str, cells), f"{100 * row['value']:.1f}", str(row["n"]))
    Console().print(table)


if __name__ == "__main__":
    sys.exit(main())
