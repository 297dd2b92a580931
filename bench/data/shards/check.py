"""Is a shard folder what was written? All that is wrong with it, at once: `bench.prepare --check`.

The index against itself and against its source, the files against the index (size, SHA-256), the
members of each tar against samples.parquet and, with `deep`, every clip against its number of
frames. One process per core, one shard at a time.
"""

from __future__ import annotations

import json
import multiprocessing
import re
import tarfile
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bench import find
from bench.data.shards.index import INDEX, malformed
from bench.data.shards.read import SAMPLES, BadData, open_split, read_index
from bench.data.shards.stamps import wrong_with
from bench.data.shards.write import SHOWN, Progress, start_worker
from bench.process.machine import available_cores
from bench.store.files import sha256_of
from bench.task import SourceModule

_COLUMNS = (
    "split", "shard", "key", "label", "offset", "size", "header", "num_frames", "height", "width"
)  # fmt: skip
_PLACEHOLDER = re.compile(r"class \d+")
_PARALLEL_FROM = 1 << 28  # bytes; fewer are read before worker processes have started


class Damaged(BadData):
    """`problems` are one line each; the message shows the first of them."""

    def __init__(self, message: str, problems: Sequence[str]) -> None:
        super().__init__(message)
        self.problems = tuple(problems)


def check(
    folder: Path,
    *,
    deep: bool = False,
    workers: int | None = None,
    progress: Progress | None = None,
    failures: Path | None = None,
) -> dict[str, Any]:
    """Verify a shard folder and return its index; `deep` also decodes every sample.

    ValueError: there is no such folder. Damaged lists all that is wrong; when that is more than the
    message shows, all of it is written to `failures` (default: `<folder>.failures.txt`).
    """
    try:
        index = read_index(folder)
    except ValueError as error:
        raise (BadData(str(error)) if folder.is_dir() else error) from error
    problems = malformed(index)  # what is malformed cannot be compared with anything
    if not problems:
        problems = [*_contradictions(index), *_foreign_tars(folder, index)]
        table, wrong = _read_table(folder, index)
        seen = _Seen()
        how = {"compare": table is not None, "deep": deep}
        for found in _shards(folder, index, **how, workers=workers, progress=progress):
            seen.add(found)
        problems += [*wrong, *(_wrong_counts(table, index) if table else ()), *seen.problems]
        problems += _wrong_names(index, seen.names)
    if problems:
        raise _damaged(folder, index, problems, failures)
    return index


def _damaged(
    folder: Path, index: Mapping[str, Any], problems: Sequence[str], failures: Path | None
) -> Damaged:
    listed = "\n  ".join(problems[:SHOWN])
    if len(problems) > SHOWN:
        failures = failures or folder.with_name(f"{folder.name}.failures.txt")
        failures.write_text("".join(f"{problem}\n" for problem in problems), encoding="utf-8")
        listed += f"\n  ... and {len(problems) - SHOWN} more, all of them in {failures}"
    source = index.get("source")
    command = source.replace("_", "-") if isinstance(source, str) else "SOURCE"
    return Damaged(
        f"the shard folder {folder} is not what was written:\n  {listed}\n"
        f"Make it again: `python -m bench.prepare {command} ... --out {folder}`",
        problems,
    )


# -- the index ---


def _contradictions(index: Mapping[str, Any]) -> Iterator[str]:
    """Of the index with itself."""
    for name, count in Counter(index["classes"]).items():
        if count > 1:
            yield f"{INDEX}: {count} classes are called {name!r}"
    for name, ids in index["subsets"].items():
        if beyond := [i for i in ids if i >= len(index["classes"])]:
            yield f"{INDEX}: subset {name!r} holds class {beyond[0]}, which does not exist"
    owners: dict[str, list[str]] = defaultdict(list)
    for split, entry in index["splits"].items():
        for name in entry["shards"]:
            owners[name].append(split)
    for name in sorted({*owners, *index["shards"]}):
        if name not in index["shards"]:
            yield f"{INDEX}: {name} belongs to {owners[name][0]!r}, but is not among the shards"
        elif len(owners[name]) != 1:
            whose = " and ".join(map(repr, owners[name])) or "no split"
            yield f"{INDEX}: {name} belongs to {whose}"


