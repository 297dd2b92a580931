"""The rows of runs as one file: all that a report needs of folders of runs but pictures and predictions,
small enough to be committed beside the report. `gather` makes it; `load` and `kept` read it like a folder.

JSON lines, each number in a line of its own, so that two such files can be compared line by line:

    {"time-matters rows": 1, "left_out": ..., "columns": [...]}
    {"folder": "0/<signature>", ...}                      of what its rows are: config, code, device, ...
    {"search": "0", "study": {...}}                       of bench.tune
    {"cell": {"sweep": ..., "run_dir": "0/<signature>/evaluations/...", ...}}
    ["video.shuffle_gap", "test", "original", "all", "top1", 0.5, 1000, 0]      of the cell above
    {"seal": "<SHA-256 of all lines before>"}

Compressed where its name ends in .gz. Python's numbers as JSON read back as they were, to the bit.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bench.store.files import DamagedFile, read_bytes, write_bytes

SCHEMA = 1
MARK = "time-matters rows"
LEFT_OUT = "pictures, predictions, weights, logs, what was logged at each step"
NUMBER = ("evaluation", "split", "view", "subset", "metric", "value", "n", "n_failed")
"""The columns of a number; the others are those of its cell."""

_BEGIN = json.dumps({MARK: 0}).encode()[:-2]
_GZIP = b"\x1f\x8b"
_SEAL_KEY = b'{"seal": '

Facts = Mapping[str, Any]


class OnlyNumbers(ValueError):
    """Pictures or predictions are asked for of a run that is known from a file of rows."""

    def __init__(self, path: Path) -> None:
        super().__init__(
            f"{path} has numbers only; pictures and predictions are in the folder of the runs"
        )


@dataclass(frozen=True)
class RowsFile:
    """`folders`: what is known of each run and evaluation beside its rows, by the path in the file that
    the column `run_dir` ends in; `searches`: by folder of runs, "0" for the first.
    """

    frame: pd.DataFrame
    folders: Mapping[str, Facts] = field(default_factory=dict)
    searches: Mapping[str, Sequence[dict[str, Any]]] = field(default_factory=dict)


def is_rows_file(path: Path) -> bool:
    """Whether a file begins like one: whether it is whole, `read` says."""
    try:
        with path.open("rb") as file:
            begin = file.read(len(_BEGIN))
    except OSError:
        return False
    return begin == _BEGIN or begin.startswith(_GZIP)


def inside(run_dir: str | Path) -> tuple[RowsFile, str] | None:
    """Of a path below a file of rows: that file, and the path in it. Raises DamagedFile."""
    path = Path(run_dir)
    above = next((p for p in (path, *path.parents) if p.exists()), path)
    if not above.is_file():
        return None
    return read(above), path.relative_to(above).as_posix()


def facts_of(run_dir: str | Path) -> Facts | None:
    """What a file of rows has of a run or an evaluation in it; None of one in a folder."""
    found = inside(run_dir)
    return None if found is None else found[0].folders.get(found[1], {})


# --- writing ---


def write(path: Path, rows: RowsFile) -> None:
    """The same rows give the same bytes."""
    content = b"".join(f"{line}\n".encode() for line in _lines(rows))
    content += json.dumps({"seal": hashlib.sha256(content).hexdigest()}).encode() + b"\n"
    if path.name.endswith(".gz"):
        content = gzip.compress(content, mtime=0)
    write_bytes(path, content)


def _lines(rows: RowsFile) -> Iterator[str]:
    head = {MARK: SCHEMA, "left_out": LEFT_OUT, "columns": list(rows.frame)}
    yield json.dumps(head)
    for name, facts in sorted(rows.folders.items()):
        yield json.dumps({"folder": name, **facts})
    for name, studies in sorted(rows.searches.items()):
        yield from (json.dumps({"search": name, "study": study}) for study in studies)
    last: str | None = None
    for cell, number in _records(rows.frame):
        if (line := json.dumps({"cell": cell})) != last:
            last = line
            yield line
        yield json.dumps(number)


def _records(frame: pd.DataFrame) -> Iterator[tuple[dict[str, Any], list[Any]]]:
    """Each row as its cell and its number. What is not there (NaN) is absent from a cell, null in a number."""
    cells = [str(name) for name in frame if name not in NUMBER]
    columns = [frame[name].tolist() for name in (*cells, *NUMBER)]
    for values in zip(*columns, strict=True):
        cell = dict(zip(cells, values[: len(cells)], strict=True))
        number = [None if _absent(value) else value for value in values[len(cells) :]]
        yield {name: value for name, value in cell.items() if not _absent(value)}, number


def _absent(value: Any) -> bool:
    return value is pd.NA or (isinstance(value, float) and np.isnan(value))


# --- reading ---


def read(path: Path) -> RowsFile:
    """`run_dir` of its rows: the file, and the path in it. Raises DamagedFile where it is not what was
    written.
    """
    state = path.stat()
    return _read(path, state.st_mtime_ns, state.st_size)


@lru_cache(maxsize=4)
def _read(path: Path, changed: int, size: int) -> RowsFile:
    content = read_bytes(path) or b""
    if content.startswith(_GZIP):
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error) as error:
            raise DamagedFile(path, f"is damaged ({error})") from error
    begin = content.rfind(_SEAL_KEY)
    seal = json.dumps({"seal": hashlib.sha256(content[: max(0, begin)]).hexdigest()}) + "\n"
    if not content.startswith(_BEGIN) or content[begin:] != seal.encode():
        raise DamagedFile(path, "is no file of rows as it was written (its seal does not match)")
    try:  # a seal is no promise of who wrote it
        first, *lines = map(json.loads, content[:begin].split(b"\n")[:-1])
        if first[MARK] == SCHEMA:
            return _from_lines(path, first["columns"], lines)
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        raise DamagedFile(path, f"is no file of rows ({error})") from error
    why = f"has schema {first[MARK]} of files of rows, here is {SCHEMA}: write it again"
    raise DamagedFile(path, why)


def _from_lines(path: Path, columns: Sequence[str], lines: Iterable[Any]) -> RowsFile:
    folders: dict[str, Facts] = {}
    searches: dict[str, list[dict[str, Any]]] = {}
    records: list[dict[str, Any]] = []
    cell: dict[str, Any] = {}
    for line in lines:
        if isinstance(line, list):
            records.append({**cell, **dict(zip(NUMBER, line, strict=True))})
        elif "cell" in line:
            cell = line["cell"]
            cell["run_dir"] = f"{path}/{cell['run_dir']}"
        elif "folder" in line:
            folders[line.pop("folder")] = line
        else:
            searches.setdefault(line["search"], []).append(line["study"])
    for record in records:
        record["value"] = np.nan if record["value"] is None else record["value"]
    return RowsFile(pd.DataFrame(records, columns=list(columns)), folders, searches)
