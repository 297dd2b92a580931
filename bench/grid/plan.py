"""YAML -> labelled cells. Pure: reads the two YAML files, touches nothing else.

A sweep says *what is compared* (axes), a scale says *how big* (data, model size, schedule,
resources, and under `backbones` what its recipe does for one backbone only). A sweep over images
says `scales: image` and so takes its scales, of the same names, from `scales/image/`. Each value of
an axis is a label that maps to a patch of the config; a cell takes one label per axis and merges

    scale <- scale.backbones[its model.name] <- sweep <- patches of its labels <- --set

where a layer that names another data set or backbone leaves the options of the former behind
(`patch.merge_layer`). `resources` may stand in each of these. All mistakes of both files and all
cells come back in one `Mistakes`, each with the place it was written at.

`plan` makes all cells of a sweep; `read` and `Recipe.cell` make single cells from patches that are
not in the file (bench.tune).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from bench import find
from bench.config import signature as identity
from bench.config.mistakes import Mistake, Mistakes
from bench.config.resources import Resources, parse_resources
from bench.config.science import KEYED, RunConfig, parse
from bench.grid import files, yaml
from bench.grid.axes import (
    NOT_APPLICABLE,
    Axes,
    Labels,
    Layer,
    check_conflicts,
    label_sets,
    locate,
    read_axes,
)
from bench.grid.layers import backbone_layers, common_resources, file_layers, read_seeds
from bench.grid.parents import Parent, misfit, read_cells, sized, take_parent
from bench.grid.patch import (
    Patch,
    copied,
    has,
    leaves,
    merge,
    merge_layer,
    overlap,
    parse_settings,
    without,
)

_SWEEP_KEYS = (
    "title", "scales", "base", "axes", "zip", "exclude", "when", "seeds", "resources", "cells",
)  # fmt: skip
_SCALE_KEYS = ("title", "base", "backbones", "seeds", "resources", "cells")

ENOUGH_MISTAKES = 1000
"""After so many, the cells that are left are not looked at."""


@dataclass(frozen=True)
class Cell:
    """One run of the grid: its labels for tables, its config for the engine, its resources for the
    launcher.
    """

    labels: Labels
    seed: int
    config: RunConfig
    signature: str
    resources: Resources
    skip: str | None = None  # why it cannot run; it stays in the plan
    parent: Cell | None = None  # what it starts from

    def parents(self) -> list[Cell]:
        """All that must be trained before it, in this order."""
        return [] if self.parent is None else [*self.parent.parents(), self.parent]


@dataclass(frozen=True)
class Plan:
    """Every cell of a sweep at a scale."""

    sweep: str
    scale: str
    title: str
    axes: tuple[str, ...]
    cells: tuple[Cell, ...]
    resources: Resources  # what all cells have in common; each cell has its own
    overrides: dict[str, Any] = field(default_factory=dict)  # science set by --set

    @property
    def parents(self) -> tuple[Cell, ...]:
        """What cells start from and no cell of the grid is, each once, in the order of training."""
        own = {cell.signature for cell in self.cells}
        found = {s.signature: s for cell in self.cells for s in cell.parents()}
        return tuple(s for signature, s in found.items() if signature not in own)

    @property
    def name(self) -> str:
        """Name of the manifest: a sweep run with --set is another experiment and does not replace
        the plain one.
        """
        suffix = f"-{identity.digest(self.overrides)[:6]}" if self.overrides else ""
        return f"{self.sweep}-{self.scale}{suffix}"


@dataclass(frozen=True)
class Composed:
    """What cells that differ only in their seed have in common."""

    config: RunConfig
    resources: Resources
    parent: Parent | None = None


@dataclass(frozen=True)
class Recipe:
    """What the cells of a sweep at a scale have in common, and how one cell is made of it."""

    sweep: Path
    document: Patch  # the sweep's YAML
    scale: str
    title: str
    seeds: tuple[int, ...]
    settings: Layer  # --set, without `seeds`
    scale_layers: tuple[Layer, ...]
    backbones: dict[str, Layer]
    sweep_layers: tuple[Layer, ...]
    resources: Resources
    named: dict[str, Layer] = field(default_factory=dict)  # `cells`, by name
    axes: Axes = field(default_factory=dict)
    _skips: dict[str, str | None] = field(default_factory=dict)
    _parents: dict[str, Cell] = field(default_factory=dict)
    _open: list[str] = field(default_factory=list)  # parents that are being made

    @property
    def overrides(self) -> Patch:
        """Science set by --set."""
        return {key: value for key, value in self.settings.patch.items() if key != "resources"}

    def cell(self, labels: Labels, layers: Iterable[Layer], *, seed: int | None = None) -> Cell:
        """The cell with these patches over the sweep's and below --set; the first of the seeds
        where none is given. Raises Mistakes, located by the layers' origins.
        """
        layers = list(layers)
        written = {path for layer in layers for path in leaves(layer.patch)}
        mistakes = [
            Mistake((), f"--set {'.'.join(path)}: is written by {layers[-1].origin}")
            for path in sorted(overlap(set(leaves(self.overrides)), written))
        ]
        unused = set(_options(self.settings.patch))
        composed = self.compose(layers, unused, mistakes)
        mistakes += _unused(unused)
        if composed is None or mistakes:
            raise Mistakes(mistakes)
        return self.seeded(labels, composed, seed=self.seeds[0] if seed is None else seed)

    def compose(
        self, layers: list[Layer], unused: set[tuple[str, str]], mistakes: list[Mistake]
    ) -> Composed | None:
        """Join all layers. Adds to `mistakes`, and then returns None; takes the components that
        the options in --set reach out of `unused`.
        """
        common = [*self.scale_layers, *self.sweep_layers]
        recipe = self.backbones.get(_backbone([*common, *layers, self.settings]), Layer("", {}))
        layers = [*self.scale_layers, recipe, *self.sweep_layers, *layers]
        merged: Patch = {}
        for layer in layers:
            merge_layer(merged, layer.patch)
        options = set(_options(self.settings.patch))
        here = {path for path in options if has(merged, path)}
        merge_layer(merged, without(self.settings.patch, options - here))
        unused -= here
        layers.append(self.settings)
        found: list[Mistake] = []
        parent = take_parent(merged, self.named, self.axes, found)
        resources, config = merged.pop("resources", {}), None
        try:
            resources = parse_resources(resources)
        except Mistakes as error:
            found += error.mistakes
        try:
            config = parse({"seed": self.seeds[0], **merged})
        except Mistakes as error:
            found += error.mistakes
        if "seed" in merged:
            found.append(Mistake(("seed",), "use `seeds`, a list"))
        mistakes += [locate(m, layers) for m in found]
        return None if found or config is None else Composed(config, resources, parent)

    def seeded(self, labels: Labels, composed: Composed, *, seed: int) -> Cell:
        """The cell of one seed, with what it starts from. Raises Mistakes where that cannot be."""
        skip = _skip_reason(composed.config, self._skips)
        config, parent = replace(composed.config, seed=seed), None
        if composed.parent is not None:
            parent = self._parent(composed, labels, seed)
            config = config.starting_from(parent.signature)
            if parent.skip and not skip:
                skip = f"{composed.parent}, which it starts from, cannot run: {parent.skip}"
        signed = identity.signature(config)
        return Cell(labels, seed, config, signed, composed.resources, skip, parent)

    def _parent(self, composed: Composed, labels: Labels, seed: int) -> Cell:
        """The cell that these start from; made once. Raises Mistakes."""
        wanted, where = composed.parent, ("model", "init", "cell")
        assert wanted is not None
        if wanted.name is None:
            other = labels | dict(wanted.labels)
            key, layers = f"{other} {seed}", self._layers_of(other)
        else:
            named = sized(self.named[wanted.name], composed.config)
            key, layers = f"{wanted.name} {named.patch}", []
        if key in self._open:
            raise Mistakes([Mistake(where, f"{wanted} starts from itself")])
        if key not in self._parents:
            self._open.append(key)
            try:
                if wanted.name is None:
                    self._parents[key] = self._composed_parent(other, layers, seed)
                else:
                    self._parents[key] = self._named_parent(wanted.name, named)
            finally:
                self._open.pop()
        parent = self._parents[key]
        if problem := misfit(composed.config, parent.config):
            raise Mistakes([Mistake(where, f"{wanted}: {problem}")])
        return parent

    def _layers_of(self, labels: Labels) -> list[Layer]:
        chosen = [(axis, label) for axis, label in labels.items() if label != NOT_APPLICABLE]
        return [self.axes[axis][label] for axis, label in chosen]

    def _composed_parent(self, labels: Labels, layers: list[Layer], seed: int) -> Cell:
        mistakes: list[Mistake] = []
        composed = self.compose(layers, set(), mistakes)
        if composed is None:
            raise Mistakes(mistakes)
        return self.seeded(labels, composed, seed=seed)

    def _named_parent(self, name: str, layer: Layer) -> Cell:
        """One of `cells`: of the sweep's config it has only the resources."""
        given = [*self.scale_layers, *self.sweep_layers, layer, self.settings]
        resources: Patch = {}
        for part in given:
            merge(resources, part.patch.get("resources", {}))
        merged = {key: copied(value) for key, value in layer.patch.items() if key != "resources"}
        mistakes: list[Mistake] = []
        parent = take_parent(merged, self.named, {}, mistakes)
        found: list[Any] = []
        for read, raw in ((parse, {"seed": 0, **merged}), (parse_resources, resources)):
            try:
                found.append(read(raw))
            except Mistakes as error:
                mistakes += error.mistakes
        if mistakes:
            raise Mistakes([locate(m, given) for m in mistakes])
        config, common = found
        labels = dict.fromkeys(self.axes, NOT_APPLICABLE) | {next(iter(self.axes), "cell"): name}
        return self.seeded(labels, Composed(config, common, parent), seed=config.seed)


