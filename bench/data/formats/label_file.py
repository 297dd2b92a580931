"""Lists of labelled videos, and the files that may lie beside them: names of the classes, subsets.

A list is one of

    csv (comma, semicolon or tab) with a header     a column for the file and one for the label; `split`, `subset`
    lines `path label`, `path,label`, `path;label`  VideoMAE, V-JEPA, TimeSformer, Jester; the label is a name or number
    lines `class/file`                              UCF101's test lists: no line has a label
    lines `folder count label`                      folders of frames, as TSN and TSM list them
    JSON: a list of mappings                        the same columns as keys (Something-Something-v2: `id`, `template`)

and read into `LabelledItem`s. A relative path starts from the folder of the list, or where none of the
first videos is there from the folder above or one beside it. A path may lack its extension.
"""

from __future__ import annotations

import csv
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bench.data.formats.labelled import ALL, LabelledItem, Mistaken, split_of
from bench.data.formats.video_list import EXTENSIONS, read_class_names

LISTS = (".csv", ".tsv", ".txt", ".list", ".json")
FILES = (
    "path", "file", "filename", "file_name", "filepath", "file_path", "video", "video_path", "video_id", "vid_name",
    "clip", "id", "name",
)  # fmt: skip
LABELS = (
    "template", "class", "class_name", "label_name", "category", "action", "label", "target", "label_id", "class_id"
)  # fmt: skip
"""What the columns of a list may be called; the first that is there is taken."""
CLASS_NAMES = (
    "classes.txt", "classes.csv", "classes.json", "class_names.txt", "labels.json", "something-something-v2-labels.json"
)  # fmt: skip
SUBSETS = ("subsets.csv", "subsets.json")
"""Files beside the videos or their list."""
_WITH_EXTENSION = re.compile(rf"(.+(?:{'|'.join(map(re.escape, EXTENSIONS))}))[\s,;]+(\S.*)", re.I)
_QUOTED = re.compile(r'"((?:[^"]|"")*)"[\s,;]+(\S.*)')
_PROBED = 20  # listed videos that are looked for before the others


class Line(NamedTuple):
    """One line of a list, or item of a JSON one."""

    where: str
    file: str
    label: str
    split: str = ""
    subset: str = ""


def read_lists(
    lists: Sequence[Path], wrong: Mistaken, root: Path | None = None
) -> list[LabelledItem]:
    """The videos of all lists, whose names tell the split where no column does. `root`: where
    relative paths start from. What is wrong is added to `wrong`.
    """
    items: list[LabelledItem] = []
    for path in lists:
        before = len(wrong.mistakes)
        lines = list(_lines(path, wrong))
        if not lines and len(wrong.mistakes) == before:
            wrong.add(f"{path} lists no video")
        default = split_of(path.stem) or ALL
        start = root or _start_of(path, lines)
        for line in lines:
            split = (split_of(line.split) or line.split) if line.split else default
            if not re.fullmatch(r"[A-Za-z0-9_-]+", split):
                wrong.add(f"the split {split!r} is no plain word", [line.where])
            found = _found(start, line.file)
            items.append(LabelledItem(found, line.label, split, line.where, line.subset, line.file))
    return items


def _lines(path: Path, wrong: Mistaken) -> Iterator[Line]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        wrong.add(f"{path} cannot be read as text: {error}")
        return
    read = _of_json if path.suffix == ".json" else _of_text
    found = list(read(path, text, wrong))
    if not any(line.label for line in found):
        found = [line._replace(label=Path(line.file).parent.name) for line in found]
    incomplete = []
    for line in found:
        if line.file and line.label:
            yield line
        else:
            incomplete.append(line.where)
    if incomplete:
        wrong.add("no path or no label", incomplete)


def _of_text(path: Path, text: str, wrong: Mistaken) -> Iterator[Line]:
    numbered = [
        (number, line.strip())
        for number, line in enumerate(text.splitlines(), 1)
        if line.strip() and not line.lstrip().startswith("#")
    ]
    if not numbered:
        return
    if header := _header(numbered[0][1]):
        yield from _table(path, text, numbered[0][0], *header, wrong)
        return
    if numbered[0][1].split() == ["path", "label"]:
        del numbered[0]
    for number, line in numbered:
        yield Line(f"line {number} of {path.name}", *_path_and_label(line))


def _header(first: str) -> tuple[str, list[str]] | None:
    """(Delimiter, columns) of a table with a header; None if this is a line like the others."""
    for delimiter in "\t;,":
        columns = [name.strip().lower() for name in next(csv.reader([first], delimiter=delimiter))]
        if _column(columns, FILES) and _column(columns, LABELS):
            return delimiter, columns
    return None


def _column(columns: Sequence[str], names: Sequence[str]) -> str | None:
    return next((name for name in names if name in columns), None)


def _table(
    path: Path, text: str, header: int, delimiter: str, columns: list[str], wrong: Mistaken
) -> Iterator[Line]:
    rows = csv.reader(text.splitlines(keepends=True)[header:], delimiter=delimiter)
    uneven = []
    try:
        for row in rows:
            where = f"line {header + rows.line_num} of {path.name}"
            if not row or row[0].lstrip().startswith("#"):
                continue
            if len(row) != len(columns):
                uneven.append(where)
                continue
            yield _line(where, dict(zip(columns, map(str.strip, row), strict=True)))
    except csv.Error as error:
        wrong.add(f"{path} is not a table: {error}", [f"line {header + rows.line_num}"])
    if uneven:
        wrong.add(f"not {len(columns)} columns as in the header (quote what has commas)", uneven)


