"""A model of the user's own: `--model py:<module>:<function>`, any nn.Module, without a file in the suite.

    def function() -> tuple[nn.Module, dict]     # in a module that Python can import from here

The mapping says what the input looks like, as `OwnInput` has it: {"frames": 16, "size": 224, "mean":
[...], "std": [...]}, and perhaps "eval_scale", "classes" (names in the order of the logits) and "axes".
The function is the user's code, so it runs; it loads its weights itself. A module that also has
`encode`, `classify` and a `backbone` with `stages`, as `bench.task.Model` says, has them used.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from bench import task
from bench.config.mistakes import Mistake, Mistakes
from bench.config.science import Input
from bench.config.validate import validated
from bench.models.logits_only import LogitsOnly
from bench.models.named import Asked, NamedModel
from bench.models.weights import digest_of

FORM = "<module>:<function>: your own function that returns (nn.Module, {frames, size, mean, std, ...})"
WHY = "yours has no encode, classify and backbone.stages (bench.task.Model)"


class OwnInput(task.Config):
    """What a user says of their model's input; all of the first four must be said."""

    frames: int = Field(0, ge=1, description="T", validate_default=True)
    size: int = Field(0, ge=1, description="side of the crop, pixels", validate_default=True)
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    eval_scale: float = Field(1.0, ge=1.0, description="short side, as a multiple of `size`")
    classes: tuple[str, ...] | None = Field(None, description="names in the order of the logits")
    axes: Literal["BTCHW", "BCTHW"] = Field("BTCHW", description="of the clips that it takes")


class OwnModel(LogitsOnly):
    """A `bench.task.Model` of a user's module that gives logits."""

    def __init__(self, model: nn.Module, axes: str) -> None:
        super().__init__(model, WHY)
        self.axes = axes

    def forward(self, clip_BTCHW: Tensor) -> Tensor:
        """logits_BK."""
        return self.model(clip_BTCHW if self.axes == "BTCHW" else clip_BTCHW.transpose(1, 2))


def load(name: str, asked: Asked) -> NamedModel:
    """What the function returned, tried on one clip. ValueError with all that is wrong."""
    module, function = _function(name)
    made = function()
    pair = isinstance(made, tuple) and len(made) == 2
    if not pair or not isinstance(made[0], nn.Module) or not isinstance(made[1], Mapping):
        raise ValueError(
            f"py:{name} returned {type(made).__name__}; wanted: (nn.Module, "
            '{"frames": 16, "size": 224, "mean": [...], "std": [...]})'
        )
    named = described(f"py:{name}", made[0], made[1])
    where = {"function": name, "file": Path(str(module.__file__)).name}
    return replace(named, made_by={**where, **named.made_by})


def described(name: str, module: nn.Module, given: Mapping[str, Any]) -> NamedModel:
    """The user's module as a `NamedModel`; `given` is what they say of its input (`OwnInput`), `name`
    what messages call it. ValueError with all that is wrong; it is tried on one clip.
    """
    model, shown = module.eval(), _input(name, given)
    has_features = all(hasattr(model, part) for part in ("backbone", "encode", "classify"))
    whole = model if has_features and shown.axes == "BTCHW" else OwnModel(model, shown.axes).eval()
    classes = _classes(name, whole, shown)
    return NamedModel(
        model=whole,
        media="video" if shown.frames > 1 else "image",
        input=Input(frames=shown.frames, size=shown.size, eval_scale=shown.eval_scale),
        num_classes=classes,
        made_by={
            "weights_sha256": digest_of(model),
            **shown.model_dump(mode="json", exclude={"classes"}),
        },
        mean=shown.mean,
        std=shown.std,
        class_names=shown.classes,
    )


def _function(name: str) -> tuple[Any, Any]:
    """(the module, its function). An error inside the user's module comes out untouched."""
    path, _, function = name.partition(":")
    if not path or not function:
        raise ValueError(f"py:{name}: name a module and a function in it, py:<module>:<function>")
    if (here := str(Path.cwd())) not in sys.path:  # an installed command does not look there
        sys.path.append(here)
    try:
        module = importlib.import_module(path)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{path}.".startswith(f"{error.name}."):
            raise
        raise ValueError(
            f"py:{name}: Python finds no module {path!r} from {here}; set PYTHONPATH"
        ) from error
    if not callable(found := getattr(module, function, None)):
        raise ValueError(f"py:{name}: {module.__file__} has no function {function!r}")
    return module, found


def _input(name: str, given: Mapping[str, Any]) -> OwnInput:
    """Mistakes lists all that is missing or wrong."""
    mistakes = [
        Mistake((name, key), "missing: the function must say it")
        for key in ("frames", "size", "mean", "std")
        if key not in given
    ]
    said: list[Mistake] = []
    shown = validated(OwnInput, given, (name,), said)
    missing = {mistake.path for mistake in mistakes}
    mistakes += [mistake for mistake in said if mistake.path not in missing]
    if mistakes or shown is None:
        raise Mistakes(mistakes)
    return shown


def _classes(name: str, model: nn.Module, shown: OwnInput) -> int:
    """K, of the logits of one grey clip. ValueError when there are none."""
    clip = torch.zeros(1, shown.frames, 3, shown.size, shown.size)
    with torch.no_grad():
        logits = model(clip)
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != 1:
        found = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ValueError(f"{name}: wanted logits (B, K) of a clip, got {found}")
    count = logits.shape[1]
    if shown.classes is not None and len(shown.classes) != count:
        raise ValueError(
            f"{name}: {len(shown.classes)} classes are named, there are {count} logits"
        )
    return count
