"""What the files of a sweep say of all its cells: their layers, resources and seeds. Between yaml.py, which reads
them, and plan.py, which makes cells of them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench import find
from bench.config.mistakes import Mistake, Mistakes, shown
from bench.config.resources import Resources, parse_resources
from bench.grid.axes import Layer, locate
from bench.grid.patch import Patch, merge, nest


def file_layers(path: Path, doc: Patch, mistakes: list[Mistake]) -> tuple[Layer, ...]:
    """What a file says of all its cells: its `resources` and its `base`."""
    resources = _mapping(path, doc, "resources", mistakes)
    return (
        Layer(f"{path}:", {"resources": resources} if resources else {}),
        Layer(f"{path}: base", _mapping(path, doc, "base", mistakes)),
    )


def _mapping(where: Path | str, doc: Patch, key: str, mistakes: list[Mistake]) -> Patch:
    value = doc.get(key) or {}
    if isinstance(value, dict):
        return nest(value)
    mistakes.append(
        Mistake((), f"{where}: {key}: must map config keys to values, got {shown(value)}")
    )
    return {}


def backbone_layers(path: Path, doc: Patch, mistakes: list[Mistake]) -> dict[str, Layer]:
    """What a scale adds to the cells of one backbone."""
    recipes = {}
    known = find.names("backbone")
    for name in _mapping(path, doc, "backbones", mistakes):
        if name not in known:
            hint = find.nearest(name, known)
            mistakes.append(Mistake((), f"{path}: backbones: unknown backbone {name!r}{hint}"))
        patch = _mapping(f"{path}: backbones", doc["backbones"], name, mistakes)
        recipes[name] = Layer(f"{path}: backbones.{name}", patch)
    return recipes


def common_resources(layers: list[Layer], mistakes: list[Mistake]) -> Resources:
    merged: Patch = {}
    for layer in layers:
        merge(merged, {"resources": layer.patch.get("resources", {})})
    try:
        return parse_resources(merged["resources"])
    except Mistakes as error:
        mistakes += [locate(m, layers) for m in error.mistakes]
        return Resources()


def read_seeds(raw: Any, mistakes: list[Mistake]) -> tuple[int, ...]:
    valid = isinstance(raw, list) and all(
        isinstance(s, int) and not isinstance(s, bool) and s >= 0 for s in raw
    )
    if not valid or not raw or len(set(raw)) != len(raw):
        mistakes.append(
            Mistake(
                ("seeds",),
                f"must be a list of distinct whole numbers, e.g. [0, 1, 2]; got {shown(raw)}",
            )
        )
        return (0,)
    return tuple(raw)
