"""A damaged file of any kind: listed with its path and what is wrong with it, and everything else stands."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from disks import fill, small_disk
from makers import ROOT
from pictured import model, sweep
from rich.console import Console

from bench import results
from bench.results.command import main as command
from bench.store.files import read_json, write_json
from bench.store.result_files import Kind, write_result
from reports import build, made, table, terminal

TABLES, FIGURES = ["background_shift", "ablation"], ["background_variants", "search_history"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Real runs of an earlier version, without seals, and an image sweep with all that is kept."""
    folder = tmp_path_factory.mktemp("whole") / "runs"
    shutil.copytree(ROOT / "tests/fixtures/old_runs/runs", folder)
    sweep(folder, ("baseline", "+ TIME"), (0, 1))
    model(folder, data="mini_imagenet9")
    (folder / "tune/weights").mkdir(parents=True)
    trial = {"number": 0, "state": "COMPLETE", "params": {}, "value": 0.5, "intermediate": {}}
    about = {
        "study": "weights", "title": "Weights", "scale": "mini", "overrides": {}, "metric": "val/top1",
        "split": "tune", "direction": "maximize", "sampler": "TPE", "best": 0, "importances": {},
        "importances_reason": "", "trials": [trial],
    }  # fmt: skip
    write_result(folder / "tune/weights/trials.json", Kind.SEARCH, about)
    return folder


@pytest.fixture
def runs(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "runs"))


@pytest.fixture
def report(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    monkeypatch.setattr(made, "FIGURE_FORMATS", ("png",))
    monkeypatch.setattr(made, "ordered", {"table": TABLES, "figure": FIGURES}.get)
    return lambda *more: build.main(["--runs", str(runs), "--out", str(tmp_path / "out"), *more])


def without(key: str) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        found = read_json(path) or {}
        assert key in found
        write_json(path, {name: value for name, value in found.items() if name != key})

    return damage


def bytes_of(content: bytes) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(content) and None


KINDS = {
    "result": ("0094dbc920555cda/result.json", without("data_digest")),
    "result, nonsense": (
        "0094dbc920555cda/result.json",
        bytes_of(b'{"data_digest": "", "rows": 3}'),
    ),
    "result, odd": (
        "0094dbc920555cda/result.json",
        bytes_of(b'{"data_digest": "", "objectives": 3}'),
    ),
    "result, cut": ("0094dbc920555cda/result.json", bytes_of(b'{"data_dig')),
    "config": ("0094dbc920555cda/config.yaml", bytes_of(b"\x00: [")),
    "manifest": ("sweeps/*.json", bytes_of(b"{}")),
    "predictions": ("*/predictions.parquet", bytes_of(b"PAR1")),
    "model": ("evaluated/*.json", without("provenance")),
    "search": ("tune/*/trials.json", bytes_of(b"[]")),
}


@pytest.mark.parametrize("kind", list(KINDS))
def test_it_is_listed_and_the_rest_stands(
    kind: str,
    runs: Path,
    report: Callable[..., int],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    pattern, damage = KINDS[kind]
    found = sorted(runs.glob(pattern))
    for path in found if kind == "predictions" else found[:1]:
        damage(path)
    assert report() == 0
    text = (tmp_path / "out/index.html").read_text()
    _, _, listed = text.partition('<section id="damaged">')
    listed = listed.partition("</section>")[0]
    places = [found[0].parent] if kind == "result, odd" else found
    assert any(f"<code>{path}</code>" in listed for path in places)
    assert any(folder.is_dir() for folder in (tmp_path / "out").iterdir())


def test_nothing_is_listed_where_all_is_whole(
    report: Callable[..., int], runs: Path, tmp_path: Path
) -> None:
    assert report() == 0
    assert 'id="damaged"' not in (tmp_path / "out/index.html").read_text()
    assert results.load(runs).attrs["damaged"] == ()


def test_a_file_of_rows_can_be_written_beside_damage(runs: Path, tmp_path: Path) -> None:
    """What is damaged is a hole there as well."""
    without("data_digest")(runs / "0094dbc920555cda/result.json")
    assert command(["--rows", str(tmp_path / "rows.jsonl"), str(runs)]) == 0
    rows = results.load(tmp_path / "rows.jsonl").query("signature == '0094dbc920555cda'")
    assert rows["value"].isna().all() and set(rows["state"]) == {"DAMAGED"}


def test_only_where_nothing_can_be_read_nothing_is_built(
    report: Callable[..., int], runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in [*runs.glob("sweeps/*.json"), *runs.glob("evaluated/*.json")]:
        path.write_text("{}")
    assert report() == 2
    error = capsys.readouterr().err
    assert "can be read" in error and "damaged" in error and "Traceback" not in error
    assert not (tmp_path / "out").exists()


def test_a_full_disk_is_one_line(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(made, "ordered", {"table": TABLES, "figure": []}.get)
    with small_disk(tmp_path / "disk", 1) as disk:
        fill(disk)
        assert build.main(["--runs", str(runs), "--out", str(disk / "report")]) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1 and "cannot write the report" in error[0]


# --- the terminal ---


def summary(width: int) -> tuple[str, table.Table]:
    columns = tuple(table.Column(f"Column {k}", "Group" if k % 2 else "") for k in range(6))
    cells = tuple(table.text(f"{k}0.0 ± 1.0") for k in range(6))
    cells = tuple(table.TableCell(c.text, status="complete", value=1.0) for c in cells)
    built = table.Table("Title", "", ("Method",), columns, (table.Row(("baseline",), cells),))
    console = Console(width=width, record=True, file=None, quiet=False)
    shown, left_out = terminal._fitting(built, "mini", width)
    with console.capture() as captured:
        console.print(shown)
    return captured.get() + "|" + ", ".join(left_out), built


@pytest.mark.parametrize("width", [20, 40, 60, 80, 200])
def test_columns_that_have_no_room_are_named(width: int) -> None:
    text, built = summary(width)
    shown, _, left_out = text.rpartition("|")
    for column in built.columns:
        name = column.heading
        assert (name in " ".join(shown.split())) != (name in left_out)
    assert (left_out == "") == (width == 200) or width == 80
