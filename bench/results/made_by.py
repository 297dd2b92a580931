"""What a number was made by, in a few characters: the columns `code` and `device` of `rows`.

Two runs that differ here are not averaged unawares. `code` is the commit, uncommitted changes as `+dirty-...`,
own components as `+own-...`, and after a slash the digest of all files that cells import, where a launcher
took it: it also knows files that git does not. `device` is its class: "cpu" whatever the processor, or the
GPU's name. Of threads and of how many trained together neither says anything.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

UNKNOWN = "unknown"
"""Of results that do not say it; equal to nothing else."""
SEVERAL = ", measured by "
"""Between the code (the device) that trained and the one that measured."""

_TREE = re.compile(r"/[0-9a-f]{6}\b")


def both(trained: Mapping[str, Any], measured: Mapping[str, Any]) -> dict[str, str]:
    """{code, device} of a number: of the result of training and of that of the evaluation."""
    of = {"code": _code, "device": _device}
    return {
        name: SEVERAL.join(dict.fromkeys((say(trained.get(name)), say(measured.get(name)))))
        for name, say in of.items()
    }


def without_trees(codes: Iterable[str]) -> dict[str, str]:
    """Each code -> itself without the digest of files, where that tells apart no two of them."""
    trees: dict[str, set[str]] = {}
    parts = {part for code in codes for part in code.split(SEVERAL)}
    for part in parts:
        found = _TREE.search(part)
        trees.setdefault(_TREE.sub("", part), set()).update([found[0]] if found else [])
    short = {p: b if len(trees[b := _TREE.sub("", p)]) < 2 else p for p in parts}
    return {
        code: SEVERAL.join(dict.fromkeys(short[part] for part in code.split(SEVERAL)))
        for code in codes
    }


def _code(found: object) -> str:
    if not isinstance(found, Mapping) or not found.get("commit"):
        return UNKNOWN
    commit = str(found["commit"])
    text = commit if commit == UNKNOWN else commit[:8]
    for key, mark in (("dirty", "+dirty-"), ("components", "+own-"), ("tree", "/")):
        text += f"{mark}{str(found[key])[:6]}" if found.get(key) else ""
    return text


def _device(found: object) -> str:
    if not isinstance(found, Mapping) or not found.get("type"):
        return UNKNOWN
    return "cpu" if found["type"] == "cpu" else str(found.get("name") or found["type"])
