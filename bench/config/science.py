"""What defines a run (`RunConfig`); data and validation only. Where it runs is in resources.py.

In the flow: bench.grid.plan merges YAML into one plain mapping per cell, `parse` turns it into a
`RunConfig` or raises `Mistakes` with every error in it at once, signature.py hashes the result.
Values are strict: `1e-4` is a float because YAML 1.2 says so, `"1e-4"` is not, and an unknown key
is an error that names the nearest valid one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import pydantic
from pydantic import Field

from bench import find
from bench.config.mistakes import KeyPath, Mistake, Mistakes, cut, shown
from bench.config.validate import validated
from bench.task import Config, DataSpec, ModelSpec


class Input(Config):
    """How a clip is cut from a sample. Defaults: the TIME release's recipe on SSv2."""

    frames: int = Field(8, ge=1, le=10_000, description="T, one from each of T equal segments")
    size: int = Field(224, ge=1, le=10_000, description="side of the square crop, pixels")
    jitter: tuple[float, float] = Field(
        (256 / 224, 320 / 224), description="short side in training, as multiples of `size`"
    )
    eval_scale: float = Field(
        1.0, ge=1.0, le=10.0, description="short side in evaluation, as a multiple of `size`"
    )
    eval_crops: Literal[1, 3] = Field(
        1,
        description="square crops along the longer side in evaluation: 1 is the centre, 3 both "
        "ends and the centre; their logits are added (the paper: 3)",
    )
    eval_views: int = Field(
        1,
        ge=1,
        le=1000,
        description="temporal views in evaluation; each is seen in all `eval_crops`",
    )
    average: Literal["logits", "probabilities"] = Field(
        "logits", description="what is averaged over the views and crops of a clip in evaluation"
    )
    sampling: Literal["segments", "dense"] = Field(
        "segments",
        description="frames: one from each of T equal segments (SSv2, the paper), or T in a row, "
        "`stride` apart (VideoMAE and others on Kinetics)",
    )
    stride: int = Field(
        1, ge=1, le=10_000, description="frames from one to the next, where sampling is dense"
    )
    hflip: bool = Field(
        False,
        description="mirror half of the training samples; classes that name a side are exchanged",
    )
    rand_augment: str | None = Field(None, description="timm spec, e.g. rand-m20-mstd0.5-inc1")

    @pydantic.model_validator(mode="after")
    def _ordered(self) -> Input:
        if not 1.0 <= self.jitter[0] <= self.jitter[1] <= 10.0:
            raise ValueError(
                f"jitter must be [low, high] with 1 <= low <= high <= 10, got {list(self.jitter)}"
            )
        if self.stride > 1 and self.sampling != "dense":
            raise ValueError(f"a stride of {self.stride} needs sampling: dense")
        return self

    @property
    def eval_clips(self) -> int:
        """Forward passes of a sample in evaluation: views x crops."""
        return self.eval_views * self.eval_crops


_Decay = Annotated[float, Field(ge=0, lt=1)]


class Train(Config):
    """Optimisation. Defaults: the TIME release's recipe. `batch` is global; accumulation is
    derived from it.
    """

    epochs: int = Field(35, ge=1, le=1_000_000)
    batch: int = Field(
        64, ge=1, le=10_000_000_000, description="clips per optimiser step, over all devices"
    )
    lr: float = Field(1e-4, gt=0, lt=1e3)
    weight_decay: float = Field(
        0.05, ge=0, lt=1e3, description="not applied to biases and other 1-D parameters"
    )
    betas: tuple[_Decay, _Decay] = (0.9, 0.999)
    amsgrad: bool = True
    schedule: Literal["step", "cosine"] = "step"
    milestones: tuple[int, ...] = Field(
        (20, 30), max_length=100, description="epochs at which `step` multiplies lr by `gamma`"
    )
    gamma: float = Field(0.1, ge=0, lt=1e3)
    warmup_epochs: float = Field(0.0, ge=0)
    clip_grad: float | None = Field(None, gt=0, description="maximum norm of the gradient")
    precision: Literal["fp32", "bf16"] = Field(
        "fp32", description="bf16 = autocast; weights stay fp32"
    )
    dropout: float = Field(0.0, ge=0, lt=1, description="before the classifier")
    validate_every: int = Field(1, ge=1, description="epochs between validations")
    shuffle: Literal["global", "shards"] = Field(
        "global",
        description="order of an epoch: a permutation of all samples, or, for network disks, shards in "
        "random order, each read from start to end into a buffer that is drawn from",
    )
    shuffle_buffer: int = Field(
        2000, ge=1, le=10_000_000, description="samples, where shuffle is shards"
    )
    on_bad_sample: Literal["stop", "skip"] = Field(
        "stop",
        description="a training sample that cannot be decoded: stop the cell, or let another one "
        "take its place and count it (metrics.jsonl, result.json)",
    )


