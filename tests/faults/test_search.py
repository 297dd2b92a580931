"""Each file of a search, damaged in each way: it ends with the undisturbed values or refuses with the
file's name; never another number, never a traceback, and nothing is trained twice.
"""

from __future__ import annotations

import random
import shutil
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from damaging import NOBODY, as_nobody, damage
from searching import CELL, PATIENCE_S, SWEEP, WEIGHT, Workers, computed, most_at_once, processes_of

from bench.tune import command as tune
from bench.tune import search as searches
from bench.tune.study import Study

pytestmark = pytest.mark.slow

DONE, ALL = 3, 4
BLOCK = f"\n  sampler: random\n  space: {{{WEIGHT}: {{low: 0.1, high: 1.0}}}}"
FLIPS = [("flipped", seed) for seed in range(24)]
CUTS = [("truncated", seed) for seed in range(12)]
WAYS = [(kind, 0) for kind in ("empty", "zeros", "another's", "directory", "gone")]
SOME = [*FLIPS[:3], *CUTS[:2], *WAYS]

Trials = list[tuple[dict[str, Any], float | None]]


def options(runs: Path) -> list[str]:
    return [str(runs / "s.yaml"), "--scale", "smoke", "--runs", str(runs)]


def search(runs: Path, trials: int) -> int:
    command = ["--command", f"{sys.executable} {runs / 'cell.py'}"]
    return tune.main([*options(runs), *command, "--trials", str(trials), "--worker"])


