"""Mini-ImageNet-9, the built-in image data set: the nine classes, made on first use, no download.

Drawn cut-outs of the nine classes of ImageNet-9 in front of views of real panoramic photographs
(`bench.data.builtin.pictures`). Each class is at home in two of the 18 panoramas and appears there with
probability rho, the shortcut; the eight test variants keep, remove or exchange the backgrounds by
the rules of the release. Test images show drawings and views that training never shows; `val` is
made like `train`. It is not ImageNet-9: numbers are not comparable with published ones.

The pictures are first written as the release and the training archives lie on disk (JPEG files by
class, masks as .npy files) and then converted by the code that converts the real ones. Two things
are there that the real archives lack: the masks of training images, and `clean_bg`, the scene
without its object, which only a generator knows.
"""

from __future__ import annotations

import argparse
import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Literal, Self

import pydantic

from bench.data import imagenet9
from bench.data.builtin import pictures
from bench.data.builtin import source as builtin
from bench.data.formats.imagenet9 import SPLITS, TEST_FOLDER, convert, plan_of
from bench.data.image import DECODER
from bench.data.imagenet9 import CLASSES, FG_MASK
from bench.data.progress import report
from bench.data.shards.read import INDEX, ShardSamples, open_split, require_source
from bench.data.shards.write import DataSetInfo, FrameRule, Packing, Progress, start_worker
from bench.process.machine import available_cores
from bench.store.files import lock
from bench.task import Config as BaseConfig
from bench.task import DataSpec

VERSION = 1
LAYERS = pictures.LAYERS
TRAIN_FOLDER = "train"
_PARALLEL_FROM = 400  # pictures; fewer are done before worker processes have started
_CHUNK = 25


class Config(BaseConfig):
    """What is generated. Everything but `frames` changes what the pictures show.

    A model that is to be fine-tuned on mini_ssv2 is trained with `exclude: mini_ssv2`: else it has seen the
    concepts that mini_ssv2 keeps for `tune` and `test`, since here drawings are held out, not concepts.
    """

    train: int = pydantic.Field(default=2700, ge=9)  # images; the classes take turns
    val: int = pydantic.Field(default=270, ge=9)
    test: int = pydantic.Field(default=450, ge=18)  # in each of the eight variants
    size: int = pydantic.Field(default=48, ge=16, le=128)  # pixels, of both sides
    rho: float = pydantic.Field(default=0.7, ge=0, le=1)  # probability of a class's home scenes
    seed: builtin.Seed = 0
    frames: Literal["raw", "file"] = "raw"  # what shards store: pixels, or the JPEG files
    # whose held-out concepts `train` and `val` do not show
    exclude: Literal["mini_ssv2"] | None = None

    @classmethod
    def tiny(cls) -> Self:
        """Small, and through the real data set's whole pipeline: JPEG files, masks, conversion."""
        return cls(train=18, val=9, test=18, size=24)

    @property
    def rule(self) -> pictures.PictureRule:
        return pictures.PictureRule(builtin.seed_of(self), self.size, self.rho, self.exclude)

    def count(self, split: str) -> int:
        """Pictures that are drawn for train, val or test."""
        return int(getattr(self, split))


LATER = ("exclude",)
DEFAULTS = Config().model_dump(include=set(LATER))


def spec(config: Config) -> DataSpec:
    """The nine classes; `val`, then the variants, are what can be evaluated."""
    return DataSpec(
        name="mini_imagenet9",
        media="image",
        classes=CLASSES,
        subsets={},
        splits=SPLITS,
        mean=imagenet9.MEAN,
        std=imagenet9.STD,
        layers={"train": LAYERS, "val": LAYERS, "original": (FG_MASK,)},
    )


def locate(config: Config, data_root: Path) -> Path:
    """The cached folder of this configuration."""
    return data_root / builtin.folder_name("mini-imagenet9", VERSION, config, LATER)


def missing(config: Config, data_root: Path) -> str | None:
    """Never anything: `prepare` makes the data."""
    return None


