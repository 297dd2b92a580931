"""Whether folders can be what they are asked to be: a place to read from, a place to write to, with room.

Nothing is written to find out. The messages are for users: which folder, what is in the way, what to do.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path


def no_folder(path: Path) -> str | None:
    """Why there is no folder and none can be made, or None."""
    there = _nearest(path)
    if there.is_dir():
        return None
    if there.is_symlink():
        where = f"a link to {there.readlink()}, which is not there"
        return f"{there} is {where}: mend the link, or name another folder"
    return f"{there} is no folder but a file: name another folder"


def unwritable(path: Path) -> str | None:
    """Why nothing can be written in this folder, which may still have to be made, or None."""
    if why := no_folder(path):
        return why
    there = _nearest(path)
    # Of another user, a folder refuses; on a disk that is mounted to be read, it does so to everybody.
    if os.statvfs(there).f_flag & os.ST_RDONLY:
        return (
            f"{there} is on a read-only file system: mount it for writing, or name another folder"
        )
    if not os.access(
        there, os.W_OK | os.X_OK, effective_ids=os.access in os.supports_effective_ids
    ):
        return f"{there} may not be written by this user: chmod u+w, chown, or name another folder"
    return None


def free(path: Path) -> int:
    """Bytes that are free where a folder is or would be made."""
    return shutil.disk_usage(_nearest(path)).free


def size(count: float) -> str:
    """Bytes as they are shown."""
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:,.1f} MB"


def _nearest(path: Path) -> Path:
    """The path, or the first above it that there is."""
    path = path.absolute()
    return next(p for p in (path, *path.parents) if os.path.lexists(p))
