"""Something-Something-v2 as it lies on disk: JSON annotations in both naming schemes, one WebM
file per clip.

Shared by the real data set (`sources/ssv2.py`) and the built-in one (`sources/mini_ssv2.py`),
which thereby runs through the same conversion.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.data.pack import SHOWN, Clip, DataSetInfo, FrameRule, Progress, pack, write_atomically

VIDEO_FOLDER = "20bn-something-something-v2"
SCHEMES = ("something-something-v2-{}.json", "{}.json")
"""File names of the first release (20bn) and of the present one (Qualcomm)."""
FILE_OF_SPLIT = {"train": "train", "val": "validation", "val_unbiased": "validation_unbiased"}
_KEY = re.compile(r"[A-Za-z0-9_-]+")


@dataclass(frozen=True)
class Annotations:
    """`classes` in the order of their ids, `clips` per split."""

    classes: tuple[str, ...]
    clips: Mapping[str, tuple[Clip, ...]]


@dataclass(frozen=True)
class VideoFolder:
    """Reads `<id>.webm`; pickles into the workers of `pack`."""

    folder: Path

    def path(self, key: str) -> Path:
        return self.folder / f"{key}.webm"

    def __call__(self, split: str, clip: Clip) -> bytes:
        return self.path(clip.key).read_bytes()


def read_annotations(folder: Path, splits: Sequence[str] = ("train", "val")) -> Annotations:
    """Read labels and the given splits; ValueError lists every missing file or the unknown
    templates.
    """
    names = ["labels", *(FILE_OF_SPLIT[split] for split in splits)]
    paths = {name: _find(folder, name) for name in names}
    if missing := [name for name, path in paths.items() if path is None]:
        wanted = ", ".join(
            " or ".join(scheme.format(name) for scheme in SCHEMES) for name in missing
        )
        raise ValueError(f"the annotations in {folder} are incomplete, missing: {wanted}")
    labels = {name: int(number) for name, number in _load(paths["labels"]).items()}
    if sorted(labels.values()) != list(range(len(labels))):
        raise ValueError(f"{paths['labels']}: the ids are not 0 .. {len(labels) - 1}")
    classes = tuple(sorted(labels, key=labels.__getitem__))
    clips = {split: _clips(paths[FILE_OF_SPLIT[split]], labels) for split in splits}
    keys = [clip.key for part in clips.values() for clip in part]
    if len(set(keys)) != len(keys):
        raise ValueError(f"the annotations in {folder} name a video twice")
    return Annotations(classes, clips)


def _find(folder: Path, name: str) -> Path | None:
    candidates = [
        where / scheme.format(name) for where in (folder, folder / "labels") for scheme in SCHEMES
    ]
    return next((path for path in candidates if path.is_file()), None)


def _load(path: Path | None) -> Any:
    assert path is not None
    try:
        return json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error


def _clips(path: Path | None, labels: Mapping[str, int]) -> tuple[Clip, ...]:
    clips, unknown = [], []
    for item in _load(path):
        name = item["template"].replace("[", "").replace("]", "")
        if name not in labels:
            unknown.append(name)
        elif not _KEY.fullmatch(item["id"]):
            raise ValueError(f"{path}: the id {item['id']!r} is not a plain file name")
        else:
            meta = {
                k: v for k, v in item.items() if k != "label"
            }  # `label` in the shards is the class id,
            clips.append(Clip(item["id"], labels[name], {**meta, "caption": item.get("label", "")}))
    if unknown:
        listed = "; ".join(sorted(set(unknown))[:SHOWN])
        raise ValueError(
            f"{path}: {len(unknown)} clips have a template that labels.json does not know: {listed}"
        )
    return tuple(clips)


def write_annotations(
    folder: Path, classes: Sequence[str], items: Mapping[str, Sequence[Mapping[str, Any]]]
) -> None:
    """The inverse of `read_annotations`, in the present scheme: labels.json and one file per
    split.
    """
    folder.mkdir(parents=True, exist_ok=True)
    labels = {name: str(number) for number, name in enumerate(classes)}
    write_atomically(folder / "labels.json", json.dumps(labels, indent=1).encode())
    for split, part in items.items():
        write_atomically(
            folder / f"{FILE_OF_SPLIT[split]}.json", json.dumps(list(part), indent=1).encode()
        )


def convert(
    annotations: Annotations,
    videos: VideoFolder,
    out: Path,
    info: DataSetInfo,
    rule: FrameRule,
    *,
    shard_clips: int = 1000,
    workers: int | None = None,
    progress: Progress | None = None,
    allow_failed: bool = False,
    allow_missing: int = 0,
) -> Path:
    """A folder of videos with annotations -> shards. Missing files are reported all at once,
    before any work.
    """
    if not videos.folder.is_dir():
        raise ValueError(f"the video folder {videos.folder} does not exist")
    present = {path.stem for path in videos.folder.iterdir() if path.suffix == ".webm"}
    keys = [clip.key for part in annotations.clips.values() for clip in part]
    if missing := [key for key in keys if key not in present]:
        listed = ", ".join(f"{key}.webm" for key in missing[:SHOWN])
        raise ValueError(
            f"{len(missing)} of {len(keys)} annotated videos are not in {videos.folder}, "
            f"first: {listed}. Are all parts of the download unpacked?"
        )
    return pack(
        out,
        annotations.clips,
        videos,
        info,
        rule,
        shard_clips=shard_clips,
        workers=workers,
        progress=progress,
        allow_failed=allow_failed,
        allow_missing=allow_missing,
    )
