"""The journal of a search: that damage is noticed, and what is made of the search then."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from damaging import damage
from optuna.trial import TrialState
from searching import GRID, WEIGHT, states
from searching import work as work_in

from bench.store.files import DamagedFile
from bench.tune import search as searches
from bench.tune.journal import open_journal
from bench.tune.study import Study

RANDOM = f"\n  sampler: random\n  trials: 4\n  space: {{{WEIGHT}: {{low: 0.1, high: 1.0}}}}"
PRUNED = f"""
  sampler: grid
  pruner: {{name: median, startup_trials: 1}}
  space: {{{WEIGHT}: {{values: [0.3, 0.2]}}, train.lr: {{values: [0.1]}}}}
"""


def told(study: Study) -> list[tuple[Any, ...]]:
    """What a journal says of the trials, less the clock."""
    return [
        (
            t.number, t.state, t.params, t.value, t.intermediate_values, t.distributions,
            {k: v for k, v in t.user_attrs.items() if k not in ("seconds", "retries")},
        )
        for t in study.trials()
    ]  # fmt: skip


def finish(study: Study, value: float) -> None:
    trial, _ = study.take() or pytest.fail("no trial")
    trial.report(value / 2, 1)
    trial.report(value, 2)
    study.finish(trial.number, "COMPLETE", value=value)


@pytest.mark.parametrize("kind", ["truncated", "empty", "zeros", "flipped", "directory", "gone"])
@pytest.mark.parametrize("seed", range(3))
def test_a_damaged_journal_is_named_kept_and_made_anew(
    make: Callable[..., searches.Search],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    kind: str,
    seed: int,
) -> None:
    study = Study(make(RANDOM), tmp_path)
    for value in (0.2, 0.7, 0.5):
        finish(study, value)
    before, journal = told(study), study.folder / "journal.log"
    journal.unlink() if kind == "gone" else damage(journal, kind, seed)
    again = Study(study.search, tmp_path)
    assert told(again) == before and str(journal) in caplog.text
    assert len(list(study.folder.glob("journal.log.damaged-*"))) == (kind != "gone")
    finish(again, 0.1)
    assert again.over and told(Study(study.search, tmp_path)) == told(again)
    seconds = [
        t["seconds"] for t in json.loads((again.folder / "trials.json").read_text())["trials"]
    ]
    assert all(s is not None and s < 60 for s in seconds)


def test_every_bit_of_a_journal_counts(
    make: Callable[..., searches.Search], tmp_path: Path
) -> None:
    study = Study(make(RANDOM, trials=1), tmp_path)
    finish(study, 0.2)
    journal, rng = study.folder / "journal.log", random.Random(0)
    sound = journal.read_bytes()
    for _ in range(200):
        at = rng.randrange(
            len(sound) - 1
        )  # without the last newline it is a line that was not finished
        bad = sound[:at] + bytes([sound[at] ^ 1 << rng.randrange(8)]) + sound[at + 1 :]
        journal.write_bytes(bad)
        with pytest.raises(DamagedFile, match=r"journal\.log"):
            open_journal(journal)
    lines = sound.splitlines(keepends=True)
    for k in range(len(lines)):
        journal.write_bytes(b"".join(lines[:k] + lines[k + 1 :]))
        with pytest.raises(DamagedFile, match=r"journal\.log"):
            open_journal(journal)


def test_another_searchs_journal_is_noticed(
    make: Callable[..., searches.Search], tmp_path: Path
) -> None:
    other = Study(make(GRID), tmp_path)
    finish(other, 0.9)
    study = Study(make(RANDOM), tmp_path)
    finish(study, 0.2)
    before = told(study)
    for name in ("journal.log", "journal.head"):
        shutil.copyfile(other.folder / name, study.folder / name)
    assert told(Study(study.search, tmp_path)) == before


def test_what_was_at_work_keeps_its_number_and_values(
    make: Callable[..., searches.Search], tmp_path: Path
) -> None:
    search = make(GRID)
    study = Study(search, tmp_path, lease_s=0.2)
    finish(study, 0.2)
    trial, cell = study.take() or pytest.fail("no trial")
    journal = study.folder / "journal.log"
    journal.write_bytes(b"")
    with pytest.raises(DamagedFile, match="still works with it: --cancel"):
        Study(search, tmp_path, lease_s=600)
    with pytest.raises(DamagedFile, match="0 of"):
        study.trials()
    again = Study(search, tmp_path, lease_s=-1)
    assert states(again) == ["COMPLETE", "WAITING"]
    taken, same = again.take() or pytest.fail("no trial")
    assert (taken.number, taken.params, same) == (trial.number, trial.params, cell)
    assert taken.user_attrs["point"] == 1
    with pytest.raises(DamagedFile, match="replaced"):
        study.take()


def test_a_lease_that_was_changed_too_is_not_believed(
    make: Callable[..., searches.Search], tmp_path: Path
) -> None:
    study = Study(make(RANDOM), tmp_path)
    finish(study, 0.2)
    trial, _ = study.take() or pytest.fail("no trial")
    lease = study.folder / "leases/1.json"
    held = json.loads(lease.read_text())
    lease.write_text(json.dumps({**held, "params": {WEIGHT: 0.123}}))
    damage(study.folder / "journal.log", "empty")
    again = Study(study.search, tmp_path, lease_s=-1)
    assert states(again) == ["COMPLETE"]
    taken, _ = again.take() or pytest.fail("no trial")
    assert (taken.number, taken.params) == (trial.number, trial.params)


@pytest.mark.slow
@pytest.mark.parametrize("block", [RANDOM, GRID, PRUNED])
def test_without_any_record_trials_come_from_their_run_directories(
    make: Callable[..., searches.Search],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    block: str,
) -> None:
    monkeypatch.setenv("EPOCH_S", "0.3")
    search = make(block)
    study = Study(search, tmp_path)
    work_in(study)
    computed = (tmp_path / "computed.txt").read_bytes()
    before = [(t.state, t.params, t.value, t.intermediate_values) for t in study.trials()]
    for name in ("journal.log", "trials.json"):
        damage(study.folder / name, "zeros")
    again = Study(search, tmp_path)
    assert "in the order of their starts" in caplog.text
    work_in(again)
    after = [(t.state, t.params, t.value, t.intermediate_values) for t in again.trials()]
    assert after == before and (tmp_path / "computed.txt").read_bytes() == computed


def test_a_number_of_damaged_metrics_is_none(
    make: Callable[..., searches.Search], tmp_path: Path
) -> None:
    """The one number of a search that comes from no sealed file."""
    search = make(RANDOM)
    study = Study(search, tmp_path)
    work_in(study)
    first = next(t for t in study.trials() if t.state == TrialState.COMPLETE)
    metrics = tmp_path / first.user_attrs["signature"] / "metrics.jsonl"
    text = metrics.read_text()
    metrics.write_text(text.replace('"val/top1": 0', '"val/top1": 7'))
    assert metrics.read_text() != text
    for name in ("journal.log", "trials.json"):
        damage(study.folder / name, "zeros")
    again = Study(search, tmp_path)
    work_in(again)
    found = {t.user_attrs.get("signature"): t for t in again.trials()}
    damaged = found.pop(first.user_attrs["signature"])
    assert (
        damaged.state == TrialState.FAIL
        and "metrics.jsonl is not what it was" in damaged.user_attrs["error"]
    )
    assert all(t.value is not None and t.value < 7 for t in found.values())


def test_journals_of_before_there_were_digests_are_read_and_extended(
    make: Callable[..., searches.Search], tmp_path: Path
) -> None:
    study = Study(make(RANDOM), tmp_path)
    finish(study, 0.2)
    journal, head = study.folder / "journal.log", study.folder / "journal.head"
    operations = [json.loads(line) for line in journal.read_text().splitlines()]
    plain = [{k: v for k, v in o.items() if k != "sha256"} for o in operations]
    journal.write_text("".join(json.dumps(o, separators=(",", ":")) + "\n" for o in plain))
    head.unlink()
    before = told(study_of := Study(study.search, tmp_path))
    finish(study_of, 0.3)
    assert told(Study(study.search, tmp_path))[:1] == before
    assert journal.read_text().count("sha256") == len(journal.read_text().splitlines()) - len(plain)
    journal.write_bytes(journal.read_bytes().replace(b'"state":1', b'"state":3', 1))
    assert [t.value for t in Study(study.search, tmp_path).trials()] == [0.2, 0.3]
