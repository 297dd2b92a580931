"""What an earlier build wrote to its folder, and whether this one would write the same: `OUT/.report.json`.

Before everything else in `build`, and without pandas or matplotlib: where nothing has changed, nothing is
built. After it, the files that changed are written, and those that are no longer made are removed, unless
somebody has edited them since. A manifest that is damaged, or of another version, is as good as none.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from bench import find, own_folders
from bench.store.files import DamagedFile, read_json, sha256_of, write_bytes, write_json

NAME = ".report.json"
SCHEMA = 1
ROOT = Path(__file__).parents[1]
CODE = ("reports", "bench", "sweeps")
PACKAGES = (
    "pandas",
    "numpy",
    "matplotlib",
    "scipy",
    "jinja2",
    "markupsafe",
    "pillow",
    "pyarrow",
    "rich",
)
NOT_READ = frozenset({"checkpoint", "scratch", "replaced", ".jobs", "__pycache__"})
"""Folders that no report reads: of runs, and of code."""
DEEPEST = 16
PUBLISHED = ("auto", "always", "never")
"""Whether published numbers are shown; auto: where not all that is measured is on built-in data."""
POOLABLE = ("code", "device", "provenance")
"""What `--pool` takes: see `mixes`."""


@dataclass(frozen=True)
class Manifest:
    """`key`: of all that the report was made of, empty where that cannot be known; `files`: path in the
    folder -> SHA-256; the rest is what is said again of a report that is not built again.
    """

    key: str
    files: Mapping[str, str]
    holes: int = 0
    mixes: tuple[str, ...] = ()
    damaged: int = 0
    schema: int = SCHEMA


def read(out: Path) -> Manifest | None:
    """What was written to the folder; None where nothing can be known of it."""
    try:
        found = read_json(out / NAME) or {}
        made = Manifest(**{**found, "mixes": tuple(found.get("mixes", ()))})
    except (DamagedFile, TypeError):
        return None
    sound = made.schema == SCHEMA and isinstance(made.key, str) and isinstance(made.files, dict)
    return made if sound and all(map(_is_inside, made.files)) else None


def _is_inside(path: str) -> bool:
    parts = PurePosixPath(path).parts
    return bool(parts) and not path.startswith("/") and ".." not in parts


def is_same(earlier: Manifest | None, key: str, out: Path) -> bool:
    """Whether what this key would make is there, every byte of it."""
    if earlier is None or not key or earlier.key != key or not earlier.files:
        return False
    return all(_digest(out / path) == digest for path, digest in earlier.files.items())


def _digest(path: Path) -> str | None:
    try:
        return sha256_of(path)
    except OSError:
        return None


# --- writing ---


@dataclass
class Written:
    """What `write` did: `edited` files are no longer made, and stay because somebody has changed them."""

    changed: int = 0
    removed: int = 0
    edited: list[str] = field(default_factory=list)


def write(
    out: Path, files: Iterable[tuple[Path, bytes]], earlier: Manifest | None, made: Manifest
) -> Written:
    """Bring the folder to these files, and keep `made` of them. Raises OSError."""
    done, digests = Written(), dict[str, str]()
    for path, content in files:
        digest = hashlib.sha256(content).hexdigest()
        digests[path.as_posix()] = digest
        if _digest(out / path) != digest:
            write_bytes(out / path, content)
            done.changed += 1
    for name, digest in sorted((earlier.files if earlier else {}).items()):
        path = out / name
        if name in digests or not path.is_file():
            continue
        if path.is_symlink() or _digest(path) != digest:
            done.edited.append(name)
            continue
        path.unlink()
        done.removed += 1
        with suppress(OSError):  # something else is in it
            path.parent.rmdir()
    kept = asdict(made) | {"files": digests, "mixes": list(made.mixes)}
    if kept != _read(out / NAME):
        write_json(out / NAME, kept)
    return done


def _read(path: Path) -> dict[str, Any] | None:
    try:
        return read_json(path)
    except DamagedFile:
        return None


# --- of what it is made ---


def key(runs: Sequence[Path], options: Mapping[str, object], out: Path) -> str:
    """A digest of names, sizes and times of all files that a report may read, of the code that makes it,
    and of its options. Empty where there is nothing to know it by.
    """
    digest = hashlib.sha256(json.dumps(_about(runs, options)).encode())
    try:
        for folder in runs:
            lines = list(_files(folder, out.absolute()))
            if not lines:
                return ""
            digest.update("".join(lines).encode(errors="surrogateescape"))
        for folder in [*(ROOT / name for name in CODE), *own_folders()]:
            digest.update("".join(_files(folder, out.absolute())).encode(errors="surrogateescape"))
    except OSError:
        return ""
    return digest.hexdigest()


def _about(runs: Sequence[Path], options: Mapping[str, object]) -> list[object]:
    versions = [platform.python_version()]
    for package in PACKAGES:
        with suppress(importlib.metadata.PackageNotFoundError):
            versions.append(f"{package} {importlib.metadata.version(package)}")
    components = [(find.PACKAGES[kind], list(find.names(kind))) for kind in ("table", "figure")]
    said = {name: str(value) for name, value in sorted(options.items())}
    return [SCHEMA, versions, components, [[str(run), str(Path.cwd())] for run in runs], said]


def _files(path: Path, out: Path) -> Iterator[str]:
    """A line for each file at or below a path, in the order of names. Raises OSError."""
    if path.is_file():
        state = path.stat()
        yield f"{path}\0{state.st_size}\0{state.st_mtime_ns}\n"
        return
    yield from _below(str(path), str(out), DEEPEST)


def _below(folder: str, out: str, depth: int) -> Iterator[str]:
    with os.scandir(folder) as entries:
        found = sorted(entries, key=lambda entry: entry.name)
    for entry in found:
        if entry.is_dir():
            if depth and entry.name not in NOT_READ and str(Path(entry.path).absolute()) != out:
                yield from _below(entry.path, out, depth - 1)
        elif not entry.name.endswith((".tmp", ".pyc")):
            try:
                state = entry.stat()
            except FileNotFoundError:  # a link to nothing, or gone since
                continue
            yield f"{entry.path}\0{state.st_size}\0{state.st_mtime_ns}\n"
