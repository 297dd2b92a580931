"""The contract of each kind of component: what its file, a module, must and may offer.

A component is one file, and the file is a module that keeps one of these protocols. A function with
`@abstractmethod` and a value without a default are required; everything else may be left out, and
its docstring says what happens without it. `bench.find.load` checks a module against its protocol
once, when it is loaded; `find.optional` reads what may be missing. docs/components.md is made of
this file. Decoders, tables and figures do without torch, which this package imports: their protocols
are in `bench.data.decoders` and `reports.contracts`. What an adapter returns stands higher than this
package, and so does its protocol: `bench.models.named`.

Parameters before the `*` are given by position, so their names are free. A module may take more
parameters than it must, if they have defaults.
"""

from __future__ import annotations

import argparse
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Protocol, TypeVar

import numpy as np
from torch import Tensor

from bench.task import interfaces as task

F = TypeVar("F", bound=Callable[..., Any])


def _needs(*members: str) -> Callable[[F], F]:
    """An optional function that is nothing without others."""

    def marked(function: F) -> F:
        vars(function)["needs"] = members
        return function

    return marked


class SourceModule(Protocol):
    """A data set: `bench/data/sources/<name>.py`, in YAML `data: {name: <name>}`."""

    VERSION: int
    """Raised when the same options would give other samples; part of every run's signature."""
    Config: type[task.Config]
    """What the samples are; no paths."""
    LAYOUT: str = ""
    """How what `as_released` takes lies on disk, in words: said where nothing is recognised."""
    ANY_OF_ITS_KIND: bool = False
    """Whether `as_released` takes any data of a kind, and so is asked after those that know theirs."""

    @abstractmethod
    def spec(self, config: Any) -> task.DataSpec:
        """Classes, subsets, splits (training first) and normalisation, without touching the disk."""

    @abstractmethod
    def open(self, config: Any, data_root: Path, split: str) -> task.Samples:
        """Random access to a split. ValueError with the command that gets the data if they are not
        there, or are others than asked for.
        """

    def missing(self, config: Any, data_root: Path) -> str | None:
        """What is not on this machine and the command that gets it, or None; asked before a sweep
        starts. Without it a cell whose data are absent fails when it opens them.
        """

    def prepare(self, config: Any, data_root: Path) -> object:
        """Make the data, if they are not there yet; several processes may call it at once. Without
        it the data are the user's to get.
        """

    def needed(self, config: Any, data_root: Path) -> int:
        """About how many bytes `prepare` would write; 0 where the data are there. Without it `--plan`
        says nothing of their size.
        """

    def as_released(self, folder: Path) -> task.Released | None:
        """The data set in this folder (or file) as its authors released it, or None if this is not it.
        ValueError says what is wrong with it. Without it `bench.evaluate --data` takes shards only.
        """

    def subsets_of(self, classes: Sequence[str]) -> Mapping[str, Sequence[int]]:
        """Subsets (class ids) when only the data's own list of classes tells them, for
        `bench.prepare --check`. Without it they are those of `spec`.
        """

    def reversals_of(self, classes: Sequence[str]) -> Sequence[tuple[int, int]]:
        """Pairs of class ids of which each is the other's reversal, for shards of these data. Without
        it there are none.
        """

    def run(self, args: argparse.Namespace) -> Path:
        """What `python -m bench.prepare <name>` does: the data set on disk -> shards in `args.out`.
        ValueError for wrong use, BadData for data that fail. Without it there is no such command.
        """

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Further options of that command. Without it: --out, --workers and those of --check."""


class BackboneModule(Protocol):
    """An encoder: `bench/models/backbones/<name>.py`, in YAML `model: {name: <name>}`."""

    VERSION: int
    """Raised when the same options would give another model; part of every run's signature."""
    Config: Annotated[type[task.Config], "patch", "dim"]
    """Its sizes: `patch` (pixels) and `dim` (D). The engine also reads `tubelet` (frames per token;
    without it 1) and `init` with `init_sha256` (image weights, or `run:<signature>`; without them the
    weights are random).
    """
    POSITIONS_OPTIONAL: bool = False
    """Whether its models also take `positions=False`: no position embedding on the patch tokens."""

    @abstractmethod
    def build(
        self, config: Any, *, frames: int, size: int, weights: Path | None = None
    ) -> task.Backbone:
        """A `torch.nn.Module` for clips of `frames` x `size` x `size` pixels: random, or with the
        weights of `config.init`, looked up in the folder `weights`. ValueError for impossible sizes
        and for weights that are absent or do not fit.
        """

    def skip(self, config: Any, *, frames: int, size: int) -> str | None:
        """Why no such model can exist, or None; such cells are skipped and say so. Without it every
        size is possible.
        """

    def missing(self, config: Any, weights: Path) -> str | None:
        """The weight file that is not on this machine and how to get it, or None. Without it a cell
        whose weights are absent fails when it builds its model.
        """

    def load_image_weights(self, model: Any, state: dict[str, Tensor]) -> None:
        """Put the tensors of an image model, under timm's names, into a model that `build` made;
        ValueError where they do not fit. Without it no model of this kind starts from an image model
        that was trained here (`model.init: {cell: ...}`), only from one of its own kind.
        """

    def as_image_weights(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """This backbone's tensors under timm's names, for what starts from it. Without it only a model
        of its own kind does.
        """

    @_needs("describe_released", "from_released")
    def recognise(self, state: dict[str, Tensor]) -> bool:
        """Whether a released checkpoint is one of this backbone; it then needs `describe_released`
        and `from_released`. Without it there are no released checkpoints.
        """

    def describe_released(self, state: dict[str, Tensor], *, heads: int | None) -> dict[str, Any]:
        """{"config": fields of Config, "frames": T, "size": pixels}, and "mean", "std" if not 0.5,
        of the tensors; `heads` where they do not show it. Without it: see `recognise`.
        """

    def from_released(
        self, state: dict[str, Tensor]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """(backbone's, classifier's) tensors under our names. Without it: see `recognise`."""

    def why_not(self, state: dict[str, Tensor]) -> str | None:
        """What a checkpoint that no backbone recognises lacks to be one of this, or None. Without it
        nothing is said.
        """

    def describe_settings(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """As `describe_released`, from the JSON beside the weights; ValueError if this backbone
        cannot do as it says. Without it that JSON is not read.
        """


class ObjectiveModule(Protocol):
    """A loss: `tasks/<domain>/<name>.py` with a `class Objective`, in YAML
    `objectives: {<domain>.<name>: {}}`.
    """

    VERSION: int
    """Raised when the same options would give another loss; part of every run's signature."""
    Config: Annotated[type[task.Config], "weight"]
    """Its options: `weight`, by which its loss is multiplied. The engine also reads `where` of an
    objective with both `prepare` and `prepare_batch` (a `task.Where`; without it "auto").
    """
    Objective: type[task.Objective]
    """The loss with its heads: `Objective(config, model)`; `forward(step, batch, features)` returns
    the unweighted loss and what to log: scalars, and `shares` beside an `accuracy`.
    """
    RELEASED: Mapping[str, str] = {}
    """How its heads are called in released checkpoints: released prefix -> prefix in `Objective`."""

    def skip(self, config: Any, model: task.ModelSpec, spec: task.DataSpec) -> str | None:
        """Why it cannot be asked of this model or these data, or None; such cells are skipped and
        say so. Without it it always can.
        """

    def prepare(
        self,
        config: Any,
        model: task.ModelSpec,
        frames_THWC: np.ndarray,
        rng: np.random.Generator,
    ) -> np.ndarray:
        """Labels from a clip's augmented pixels (uint8), on the loader's workers; they arrive as
        `batch.extras["<name>"]`, B first. Without it no worker makes labels.
        """

    def prepare_batch(self, config: Any, model: task.ModelSpec, clip_BTHWC: Tensor) -> Tensor:
        """The same for a whole batch (uint8), on the device that trains. No clip may change
        another's labels. Without it the device makes none.
        """

    def companion(
        self, config: Any, picture: task.Picture, rng: np.random.Generator
    ) -> np.ndarray | None:
        """A second image (uint8 H W 3) made from a training image and its layers; it is augmented
        like the first one and arrives as `batch.extras["<name>"]`. Without it, and with options for
        which it returns None, there is none.
        """


class EvaluationModule(Protocol):
    """A measurement: `tasks/<domain>/<name>.py` with a `def run`, in YAML
    `evaluations: {<domain>.<name>: {}}`.
    """

    VERSION: int
    """Raised when the same options would give other numbers; part of the digest that names what was
    measured, never of a run's signature.
    """
    Config: type[task.Config]
    """Its options."""
    OUTPUTS: tuple[int, ...] = ()
    """Numbers of classes that a model may have instead of the data's own."""

    @abstractmethod
    def run(self, config: Any, context: task.Context) -> list[task.Row]:
        """Rows {split, view, subset, metric, value, n}: values are fractions, n counts samples.
        Raises when it saw another number of samples than `context.count(split)`.
        """

    def skip(self, config: Any, model: task.ModelSpec, spec: task.DataSpec) -> str | None:
        """Why it cannot be asked of this model or these data, or None. Without it it always can."""

    def official_normalisation(
        self, outputs: int
    ) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
        """For `bench.evaluate --official`: mean and std that the benchmark's own evaluator gives a model
        with so many outputs, or None. Images are then shown as stored. Without it there is no such way.
        """


class BenchmarkModule(Protocol):
    """A measurement of speed: `bench/speed/<name>.py`, `python -m bench.speed <name>`."""

    HELP: str
    """One line for the list of benchmarks."""
    DESCRIPTION: str
    """What it measures, for its own --help."""
    EPILOG: str = ""
    """What the columns say, below its options."""

    @abstractmethod
    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Its options."""

    @abstractmethod
    def run(self, options: argparse.Namespace) -> int:
        """Measure, and return the exit status. Mistakes (all at once) before anything is measured."""
