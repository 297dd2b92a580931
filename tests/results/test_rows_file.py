"""Rows of runs as one file: the same numbers, the same report, and never a damaged one."""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from damaging import damage
from hypothesis import given, settings
from hypothesis import strategies as st
from makers import ROOT
from pictured import model, sweep
from rendered import contents

from bench import results
from bench.results import rows_file
from bench.results.command import main as command
from bench.store.files import DamagedFile
from bench.store.result_files import Kind, write_result
from reports import build, made

PICTURED = ("adversarial_backgrounds", "background_variants")
TRIALS = [
    {"number": k, "state": "COMPLETE", "params": {"lr": 0.1 * k}, "value": 0.1 + 0.2 * k, "intermediate": {}}
    for k in range(3)
]  # fmt: skip
SEARCH = {
    "study": "weights", "title": "The weights", "scale": "mini", "overrides": {}, "metric": "val/top1",
    "split": "tune", "direction": "maximize", "sampler": "TPE", "best": 2, "importances": {"lr": 1.0},
    "importances_reason": "", "trials": TRIALS,
}  # fmt: skip


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Real runs of an earlier version, an image sweep with a hole, evaluated models, a search."""
    folder = tmp_path_factory.mktemp("archived") / "runs"
    shutil.copytree(ROOT / "tests/fixtures/old_runs/runs", folder)
    sweep(folder, ("baseline", "+ debias", "+ TIME"), (0, 1), missing=[("+ debias", 1)])
    model(folder, data="mini_imagenet9")
    model(folder, "other", data="elsewhere")
    (folder / "tune/weights").mkdir(parents=True)
    write_result(folder / "tune/weights/trials.json", Kind.SEARCH, SEARCH)
    return folder


@pytest.fixture(scope="module")
def rows(runs: Path) -> Path:
    path = runs.with_name("rows.jsonl.gz")
    assert command(["--rows", str(path), str(runs)]) == 0
    return path


def report(out: Path, *places: Path) -> dict[str, bytes]:
    arguments = [part for place in places for part in ("--runs", str(place))]
    assert build.main([*arguments, "--out", str(out)]) == 0
    return contents(out)


# --- as the folder ---


def test_the_rows_are_those_of_the_folder(runs: Path, rows: Path) -> None:
    there, here = results.load(rows), results.load(runs)
    back = there["run_dir"].str.replace(f"{rows}/0", str(runs), regex=False)
    there_again = there.assign(run_dir=back.astype("category"))
    pd.testing.assert_frame_equal(there_again, here, check_exact=True)
    for one, other in set(zip(there["run_dir"], here["run_dir"], strict=True)):
        assert results.objectives(one) == results.objectives(other)
    assert results.search_of(there) == results.search_of(here) == [SEARCH]
    assert any(results.objectives(run_dir) for run_dir in there["run_dir"])


def test_the_report_is_that_of_the_folder_but_for_pictures(
    runs: Path, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(made, "FIGURE_FORMATS", ("png",))  # which the page shows
    here, there = report(tmp_path / "here", runs), report(tmp_path / "there", rows)
    pages = here.pop("index.html").decode(), there.pop("index.html").decode()
    lost = {name for name in here if Path(name).name.partition(".")[0] in (*PICTURED, "paper")}
    assert {f"mini/{name}.{form}" for name in PICTURED for form in ("png", "data.csv")} <= lost
    drawn = {Path(name).name for name in there if name.endswith(".png")}
    assert {"search_history.png", "search_importance.png", "shuffled_accuracy.png"} <= drawn
    there = {
        name: c for name, c in there.items() if not name.endswith("paper.tex")
    }  # of the figures that there are
    assert there == {name: content for name, content in here.items() if name not in lost}
    assert "has numbers only" not in pages[0]
    assert pages[1].count(f"Not drawn: {rows} has numbers only; pictures and pred") == len(PICTURED)


def test_beside_a_folder_it_is_as_that_folder_was(
    runs: Path, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pictures of the other folder are shown."""
    shown = {"table": ["background_shift", "ablation"], "figure": ["background_variants"]}
    monkeypatch.setattr(made, "ordered", shown.get)
    other = tmp_path / "other"
    sweep(other, ("baseline", "+ TIME"), (0,), backbone="DeiT")
    both = report(tmp_path / "a", rows, other), report(tmp_path / "b", runs, other)
    pages = [
        re.sub(rb'<script type="application/json".*', b"", of.pop("index.html")) for of in both
    ]
    assert pages[0] == pages[1]  # but for curves and logs, which are in folders alone
    assert both[0] == both[1] and "mini/background_variants.png" in both[0]


