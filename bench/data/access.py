"""The data of a run on disk: opened, or made first where they are built in."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from bench import find
from bench.config.resources import Resources
from bench.config.science import RunConfig
from bench.data.shards import read as shards
from bench.task import DataSpec, Released, Samples, SourceModule


def open_split(config: RunConfig, resources: Resources, split: str) -> Samples:
    source: SourceModule = find.load("source", config.data.name)
    return source.open(config.data.config, Path(resources.data_dir), split)


def prepare_data(config: RunConfig, data_dir: Path) -> None:
    """Make the data on first use, where the suite can (built-in data); a no-op afterwards."""
    if prepare := find.optional("source", config.data.name, "prepare"):
        prepare(config.data.config, data_dir)


def open_data(folder: Path) -> Released:
    """Shards, or a data set where it lies as released. Raises ValueError with what was looked for."""
    offered = {name: find.optional("source", name, "as_released") for name in find.names("source")}
    readable = {name: as_released for name, as_released in offered.items() if as_released}
    if folder.is_dir() and not (folder / shards.INDEX).is_file():
        for as_released in readable.values():
            if found := as_released(folder):
                return found
    try:
        index = shards.read_index(folder)
    except ValueError as error:
        known = ", ".join(readable)
        raise ValueError(f"{error}. Nor is it a data set as released (known: {known})") from error
    spec = DataSpec(
        name=index["source"],
        media=index.get("media", "video"),
        classes=tuple(index["classes"]),
        reversals=_reversals(index["source"], index["classes"]),
        subsets={k: tuple(v) for k, v in index["subsets"].items()},
        splits=tuple(index["splits"]),
        layers={split: tuple(names) for split, names in index.get("layers", {}).items()},
    )
    return Released(spec, spec.splits[1:], partial(shards.open_split, folder))


def _reversals(source: str, classes: Sequence[str]) -> tuple[tuple[int, int], ...]:
    """As the source tells them; none where shards are of a source that is not here."""
    told = source in find.names("source") and find.optional("source", source, "reversals_of")
    return tuple(told(classes)) if told else ()
