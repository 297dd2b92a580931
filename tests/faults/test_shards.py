"""Every file of a shard folder, damaged in every way: the same numbers, or a refusal that names the file.
Never another number, never a traceback.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from damaging import damage
from makers import make_run, smoke_config

from bench.data.sources import mini_ssv2
from bench.evaluate import command
from bench.run.cell import run_cell
from bench.store.failure import Failure
from bench.store.rundir import RunDir, State

FLIPS = 8
BITS = 5  # at a time, where only what is read is verified
KINDS = (
    *[(kind, 0) for kind in ("truncated", "empty", "zeros", "another's", "directory", "missing")],
    *[("flipped", seed) for seed in range(FLIPS)],
)
FILES = (
    "index.json",
    "index.json.sha256",
    "samples.parquet",
    "train-000000.tar",
    "tune-000000.tar",
    "test-000000.tar",
    "test_unbiased-000000.tar",
)
READ_IN_TRAINING = ("index.json", "samples.parquet", "train-000000.tar", "tune-000000.tar")
# Built-in data that are incomplete are made by the cell.
MADE_AGAIN = ("index.json", "missing")
SAME, REFUSED = "same numbers", "refused"

pytestmark = pytest.mark.slow


class World(NamedTuple):
    """A trained cell, its data and other data of the same kind."""

    run: RunDir
    shards: Path
    others: Path
    rows: list[dict[str, Any]]  # what is measured on sound data


@pytest.fixture(scope="module")
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> World:
    home = tmp_path_factory.mktemp(request.param)
    config = smoke_config(**{"data.frames": request.param})
    options = config.data.config
    mini_ssv2.prepare(options, home / "data")
    other = options.model_copy(update={"seed": options.seed + 1})
    mini_ssv2.prepare(other, home / "data")
    run = make_run(home / "runs", config, home / "data")
    assert run_cell(run.path) == State.DONE
    shards, others = (mini_ssv2.locate(each, home / "data") for each in (options, other))
    rows = evaluated(run, shards, home)
    assert isinstance(rows, list)
    return World(run, shards, others, rows)


def evaluated(
    run: RunDir, shards: Path, folder: Path, verify: str = "first"
) -> list[dict[str, Any]] | None:
    """The rows of a call of `bench.evaluate`; None where it refuses."""
    out = folder / "rows.json"
    out.unlink(missing_ok=True)
    arguments = ["video.shuffle_gap", "--model", run.path, "--data", shards, "--out", out]
    more = ["--runs", folder / "kept", "--device", "cpu", "--verify", verify, "--again"]
    status = command.main([str(each) for each in (*arguments, *more)])
    assert status in (0, 2) and out.exists() == (status == 0)
    return json.loads(out.read_text())["rows"] if status == 0 else None


def damaged(world: World, folder: Path) -> Iterator[tuple[str, str, Path]]:
    """(file, kind, copy of the data in which the file is damaged so)."""
    for name in FILES:
        for kind, seed in KINDS:
            copy = folder / "data" / world.shards.name
            shutil.rmtree(copy, ignore_errors=True)
            shutil.copytree(world.shards, copy)
            if kind == "missing":
                (copy / name).unlink()
            else:
                damage(copy / name, kind, seed, another=world.others / name)
            yield name, kind, copy


@pytest.mark.parametrize("world", ["video"], indirect=True)
def test_evaluations_of_damaged_shards(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    counts: Counter[tuple[str, str]] = Counter()
    for name, kind, copy in damaged(world, tmp_path):
        capsys.readouterr()
        rows, said = evaluated(world.run, copy, tmp_path), capsys.readouterr().err
        # Nothing is read of training shards, and an index has a digest only since a later version.
        harmless = name.startswith("train") or (name, kind) == ("index.json.sha256", "missing")
        if rows is None:
            assert name in said and "Traceback" not in said, (name, kind, said)
            assert not harmless, (name, kind, said)
        else:
            assert rows == world.rows, (name, kind)
            assert harmless or name == "index.json.sha256", (name, kind)  # a bit beside the digest
        counts[name, SAME if rows else REFUSED] += 1
    with capsys.disabled():
        print(f"\n{sum(counts.values())} injections: {dict(counts)}")
    assert sum(counts.values()) == len(FILES) * len(KINDS) >= 80


@pytest.mark.parametrize("world", ["video"], indirect=True)
def test_cells_on_damaged_shards(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    counts: Counter[str] = Counter()
    config = smoke_config(**{"data.frames": _storage(world)})
    for name, kind, copy in damaged(world, tmp_path):
        if name not in READ_IN_TRAINING or (name, kind) == MADE_AGAIN:
            continue
        run = make_run(tmp_path / str(counts.total()), config, copy.parent)
        assert run_cell(run.path) == State.FAILED, (name, kind)
        assert run.read_outcome()["kind"] == Failure.DATA, (name, kind, run.error.read_text())
        assert name in run.error_line() and not run.metrics.exists()
        counts[name] += 1
    with capsys.disabled():
        print(f"\n{counts.total()} cells refused: {dict(counts)}")
    assert counts.total() == len(READ_IN_TRAINING) * len(KINDS) - 1


def _storage(world: World) -> str:
    return str(json.loads((world.shards / "index.json").read_text())["frames"]["storage"])


@pytest.mark.parametrize("world", ["video", "jpeg", "raw"], indirect=True)
def test_without_verification_every_clip_is(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Flipped bits hit what is read, and are counted or refused, or what is not (headers, other frames)."""
    counts: Counter[str] = Counter()
    for seed in range(FLIPS):
        copy = tmp_path / "data" / world.shards.name
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(world.shards, copy)
        for bit in range(BITS):
            damage(copy / "test-000000.tar", "flipped", BITS * seed + bit)
        capsys.readouterr()
        rows, said = evaluated(world.run, copy, tmp_path, "never"), capsys.readouterr().err
        if rows is None:
            assert "cannot be decoded" in said and "Traceback" not in said, said
            counts[REFUSED] += 1
        elif failed := [row for row in rows if row["n_failed"]]:
            assert all(row["split"] == "test" for row in failed)
            sound = [row for row in rows if row["split"] != "test"]
            assert sound == [row for row in world.rows if row["split"] != "test"]
            counts["counted as wrong"] += 1
        else:
            assert rows == world.rows, seed
            counts[SAME] += 1
    assert counts.total() > counts[SAME]
    with capsys.disabled():
        print(f"\n{counts.total()} times {BITS} flips unverified: {dict(counts)}")
