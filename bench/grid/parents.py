"""Cells that start from the weights of other cells: `model.init: {cell: ...}` of a sweep or a scale.

    cells:
      image ViT: {data: {name: mini_imagenet9}, model: {name: vit}, objectives: {classify: {}}, ...}
    base:
      model: {init: {cell: image ViT}}                 one cell, shared by all that start from it
    axes:
      stage:
        pretrained: {...}
        fine-tuned: {model.init: {cell: {stage: pretrained}}}    the cell of this sweep, of the same seed

`cells` of a sweep replace those of its scale by name; each is a whole config of its own, with `seed` and
`resources` if they are not to be the sweep's. Pure; plan.py composes the rest.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import find
from bench.config.mistakes import Mistake, shown
from bench.config.science import FROM_RUN, RunConfig
from bench.grid.axes import Layer
from bench.grid.patch import Patch, nest

UNKNOWN = f"{FROM_RUN}{'0' * 16}"
"""Stands for the parent in a config until its signature is known."""

SIZES = ("patch", "dim", "depth", "heads", "mlp_ratio")
"""Of a backbone; they must be those of what it starts from."""


@dataclass(frozen=True)
class Parent:
    """What `model.init: {cell: ...}` names: one of `cells`, or the labels in which a cell of the sweep
    differs from the one that starts from it.
    """

    name: str | None = None
    labels: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        return self.name or " / ".join(f"{axis}: {label}" for axis, label in self.labels)


def read_cells(path: Path, doc: Patch, mistakes: list[Mistake]) -> dict[str, Layer]:
    """The `cells` of a file: name -> config."""
    raw = doc.get("cells") or {}
    if not isinstance(raw, dict):
        text = f"must map names to configs, got {shown(raw)}"
        mistakes.append(Mistake((), f"{path}: cells: {text}"))
        return {}
    found = {}
    for name, patch in raw.items():
        where = f"{path}: cells.{name}"
        if not isinstance(patch, dict):
            mistakes.append(Mistake((), f"{where}: must be a config, got {shown(patch)}"))
            continue
        found[str(name)] = Layer(where, nest(patch))
    return found


def take_parent(
    merged: Patch, cells: Mapping[str, Layer], axes: Mapping[str, Any], mistakes: list[Mistake]
) -> Parent | None:
    """What a merged config starts from, if that is a cell; in the config it is then UNKNOWN."""
    model = merged.get("model")
    init = model.get("init") if isinstance(model, dict) else None
    if not isinstance(init, Mapping):
        return None
    merged["model"] = {**merged["model"], "init": UNKNOWN}
    where = ("model", "init", "cell")
    named = init.get("cell")
    if set(init) != {"cell"}:
        mistakes.append(Mistake(("model", "init"), f"must be {{cell: ...}}, got {shown(init)}"))
    elif isinstance(named, str):
        if named in cells:
            return Parent(named)
        hint = find.nearest(named, tuple(cells)) if cells else "; there are no `cells`"
        mistakes.append(Mistake(where, f"unknown cell {named!r}{hint}"))
    elif isinstance(named, Mapping) and named:
        pairs = tuple((str(axis), str(label)) for axis, label in named.items())
        wrong = [f"{a}: {b}" for a, b in pairs if b not in axes.get(a, {})]
        if not wrong:
            return Parent(labels=pairs)
        mistakes.append(Mistake(where, f"no such label of the sweep: {', '.join(wrong)}"))
    else:
        text = f"must be a name from `cells`, or {{axis: label}}, got {shown(named)}"
        mistakes.append(Mistake(where, text))
    return None


def sized(layer: Layer, config: RunConfig) -> Layer:
    """One of `cells`, with the sizes of the model that starts from it where it gives none itself."""
    model = dict(layer.patch.get("model") or {})
    try:
        fields = find.load("backbone", str(model.get("name"))).Config.model_fields
    except find.ComponentError:
        return layer  # `parse` will say so
    sizes = {s: getattr(config.model.config, s, None) for s in SIZES if s in fields}
    given = {size: value for size, value in sizes.items() if value is not None}
    return Layer(layer.origin, {**layer.patch, "model": given | model})


def misfit(config: RunConfig, parent: RunConfig) -> str | None:
    """Why a model cannot start from the trained one of `parent`, or None."""
    mine, its = config.model, parent.model
    if mine.name != its.name:
        if find.optional("backbone", its.name, "as_image_weights") is None:
            return f"only a {its.name} can start from a {its.name}, not a {mine.name}"
        if find.optional("backbone", mine.name, "load_image_weights") is None:
            return f"a {mine.name} cannot start from an image model that was trained here"
    for size in SIZES:
        here, there = getattr(mine.config, size, None), getattr(its.config, size, None)
        if here is not None and there is not None and here != there:
            return f"model.{size} is {here}, and {there} in the cell that it starts from"
    return None