def _wrong_names(index: Mapping[str, Any], names: Mapping[int, set[str]]) -> Iterator[str]:
    """Classes that the source or the samples themselves call otherwise; subsets that are not the
    source's.
    """
    classes = index["classes"]
    expected, subsets = _known(index)
    if expected and len(expected) != len(classes):
        yield f"{INDEX}: {len(classes)} classes, {index['source']} has {len(expected)}"
        return
    for label, name in enumerate(classes):
        in_samples = names.get(label, set())
        if wrong := sorted(in_samples - {name}):
            yield f"class {label} is {name!r} in {INDEX}, {' and '.join(map(repr, wrong))} in its samples"
        elif expected and not _PLACEHOLDER.fullmatch(expected[label]) and expected[label] != name:
            yield f"class {label} is {name!r} in {INDEX}, {expected[label]!r} in {index['source']}"
    for subset, ids in subsets.items():
        if sorted(index["subsets"].get(subset, ())) != sorted(ids):
            yield f"{INDEX}: subset {subset!r} is not that of {index['source']}"


def _known(index: Mapping[str, Any]) -> tuple[Sequence[str], Mapping[str, Sequence[int]]]:
    """Classes and subsets as the source knows them; empty for a source that is not there."""
    if index["source"] not in find.names("source"):
        return (), {}
    source: SourceModule = find.load("source", index["source"])
    spec = source.spec(source.Config())
    subsets_of = find.optional("source", index["source"], "subsets_of")
    return spec.classes, subsets_of(index["classes"]) if subsets_of else spec.subsets


# -- the files ---


def _foreign_tars(folder: Path, index: Mapping[str, Any]) -> Iterator[str]:
    for path in sorted(folder.glob("*.tar")):
        if path.name not in index["shards"]:
            yield f"{path.name} is not in {INDEX}"


def _read_table(folder: Path, index: Mapping[str, Any]) -> tuple[pa.Table | None, list[str]]:
    path = folder / SAMPLES
    if not path.is_file():
        return None, [f"{SAMPLES} is missing"]
    if sha256_of(path) != index["samples_sha256"]:
        return None, [f"{SAMPLES} has another SHA-256 than when it was written"]
    lacking = [name for name in _COLUMNS if name not in pq.read_schema(path).names]
    if lacking:
        return None, [f"{SAMPLES} has no column {', '.join(lacking)}"]
    return pq.read_table(path, columns=list(_COLUMNS)), []


def _wrong_counts(table: pa.Table, index: Mapping[str, Any]) -> Iterator[str]:
    splits, shards = Counter(table["split"].to_pylist()), Counter(table["shard"].to_pylist())
    for split, entry in index["splits"].items():
        if splits[split] != entry["samples"]:
            yield f"split {split!r} has {splits[split]} samples instead of {entry['samples']}"
    for name, entry in index["shards"].items():
        if shards[name] != entry["count"]:
            yield f"{name} has {shards[name]} samples instead of {entry['count']}"
    listed = Counter(zip(table["split"].to_pylist(), table["key"].to_pylist(), strict=True))
    for (split, key), count in listed.items():
        if count > 1:
            yield f"{split}/{key} is listed {count} times in {SAMPLES}"
    labels = table["label"].to_numpy()
    for label in np.unique(labels[(labels < 0) | (labels >= len(index["classes"]))]).tolist():
        yield f"{(labels == label).sum()} samples are of class {label}, which does not exist"


@dataclass
class _Seen:
    """What the files of a folder show."""

    problems: list[str] = field(default_factory=list)
    names: dict[int, set[str]] = field(default_factory=lambda: defaultdict(set))

    def add(self, other: _Seen) -> None:
        self.problems += other.problems
        for label, names in other.names.items():
            self.names[label] |= names


@dataclass(frozen=True)
class _Task:
    """One shard to look at; travels to a worker process."""

    folder: Path
    name: str
    split: str
    entry: Mapping[str, Any]
    compare: bool  # samples.parquet is there to be compared with
    deep: bool


