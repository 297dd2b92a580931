"""A list of videos with labels, and the folders they lie in -> shards: what every data set of videos
comes down to.

A format (`ssv2_format`, a source) reads its annotations into a `VideoList`; `convert` finds the
files, reports all that is missing before any work, and hands the clips to `pack`. Extensions only
serve to find files: what a file holds is for the decoder to say.
"""

from __future__ import annotations

import difflib
import json
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from bench.data.shards.read import BadData
from bench.data.shards.write import (
    FAILED,
    SHOWN,
    Clip,
    DataSetInfo,
    FrameRule,
    Packing,
    pack,
    write_failed,
)

EXTENSIONS = (".webm", ".mp4", ".avi", ".mkv", ".mov")

"""In the folder of the shards: split, key and reason of each video that cannot be used."""
_SAFE = re.compile(r"[A-Za-z0-9_~-]+(/[A-Za-z0-9_~-]+)*")
_MOST_CANDIDATES = 5000  # names that are compared with a missing one; more take seconds


@dataclass(frozen=True)
class Entry:
    """One listed video. `file` is what to look for: a path or, of files that may lie anywhere below
    the roots, a stem (`id`, or `class/id` where the folder decides between files of one name).
    """

    key: str  # of the sample, also the name of its member in the tar
    file: str
    label: str  # name of the class
    split: str
    listed_in: str  # the file that lists it, for messages
    meta: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class VideoList:
    """`classes` in the order of their ids; training split first."""

    classes: tuple[str, ...]
    entries: tuple[Entry, ...]

    def __post_init__(self) -> None:
        """BadData: all that is wrong with the list."""
        wrong = [*_unknown_labels(self), *_listed_twice(self), *_unsafe_keys(self)]
        if wrong:
            raise BadData("the annotations contradict themselves:\n  " + "\n  ".join(wrong))


def _unknown_labels(videos: VideoList) -> Iterator[str]:
    known = set(videos.classes)
    for file, entries in _by_list(e for e in videos.entries if e.label not in known).items():
        names = sorted({entry.label for entry in entries})
        more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        yield f"{file}: {len(entries)} videos of unknown classes: {'; '.join(names[:SHOWN])}{more}"


def _listed_twice(videos: VideoList) -> Iterator[str]:
    lists: dict[str, list[str]] = defaultdict(list)
    for entry in videos.entries:
        lists[entry.key].append(entry.listed_in)
    twice = [(key, files) for key, files in lists.items() if len(files) > 1]
    for key, files in twice[:SHOWN]:
        where = " and ".join(dict.fromkeys(files))
        yield f"{key} is listed {'twice' if len(files) == 2 else f'{len(files)} times'}, in {where}"
    if len(twice) > SHOWN:
        yield f"... and {len(twice) - SHOWN} more are listed more than once"


def _unsafe_keys(videos: VideoList) -> Iterator[str]:
    unsafe = [entry for entry in videos.entries if not _SAFE.fullmatch(entry.key)]
    for file, entries in _by_list(unsafe).items():
        yield f"{file}: the id {entries[0].key!r} is not a plain file name ({len(entries)} such ids)"


def _by_list(entries: Iterable[Entry]) -> dict[str, list[Entry]]:
    found: dict[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        found[entry.listed_in].append(entry)
    return found


def safe_key(path: str) -> str:
    """A path as a key: without its extension, no dots (they end a key in a WebDataset shard), no
    way out of the folder. Different paths have different keys, but for the extension.
    """
    stem = path[: -len(suffix)] if (suffix := Path(path).suffix).lower() in EXTENSIONS else path
    parts = [part for part in stem.split("/") if part]
    return "/".join(re.sub(r"[^A-Za-z0-9_-]", lambda m: f"~{ord(m[0]):x}~", p) for p in parts)


# -- lists of paths ---


def read_paths(path: Path, split: str) -> tuple[Entry, ...]:
    """Lines `path label` or `path,label`; the label is a number or a name. BadData lists the lines
    that are neither.
    """
    entries, wrong = [], []
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), 1):
        if not (text := line.strip()) or text.startswith("#"):
            continue
        file, label = _path_and_label(text)
        if not file or not label:
            wrong.append(f"line {number}: {text[:80]!r} is not `path label` or `path,label`")
        elif (file, label) != ("path", "label"):
            entries.append(Entry(safe_key(file), file, label, split, str(path), {"file": file}))
    if wrong:
        more = f"\n  ... and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
        raise BadData(f"{path} is not a list of videos:\n  " + "\n  ".join(wrong[:SHOWN]) + more)
    return tuple(entries)


def _path_and_label(text: str) -> tuple[str, str]:
    by_space, by_comma = text.rsplit(None, 1), text.rsplit(",", 1)
    numbered = len(by_space) == 2 and by_space[1].isdecimal()
    if "," in text and not (numbered and not by_comma[1].strip().isdecimal()):
        return by_comma[0].strip().strip('"'), by_comma[1].strip().strip('"')
    return (by_space[0], by_space[1]) if len(by_space) == 2 else ("", "")