def test_several_folders_in_one_file(runs: Path, tmp_path: Path) -> None:
    other, file = tmp_path / "other", tmp_path / "rows.jsonl"
    sweep(other, ("baseline", "+ TIME"), (0,), backbone="DeiT")
    assert command(["--rows", str(file), str(runs), str(other)]) == 0
    merged = results.merged([runs, other]).drop(columns="run_dir")
    pd.testing.assert_frame_equal(results.load(file).drop(columns="run_dir"), merged)
    assert len(results.search_of(results.load(file))) == 1


def test_the_subsets_of_the_data_are_in_the_file(tmp_path: Path) -> None:
    """Which a figure marks classes by; the predictions that they lie beside are not."""
    folder, file = tmp_path / "runs", tmp_path / "rows.jsonl"
    sweep(folder, ("baseline",), (0,))
    (folder,) = {Path(run_dir) for run_dir in results.load(folder)["run_dir"]}
    kept = pd.DataFrame({"evaluation": ["image.background_shift"]})
    kept.attrs = {"classes": ["up", "still", "down"], "subsets": {"temporal": [0, 2]}}
    kept.to_parquet(folder / "predictions.parquet")
    assert command(["--rows", str(file), str(tmp_path / "runs")]) == 0
    (inside,) = set(results.load(file)["run_dir"])
    assert results.subsets(folder) == results.subsets(inside) == {"temporal": ("up", "down")}
    with pytest.raises(rows_file.OnlyNumbers):
        results.predictions(inside)
    (folder / "predictions.parquet").write_bytes(b"PAR1")
    with pytest.raises(DamagedFile, match="is not readable"):
        results.subsets(folder)


# --- the file ---


def test_the_same_runs_give_the_same_bytes(runs: Path, rows: Path, tmp_path: Path) -> None:
    moved = Path(shutil.copytree(runs, tmp_path / "moved" / "elsewhere"))
    again, plain = tmp_path / "again.jsonl.gz", tmp_path / "again.jsonl"
    assert (
        command(["--rows", str(again), str(moved)])
        == command(["--rows", str(plain), str(moved)])
        == 0
    )
    assert again.read_bytes() == rows.read_bytes()
    text = plain.read_text()
    assert gzip.decompress(again.read_bytes()).decode() == text
    assert str(tmp_path) not in text and '"host"' not in text and '"pid"' not in text


def test_what_is_added_to_runs_changes_no_other_line(tmp_path: Path) -> None:
    texts = []
    for seeds in ((0, 1), (0, 1, 2)):
        sweep(tmp_path / "runs", ("baseline",), seeds)
        assert command(["--rows", str(tmp_path / "rows"), str(tmp_path / "runs")]) == 0
        texts.append((tmp_path / "rows").read_text().splitlines()[:-1])
    assert set(texts[0]) < set(texts[1]) and len(texts[0]) > 100


def test_it_says_how_each_run_was_made(rows: Path) -> None:
    found = rows_file.read(rows).folders["0/b9546d10603b9974"]
    assert found["code"]["commit"].startswith("384f6d8c") and len(found["code"]["tree"]) == 64
    assert found["device"]["name"] == "AMD EPYC" and found["started"].startswith("2026-11-24")
    assert found["versions"]["torch"] == "2.15.0" and found["seconds"]
    assert found["config"]["model"]["name"] == "timesformer"


