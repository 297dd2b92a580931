"""The data of a run on disk: opened, or made first where they are built in."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from bench import find
from bench.config.resources import Resources
from bench.config.science import RunConfig
from bench.data.shards import read as shards
from bench.data.shards import stamps
from bench.task import DataSpec, Released, Samples, SourceModule


def open_split(config: RunConfig, resources: Resources, split: str) -> Samples:
    """A split of a run's data, its shards verified. BadData: they are damaged."""
    source: SourceModule = find.load("source", config.data.name)
    samples = source.open(config.data.config, Path(resources.data_dir), split)
    if isinstance(samples, shards.ShardSamples):
        stamps.verify(samples.folder, (split,), resources.verify)
    return samples


def prepare_data(config: RunConfig, data_dir: Path) -> None:
    """Make the data on first use, where the suite can (built-in data); a no-op afterwards."""
    if prepare := find.optional("source", config.data.name, "prepare"):
        prepare(config.data.config, data_dir)


def open_data(data: Path, *, verify: stamps.Verify = "first") -> Released:
    """Shards, verified, or a data set where it lies: a folder, or a file that lists it. Raises
    ValueError with what was looked for.
    """
    asked = [name for name in find.names("source") if find.optional("source", name, "as_released")]
    asked.sort(key=lambda name: find.optional("source", name, "ANY_OF_ITS_KIND"))  # those come last
    if data.exists() and not (data / shards.INDEX).is_file():
        for name in asked:
            if found := find.load("source", name).as_released(data):
                return found
    return _open_shards(data, asked, verify)


def _open_shards(folder: Path, asked: list[str], verify: stamps.Verify) -> Released:
    """`asked`: the sources that did not know the folder."""
    try:
        if folder.is_file():
            raise ValueError(f"{folder} is a file, and no list of videos")
        index = shards.sound_index(folder)
    except shards.BadData:
        raise
    except ValueError as error:
        known = [f"{name} ({find.optional('source', name, 'LAYOUT')})" for name in asked]
        listed = "".join(f"\n  {name.removesuffix(' ()')}" for name in known)
        raise ValueError(
            f"{error}. Nor is it a data set that is read where it lies:{listed}"
        ) from error
    spec = DataSpec(
        name=index["source"],
        media=index.get("media", "video"),
        classes=tuple(index["classes"]),
        reversals=_reversals(index["source"], index["classes"]),
        subsets={k: tuple(v) for k, v in index["subsets"].items()},
        splits=tuple(index["splits"]),
        layers={split: tuple(names) for split, names in index.get("layers", {}).items()},
    )
    held_out = spec.splits[1:] or spec.splits  # of unsplit data there is nothing to train on
    stamps.verify(folder, held_out, verify)
    return Released(spec, held_out, partial(shards.open_split, folder))


def _reversals(source: str, classes: Sequence[str]) -> tuple[tuple[int, int], ...]:
    """As the source tells them; none where shards are of a source that is not here."""
    told = source in find.names("source") and find.optional("source", source, "reversals_of")
    return tuple(told(classes)) if told else ()
