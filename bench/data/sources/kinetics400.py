"""Kinetics-400, the real data set: 400 classes, converted to shards once.

Kay et al., "The Kinetics Human Action Video Dataset", 2017; clips of ten seconds from YouTube.

    python -m bench.prepare kinetics400 --videos DIR --annotations DIR --out data/kinetics400

DIR of --annotations holds the released train.csv and validate.csv (or val.csv), or lists
`path label` as TimeSformer and SlowFast read them. Clips, `<id>_<start>_<end>.mp4`, may lie flat, in
a folder per class or split, or both. Most surviving copies lack videos: `--allow-missing N`.

The temporal-32 and static-32 subsets are the lists of Sevilla-Lara et al. ("Only Time Can Tell",
WACV 2021), by name. Ids are the alphabetical order of the names, or the numbers of a list: known
with the data, as the names of the other classes are.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from bench.data.formats.video_list import (
    Entry,
    VideoList,
    read_class_names,
    read_paths,
    with_classes,
)
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
from bench.data.shards.write import SHOWN, DataSetInfo, Packing
from bench.task import DataSpec, Released

VERSION = 1
LAYOUT = "a folder per class, all 400 of them, perhaps in train and val"
NUM_CLASSES = 400
SPLITS = ("train", "val")
LISTS = {
    "train": ("train",),
    "val": ("validate", "val", "validation"),
    "test": ("test",),
}
"""The names of a split's list, .csv or .txt; the release has the first ones."""
_COLUMNS = ("label", "youtube_id", "time_start", "time_end")

TEMPORAL = (
    "bouncing on trampoline",
    "breakdancing",
    "busking",
    "cartwheeling",
    "cleaning shoes",
    "country line dancing",
    "drop kicking",
    "gymnastics tumbling",
    "hammer throw",
    "high kick",
    "jumpstyle dancing",
    "kitesurfing",
    "parasailing",
    "playing cards",
    "playing cymbals",
    "playing drums",
    "playing ice hockey",
    "robot dancing",
    "shining shoes",
    "shuffling cards",
    "side kick",
    "ski jumping",
    "skiing (not slalom or crosscountry)",
    "skiing crosscountry",
    "skiing slalom",
    "snowboarding",
    "somersaulting",
    "tap dancing",
    "throwing ball",
    "throwing discus",
    "vault",
    "wrestling",
)
STATIC = (
    "belly dancing",
    "bending back",
    "blasting sand",
    "blowing nose",
    "changing wheel",
    "clapping",
    "curling hair",
    "deadlifting",
    "dining",
    "doing aerobics",
    "dribbling basketball",
    "eating doughnuts",
    "filling eyebrows",
    "getting a tattoo",
    "laying bricks",
    "long jump",
    "lunge",
    "making bed",
    "moving furniture",
    "mowing lawn",
    "peeling apples",
    "playing badminton",
    "playing controller",
    "playing cricket",
    "pull ups",
    "riding camel",
    "shot put",
    "testifying",
    "trimming trees",
    "waxing eyebrows",
    "yawning",
    "yoga",
)


class Config(VideoConfig):
    """How the shards must hold the videos; by default a run takes them as they were prepared."""


SOURCE = VideoSource("kinetics400", "Kinetics-400", VERSION, "--videos DIR --annotations DIR")


def spec(config: Config) -> DataSpec:
    """Known without the data; the names of the classes and the subsets come with them."""
    classes = tuple(f"class {i:03d}" for i in range(NUM_CLASSES))
    return DataSpec(name="kinetics400", media="video", classes=classes, subsets={}, splits=SPLITS)


def locate(config: Config, data_root: Path) -> Path:
    """The folder of the shards."""
    return data_root / "kinetics400"


def missing(config: Config, data_root: Path) -> str | None:
    """What is missing and the command that makes it; None if the data are there."""
    return SOURCE.missing(config, locate(config, data_root))


def open(config: Config, data_root: Path, split: str) -> ShardSamples:
    """Random access to a split; ValueError with the remedy if the shards are absent or others
    than asked for.
    """
    return SOURCE.open(config, locate(config, data_root), split)


def as_released(folder: Path) -> Released | None:
    """Class folders where they lie, with the two subsets, if they are the 400 of Kinetics, named with
    spaces or with underscores.
    """
    if not any((folder / s / c).is_dir() for s in (".", *SPLITS) for c in ("yoga", "vault")):
        return None
    videos = read_videos(folder)
    names = tuple(name.replace("_", " ") for name in videos.classes) if videos else ()
    if videos is None or len(names) != NUM_CLASSES or not {*TEMPORAL, *STATIC} <= {*names}:
        return None
    subsets = {subset: tuple(ids) for subset, ids in subsets_of(names).items()}
    return released(replace(videos, name="kinetics400", classes=names, subsets=subsets), folder)


# -- annotations ---


def read_annotations(
    folder: Path, splits: Sequence[str] = SPLITS, classes: Path | None = None
) -> VideoList:
    """The lists of these splits. ValueError: lists that are not there; BadData: they are not
    those of Kinetics-400.
    """
    paths = {split: _list_of(folder, split) for split in splits}
    if absent := [split for split, path in paths.items() if path is None]:
        wanted = ", ".join(" or ".join(f"{name}.csv" for name in LISTS[s]) for s in absent)
        raise ValueError(f"the annotations in {folder} are incomplete, missing: {wanted}")
    entries = [entry for split, path in paths.items() if path for entry in _entries(path, split)]
    names = read_class_names(classes) if classes else None
    videos = _with_spaces(with_classes(entries, names))
    _require_kinetics(videos)
    return videos