TEXT = st.text(st.characters(codec="utf-8"), max_size=8)
VALUES = st.floats() | st.sampled_from([0.1 + 0.2, 5e-324, -0.0, 1 / 3])
ROW = st.fixed_dictionaries(
    {
        **{name: TEXT for name in ("sweep", "scale", "overrides", "signature", "state", "reason")},
        **{name: TEXT | st.none() for name in ("evaluation", "split", "view", "subset", "metric")},
        "run_dir": TEXT.map(lambda name: f"0/{name}"),
        "seed": st.integers(0, 2**63 - 1),
        "value": VALUES,
        "n": st.integers(0, 2**40),
        "n_failed": st.integers(0, 9),
    },
    optional={"an axis": TEXT | st.none(), "train_replaced": st.integers(0, 9)},
)


@given(st.lists(ROW, min_size=1, max_size=6))
@settings(max_examples=40, deadline=None)
def test_any_rows_read_back_to_the_bit(
    tmp_path_factory: pytest.TempPathFactory, records: list[dict[str, Any]]
) -> None:
    path = tmp_path_factory.mktemp("any") / "rows"
    columns = ["an axis", *results.COLUMNS]
    frame = pd.DataFrame(records, columns=columns)
    rows_file.write(path, rows_file.RowsFile(frame))
    back = rows_file.read(path).frame
    expected = frame.assign(run_dir=[f"{path}/{name}" for name in frame["run_dir"]])
    pd.testing.assert_frame_equal(back, expected, check_exact=True)
    there = frame["value"].notna()  # one NaN is as good as another
    assert np.signbit(back["value"])[there].equals(np.signbit(frame["value"])[there])


# --- damage and wrong use ---


@pytest.mark.parametrize("kind", ["truncated", "empty", "zeros", "flipped"])
@pytest.mark.parametrize("name", ["rows.jsonl.gz", "rows.jsonl"])
def test_no_number_of_a_damaged_file_is_shown(
    name: str, kind: str, rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, out = tmp_path / name, tmp_path / "out"
    whole = rows_file.read(rows)
    for seed in range(8):
        shutil.copy(rows, file)
        if name == "rows.jsonl":
            file.write_bytes(gzip.decompress(rows.read_bytes()))
        assert command(["--verify", str(file)]) == 0
        damage(file, kind, seed)
        try:
            read = rows_file.read(file)
        except DamagedFile:
            assert command(["--verify", str(file)]) == 1
            assert build.main(["--runs", str(file), "--out", str(out)]) == 2 and not out.exists()
            assert capsys.readouterr().err.count("\n") == 1
        else:  # a bit of gzip's header that says nothing of the content
            assert kind == "flipped" and name.endswith(".gz")
            assert read.folders == whole.folders


def test_a_sealed_file_that_is_no_file_of_rows_is_refused(tmp_path: Path) -> None:
    head = {rows_file.MARK: 1, "columns": ["value"]}
    for lines in (
        [head, 3],
        [head, {"cell": {}}],
        [head, ["a"]],
        [{**head, rows_file.MARK: 2}],
        [{rows_file.MARK: 1}],
    ):
        body = "".join(f"{json.dumps(line)}\n" for line in lines)
        path = tmp_path / "rows"
        seal = hashlib.sha256(body.encode()).hexdigest()
        path.write_text(f'{body}{{"seal": "{seal}"}}\n')
        with pytest.raises(DamagedFile, match=r"no file of rows|has schema 2"):
            rows_file.read(path)


def test_wrong_use_is_one_line_and_writes_nothing(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    for arguments, why in (
        (["rows", "nowhere"], "nowhere is no folder of runs"),
        (["rows", "file"], "file is no folder of runs"),
        (["rows", "empty"], "no runs in"),
        (["file/rows", str(runs)], "no folder but a file"),
        (["empty", str(runs)], "irectory"),
    ):
        before = sorted(tmp_path.rglob("*"))
        assert command(["--rows", *(str(tmp_path / name) for name in arguments)]) == 2
        said = capsys.readouterr().err
        assert why in said and said.count("\n") == 1, said
        assert sorted(tmp_path.rglob("*")) == before
