"""`config.yaml` of a run: written once, with what it says in its first lines, so that neither a change of
a default nor a change by hand is taken for what was trained.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.store.files import DamagedFile, dump_yaml, load_yaml, write_text

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


def training_digest(path: Path) -> str | None:
    """The digest that the config was written with, or None where there is no config. Raises DamagedFile."""
    line = _lines(path)[0]
    return line.removeprefix(_TRAINING).decode(errors="replace").strip() if line else None


def signs_evaluations(path: Path) -> bool:
    """Whether it was written when signatures also signed evaluations. Raises DamagedFile."""
    return _lines(path)[0].startswith(_EARLIER)


def is_as_written(path: Path) -> bool:
    """Whether nobody has changed it, as far as it tells: one of before the second line does not.
    Raises DamagedFile.
    """
    first, second, below = _lines(path)
    known = second.removeprefix(_REST)
    whole = known == second or known.strip() == _sha256(below).encode()
    return whole and bool(below) and first.startswith((_TRAINING, _EARLIER))


def read_config(path: Path) -> dict[str, Any]:
    """Raises FileNotFoundError, and DamagedFile for what is not what was written."""
    found = load_yaml(path)
    if not is_as_written(path):
        raise DamagedFile(path, "is not what was written: it was edited or damaged")
    return found


def _lines(path: Path) -> tuple[bytes, bytes, bytes]:
    """The first line, the second, and the rest; empty ones where there is no file."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return b"", b"", b""
    except OSError as error:
        raise DamagedFile(path, f"cannot be read ({error.strerror})") from error
    first, _, rest = content.partition(b"\n")
    second, _, below = rest.partition(b"\n")
    return first, second, below


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