def with_classes(entries: Sequence[Entry], names: Sequence[str] | None = None) -> VideoList:
    """Entries whose labels are names, or the numbers of classes.

    `names` are the classes in the order of their ids. Without them they are the labels in
    alphabetical order or, for numbers, the folders of the videos, where each number has one folder
    of its own. BadData where that does not hold.
    """
    if not all(entry.label.isdecimal() for entry in entries):
        labels = sorted({entry.label for entry in entries})
        return VideoList(tuple(names or labels), tuple(entries))
    lists = ", ".join(dict.fromkeys(entry.listed_in for entry in entries))
    if names is None:
        names = _names_of_folders(entries, lists)
    if beyond := sorted({int(e.label) for e in entries if int(e.label) >= len(names)}):
        raise BadData(f"{lists}: label {beyond[0]} is not among the {len(names)} named classes")
    named = tuple(replace(entry, label=names[int(entry.label)]) for entry in entries)
    return VideoList(tuple(names), named)


def _names_of_folders(entries: Sequence[Entry], lists: str) -> tuple[str, ...]:
    folders: dict[int, set[str]] = defaultdict(set)
    for entry in entries:
        folders[int(entry.label)].add(Path(entry.file).parent.name)
    names = [min(folders[n]) for n in sorted(folders)]
    one_each = all(len(found) == 1 for found in folders.values()) and len(set(names)) == len(names)
    if not one_each or "" in names or sorted(folders) != list(range(len(folders))):
        raise BadData(
            f"{lists}: the labels are numbers, and the folders of the videos do not tell the names "
            "of the classes; give them with --classes FILE, one name per line"
        )
    return tuple(names)


def read_class_names(path: Path) -> tuple[str, ...]:
    """Names by id: one per line, `id,name` (with or without a header), or a JSON list or mapping
    name -> id. BadData for anything else.
    """
    text = path.read_text(encoding="utf-8-sig")
    if path.suffix == ".json":
        return _names_of_json(path, text)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if lines and lines[0].lower() in ("id,name", "id,label"):
        lines = lines[1:]
    pairs = [line.split(",", 1) for line in lines]
    if all(len(pair) == 2 and pair[0].isdecimal() for pair in pairs):
        return _by_id(path, {pair[1].strip(): int(pair[0]) for pair in pairs})
    return tuple(lines)


def _names_of_json(path: Path, text: str) -> tuple[str, ...]:
    try:
        names = json.loads(text)
    except ValueError as error:
        raise BadData(f"{path} is not valid JSON: {error}") from error
    if isinstance(names, list):
        return tuple(map(str, names))
    if not isinstance(names, dict) or not all(str(n).isdecimal() for n in names.values()):
        raise BadData(f"{path} is neither a list of names nor a mapping name -> id")
    return _by_id(path, {name.strip('"'): int(number) for name, number in names.items()})


def _by_id(path: Path, ids: Mapping[str, int]) -> tuple[str, ...]:
    if sorted(ids.values()) != list(range(len(ids))):
        raise BadData(f"{path}: the ids are not 0 .. {len(ids) - 1}")
    return tuple(sorted(ids, key=ids.__getitem__))


# -- files ---


class Present(NamedTuple):
    """A file and how it is called below its root."""

    path: Path
    below: Path


class Found(NamedTuple):
    """The files below the roots: videos by stem (in the order of the roots, then of their paths),
    and the names of all other files.
    """

    videos: Mapping[str, list[Present]]
    others: tuple[str, ...]


def read_json(path: Path | None, kind: type) -> Any:
    """The list or mapping that an annotation file holds; BadData."""
    assert path is not None
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise BadData(f"{path} is not valid JSON: {error}") from error
    if not isinstance(content, kind):
        raise BadData(f"{path} holds no {'list' if kind is list else 'mapping'}")
    return content


def absent_folders(roots: Sequence[Path]) -> list[str]:
    """What to say of roots that are no folders."""
    return [f"no folder {root} (--videos)" for root in roots if not root.is_dir()]


def find_videos(roots: Sequence[Path]) -> Found:
    """Walk the roots; links to folders are followed, once. ValueError: a root that is no folder."""
    if absent := absent_folders(roots):
        raise ValueError("; ".join(absent))
    videos: dict[str, list[Present]] = defaultdict(list)
    others = []
    for file in _files(roots):
        if file.path.suffix.lower() in EXTENSIONS:
            videos[file.path.stem].append(file)
        else:
            others.append(file.path.name)
    return Found(videos, tuple(others))


def _files(roots: Sequence[Path]) -> Iterator[Present]:
    seen = set()
    for root in roots:
        for folder, below, names in os.walk(root, followlinks=True):
            place = Path(folder).stat()
            if (place.st_dev, place.st_ino) in seen:
                below.clear()
                continue
            seen.add((place.st_dev, place.st_ino))
            below.sort()
            for name in sorted(names):
                path = Path(folder, name)
                yield Present(path, path.relative_to(root))