def _line(where: str, row: Mapping[str, str]) -> Line:
    file, label = _column(list(row), FILES), _column(list(row), LABELS)
    name = row[label] if label else ""
    if label == "template":  # of Something-Something: its classes have no brackets
        name = name.replace("[", "").replace("]", "")
    return Line(where, row[file] if file else "", name, row.get("split", ""), row.get("subset", ""))


def _path_and_label(line: str) -> tuple[str, str]:
    """Of a line without columns; empty texts where it is not one."""
    if quoted := _QUOTED.fullmatch(line):
        return quoted[1].replace('""', '"'), quoted[2].strip().strip('"')
    if line.lower().endswith(EXTENSIONS):
        return line, ""
    if parts := _WITH_EXTENSION.fullmatch(line):
        return parts[1], parts[2].strip().strip('"')
    for delimiter in "\t;,":
        if delimiter in line:
            file, _, label = line.rpartition(delimiter)
            return file.strip(), label.strip()
    by_number = re.fullmatch(r"(.+)\s+(\d+)", line)
    file, _, label = (by_number[1], "", by_number[2]) if by_number else line.partition(" ")
    return file.strip(), label.strip()


def _of_json(path: Path, text: str, wrong: Mistaken) -> Iterator[Line]:
    try:
        content = json.loads(text)
    except ValueError as error:
        wrong.add(f"{path} is not valid JSON: {error}")
        return
    if not isinstance(content, list) or not all(isinstance(row, dict) for row in content):
        wrong.add(f"{path} is not a list of mappings, each with a path and a label")
        return
    for number, row in enumerate(content):
        plain = {str(k).lower(): str(v) for k, v in row.items() if isinstance(v, str | int)}
        yield _line(f"item {number} of {path.name}", plain)


# -- where the files are ---


def _start_of(path: Path, lines: Sequence[Line]) -> Path:
    """The folder that relative paths start from: the list's own, or where none of its first videos
    is there the one that has most of them, of the folder above and those beside and below.
    """
    own = path.absolute().parent
    probe = [line.file for line in lines[:: max(1, len(lines) // _PROBED)]]
    if not probe or any(_found(own, file) for file in probe):
        return own
    near = [own.parent, *_folders(own), *_folders(own.parent)]
    counts = [sum(_found(start, file) is not None for file in probe) for start in near]
    best = max(range(len(near)), key=lambda n: counts[n])  # the first of equals
    return near[best] if counts[best] else own


def _folders(folder: Path) -> list[Path]:
    try:
        return sorted(Path(e.path) for e in os.scandir(folder) if e.is_dir())
    except OSError:
        return []


def _found(start: Path, file: str) -> Path | None:
    """The file or folder of frames: as listed, with the extension of a video, or without the number
    of frames that follows it.
    """
    listed = os.path.normpath(os.path.join(start, file))  # noqa: PTH118  an absolute one stays
    if os.path.exists(listed):  # noqa: PTH110  tens of thousands of them
        return Path(listed)
    if listed.lower().endswith(EXTENSIONS):
        return None
    for path in (Path(listed + extension) for extension in EXTENSIONS):
        if path.is_file():
            return path
    counted = re.fullmatch(r"(.+\S)\s+\d+", file)
    folder = start / counted[1] if counted else None
    return folder if folder and folder.is_dir() else None


# -- beside them ---


def names_beside(folder: Path, wrong: Mistaken) -> tuple[str, ...] | None:
    """The classes by id, where one of CLASS_NAMES is there."""
    path = next((folder / name for name in CLASS_NAMES if (folder / name).is_file()), None)
    if path is None:
        return None
    try:
        return read_class_names(path)
    except ValueError as error:
        wrong.add(str(error))
        return None


def subsets_beside(folder: Path, wrong: Mistaken) -> dict[str, str]:
    """Class (its name or number) -> subset, where one of SUBSETS is there: lines `class,subset`, or
    JSON {class: subset} or {subset: [classes]}.
    """
    path = next((folder / name for name in SUBSETS if (folder / name).is_file()), None)
    if path is None:
        return {}
    try:
        text = path.read_text(encoding="utf-8-sig")
        pairs = _json_subsets(text) if path.suffix == ".json" else _csv_subsets(text)
    except ValueError as error:
        wrong.add(f"{path}: {error}")
        return {}
    subsets: dict[str, str] = {}
    for label, subset in pairs:
        if subsets.setdefault(label, subset) != subset:
            wrong.add(f"{path}: class {label!r} is in {subsets[label]!r} and in {subset!r}")
    return subsets


def _csv_subsets(text: str) -> list[tuple[str, str]]:
    rows = [[cell.strip() for cell in row] for row in csv.reader(text.splitlines()) if row]
    if rows and [cell.lower() for cell in rows[0]] in (["class", "subset"], ["label", "subset"]):
        del rows[0]
    if bad := [row for row in rows if len(row) != 2 or not all(row)]:
        raise ValueError(f"{','.join(bad[0])!r} is not `class,subset` ({len(bad)} such lines)")
    return [(label, subset) for label, subset in rows]


def _json_subsets(text: str) -> list[tuple[str, str]]:
    content: Any = json.loads(text)
    if not isinstance(content, dict):
        raise ValueError("neither {class: subset} nor {subset: [classes]}")
    pairs = []
    for key, value in content.items():
        if isinstance(value, list):
            pairs += [(str(label), key) for label in value]
        else:
            pairs.append((key, str(value)))
    return pairs
