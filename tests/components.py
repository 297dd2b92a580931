"""Components that exist for one test only."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from bench import find


def only(
    kind: str, sources: Mapping[str, str], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until the test ends, the components of a kind are these: name -> what its file says."""
    package = folder / f"only_{kind}_{folder.name}"
    package.mkdir(parents=True, exist_ok=True)
    (package / "__init__.py").write_text("")
    for name, source in sources.items():
        (package / f"{name}.py").write_text(source)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setitem(find.PACKAGES, kind, package.name)
    for cached in (find.names, find.load):  # what they found before is for the other tests
        monkeypatch.setattr(find, cached.__name__, getattr(cached, "__wrapped__", cached))
