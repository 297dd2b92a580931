"""docs/glossary.md says where each word stands in the code."""

from __future__ import annotations

import re

import pytest
from makers import ROOT

GLOSSARY = (ROOT / "docs/glossary.md").read_text()
ROWS = re.findall(r"^\| (.+?) \| .+ \| `(\S+\.py)` `(\w+)` \|$", GLOSSARY, re.MULTILINE)


def test_every_line_of_its_tables_is_read() -> None:
    lines = [line for line in GLOSSARY.splitlines() if line.startswith("| ")]
    assert len(ROWS) == len([line for line in lines if not line.startswith("| word")])


@pytest.mark.parametrize(("word", "path", "name"), ROWS, ids=[row[0] for row in ROWS])
def test_the_code_uses_the_word(word: str, path: str, name: str) -> None:
    assert re.search(rf"\b{name}\b", (ROOT / path).read_text()), f"{word}: no {name} in {path}"
