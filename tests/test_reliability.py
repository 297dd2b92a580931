"""What docs/reliability.md promises names tests that exist, and every way in which a cell can end."""

from __future__ import annotations

import ast
import re

import pytest
from makers import ROOT

from bench.store.failure import Failure
from bench.store.state import State

PAGE = ROOT / "docs/reliability.md"
NAMED = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


def promises() -> list[tuple[str, str]]:
    """(promise, tests) of each line of its tables of promises."""
    found: list[tuple[str, str]] = []
    inside = False
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not line.startswith("|"):
            inside = False
        elif cells == ["promise", "test"]:
            inside = True
        elif inside and cells != [":--", ":--"]:
            promise, tests = cells
            found.append((promise, tests))
    return found


def test_every_promise_has_a_test() -> None:
    assert promises()
    assert not [promise for promise, tests in promises() if not NAMED.search(tests)]
    text = PAGE.read_text(encoding="utf-8")
    assert text.count("::test") == len(NAMED.findall(text)), "a test that is not written as one"


def test_every_test_that_is_named_exists() -> None:
    for path, name in NAMED.findall(PAGE.read_text(encoding="utf-8")):
        assert (ROOT / path).is_file(), path
        functions = ast.parse((ROOT / path).read_text(encoding="utf-8")).body
        names = {node.name for node in functions if isinstance(node, ast.FunctionDef)}
        assert name in names, f"{path}::{name}"


@pytest.mark.parametrize("ending", [*State, *Failure])
def test_every_ending_is_explained(ending: str) -> None:
    assert re.search(rf"\b{ending}\b", PAGE.read_text(encoding="utf-8"))
