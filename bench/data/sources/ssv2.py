"""Something-Something-v2, the real data set: 174 classes, converted to shards once.

Goyal et al., "The 'something something' video database", ICCV 2017; WebM/VP9 videos.

    python -m bench.prepare ssv2 --videos DIR --annotations DIR --out data/ssv2

The temporal-18 and static-16 subsets are the lists of Sevilla-Lara et al. ("Only Time Can Tell",
WACV 2021) by their official SSv2 ids; conversion verifies that labels.json gives the listed names
at those ids.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from bench.data.formats.ssv2 import annotation_file, classes_beside, read_annotations
from bench.data.formats.video_list import absent_folders
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
from bench.data.formats.where_they_lie import read_videos, released
from bench.data.progress import report
from bench.data.shards.read import BadData, ShardSamples
from bench.data.shards.write import DataSetInfo, Packing
from bench.task import DataSpec, Released

VERSION = 1
LAYOUT = "20bn-something-something-v2 beside labels/validation.json, or that file"
NUM_CLASSES = 174
SPLITS = ("train", "val")

TEMPORAL = {
    0: "Approaching something with your camera",
    6: "Covering something with something",
    27: "Lifting something up completely without letting it drop down",
    28: "Lifting something up completely, then letting it drop down",
    29: "Lifting something with something on it",
    31: "Lifting up one end of something, then letting it drop down",
    32: "Moving away from something with your camera",
    36: "Moving something and something away from each other",
    37: "Moving something and something closer to each other",
    38: "Moving something and something so they collide with each other",
    40: "Moving something away from something",
    41: "Moving something away from the camera",
    42: "Moving something closer to something",
    44: "Moving something towards the camera",
    84: "Pretending to turn something upside down",
    145: "Stuffing something into something",
    164: "Turning something upside down",
    171: "Uncovering something",
}
STATIC = {  # without the two of the printed list that contradict it (19, and 31 which is temporal)
    14: "Folding something",
    18: "Holding something in front of something",
    23: "Letting something roll down a slanted surface",
    30: "Lifting up one end of something without letting it drop down",
    57: "Poking something so that it falls over",
    59: "Pouring something into something",
    83: "Pretending to throw something",
    97: "Pushing something so it spins",
    123: "Scooping something up with something",
    126: "Showing something next to something",
    142: "Sprinkling something onto something",
    143: "Squeezing something",
    160: "Touching (without moving) part of something",
    168: "Turning the camera upwards while filming something",
    169: "Twisting (wringing) something wet until water comes out",
    173: "Wiping something off of something",
}
SUBSETS = {"temporal": tuple(TEMPORAL), "static": tuple(STATIC)}


class Config(VideoConfig):
    """How the shards must hold the videos; by default a run takes them as they were prepared."""


SOURCE = VideoSource(
    "ssv2", "Something-Something-v2", VERSION, inputs="--videos DIR --annotations DIR"
)


def spec(config: Config) -> DataSpec:
    """Known without the data; class names outside the two subsets come with them (index.json)."""
    known = TEMPORAL | STATIC
    classes = tuple(known.get(i, f"class {i:03d}") for i in range(NUM_CLASSES))
    return DataSpec(name="ssv2", media="video", classes=classes, subsets=SUBSETS, splits=SPLITS)


def locate(config: Config, data_root: Path) -> Path:
    """The folder of the shards."""
    return data_root / "ssv2"


def missing(config: Config, data_root: Path) -> str | None:
    """What is missing and the command that makes it; None if the data are there."""
    return SOURCE.missing(config, locate(config, data_root))


def open(config: Config, data_root: Path, split: str) -> ShardSamples:
    """Random access to a split; ValueError with the remedy if the shards are absent or others
    than asked for.
    """
    return SOURCE.open(config, locate(config, data_root), split)


def as_released(folder: Path) -> Released | None:
    """The validation split where it lies, with the two subsets: of its annotation file, or of the
    folder that holds it, or `labels` with it. None: these are other annotations, or none.
    """
    path = annotation_file(folder, "val")
    classes = classes_beside(path) if path else ()
    if path is None or len(classes) != NUM_CLASSES or _wrong_names(classes):
        return None
    videos = read_videos(path)
    assert videos is not None
    (files,) = videos.files.values()
    return released(replace(videos, name="ssv2", subsets=SUBSETS, files={"val": files}), folder)


def _wrong_names(classes: Sequence[str]) -> list[str]:
    return [
        f"{i} is {classes[i] if i < len(classes) else 'absent'!r}, expected {name!r}"
        for i, name in (TEMPORAL | STATIC).items()
        if i >= len(classes) or classes[i] != name
    ]


def convert(
    config: Config,
    *,
    videos: Sequence[Path],
    annotations: Path,
    out: Path,
    packing: Packing,
) -> Path:
    """Videos `<id>.webm` (or .mp4, .avi, .mkv; also in sub-folders) and the JSON annotations, in
    either naming scheme -> shards in `out`. ValueError for wrong use, BadData for data that fail.
    """
    rule = frame_rule(config)
    absent = absent_folders(videos)
    try:
        read = read_annotations(annotations, SPLITS)
    except ValueError as error:
        raise type(error)("; ".join([*absent, str(error)])) from error
    if absent:
        raise ValueError("; ".join(absent))
    wrong = _wrong_names(read.classes)
    if len(read.classes) != NUM_CLASSES or wrong:
        listed = "\n  ".join(wrong[:5])
        raise BadData(
            f"labels.json in {annotations} is not that of Something-Something-v2: "
            f"{len(read.classes)} classes ({NUM_CLASSES} expected), "
            f"{len(wrong)} of the known names differ\n  {listed}"
        )
    info = DataSetInfo("ssv2", VERSION, stored(config), read.classes, SUBSETS)
    return convert_videos(read, videos, out, info, rule, packing)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `python -m bench.prepare ssv2`."""
    add_video_arguments(
        parser,
        videos="folders of <id>.webm (20bn-something-something-v2), or .mp4, .avi, .mkv",
        annotations="folder of labels.json, train.json, ...",
    )


def run(args: argparse.Namespace) -> Path:
    """What `python -m bench.prepare ssv2` does."""
    require_inputs(SOURCE, args)
    config = Config(**options_of(args))
    with report("converting Something-Something-v2") as progress:
        return convert(
            config,
            videos=args.videos,
            annotations=args.annotations,
            out=args.out,
            packing=packing_of(args, progress),
        )
