"""Results on disk: sealed when they are written, verified when they are read.

A result is a JSON file whose last member, `seal`, is the SHA-256 of all bytes before it and of where it
belongs: one read and one hash tell whether it is whole, and this run's, without parsing it. What lies
beside a result (predictions, pictures) is named in it with its digest. Results of before there were seals
are only asked for their shape.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Any

from bench.store.files import DamagedFile, read_bytes, sha256_of, write_text

_SEAL = re.compile(rb',\n "seal": "([0-9a-f]{64})"\n\}\n\Z')
_SEAL_BYTES = len(',\n "seal": ""\n}\n') + 64


class Kind(Enum):
    """Of result; the value is the name of what it must hold, in `bench.store.shapes`."""

    TRAINING = "TrainingShape"
    EVALUATION = "EvaluationShape"
    MODEL = "ModelShape"  # without a run
    MANIFEST = "ManifestShape"  # of a sweep: no result, but what the report takes results for
    SEARCH = "SearchShape"  # trials.json

    def place(self, path: str | Path) -> str:
        """What of its path a result belongs to: its run, and its evaluation. The folders above may be
        moved; one of a model says itself what it is of, and may also be renamed.
        """
        *_, run, _, folder, name = ("", "", "", *os.fspath(path).split("/"))
        if self in (Kind.TRAINING, Kind.SEARCH):
            return folder
        if self == Kind.MANIFEST:
            return name.removesuffix(".json")
        return f"{run}/{folder}" if self == Kind.EVALUATION else ""


def write_result(path: Path, kind: Kind, value: Mapping[str, Any]) -> None:
    """Sealed. Raises ValueError for what could not be read again."""
    body = json.dumps(value, indent=1, ensure_ascii=False).removesuffix("\n}")
    _refuse_shape(kind, json.loads(f"{body}\n}}"))
    seal = _digest(body.encode(), kind.place(path))
    write_text(path, f'{body},\n "seal": "{seal}"\n}}\n')


def is_result(path: str | Path, kind: Kind) -> bool:
    """Whether there is a result; cheaper than reading it. Raises DamagedFile."""
    content = read_bytes(path)
    if content is not None and not _is_sealed(path, kind, content):
        _parsed(path, kind, content, sealed=False)
    return content is not None


def read_result(path: Path, kind: Kind) -> dict[str, Any] | None:
    """What was written, without its seal, or None where there is no such file. Raises DamagedFile."""
    return read_with_seal(path, kind)[0]


def read_with_seal(path: Path, kind: Kind) -> tuple[dict[str, Any] | None, bool]:
    """As `read_result`, and whether it has a seal, which then holds."""
    content = read_bytes(path)
    if content is None:
        return None, False
    sealed = _is_sealed(path, kind, content)
    return _parsed(path, kind, content, sealed=sealed), sealed


def files_beside(folder: Path) -> dict[str, str]:
    """The predictions and pictures in the folder of a result, by their path in it -> SHA-256."""
    found = [*folder.glob("predictions.parquet"), *folder.glob("pictures/**/*.png")]
    return {path.relative_to(folder).as_posix(): sha256_of(path) for path in sorted(found)}


def _is_sealed(path: str | Path, kind: Kind, content: bytes) -> bool:
    seal = _SEAL.search(content, max(0, len(content) - _SEAL_BYTES))
    if seal is None:
        return False
    if _digest(memoryview(content)[: seal.start()], kind.place(path)).encode() != seal[1]:
        raise DamagedFile(Path(path), "is not what was written here (its seal does not match)")
    return True


def _digest(body: bytes | memoryview, place: str) -> str:
    found = hashlib.sha256(body)
    found.update(place.encode())
    return found.hexdigest()


def _parsed(path: str | Path, kind: Kind, content: bytes, *, sealed: bool) -> dict[str, Any]:
    if not content:
        raise DamagedFile(Path(path), "is empty")
    try:
        value = json.loads(content)
        if (
            not sealed
        ):  # its shape was looked at before it was sealed, and takes as long as reading it
            _refuse_shape(kind, value)
    except (ValueError, RecursionError) as error:
        raise DamagedFile(Path(path), f"is no result ({error})") from error
    return {name: item for name, item in value.items() if name != "seal"}


def _refuse_shape(kind: Kind, value: Any) -> None:
    """Raises ValueError for what has not the shape of this kind."""
    # Only here: what starts cells by the hundred reads results too, and they are sealed.
    from pydantic import ValidationError

    from bench.store import shapes

    try:
        getattr(shapes, kind.value).model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ValueError(f"{where}: {first['msg']}" if where else first["msg"]) from error
