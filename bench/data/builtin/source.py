"""What the built-in data sets share: the fields of a Config are the options of the command.

Used by the sources whose data are made on first use.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Any, get_args

import pydantic

from bench.task import Config

Seed = Annotated[int | None, pydantic.Field(ge=0)]
"""The field `seed`. Null is the seed of the run: a sweep then makes data of their own for each seed, and what
varies between seeds has the data in it."""


def seed_of(config: Any) -> int:
    """Raises ValueError for one that no sweep has resolved."""
    if config.seed is None:
        raise ValueError("data.seed: null is the seed of a run, and this is none; give a number")
    return int(config.seed)


def stored(config: Config, later: Collection[str] = ()) -> dict[str, Any]:
    """What index.json says of the options, and what names the folder. Those of `later`, which came
    after the first data were made, only where they differ from their default.
    """
    defaults = type(config)().model_dump()
    return {
        name: value
        for name, value in config.model_dump().items()
        if name not in later or value != defaults[name]
    }


def folder_name(source: str, version: int, config: Config, later: Collection[str] = ()) -> str:
    """The folder of one configuration in the data root, e.g. mini-imagenet9-0123456789ab."""
    content = json.dumps([version, stored(config, later)], sort_keys=True)
    return f"{source}-{hashlib.sha256(content.encode()).hexdigest()[:12]}"


def remedy(source: str, config: Config, folder: Path) -> str:
    """The command that generates this configuration."""
    defaults = type(config)().model_dump()
    changed = {k: v for k, v in config.model_dump().items() if v != defaults[k]}
    options = "".join(f" {_option(k)} {v}" for k, v in changed.items())
    return f"Run `python -m bench.prepare {source} --out {folder}{options}`"


def add_arguments(parser: argparse.ArgumentParser, config: type[Config]) -> None:
    """One option for each field of `config`."""
    for name, info in config.model_fields.items():
        words = _words(info.annotation)
        parser.add_argument(
            _option(name),
            dest=name,
            type=str if words else float if info.annotation is float else int,
            default=info.default,
            choices=words or None,
            metavar=None if words else "N",
            help=f"{info.description}; default {info.default}"
            if info.description
            else f"default {info.default}",
        )
        if name == "frames":  # its name of old
            parser.add_argument("--frames", choices=words, help=argparse.SUPPRESS)


def _words(annotation: Any) -> list[str]:
    """The words that a Literal allows, also one that may be None."""
    parts = get_args(annotation)
    return [w for w in (*parts, *itertools.chain(*map(get_args, parts))) if isinstance(w, str)]


def _option(field: str) -> str:
    return "--store" if field == "frames" else f"--{field.replace('_', '-')}"
