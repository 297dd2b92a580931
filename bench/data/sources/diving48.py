"""Diving48 (V2), the real data set: 48 classes of dives, converted to shards once.

Li, Li and Vasconcelos, "RESOUND: Towards Action Recognition without Representation Bias", ECCV 2018;
the second version of its annotations. Scenes are much alike, so there is little else than motion
to go by.

    python -m bench.prepare diving48 --videos DIR --annotations DIR --out data/diving48

DIR of --annotations holds Diving48_V2_train.json, Diving48_V2_test.json and Diving48_vocab.json; the
videos, `<vid_name>.mp4`, lie flat or in `rgb/`. The released test list is the split `val` here:
there is no third one, and what is published is measured on it. A class is called after its take-off,
somersaults, twists and position.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.data.formats.video_list import Entry, VideoList, read_json
from bench.data.formats.video_list import convert as convert_videos
from bench.data.formats.video_source import (
    VideoConfig,
    VideoSource,
    frame_rule,
    options_of,
    packing_of,
    require_inputs,
    stored,
)
from bench.data.formats.video_source import add_arguments as add_video_arguments
from bench.data.progress import report
from bench.data.shards.read import BadData, ShardSamples
from bench.data.shards.write import DataSetInfo, Packing
from bench.task import DataSpec

VERSION = 1
NUM_CLASSES = 48
SPLITS = ("train", "val")
VOCABULARY = "Diving48_vocab.json"
LISTS = {"train": "Diving48_V2_train.json", "val": "Diving48_V2_test.json"}


class Config(VideoConfig):
    """How the shards must hold the videos; by default a run takes them as they were prepared."""


SOURCE = VideoSource("diving48", "Diving48", VERSION, "--videos DIR --annotations DIR")


def spec(config: Config) -> DataSpec:
    """Known without the data; the names of the classes come with them."""
    classes = tuple(f"class {i:02d}" for i in range(NUM_CLASSES))
    return DataSpec(name="diving48", media="video", classes=classes, subsets={}, splits=SPLITS)


def locate(config: Config, data_root: Path) -> Path:
    """The folder of the shards."""
    return data_root / "diving48"


def missing(config: Config, data_root: Path) -> str | None:
    """What is missing and the command that makes it; None if the data are there."""
    return SOURCE.missing(config, locate(config, data_root))


def open(config: Config, data_root: Path, split: str) -> ShardSamples:
    """Random access to a split; ValueError with the remedy if the shards are absent or others
    than asked for.
    """
    return SOURCE.open(config, locate(config, data_root), split)


def read_annotations(folder: Path) -> VideoList:
    """Both lists and the vocabulary. ValueError: files that are not there; BadData: they are not
    those of Diving48.
    """
    if absent := [n for n in (VOCABULARY, *LISTS.values()) if not (folder / n).is_file()]:
        raise ValueError(
            f"the annotations in {folder} are incomplete, missing: {', '.join(absent)} (version 2 "
            "of the annotations; the labels of the first were corrected in it)"
        )
    classes = _classes(folder / VOCABULARY)
    entries = [e for split, name in LISTS.items() for e in _entries(folder / name, split, classes)]
    return VideoList(classes, tuple(entries))


def _classes(path: Path) -> tuple[str, ...]:
    vocabulary = read_json(path, list)
    well_formed = all(isinstance(parts, list) and len(parts) == 4 for parts in vocabulary)
    if len(vocabulary) != NUM_CLASSES or not well_formed:
        raise BadData(f"{path} does not name {NUM_CLASSES} dives by four parts each")
    return tuple(" ".join(map(str, parts)) for parts in vocabulary)


def _entries(path: Path, split: str, classes: Sequence[str]) -> Iterator[Entry]:
    items = read_json(path, list)
    if wrong := [number for number, item in enumerate(items) if not _is_clip(item)]:
        raise BadData(
            f"{path}: {len(wrong)} items lack `vid_name` or a `label` of 0 .. {NUM_CLASSES - 1}, "
            f"first: item {wrong[0]}"
        )
    for item in items:
        name = item["vid_name"]
        label = classes[item["label"]]
        meta = {k: v for k, v in item.items() if k != "label"} | {"class": label}
        yield Entry(name, name, label, split, str(path), meta)


def _is_clip(item: Any) -> bool:
    return (
        isinstance(item, Mapping)
        and isinstance(item.get("vid_name"), str)
        and isinstance(item.get("label"), int)
        and 0 <= item["label"] < NUM_CLASSES
    )


def convert(
    config: Config,
    *,
    videos: Sequence[Path],
    annotations: Path,
    out: Path,
    packing: Packing,
) -> Path:
    """Videos and annotations -> shards in `out`. ValueError for wrong use, BadData for data that
    fail.
    """
    rule = frame_rule(config)
    read = read_annotations(annotations)
    info = DataSetInfo("diving48", VERSION, stored(config), read.classes, {})
    return convert_videos(read, videos, out, info, rule, packing)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `python -m bench.prepare diving48`."""
    add_video_arguments(
        parser,
        videos="folders of <vid_name>.mp4 (rgb), or their parent",
        annotations=f"folder of {', '.join(LISTS.values())} and {VOCABULARY}",
    )


def run(args: argparse.Namespace) -> Path:
    """What `python -m bench.prepare diving48` does."""
    require_inputs(SOURCE, args)
    config = Config(**options_of(args))
    with report("converting Diving48") as progress:
        return convert(
            config,
            videos=args.videos,
            annotations=args.annotations,
            out=args.out,
            packing=packing_of(args, progress),
        )
