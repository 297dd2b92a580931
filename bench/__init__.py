"""The engine of the suite. Importing it settles, in every process, where Python finds components:

* `tasks` and `reports` are those beside this folder, whatever the working directory holds under
  these names;
* each room of components goes on in the user's own folders, which BENCH_COMPONENTS lists:
  DIR/tasks/video/x.py is `tasks.video.x` and DIR/sources/y.py is `bench.data.sources.y`, as if the
  files lay in the suite. So they can be pickled by reference, and move into the suite unchanged.

bench.find lists what is there. Standard library only: every process pays for this import.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType

SUITE = Path(__file__).parents[1]
"""Where bench/, tasks/, reports/ and sweeps/ lie: a checkout, a snapshot or site-packages."""
COMPONENTS = "BENCH_COMPONENTS"
"""The environment variable, so that child processes look into the same folders."""
ROOMS = {
    "tasks": "tasks",
    "bench.data.sources": "sources",
    "bench.data.decoders": "decoders",
    "bench.models.backbones": "backbones",
    "bench.models.adapters": "adapters",
    "bench.export.sinks": "sinks",
    "reports.tables": "tables",
    "reports.figures": "figures",
}
"""Package of the suite -> sub-folder of a user's own folder."""


def own_folders() -> tuple[Path, ...]:
    """The user's own folders of components, absolute, as BENCH_COMPONENTS says now."""
    listed = os.environ.get(COMPONENTS, "").split(os.pathsep)
    return tuple(Path(folder).absolute() for folder in listed if folder)


class _ComponentFinder:
    """The import hook that does what the docstring above says."""

    @staticmethod
    def find_spec(
        name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if path is None:
            beside = name in ("tasks", "reports")
            return PathFinder.find_spec(name, [str(SUITE)]) if beside else None
        own = _own_parts(name.rpartition(".")[0])
        return PathFinder.find_spec(name, [*path, *own], target) if own else None


def _own_parts(package: str) -> list[str]:
    """The folders in which a package of components goes on."""
    for room, folder in ROOMS.items():
        if package == room or package.startswith(f"{room}."):
            inner = package.removeprefix(room).replace(".", "/")
            return [f"{own}/{folder}{inner}" for own in own_folders()]
    return []


sys.meta_path.insert(0, _ComponentFinder)