def trials_of(runs: Path) -> Trials:
    study = Study(searches.read(runs / "s.yaml", "smoke"), runs)
    return [(t.params, t.value) for t in study.trials()]


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A search with most of its trials."""
    runs = tmp_path_factory.mktemp("begun")
    (runs / "cell.py").write_text(CELL)
    (runs / "s.yaml").write_text(SWEEP + BLOCK)
    assert search(runs, DONE) == 0
    return runs


@pytest.fixture(scope="module")
def undisturbed(begun: Path, tmp_path_factory: pytest.TempPathFactory) -> Trials:
    runs = tmp_path_factory.mktemp("undisturbed") / "runs"
    shutil.copytree(begun, runs)
    assert search(runs, ALL) == 0
    return trials_of(runs)


@pytest.fixture(scope="module")
def counts() -> Iterator[Counter[str]]:
    found: Counter[str] = Counter()
    yield found
    print(f"\n{found.total()} damages of a search: {dict(found)}", file=sys.__stdout__)


@pytest.mark.parametrize(
    ("name", "ways"),
    [
        ("journal.log", [*FLIPS, *CUTS, *WAYS]),
        ("journal.head", SOME),
        ("trials.json", SOME),
        ("winner.yaml", WAYS),
    ],
)
def test_a_damaged_file_changes_no_number(
    name: str,
    ways: list[tuple[str, int]],
    begun: Path,
    undisturbed: Trials,
    counts: Counter[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for at, (kind, seed) in enumerate(ways):
        runs = tmp_path / str(at)
        shutil.copytree(begun, runs)
        (path,) = runs.glob(f"tune/*/{name}")
        if kind == "gone":
            path.unlink()
        else:
            damage(path, kind, seed, another=runs / "s.yaml")
        status = search(runs, ALL)
        refused = status != 0 and str(path) in capsys.readouterr().err
        if refused:  # the remedy is the same command
            status = search(runs, ALL)
        assert status == 0, (kind, seed)
        assert trials_of(runs) == undisturbed, (kind, seed)
        assert set(computed(runs).values()) == {1}, (kind, seed)
        counts["refused, then the same" if refused else "the same"] += 1
        shutil.rmtree(runs)


def test_two_damaged_files_train_nothing_twice(
    begun: Path, undisturbed: Trials, counts: Counter[str], tmp_path: Path
) -> None:
    """Without journal and record, numbers are those of the cells; their order is that of the starts."""
    kinds, rng = [kind for kind, _ in (*WAYS, *FLIPS[:1], *CUTS[:1])], random.Random(0)
    for at in range(8):
        runs = tmp_path / str(at)
        shutil.copytree(begun, runs)
        (folder,) = runs.glob("tune/*")
        for name in ("journal.log", "trials.json"):
            kind = rng.choice(kinds)
            if kind == "gone":
                (folder / name).unlink()
            else:
                damage(folder / name, kind, at, another=runs / "s.yaml")
        assert search(runs, ALL) == 0
        assert sorted(map(str, trials_of(runs))) == sorted(map(str, undisturbed))
        assert set(computed(runs).values()) == {1}
        counts["two files, the same"] += 1


@pytest.mark.parametrize("name", ["journal.log", "trials.json", "journal.head"])
def test_a_file_that_may_not_be_read_is_no_damage(
    name: str, begun: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = tmp_path / "runs"
    shutil.copytree(begun, runs)
    (path,) = runs.glob(f"tune/*/{name}")
    kept = path.read_bytes()
    for each in (tmp_path, *tmp_path.rglob("*")):
        shutil.chown(each, NOBODY)
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o755)
    damage(path, "unreadable")
    with as_nobody():
        status = tune.main([*options(runs), "--status"])
    assert status == 0 or (status == 2 and str(path) in capsys.readouterr().err)
    assert not list(runs.glob("tune/*/*.damaged-*"))
    assert name == "journal.head" or path.read_bytes() == kept


def test_a_journal_that_is_damaged_while_workers_live_stops_them_and_the_next_goes_on(
    tmp_path: Path,
) -> None:
    it = Workers(tmp_path, BLOCK)
    try:
        client = it.start("--trials", "4", "--workers", "2", EPOCH_S="600", err=tmp_path / "err")
        it.wait_for(it.adopted, "two trials at work")
        it.wait_for(lambda: len(begun_cells(tmp_path)) == 2, "two cells")
        damage(it.study.folder / "journal.log", "truncated", 1)
        late = it.start("--trials", "4", "--worker", err=tmp_path / "late")
        assert late.wait(timeout=PATIENCE_S) == 2, "it would pull the journal from under the others"
        (tmp_path / "go").touch()
        assert client.wait(timeout=PATIENCE_S) == 1
        for text in ((tmp_path / "err").read_text(), (tmp_path / "late").read_text()):
            assert "journal.log" in text and "Traceback" not in text
        it.wait_for(lambda: not processes_of(it.study.search.name), "end of the workers")
        assert it.start("--trials", "4", "--workers", "2").wait(timeout=PATIENCE_S) == 0
    finally:
        it.end()
    states = Counter(t.state.name for t in Study(it.study.search, tmp_path).trials())
    assert states == {"COMPLETE": 4}
    assert set(computed(tmp_path).values()) == {1} and most_at_once(tmp_path) <= 2


def test_a_killed_client_and_an_empty_journal(tmp_path: Path) -> None:
    it = Workers(tmp_path, BLOCK)
    try:
        client = it.start("--trials", "4", "--workers", "2", EPOCH_S="600")
        it.wait_for(it.adopted, "two trials at work")
        it.wait_for(lambda: len(begun_cells(tmp_path)) == 2, "two cells")
        client.kill()
        it.wait_for(lambda: not processes_of(it.study.search.name), "end of the workers")
        damage(it.study.folder / "journal.log", "empty")
        last = it.start("--trials", "4", "--workers", "2")
        it.wait_for(it.adopted, "trials that wait for the cells")
        (tmp_path / "go").touch()
        assert last.wait(timeout=PATIENCE_S) == 0
    finally:
        it.end()
    states = Counter(t.state.name for t in Study(it.study.search, tmp_path).trials())
    assert states == {"COMPLETE": 4}
    assert set(computed(tmp_path).values()) == {1} and most_at_once(tmp_path) == 2


def begun_cells(runs: Path) -> set[str]:
    """The cells that are computed, or were."""
    log = runs / "computed.txt"
    return set(log.read_text().split()) if log.exists() else set()
