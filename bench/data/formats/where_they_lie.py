"""Labelled videos, from whatever says the labels, and what an evaluation gets of them: read where they lie.

    a folder or a list -> class_folders | label_file -> LabelledVideos -> Released

Sources of videos that know their own data add its name, classes and subsets.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from bench.data.formats.class_folders import read_folder
from bench.data.formats.file_samples import FileSamples
from bench.data.formats.label_file import LISTS, names_beside, read_lists, subsets_beside
from bench.data.formats.labelled import (
    ALL,
    SPLIT_NAMES,
    LabelledItem,
    LabelledVideos,
    Mistaken,
    collect,
)
from bench.data.shards.write import RECEIPTS
from bench.task import DataSpec, Released

log = logging.getLogger(__name__)
_LIST_NAMES = (*(name for names in SPLIT_NAMES.values() for name in names), "videos", "list")
_LIST_NAMES += ("annotations", ALL)


def read_videos(data: Path, root: Path | None = None) -> LabelledVideos | None:
    """What a folder or a list says of videos; None if it says nothing. `root`: where the relative
    paths of a list start from. BadData lists all that is wrong.
    """
    if data.is_file() and data.suffix.lower() not in LISTS:
        return None
    if data.is_dir() and (any(data.glob("*.tar")) or (data / RECEIPTS).is_dir()):
        return None  # shards that are not complete
    wrong = Mistaken(data)
    lists = [data] if data.is_file() else _lists_in(data)
    beside = data.parent if data.is_file() else data
    items: Sequence[LabelledItem]
    if lists:
        items = read_lists(lists, wrong, root)
        log.info("labels of %s", ", ".join(map(str, lists)))
    else:
        read = read_folder(data, wrong)
        if read is None:
            return None
        beside, items = read
    names, subsets = names_beside(beside, wrong), subsets_beside(beside, wrong)
    return collect(_name_of(data), items, names, subsets, wrong)


def _name_of(data: Path) -> str:
    """Tells one data set from another in tables."""
    path = data.absolute()
    return f"videos/{f'{path.parent.name}/' if data.is_file() else ''}{path.name}"


def _lists_in(folder: Path) -> list[Path]:
    return [
        path
        for path in sorted(folder.iterdir())
        if path.suffix.lower() in LISTS and path.stem.lower() in _LIST_NAMES and path.is_file()
    ]


def released(videos: LabelledVideos, data: Path) -> Released:
    """For evaluations. BadData: listed videos that are not there."""
    videos.require_all(data)
    spec = DataSpec(
        name=videos.name,
        media="video",
        classes=videos.classes,
        subsets=videos.subsets,
        splits=videos.splits,
    )
    counts = ", ".join(f"{split} {len(files):,}" for split, files in videos.files.items())
    log.info("%s: %d classes, %s, read where they lie", data, len(videos.classes), counts)
    return Released(spec, videos.held_out, partial(FileSamples, videos))
