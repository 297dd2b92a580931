"""YAML -> labelled cells. Pure: reads the two YAML files, touches nothing else.

A sweep says *what is compared* (axes), a scale says *how big* (data, model size, schedule,
resources, and under `backbones` what its recipe does for one backbone only). A sweep over images
says `scales: image` and so takes its scales, of the same names, from `scales/image/`. Each value of
an axis is a label that maps to a patch of the config; a cell takes one label per axis and merges

    scale.base <- scale.backbones[its model.name] <- sweep.base <- patches of its labels <- --set

All mistakes of both files and all cells come back in one `Mistakes`, each with the place it was
written at.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from bench import find, identity, yaml
from bench.config import (
    KEYED,
    Mistake,
    Mistakes,
    Resources,
    RunConfig,
    parse,
    parse_resources,
)
from bench.patch import Patch, has, leaves, merge, nest, overlap, parse_settings, without

Labels = dict[str, str]

_SWEEP_KEYS = ("title", "scales", "base", "axes", "zip", "exclude", "when", "seeds", "resources")
_SCALE_KEYS = ("title", "base", "backbones", "seeds", "resources")


@dataclass(frozen=True)
class Cell:
    """One run of the grid: its labels for tables, its config for the engine."""

    labels: Labels
    seed: int
    config: RunConfig
    signature: str
    skip: str | None = None  # why it cannot run; it stays in the plan


@dataclass(frozen=True)
class Plan:
    """Every cell of a sweep at a scale."""

    sweep: str
    scale: str
    title: str
    axes: tuple[str, ...]
    cells: tuple[Cell, ...]
    resources: Resources
    overrides: dict[str, Any] = field(default_factory=dict)  # science set by --set

    @property
    def name(self) -> str:
        """Name of the manifest: a sweep run with --set is another experiment and does not replace
        the plain one.
        """
        suffix = f"-{identity.digest(self.overrides)[:6]}" if self.overrides else ""
        return f"{self.sweep}-{self.scale}{suffix}"


@dataclass(frozen=True)
class _Layer:
    """A patch and the place it was written at."""

    origin: str
    patch: Patch


def plan(sweep: Path, scale: str, settings: Iterable[str] = ()) -> Plan:
    """Expand a sweep. Raises Mistakes with everything that is wrong in the sweep, the scale and the
    settings.
    """
    mistakes: list[Mistake] = []
    sweep_doc = yaml.read(sweep, mistakes)
    if sweep_doc is None:
        raise Mistakes(mistakes)
    scale_path = _scales(sweep, sweep_doc, mistakes) / f"{scale}.yaml"
    if not scale_path.exists():
        valid = sorted(p.stem for p in scale_path.parent.glob("*.yaml"))
        mistakes.append(
            Mistake((), f"--scale: unknown scale {scale!r}{find.nearest(scale, valid)}")
        )
        raise Mistakes(mistakes)
    scale_doc = yaml.read(scale_path, mistakes)
    if scale_doc is None:
        raise Mistakes(mistakes)
    overrides = parse_settings(settings, mistakes)
    return _expand(sweep, scale_path, sweep_doc, scale_doc, overrides, mistakes)


def _scales(sweep: Path, doc: Patch, mistakes: list[Mistake]) -> Path:
    """The folder of the sweep's scales. Raises Mistakes when there is no such folder."""
    root = sweep.parent / "scales"
    name = doc.get("scales", ".")
    known = sorted(path.name for path in root.iterdir() if path.is_dir()) if root.is_dir() else []
    if name != "." and name not in known:
        hint = find.nearest(str(name), known)
        mistakes.append(Mistake((), f"{sweep}: scales: no such folder in {root}: {name!r}{hint}"))
        raise Mistakes(mistakes)
    return root / name


