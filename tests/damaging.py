"""Files as damage leaves them."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NOBODY = 65534
KINDS = ("truncated", "empty", "zeros", "flipped", "another's", "directory", "unreadable")


def damage(path: Path, kind: str, seed: int = 0, *, another: Path | None = None) -> None:
    """`flipped`: one bit, drawn by the seed, as is where it is `truncated`. `another`: whose content it
    gets, for `another's`. `unreadable` is for users without all rights: see `as_nobody`.
    """
    content, rng = path.read_bytes(), random.Random(seed)
    if kind == "truncated":
        path.write_bytes(content[: rng.randrange(1, len(content))])
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "zeros":
        path.write_bytes(bytes(len(content)))
    elif kind == "flipped":
        path.write_bytes(flipped(content, rng))
    elif kind == "another's":
        assert another is not None
        shutil.copyfile(another, path)
    elif kind == "directory":
        path.unlink()
        path.mkdir()
    elif kind == "unreadable":
        path.chmod(0)
    else:
        raise ValueError(f"{kind}: one of {', '.join(KINDS)}")


def rewrite_index(folder: Path, index: Mapping[str, Any]) -> None:
    """A shard folder's index as if it had been written so, by a version that kept no digest of it."""
    (folder / "index.json").write_text(json.dumps(index))
    (folder / "index.json.sha256").unlink(missing_ok=True)


def flipped(content: bytes, rng: random.Random) -> bytes:
    """With one bit the other way round."""
    at, bit = rng.randrange(len(content)), rng.randrange(8)
    return content[:at] + bytes([content[at] ^ 1 << bit]) + content[at + 1 :]


@contextmanager
def as_nobody() -> Iterator[None]:
    """Permissions hold in here, also where tests run as root."""
    me = os.geteuid()
    if me == 0:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(me)
