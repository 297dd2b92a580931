"""The model of `bench.evaluate`, from whatever names it: a run, a released checkpoint, an adapter.

    runs/<signature>          `bench.train.learner`, filled from the run's last checkpoint
    a file, or a folder       `bench.models.released`: everything is read from the tensors
    <adapter>:<name>          `bench.models.adapters`: models of timm and of others, one file each

Nothing else is asked for: a `NamedModel` also says how its input must look.
"""

from __future__ import annotations

import re
from pathlib import Path

from bench import find
from bench.config.science import Input, parse
from bench.models import released
from bench.models.named import AdapterModule, Asked, NamedModel
from bench.store.files import sha256_of
from bench.store.rundir import RunDir
from bench.train import checkpoint
from bench.train.learner import build

UNNAMED = re.compile(r"class \d+")
"""How sources call classes whose names come with the data."""
RELEASED = ("frames", "size", "backbone")
"""What may be asked of a released checkpoint: what its tensors do not show, how to show it clips."""


def load_named(model: str, asked: Asked | None = None) -> NamedModel:
    """runs/<signature>, a released checkpoint (a file, or a folder of `save_pretrained`), or
    <adapter>:<name>.

    Raises ValueError, with the remedy, when there is no such model or it takes no such options.
    """
    asked = asked or Asked()
    path = Path(model)
    run = RunDir(path)
    if run.config.exists():
        asked.refuse_but((), model, "a run, with a config of its own")
        return _run_model(run)
    if path.exists():
        asked.refuse_but(RELEASED, model, "a released checkpoint")
        return _released_model(path, asked)
    adapter, colon, name = model.partition(":")
    if not colon:
        raise ValueError(
            f"--model {model}: neither a run directory nor a checkpoint file; models of others "
            f"begin with {', '.join(f'{known}:' for known in find.names('adapter'))}"
        )
    try:
        found: AdapterModule = find.load("adapter", adapter)
    except find.UnknownComponent as error:
        raise ValueError(f"--model {model}: there is no such file, and {error}") from error
    asked.refuse_but(find.optional("adapter", adapter, "OPTIONS"), model, f"one of {adapter}:")
    return found.load(name, asked)


def label(model: str) -> str:
    """How a table names a model that was given no name: without the folders of its files."""
    adapter, colon, name = model.partition(":")
    if not colon or Path(model).exists():
        return Path(model).name
    architecture, at, file = name.partition("@")
    shown = f"{architecture}@{Path(file).name}" if at else Path(name).name
    return f"{adapter}:{shown}"


def forms() -> str:
    """The adapters and what they take, for the help of a command."""
    return "; ".join(f"{n}:{find.load('adapter', n).FORM}" for n in find.names("adapter"))


def _run_model(run: RunDir) -> NamedModel:
    config = parse(run.read_config())
    learner = build(config, weights_dir=None)
    try:
        state = checkpoint.read(run.last, checkpoint.of_run(run, config, "learner"))
    except FileNotFoundError as error:
        raise ValueError(_without_weights(run)) from error
    learner.load_state_dict(state["learner"])
    spec = config.data_spec()
    return NamedModel(
        model=learner.classifier,
        media=spec.media,
        input=_shown(run, config.input),
        num_classes=spec.num_classes,
        made_by={
            "signature": run.signature,
            "backbone": config.dump()["model"],
            "frames": config.input.frames,
            "size": config.input.size,
        },
        mean=spec.mean,
        std=spec.std,
        class_names=None if any(map(UNNAMED.fullmatch, spec.classes)) else spec.classes,
    )


def _without_weights(run: RunDir) -> str:
    if run.result.exists():
        return (
            f"{run.path} is DONE and its checkpoints were deleted (resources.keep); run it again "
            "with --force, or in another --runs folder"
        )
    return f"{run.path} has no checkpoint yet; run it first: python -m bench.run {run.path}"


def _shown(run: RunDir, trained: Input) -> Input:
    """As clips were shown in its own evaluations, where those agree."""
    shown = [entry["input"] for entry in (run.read_asked() or {}).values()]
    alike = shown and all(one == shown[0] for one in shown)
    return Input(**{**trained.model_dump(), **shown[0]}) if alike else trained


def _released_model(path: Path, asked: Asked) -> NamedModel:
    state = released.read(path)
    found = released.describe(state, settings=released.read_settings(path))
    loaded = released.build(state, found, asked.backbone, frames=asked.frames, size=asked.size)
    built = loaded.description
    return NamedModel(
        model=loaded.model,
        media="video",
        input=Input(frames=built.frames, size=built.size),
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
