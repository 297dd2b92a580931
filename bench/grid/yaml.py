"""Reading YAML 1.2 safely, and nothing but what a sweep can be made of: text, numbers, lists and
mappings whose keys are text, within the limits below.

Files of sweeps and scales and the values of `--set` alike. Every duplicate key is reported (a
duplicate silently drops a value otherwise).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from ruamel.yaml.events import (
    CollectionEndEvent,
    CollectionStartEvent,
    DocumentStartEvent,
    Event,
    NodeEvent,
)
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from bench.config.mistakes import Mistake, cut

MOST_BYTES = 256 * 1024
MOST_NODES = 20_000
"""Values, lists, mappings and keys, where aliases (`*x`) count as what they stand for."""
MOST_LEVELS = 32
"""Lists and mappings within one another; a dotted key is as many as it has parts."""
LONGEST_KEY = 200
LARGEST_INTEGER = 2**63 - 1

_TAG = "tag:yaml.org,2002:"


class _Refused(ValueError):
    """Why nothing can be made of a document."""


def read(path: Path, mistakes: list[Mistake]) -> dict[str, Any] | None:
    """A YAML mapping, or None when there is nothing to go on with.

    Adds to `mistakes`: a missing file, a syntax error, each duplicate key with its lines, each value
    that cannot be taken. In spite of the latter two the mapping is returned, so that its other
    mistakes come into the same message.
    """
    try:
        value, wrong = _parsed(_text(path))
    except OSError as error:
        mistakes.append(Mistake((), f"{path}: cannot be read ({error.strerror})"))
        return None
    except ValueError as error:
        mistakes.append(Mistake((), f"{path}: {error}"))
        return None
    mistakes += [Mistake((), f"{path}: {message}") for message in wrong]
    if value is None:
        return {}
    if not isinstance(value, dict):
        mistakes.append(Mistake((), f"{path}: must be a mapping, is a {type(value).__name__}"))
        return None
    return value


def parse_setting(text: str) -> tuple[str, Any]:
    """`key=value` -> the key and the value as YAML reads it. Raises ValueError with what is wrong."""
    key, equals, value = text.partition("=")
    key = key.strip()
    if not equals or not key:
        raise ValueError("write it as key=value, e.g. train.lr=1e-3")
    if wrong := why_unwritable(text):  # what a shell passes need not be text
        raise ValueError(wrong)
    if len(key) > LONGEST_KEY:
        raise ValueError(f"a key has at most {LONGEST_KEY} characters")
    if key.count(".") >= MOST_LEVELS:
        raise _too_deep(1)
    parsed, found = _parsed(value)
    if found:
        raise ValueError("; ".join(found))
    return key, parsed


def _text(path: Path) -> str:
    with path.open("rb") as file:
        raw = file.read(MOST_BYTES + 1)
    if len(raw) > MOST_BYTES:
        raise ValueError(f"longer than {MOST_BYTES // 1024} KiB, which no sweep or scale needs")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise ValueError(f"line {line}: not UTF-8; save the file in this encoding") from error


def _parsed(text: str) -> tuple[Any, list[str]]:
    """The value of a document, and what is wrong with parts of it, which are left out. Raises
    _Refused where nothing can be made of the whole.
    """
    if len(text) > MOST_BYTES:
        raise _Refused(f"longer than {MOST_BYTES // 1024} KiB")
    loader = YAML(typ="safe", pure=True)
    loader.allow_duplicate_keys = True  # the constructor would stop at the first one
    checks = _Checks(loader.constructor.construct_yaml_int)
    try:
        _check_events(loader.parse(text))
        node = loader.compose(text)
        if node is None or not checks.keep(node, ()):
            return None, checks.found
        return loader.constructor.construct_document(node), checks.found
    except _Refused:
        raise
    except (YAMLError, ValueError, OverflowError) as error:  # the last two of "\U00110000" and such
        raise _Refused(f"not valid YAML: {cut(' '.join(str(error).split()), 300)}") from error


def _check_events(events: Iterator[Event]) -> None:
    """Before anything is made of them: as written, so aliases count as one each."""
    nodes = levels = 0
    for event in events:
        line = event.start_mark.line + 1
        if isinstance(event, DocumentStartEvent) and event.version not in (None, (1, 2)):
            raise _Refused(f"line {line}: only YAML 1.2 is read; remove the %YAML line")
        if (tag := getattr(event, "tag", None)) not in (None, _TAG + "str"):
            raise _Refused(f"line {line}: tags are not taken: {cut(str(tag))}")
        nodes += isinstance(event, NodeEvent)
        levels += isinstance(event, CollectionStartEvent)
        levels -= isinstance(event, CollectionEndEvent)
        if nodes > MOST_NODES:
            raise _too_many()
        if levels > MOST_LEVELS:
            raise _too_deep(line)


def _too_many() -> _Refused:
    return _Refused(f"more than {MOST_NODES:,} values and keys (what an alias repeats counts)")


def _too_deep(line: int) -> _Refused:
    return _Refused(f"line {line}: nested deeper than {MOST_LEVELS} levels")


def why_unwritable(text: str) -> str | None:
    """Why this text can stand in no file and on no terminal, or None."""
    if "\0" in text:
        return "has a NUL character in it"
    try:
        text.encode()
    except UnicodeEncodeError:
        return "has half a character in it (a lone surrogate)"
    return None


class _Checks:
    """One walk through a document: what is wrong with it, with lines. Parts that cannot be taken are
    removed from the nodes.
    """

    def __init__(self, to_int: Callable[[ScalarNode], int]) -> None:
        self._to_int = to_int
        self.found: list[str] = []
        self._nodes = 0
        self._above: list[Node] = []

    def keep(self, node: Node, path: tuple[str, ...]) -> bool:
        """Whether this node can be taken. Raises _Refused where the document is beyond a limit."""
        self._nodes += 1
        line = node.start_mark.line + 1
        if self._nodes > MOST_NODES:
            raise _too_many()
        if any(node is above for above in self._above):
            raise _Refused(f"line {line}: {'.'.join(path)} contains itself (a recursive alias)")
        if (
            len(self._above) > MOST_LEVELS
            or sum(1 + part.count(".") for part in path) > MOST_LEVELS
        ):
            raise _too_deep(line)
        if wrong := self._why_not(node):
            self.found.append(f"line {line}: {'.'.join(path) or 'the document'}: {wrong}")
            return False
        self._above.append(node)
        if isinstance(node, MappingNode):
            self._keep_pairs(node, path)
        elif isinstance(node, SequenceNode):
            node.value = [v for i, v in enumerate(node.value) if self.keep(v, (*path, str(i)))]
        self._above.pop()
        return True

    def _keep_pairs(self, node: MappingNode, path: tuple[str, ...]) -> None:
        lines: dict[str, int] = {}
        pairs = []
        for key, value in node.value:
            self._nodes += 1
            line = key.start_mark.line + 1
            if wrong := _why_no_key(key):
                self.found.append(f"line {line}: {'.'.join((*path, wrong))}")
            if not isinstance(key, ScalarNode) or len(key.value) > LONGEST_KEY:
                continue
            name = key.value
            if name in lines:
                where = ".".join((*path, name))
                self.found.append(
                    f"line {line}: duplicate key {where} (first on line {lines[name]})"
                )
            lines.setdefault(name, line)
            if self.keep(value, (*path, name)):
                pairs.append((_as_text(key), value))
        node.value = pairs

    def _why_not(self, node: Node) -> str | None:
        """Why a value cannot be taken, or None."""
        if not isinstance(node, ScalarNode):
            return None
        kind = str(node.tag).removeprefix(_TAG)
        if kind == "timestamp":
            return f'a date is no value; write it in quotes, "{cut(node.value)}"'
        if kind == "int" and not self._fits(node):
            return f"{cut(node.value)} is beyond the whole numbers of 64 bits, +-{LARGEST_INTEGER}"
        return why_unwritable(node.value) if kind == "str" else None

    def _fits(self, node: ScalarNode) -> bool:
        # the length first: Python refuses to read thousands of digits
        return len(node.value) <= 100 and abs(self._to_int(node)) <= LARGEST_INTEGER


def _why_no_key(key: Node) -> str | None:
    if not isinstance(key, ScalarNode):
        return "a key is text, not a list or a mapping"
    if len(key.value) > LONGEST_KEY:
        return f"{cut(key.value)}: a key has at most {LONGEST_KEY} characters"
    if wrong := why_unwritable(key.value):
        return f"{key.value!r}: {wrong}"
    # a number is the text that was written: a label may be 8, or 1e-3
    if str(key.tag) not in {_TAG + kind for kind in ("str", "int", "float", "merge")}:
        return f'{key.value}: a key is text; write it in quotes, "{key.value}"'
    return None


def _as_text(key: ScalarNode) -> ScalarNode:
    """Also one that is a mistake, so that those of what stands below it come out too."""
    if str(key.tag) == _TAG + "merge":
        return key
    text = key.value.encode(errors="replace").decode().replace("\0", "?")
    return ScalarNode(_TAG + "str", text, key.start_mark, key.end_mark)
