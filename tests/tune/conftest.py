"""A search as its tests make it, and workers of it in processes of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from searching import SWEEP, Workers

from bench.tune import search as searches


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., searches.Search]:
    def make(block: str, **options: Any) -> searches.Search:
        path = tmp_path / "s.yaml"
        path.write_text(SWEEP + block)
        return searches.read(path, "smoke", **options)

    return make


@pytest.fixture
def workers(tmp_path: Path) -> Iterator[Callable[[str], Workers]]:
    made: list[Workers] = []

    def make(block: str) -> Workers:
        made.append(Workers(tmp_path, block))
        return made[-1]

    yield make
    for it in made:
        it.end()
