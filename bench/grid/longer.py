"""`train.longer`: a schedule some times as long as the one that the other layers say, `epochs` and `milestones`
alike. It is how a control gets the compute of a method that costs more per step:

    method:
      baseline, equal compute: {train.longer: as + TIME}      a factor that the scale knows, by backbone
      baseline, twice as long: {train.longer: 2}

    longer: {as + TIME: {timesformer: 1.92, ...}}             in the scale

A factor, not a number of epochs, so that `--set train.epochs=...` keeps what the label says. Pure; plan.py
merges the layers before and signs the config after: the longer run is the run of so many epochs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench import find
from bench.config.mistakes import Mistake, Mistakes, shown
from bench.config.science import RunConfig, Train
from bench.config.validate import validated
from bench.grid.patch import Patch

KEY = "longer"
MOST = 1000.0

Factors = dict[str, dict[str, float]]
"""name -> backbone -> factor."""


def read_factors(scale: Path, doc: Patch, mistakes: list[Mistake]) -> Factors:
    """What a scale's file says under `longer`."""
    given = doc.get(KEY) or {}
    found: Factors = {}
    if not isinstance(given, Mapping):
        mistakes.append(Mistake((), f"{scale}: {KEY}: must map names to factors by backbone"))
        return found
    known = find.names("backbone")
    for name, by_backbone in given.items():
        where = f"{scale}: {KEY}.{name}"
        if not isinstance(by_backbone, Mapping):
            text = f"must map backbones to factors, got {shown(by_backbone)}"
            mistakes.append(Mistake((), f"{where}: {text}"))
            continue
        for backbone, factor in by_backbone.items():
            if backbone not in known:
                hint = find.nearest(str(backbone), known)
                mistakes.append(Mistake((), f"{where}: unknown backbone {backbone!r}{hint}"))
            if not _is_factor(factor):
                mistakes.append(Mistake((), f"{where}.{backbone}: {_must_be(factor)}"))
        found[str(name)] = {str(b): float(f) for b, f in by_backbone.items() if _is_factor(f)}
    return found


def take_longer(merged: Patch, mistakes: list[Mistake]) -> str | float | None:
    """What a merged config has under `train.longer`, which it has no more afterwards."""
    train = merged.get("train")
    if not isinstance(train, Mapping) or KEY not in train:
        return None
    merged["train"] = {key: value for key, value in train.items() if key != KEY}
    given = train[KEY]
    if given is None or isinstance(given, str):
        return given
    if _is_factor(given):
        return float(given)
    mistakes.append(Mistake(("train", KEY), _must_be(given)))
    return None


def lengthened(
    config: RunConfig, longer: str | float | None, factors: Factors, scale: str
) -> tuple[RunConfig, str | None]:
    """The config with its schedule so many times as long, and why it cannot be, or None. Raises Mistakes where it
    is then too long.
    """
    if longer is None:
        return config, None
    if isinstance(longer, str):
        factor = factors.get(longer, {}).get(config.model.name)
        if factor is None:
            return config, (
                f"train.longer: the scale {scale} does not say how much longer {longer!r} is for "
                f"{config.model.name} ({KEY}: {{{longer}: {{{config.model.name}: 2.0}}}})"
            )
        longer = factor
    schedule = {
        "epochs": max(1, round(config.train.epochs * longer)),
        "milestones": [round(epoch * longer) for epoch in config.train.milestones],
    }
    mistakes: list[Mistake] = []
    train = validated(Train, config.train.model_dump() | schedule, ("train",), mistakes)
    if mistakes:
        raise Mistakes(mistakes)
    return replace(config, train=train), None


def _is_factor(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= MOST


def _must_be(value: Any) -> str:
    return f"must be a factor above 0 and at most {MOST:g}, got {shown(value)}"