@dataclass(frozen=True)
class Component:
    """A named component with its validated options."""

    name: str
    config: Any
    version: int

    def dump(self, *, defaults: bool) -> dict[str, Any]:
        return self.config.model_dump(mode="json", exclude_defaults=not defaults)


def model_spec_of(backbone: Any, shown: Input, spec: DataSpec, num_classes: int) -> ModelSpec:
    """The sizes of a backbone (it or its Config: `patch`, `dim`, perhaps `tubelet`) that is shown
    clips of these data. One that does not tell, as timm's do not, is one patch without features.
    """
    return ModelSpec(
        frames=shown.frames,
        size=shown.size,
        patch=getattr(backbone, "patch", shown.size),
        dim=getattr(backbone, "dim", 0),
        num_classes=num_classes,
        mean=spec.mean,
        std=spec.std,
        tubelet=getattr(backbone, "tubelet", 1),
    )


@dataclass(frozen=True)
class RunConfig:
    """Everything that defines the numbers of one run."""

    data: Component
    input: Input
    model: Component
    objectives: Mapping[str, Component]
    train: Train
    evaluations: Mapping[str, Component]
    seed: int

    def dump(self, *, defaults: bool = True) -> dict[str, Any]:
        """Plain JSON, as `parse` reads it. With `defaults=False` only what differs from the
        defaults (the science).
        """
        return {
            "data": {"name": self.data.name, **self.data.dump(defaults=defaults)},
            "input": self.input.model_dump(mode="json", exclude_defaults=not defaults),
            "model": {"name": self.model.name, **self.model.dump(defaults=defaults)},
            "objectives": {
                n: c.dump(defaults=defaults) for n, c in sorted(self.objectives.items())
            },
            "train": self.train.model_dump(mode="json", exclude_defaults=not defaults),
            "evaluations": {
                n: c.dump(defaults=defaults) for n, c in sorted(self.evaluations.items())
            },
            "seed": self.seed,
        }

    def dump_training(self, *, defaults: bool = True) -> dict[str, Any]:
        """The part of `dump` that decides what is trained: what the signature signs."""
        whole = self.dump(defaults=defaults)
        del whole["evaluations"]
        whole["input"] = {k: v for k, v in whole["input"].items() if k not in EVALUATION_INPUT}
        return whole

    def trained_components(self) -> dict[str, Component]:
        """'kind name' -> component: what takes part in training."""
        parts = {f"source {self.data.name}": self.data, f"backbone {self.model.name}": self.model}
        return parts | {f"objective {n}": c for n, c in self.objectives.items()}

    def components(self) -> dict[str, Component]:
        """'kind name' -> component, for contract checks."""
        named = {f"evaluation {n}": c for n, c in self.evaluations.items()}
        return self.trained_components() | named

    @property
    def parent(self) -> str | None:
        """Signature of the run whose weights the backbone starts from (`model.init: run:<signature>`)."""
        init = getattr(self.model.config, "init", None)
        return str(init).removeprefix(FROM_RUN) if str(init).startswith(FROM_RUN) else None

    def starting_from(self, signature: str) -> RunConfig:
        """The same from the weights of another run."""
        options = self.model.config.model_copy(update={"init": f"{FROM_RUN}{signature}"})
        return replace(self, model=replace(self.model, config=options))

    def of_seed(self, seed: int) -> RunConfig:
        """The same with another seed, which `data.seed: null` takes too: what is signed says the number."""
        data = self.data
        if getattr(data.config, "seed", seed) is None:
            data = replace(data, config=data.config.model_copy(update={"seed": seed}))
        return replace(self, seed=seed, data=data)

    def data_spec(self) -> DataSpec:
        return find.load("source", self.data.name).spec(self.data.config)

    def model_spec(self) -> ModelSpec:
        spec = self.data_spec()
        found = model_spec_of(self.model.config, self.input, spec, spec.num_classes)
        optional = find.optional("backbone", self.model.name, "POSITIONS_OPTIONAL")
        return replace(found, positions_optional=optional)

    def skip_reason(self) -> str | None:
        """Why this combination cannot run (a component's own words), or None."""
        if skip := find.optional("backbone", self.model.name, "skip"):
            reason = skip(self.model.config, frames=self.input.frames, size=self.input.size)
            if reason:
                return f"{self.model.name}: {reason}"
        spec, model_spec = self.data_spec(), self.model_spec()
        if spec.media == "image" and self.input.frames > 1:
            return f"{spec.name} has images, one frame each: set input.frames to 1"
        for kind, parts in (("objective", self.objectives), ("evaluation", self.evaluations)):
            for name, part in parts.items():
                skip = find.optional(kind, name, "skip")
                if reason := skip and skip(part.config, model_spec, spec):
                    return f"{name}: {reason}"
        return None


