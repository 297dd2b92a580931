"""Archives that carry the SHA-256 of their own bytes: what `torch.save` writes is a zip archive, and its
comment has room for it.

The archive and its seal are one file, so there is no moment at which one of them is there without the
other; `torch.load` and `unzip` read it as ever. The digest is that of the archive before it was sealed:
with an empty comment.
"""

from __future__ import annotations

import errno
import os
import zipfile
from pathlib import Path
from typing import BinaryIO

from bench.store.files import sha256_of_next

_SIGNATURE = b"PK\x05\x06"
_END = 22
"""Bytes of the record that ends an archive; the last two are the length of the comment after it."""
_SEAL = len("sha256:") + 64
_NO_COMMENT, _SEALED = (length.to_bytes(2, "little") for length in (0, _SEAL))


def seal(path: Path) -> None:
    """Write the digest of an archive without a comment into it."""
    with path.open("r+b") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        comment = f"sha256:{sha256_of_next(file, size).hexdigest()}".encode()
        file.seek(size - _END)
        end = file.read()
        assert end.startswith(_SIGNATURE) and end.endswith(_NO_COMMENT), f"{path} is no archive"
        file.seek(size - len(_NO_COMMENT))
        file.write(_SEALED + comment)


def flaw(file: BinaryIO) -> str | None:
    """What is wrong with an archive, or None: it is what was sealed. Of one from before there were
    seals, whether its members have the checksums that it names.
    """
    size = file.seek(0, os.SEEK_END)
    if not size:
        return "it is empty"
    file.seek(max(0, size - _END - _SEAL))
    tail = file.read()
    if tail.startswith(_SIGNATURE) and tail[_END - 2 : _END] == _SEALED:
        return _broken_seal(file, size - _SEAL, tail[_END:])
    if tail[-_END:].startswith(_SIGNATURE) and tail.endswith(_NO_COMMENT):
        return _broken_member(file)
    return "it was cut off, or is no file of torch.save"


def _broken_seal(file: BinaryIO, size: int, comment: bytes) -> str | None:
    file.seek(0)
    digest = sha256_of_next(file, size - len(_NO_COMMENT))
    digest.update(_NO_COMMENT)
    if comment == f"sha256:{digest.hexdigest()}".encode():
        return None
    return "its bytes are not those that were written (SHA-256)"


def _broken_member(file: BinaryIO) -> str | None:
    try:
        with zipfile.ZipFile(file) as archive:
            broken = archive.testzip()
    except Exception as error:  # a damaged archive can fail with any, also by naming wrong places
        if isinstance(error, OSError) and error.errno != errno.EINVAL:
            raise
        return f"it is damaged ({error})"
    return broken and f"its bytes are not those that were written (CRC-32 of {broken})"
