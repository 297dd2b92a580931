"""What the sources of real videos share: how shards hold the videos, as options of a Config and of the
command line, and how the shards are found again.

`bench.prepare` chooses how to store; a run takes the shards as they are, unless its config asks for
something in particular.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic

from bench import find
from bench.data.shards.read import INDEX, ShardSamples, open_split, require_source
from bench.data.shards.write import FrameRule, Packing, Progress
from bench.task import Config as BaseConfig

Storage = Literal["video", "jpeg", "raw"]


def _known(decoder: str) -> str:
    find.load("decoder", decoder)
    return decoder


Decoder = Annotated[str, pydantic.AfterValidator(_known)]
"""The name of a file in bench/data/decoders/."""

FIRST_OPTIONS = ("frames", "short_side")
"""Those that every index holds; later ones only where they differ from the default."""
DEFAULTS: Mapping[str, Any] = {
    "frames": "video",
    "short_side": None,
    "quality": 90,
    "decoder": "opencv",
}
"""How `bench.prepare` stores videos when it is not told otherwise."""


class VideoConfig(BaseConfig):
    """How the shards must hold the videos; None takes them as they are. `video` keeps the original
    files, `raw` frames load fastest and are largest, `jpeg` lies between.
    """

    frames: Storage | None = None
    short_side: int | None = pydantic.Field(default=None, ge=1)  # jpeg and raw: pixels
    quality: int | None = pydantic.Field(default=None, ge=1, le=100)  # of jpeg
    decoder: Decoder | None = None
    digest: str | None = None  # pin the data: SHA-256 of the shards' index.json

    @pydantic.model_serializer(mode="wrap")
    def _only_what_is_asked_for(
        self, dump: pydantic.SerializerFunctionWrapHandler, info: pydantic.SerializationInfo
    ) -> dict[str, Any]:
        """None says nothing and is left out, so that a run which was stored when `frames` was
        "video" by default has not drifted; nor is an explicit "video" signed, as it was not then.
        """
        asked = {name: value for name, value in dump(self).items() if value is not None}
        if info.exclude_defaults and asked.get("frames") == DEFAULTS["frames"]:
            del asked["frames"]
        return asked


@dataclass(frozen=True)
class VideoSource:
    """A real data set: its folder, the words of its messages, its shards."""

    name: str  # of the source, with underscores
    title: str  # for messages
    version: int
    inputs: str  # the options of its command that name what is read

    @property
    def command(self) -> str:
        return self.name.replace("_", "-")

    def remedy(self, folder: Path, config: VideoConfig | None = None) -> str:
        """The command that makes the shards (as asked for)."""
        asked = _asked(config) if config else {}
        options = "".join(f" --{_OPTIONS[name]} {value}" for name, value in asked.items())
        return f"Run `python -m bench.prepare {self.command} {self.inputs} --out {folder}{options}`"

    def missing(self, config: VideoConfig, folder: Path) -> str | None:
        """What is missing and the command that makes it; None if the data are there."""
        command = self.remedy(folder, config)
        if not (folder / INDEX).is_file():
            return f"no shards of {self.title} in {folder}. {command}"
        try:
            require_source(
                folder,
                source=self.name,
                version=self.version,
                config=_asked(config),
                remedy=command,
                defaults=DEFAULTS,
            )
        except ValueError as error:
            return f"{self.title} is not usable: {error}"
        return None

    def open(self, config: VideoConfig, folder: Path, split: str) -> ShardSamples:
        """Random access to a split; ValueError with the remedy if the shards are absent or others
        than asked for.
        """
        if problem := self.missing(config, folder):
            raise ValueError(problem)
        samples = open_split(folder, split)
        if config.digest not in (None, samples.digest):
            raise ValueError(
                f"the shards in {samples.folder} have digest {samples.digest}, "
                f"the run asks for {config.digest}"
            )
        return samples


_OPTIONS = {
    "frames": "store",
    "short_side": "short-side",
    "quality": "quality",
    "decoder": "decoder",
}


def _asked(config: VideoConfig) -> dict[str, Any]:
    """Option -> value, of those that are not left open."""
    values = {name: getattr(config, name) for name in _OPTIONS}
    return {name: value for name, value in values.items() if value is not None}


def stored(config: VideoConfig) -> dict[str, Any]:
    """What a new index says of the options: the defaults where `config` leaves them open."""
    chosen = {**DEFAULTS, **_asked(config)}
    return {k: v for k, v in chosen.items() if k in FIRST_OPTIONS or v != DEFAULTS[k]}


def frame_rule(config: VideoConfig) -> FrameRule:
    """How `pack` stores the videos. ValueError: a size or a quality without frames to give it to."""
    chosen = {**DEFAULTS, **_asked(config)}
    storage = chosen["frames"]
    if storage == "video" and chosen["short_side"] is not None:
        raise ValueError(
            "--short-side is for stored frames: add --store jpeg or --store raw "
            "(--store video keeps the original files)"
        )
    if storage != "jpeg" and config.quality is not None:
        raise ValueError(f"--quality is of JPEG files: add --store jpeg (now {storage})")
    return FrameRule(storage, chosen["short_side"], chosen["quality"], chosen["decoder"])


def add_arguments(parser: argparse.ArgumentParser, *, videos: str, annotations: str) -> None:
    """What to read, how to store it, and what may be left out; the two texts are for --help."""
    parser.add_argument("--videos", type=Path, nargs="+", metavar="DIR", help=videos)
    parser.add_argument("--annotations", type=Path, metavar="DIR", help=annotations)
    parser.add_argument(
        "--store",
        dest="frames",
        choices=Storage.__args__,  # type: ignore[attr-defined]
        default=DEFAULTS["frames"],
        help="how shards hold the clips: the original files, or their frames, decoded now, as JPEG "
        "files or uncompressed (default %(default)s)",
    )
    parser.add_argument("--frames", choices=Storage.__args__, help=argparse.SUPPRESS)  # type: ignore[attr-defined]
    parser.add_argument(
        "--short-side",
        type=int,
        metavar="PIXELS",
        help="of stored frames: shrink them to this (default: keep the size)",
    )
    parser.add_argument("--quality", type=int, metavar="1..100", help="of JPEG files (default 90)")
    parser.add_argument(
        "--decoder",
        choices=find.names("decoder"),
        help="what reads the videos (default opencv)",
    )
    parser.add_argument(
        "--allow-missing",
        type=int,
        default=0,
        metavar="N",
        help="leave out up to N listed videos that are not there or do not decode, and list them",
    )
    parser.add_argument(
        "--allow-failed",
        action="store_true",
        help="leave out all videos that do not decode, and list them",
    )


def require_inputs(source: VideoSource, args: argparse.Namespace) -> None:
    """ValueError: there is nothing to read."""
    lacking = [name for name in ("videos", "annotations") if getattr(args, name) is None]
    if lacking:
        raise ValueError(
            f"{source.command} needs --{' and --'.join(lacking)}; "
            f"see `python -m bench.prepare {source.command} --help`"
        )
    if args.allow_missing < 0:
        raise ValueError(f"--allow-missing must be at least 0, got {args.allow_missing}")


def packing_of(args: argparse.Namespace, progress: Progress) -> Packing:
    """What the command line says of the work and of what may be left out."""
    return Packing(
        workers=args.workers,
        progress=progress,
        allow_failed=args.allow_failed,
        allow_missing=args.allow_missing,
    )


def options_of(args: argparse.Namespace) -> dict[str, Any]:
    """The fields of a VideoConfig that the command line gives."""
    return {name: getattr(args, name) for name in _OPTIONS}