def _list_of(folder: Path, split: str) -> Path | None:
    names = [f"{name}{end}" for name in LISTS[split] for end in (".csv", ".txt")]
    return next((folder / name for name in names if (folder / name).is_file()), None)


def _entries(path: Path, split: str) -> Iterator[Entry]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        header = next(csv.reader(file), [])
        if "youtube_id" not in header:
            yield from read_paths(path, split)
            return
        if lacking := [name for name in _COLUMNS if name not in header]:
            raise BadData(f"{path} has no column {', '.join(lacking)}; it has {', '.join(header)}")
        for row in csv.DictReader(file, header):
            yield _entry(path, split, row)


def _entry(path: Path, split: str, row: dict[str, str]) -> Entry:
    try:
        start, end = (round(float(row[name])) for name in ("time_start", "time_end"))
    except (TypeError, ValueError) as error:
        raise BadData(f"{path}: the times of {row['youtube_id']!r} are not seconds") from error
    key = f"{row['youtube_id']}_{start:06d}_{end:06d}"
    folder = row["label"].replace(" ", "_")
    meta = {"youtube_id": row["youtube_id"], "time_start": start, "time_end": end}
    return Entry(key, f"{split}/{folder}/{key}", row["label"], split, str(path), meta)


def _with_spaces(videos: VideoList) -> VideoList:
    """Names as released, where they were those of folders."""
    names = {name: name.replace("_", " ") for name in videos.classes}
    entries = tuple(
        replace(e, label=names[e.label], meta={**e.meta, "class": names[e.label]})
        for e in videos.entries
    )
    return VideoList(tuple(names.values()), entries)


def _require_kinetics(videos: VideoList) -> None:
    wrong = []
    if len(videos.classes) != NUM_CLASSES:
        wrong.append(f"{len(videos.classes)} classes instead of {NUM_CLASSES}")
    trained = {entry.label for entry in videos.entries if entry.split == "train"}
    if untrained := sorted(set(videos.classes) - trained):
        wrong.append(f"{len(untrained)} classes are not in the training list, {_few(untrained)}")
    if absent := [name for name in (*TEMPORAL, *STATIC) if name not in videos.classes]:
        wrong.append(
            f"{len(absent)} of the 64 temporal and static classes are not among them, "
            f"{_few(absent)}"
        )
    if wrong:
        lists = ", ".join(dict.fromkeys(entry.listed_in for entry in videos.entries))
        raise BadData(f"{lists}: not the lists of Kinetics-400:\n  " + "\n  ".join(wrong))


def _few(names: Sequence[str]) -> str:
    return f"first: {', '.join(names[:SHOWN])}"


# -- shards ---


def subsets_of(classes: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """The ids of the temporal and the static classes, given the names of all."""
    number = {name: i for i, name in enumerate(classes)}
    lists = {"temporal": TEMPORAL, "static": STATIC}
    return {
        subset: tuple(sorted(number[name] for name in names if name in number))
        for subset, names in lists.items()
    }


def convert(
    config: Config,
    *,
    videos: Sequence[Path],
    annotations: Path,
    out: Path,
    packing: Packing,
    splits: Sequence[str] = SPLITS,
    classes: Path | None = None,
) -> Path:
    """Clips and lists -> shards in `out`. ValueError for wrong use, BadData for data that fail."""
    rule = frame_rule(config)
    read = read_annotations(annotations, splits, classes)
    subsets = subsets_of(read.classes)
    info = DataSetInfo("kinetics400", VERSION, stored(config), read.classes, subsets)
    return convert_videos(read, videos, out, info, rule, packing)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `python -m bench.prepare kinetics400`."""
    add_video_arguments(
        parser,
        videos="folders of <id>_<start>_<end>.mp4, with or without a folder per split or class",
        annotations="folder of train.csv and validate.csv, or of lists `path label`",
    )
    parser.add_argument(
        "--splits",
        nargs="+",
        choices=tuple(LISTS),
        default=list(SPLITS),
        help="what to convert; training needs train and val (default), bench.evaluate also reads "
        "test",
        metavar="SPLIT",
    )
    parser.add_argument(
        "--classes",
        type=Path,
        metavar="FILE",
        help="names of the classes by id, for lists whose labels are numbers: a name per line, "
        "`id,name`, or JSON {name: id}",
    )


def run(args: argparse.Namespace) -> Path:
    """What `python -m bench.prepare kinetics400` does."""
    require_inputs(SOURCE, args)
    if lacking := [split for split in SPLITS if split not in args.splits]:
        raise ValueError(f"--splits must hold train and val, it lacks {', '.join(lacking)}")
    splits = [split for split in LISTS if split in args.splits]  # the training split comes first
    config = Config(**options_of(args))
    with report("converting Kinetics-400") as progress:
        return convert(
            config,
            videos=args.videos,
            annotations=args.annotations,
            out=args.out,
            splits=splits,
            classes=args.classes,
            packing=packing_of(args, progress),
        )
