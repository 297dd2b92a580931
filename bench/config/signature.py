"""Who a run is: its signature, and whether its stored config has drifted.

The signature is the first 16 hex digits of SHA-256 over the science fields that differ from their
defaults and over component versions above 1. Adding a field with a neutral default therefore
changes no signature; *changing* a default would reuse an old run silently, so the full config is
stored beside each run and `drift` compares it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from bench.config.science import RunConfig


def signature(config: RunConfig) -> str:
    """16 hex digits; the name of the run's directory. Independent of YAML order, paths and
    resources.
    """
    versions = {part: c.version for part, c in config.components().items() if c.version != 1}
    science = config.dump(defaults=False)
    if versions:
        science["versions"] = versions
    return digest(science)[:16]


def digest(value: Any) -> str:
    """SHA-256 of a JSON value, independent of the order of its keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def drift(stored: Mapping[str, Any], config: RunConfig) -> list[str]:
    """What the stored config of a run says differently from the present one, e.g. after a default
    was changed.
    """
    before, now = _leaves(stored), _leaves(config.dump())
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
