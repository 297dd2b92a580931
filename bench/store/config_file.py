"""`config.yaml` of a run: written once, with what it says in its first lines, so that neither a change of
a default nor a change by hand is taken for what was trained.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.store.files import DamagedFile, dump_yaml, load_yaml, read_bytes, write_text

_TRAINING = b"# sha256 of the training config: "
_EARLIER = b"# sha256 of the full config: "  # as long as signatures also signed evaluations
_REST = b"# sha256 of all below: "


def write_config(path: Path, digest: str, config: Mapping[str, Any]) -> None:
    """`digest`: of the training config; lets a plan of thousands of cells see that a default has changed
    without parsing their files.
    """
    body = dump_yaml(config)
    head = f"{_TRAINING.decode()}{digest}\n{_REST.decode()}{_sha256(body.encode())}\n"
    write_text(path, head + body)


def signs_evaluations(path: Path) -> bool:
    """Whether it was written when signatures also signed evaluations. Raises DamagedFile."""
    return _lines(path)[0].startswith(_EARLIER)


def digest_as_written(path: str | Path) -> str | None:
    """The digest of the training config that it was written with, or None where somebody has changed
    it, as far as it tells: one of before the second line does not. Raises DamagedFile.
    """
    first, second, below = _lines(path)
    known = second.removeprefix(_REST)
    whole = known == second or known.strip() == _sha256(below).encode()
    if not whole or not below or not first.startswith((_TRAINING, _EARLIER)):
        return None
    return first.rpartition(b": ")[2].decode(errors="replace").strip()


def read_config(path: Path) -> dict[str, Any]:
    """Raises FileNotFoundError, and DamagedFile for what is not what was written."""
    found = load_yaml(path)
    if digest_as_written(path) is None:
        raise DamagedFile(path, "is not what was written: it was edited or damaged")
    return found


def _lines(path: str | Path) -> tuple[bytes, bytes, bytes]:
    """The first line, the second, and the rest; empty ones where there is no file."""
    first, _, rest = (read_bytes(path) or b"").partition(b"\n")
    second, _, below = rest.partition(b"\n")
    return first, second, below


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