def plan(sweep: Path, scale: str, settings: Iterable[str] = ()) -> Plan:
    """Expand a sweep. Raises Mistakes with everything that is wrong in the sweep, the scale and the
    settings.
    """
    mistakes: list[Mistake] = []
    recipe = read(sweep, scale, settings, mistakes)
    if "search" in recipe.document:
        mistakes.append(Mistake((), f"{sweep}: this is a search: python -m bench.tune {sweep}"))
        raise Mistakes(mistakes)
    axes = read_axes(sweep, recipe.document, mistakes)
    recipe = replace(recipe, axes=axes or {})
    check_conflicts(sweep, axes, recipe.settings.patch, mistakes)
    # also when the axes have mistakes: those of their patches and of the base belong in the list
    cells = _cells(recipe, axes, mistakes)
    if mistakes:
        raise Mistakes(mistakes)
    if not cells:
        raise Mistakes(
            [Mistake((), f"{sweep}: the grid is empty: `exclude` and `when` leave no cell")]
        )
    return Plan(
        sweep.stem,
        recipe.scale,
        recipe.title,
        tuple(axes or {}),
        tuple(cells),
        recipe.resources,
        recipe.overrides,
    )


def read(sweep: Path, scale: str, settings: Iterable[str], mistakes: list[Mistake]) -> Recipe:
    """A sweep that need not have axes: what bench.tune makes its cells of. The caller checks the
    `axes` and the `search` of its `document`; mistakes in `base` only come out with a cell. Raises
    Mistakes when there is nothing to go on with.
    """
    sweep = files.sweep_file(sweep, mistakes)
    sweep_doc = yaml.read(sweep, mistakes)
    if sweep_doc is None:
        raise Mistakes(mistakes)
    scale_path = files.scale_file(sweep, sweep_doc.get("scales", "."), scale, mistakes)
    scale_doc = yaml.read(scale_path, mistakes)
    if scale_doc is None:
        raise Mistakes(mistakes)
    for path, doc, keys in (
        (sweep, sweep_doc, (*_SWEEP_KEYS, "search")),
        (scale_path, scale_doc, _SCALE_KEYS),
    ):
        mistakes += [
            Mistake((), f"{path}: {k}: unknown key{find.nearest(str(k), keys)}")
            for k in doc
            if k not in keys
        ]
    overrides = parse_settings(settings, mistakes)
    seeds = read_seeds(
        overrides.pop("seeds", sweep_doc.get("seeds", scale_doc.get("seeds", [0]))), mistakes
    )
    scale_layers = file_layers(scale_path, scale_doc, mistakes)
    sweep_layers = file_layers(sweep, sweep_doc, mistakes)
    final = Layer("--set", overrides)
    return Recipe(
        sweep,
        sweep_doc,
        scale_path.stem,
        str(sweep_doc.get("title", sweep.stem)),
        seeds,
        final,
        scale_layers,
        backbone_layers(scale_path, scale_doc, mistakes),
        sweep_layers,
        common_resources([*scale_layers, *sweep_layers, final], mistakes),
        read_cells(scale_path, scale_doc, mistakes) | read_cells(sweep, sweep_doc, mistakes),
    )