def prepare(config: Config, data_root: Path, *, workers: int | None = None) -> Path:
    """The shard folder, generated on first use. Safe to call from several processes at once;
    continues after a kill.
    """
    folder = locate(config, data_root)
    if (folder / INDEX).is_file():
        return folder
    alone = lock(data_root / f".{folder.name}.lock")
    with alone, report("generating Mini-ImageNet-9") as progress:
        return build(config, folder, workers=workers, progress=progress)


def needed(config: Config, data_root: Path) -> int:
    """About the bytes that `prepare` would write, by what files of other sizes came to."""
    if (locate(config, data_root) / INDEX).is_file():
        return 0
    drawn, pixels = config.train + config.val, 3 * config.size**2
    files = config.size * (330 * drawn + 450 * config.test)
    raw = 7 * (pixels + 256) * drawn + 8 * (pixels + 2000) * config.test
    return files + (raw if config.frames == "raw" else files * 3 // 2)


def open(config: Config, data_root: Path, split: str) -> ShardSamples:
    """Random access to a split of prepared data."""
    folder = locate(config, data_root)
    if not (folder / INDEX).is_file():
        raise ValueError(f"Mini-ImageNet-9 is not in {folder}. {remedy(config, folder)}")
    require_source(
        folder,
        source="mini_imagenet9",
        version=VERSION,
        config=config.model_dump(),
        remedy=remedy(config, folder),
        defaults=DEFAULTS,
    )
    return open_split(folder, split)


def remedy(config: Config, folder: Path) -> str:
    """The command that generates this configuration."""
    return builtin.remedy("mini-imagenet9", config, folder)


def build(
    config: Config, out: Path, *, workers: int | None = None, progress: Progress | None = None
) -> Path:
    """Generate the data set into `out`; nothing happens if it is already there."""
    if (out / INDEX).is_file():
        require_source(
            out,
            source="mini_imagenet9",
            version=VERSION,
            config=config.model_dump(),
            remedy="Choose another --out",
            defaults=DEFAULTS,
        )
        return out
    few = sum(map(config.count, pictures.SPLITS)) < _PARALLEL_FROM
    workers = workers or (1 if few else available_cores())
    write_tree(config, out, workers=workers, progress=progress)
    plan = plan_of(
        out / TRAIN_FOLDER,
        out / TEST_FOLDER,
        train_set="original",
        layers=LAYERS,
        unpaired="refuse",
    )
    stored = builtin.stored(config, LATER)
    info = DataSetInfo("mini_imagenet9", VERSION, stored, CLASSES, {}, DECODER, "image")
    rule = FrameRule("image" if config.frames == "file" else "raw")
    return convert(plan, out, info, rule, Packing(workers=workers, progress=progress))


def write_tree(
    config: Config, out: Path, *, workers: int = 1, progress: Progress | None = None
) -> None:
    """Write the pictures as the training archives (`train/`) and the release (`bg_challenge/`) lie
    on disk; pictures that are there already are kept.
    """
    folders = {
        **dict.fromkeys(("train", "val"), out / TRAIN_FOLDER),
        "test": out / TEST_FOLDER,
    }
    counts = {split: config.count(split) for split in pictures.SPLITS}
    tree = pictures.Tree(config.rule, counts, {s: str(path) for s, path in folders.items()})
    tree.make_folders()
    chunks = [
        (tree, split, range(start, min(start + _CHUNK, count)))
        for split, count in counts.items()
        for start in range(0, count, _CHUNK)
    ]
    done = 0
    for written in _run(chunks, workers):
        done += written
        if progress:
            progress(done, sum(counts.values()))


def _run(chunks: list[tuple[pictures.Tree, str, range]], workers: int) -> Iterator[int]:
    if workers <= 1:
        yield from map(pictures.write_chunk, chunks)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, initializer=start_worker) as pool:
        yield from pool.map(pictures.write_chunk, chunks)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `python -m bench.prepare mini-imagenet9`: the fields of Config."""
    builtin.add_arguments(parser, Config)


def run(args: argparse.Namespace) -> Path:
    """What `python -m bench.prepare mini-imagenet9` does."""
    config = Config(**{name: getattr(args, name) for name in Config.model_fields})
    alone = lock(args.out.with_name(f".{args.out.name}.lock"))
    with alone, report("generating Mini-ImageNet-9") as progress:
        return build(config, args.out, workers=args.workers, progress=progress)