def _expand(
    sweep: Path,
    scale_path: Path,
    sweep_doc: Patch,
    scale_doc: Patch,
    overrides: Patch,
    mistakes: list[Mistake],
) -> Plan:
    for path, doc, keys in ((sweep, sweep_doc, _SWEEP_KEYS), (scale_path, scale_doc, _SCALE_KEYS)):
        mistakes += [
            Mistake((), f"{path}: {k}: unknown key{find.nearest(str(k), keys)}")
            for k in doc
            if k not in keys
        ]
    axes = _axes(sweep, sweep_doc, mistakes)
    seeds = _seeds(
        overrides.pop("seeds", sweep_doc.get("seeds", scale_doc.get("seeds", [0]))), mistakes
    )
    resources: Patch = {}
    for where, doc in ((scale_path, scale_doc), (sweep, sweep_doc), ("--set", overrides)):
        merge(resources, _mapping(where, doc, "resources", mistakes))
    overrides.pop("resources", None)
    common = [
        _Layer(f"{path}: base", _mapping(path, doc, "base", mistakes))
        for path, doc in ((scale_path, scale_doc), (sweep, sweep_doc))
    ]
    recipes = _recipes(scale_path, scale_doc, mistakes)
    final = _Layer("--set", overrides)
    _check_conflicts(sweep, axes, sweep_doc.get("zip") or [], final, mistakes)
    try:
        parsed_resources = parse_resources(resources)
    except Mistakes as error:
        mistakes += error.mistakes
        parsed_resources = Resources()
    cells: list[Cell] = []
    if axes is not None:
        # also when the axes have mistakes: those of their patches belong in the list
        label_sets = list(_label_sets(sweep, sweep_doc, axes, mistakes))
        cells = _cells(label_sets, axes, seeds, common, recipes, final, mistakes)
    if mistakes:
        raise Mistakes(mistakes)
    if not cells:
        raise Mistakes(
            [Mistake((), f"{sweep}: the grid is empty: `exclude` and `when` leave no cell")]
        )
    title = str(sweep_doc.get("title", sweep.stem))
    return Plan(
        sweep.stem,
        scale_path.stem,
        title,
        tuple(axes or {}),
        tuple(cells),
        parsed_resources,
        overrides,
    )


def _mapping(where: Path | str, doc: Patch, key: str, mistakes: list[Mistake]) -> Patch:
    value = doc.get(key) or {}
    if isinstance(value, dict):
        return nest(value)
    mistakes.append(Mistake((), f"{where}: {key}: must map config keys to values, got {value!r}"))
    return {}


def _recipes(path: Path, doc: Patch, mistakes: list[Mistake]) -> dict[str, _Layer]:
    """What a scale adds to the cells of one backbone."""
    recipes = {}
    known = find.names("backbone")
    for name in _mapping(path, doc, "backbones", mistakes):
        if name not in known:
            hint = find.nearest(name, known)
            mistakes.append(Mistake((), f"{path}: backbones: unknown backbone {name!r}{hint}"))
        patch = _mapping(f"{path}: backbones", doc["backbones"], name, mistakes)
        recipes[name] = _Layer(f"{path}: backbones.{name}", patch)
    return recipes


def _cells(
    label_sets: list[Labels],
    axes: dict[str, dict[str, _Layer]],
    seeds: list[int],
    common: list[_Layer],
    recipes: dict[str, _Layer],
    final: _Layer,
    mistakes: list[Mistake],
) -> list[Cell]:
    cells: list[Cell] = []
    seen: dict[str, Cell] = {}
    skips: dict[str, str | None] = {}
    options = set(_options(final.patch))
    unused = set(options)
    for labels in label_sets:
        layers = [axes[axis][label] for axis, label in labels.items() if label != "-"]
        recipe = recipes.get(_backbone([*common, *layers, final]), _Layer("", {}))
        layers = [common[0], recipe, *common[1:], *layers]
        merged: Patch = {}
        for layer in layers:
            merge(merged, layer.patch)
        here = {path for path in options if path[1] in (merged.get(path[0]) or {})}
        merge(merged, without(final.patch, options - here))
        unused -= here
        try:
            config = parse({"seed": seeds[0], **merged})
        except Mistakes as error:
            mistakes += [_locate(m, [*layers, final]) for m in error.mistakes]
            continue
        if "seed" in merged:
            mistakes.append(_locate(Mistake(("seed",), "use `seeds`, a list"), [*layers, final]))
        skip = _skip_reason(config, skips)
        for seed in seeds:
            config = replace(config, seed=seed)
            signature = identity.signature(config)
            if signature in seen:
                twin = seen[signature].labels
                mistakes.append(Mistake((), f"two cells are the same run: {labels} and {twin}"))
                break
            seen[signature] = Cell(labels, seed, config, signature, skip)
            cells.append(seen[signature])
    for section, name in sorted(unused):
        hint = find.nearest(name, find.names(KEYED[section]))
        mistakes.append(Mistake((), f"--set {section}.{name}: no cell has it{hint}"))
    return cells


