"""The model of `bench.evaluate`, from whatever names it: a run, a released checkpoint, a timm model.

    runs/<signature>          `bench.train.learner`, filled from the run's last checkpoint
    a file, or a folder       `bench.models.released`: everything is read from the tensors
    timm:<name>[@<file>]      `bench.models.pretrained`: any image classifier

Nothing else is asked for: a `NamedModel` also says how its input must look.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.config.science import Input, parse
from bench.models import pretrained, released
from bench.models.named import NamedModel
from bench.store.files import sha256_of
from bench.store.rundir import RunDir
from bench.train import checkpoint
from bench.train.learner import build

TIMM = "timm:"


def load_named(
    model: str,
    *,
    frames: int | None = None,
    size: int | None = None,
    backbone: Mapping[str, Any] | None = None,
    weights: Path | None = None,
    by_position: bool = False,
) -> NamedModel:
    """runs/<signature>, a released checkpoint (a file, or a folder of `save_pretrained`), or
    timm:<name>[@<file>], whose weights are else looked up in `weights` and in timm's caches.

    `frames`, `size` and `backbone` (fields of its Config) say of a released checkpoint what its
    tensors do not show, or how to show clips to it; `by_position` is explained in
    `pretrained.load`. Raises ValueError with the remedy.
    """
    if by_position and not model.startswith(TIMM):
        raise ValueError("--by-position is for --model timm:<name>@<file>")
    if (frames or size or backbone) and (kind := _complete(model)):
        raise ValueError(
            f"--model {model} is {kind}; --frames, --size, --heads "
            "and --backbone are for released checkpoints"
        )
    if model.startswith(TIMM):
        return _timm_model(model, weights=weights, by_position=by_position)
    path = Path(model)
    run = RunDir(path)
    if run.config.exists():
        return _run_model(run)
    if not path.exists():
        raise ValueError(
            f"--model {model}: neither a run directory nor a checkpoint file; an image model of "
            f"timm is named {TIMM}<name>[@<file>]"
        )
    return _released_model(path, frames=frames, size=size, backbone=backbone or {})


def _complete(model: str) -> str | None:
    """What kind of model needs no options, in words."""
    if model.startswith(TIMM):
        return "a model of timm, which knows its input"
    return "a run, with a config of its own" if RunDir(Path(model)).config.exists() else None


def _timm_model(model: str, *, weights: Path | None, by_position: bool) -> NamedModel:
    name, _, file = model.removeprefix(TIMM).partition("@")
    loaded = pretrained.load(
        name, file=Path(file) if file else None, folder=weights, by_position=by_position
    )
    return NamedModel(
        model=pretrained.ImageClassifier(loaded.model),
        media="image",
        input=Input(frames=1, size=loaded.size),
        seed=0,
        precision="fp32",
        num_classes=loaded.num_classes,
        made_by={**loaded.record, "size": loaded.size, "mean": loaded.mean, "std": loaded.std},
        mean=loaded.mean,
        std=loaded.std,
    )


def _run_model(run: RunDir) -> NamedModel:
    config = parse(run.read_config())
    learner = build(config, weights_dir=None)
    state = checkpoint.load(run.last)
    if state is None and run.result.exists():
        raise ValueError(
            f"{run.path} is DONE and its checkpoints were deleted (resources.keep); run it again "
            "with --force, or in another --runs folder"
        )
    if state is None:
        raise ValueError(
            f"{run.path} has no checkpoint yet; run it first: python -m bench.run {run.path}"
        )
    learner.load_state_dict(state["learner"])
    spec = config.data_spec()
    return NamedModel(
        model=learner.classifier,
        media=spec.media,
        input=_shown(run, config.input),
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


def _shown(run: RunDir, trained: Input) -> Input:
    """As clips were shown in its own evaluations, where those agree."""
    shown = [entry["input"] for entry in (run.read_asked() or {}).values()]
    alike = shown and all(one == shown[0] for one in shown)
    return Input(**{**trained.model_dump(), **shown[0]}) if alike else trained


def _released_model(
    path: Path, *, frames: int | None, size: int | None, backbone: Mapping[str, Any]
) -> NamedModel:
    state = released.read(path)
    found = released.describe(state, settings=released.read_settings(path))
    loaded = released.build(state, found, backbone, frames=frames, size=size)
    built = loaded.description
    return NamedModel(
        model=loaded.model,
        media="video",
        input=Input(frames=built.frames, size=built.size),
        seed=0,
        precision="fp32",
        num_classes=built.num_classes,
        made_by={
            "sha256": sha256_of(released.weights_file(path)),
            "backbone": {"name": built.backbone, **built.config},
            "frames": built.frames,
            "size": built.size,
            "mean": built.mean,
            "std": built.std,
        },
        mean=built.mean,
        std=built.std,
    )
