"""The axes of a sweep: `axes`, `zip`, `exclude` and `when` of its YAML file -> the labels of each cell
and the patches they stand for.

Pure; plan.py joins the patches with the rest of the sweep and the scale.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import find
from bench.config.mistakes import Mistake, shown
from bench.grid.patch import Patch, has, leaves, nest, overlap

Labels = dict[str, str]

MOST_AXES = 32
MOST_RULES = 200
"""Of `exclude`: each is compared with every cell."""

MOST_CELLS = 10_000
"""Combinations of labels and seeds, before `when` and `exclude`."""

TAKEN = (
    "sweep", "scale", "overrides", "seed", "signature", "run_dir", "state", "reason", "evaluations",
    "data", "data_digest", "provenance", "evaluation", "split", "view", "subset", "metric", "value", "n",
    "n_failed", "train_replaced", "limit", "weights_sha256", "left_out", "data_seed", "axes", "code",
    "device", "model",
)  # fmt: skip
"""Columns of the results (bench.results), of which no axis may have the name."""

NOT_APPLICABLE = "-"
"""Stands for the label where `when` says that an axis does not apply."""


@dataclass(frozen=True)
class Layer:
    """A patch and the place it was written at, for messages."""

    origin: str
    patch: Patch


Axes = dict[str, dict[str, Layer]]
"""axis -> label -> patch, in the order of the file."""


def read_axes(sweep: Path, doc: Patch, mistakes: list[Mistake]) -> Axes | None:
    """The axes of a sweep, or None when it has none (which is a mistake too)."""
    raw = doc.get("axes")
    if not isinstance(raw, dict) or not raw:
        mistakes.append(
            Mistake((), f"{sweep}: axes: empty; give at least one axis of labelled patches")
        )
        return None
    if len(raw) > MOST_AXES:
        mistakes.append(Mistake((), f"{sweep}: axes: {len(raw)}; a sweep has at most {MOST_AXES}"))
        return None
    axes: Axes = {}
    for axis, labels in raw.items():
        where = f"{sweep}: axes.{axis}"
        if axis in TAKEN:
            mistakes.append(Mistake((), f"{where}: this name is taken by a column of the results"))
        if not isinstance(labels, dict) or not labels:
            mistakes.append(Mistake((), f"{where}: empty axis; map at least one label to a patch"))
            continue
        axes[axis] = _read_labels(where, labels, mistakes)
    return axes


def _read_labels(
    where: str, labels: Mapping[str, Any], mistakes: list[Mistake]
) -> dict[str, Layer]:
    found = {}
    for label, patch in labels.items():
        if label == NOT_APPLICABLE:
            text = "stands where an axis does not apply; use another label"
            mistakes.append(Mistake((), f"{where}.{label}: {text}"))
        if patch is not None and not isinstance(patch, dict):
            text = f"must map config keys to values, got {shown(patch)}"
            mistakes.append(Mistake((), f"{where}.{label}: {text}"))
            patch = {}
        found[label] = Layer(f"{where}.{label}", nest(patch or {}))
    return found


def label_sets(
    sweep: Path, doc: Patch, axes: Axes, seeds: int, mistakes: list[Mistake]
) -> Iterator[Labels]:
    """The labels of each cell, one per axis; "-" where `when` says that an axis does not apply. Only
    the first where there are too many of them with so many seeds each.
    """
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
    combinations: Iterator[tuple[Labels, ...]] = itertools.product(*choices)
    if (cells := math.prod(map(len, choices)) * seeds) > MOST_CELLS:
        text = f"{cells:,} cells (labels x seeds); a sweep has at most {MOST_CELLS:,}"
        mistakes.append(Mistake((), f"{sweep}: axes: {text}; make several of it"))
        combinations = itertools.islice(combinations, 1)
    for combination in combinations:
        labels = {axis: label for part in combination for axis, label in part.items()}
        labels = {axis: labels[axis] for axis in axes}
        for axis, condition in when.items():
            if not _matches(labels, condition):  # one cell with "-" instead of many equal ones
                labels[axis] = NOT_APPLICABLE
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
    if not isinstance(raw, list) or not all(map(_is_group, raw)):
        mistakes.append(
            Mistake((), f"{sweep}: zip: must be a list of lists of axis names, e.g. [[lr, batch]]")
        )
        raw = []
    for i, group in enumerate(raw):
        if not group:
            mistakes.append(Mistake((), f"{sweep}: zip.{i}: empty; name the axes that go together"))
            continue
        unknown = [a for a in group if a not in axes]
        mistakes += [
            Mistake(
                (), f"{sweep}: zip.{i}: unknown axis {shown(a)}{find.nearest(str(a), list(axes))}"
            )
            for a in unknown
        ]
        twice = [a for k, a in enumerate(group) if a in zipped or a in group[:k]]
        mistakes += [
            Mistake((), f"{sweep}: zip.{i}: axis {a!r} is in two groups, or twice in one")
            for a in twice
        ]
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


def _is_group(raw: Any) -> bool:
    return isinstance(raw, list) and all(isinstance(axis, str) for axis in raw)


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
    if len(raw) > MOST_RULES:
        text = f"{len(raw):,} rules; a sweep has at most {MOST_RULES}, whose labels may be lists"
        mistakes.append(Mistake((), f"{sweep}: exclude: {text}"))
        return []
    return [_rule(f"{sweep}: exclude.{i}", rule, axes, mistakes) for i, rule in enumerate(raw)]


def _rule(
    where: str, raw: Any, axes: dict[str, Any], mistakes: list[Mistake]
) -> dict[str, list[str]]:
    if not isinstance(raw, dict) or not raw:
        mistakes.append(Mistake((), f"{where}: must map axes to labels, got {shown(raw)}"))
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
                f"{where}.{axis}: unknown label {shown(label)}{find.nearest(label, list(axes[axis]))}",
            )
            for label in unknown
        ]
    return rule


def _matches(labels: Labels, rule: Mapping[str, list[str]]) -> bool:
    return all(labels.get(axis) in allowed for axis, allowed in rule.items())


def check_conflicts(
    sweep: Path, axes: Axes | None, settings: Patch, mistakes: list[Mistake]
) -> None:
    """Two axes that write one key (which wins would depend on their order in the file), and
    settings that would make labels lie. Resources are no part of what a label claims: there
    --set wins.
    """
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
    science = {path for path in leaves(settings) if path[0] != "resources"}
    for axis, paths in written.items():
        for path in sorted(overlap(paths, science)):
            mistakes.append(
                Mistake((), f"--set {'.'.join(path)}: is written by axes.{axis} of {sweep}")
            )


def locate(mistake: Mistake, layers: list[Layer]) -> Mistake:
    """Say where a wrong value was written: the last layer that has its path."""
    for layer in reversed(layers):
        if has(layer.patch, mistake.path):
            # A layer that is a file as a whole has the origin "path:".
            joint = " " if layer.origin.endswith(":") else "."
            return Mistake((), f"{layer.origin}{joint}{mistake}")
    return mistake
