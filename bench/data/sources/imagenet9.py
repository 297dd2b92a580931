"""ImageNet-9, the real data set: nine classes, eight test variants, converted to shards once.

Xiao et al., "Noise or Signal: The Role of Image Backgrounds in Object Recognition", ICLR 2021.

    python -m bench.prepare imagenet9 --train DIR --test DIR --out data/imagenet9

DIR of --train holds the unpacked training archives, `<variant>/{train,val}/<NN_class>/`: `original`
or `in9l` to train on and, paired with it by file stem, what an objective wants beside each image
(`--layers`, by default only_bg_t). DIR of --test is the unpacked release (bg_challenge, or the
folder that holds it). To evaluate a model, bench.evaluate reads the release as it is. `val`,
held-out images made like the training images, serves validation and tuning; test numbers come from
the release.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from bench.data import imagenet9
from bench.data.formats.imagenet9 import RELEASE, SPLITS, TRAIN_SPLITS, plan_of, released_tree
from bench.data.formats.imagenet9 import convert as convert_images
from bench.data.image import DECODER
from bench.data.imagenet9 import CLASSES, DERIVED, FG_MASK
from bench.data.progress import report
from bench.data.shards.read import INDEX, ShardSamples, open_split, read_index, require_source
from bench.data.shards.write import DataSetInfo, FrameRule, Packing
from bench.task import Config as BaseConfig
from bench.task import DataSpec, Released

VERSION = 1
LAYOUT = "the unpacked release, bg_challenge or the folder that holds it"
TrainSet = Literal["original", "in9l", "mixed_same", "mixed_rand", "mixed_next", "only_fg", "no_fg"]
Layer = Literal["only_bg_t", "only_bg_b", "no_fg", "only_fg", "fg_mask"]
DEFAULT_LAYERS: tuple[Layer, ...] = ("only_bg_t",)


class Config(BaseConfig):
    """What the shards hold. `file` keeps the JPEG files, `raw` frames load faster and are larger."""

    train_set: TrainSet = "original"
    layers: tuple[Layer, ...] = DEFAULT_LAYERS  # of training images; shards may hold more
    frames: Literal["file", "raw"] = "file"
    digest: str | None = None  # pin the data: SHA-256 of the shards' index.json


def spec(config: Config) -> DataSpec:
    """Known without the data."""
    return DataSpec(
        name="imagenet9",
        media="image",
        classes=CLASSES,
        subsets={},
        splits=SPLITS,
        mean=imagenet9.MEAN,
        std=imagenet9.STD,
        layers={"train": config.layers, "val": config.layers, "original": (FG_MASK,)},
    )


def locate(config: Config, data_root: Path) -> Path:
    """The folder of the shards, one for each training set."""
    name = "imagenet9" if config.train_set == "original" else f"imagenet9-{config.train_set}"
    return data_root / name


def remedy(config: Config, folder: Path) -> str:
    """The command that makes the shards."""
    options = "" if config.train_set == "original" else f" --train-set {config.train_set}"
    if config.layers != DEFAULT_LAYERS:
        options += f" --layers {' '.join(config.layers)}"
    options += "" if config.frames == "file" else f" --store {config.frames}"
    return f"Run `python -m bench.prepare imagenet9 --train DIR --test DIR --out {folder}{options}`"


def missing(config: Config, data_root: Path) -> str | None:
    """What is missing and the command that makes it; None if the data are there."""
    folder = locate(config, data_root)
    command = remedy(config, folder)
    if not (folder / INDEX).is_file():
        return f"no shards of ImageNet-9 in {folder}. {command}. {RELEASE}"
    try:
        require_source(
            folder, source="imagenet9", version=VERSION, config=_stored(config), remedy=command
        )
        _require_layers(config, folder, read_index(folder).get("layers", {}))
    except ValueError as error:
        return f"ImageNet-9 is not usable: {error}"
    return None


def _require_layers(config: Config, folder: Path, stored: Mapping[str, list[str]]) -> None:
    has = stored.get("train", [])
    if lacking := [name for name in config.layers if name not in has]:
        raise ValueError(
            f"the training images in {folder} have no {', '.join(lacking)} "
            f"(they have {', '.join(has) or 'no layers'}). {remedy(config, folder)}"
        )


def open(config: Config, data_root: Path, split: str) -> ShardSamples:
    """Random access to a split; ValueError with the remedy if the shards are absent or others
    than asked for.
    """
    if problem := missing(config, data_root):
        raise ValueError(problem)
    samples = open_split(locate(config, data_root), split)
    if config.digest not in (None, samples.digest):
        raise ValueError(
            f"the shards in {samples.folder} have digest {samples.digest}, "
            f"the run asks for {config.digest}"
        )
    return samples


def _stored(config: Config) -> dict[str, object]:
    return config.model_dump(exclude={"digest", "layers"})


def as_released(folder: Path) -> Released | None:
    """The release itself (bg_challenge, or the folder that holds it), for evaluations; None if it
    is not there. ValueError lists what is wrong with a variant (or says that these are the training
    archives); variants that are absent are not among the splits.
    """
    tree = released_tree(folder)
    if tree is None:
        return None
    found = DataSpec(
        name="imagenet9",
        media="image",
        classes=CLASSES,
        subsets={},
        splits=tree.splits,
        mean=imagenet9.MEAN,
        std=imagenet9.STD,
        layers={"original": (FG_MASK,)} if tree.masks else {},
    )
    return Released(found, tree.splits, tree.open)


def convert(
    config: Config,
    *,
    train: Path,
    test: Path,
    out: Path,
    packing: Packing,
    unpaired: Literal["refuse", "keep"] = "refuse",
) -> Path:
    """The training archives and the release -> shards in `out`."""
    plan = plan_of(train, test, train_set=config.train_set, layers=config.layers, unpaired=unpaired)
    info = DataSetInfo("imagenet9", VERSION, _stored(config), CLASSES, {}, DECODER, "image")
    rule = FrameRule("image" if config.frames == "file" else "raw")
    return convert_images(plan, out, info, rule, packing)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `python -m bench.prepare imagenet9`."""
    parser.add_argument(
        "--train", type=Path, metavar="DIR", help="folder of the unpacked training archives"
    )
    parser.add_argument(
        "--test", type=Path, metavar="DIR", help="the unpacked release: bg_challenge or its parent"
    )
    parser.add_argument(
        "--train-set",
        choices=TrainSet.__args__,  # type: ignore[attr-defined]
        default="original",
        help="the archive to train on (default original)",
    )
    parser.add_argument(
        "--layers",
        nargs="*",
        choices=Layer.__args__,  # type: ignore[attr-defined]
        default=list(DEFAULT_LAYERS),
        help=f"what to store beside each training image: any of {', '.join((*DERIVED, FG_MASK))} "
        f"(default {' '.join(DEFAULT_LAYERS)}; fg_mask is not in the archives)",
        metavar="LAYER",
    )
    parser.add_argument(
        "--store",
        dest="frames",
        choices=("file", "raw"),
        default="file",
        help="keep the JPEG files, or decode them now",
    )
    parser.add_argument("--frames", choices=("file", "raw"), help=argparse.SUPPRESS)
    parser.add_argument(
        "--allow-unpaired",
        action="store_true",
        help="keep training images for which a layer is missing",
    )
    parser.add_argument(
        "--allow-failed",
        action="store_true",
        help="leave out images that do not decode or whose mask does not fit, and list them",
    )


def run(args: argparse.Namespace) -> Path:
    """What `python -m bench.prepare imagenet9` does."""
    if args.train is None:
        alone = (
            f"; to evaluate a model on {args.test} alone nothing needs to be prepared: "
            f"`python -m bench.evaluate image.background_shift --model MODEL --data {args.test}`"
            if args.test
            else ""
        )
        raise ValueError(
            "imagenet9 needs --train, the folder of the unpacked training archives "
            f"({', '.join(f'{args.train_set}/{s}' for s in TRAIN_SPLITS)})"
            f"{'' if args.test else ' and --test'}{alone}. {RELEASE}"
        )
    if args.test is None:
        raise ValueError(f"imagenet9 needs --test, the unpacked release. {RELEASE}")
    config = Config(train_set=args.train_set, layers=tuple(args.layers), frames=args.frames)
    with report("converting ImageNet-9") as progress:
        return convert(
            config,
            train=args.train,
            test=args.test,
            out=args.out,
            packing=Packing(
                workers=args.workers, progress=progress, allow_failed=args.allow_failed
            ),
            unpaired="keep" if args.allow_unpaired else "refuse",
        )
