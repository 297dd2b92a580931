"""Two identities: the signature says what is trained, a digest what is measured of it.

The *signature* is the first 16 hex digits of SHA-256 over the training part of the config (data,
training input, model, objectives, schedule, seed), as far as it differs from the defaults, and over
component versions above 1. Adding a field with a neutral default therefore changes no signature;
*changing* a default would reuse an old run silently, so the full training config is stored beside
each run and `drift` compares it.

An *evaluation* of a run is named `<name>-<digest>`: the digest is over its options, its VERSION and how
clips are shown to it (`EVALUATION_INPUT`). Adding or changing one trains nothing again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Any

from bench.config.science import EVALUATION_INPUT, Component, Input, RunConfig


def signature(config: RunConfig) -> str:
    """16 hex digits; the name of the run's directory. Independent of YAML order, paths, resources and
    of what is evaluated.
    """
    return _signed(config.dump_training(defaults=False), config.trained_components())


def earlier_signatures(config: RunConfig) -> tuple[str, str]:
    """The names that a run may have from when signatures also signed its evaluations: of today's versions,
    and of the first.
    """
    science = config.dump(defaults=False)
    return _signed(science, config.components()), _signed(science, config.trained_components())


def _signed(science: dict[str, Any], components: Mapping[str, Component]) -> str:
    versions = {part: c.version for part, c in components.items() if c.version != 1}
    return digest(science | ({"versions": versions} if versions else {}))[:16]


def asked_of(config: RunConfig) -> Mapping[str, dict[str, Any]]:
    """'<name>-<digest>' -> {evaluation, version, options, input}, as JSON: what the config asks to be
    measured of what it trains.
    """
    return _asked(config.input, tuple(sorted(config.evaluations.items())))


@lru_cache(maxsize=4096)
def _asked(
    shown: Input, evaluations: tuple[tuple[str, Component], ...]
) -> Mapping[str, dict[str, Any]]:
    """Cached: the cells of a grid ask for the same."""
    only = set(EVALUATION_INPUT)
    said = shown.model_dump(mode="json", include=only)
    differs = shown.model_dump(mode="json", include=only, exclude_defaults=True)
    found = {}
    for name, part in evaluations:
        what = {"evaluation": name, "version": part.version, "input": said}
        # like a signature, a digest does not know options that have their neutral default
        hashed = {"options": part.dump(defaults=False), "input": differs}
        identity = f"{name}-{digest(what | hashed)[:8]}"
        found[identity] = what | {"options": part.dump(defaults=True)}
    return MappingProxyType(found)


def digest(value: Any) -> str:
    """SHA-256 of a JSON value, independent of the order of its keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def drift(stored: Mapping[str, Any], config: RunConfig) -> list[str]:
    """What the stored config of a run says differently of its training from the present one, e.g.
    after a default was changed.
    """
    before, now = _leaves(stored), _leaves(config.dump_training())
    return [
        f"{'.'.join(path)} was {before[path]!r}, is now {now[path]!r}"
        for path in sorted(before.keys() & now.keys())
        if before[path] != now[path]
    ]


def _leaves(value: Any, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    if isinstance(value, Mapping):
        found: dict[tuple[str, ...], Any] = {}
        for key, item in value.items():
            found |= _leaves(item, (*path, str(key)))
        return found
    return {path: list(value) if isinstance(value, tuple) else value}
