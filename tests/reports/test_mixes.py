"""Numbers of other code or of another device: apart, unless pooled, and named either way."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from frames import BASELINE, cell, frame, top1
from hypothesis import given
from hypothesis import strategies as st

from bench import results
from bench.results import made_by, rows_file
from bench.results.command import main as command
from bench.speed.report import make_runs
from bench.store.result_files import Kind, read_result, write_result
from reports import build, made, mixes, stats

TOP1 = stats.Measure("video.shuffle_gap", "test", "original")
FULL = {"backbone": "TimeSformer", "method": "+ TIME"}
GPU = {"type": "cuda", "name": "NVIDIA H200", "threads": 4}
OTHER = {"code": {"commit": "f" * 40, "dirty": "12ab34cd56ef"}, "device": GPU}


def seeds(column: str, values: list[str | None], **about: Any) -> pd.DataFrame:
    cells = [
        cell(seed=k, numbers=top1(0.5 + k / 100), **about, **({column: v} if v else {}))
        for k, v in enumerate(values)
    ]
    return frame(*cells)


@pytest.mark.parametrize(
    ("column", "says"),
    [("code", "by different code: a | b"), ("device", "different devices: a | b")],
)
def test_runs_made_differently_are_averaged_only_when_pooled(column: str, says: str) -> None:
    results = seeds(column, ["a", "b", "a"])
    number = stats.aggregate(results, BASELINE, TOP1)
    assert number.mean is None and says in number.reason and f"--pool {column}" in number.reason
    with mixes.pooling([column]):
        assert stats.aggregate(results, BASELINE, TOP1).mean == pytest.approx(51.0)
    other = ({"code", "device"} - {column}).pop()
    with mixes.pooling([other]):
        assert stats.aggregate(results, BASELINE, TOP1).mean is None


@pytest.mark.parametrize("column", mixes.MADE_BY)
def test_nor_is_a_difference_taken(column: str) -> None:
    cells = [cell(seed=k, numbers=top1(0.5), **{column: "a"}) for k in (0, 1)]
    cells += [cell("+ TIME", k, numbers=top1(0.75), **{column: "b"}) for k in (0, 1)]
    both = frame(*cells)
    base, full = (stats.aggregate(both, labels, TOP1) for labels in (BASELINE, FULL))
    assert (base.mean, full.mean) == (50.0, 75.0)
    change = stats.difference(full, base)
    assert (
        change.mean is None and "no difference taken" in change.reason and "a | b" in change.reason
    )
    with mixes.pooling([column]):
        assert stats.difference(full, base).mean == 25.0


@given(st.lists(st.sampled_from(["a", "b", "unknown", None]), min_size=1, max_size=5))
def test_there_is_a_mean_exactly_where_all_are_the_same(codes: list[str | None]) -> None:
    known = {code or "unknown" for code in codes}
    number = stats.aggregate(seeds("code", codes), BASELINE, TOP1)
    assert (number.mean is not None) == (len(known) == 1)
    with mixes.pooling(["code"]):
        assert stats.aggregate(seeds("code", codes), BASELINE, TOP1).mean is not None


def test_other_data_never_goes_together() -> None:
    with mixes.pooling(["code", "device", "provenance"]):
        for column in ("data", "data_digest"):
            assert stats.aggregate(seeds(column, ["a", "b"]), BASELINE, TOP1).mean is None
        assert stats.aggregate(seeds("provenance", ["a", "b"]), BASELINE, TOP1).mean is not None


# --- what it is called ---


@pytest.mark.parametrize(
    ("code", "called"),
    [
        ({"commit": "74de7abf3b62", "dirty": None}, "74de7abf"),
        ({"commit": "74de7abf3b62", "dirty": "12ab34cd56ef"}, "74de7abf+dirty-12ab34"),
        ({"commit": "74de7abf3b62", "dirty": None, "tree": "2a1415a71a5c"}, "74de7abf/2a1415"),
        ({"commit": "unknown", "dirty": None, "components": "abcdef01"}, "unknown+own-abcdef"),
        ({}, "unknown"),
        (None, "unknown"),
        ("damaged", "unknown"),
    ],
)
def test_code_has_a_short_name(code: object, called: str) -> None:
    assert made_by.both({"code": code}, {"code": code})["code"] == called


def test_training_and_evaluation_both_count() -> None:
    here = {"code": {"commit": "a" * 40}, "device": {"type": "cpu", "name": "Xeon", "threads": 2}}
    assert made_by.both(here, OTHER) == {
        "code": "aaaaaaaa, measured by ffffffff+dirty-12ab34",
        "device": "cpu, measured by NVIDIA H200",
    }
    threads = {"device": {"type": "cpu", "name": "EPYC", "threads": 64, "world": 2}}
    assert made_by.both(here, threads)["device"] == "cpu"


def test_a_digest_of_files_tells_apart_what_the_commit_does_not() -> None:
    """A launcher takes it; where nothing is launched there is none, which is no other code."""
    both = "aaaaaaaa/111111, measured by aaaaaaaa"
    assert made_by.without_trees(["aaaaaaaa/111111", "aaaaaaaa", both]) == {
        "aaaaaaaa/111111": "aaaaaaaa",
        "aaaaaaaa": "aaaaaaaa",
        both: "aaaaaaaa",
    }
    apart = made_by.without_trees(["aaaaaaaa/111111", "aaaaaaaa/222222", "bbbbbbbb/111111"])
    assert list(apart.values()) == ["aaaaaaaa/111111", "aaaaaaaa/222222", "bbbbbbbb"]


# --- from the folder to the report ---


def made_otherwise(runs: Path, *, seed: int) -> None:
    """Let the runs of a seed have been made elsewhere."""
    for row in results.load(runs).query("seed == @seed")["run_dir"].unique():
        folder = Path(row)
        for path, kind in (
            (folder / "result.json", Kind.EVALUATION),
            (folder.parents[1] / "result.json", Kind.TRAINING),
        ):
            write_result(path, kind, {**(read_result(path, kind) or {}), **OTHER})


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    make_runs(tmp_path / "runs", 10)
    return tmp_path / "runs"


@pytest.fixture
def report(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    def of(*tables: str, options: tuple[str, ...] = ()) -> int:
        monkeypatch.setattr(made, "ordered", {"table": list(tables), "figure": []}.get)
        return build.main(["--runs", str(runs), "--out", str(tmp_path / "out"), *options])

    return of


def test_strict_fails_on_a_mix_and_names_it(
    runs: Path, report: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert report(options=("--strict",)) == 0
    made_otherwise(runs, seed=1)
    assert report() == 0
    assert report(options=("--strict",)) == 1
    assert "mixed: " in (said := " ".join(capsys.readouterr().out.split()))
    mixed = "00000000 | ffffffff+dirty-12ab34", "NVIDIA H200 | cpu"
    assert all(text in said for text in mixed)
    assert all(text in (tmp_path / "out/index.html").read_text() for text in mixed)
    assert report(options=("--strict",)) == 1  # also where nothing is built again
    assert report(options=("--strict", "--pool", "code")) == 1
    assert report(options=("--strict", "--pool", "code", "--pool", "device")) == 0


def test_a_table_says_what_it_pools(runs: Path, report: Callable[..., int], tmp_path: Path) -> None:
    shown = tmp_path / "out/mini/main_result.md"
    assert report("main_result") == 0
    whole = shown.read_text().splitlines()[:8]
    made_otherwise(runs, seed=1)
    assert report("main_result") == 0
    assert r"by different code: 00000000 \| ffffffff+dirty-12ab34" in shown.read_text()
    assert report("main_result", options=("--pool", "code", "--pool", "device")) == 0
    assert r"Pooled (--pool code): 00000000 \| ffffffff+dirty-12ab34." in shown.read_text()
    assert shown.read_text().splitlines()[:8] == whole


def test_a_file_of_rows_knows_it_too(runs: Path, tmp_path: Path) -> None:
    made_otherwise(runs, seed=1)
    assert command(["--rows", str(tmp_path / "rows.jsonl"), str(runs)]) == 0
    here, there = results.load(runs), results.load(tmp_path / "rows.jsonl")
    names = ["signature", "split", "view", "subset", "metric", "code", "device"]
    order = names[:5]
    pd.testing.assert_frame_equal(
        here[names].sort_values(order, ignore_index=True),
        there[names].sort_values(order, ignore_index=True),
    )
    assert here["code"].nunique() == here["device"].nunique() == 2


def test_a_file_of_rows_of_before_gets_it_from_what_it_knows_of_runs(
    runs: Path, tmp_path: Path
) -> None:
    made_otherwise(runs, seed=1)
    path, old = tmp_path / "rows.jsonl", tmp_path / "old.jsonl"
    assert command(["--rows", str(path), str(runs)]) == 0
    file = rows_file.read(path)
    bare = file.frame.drop(columns=["code", "device"])
    bare = bare.assign(run_dir=bare["run_dir"].astype(str).str.removeprefix(f"{path}/"))
    rows_file.write(old, rows_file.RowsFile(bare, file.folders, file.searches))
    assert '"code"' not in old.read_text().splitlines()[0]
    for name in ("code", "device"):
        assert results.load(old)[name].tolist() == results.load(path)[name].tolist()
