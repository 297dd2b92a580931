"""The committed example is what its committed rows give: every table, and the numbers of every figure."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from makers import ROOT
from pictured import model, sweep

from bench.results import rows_file
from bench.results.command import main as write
from reports import build, made, settings, written

SUFFIXES = (".md", ".json", ".csv", ".tex")
PAPER = "paper.tex"
"""It shows the pictures too, which rows do not have."""


@dataclass(frozen=True)
class Given:
    """What rows give: tables and numbers of figures by path, and the figures that show what rows have not."""

    files: Mapping[Path, bytes]
    pictured: Sequence[str]


def given_by(rows: Path) -> Given:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(made, "FIGURE_FORMATS", ())  # the numbers alone
        names = made.ordered("table"), made.ordered("figure")
        built = [made.report(part, *names) for part in settings.settings(build._load([rows]))]
    files = dict(file for report in built for file in written.files_of(report))
    figures = [(report, figure) for report in built for figure in report.figures]
    return Given(
        {p: c for p, c in files.items() if p.suffix in SUFFIXES and p.name != PAPER},
        [f"{r.folder}/{f.name}" for r, f in figures if "has numbers only" in f.caption],
    )


def differences(example: Path, given: Given) -> list[str]:
    """The files of an example that its rows do not give, or give and are not there; but those of figures
    that show pictures.
    """
    paths = [path for path in example.glob("*/*") if path.suffix in SUFFIXES and path.name != PAPER]
    there = {path.relative_to(example): path.read_bytes() for path in paths}
    there = {p: c for p, c in there.items() if str(p).partition(".data.")[0] not in given.pictured}
    return sorted(str(p) for p in given.files.keys() | there if given.files.get(p) != there.get(p))


@pytest.mark.parametrize("name", ["example", "study"])
def test_the_committed_reports_are_what_their_rows_give(name: str) -> None:
    folder = ROOT / "reports" / name
    (rows,) = folder.glob("rows.*")
    assert differences(folder, given_by(rows)) == [], f"`make {name}` makes it anew"


@pytest.fixture(scope="module")
def _example(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Given]:
    """As `make example` makes it: of real runs of an earlier version, and of an image sweep's records."""
    folder = tmp_path_factory.mktemp("example")
    shutil.copytree(ROOT / "tests/fixtures/old_runs/runs", folder / "runs")
    sweep(folder / "runs", ("baseline", "+ TIME"), (0, 1))
    model(folder / "runs", data="mini_imagenet9")
    out, runs = folder / "out", str(folder / "runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(made, "FIGURE_FORMATS", ("png",))  # which the page shows
        assert write(["--rows", str(out / "rows.jsonl.gz"), runs]) == 0
        assert build.main(["--runs", runs, "--out", str(out)]) == 0
    return out, given_by(out / "rows.jsonl.gz")


@pytest.fixture
def example(_example: tuple[Path, Given], tmp_path: Path) -> Path:
    return Path(shutil.copytree(_example[0], tmp_path / "example"))


@pytest.fixture
def given(_example: tuple[Path, Given]) -> Given:
    return _example[1]


def test_what_make_example_makes_is_right(example: Path, given: Given) -> None:
    assert differences(example, given) == []
    of_pictures = "mini/background_variants.data.csv"
    assert (example / of_pictures).is_file() and Path(of_pictures) not in given.files
    names = {str(path) for path in given.files}
    assert {
        "mini/background_accuracy.data.csv",
        "smoke/ablation.tex",
        "mini/background_shift.md",
    } < names


def changed(path: Path, by: float) -> Path:
    """The file with one number of one row changed, sealed anew."""
    rows = rows_file.read(path)
    frame = rows.frame.assign(run_dir=rows.frame["run_dir"].str.removeprefix(f"{path}/"))
    measured = frame[(frame["view"] == "mixed_rand") & (frame["subset"] == "all")].index[0]
    frame.loc[measured, "value"] += by
    other = path.with_name("rows.jsonl")
    rows_file.write(other, rows_file.RowsFile(frame, rows.folders, rows.searches))
    return other


@pytest.mark.parametrize(("by", "shown"), [(0.0, False), (1e-9, False), (0.01, True)])
def test_one_changed_number_of_one_row_is_found(by: float, shown: bool, example: Path) -> None:
    found = differences(example, given_by(changed(example / "rows.jsonl.gz", by)))
    exact = ("mini/background_shift.json", "mini/background_accuracy.data.csv")
    assert [name in found for name in exact] == [by > 0] * 2
    assert [f"mini/background_shift.{form}" in found for form in ("md", "tex", "csv")] == [
        shown
    ] * 3
    assert bool(found) == (by > 0)


@pytest.mark.parametrize("name", ["mini/background_shift.tex", "mini/background_accuracy.data.csv"])
def test_a_file_that_was_changed_or_is_gone_or_new_is_found(
    name: str, example: Path, given: Given
) -> None:
    path = example / name
    path.write_bytes(path.read_bytes().replace(b"3", b"4", 1))
    assert differences(example, given) == [name]
    path.rename(path.with_name(f"old_{path.name}"))
    assert differences(example, given) == sorted([name, f"mini/old_{path.name}"])


def test_rows_that_were_changed_by_hand_are_refused(example: Path) -> None:
    path = changed(example / "rows.jsonl.gz", 0.0)
    text = path.read_text()
    path.write_text(text.replace(', "all", "top1", 0.', ', "all", "top1", 0.1', 1))
    with pytest.raises(ValueError, match="its seal does not match"):
        given_by(path)
