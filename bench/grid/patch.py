"""Patches: nested mappings of config values, as a label, a scale or `--set` writes them.

Pure functions that plan.py composes cells from. A key may be dotted (`train.lr`); the names of
components keep their own dot (`objectives.video.order.weight`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from bench import find
from bench.config.mistakes import Mistake, cut
from bench.config.science import KEYED, NAMED
from bench.grid import yaml

Patch = dict[str, Any]


def parse_settings(settings: Iterable[str], mistakes: list[Mistake]) -> Patch:
    """`key=value` strings -> a nested patch; the value is YAML."""
    patch: Patch = {}
    for text in settings:
        try:
            key, value = yaml.parse_setting(text)
            merge(patch, nest({key: value}))
        except ValueError as error:
            mistakes.append(Mistake((), f"--set {cut(text)}: {error}"))
    return patch


def nest(patch: Mapping[str, Any]) -> Patch:
    """Dotted keys -> nested mappings."""
    nested: Patch = {}
    for key, value in patch.items():
        path = split_path(str(key))
        inner: Any = nest(value) if isinstance(value, dict) and path[0] not in KEYED else value
        if path[0] in KEYED and len(path) == 1 and isinstance(value, dict):
            inner = {
                str(name): dict(options or {}) if isinstance(options, dict | None) else options
                for name, options in value.items()
            }
        for part in reversed(path[1:]):
            inner = {part: inner}
        merge(nested, {path[0]: inner})
    return nested


def split_path(key: str) -> tuple[str, ...]:
    """'objectives.video.order.weight' -> ('objectives', 'video.order', 'weight')."""
    section, *rest = key.split(".")
    if section in KEYED and rest:
        known = find.names(KEYED[section])
        for end in range(len(rest), 0, -1):
            if ".".join(rest[:end]) in known:
                return (section, ".".join(rest[:end]), *rest[end:])
        return (section, ".".join(rest))  # unknown: `parse` will name the nearest
    return (section, *rest)


def merge(target: Patch, patch: Mapping[str, Any]) -> None:
    """Deep merge in place: mappings are joined, anything else is replaced."""
    for key, value in patch.items():
        if isinstance(value, Mapping) and isinstance(target.get(key), dict):
            merge(target[key], value)
        else:
            target[key] = copied(value)


def merge_layer(target: Patch, patch: Mapping[str, Any]) -> None:
    """`merge` for one layer of a config. Where it names another data set or backbone than the
    layers below it, their options that only the former component has stay behind: those of a scale's
    `{name: mini_ssv2, train: 24}` under `data.name=ssv2`. What neither component has is left for
    `parse` to refuse, and so is what the layer itself says.
    """
    for section, kind in NAMED.items():
        below, here = target.get(section), patch.get(section)
        if isinstance(below, dict) and isinstance(here, Mapping) and "name" in here:
            for option in _options_of(kind, below.get("name")) - _options_of(kind, here["name"]):
                below.pop(option, None)
    merge(target, patch)


def _options_of(kind: str, name: Any) -> set[str]:
    """Empty for a component that does not exist, or is not valid: `parse` says so."""
    try:
        return set(find.load(kind, str(name)).Config.model_fields)
    except find.ComponentError:
        return set()


def copied(value: Any) -> Any:
    return {k: copied(v) for k, v in value.items()} if isinstance(value, Mapping) else value


def without(patch: Patch, components: set[tuple[str, str]]) -> Patch:
    """The patch without these (section, component)s."""
    rest = copied(patch)
    for section, name in components:
        del rest[section][name]
    return rest


def leaves(patch: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The paths a patch sets a value at; `video.order: {}` names a component and sets nothing."""
    if isinstance(patch, Mapping):
        for key, value in patch.items():
            yield from leaves(value, (*path, str(key)))
    else:
        yield path


def overlap(one: set[tuple[str, ...]], other: set[tuple[str, ...]]) -> set[tuple[str, ...]]:
    """The paths of `one` that `other` sets too, or sets a part or the whole of."""
    starts = {q[:end] for q in other for end in range(1, len(q) + 1)}
    return {p for p in one if p in starts or any(p[:end] in other for end in range(len(p)))}


def has(patch: Any, path: tuple[str, ...]) -> bool:
    """Whether a patch names this path."""
    for key in path:
        if isinstance(patch, list):  # an element of a list: the list itself was written here
            return True
        if not isinstance(patch, dict) or key not in patch:
            return False
        patch = patch[key]
    return True
