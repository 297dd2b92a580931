"""A model that somebody names, ready to be evaluated, and the contract of those who make one.

    --model <adapter>:<name> -> bench/models/adapters/<adapter>.py: load(name, asked) -> `NamedModel`

A `NamedModel` is a `bench.task.Model` with all that `bench.evaluate` needs to know of it: its input,
its classes, where it comes from. A run directory or a released checkpoint becomes one in
`bench.evaluate.model`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from torch import nn

from bench.config.science import Input

FLAGS = {
    "frames": "--frames",
    "size": "--size",
    "backbone": "--backbone and --heads",
    "by_position": "--by-position",
}
"""The options of `Asked` that only some models take, and how they are called on the command line."""


@dataclass(frozen=True)
class Asked:
    """What is said of a model beside its name."""

    frames: int | None = None  # per clip
    size: int | None = None  # side of the crop, pixels
    backbone: Mapping[str, Any] = field(default_factory=dict)  # fields of its Config
    by_position: bool = False  # see `bench.models.pretrained.load`
    weights: Path | None = None  # the folder in which files are looked up by the model's name

    def refuse_but(self, taken: tuple[str, ...], model: str, what: str) -> None:
        """ValueError that names every option given but not among those `taken`."""
        refused = [
            text for name, text in FLAGS.items() if getattr(self, name) and name not in taken
        ]
        if refused:
            raise ValueError(f"--model {model} is {what}; it takes no {', no '.join(refused)}")


@dataclass(frozen=True)
class NamedModel:
    """A model to evaluate and what is known of its input."""

    model: nn.Module  # as `bench.task.Model`
    media: Literal["video", "image", "any"]
    input: Input
    num_classes: int
    made_by: dict[str, Any]  # what to write down about the model
    mean: tuple[float, float, float]  # of the RGB channels in [0, 1]
    std: tuple[float, float, float]
    class_names: tuple[str, ...] | None = None  # in the order of the logits, where it says them


class AdapterModule(Protocol):
    """Models of others: `bench/models/adapters/<name>.py`, `bench.evaluate --model <name>:...`."""

    FORM: str
    """What stands behind the `<name>:` and what it means, in one line for the help."""
    OPTIONS: tuple[str, ...] = ()
    """The options that its models take: of "frames", "size", "backbone" and "by_position"."""

    @abstractmethod
    def load(self, name: str, asked: Asked) -> NamedModel:
        """The model whose name stands behind the `<name>:`, in eval mode on the CPU. ValueError, with
        all that is wrong and the remedy: nothing may be downloaded, no code in a file be run, no
        tensor be missing or left over, and nothing about the input be guessed.
        """

    def example(self, folder: Path) -> str:
        """Writes the smallest model that there can be into a folder and returns its name, for the
        contract tests. Without it these test only what is refused.
        """
