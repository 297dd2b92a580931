"""The trained module: classifier and objectives in one `nn.Module`, and the step that objectives
are computed in.

    L = sum_i weight_i * L_i(step, batch, features)        (Yun et al. 2022; TIME: all weights 1)

DDP and torch.compile see every head; the training loop knows no objective by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bench import find
from bench.config.science import RunConfig
from bench.config.seeds import rng, seed
from bench.data.order import Draw
from bench.models.classifier import Classifier
from bench.task import BackboneModule, Batch, Features, Objective


@dataclass(frozen=True)
class LossReport:
    """The outcome of one micro-batch: the total to differentiate and what to log."""

    total: Tensor
    terms: dict[str, Tensor]  # unweighted loss of each objective, detached scalars
    logs: dict[str, Tensor]  # "objective/name", detached: scalars, and `shares` (K,)


class TrainingStep:
    """What objectives see of a step (task.Step). Random numbers hang on (seed, step) or (seed,
    epoch, sample).
    """

    def __init__(
        self, classifier: Classifier, *, run_seed: int, number: int, draws: tuple[Draw, ...]
    ) -> None:
        self._classifier = classifier
        self._run_seed = run_seed
        self._number = number
        self._draws = draws
        self._extra: dict[nn.Module, Features] = {}

    def encode_all(self, clip_BTCHW: Tensor, extra: Mapping[nn.Module, Tensor]) -> Features:
        """Features of the clips; those of the objectives' extra clips, from the same pass, are kept
        for `extra_features`.
        """
        if not extra:
            return self.encode(clip_BTCHW)
        clips = [clip_BTCHW, *extra.values()]
        encoded = self.encode(torch.cat(clips))
        features, *parts = (
            Features(*part)
            for part in zip(*(x.split([len(clip) for clip in clips]) for x in encoded), strict=True)
        )
        self._extra = dict(zip(extra, parts, strict=True))
        return features

    def extra_features(self, objective: Objective) -> Features:
        return self._extra[objective]

    def encode(self, clip_BTCHW: Tensor, *, positions: bool = True) -> Features:
        return self._classifier.encode(clip_BTCHW, positions=positions)

    def classify(self, features: Features) -> Tensor:
        return self._classifier.classify(features)

    def rng(
        self, name: str, *, per_sample: bool = False
    ) -> np.random.Generator | list[np.random.Generator]:
        if per_sample:
            return [rng(self._run_seed, name, draw.epoch, draw.index) for draw in self._draws]
        return rng(self._run_seed, name, "step", self._number)


class Learner(nn.Module):
    """Classifier plus the objectives with their auxiliary heads."""

    def __init__(
        self,
        classifier: Classifier,
        objectives: Mapping[str, nn.Module],
        weights: Mapping[str, float],
    ) -> None:
        super().__init__()
        self.classifier = classifier
        # "." is reserved in the names of submodules
        self.objectives = nn.ModuleDict(
            {name.replace(".", "/"): module for name, module in objectives.items()}
        )
        self.weights = dict(weights)

    def forward(self, batch: Batch, step: TrainingStep) -> LossReport:
        extra: dict[nn.Module, Tensor] = {}
        for part in self.objectives.values():
            assert isinstance(part, Objective)
            if (clips := part.extra_clips(step, batch)) is not None:
                extra[part] = clips
        features = step.encode_all(batch.clip_BTCHW, extra)
        total = torch.zeros((), device=batch.clip_BTCHW.device)
        terms: dict[str, Tensor] = {}
        logs: dict[str, Tensor] = {}
        for key, objective in self.objectives.items():
            name = key.replace("/", ".")
            loss, found = objective(step, batch, features)
            total = total + self.weights[name] * loss
            terms[name] = loss.detach()
            logs |= {f"{name}/{k}": v.detach() for k, v in found.items()}
        return LossReport(total, terms, logs)


def build(config: RunConfig, *, weights_dir: Path | None) -> Learner:
    """A freshly initialised learner. Each part draws its weights from its own named seed.

    So all methods of a sweep start from the same backbone and classifier, and an auxiliary head
    shifts no other draw. Without `weights_dir` no image weights are looked up, for models whose
    weights come from a checkpoint anyway; those of another run are loaded by the Trainer (start.py).
    """
    module: BackboneModule = find.load("backbone", config.model.name)
    model_spec = config.model_spec()
    options = config.model.config
    if weights_dir is None or config.parent is not None:
        image_weights = {"init", "init_sha256"} & type(options).model_fields.keys()
        options = options.model_copy(update=dict.fromkeys(image_weights))
    with _drawing(config.seed, "backbone"):
        backbone = module.build(
            options,
            frames=config.input.frames,
            size=config.input.size,
            weights=weights_dir,
        )
    with _drawing(config.seed, "classifier"):
        classifier = Classifier(backbone, model_spec.num_classes, dropout=config.train.dropout)
    objectives = {}
    for name, part in config.objectives.items():
        with _drawing(config.seed, name):
            objectives[name] = find.load("objective", name).Objective(part.config, model_spec)
    weights = {name: part.config.weight for name, part in config.objectives.items()}
    return Learner(classifier, objectives, weights)


class _drawing:
    """Within the block torch's generator is seeded by name; afterwards it is as before."""

    def __init__(self, *names: Any) -> None:
        self._seed = seed("init", *names) % 2**63

    def __enter__(self) -> None:
        self._state = torch.get_rng_state()
        torch.manual_seed(self._seed)

    def __exit__(self, *_: object) -> None:
        torch.set_rng_state(self._state)