def _backbone(layers: list[_Layer]) -> str:
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


def _axes(sweep: Path, doc: Patch, mistakes: list[Mistake]) -> dict[str, dict[str, _Layer]] | None:
    raw = doc.get("axes")
    if not isinstance(raw, dict) or not raw:
        mistakes.append(
            Mistake((), f"{sweep}: axes: empty; give at least one axis of labelled patches")
        )
        return None
    axes: dict[str, dict[str, _Layer]] = {}
    for axis, labels in raw.items():
        where = f"{sweep}: axes.{axis}"
        if axis in ("seed", "signature", "state"):
            mistakes.append(Mistake((), f"{where}: this name is taken by a column of the results"))
        if not isinstance(labels, dict) or not labels:
            mistakes.append(Mistake((), f"{where}: empty axis; map at least one label to a patch"))
            continue
        axes[str(axis)] = {}
        for label, patch in labels.items():
            if patch is not None and not isinstance(patch, dict):
                mistakes.append(
                    Mistake((), f"{where}.{label}: must map config keys to values, got {patch!r}")
                )
                patch = {}
            axes[str(axis)][str(label)] = _Layer(f"{where}.{label}", nest(patch or {}))
    return axes


def _seeds(raw: Any, mistakes: list[Mistake]) -> list[int]:
    valid = isinstance(raw, list) and all(
        isinstance(s, int) and not isinstance(s, bool) and s >= 0 for s in raw
    )
    if not valid or not raw or len(set(raw)) != len(raw):
        mistakes.append(
            Mistake(
                ("seeds",), f"must be a list of distinct whole numbers, e.g. [0, 1, 2]; got {raw!r}"
            )
        )
        return [0]
    return list(raw)


def _label_sets(
    sweep: Path, doc: Patch, axes: dict[str, dict[str, _Layer]], mistakes: list[Mistake]
) -> Iterator[Labels]:
    groups = _zip_groups(sweep, doc.get("zip") or [], axes, mistakes)
    when = _conditions(sweep, "when", doc.get("when") or {}, axes, mistakes)
    exclude = _exclusions(sweep, doc.get("exclude") or [], axes, mistakes)
    choices = [
        [
            dict(zip(group, labels, strict=True))
            for labels in zip(*(axes[a] for a in group), strict=True)
        ]
        for group in groups
    ]
    seen = set()
    for combination in itertools.product(*choices):
        labels = {axis: label for part in combination for axis, label in part.items()}
        labels = {axis: labels[axis] for axis in axes}
        for (
            axis,
            condition,
        ) in when.items():  # the axis does not apply here: one cell with "-" instead of many equal
            if not _matches(labels, condition):
                labels[axis] = "-"
        key = tuple(labels.values())
        if key in seen or any(_matches(labels, rule) for rule in exclude):
            continue
        seen.add(key)
        yield labels


def _zip_groups(
    sweep: Path, raw: Any, axes: dict[str, Any], mistakes: list[Mistake]
) -> list[list[str]]:
    groups: list[list[str]] = []
    zipped: set[str] = set()
    if not isinstance(raw, list) or not all(isinstance(group, list) for group in raw):
        mistakes.append(
            Mistake((), f"{sweep}: zip: must be a list of lists of axis names, e.g. [[lr, batch]]")
        )
        raw = []
    for i, group in enumerate(raw):
        unknown = [a for a in group if a not in axes]
        mistakes += [
            Mistake((), f"{sweep}: zip.{i}: unknown axis {a!r}{find.nearest(str(a), list(axes))}")
            for a in unknown
        ]
        twice = [a for a in group if a in zipped]
        mistakes += [Mistake((), f"{sweep}: zip.{i}: axis {a!r} is in two groups") for a in twice]
        if unknown or twice:
            continue
        lengths = {a: len(axes[a]) for a in group}
        if len(set(lengths.values())) > 1:
            text = ", ".join(f"{a} has {n}" for a, n in lengths.items())
            mistakes.append(
                Mistake(
                    (),
                    f"{sweep}: zip.{i}: axes of unequal length ({text}); give each the same number of labels",
                )
            )
            continue
        zipped |= set(group)
        groups.append(list(group))
    firsts = {group[0]: group for group in groups}
    return [firsts.get(a, [a]) for a in axes if a not in zipped or a in firsts]


