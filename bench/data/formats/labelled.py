"""Labelled videos as they lie on disk: which file has which label, in which split.

    class folders (`class_folders`) or a list (`label_file`) -> LabelledItem -> `collect` -> LabelledVideos

`FileSamples` (file_samples.py) reads them where they lie, `bench.prepare videos` packs them into shards; both
have the same keys, classes and splits. A video is a file, or a folder of numbered frames.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from bench.data.formats.video_list import safe_key
from bench.data.shards.read import BadData

IMAGES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
ALL = "all"
"""The split of videos of which nothing says in which they are."""
SPLIT_NAMES = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "validate", "dev"),
    "test": ("test", "testing"),
}
"""How folders, lists and columns call the splits."""
_SPLIT_OF = {name: split for split, names in SPLIT_NAMES.items() for name in names}
_SHOWN = 10
_NUMBERED = re.compile(r"(.*?)(\d+)")
_OF_THE_FRAMES = ("", "img", "image", "frame", "rgb")
"""What stands before the number of a frame, where there are also pictures of something else."""


def split_of(name: str) -> str | None:
    """The split that a folder, list or value of this name means; None if none."""
    return _SPLIT_OF.get(name.lower())


class LabelledItem(NamedTuple):
    """A video, as somebody labelled it."""

    path: Path | None  # absolute; None: it is not there
    label: str  # the name of its class, or the number
    split: str
    where: str  # for messages: "line 3 of val.csv", or the file itself
    subset: str = ""
    listed: str = ""  # as which path


class VideoFile(NamedTuple):
    """A video file, or a folder of frames."""

    key: str
    label: int
    path: Path


@dataclass(frozen=True)
class LabelledVideos:
    """`files` by split, training first; `subsets` are ids of classes; `root` holds all files."""

    name: str
    root: Path
    classes: tuple[str, ...]
    subsets: Mapping[str, tuple[int, ...]]
    files: Mapping[str, tuple[VideoFile, ...]]
    missing: tuple[LabelledItem, ...] = ()

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(self.files)

    @property
    def held_out(self) -> tuple[str, ...]:
        """What is evaluated: all splits but the training one, or the only one."""
        return tuple(s for s in self.splits if s != "train") or self.splits

    def number_of(self, label: str) -> int:
        """The id of a class, given its name or number."""
        return self.classes.index(label) if label in self.classes else int(label)

    def require_all(self, source: Path, *, allowed: int = 0) -> None:
        """BadData if more than `allowed` of the listed videos are not there."""
        if len(self.missing) > allowed:
            total = len(self.missing) + sum(map(len, self.files.values()))
            wrong = Mistaken(source)
            wrong.add(
                f"{len(self.missing)} of {total} listed videos are not there",
                [f"{item.where}: {item.listed}" for item in self.missing],
            )
            wrong.refuse("Relative paths start from the folder of the list")

    @cached_property
    def digest(self) -> str:
        """SHA-256 over path below the root, class and size (bytes) of every video: changes with a
        label or another copy of a file, and costs no reading.
        """
        content = hashlib.sha256()
        for name, label, size in sorted(
            (os.path.relpath(f.path, self.root), self.classes[f.label], size_of(f.path))
            for files in self.files.values()
            for f in files
        ):
            content.update(f"{name}\0{label}\0{size}\n".encode("utf-8", "surrogateescape"))
        return content.hexdigest()


def size_of(path: Path) -> int:
    """Bytes of a file, or of all pictures of a folder; 0 of what has gone meanwhile."""
    try:
        if not path.is_dir():
            return path.stat().st_size
        return sum(entry.stat().st_size for entry in os.scandir(path) if is_image(entry.name))
    except OSError:
        return 0


def is_image(name: str) -> bool:
    return name.lower().endswith(IMAGES) and not name.startswith(".")


def frame_files(folder: Path) -> list[Path]:
    """The frames of a clip, by the number that their names end with (img_00001.jpg, 1.png ...).

    ValueError: there is none, a picture without a number, two of one number; pictures of something
    else (flow_x_00001.jpg) may lie beside those called img, image, frame or rgb.
    """
    series: dict[str, dict[int, str]] = {}
    try:
        names = sorted(entry.name for entry in os.scandir(folder) if is_image(entry.name))
    except OSError as error:
        raise ValueError(f"{folder} cannot be read: {error.strerror}") from error
    for name in names:
        parts = _NUMBERED.fullmatch(Path(name).stem)
        if parts is None:
            raise ValueError(f"{folder}/{name} is not numbered as a frame of a clip is")
        numbers = series.setdefault(parts[1], {})
        if (number := int(parts[2])) in numbers:
            raise ValueError(f"{folder} has two frames {number}: {numbers[number]} and {name}")
        numbers[number] = name
    chosen = list(series) if len(series) == 1 else [p for p in series if _is_frame_prefix(p)]
    if len(chosen) != 1:
        kinds = ", ".join(f"{prefix}*" for prefix in series)
        raise ValueError(
            f"{folder} has pictures of {len(series)} kinds ({kinds}), of which it does not tell the "
            "frames"
            if series
            else f"{folder} has no frames"
        )
    return [folder / name for _, name in sorted(series[chosen[0]].items())]


def _is_frame_prefix(prefix: str) -> bool:
    return prefix.lower().rstrip("_- ") in _OF_THE_FRAMES


# -- items -> labelled videos ---


@dataclass
class Mistaken:
    """All that is wrong with the labels of some videos."""

    source: Path
    mistakes: list[str] = field(default_factory=list)

    def add(self, text: str, places: Sequence[str] = ()) -> None:
        """A mistake, and where it is made."""
        more = f" and {len(places) - _SHOWN} more" if len(places) > _SHOWN else ""
        where = f" ({'; '.join(places[:_SHOWN])}{more})" if places else ""
        self.mistakes.append(f"{text}{where}")

    def refuse(self, remedy: str = "") -> None:
        """BadData with all of them, if there are any."""
        if self.mistakes:
            listed = "\n  ".join(self.mistakes)
            after = f"\n{remedy}" if remedy else ""
            raise BadData(f"the labelled videos of {self.source} are refused:\n  {listed}{after}")


def collect(
    name: str,
    items: Sequence[LabelledItem],
    names: Sequence[str] | None,
    listed_subsets: Mapping[str, str],
    wrong: Mistaken,
) -> LabelledVideos:
    """Items -> the data set. `names` are the classes by id, where a file gives them; without it they
    are the labels in alphabetical order, or for numbers "0", "1", ... BadData: all that is wrong.
    """
    present = [item for item in items if item.path]
    classes = _classes(items, names, wrong)
    if len(classes) == 1:
        wrong.add(f"all videos are of one class, {classes[0]!r}; there is nothing to tell apart")
    subsets = _subsets(items, classes, listed_subsets, wrong)
    _refuse_twice(present, wrong)
    wrong.refuse()
    ids = {label: number for number, label in enumerate(classes)}
    root = (
        Path(os.path.commonpath([i.path.parent for i in present if i.path])) if present else Path()
    )
    keys = _keys([item.path for item in present if item.path], root)
    files: dict[str, list[VideoFile]] = {}
    for split in sorted({item.split for item in present}, key=_split_order):
        files[split] = []
    for item in present:
        assert item.path is not None
        label = ids[item.label] if item.label in ids else int(item.label)
        files[item.split].append(VideoFile(keys[item.path], label, item.path))
    by_split = {split: tuple(part) for split, part in files.items()}
    missing = tuple(item for item in items if item.path is None)
    return LabelledVideos(name, root, classes, subsets, by_split, missing)


def _split_order(split: str) -> tuple[int, str]:
    known = list(SPLIT_NAMES)
    return (known.index(split) if split in known else len(known), split)


def _classes(
    items: Sequence[LabelledItem], names: Sequence[str] | None, wrong: Mistaken
) -> tuple[str, ...]:
    known = set(names or ())
    numbers = [i for i in items if i.label.isdecimal() and i.label not in known]
    texts = [i for i in items if not i.label.isdecimal() and i.label not in known]
    if names is None and numbers and texts:
        fewer, kind = (numbers, "numbers") if len(numbers) <= len(texts) else (texts, "names")
        wrong.add(f"some labels are numbers and some names; {kind} are", _places(fewer))
        return ()
    if names is None:
        if numbers:
            return tuple(map(str, range(max(int(i.label) for i in numbers) + 1)))
        return tuple(sorted({i.label for i in texts}))
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        wrong.add(f"the file of class names has some twice: {', '.join(twice[:_SHOWN])}")
    if beyond := [i for i in numbers if int(i.label) >= len(names)]:
        wrong.add(f"labels beyond the {len(names)} named classes", _places(beyond))
    if texts:
        wrong.add("labels that are not among the named classes", _places(texts))
    return tuple(names)


def _places(items: Iterable[LabelledItem]) -> list[str]:
    return [f"{item.label!r}, {item.where}" for item in items]


def _subsets(
    items: Sequence[LabelledItem],
    classes: Sequence[str],
    listed: Mapping[str, str],
    wrong: Mistaken,
) -> dict[str, tuple[int, ...]]:
    """Subset -> class ids, of the column `subset` and of a file beside the videos."""
    ids = {name: number for number, name in enumerate(classes)}
    said: dict[int, tuple[str, str]] = {}
    for label, subset, where in [
        *((label, subset, "the file of subsets") for label, subset in listed.items()),
        *((item.label, item.subset, item.where) for item in items if item.subset),
    ]:
        number = ids.get(label, int(label) if label.isdecimal() else -1)
        if not 0 <= number < len(classes):
            if classes and (label, subset) in listed.items():
                wrong.add(f"the file of subsets names {label!r}, which is no class")
            continue
        before, first = said.setdefault(number, (subset, where))
        if before != subset:
            both = f"{before!r} ({first}) and {subset!r} ({where})"
            wrong.add(f"class {classes[number]!r} is in two subsets: {both}")
    found: dict[str, list[int]] = {}
    for number, (subset, _) in sorted(said.items()):
        found.setdefault(subset, []).append(number)
    return {subset: tuple(numbers) for subset, numbers in sorted(found.items())}


def _refuse_twice(items: Sequence[LabelledItem], wrong: Mistaken) -> None:
    first: dict[Path, str] = {}
    for item in items:
        assert item.path is not None
        if item.path in first:
            wrong.add(f"{item.path} is listed twice: {first[item.path]} and {item.where}")
        first.setdefault(item.path, item.where)


def _keys(paths: Sequence[Path], root: Path) -> dict[Path, str]:
    """The path below the root, without its extension unless two would then be called the same."""
    below = {path: os.path.relpath(path, root) for path in paths}
    short = {path: safe_key(name) for path, name in below.items()}
    count = Counter(short.values())
    # a key holds no dots; this is how `safe_key` writes one
    return {
        path: f"{key}~2e~{path.suffix[1:]}" if count[key] > 1 and path.suffix else key
        for path, key in short.items()
    }
