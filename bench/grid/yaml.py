"""Reading YAML 1.2 safely, with every duplicate key reported (a duplicate silently drops a value
otherwise).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from ruamel.yaml.nodes import MappingNode, Node, SequenceNode

from bench.config.mistakes import Mistake


def read(path: Path, mistakes: list[Mistake]) -> dict[str, Any] | None:
    """A YAML mapping, or None when there is nothing to go on with.

    Adds to `mistakes`: a missing file, a syntax error, each duplicate key with its lines. In spite
    of duplicates the mapping is returned, so that its other mistakes come into the same message.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        mistakes.append(Mistake((), f"{path}: cannot be read ({error.strerror})"))
        return None
    loader = YAML(typ="safe", pure=True)
    loader.allow_duplicate_keys = True  # the constructor would stop at the first one
    try:
        duplicates = _duplicates(loader.compose(text), ())
        value = loader.load(text)
    except YAMLError as error:
        mistakes.append(Mistake((), f"{path}: not valid YAML: {' '.join(str(error).split())}"))
        return None
    mistakes += [Mistake((), f"{path}: {message}") for message in duplicates]
    if value is None:
        return {}
    if not isinstance(value, dict):
        mistakes.append(Mistake((), f"{path}: must be a mapping, is a {type(value).__name__}"))
        return None
    return value


def parse_value(text: str) -> Any:
    """The value of `--set key=value`, as YAML reads it."""
    return YAML(typ="safe", pure=True).load(text)


def _duplicates(node: Node | None, path: tuple[str, ...]) -> list[str]:
    found: list[str] = []
    if isinstance(node, MappingNode):
        seen: dict[str, int] = {}
        for key, value in node.value:
            name, line = str(key.value), key.start_mark.line + 1
            if name in seen:
                where = ".".join((*path, name))
                found.append(f"line {line}: duplicate key {where} (first on line {seen[name]})")
            seen.setdefault(name, line)
            found += _duplicates(value, (*path, name))
    elif isinstance(node, SequenceNode):
        for i, item in enumerate(node.value):
            found += _duplicates(item, (*path, str(i)))
    return found
