"""What travels between the engine and its components, and what a component may ask of the engine.

A component is one Python file whose path is its name: `tasks/video/order.py` is `video.order`. This
module holds the `Config` base class, plain data (`DataSpec`, `ModelSpec`, `Features`, `Batch`) and
the protocols of what the engine hands over (`Step`, `Context`, `Samples`); modules.py says what the
file itself must offer. Nothing here knows a concrete component.

Shape suffixes used throughout: B clips, T frames, C channels, H x W pixels, N patches per frame, D
width, K classes.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Protocol, Self, runtime_checkable

import numpy as np
import pydantic
from torch import Tensor, nn

Row = dict[str, Any]
"""One measured number: split, view, subset, metric, value, n."""

Place = Literal["loader", "device"]
"""Where an objective's labels are computed from a clip's pixels: by `prepare` on the loader's workers,
or by `prepare_batch` on the device that trains."""

Where = Literal["auto", "loader", "device"]
"""The option `where` of an objective that has both; auto is the device if that is a GPU."""


Weight = Annotated[float, pydantic.Field(ge=0.0)]
"""The option `weight` of an objective: what its loss is multiplied with."""


class Config(pydantic.BaseModel):
    """Base of every component's options: strict types, no unknown keys, finite numbers, immutable,
    every field with a default.
    """

    model_config = pydantic.ConfigDict(
        strict=True, frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=()
    )

    @classmethod
    def tiny(cls) -> Self:
        """The smallest legal instance; the contract tests run every component with it."""
        return cls()


@dataclass(frozen=True)
class DataSpec:
    """What a data set is, known without touching the disk."""

    name: str
    media: Literal["video", "image"]
    classes: tuple[str, ...]
    # e.g. {"temporal": class ids, "static": class ids}; empty where only the data know the ids
    subsets: Mapping[str, tuple[int, ...]]
    # the training split, the one that is validated on while training and that decides searches, then
    # every other split that can be evaluated
    splits: tuple[str, ...]
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)  # of the RGB channels in [0, 1]
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    # split -> pictures that its samples have beside their own, of the same size: "fg_mask", ...
    layers: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    # pairs of class ids; each is the other's reversal: its clips, played backwards, belong to it
    reversals: tuple[tuple[int, int], ...] = ()

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @property
    def tuned(self) -> str:
        """The split on which options are chosen."""
        return self.splits[1]


@dataclass(frozen=True)
class ModelSpec:
    """The sizes that an auxiliary head and its labels depend on."""

    frames: int  # T
    size: int  # H = W, pixels
    patch: int  # pixels
    dim: int  # D
    num_classes: int  # K
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    tubelet: int = 1  # frames that make up one token; T of `Features` is frames / tubelet
    positions_optional: bool = False  # whether the backbone can encode without position embeddings

    @property
    def num_patches(self) -> int:
        """N, patches per frame."""
        return (self.size // self.patch) ** 2


class NoFeatures(ValueError):
    """A model that gives logits and nothing before them was asked for its features. Says why."""


class Features(NamedTuple):
    """What every backbone returns, in training and in evaluation alike."""

    cls_BD: Tensor  # clip feature, before the classifier
    tokens_BTND: (
        Tensor  # patch tokens after the final norm, row-major over the patch grid; T = 1 for images
    )


@dataclass
class Batch:
    """Clips on the device, normalised, with their labels."""

    clip_BTCHW: Tensor
    labels_B: Tensor
    keys: tuple[str, ...]
    extras: dict[str, Tensor] = field(
        default_factory=dict
    )  # objective name -> labels that its `prepare` or `prepare_batch` computed
    # of those that could not be decoded (their clips are black): key -> reason; in evaluation they
    # count as wrong
    failed: Mapping[str, str] = field(default_factory=dict)


class Samples(Protocol):
    """Random access to one split of a data set. Must pickle (loader workers) and open files lazily."""

    @property
    def keys(self) -> Sequence[str]: ...
    @property
    def labels(self) -> np.ndarray:
        """int64, class ids"""
        ...

    @property
    def classes(self) -> tuple[str, ...]:
        """Names as stored with the data, by class id."""
        ...

    @property
    def subsets(self) -> Mapping[str, tuple[int, ...]]:
        """As `DataSpec.subsets`, stored with the data."""
        ...

    @property
    def digest(self) -> str:
        """Of the data on disk."""
        ...

    @property
    def provenance(self) -> str:
        """How the frames were made: decoder, version, rule."""
        ...

    def __len__(self) -> int: ...
    def num_frames(self, i: int) -> int: ...
    def frames(self, i: int, indices: np.ndarray) -> np.ndarray:
        """uint8 T H W 3 (RGB): the requested frames of sample i; images have one."""
        ...

    def with_layer(self, name: str) -> np.ndarray:
        """int64, sorted: the samples that have this layer (see `DataSpec.layers`)."""
        ...

    def layer(self, i: int, name: str) -> np.ndarray:
        """uint8 H W 3, or a mask of zeros and ones, uint8 H W; H and W are those of the frame.

        Raises ValueError when sample i has none, or it is broken.
        """
        ...


@runtime_checkable
class Sharded(Protocol):
    """Samples that lie in few large files."""

    @property
    def shards(self) -> np.ndarray:
        """int32, the number of the file in which each sample lies."""
        ...

    def read_ahead(self) -> None:
        """From now on a file is read as a whole when the first sample of it is asked for."""
        ...


@dataclass(frozen=True)
class Released:
    """A data set read where it lies, as its authors released it: for evaluations without shards."""

    spec: DataSpec
    splits: tuple[str, ...]  # those that are there and can be evaluated
    open: Callable[[str], Samples]


@dataclass(frozen=True)
class Picture:
    """A training image with its layers, before augmentation: what `companion` of an objective makes
    another image from.
    """

    image_HWC: np.ndarray  # uint8, RGB
    layer: Callable[[str], np.ndarray]  # name -> as `Samples.layer`


@dataclass(frozen=True)
class ProbeFeatures:
    """What a frozen model makes of some samples, shown in one order of their frames (`Context.features`)."""

    # in the order of depth: "layer_00" (the embedding), ..., "final"; of a model that only
    # classifies "logits"
    layers: tuple[str, ...]
    keys: tuple[str, ...]
    labels_M: np.ndarray  # int64
    seen_M: (
        np.ndarray
    )  # boolean; the others could not be decoded, what stands for them is a black clip
    layer: Callable[[str], np.ndarray]  # name -> float32 (M, D)


FeaturesByOrder = Mapping[str, ProbeFeatures]
"""Of the same samples, for each order of their frames."""


class Images(NamedTuple):
    """A batch of images as they are stored, for an evaluation that composes its own."""

    images_BHWC: Tensor  # uint8, on the device; all of one size
    labels_B: Tensor  # int64, on the device
    keys: tuple[str, ...]


class Backbone(Protocol):
    """A video (or image) encoder without any head.

    One whose module says `POSITIONS_OPTIONAL = True` also takes `positions=False`: no position
    embedding is added to the patch tokens. One that adds a time embedding to them has it as the
    parameter `time_embed`, and at zero it is left out.
    """

    dim: int  # D
    patch: int  # pixels

    def __call__(self, clip_BTCHW: Tensor) -> Features: ...
    def stages(self, clip_BTCHW: Tensor) -> Iterator[Tensor]:
        """tokens_BTND after the embedding and after each block (depth + 1 of them), for probes.

        A generator that also returns what a call does saves probes of both a second pass.
        """
        ...


class Step(Protocol):
    """What an objective may ask of the training step it is part of."""

    def encode(self, clip_BTCHW: Tensor, *, positions: bool = True) -> Features:
        """A pass of its own through the encoder; what is known before belongs in `extra_clips`.

        Without `positions`, only where `ModelSpec.positions_optional`.
        """
        ...

    def extra_features(self, objective: Objective) -> Features:
        """Of what `objective.extra_clips` returned, encoded together with the batch's clips."""
        ...

    def classify(self, features: Features) -> Tensor:
        """logits_BK"""
        ...

    def rng(self, name: str, *, per_sample: bool = False) -> Any:
        """Random numbers as a pure function of (seed, step, name), never of the rank or the
        micro-batch.

        One generator for the whole global batch, or with `per_sample` a list of generators, one for
        each sample of this micro-batch, a function of (seed, epoch, sample, name).
        """
        ...