def _cells(recipe: Recipe, axes: Axes | None, mistakes: list[Mistake]) -> list[Cell]:
    """Without axes there are none, and of the mistakes only those of what is written: what is not
    might have stood there.
    """
    if axes is None:
        found: list[Mistake] = []
        recipe.compose([], set(), found)
        mistakes += [mistake for mistake in found if not mistake.path]
        return []
    seen: dict[tuple[str, ...], Cell] = {}
    unused = set(_options(recipe.settings.patch))
    listed: dict[Mistake, None] = {}
    sets = label_sets(recipe.sweep, recipe.document, axes, len(recipe.seeds), mistakes)
    for labels in list(sets):
        layers = [axes[axis][label] for axis, label in labels.items() if label != NOT_APPLICABLE]
        wrong: list[Mistake] = []
        composed = recipe.compose(layers, unused, wrong)
        listed |= dict.fromkeys(wrong)
        if len(listed) > ENOUGH_MISTAKES:
            listed[Mistake((), f"{recipe.sweep}: the cells after these were not looked at")] = None
            break
        if composed is None:
            continue
        for seed in recipe.seeds:
            try:
                cell = recipe.seeded(labels, composed, seed=seed)
            except Mistakes as error:  # in what it starts from
                listed |= dict.fromkeys(error.mistakes)
                break
            # what differs only in what is measured is trained once
            same = (cell.signature, *identity.asked_of(cell.config))
            if same in seen:
                twin = seen[same].labels
                listed[Mistake((), f"two cells are the same run: {labels} and {twin}")] = None
                break
            seen[same] = cell
    mistakes += [*listed, *(_unused(unused) if len(listed) <= ENOUGH_MISTAKES else ())]
    return list(seen.values())


def _unused(unused: set[tuple[str, str]]) -> list[Mistake]:
    return [
        Mistake(
            (),
            f"--set {section}.{name}: no cell has it{find.nearest(name, find.names(KEYED[section]))}",
        )
        for section, name in sorted(unused)
    ]


def _backbone(layers: list[Layer]) -> str:
    """The `model.name` that the last of these layers gives."""
    models = [layer.patch.get("model") for layer in reversed(layers)]
    names = [model["name"] for model in models if isinstance(model, dict) and "name" in model]
    return str(names[0]) if names else ""


def _skip_reason(config: RunConfig, known: dict[str, str | None]) -> str | None:
    """Why the cell cannot run; asked once for all cells that differ in training only."""
    asked = config.dump(defaults=False)
    key = json.dumps([asked[k] for k in asked if k not in ("train", "seed")], sort_keys=True)
    if key not in known:
        known[key] = config.skip_reason()
    return known[key]


def _options(patch: Patch) -> Iterator[tuple[str, str]]:
    """The components that a patch sets options of. In `--set` that does not add the component."""
    for section in KEYED:
        components = patch.get(section)
        for name, options in components.items() if isinstance(components, dict) else ():
            if options:
                yield section, name
