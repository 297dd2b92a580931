"""Processes of this machine, as tests look for them."""

from __future__ import annotations

from pathlib import Path


def processes_with(*words: str) -> list[int]:
    """Process ids, sorted, of those whose command line has all of these words."""
    wanted = {word.encode() for word in words}
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            has = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if wanted <= set(has):
            found.append(int(path.parent.name))
    return sorted(found)