class Model(Protocol):
    """A backbone with its classifier, as evaluations see it."""

    @property
    def backbone(self) -> Any: ...
    def encode(self, clip_BTCHW: Tensor) -> Features: ...
    def classify(self, features: Features) -> Tensor: ...
    def __call__(self, clip_BTCHW: Tensor) -> Tensor:
        """logits_BK; all that a model from timm can do."""
        ...


class Context(Protocol):
    """What an evaluation may ask of the engine."""

    @property
    def model(self) -> Model:
        """In eval mode, on the device."""
        ...

    @property
    def spec(self) -> DataSpec: ...
    @property
    def model_spec(self) -> ModelSpec: ...
    @property
    def splits(self) -> tuple[str, ...]:
        """The splits to evaluate."""
        ...

    @property
    def seed(self) -> int: ...
    def count(self, split: str) -> int:
        """How many samples the split declares; an evaluation that saw another number must fail."""
        ...

    def batches(self, split: str, *, chosen: np.ndarray | None = None) -> Iterator[Batch]:
        """Every key exactly once, in stored order: the centre crop of each clip. Of the samples
        `chosen` (indices) only, in their order, if given.
        """
        ...

    def crops(self, split: str) -> Iterator[tuple[Batch, ...]]:
        """The same, with every temporal view and spatial crop that is evaluated: `clips_per_sample`
        batches of the same keys. An evaluation that classifies gives their logits to `averaged`.
        """
        ...

    @property
    def clips_per_sample(self) -> int:
        """Temporal views x spatial crops."""
        ...

    def averaged(self, logits_CBK: Tensor) -> Tensor:
        """Of the clips of each sample -> (B, K): mean logits, or the logarithm of mean probabilities,
        as the model's input says (`Input.average`).
        """
        ...

    def samples(self, split: str) -> Samples:
        """The split itself, for what batches do not hold: layers."""
        ...

    @property
    def training_split(self) -> str | None:
        """The split that models of these data are trained on, where it is at hand."""
        ...

    def features(
        self,
        split: str,
        views: Sequence[str] = ("original",),
        *,
        chosen: np.ndarray | None = None,
    ) -> FeaturesByOrder:
        """Frozen features of the centre crop of these samples (indices; all without them), for each
        of the orders of frames in `views` ("original", "reversed", "shuffled": one permutation, fixed by
        seed and key). Computed once for all evaluations of a call: whoever asks second pays nothing.
        """
        ...

    def images(self, split: str) -> Iterator[Images]:
        """Every image exactly once, in stored order and as stored: neither resized nor normalised.

        Raises ValueError, naming the file, for one that cannot be read.
        """
        ...

    def whole_images(self, split: str) -> Iterator[Batch]:
        """Every image exactly once, in stored order, whole, as the model wants it (`to_clip`): full
        batches, of whatever sizes the images are stored in.
        """
        ...

    def to_clip(self, images_BHWC: Tensor) -> Tensor:
        """uint8 images on the device -> clip_BTCHW (T = 1) as the model wants it.

        Centre crop at the evaluation scale, resized (bilinear, antialiased) where the size differs,
        normalised with the model's own mean and std.
        """
        ...

    @property
    def scratch(self) -> Path | None:
        """A file for the state of an evaluation that takes long: it survives a kill, belongs to
        this model, data and options alone, and is deleted when the rows are written.
        """
        ...

    def keep_picture(self, name: str, image_HWC: np.ndarray) -> None:
        """Keep an uint8 picture (RGB) with the results, for figures; `name` as in "strongest/dog-1"."""
        ...

    def progress(self, done: int, total: int, text: str = "") -> None: ...
    def record(
        self, split: str, view: str, keys: Sequence[str], labels: Tensor, logits: Tensor
    ) -> None:
        """Keep what was predicted for each sample."""
        ...


class Objective(nn.Module):
    """A loss with its auxiliary head. Subclasses live in tasks/, one file each, and are called
    `Objective`.
    """

    def __init__(self, config: Any, model: ModelSpec) -> None:
        super().__init__()
        self.config = config
        self.model = model

    def extra_clips(self, step: Step, batch: Batch) -> Tensor | None:
        """Further clips (normalised, shaped like the batch's; any number) that `forward` needs.

        They go through the encoder in one batch with the batch's own clips; `forward` gets their
        features from `step.extra_features(self)`.
        """
        return None

    @abstractmethod
    def forward(
        self, step: Step, batch: Batch, features: Features
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The unweighted loss (a mean over the batch) and what is worth logging, means over the batch too.

        Logs are scalars; but `shares` (K,), beside the `accuracy` at guessing one of K labels, says how
        often each of them was the right one (`bench.metrics.shares`). Its largest entry is logged as
        `majority`, and a run whose accuracy does not exceed it says so: nothing was learned.
        `features` are those of the batch's clips.
        """
        raise NotImplementedError
