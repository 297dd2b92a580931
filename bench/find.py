"""Component name -> module. This is the whole registry: the path of a file is its name.

`video.order` as a task is `tasks/video/order.py`; `timesformer` as a backbone is
`bench/models/backbones/timesformer.py`. Nothing is registered, nothing is skipped: a file that does
not import raises.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import re
from functools import cache
from pathlib import Path
from types import ModuleType

PACKAGES = {
    "source": "bench.data.sources",
    "decoder": "bench.data.decoders",
    "backbone": "bench.models.backbones",
    "objective": "tasks",
    "evaluation": "tasks",
    "benchmark": "bench.speed",
    "table": "reports.tables",
    "figure": "reports.figures",
}
# A task file is what it defines: a loss (`class Objective`) or a measurement (`def run`).
_DEFINES = {"objective": "class Objective", "evaluation": "def run", "benchmark": "def run"}
_NAME = re.compile(r"[a-z0-9_]+(\.[a-z0-9_]+)*")


class UnknownComponent(ValueError):
    """A name for which there is no file; the message lists what exists."""


@cache
def names(kind: str) -> tuple[str, ...]:
    """Every component of a kind, sorted. Reads folder listings only; imports nothing."""
    spec = importlib.util.find_spec(PACKAGES[kind])
    if spec is None or not spec.submodule_search_locations:
        raise RuntimeError(f"package {PACKAGES[kind]} is not installed; run `pip install -e .`")
    root = Path(next(iter(spec.submodule_search_locations)))
    found = []
    for path in sorted(root.rglob("*.py")):
        relative = path.relative_to(root)
        if path.name.startswith("_") or (kind in _DEFINES and not _defines(path, _DEFINES[kind])):
            continue
        found.append(".".join(relative.with_suffix("").parts))
    return tuple(found)


def _defines(path: Path, head: str) -> bool:
    return re.search(rf"^{head}\b", path.read_text(encoding="utf-8"), re.MULTILINE) is not None


@cache
def load(kind: str, name: str) -> ModuleType:
    """The component's module. Raises UnknownComponent on a miss; any error inside the file comes
    out untouched.
    """
    if not _NAME.fullmatch(name) or name not in names(kind):
        raise UnknownComponent(f"unknown {kind} {name!r}{nearest(name, names(kind))}")
    return importlib.import_module(f"{PACKAGES[kind]}.{name}")


def nearest(name: str, valid: tuple[str, ...] | list[str]) -> str:
    """'; did you mean ...?' followed by everything that exists, for an error message."""
    close = difflib.get_close_matches(name, valid, n=1, cutoff=0.5)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    return f"{hint} (there are: {', '.join(valid)})"
