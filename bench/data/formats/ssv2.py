"""Something-Something-v2 as it lies on disk: JSON annotations in both naming schemes, one video file
per clip.

Shared by the real data set (`sources/ssv2.py`) and the built-in one (`sources/mini_ssv2.py`),
which thereby runs through the same conversion (`video_list`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.data.formats.video_list import Entry, VideoList, read_json
from bench.data.shards.read import BadData
from bench.data.shards.write import SHOWN
from bench.store.files import write_bytes

VIDEO_FOLDER = "20bn-something-something-v2"
SCHEMES = ("something-something-v2-{}.json", "{}.json")
"""File names of the first release (20bn) and of the present one (Qualcomm)."""
FILE_OF_SPLIT = {
    "train": "train",
    "val": "validation",
    # the built-in data's: the real test file has no labels
    "tune": "validation",
    "test": "test",
    "test_unbiased": "test_unbiased",
    "test_hard": "test_hard",
    "test_seed": "test_seed",
}


def read_annotations(folder: Path, splits: Sequence[str] = ("train", "val")) -> VideoList:
    """Read labels and the given splits. ValueError lists every missing file; BadData the unknown
    templates, ids that are listed twice and the like.
    """
    names = ["labels", *(FILE_OF_SPLIT[split] for split in splits)]
    paths = {name: _find(folder, name) for name in names}
    if missing := [name for name, path in paths.items() if path is None]:
        wanted = ", ".join(
            " or ".join(scheme.format(name) for scheme in SCHEMES) for name in missing
        )
        raise ValueError(f"the annotations in {folder} are incomplete, missing: {wanted}")
    labels = _labels(paths["labels"])
    entries = [e for split in splits for e in _entries(paths[FILE_OF_SPLIT[split]], split, labels)]
    return VideoList(tuple(sorted(labels, key=labels.__getitem__)), tuple(entries))


def annotation_file(data: Path, split: str) -> Path | None:
    """The JSON file of a split, in this folder or its `labels`; or `data` itself if it is that."""
    name = FILE_OF_SPLIT[split]
    if data.is_file():
        return data if data.name in {scheme.format(name) for scheme in SCHEMES} else None
    return _find(data, name)


def classes_beside(path: Path) -> tuple[str, ...]:
    """The classes by id, of the labels.json in the folder of an annotation file; none if there is
    none, or it is something else.
    """
    labels = _find(path.parent, "labels")
    try:
        ids = _labels(labels) if labels else {}
    except ValueError:
        return ()
    return tuple(sorted(ids, key=ids.__getitem__))


def _find(folder: Path, name: str) -> Path | None:
    candidates = [
        where / scheme.format(name) for where in (folder, folder / "labels") for scheme in SCHEMES
    ]
    return next((path for path in candidates if path.is_file()), None)


def _labels(path: Path | None) -> dict[str, int]:
    raw = read_json(path, dict)
    ids = {name: int(number) for name, number in raw.items() if str(number).isdecimal()}
    if sorted(ids.values()) != list(range(len(raw))):
        raise BadData(f"{path}: the ids are not 0 .. {len(raw) - 1}")
    return ids


def _entries(path: Path | None, split: str, labels: Mapping[str, int]) -> Iterator[Entry]:
    unknown, incomplete = [], []
    for number, item in enumerate(read_json(path, list)):
        if not isinstance(item, dict) or not {"id", "template"} <= item.keys():
            incomplete.append(number)
            continue
        name = str(item["template"]).replace("[", "").replace("]", "")
        if name not in labels:
            unknown.append(name)
        # `label` in the shards is the id of the class; in the annotations it is the sentence
        meta = {k: v for k, v in item.items() if k != "label"} | {"caption": item.get("label", "")}
        yield Entry(str(item["id"]), str(item["id"]), name, split, str(path), meta)
    if incomplete:
        raise BadData(
            f"{path}: {len(incomplete)} items lack `id` or `template`, first: item {incomplete[0]}"
        )
    if unknown:
        listed = "; ".join(sorted(set(unknown))[:SHOWN])
        raise BadData(
            f"{path}: {len(unknown)} clips have a template that labels.json does not know: {listed}"
        )


def write_annotations(
    folder: Path, classes: Sequence[str], items: Mapping[str, Sequence[Mapping[str, Any]]]
) -> None:
    """The inverse of `read_annotations`, in the present scheme: labels.json and one file per
    split.
    """
    folder.mkdir(parents=True, exist_ok=True)
    labels = {name: str(number) for number, name in enumerate(classes)}
    write_bytes(folder / "labels.json", json.dumps(labels, indent=1).encode())
    for split, part in items.items():
        write_bytes(
            folder / f"{FILE_OF_SPLIT[split]}.json", json.dumps(list(part), indent=1).encode()
        )
