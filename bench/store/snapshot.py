"""A copy of the code as it is now, for jobs that start later: what is edited after a sweep was
submitted does not change what its waiting cells compute.

    <runs>/.jobs/code/<digest>/{bench,tasks}/...   the files as they are on disk
    <runs>/.jobs/code/<digest>/components/<k>/...  those of the user's own k-th folder of components
    <runs>/.jobs/code/<digest>/code.json           {commit, dirty, tree}; of own components also their digest

Launchers `take` one and start every process of a cell with `environment(...)`. Imports neither torch
nor any part of the suite but bench.store.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bench import COMPONENTS, ROOMS, own_folders
from bench.store.files import read_json, write_json
from bench.store.rundir import jobs_folder

PACKAGES = ("bench", "tasks")
_OWN_ROOMS = tuple(room for package, room in ROOMS.items() if package.startswith(PACKAGES))
"""Rooms of own components that a cell may import: not tables and figures."""
_ABANDONED_S = 3600.0


def take(runs: Path) -> Path:
    """The folder of a snapshot of the code on disk; made unless it exists already.

    The same files at the same commit are the same snapshot, whoever takes it and when. Made under
    another name and moved into place, so two clients at once do no harm and a kill leaves no half.
    """
    files = dict(_files())
    version = {**code_version(), "tree": _digest(files)}
    folder = jobs_folder(Path(runs)).resolve() / "code" / _name(version)
    if folder.is_dir():
        return folder
    _clear_away(folder.parent)
    made = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}.tmp")
    try:
        for name, content in files.items():
            target = made / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
        write_json(made / "code.json", version)
    except OSError:  # a full disk gets its space back
        shutil.rmtree(made, ignore_errors=True)
        raise
    try:
        made.rename(folder)
    except OSError:
        shutil.rmtree(made, ignore_errors=True)
        if not folder.is_dir():  # else another client was faster
            raise
    return folder


def name() -> str:
    """What a snapshot of the code on disk is called, without making one."""
    return _name({**code_version(), "tree": _digest(dict(_files()))})


def _name(version: Mapping[str, Any]) -> str:
    parts = version["tree"], version["commit"], version["dirty"]
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def environment(snapshot: Path, base: Mapping[str, str] = os.environ) -> dict[str, str]:
    """`base` with the variables that make Python import from the snapshot. The working directory
    stays the user's, because of relative data paths, and must not come first on Python's path.
    """
    path = os.pathsep.join(filter(None, (str(snapshot), base.get("PYTHONPATH"))))
    own = {COMPONENTS: own_components(snapshot)}
    return {**base, "PYTHONPATH": path, "PYTHONSAFEPATH": "1", **own}


def own_components(snapshot: Path | str) -> str:
    """BENCH_COMPONENTS for this process's own folders as the snapshot holds them."""
    copies = (f"{snapshot}/components/{k}" for k in range(len(own_folders())))
    return os.pathsep.join(copies)


def code_version() -> dict[str, Any]:
    """{commit, dirty}: the commit of this code and, if it has uncommitted changes, a digest of them;
    with own components `components`, a digest of their files. In a snapshot: those of the code that
    it was taken from, with `tree`, the digest of all files.
    """
    root = Path(__file__).resolve().parents[2]
    if (recorded := read_json(root / "code.json")) and "commit" in recorded:
        return recorded
    version: dict[str, Any] = {"commit": "unknown", "dirty": None}
    # Installed into somebody else's repository, the commit there says nothing about this code.
    if _git(root, "ls-files", "bench/__init__.py"):
        version["commit"] = _git(root, "rev-parse", "HEAD").strip() or "unknown"
        if changes := _git(root, "diff", "HEAD"):
            version["dirty"] = hashlib.sha256(changes.encode()).hexdigest()[:12]
    if own := dict(_own_files()):
        version["components"] = _digest(own)
    return version


def _files() -> Iterator[tuple[str, bytes]]:
    """(path in the snapshot, content) of every file that a cell may import."""
    for package in PACKAGES:
        spec = importlib.util.find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            raise RuntimeError(f"package {package} is not installed; run `pip install -e .`")
        yield from _below(Path(next(iter(spec.submodule_search_locations))), package)
    yield from _own_files()


def _own_files() -> Iterator[tuple[str, bytes]]:
    for k, folder in enumerate(own_folders()):
        yield f"components/{k}/.folder", b""  # a folder with nothing for cells is in the copy too
        for room in _OWN_ROOMS:
            yield from _below(folder / room, f"components/{k}/{room}")


def _below(root: Path, name: str) -> Iterator[tuple[str, bytes]]:
    """The files of a folder, however deep, under another name for it."""
    for folder, subfolders, files in os.walk(root):
        subfolders[:] = sorted(sub for sub in subfolders if sub != "__pycache__")
        for file in sorted(files):
            path = Path(folder, file)
            try:
                content = path.read_bytes()
            except FileNotFoundError:  # an editor's lock or temporary file
                continue
            yield f"{name}/{path.relative_to(root).as_posix()}", content


def _digest(files: Mapping[str, bytes]) -> str:
    digest = hashlib.sha256()
    for name, content in files.items():
        digest.update(f"{name}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()


def _clear_away(code: Path) -> None:
    """Remove what clients that were killed while copying left behind."""
    for path in code.glob(".*.tmp"):
        try:
            if time.time() - path.stat().st_mtime > _ABANDONED_S:
                shutil.rmtree(path, ignore_errors=True)
        except OSError:
            continue  # another client did it


def _git(root: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=20,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""
