"""Reading YAML 1.2 safely, with every duplicate key reported (a duplicate silently drops a value
otherwise).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from ruamel.yaml.nodes import MappingNode, Node, SequenceNode

from bench.config import Mistake, Mistakes


def read(path: Path) -> dict[str, Any]:
    """A YAML mapping. Raises Mistakes for a missing file, a syntax error, or duplicate keys (all of
    them, with lines).
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise Mistakes([Mistake((), f"{path}: cannot be read ({error.strerror})")]) from error
    loader = YAML(typ="safe", pure=True)
    loader.allow_duplicate_keys = (
        True  # the constructor would stop at the first; `_duplicates` lists all
    )
    try:
        duplicates = _duplicates(loader.compose(text), ())
        value = loader.load(text)
    except YAMLError as error:
        raise Mistakes(
            [Mistake((), f"{path}: not valid YAML: {' '.join(str(error).split())}")]
        ) from error
    if duplicates:
        raise Mistakes([Mistake((), f"{path}: {message}") for message in duplicates])
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise Mistakes([Mistake((), f"{path}: must be a mapping, is a {type(value).__name__}")])
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
