"""Results of several folders in one report."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from makers import ROOT

from bench import results
from bench.store.rundir import State
from reports import build

OLD = ROOT / "tests/fixtures/old_runs/runs"


@pytest.fixture
def halves(tmp_path: Path) -> tuple[Path, Path]:
    """Two copies of two finished cells, each without the result of one of them."""
    names = ("0094dbc920555cda", "b9546d10603b9974")
    folders = (tmp_path / "mine", tmp_path / "theirs")
    for folder, lost in zip(folders, names, strict=True):
        shutil.copytree(OLD, folder)
        (folder / lost / "result.json").unlink()
    return folders


def test_what_one_lacks_and_another_has_is_no_hole(halves: tuple[Path, Path]) -> None:
    whole, numbers = (
        results.load(OLD),
        ["signature", "evaluation", "split", "view", "subset", "metric", "value"],
    )
    assert any(set(results.load(half)["state"]) != {"DONE"} for half in halves)
    for folders in (halves, halves[::-1], (*halves, OLD)):
        found = results.merged(folders)
        assert set(found["state"]) == {State.DONE}
        ours = found[numbers].sort_values(numbers).reset_index(drop=True)
        assert ours.equals(whole[numbers].sort_values(numbers).reset_index(drop=True))


def test_one_folder_is_itself(halves: tuple[Path, Path]) -> None:
    assert results.merged([halves[0]]).equals(results.load(halves[0]))


def test_a_real_difference_is_not_hidden(tmp_path: Path) -> None:
    """The same run with another number elsewhere: both stay, so the report refuses to choose."""
    other = Path(shutil.copytree(OLD, tmp_path / "other"))
    path = other / "0094dbc920555cda/result.json"
    result = json.loads(path.read_text())
    result["rows"][0]["value"] += 0.25
    path.write_text(json.dumps(result))
    assert len(results.merged([OLD, other])) == len(results.load(OLD)) + 1


def test_the_command(
    halves: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ["--out", str(tmp_path / "out")]
    both = [part for half in halves for part in ("--runs", str(half))]
    assert build.main([*both, *out]) == 0
    assert "2 DONE" in capsys.readouterr().out
    assert build.main([*both, "--runs", str(tmp_path / "nowhere"), *out]) == 2
    assert "nowhere does not exist" in capsys.readouterr().err
