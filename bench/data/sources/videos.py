"""Any labelled videos: UCF101, HMDB51, Kinetics, Jester, Mimetics, SCUBA and SCUFO, HAT, your own.

    python -m bench.evaluate video.shuffle_gap --model MODEL --data DIR_OR_LIST      where they lie
    python -m bench.prepare videos --videos DIR_OR_LIST --out data/videos            as shards, to train on

DIR holds a folder per class, or splits (train, val, test) with class folders in them, or lists of that
name; a list is a csv with a header (columns for path and label, perhaps `split` and `subset`), lines
`path label`, `path,label` or `path;label`, or JSON. Videos are files or folders of numbered frames.
Beside them may lie classes.txt (a name per line: the order of the ids) and subsets.csv
(`class,subset`: temporal, static, any name).

A sweep over shards says how many classes there are: data: {name: videos, classes: 101}.
"""

from __future__ import annotations

import argparse
import logging
from dataclasses import replace
from pathlib import Path
from typing import Self

import numpy as np
import pydantic

from bench.config.seeds import rng
from bench.data.formats.class_folders import LAYOUT as FOLDERS
from bench.data.formats.file_samples import made_by, read_frames
from bench.data.formats.label_file import LISTS
from bench.data.formats.labelled import ALL, LabelledVideos
from bench.data.formats.video_list import FileClip, read_file, safe_key
from bench.data.formats.video_source import (
    VideoConfig,
    VideoSource,
    frame_rule,
    options_of,
    packing_of,
    stored,
)
from bench.data.formats.video_source import add_arguments as add_video_arguments
from bench.data.formats.where_they_lie import read_videos, released
from bench.data.progress import report
from bench.data.shards.read import ShardSamples, read_index
from bench.data.shards.write import Clip, DataSetInfo, FrameRule, Packing, pack
from bench.task import DataSpec, Released

log = logging.getLogger(__name__)
VERSION = 1
ANY_OF_ITS_KIND = True
LAYOUT = (
    f"any labelled videos, as {FOLDERS}; or a list ({', '.join(LISTS)}) of paths and labels, or a "
    "folder of lists train, val, test"
)


class Config(VideoConfig):
    """Which shards, and what they hold: `spec` must know it without them. What else they must be
    like, VideoConfig says.
    """

    folder: str = pydantic.Field(
        default="videos", pattern=r"^[A-Za-z0-9_-][A-Za-z0-9_.-]*$"
    )  # in the data root
    classes: int | None = pydantic.Field(default=None, ge=2)  # how many
    splits: tuple[str, ...] = pydantic.Field(default=("train", "val"), min_length=2)

    @classmethod
    def tiny(cls) -> Self:
        """Two classes."""
        return cls(classes=2)


SOURCE = VideoSource("videos", "labelled videos", VERSION, inputs="--videos DIR")


def spec(config: Config) -> DataSpec:
    """As many classes as the config says; their names and the subsets come with the data."""
    classes = tuple(f"class {i:03d}" for i in range(config.classes or 0))
    return DataSpec(name="videos", media="video", classes=classes, subsets={}, splits=config.splits)


def locate(config: Config, data_root: Path) -> Path:
    """The folder of the shards."""
    return data_root / config.folder


def missing(config: Config, data_root: Path) -> str | None:
    """What is missing and the command that makes it, or what the config must say of the shards that
    are there; None if all is well.
    """
    folder = locate(config, data_root)
    if problem := SOURCE.missing(config, folder):
        return problem
    index = read_index(folder)
    wrong = []
    if (found := len(index["classes"])) != config.classes:
        wrong.append(f"{found} classes: --set data.classes={found}")
    if absent := [split for split in config.splits if split not in index["splits"]]:
        wrong.append(
            f"the splits {', '.join(index['splits'])} and no {', '.join(absent)}: "
            "--set 'data.splits=[TRAINING, VALIDATION]', or make them with "
            "python -m bench.prepare videos --hold-out 0.2"
        )
    return f"the shards in {folder} have {'; and '.join(wrong)}" if wrong else None


def open(config: Config, data_root: Path, split: str) -> ShardSamples:
    """Random access to a split; ValueError with the remedy if the shards are absent or others
    than asked for.
    """
    if problem := missing(config, data_root):
        raise ValueError(problem)
    return SOURCE.open(config, locate(config, data_root), split)


# -- where they lie ---


def as_released(folder: Path) -> Released | None:
    """Labelled videos in a folder, or those that a list names; None if there are none. BadData
    lists all that is wrong with the labels, and listed videos that are not there.
    """
    videos = read_videos(folder)
    if videos is None:
        return None
    return released(videos, folder)


# -- shards ---


