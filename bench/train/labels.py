"""Labels that objectives make of a clip's pixels: where they are computed, and the functions for it.

    prepare(config, model_spec, frames_THWC, rng)       a clip (numpy) on the loader's workers
    prepare_batch(config, model_spec, clip_BTHWC)       a batch (torch) on the device, before the step

An objective's module has one of the two or both. Of both, its option `where` chooses. Between
bench.train.loop, which hands the one to the loader, and bench.train.step, which computes the other.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench import find
from bench.config.science import RunConfig
from bench.data import loader
from bench.data.loader import Prepare
from bench.task import Picture, Place

PrepareBatch = Callable[[Tensor], Tensor]
"""An objective's labels (B first) from the augmented uint8 clips on the device (B T H W 3)."""


def places(config: RunConfig, target: torch.device) -> dict[str, Place]:
    """Where the labels of each objective that makes some are computed, by its name."""
    found: dict[str, Place] = {}
    for name, part in config.objectives.items():
        module = find.load("objective", name)
        loader, device = hasattr(module, "prepare"), hasattr(module, "prepare_batch")
        if loader and device:
            found[name] = _chosen(part.config.where, target)
        elif loader or device:
            found[name] = "loader" if loader else "device"
    return found


def _chosen(where: str, target: torch.device) -> Place:
    """What an objective's option `where` means beside this device."""
    if where == "auto":
        return "device" if target.type == "cuda" else "loader"
    return "device" if where == "device" else "loader"


def on_loader(config: RunConfig, target: torch.device) -> dict[str, Prepare]:
    """What the loader's workers compute, by objective name."""
    return {
        name: _Prepare(name, config.objectives[name].config, config.model_spec())
        for name, place in places(config, target).items()
        if place == "loader"
    }


def on_device(config: RunConfig, target: torch.device) -> dict[str, PrepareBatch]:
    """What the device computes, by objective name."""
    return {
        name: _PrepareBatch(name, config.objectives[name].config, config.model_spec())
        for name, place in places(config, target).items()
        if place == "device"
    }


@dataclass(frozen=True)
class _Prepare:
    """An objective's `prepare`, in a form that pickles to a spawned worker."""

    name: str
    config: Any
    model_spec: Any

    def __call__(self, clip_THWC: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        module = find.load("objective", self.name)
        return module.prepare(self.config, self.model_spec, clip_THWC, generator)


@dataclass(frozen=True)
class _PrepareBatch:
    """An objective's `prepare_batch`: in full precision, whatever the step trains in."""

    name: str
    config: Any
    model_spec: Any

    def __call__(self, clip_BTHWC: Tensor) -> Tensor:
        module = find.load("objective", self.name)
        with torch.no_grad(), torch.autocast(clip_BTHWC.device.type, enabled=False):
            return module.prepare_batch(self.config, self.model_spec, clip_BTHWC)


def _companion_functions(config: RunConfig) -> dict[str, loader.Companion]:
    """Second images that objectives make on the loader's workers, by objective name."""
    return {
        name: _Companion(name, part.config)
        for name, part in config.objectives.items()
        if hasattr(find.load("objective", name), "companion")
    }


@dataclass(frozen=True)
class _Companion:
    """An objective's `companion`, in a form that pickles to a spawned worker."""

    name: str
    config: Any

    def __call__(self, picture: Picture, generator: np.random.Generator) -> np.ndarray:
        module = find.load("objective", self.name)
        return module.companion(self.config, picture, generator)
