"""YAML -> labelled cells. Pure: reads the two YAML files, touches nothing else.

A sweep says *what is compared* (axes), a scale says *how big* (data, model size, schedule,
resources, and under `backbones` what its recipe does for one backbone only). A sweep over images
says `scales: image` and so takes its scales, of the same names, from `scales/image/`. Each value of
an axis is a label that maps to a patch of the config; a cell takes one label per axis and merges

    scale <- scale.backbones[its model.name] <- sweep <- patches of its labels <- --set

where a layer that names another data set or backbone leaves the options of the former behind
(`patch.merge_layer`). `resources` may stand in each of these. What is left out (leave_out.py) is taken out
of the result; a cell that is then the run of another one is skipped. All mistakes of both files and all
cells come back in one `Mistakes`, each with the place it was written at.

`plan` makes all cells of a sweep; `read` and `Recipe.cell` make single cells from patches that are
not in the file (bench.tune).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from bench import find
from bench.config import signature as identity
from bench.config.left_out import LeftOut
from bench.config.left_out import without as in_words
from bench.config.mistakes import Mistake, Mistakes
from bench.config.resources import Resources, parse_resources
from bench.config.science import KEYED, RunConfig, parse
from bench.grid import files, longer, yaml
from bench.grid import leave_out as leaving
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
from bench.grid.cell import Cell, Composed, Plan
from bench.grid.layers import backbone_layers, common_resources, file_layers, read_seeds
from bench.grid.parents import misfit, read_cells, sized, take_parent
from bench.grid.patch import (
    Patch,
    copied,
    has,
    leaves,
    merge_layer,
    overlap,
    parse_settings,
    without,
)

_SWEEP_KEYS = (
    "title", "scales", "base", "axes", "zip", "exclude", "when", "seeds", "resources", "cells", leaving.KEY,
)  # fmt: skip
_SCALE_KEYS = (
    "title", "base", "backbones", "seeds", "resources", "cells", leaving.KEY, longer.KEY,
)  # fmt: skip

__all__ = ["Cell", "Plan", "Recipe", "plan", "read"]

ENOUGH_MISTAKES = 1000
"""After so many, the cells that are left are not looked at."""


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
    left_out: LeftOut
    named: dict[str, Layer] = field(default_factory=dict)  # `cells`, by name
    longer: longer.Factors = field(default_factory=dict)
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
        cell = self.seeded(labels, composed, seed=self.seeds[0] if seed is None else seed)
        return self.reduced(cell)

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
        given = without(self.settings.patch, options - here)
        merge_layer(merged, {key: value for key, value in given.items() if key != leaving.KEY})
        unused -= here
        layers.append(self.settings)
        found: list[Mistake] = []
        parent = take_parent(merged, self.named, self.axes, found)
        factor = longer.take_longer(merged, found)
        resources, config, skip = merged.pop("resources", {}), None, None
        try:
            resources = parse_resources(resources)
        except Mistakes as error:
            found += error.mistakes
        try:
            config = parse({"seed": self.seeds[0], **merged})
            config, skip = longer.lengthened(config, factor, self.longer, self.scale)
        except Mistakes as error:
            found += error.mistakes
        if "seed" in merged:
            found.append(Mistake(("seed",), "use `seeds`, a list"))
        mistakes += [locate(m, layers) for m in found]
        return None if found or config is None else Composed(config, resources, parent, skip)

    def seeded(self, labels: Labels, composed: Composed, *, seed: int) -> Cell:
        """The cell of one seed, with what it starts from. Raises Mistakes where that cannot be."""
        skip = composed.skip or _skip_reason(composed.config, self._skips)
        config, parent = composed.config.of_seed(seed), None
        if composed.parent is not None:
            parent = self._parent(composed, labels, seed)
            config = config.starting_from(parent.signature)
            if parent.skip and not skip:
                skip = f"{composed.parent}, which it starts from, cannot run: {parent.skip}"
        signed = identity.signature(config)
        if composed.skip:  # it is not the run of this config
            signed = identity.digest([signed, composed.skip])[: len(signed)]
        return Cell(labels, seed, config, signed, composed.resources, skip, parent=parent)

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
        return self.reduced(self.seeded(labels, composed, seed=seed))

    def _named_parent(self, name: str, layer: Layer) -> Cell:
        """One of `cells`: of the sweep's config it has only the resources."""
        given = [*self.scale_layers, *self.sweep_layers, layer, self.settings]
        merged = {key: copied(value) for key, value in layer.patch.items() if key != "resources"}
        found: list[Mistake] = []
        parent, config = take_parent(merged, self.named, {}, found), None
        try:
            config = parse({"seed": 0, **merged})
        except Mistakes as error:
            found += error.mistakes
        mistakes = [locate(m, given) for m in found]
        resources = common_resources(given, mistakes)
        if mistakes or config is None:
            raise Mistakes(mistakes)
        labels = dict.fromkeys(self.axes, NOT_APPLICABLE) | {next(iter(self.axes), "cell"): name}
        return self.seeded(labels, Composed(config, resources, parent), seed=config.seed)

    def reduced(self, cell: Cell) -> Cell:
        """The cell without what is left out; itself where it has none of it."""
        config, gone = leaving.taken_out(cell.config, self.left_out)
        if not gone:
            return cell
        if not config.objectives:
            return replace(cell, skip=f"nothing to train is left {in_words(gone)}")
        if cell.skip and cell.skip != _skip_reason(cell.config, self._skips):  # not for a component
            return replace(cell, left_out=gone)
        skip, name = _skip_reason(config, self._skips), identity.signature(config)
        return replace(cell, config=config, signature=name, skip=skip, left_out=gone)


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
    documents = ((str(scale_path), scale_doc), (str(sweep), sweep_doc), ("--set", overrides))
    left_out = leaving.read_left_out(documents, mistakes)
    mistakes += _in_vain(overrides, left_out)
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
        left_out,
        read_cells(scale_path, scale_doc, mistakes) | read_cells(sweep, sweep_doc, mistakes),
        longer.read_factors(scale_path, scale_doc, mistakes),
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
            same = _run(cell)
            if same in seen:
                twin = seen[same].labels
                listed[Mistake((), f"two cells are the same run: {labels} and {twin}")] = None
                break
            seen[same] = cell
    mistakes += [*listed, *(_unused(unused) if len(listed) <= ENOUGH_MISTAKES else ())]
    return _without_left_out(recipe, list(seen.values()))


def _without_left_out(recipe: Recipe, cells: list[Cell]) -> list[Cell]:
    """A cell that asks for no more than another one is skipped: as it was written, and with the reason."""
    if not recipe.left_out:
        return cells
    reduced = [recipe.reduced(cell) for cell in cells]
    runs = {_run(cell): cell for cell in reduced if not cell.left_out}
    found = []
    for cell, rest in zip(cells, reduced, strict=True):
        same = runs.setdefault(_run(rest), rest)
        if same is not rest:
            twin = " / ".join(same.labels.values())
            reason = f"{in_words(rest.left_out)}: the run of {twin}"
            rest = replace(cell, skip=reason)
        found.append(rest)
    return found


def _run(cell: Cell) -> tuple[str, ...]:
    return (cell.signature, *identity.asked_of(cell.config))


def _in_vain(settings: Patch, left_out: LeftOut) -> list[Mistake]:
    """Options in --set of what is left out, which would change nothing."""
    return [
        Mistake(
            (),
            f"--set {section}.{name}: is left out ({left_out[name]}); "
            f"--set {leaving.KEY}.{name}=null puts it back",
        )
        for section, name in _options(settings)
        if name in left_out
    ]


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