def for_training(videos: LabelledVideos, hold_out: float | None = None) -> LabelledVideos:
    """With a split `val`: of each class so large a share of the training (or unsplit) videos, drawn by
    class and key alone; else, where there is a test split only, that one, as training expects.
    ValueError: both are asked for.
    """
    files = dict(videos.files)
    if hold_out is None:
        if "train" in files and "val" not in files and "test" in files:
            log.info("the split test is called val: there is no other one to validate on")
            files = {"train": files["train"], "val": files["test"]}
        return replace(videos, files=files)
    if "val" in files:
        raise ValueError("--hold-out makes a split val, and there is one already; leave it out")
    given = files.pop("train", ()) + files.pop(ALL, ())
    kept, held = [], []
    for label, name in enumerate(videos.classes):
        of_class = sorted(file for file in given if file.label == label)
        order = rng("hold out", name).permutation(len(of_class))
        count = round(hold_out * len(of_class))
        held += [of_class[i] for i in order[:count]]
        kept += [of_class[i] for i in order[count:]]
    if not kept or not held:
        raise ValueError(f"--hold-out {hold_out:g} of {len(given)} videos leaves a split empty")
    return replace(videos, files={"train": tuple(kept), "val": tuple(held), **files})


def convert(config: Config, videos: LabelledVideos, out: Path, packing: Packing) -> Path:
    """Labelled videos -> shards in `out`. ValueError for wrong use, BadData for data that fail."""
    rule = frame_rule(config)
    maker = made_by(videos, rule.decoder)
    info = DataSetInfo("videos", VERSION, stored(config), videos.classes, videos.subsets, maker)
    return pack(out, _clips(videos, rule), read_video, info, rule, packing)


def _clips(videos: LabelledVideos, rule: FrameRule) -> dict[str, list[FileClip]]:
    clips: dict[str, list[FileClip]] = {split: [] for split in videos.files}
    for split, files in videos.files.items():
        for key, label, path in files:
            if rule.storage == "video" and path.is_dir():
                raise ValueError(
                    f"{path} is a folder of frames, which no file can keep: add --store jpeg or "
                    "--store raw"
                )
            meta = {"class": videos.classes[label], "file": str(path.relative_to(videos.root))}
            clips[split].append(FileClip(key, label, meta, file=path))
    for item in videos.missing:  # a part of the plan; listed as failed
        label = videos.number_of(item.label)
        said = {"class": videos.classes[label], "file": item.listed, "missing": True}
        clips.setdefault(item.split, []).append(FileClip(safe_key(item.listed), label, said))
    return clips


def read_video(split: str, clip: Clip) -> bytes | np.ndarray:
    """The `Read` of `pack`: the bytes of a file, the frames of a folder. ValueError."""
    assert isinstance(clip, FileClip)
    if clip.file is not None and clip.file.is_dir():
        return read_frames(clip.file)
    return read_file(split, clip)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `python -m bench.prepare videos`."""
    add_video_arguments(
        parser,
        videos="the folder of the class folders or of the lists, or a list",
        annotations="a list that lies elsewhere; its paths start from the folder of --videos",
    )
    parser.add_argument(
        "--hold-out",
        type=_share,
        metavar="SHARE",
        help="where there is no split `val`: make it of so much of each class (0.2: a fifth)",
    )


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = 0.0
    if not 0 < share < 1:
        raise argparse.ArgumentTypeError(f"must lie between 0 and 1, got {text!r}")
    return share


def run(args: argparse.Namespace) -> Path:
    """What `python -m bench.prepare videos` does."""
    data = _given(args)
    root = args.videos[0] if args.annotations else None
    videos = read_videos(data, root)
    if videos is None:
        raise ValueError(f"{data} holds no labelled videos. Looked for: {LAYOUT}")
    videos.require_all(data, allowed=args.allow_missing)
    config = Config(**options_of(args))
    with report("converting videos") as progress:
        return convert(
            config,
            for_training(videos, args.hold_out),
            args.out,
            packing_of(args, progress),
        )


def _given(args: argparse.Namespace) -> Path:
    """What to read. ValueError: all that is wrong with the options."""
    folders: list[Path] = args.videos or []
    wrong = []
    if len(folders) != 1:
        wrong.append("--videos takes one folder or list" + ("" if folders else ", it is not given"))
    wrong += [f"there is no {path} (--videos)" for path in folders if not path.exists()]
    if args.annotations and not args.annotations.is_file():
        wrong.append(f"there is no file {args.annotations} (--annotations)")
    if args.allow_missing < 0:
        wrong.append(f"--allow-missing must be at least 0, got {args.allow_missing}")
    if wrong:
        raise ValueError("; ".join(wrong))
    given: Path = args.annotations or folders[0]
    return given