def _file_of(entry: Entry, roots: Sequence[Path], found: Found) -> Path | None:
    """The file at the listed path, or where the list was made elsewhere the one that its end leads
    to. Of an id: the file of this name whose folders are most like the listed ones.
    """
    listed = Path(entry.file)
    if listed.suffix.lower() not in EXTENSIONS:
        wanted = set(listed.parent.parts)
        same_name = found.videos.get(listed.name, [])
        best = max(same_name, key=lambda f: len(wanted & set(f.below.parts)), default=None)
        return best and best.path
    for path in (root / listed for root in roots):  # an absolute path stays what it is
        if path.is_file():
            return path
    for file in found.videos.get(listed.stem, []):
        parts = file.below.with_suffix("").parts
        if listed.with_suffix("").parts[-len(parts) :] == parts:
            return file.path
    return None


@dataclass(frozen=True)
class FileClip(Clip):
    """A clip that knows its file; None: it is not there."""

    file: Path | None = None


def read_file(split: str, clip: Clip) -> bytes:
    """The `Read` of `pack`; ValueError: the file is not there or cannot be read."""
    assert isinstance(clip, FileClip)
    if clip.file is None:
        raise ValueError("the file is not there")
    try:
        return clip.file.read_bytes()
    except OSError as error:
        raise ValueError(f"{clip.file} cannot be read: {error.strerror}") from error


def convert(
    videos: VideoList,
    roots: Sequence[Path],
    out: Path,
    info: DataSetInfo,
    rule: FrameRule,
    packing: Packing,
) -> Path:
    """Find the files below the roots and pack them. BadData, before any work, if more than
    `packing.allow_missing` are not there; all of them are in `<out>/failed.csv` then.
    """
    found = find_videos(roots)
    label = {name: number for number, name in enumerate(videos.classes)}
    clips: dict[str, list[FileClip]] = defaultdict(list)
    missing = []
    for entry in videos.entries:
        file = _file_of(entry, roots, found)
        # never written, but a part of the plan: once the file is there its shard is made again
        meta = entry.meta if file else {**entry.meta, "missing": True}
        clips[entry.split].append(FileClip(entry.key, label[entry.label], meta, file=file))
        if file is None:
            missing.append(entry)
    _one_file_each(clips)
    if len(missing) > packing.allow_missing:
        used = {clip.file for part in clips.values() for clip in part}
        raise _incomplete(videos, missing, roots, out, _unused_names(found, used))
    return pack(out, clips, read_file, info, rule, packing)


def _one_file_each(clips: Mapping[str, Sequence[FileClip]]) -> None:
    key_of: dict[Path, str] = {}
    for clip in (clip for part in clips.values() for clip in part if clip.file):
        assert clip.file is not None
        if (other := key_of.setdefault(clip.file, clip.key)) != clip.key:
            raise BadData(f"{other} and {clip.key} are both listed, and both would be {clip.file}")


def _unused_names(found: Found, used: set[Path | None]) -> list[str]:
    """Names of files that no entry takes: among them is what was wrongly named."""
    videos = (file.path for files in found.videos.values() for file in files)
    unused = [path.name for path in videos if path not in used]
    return [*unused, *found.others]


def _incomplete(
    videos: VideoList, missing: Sequence[Entry], roots: Sequence[Path], out: Path, near: list[str]
) -> BadData:
    """The message, with a guess for the first of them; the whole list is written to a file."""
    reasons = {entry.key: f"{_wanted(entry)} is not there" for entry in missing}
    for entry in missing[:SHOWN]:
        if guess := _nearest(Path(entry.file).name, near):
            reasons[entry.key] += f"; did you mean {guess}, which is there and not listed?"
    failed = [{"split": e.split, "key": e.key, "reason": reasons[e.key]} for e in missing]
    write_failed(out / FAILED, failed)
    listed = "\n  ".join(f"{e.split}/{e.key}: {reasons[e.key]}" for e in missing[:SHOWN])
    more = f"\n  ... all of them: {out / FAILED}" if len(missing) > SHOWN else ""
    where = " or ".join(map(str, roots))
    return BadData(
        f"{len(missing)} of {len(videos.entries)} listed videos are not in {where}:\n"
        f"  {listed}{more}\n"
        "Are all parts of the download unpacked? If there are no others, "
        f"--allow-missing {len(missing)} leaves these out and lists them in the index"
    )


def _wanted(entry: Entry) -> str:
    file = Path(entry.file)
    if file.suffix.lower() in EXTENSIONS:
        return entry.file
    return f"{file.name}{{{','.join(EXTENSIONS)}}}"


def _nearest(name: str, present: list[str]) -> str | None:
    stem = Path(name).stem if Path(name).suffix.lower() in EXTENSIONS else name
    if holding := [other for other in present if stem.lower() in other.lower()]:
        return holding[0]
    close = difflib.get_close_matches(name, present[:_MOST_CANDIDATES], n=1, cutoff=0.75)
    return close[0] if close else None