def _conditions(
    sweep: Path, key: str, raw: Any, axes: dict[str, Any], mistakes: list[Mistake]
) -> dict[str, dict[str, list[str]]]:
    if not isinstance(raw, dict):
        mistakes.append(
            Mistake(
                (),
                f"{sweep}: {key}: must map an axis to the labels it applies to, e.g. {{weight: {{method: [TIME]}}}}",
            )
        )
        return {}
    found = {}
    for axis, rule in raw.items():
        if axis not in axes:
            mistakes.append(
                Mistake(
                    (),
                    f"{sweep}: {key}: unknown axis {axis!r}{find.nearest(str(axis), list(axes))}",
                )
            )
            continue
        found[str(axis)] = _rule(f"{sweep}: {key}.{axis}", rule, axes, mistakes)
    return found


def _exclusions(
    sweep: Path, raw: Any, axes: dict[str, Any], mistakes: list[Mistake]
) -> list[dict[str, list[str]]]:
    if not isinstance(raw, list):
        mistakes.append(
            Mistake(
                (),
                f"{sweep}: exclude: must be a list of rules, e.g. [{{method: baseline, backbone: X-ViT}}]",
            )
        )
        return []
    return [_rule(f"{sweep}: exclude.{i}", rule, axes, mistakes) for i, rule in enumerate(raw)]


def _rule(
    where: str, raw: Any, axes: dict[str, Any], mistakes: list[Mistake]
) -> dict[str, list[str]]:
    if not isinstance(raw, dict) or not raw:
        mistakes.append(Mistake((), f"{where}: must map axes to labels, got {raw!r}"))
        return {"": []}
    rule: dict[str, list[str]] = {}
    for axis, labels in raw.items():
        if axis not in axes:
            mistakes.append(
                Mistake((), f"{where}: unknown axis {axis!r}{find.nearest(str(axis), list(axes))}")
            )
            continue
        rule[str(axis)] = [
            str(label) for label in (labels if isinstance(labels, list) else [labels])
        ]
        unknown = [label for label in rule[str(axis)] if label not in axes[axis]]
        mistakes += [
            Mistake(
                (),
                f"{where}.{axis}: unknown label {label!r}{find.nearest(label, list(axes[axis]))}",
            )
            for label in unknown
        ]
    return rule


def _matches(labels: Labels, rule: Mapping[str, list[str]]) -> bool:
    return all(labels.get(axis) in allowed for axis, allowed in rule.items())


def _check_conflicts(
    sweep: Path,
    axes: dict[str, dict[str, _Layer]] | None,
    zips: Any,
    final: _Layer,
    mistakes: list[Mistake],
) -> None:
    """Two axes that write one key: which wins would depend on their order in the file."""
    written = {
        axis: set().union(*(set(leaves(v.patch)) for v in labels.values()))
        for axis, labels in (axes or {}).items()
    }
    for one, other in itertools.combinations(written, 2):
        for path in sorted(overlap(written[one], written[other])):
            mistakes.append(
                Mistake(
                    (),
                    f"{sweep}: axes.{one} and axes.{other} both write {'.'.join(path)}; a key belongs to one axis",
                )
            )
    for axis, paths in written.items():
        for path in sorted(overlap(paths, set(leaves(final.patch)))):
            mistakes.append(
                Mistake((), f"--set {'.'.join(path)}: is written by axes.{axis} of {sweep}")
            )


def _locate(mistake: Mistake, layers: list[_Layer]) -> Mistake:
    """Say where a wrong value was written: the last layer that has its path."""
    for layer in reversed(layers):
        if has(layer.patch, mistake.path):
            return Mistake((), f"{layer.origin}.{mistake}")
    return mistake