FROM_RUN = "run:"
"""Before the signature of another run, where `model.init` names one."""

EVALUATION_INPUT = ("eval_crops", "eval_views", "average")
"""Fields of `Input` that say how a trained model is evaluated, and nothing of how it is trained."""

SECTIONS = ("data", "input", "model", "objectives", "train", "evaluations", "seed")
NAMED = {"data": "source", "model": "backbone"}  # {name: ..., options}
KEYED = {"objectives": "objective", "evaluations": "evaluation"}  # {component name: options}


def parse(raw: Mapping[str, Any]) -> RunConfig:
    """Validate a merged mapping. Raises Mistakes listing every error with its path."""
    mistakes = [
        Mistake((str(k),), f"unknown key{find.nearest(str(k), SECTIONS)}")
        for k in raw
        if k not in SECTIONS
    ]
    parts: dict[str, Any] = {}
    for section, model in (("input", Input), ("train", Train)):
        parts[section] = validated(model, raw.get(section, {}), (section,), mistakes)
    for section, kind in NAMED.items():
        parts[section] = _named(kind, raw.get(section), (section,), mistakes)
    for section, kind in KEYED.items():
        parts[section] = _keyed(kind, raw.get(section), (section,), mistakes)
    seed = raw.get("seed", 0)
    if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
        mistakes.append(Mistake(("seed",), f"must be a whole number >= 0, got {shown(seed)}"))
    if not mistakes and not parts["objectives"]:
        mistakes.append(
            Mistake(("objectives",), "name at least one objective, e.g. `classify: {}`")
        )
    if mistakes:
        raise Mistakes(mistakes)
    config = RunConfig(**parts, seed=seed)
    if config.parent is not None and not re.fullmatch("[0-9a-f]{16}", config.parent):
        text = f"`run:` and the 16 hex digits of a run's signature, got {shown(config.parent)}"
        raise Mistakes([Mistake(("model", "init"), text)])
    return config


def parse_options(kind: str, name: str, raw: Mapping[str, Any]) -> Any:
    """Validate the options of one component. Raises Mistakes."""
    mistakes: list[Mistake] = []
    component = _component(kind, name, raw, (name,), mistakes)
    if mistakes or component is None:
        raise Mistakes(mistakes)
    return component.config


def _named(kind: str, raw: Any, path: KeyPath, mistakes: list[Mistake]) -> Component | None:
    if not isinstance(raw, Mapping) or "name" not in raw:
        mistakes.append(
            Mistake((*path, "name"), f"required: which {kind}? ({', '.join(find.names(kind))})")
        )
        return None
    return _component(
        kind, raw["name"], {k: v for k, v in raw.items() if k != "name"}, path, mistakes
    )


def _keyed(
    kind: str, raw: Any, path: KeyPath, mistakes: list[Mistake]
) -> dict[str, Component | None]:
    if raw is None:
        return {}
    if not isinstance(raw, Mapping):
        mistakes.append(Mistake(path, f"must map {kind} names to options, got {shown(raw)}"))
        return {}
    return {
        str(name): _component(
            kind, name, {} if options is None else options, (*path, str(name)), mistakes
        )
        for name, options in raw.items()
    }


def _component(
    kind: str, name: Any, options: Any, path: KeyPath, mistakes: list[Mistake]
) -> Component | None:
    try:
        module = find.load(kind, cut(str(name)))
    except find.ComponentError as error:
        mistakes.append(Mistake(path if kind in KEYED.values() else (*path, "name"), str(error)))
        return None
    config = validated(module.Config, options, path, mistakes)
    return Component(str(name), config, module.VERSION)