def _shards(
    folder: Path,
    index: Mapping[str, Any],
    *,
    compare: bool,
    deep: bool,
    workers: int | None,
    progress: Progress | None,
) -> Iterator[_Seen]:
    """In the order of the index."""
    split_of = {name: s for s, entry in index["splits"].items() for name in entry["shards"]}
    tasks = [
        _Task(folder, name, split_of.get(name, ""), entry, compare and name in split_of, deep)
        for name, entry in index["shards"].items()
    ]
    size = sum(task.entry["bytes"] for task in tasks)
    workers = min(workers or available_cores(), len(tasks))
    if workers <= 1 or (size < _PARALLEL_FROM and not deep):
        for done, task in enumerate(tasks, 1):
            yield _look(task)
            if progress:
                progress(done, len(tasks))
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, initializer=start_worker) as pool:
        running = [pool.submit(_look, task) for task in tasks]
        for done, _ in enumerate(as_completed(running), 1):
            if progress:
                progress(done, len(tasks))
        yield from (future.result() for future in running)


def _look(task: _Task) -> _Seen:
    path, seen = task.folder / task.name, _Seen()
    if problem := wrong_with(path, task.entry):
        seen.problems.append(problem)
        if not path.is_file():
            return seen
    elif task.compare:
        _compare_members(task, path, seen)
    if task.deep and task.compare:
        seen.problems += _undecodable(task)
    return seen


def _compare_members(task: _Task, path: Path, seen: _Seen) -> None:
    """The samples in the tar against those of samples.parquet."""
    wanted = {row["key"]: row for row in _rows(task)}
    metas: dict[str, Any] = {}
    try:
        with tarfile.open(path) as tar:
            members: set[str] = set()
            for member in tar:
                if member.name in members:
                    seen.problems.append(f"{task.name} holds {member.name} twice")
                members.add(member.name)
                if member.name.endswith(".json") and (file := tar.extractfile(member)):
                    metas[member.name.removesuffix(".json")] = json.load(file)
    except (tarfile.TarError, ValueError) as error:
        seen.problems.append(f"{task.name} cannot be read: {error}")
        return
    for key in sorted(metas.keys() ^ wanted.keys()):
        where = SAMPLES if key in wanted else task.name
        seen.problems.append(f"{task.split}/{key} is only in {where}")
    for key in metas.keys() & wanted.keys():
        for name in ("label", "num_frames"):
            if metas[key].get(name) != wanted[key][name]:
                seen.problems.append(
                    f"{task.split}/{key} has {name} {wanted[key][name]} in {SAMPLES}, "
                    f"{metas[key].get(name)} in {task.name}"
                )
        if class_name := _class_in(metas[key]):
            seen.names[wanted[key]["label"]].add(class_name)


def _rows(task: _Task) -> list[dict[str, Any]]:
    columns = ["key", "label", "num_frames"]
    table = pq.read_table(
        task.folder / SAMPLES, columns=columns, filters=[("shard", "==", task.name)]
    )
    return table.to_pylist()


def _class_in(meta: Mapping[str, Any]) -> str | None:
    """The name of its class that a sample carries (Something-Something: the template)."""
    name = meta.get("class") or meta.get("template")
    return name.replace("[", "").replace("]", "") if isinstance(name, str) else None


def _undecodable(task: _Task) -> Iterator[str]:
    """Decode the shard's samples and layers, through the code that training reads them with."""
    try:
        samples = open_split(task.folder, task.split)
    except ValueError as error:
        yield f"split {task.split!r} cannot be opened: {error}"
        return
    number = {key: i for i, key in enumerate(samples.keys)}
    index = read_index(task.folder)
    layers = index.get("layers", {}).get(task.split, ())
    holding = {name: set(samples.with_layer(name).tolist()) for name in layers}
    for row in _rows(task):
        i, frames = number[row["key"]], row["num_frames"]
        try:
            samples.frames(i, np.arange(frames))
            for name in (name for name in layers if i in holding[name]):
                samples.layer(i, name)
        except (ValueError, OSError) as error:
            yield f"{task.split}/{row['key']}: {error}"
            continue
        if index["frames"]["storage"] == "video" and _has_frame(samples, i, frames):
            yield f"{task.split}/{row['key']}: more than the {frames} frames of {INDEX} decode"


def _has_frame(samples: Any, i: int, t: int) -> bool:
    try:
        samples.frames(i, np.array([t]))
    except ValueError:
        return False
    return True
