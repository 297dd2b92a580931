"""Labels that objectives make of a clip's pixels: where they are computed, and the functions for it.

    prepare(config, model_spec, frames_THWC, rng)       a clip (numpy) on the loader's workers
    prepare_batch(config, model_spec, clip_BTHWC)       a batch (torch) on the device, before the step

An objective's module has one of the two or both. Of both, its option `where` chooses. Between
bench.train.loop, which hands the one to the loader, and bench.train.step, which computes the other.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from bench import find
from bench.config.science import RunConfig
from bench.data.loader import Companion, Prepare
from bench.task import ModelSpec, Place

PrepareBatch = Callable[[Tensor], Tensor]
"""An objective's labels (B first) from the augmented uint8 clips on the device (B T H W 3)."""


def places(config: RunConfig, target: torch.device) -> dict[str, Place]:
    """Where the labels of each objective that makes some are computed, by its name."""
    found: dict[str, Place] = {}
    for name, part in config.objectives.items():
        there = find.optional("objective", name, "prepare")
        here = find.optional("objective", name, "prepare_batch")
        if there and here:
            found[name] = _chosen(getattr(part.config, "where", "auto"), target)
        elif there or here:
            found[name] = "loader" if there else "device"
    return found


def _chosen(where: str, target: torch.device) -> Place:
    """What an objective's option `where` means beside this device."""
    if where == "auto":
        return "device" if target.type == "cuda" else "loader"
    return "device" if where == "device" else "loader"


def on_loader(config: RunConfig, target: torch.device) -> dict[str, Prepare]:
    """What the loader's workers compute, by objective name."""
    return {
        name: partial(
            find.load("objective", name).prepare,
            config.objectives[name].config,
            config.model_spec(),
        )
        for name, place in places(config, target).items()
        if place == "loader"
    }


def on_device(config: RunConfig, target: torch.device) -> dict[str, PrepareBatch]:
    """What the device computes, by objective name."""
    return {
        name: partial(
            _without_autocast,
            find.load("objective", name).prepare_batch,
            config.objectives[name].config,
            config.model_spec(),
        )
        for name, place in places(config, target).items()
        if place == "device"
    }


def _without_autocast(
    prepare_batch: Callable[..., Tensor], config: Any, model_spec: ModelSpec, clip_BTHWC: Tensor
) -> Tensor:
    """An objective's `prepare_batch` in full precision, whatever the step trains in."""
    with torch.no_grad(), torch.autocast(clip_BTHWC.device.type, enabled=False):
        return prepare_batch(config, model_spec, clip_BTHWC)


def companions(config: RunConfig) -> dict[str, Companion]:
    """Second images that objectives make on the loader's workers, by objective name."""
    return {
        name: partial(companion, part.config)
        for name, part in config.objectives.items()
        if (companion := find.optional("objective", name, "companion"))
    }
