"""Reports from synthetic results: aggregation, gaps, equal cells, determinism, discovery."""

from __future__ import annotations

import itertools
import json
import re
import shutil
import subprocess
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from components import only
from frames import (
    BACKBONES,
    BASELINE,
    METHODS,
    PROVENANCE,
    VARIANTS,
    _number,
    cell,
    frame,
    full,
    realistic,
    sensitivity,
    signature,
    top1,
    union,
)
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox
from rendered import by_label, contents, from_csv, from_html, from_json, from_markdown, from_tex

from bench import find
from bench.results import rows
from reports import build, formats, hypertext, latex, made, published, stats, style, table

FIGURES_OF_THE_ABLATION = ("shuffled_accuracy", "order_by_depth")
ORIGINAL_TOP1 = stats.Measure("video.shuffle_gap", "test", "original")


@pytest.fixture
def report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Run the command line on a frame; its output goes to tmp_path / "out"."""
    runs = tmp_path / "runs"
    runs.mkdir()

    def run(results: pd.DataFrame, *options: str, out: str = "out", figures: str = "none") -> int:
        if figures == "none":  # drawing takes most of the time of a build
            only("figure", {}, runs, monkeypatch)
        monkeypatch.setattr(rows, "load", lambda folder: results)
        return build.main(["--runs", str(runs), "--out", str(tmp_path / out), *options])

    return run


# --- aggregation -------------------------------------------------------------------------------


def test_mean_and_sample_deviation_over_seeds() -> None:
    values = {0: 0.60, 1: 0.62, 2: 0.67}
    number = stats.aggregate(
        frame(*(cell(seed=seed, numbers=top1(value)) for seed, value in values.items())),
        BASELINE,
        ORIGINAL_TOP1,
    )
    assert number.mean == pytest.approx(63.0)
    assert number.std == pytest.approx(np.std([60, 62, 67], ddof=1))
    assert table.measured(number).text == "63.0 ± 3.6"
    assert number.signatures == tuple(signature("TimeSformer", "baseline", seed) for seed in values)
    assert (number.complete, number.samples, number.reason) == (True, 500, "")


def test_one_seed_has_no_deviation() -> None:
    number = stats.aggregate(frame(cell(numbers=top1(0.6))), BASELINE, ORIGINAL_TOP1)
    assert number.std is None
    assert table.measured(number).text == "60.0"


def test_a_missing_seed_is_marked_and_explained() -> None:
    cells = [cell(seed=0), cell(seed=1), cell(seed=2, state="FAILED", reason="OOM\ntraceback")]
    shown = table.measured(stats.aggregate(frame(*cells), BASELINE, ORIGINAL_TOP1))
    assert shown.text.endswith(" (2/3)")
    assert shown.status == "incomplete"
    assert shown.hole
    assert shown.reason == "seed 2 FAILED: OOM"


@pytest.mark.parametrize("state", ["FAILED", "RUNNING", "PENDING", "INTERRUPTED", "STALE", "NEW"])
def test_only_done_runs_count(state: str) -> None:
    """Also not when an old result is still there, as in a stale run."""
    results = frame(cell(state=state, numbers=top1(0.6)))
    shown = table.measured(stats.aggregate(results, BASELINE, ORIGINAL_TOP1))
    assert (shown.text, shown.value, shown.status) == (table.DASH, None, "missing")
    assert state in shown.reason


def test_a_skipped_cell_is_a_dash_but_no_hole() -> None:
    results = frame(cell(state="SKIPPED", reason="one frame has no order", signature=""))
    shown = table.measured(stats.aggregate(results, BASELINE, ORIGINAL_TOP1))
    assert (shown.text, shown.status, shown.hole) == (table.DASH, "skipped", False)
    assert "one frame has no order" in shown.reason


@pytest.mark.parametrize("column", stats.MADE_FROM)
def test_differently_made_data_is_never_averaged(column: str) -> None:
    other = {column: "torchcodec | other"}
    results = frame(cell(seed=0), cell(seed=1), cell(seed=2, **other))
    shown = table.measured(stats.aggregate(results, BASELINE, ORIGINAL_TOP1))
    assert (shown.text, shown.value) == (table.DASH, None)
    assert "not averaged" in shown.reason
    assert "torchcodec | other" in shown.reason


def test_different_numbers_of_samples_are_never_averaged() -> None:
    results = frame(cell(numbers=top1(0.6)), cell(seed=1, numbers=top1(0.6, n=499)))
    assert "499 and 500" in stats.aggregate(results, BASELINE, ORIGINAL_TOP1).reason


def test_a_hidden_axis_is_never_averaged() -> None:
    results = frame(
        cell(depth="4", numbers=top1(0.6)),
        cell(depth="8", numbers=top1(0.7), signature="f" * 16),
    )
    number = stats.aggregate(results, BASELINE, ORIGINAL_TOP1)
    assert number.mean is None
    assert "depth also varies" in number.reason


def test_a_run_shared_by_two_sweeps_counts_once() -> None:
    results = frame(cell(numbers=top1(0.6)), cell(numbers=top1(0.6), sweep="backbones"))
    number = stats.aggregate(results, BASELINE, ORIGINAL_TOP1)
    assert (number.values, number.complete) == ((60.0,), True)


def test_a_stale_run_gives_way_to_the_current_one() -> None:
    results = frame(
        cell(state="STALE", numbers=top1(0.1), signature="0" * 16), cell(numbers=top1(0.6))
    )
    assert stats.aggregate(results, BASELINE, ORIGINAL_TOP1).values == (60.0,)


def test_difference_is_paired_by_seed() -> None:
    base = {0: 0.5, 1: 0.6, 2: 0.7}
    full_method = {0: 0.52, 1: 0.62, 2: 0.72}
    results = frame(
        *(cell("baseline", seed, numbers=top1(value)) for seed, value in base.items()),
        *(cell("+ TIME", seed, numbers=top1(value)) for seed, value in full_method.items()),
    )
    first, second = (
        stats.aggregate(results, {**BASELINE, "method": method}, ORIGINAL_TOP1)
        for method in ("+ TIME", "baseline")
    )
    change = stats.difference(first, second)
    assert change.mean == pytest.approx(2.0)
    assert change.std == pytest.approx(0.0, abs=1e-9)
    assert table.measured(change, signed=True).text == "+2.0 ± 0.0"
    assert len(change.signatures) == 6


def test_other_evaluations_sweeps_stay_out() -> None:
    image = _number("image.background_shift", "test", "original", "all", "top1", 0.8)
    results = frame(
        cell(),
        cell("+ TIME", 0, "DeiT", sweep="background", numbers=[image]),
        cell("+ order", 0, "DeiT", sweep="background", state="PENDING"),
    )
    kept = stats.of_evaluation(results, "video.shuffle_gap")
    assert set(kept["backbone"]) == {"TimeSformer"}


def test_missing_columns_are_named() -> None:
    with pytest.raises(ValueError, match="provenance"):
        stats.checked(full().drop(columns="provenance"))


@pytest.mark.parametrize(
    ("value", "signed", "text"),
    [(-0.04, True, "0.0"), (1.26, True, "+1.3"), (-1.26, False, "\N{MINUS SIGN}1.3")],
)
def test_percent(value: float, signed: bool, text: str) -> None:
    assert table.percent(value, signed=signed) == text


# --- tables ------------------------------------------------------------------------------------


def build_table(name: str, results: pd.DataFrame) -> table.Table:
    built = find.load("table", name).build(results)
    assert isinstance(built, table.Table)
    return built


def test_published_numbers_are_those_of_the_slides() -> None:
    main, split = published.table("main_result"), published.table("temporal_static")
    images = published.table("backgrounds")
    assert main.number("X-ViT", "+ TIME", "top5") == 88.1
    assert split.number("TimeSformer", "+ TIME", "temporal gap") == 68.1
    assert images.number("any model", "+ order", "mixed_rand") == 48.4
    assert main.number("X-ViT", "+ flow", "top1") is None
    with pytest.raises(ValueError, match="main_result"):
        published.table("table 9")
    for methods in split.values.values():
        for columns in methods.values():
            for subset in ("all", "temporal", "static"):
                gap = columns[f"{subset} original"] - columns[f"{subset} shuffled"]
                assert columns[f"{subset} gap"] == pytest.approx(gap)


def test_published_beside_measured_and_never_compared_across_data() -> None:
    built = build_table("main_result", full())
    row = by_label(built, "TimeSformer", "+ TIME")
    assert row["2 paper"].text == "63.7"
    assert row["2 paper"].published
    assert any("not comparable" in note for note in built.notes)
    same = build_table("main_result", full().assign(data="ssv2", scale="paper"))
    assert not any("not comparable" in note for note in same.notes)
    shorter = build_table("main_result", full().assign(data="ssv2"))
    assert any("not the set-up" in note for note in shorter.notes)


def test_a_backbone_that_was_not_run_is_listed_with_its_reason() -> None:
    row = by_label(build_table("main_result", full()), "X-ViT", "baseline")
    assert row["1 Top-1 ↑"].hole
    assert "not run" in row["1 Top-1 ↑"].reason
    assert row["2 paper"].text == "60.1"


def test_ablation_has_every_method_of_the_sweep() -> None:
    extra = frame(*(cell(method, 0) for method in (*METHODS, "+ mine")))
    built = build_table("ablation", extra)
    assert [row.labels[1] for row in built.rows] == [*METHODS, "+ mine"]
    reference = by_label(built, "TimeSformer", "baseline")["8 Change to baseline: Original ↑"]
    assert reference.text == "reference"


def test_best_is_bold_among_complete_cells_only() -> None:
    value = {"baseline": 0.5, "+ order": 0.6, "+ TIME": 0.7}
    cells = [
        cell(method, seed, numbers=top1(value[method] + 0.0001 * seed * k))
        for k, method in enumerate(value)
        for seed in range(3)
    ]
    built = build_table("ablation", frame(*cells))
    assert {built.rows[i].labels[1] for i, _ in table.best(built)} == {"+ TIME"}
    failed = cell("+ TIME", 3, state="FAILED", reason="boom")
    built = build_table("ablation", frame(*cells, failed))
    # + TIME is better but incomplete, and + order is the best of what is complete.
    assert {built.rows[i].labels[1] for i, _ in table.best(built)} == {"+ order"}


def test_where_all_are_equal_none_is_best() -> None:
    same = frame(*(cell(method, numbers=top1(0.25)) for method in METHODS))
    assert not table.best(build_table("ablation", same))


def test_no_best_between_differently_made_data() -> None:
    results = frame(cell("baseline"), cell("+ order"), cell("+ TIME", provenance="other"))
    built = build_table("ablation", results)
    assert not table.best(built)
    assert any("no best is marked" in note for note in table.notes(built))


def test_an_unbiased_split_appears_only_where_there_is_one() -> None:
    without = full()
    without = without[without["split"] != "test_unbiased"]
    assert any(c.group == "test_unbiased" for c in build_table("ablation", full()).columns)
    assert not any(c.group == "test_unbiased" for c in build_table("ablation", without).columns)


def test_sweeps_with_further_axes_leave_the_main_tables_alone() -> None:
    """+ TIME at 4 frames or with other weights is not the + TIME of table 1."""
    alone = frame(*(cell(m, s, b) for b in BACKBONES for m in METHODS for s in (0, 1, 2)))
    for name in ("main_result", "temporal_static"):
        beside, without = build_table(name, union()), build_table(name, alone)
        assert [row.labels for row in beside.rows] == [row.labels for row in without.rows]
        assert not beside.holes
        for one, other in zip(beside.rows, without.rows, strict=True):
            assert [c.text for c in one.cells] == [c.text for c in other.cells]
    ablation = build_table("ablation", union())
    assert {row.labels[0] for row in ablation.rows} == {"TimeSformer"}
    assert not ablation.holes
    only = build_table("main_result", sensitivity())
    assert only.rows == () and "frames, variant. See the sweep sensitivity" in only.notes[0]


def test_sensitivity_has_one_row_per_setting_beside_its_references() -> None:
    built = build_table("sensitivity", union())
    assert [row.labels[:2] for row in built.rows][:6:2] == [
        ("frames", "4"),
        ("frames", "8, as released"),
        ("frames", "16"),
    ]
    assert [row.labels[:2] for row in built.rows][6:8] == [
        ("order weight", "0.3"),
        ("order weight", "3"),
    ]
    assert len(built.rows) == 6 + len(VARIANTS) and not built.holes and not table.best(built)
    released = by_label(built, "frames", "8, as released", "TimeSformer", "+ TIME")
    assert [released[f"{j} test: paper"].text for j in (2, 4, 6)] == ["63.7", "25.3", "38.4"]
    assert released["8 Change to as released: Gap"].text == "reference"
    changed = by_label(built, "flow weight", "3", "TimeSformer", "+ TIME")
    full_gap, gap = released["5 test: Gap"].value, changed["5 test: Gap"].value
    assert full_gap is not None and gap is not None
    assert changed["8 Change to as released: Gap"].value == pytest.approx(gap - full_gap)
    assert changed["2 test: paper"].text == table.DASH
    assert not any("no best is marked" in note for note in table.notes(built))


def test_a_sensitivity_sweep_that_was_not_run_is_a_note_and_no_hole() -> None:
    built = build_table("sensitivity", full())
    assert not built.rows and not built.holes
    assert "sweeps/sensitivity.yaml" in built.notes[0]
    assert "<table" not in hypertext.html(built)
    missing = sensitivity().query("variant != 'order weight: 3' or seed != 2")
    pending = cell("+ TIME", 2, state="PENDING", frames="8", variant="order weight: 3")
    for row in pending:
        row["sweep"] = "sensitivity"
    partly = build_table("sensitivity", pd.concat([missing, frame(pending)]))
    assert {hole[0] for hole in partly.holes} == {"order weight 3 TimeSformer + TIME"}


def test_labels_sort_as_numbers() -> None:
    labels = ["16", "4", "nan", "per clip", "0.3", "8"]
    assert sorted(labels, key=stats.natural) == ["0.3", "4", "8", "16", "nan", "per clip"]


def test_a_ragged_table_is_refused() -> None:
    with pytest.raises(ValueError, match="2 labels"):
        table.Table("t", "", ("Method",), (), (table.Row(("a", "b"), ()),))


# --- formats -----------------------------------------------------------------------------------

NASTY = r"a_b & 50% #1 {x} \y ^z ~w $5 <b> | * ` [q]"


def nasty() -> table.Table:
    hole = table.measured(stats.Aggregate(()), not_run=NASTY)
    cells = (table.text("61.0 ± 0.5"), hole, table.text(NASTY))
    columns = tuple(table.Column(name, "group_1") for name in ("A", "B", NASTY))
    rows = (table.Row((NASTY,), cells), table.Row(("[b]",), cells))
    return table.Table("T_1", NASTY, ("Method",), columns, rows, (NASTY,))


@pytest.mark.parametrize(
    "name", ["main_result", "temporal_static", "ablation", "sensitivity", "nasty"]
)
def test_cells_are_equal_in_every_format(name: str) -> None:
    results = sensitivity() if name == "sensitivity" else realistic()
    built = nasty() if name == "nasty" else build_table(name, results)
    rows = from_csv(formats.csv(built))
    assert rows[0][0] == built.rows[0].labels[0]
    assert from_markdown(formats.markdown(built)) == rows
    assert from_json(formats.json(built)) == rows
    assert from_html(hypertext.html(built)) == rows
    assert from_tex(latex.latex(built)) == rows


def test_json_names_the_runs_behind_every_number() -> None:
    document = json.loads(formats.json(build_table("ablation", realistic()), "ablation"))
    cells = [cell for row in document["rows"] for cell in row["cells"]]
    for cell_ in cells:
        if cell_["status"] in ("complete", "incomplete"):
            assert cell_["value"] is not None
            assert cell_["signatures"]
            assert cell_["seeds"]
            assert cell_["made_from"][0]["provenance"] == PROVENANCE
        if cell_["status"] in ("missing", "incomplete", "skipped"):
            assert cell_["reason"]


def test_tex_escapes_everything() -> None:
    text = latex.escape_tex("50% a_b & c # {d} é 漢 \x07")
    assert text == r"50\% a\_b \& c \# \{d\} e ? ?"


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_tex_compiles(tmp_path: Path) -> None:
    names = ("main_result", "temporal_static", "ablation")
    tables = [latex.latex(build_table(name, realistic()), name) for name in names]
    tables.append(latex.latex(nasty(), "nasty"))
    document = tmp_path / "all.tex"
    document.write_text(
        "\\documentclass{article}\\usepackage{booktabs,graphicx,rotating}\\begin{document}\n"
        + "\n".join(tables)
        + "\\end{document}\n",
        encoding="utf-8",
    )
    command = ["pdflatex", "-halt-on-error", "-interaction=nonstopmode", document.name]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A report of the half-finished sweep, and a second one from the same rows in another order."""
    folder = tmp_path_factory.mktemp("built")
    first, second = folder / "first", folder / "second"
    shuffled = realistic().sample(frac=1, random_state=0)
    with pytest.MonkeyPatch.context() as patch:
        for out, results in ((first, realistic()), (second, shuffled)):
            patch.setattr(rows, "load", lambda runs, results=results: results)
            assert build.main(["--runs", str(folder), "--out", str(out)]) == 0
    return first, second


def test_build_writes_everything(built: tuple[Path, Path]) -> None:
    expected = {f"mini/ablation.{form}" for form in formats.FORMATS}
    expected |= {f"mini/shuffled_accuracy.{form}" for form in ("pdf", "png")}
    assert expected | {"index.html", "mini/order_by_depth.pdf"} <= set(contents(built[0]))


def test_the_same_results_give_the_same_bytes(built: tuple[Path, Path]) -> None:
    assert contents(built[0]) == contents(built[1])


def test_the_page_is_self_contained_and_escaped(built: tuple[Path, Path]) -> None:
    page = (built[0] / "index.html").read_text(encoding="utf-8")
    assert not re.search(r'(src|href)="(https?:)?//', page)
    assert "<head_1" not in page
    assert "&lt;head_1 &amp; 50%&gt;" in page
    assert page.count("data:image/webp;base64,") == 3
    assert signature("TimeSformer", "+ order", 1) in page
    for link in re.findall(r'href="(mini/[^"]+)"', page):
        assert (built[0] / link).is_file()
    anchors = re.findall(r'id="([^"]+)"', page)
    assert len(anchors) == len(set(anchors))
    assert set(re.findall(r'href="#([^"]+)"', page)) <= set(anchors)


def test_the_terminal_shows_the_summary(
    report: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert report(realistic()) == 0
    printed = capsys.readouterr().out
    assert "Ablation of the losses" in printed
    assert "61.5 ± 0.4" in printed
    assert "index.html" in printed


def test_settings_are_never_mixed(report: Callable[..., int], tmp_path: Path) -> None:
    changed = full().assign(overrides='{"train.epochs": 3, "data.path": "a/b"}')
    assert report(pd.concat([full(), full().assign(scale="paper"), changed])) == 0
    folders = sorted(path.name for path in (tmp_path / "out").iterdir() if path.is_dir())
    assert folders[0] == "mini"
    assert folders[1].startswith("mini__train.epochs=3__data.path=a_b-")
    assert folders[2] == "paper"


def test_strict_fails_on_holes_only(report: Callable[..., int]) -> None:
    complete = frame(
        *(
            cell(method, seed, backbone)
            for backbone in ("TimeSformer", "Motionformer", "X-ViT")
            for method in METHODS
            for seed in (0, 1)
        )
    )
    assert report(complete, "--strict") == 0
    assert report(union((0, 1)), "--strict") == 0
    assert report(realistic(), "--strict") == 1
    assert report(realistic()) == 0


def test_nothing_measured_yet_still_builds(report: Callable[..., int], tmp_path: Path) -> None:
    pending = frame(*(cell(method, state="PENDING") for method in METHODS))
    assert report(pending, figures="all") == 0
    page = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    assert page.count("Nothing to draw") == 1


def test_no_runs_is_one_message_and_writes_nothing(
    report: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert report(full().iloc[:0]) == 2
    assert build.main(["--runs", str(tmp_path / "absent"), "--out", str(tmp_path / "out")]) == 2
    assert report(full().drop(columns="state")) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    assert all("python -m bench.sweep sweeps/ablation.yaml" in line for line in lines[:2])
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_written_is_bad_input(
    report: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out").write_text("a file")
    assert report(full()) == 2
    assert "--out" in (err := capsys.readouterr().err) and "no folder but a file" in err


NEW_TABLE = """
from reports import table

ORDER = 5

def build(frame):
    row = table.Row(("x",), (table.text("42"),))
    return table.Table("Dropped in", "", ("a",), (table.Column("b"),), (row,))
"""


def test_a_dropped_in_file_is_found(
    report: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shipped = made.ordered("table")
    sources = {name: Path(find.load("table", name).__file__).read_text() for name in shipped}
    only("table", {**sources, "mine": NEW_TABLE}, tmp_path, monkeypatch)
    assert report(full()) == 0
    assert "Dropped in" in (tmp_path / "out" / "mini" / "mine.md").read_text()
    assert made.ordered("table") == ["mine", *shipped]


def test_tables_stand_in_the_order_of_the_paper() -> None:
    paper = ("main_result", "temporal_static", "ablation", "background_shift")
    assert [name for name in made.ordered("table") if name in paper] == list(paper)


@pytest.mark.parametrize(
    ("source", "error"),
    [
        ("import nothing_like_it", ModuleNotFoundError),
        ("def build(frame) return", SyntaxError),
        ("def build(frame): return 3", ValueError),
        ("def build(frame): raise KeyError('view')", KeyError),
    ],
)
def test_a_broken_file_fails_loudly(
    report: Callable[..., int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    source: str,
    error: type[Exception],
) -> None:
    only("table", {"broken": source}, tmp_path, monkeypatch)
    with pytest.raises(error) as caught:
        report(full())
    assert re.search(
        r"broken\.py|the table 'broken'", "".join(traceback.format_exception(caught.value))
    )
    assert not (tmp_path / "out").exists()


def test_a_file_that_is_no_table_gets_one_message_and_status_2(
    report: Callable[..., int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    only("table", {"broken": "x = 1"}, tmp_path, monkeypatch)
    assert report(full()) == 2
    error = capsys.readouterr().err
    assert "broken.py" in error and "wanted: build(frame: pd.DataFrame) -> table.Table" in error
    assert not (tmp_path / "out").exists()


def test_figures_mark_incomplete_means() -> None:
    for module in (find.load("figure", name) for name in FIGURES_OF_THE_ABLATION):
        figure = Figure()
        assert module.draw(realistic(), figure)
        texts = {item.get_text() for axes in figure.axes for item in axes.texts}
        assert any(text.endswith(" (2/3)") for text in texts), module.__name__
        ticks = {axes.get_xlim()[1] for axes in figure.axes}
        assert max(ticks) < 100
        assert not module.draw(realistic().assign(state="PENDING"), Figure())


def test_a_page_of_all_sweeps_has_one_place_for_everything(
    report: Callable[..., int], tmp_path: Path
) -> None:
    assert report(union((0, 1)), figures="all") == 0
    page = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    anchors = re.findall(r'id="([^"]+)"', page)
    assert len(anchors) == len(set(anchors))
    drawn = {path.stem for path in (tmp_path / "out" / "mini").glob("*.png")}
    assert {*FIGURES_OF_THE_ABLATION, "sensitivity_gap"} <= drawn
    assert page.count("data:image/webp;base64,") == len(drawn)
    # 5 methods of the ablation, 2 of each other backbone, 13 settings that only one sweep has.
    assert f"{(5 + 4 + 13) * 2} DONE" in page


def text_boxes(axes: Axes) -> Iterator[Bbox]:
    """Where the texts of a panel are drawn; an annotation without its arrow."""
    (left, right), (low, high) = sorted(axes.get_xlim()), sorted(axes.get_ylim())
    ticks = [t for t in axes.get_xticklabels() if left <= t.get_position()[0] <= right]
    ticks += [t for t in axes.get_yticklabels() if low <= t.get_position()[1] <= high]
    for text in (*axes.texts, axes._left_title, axes.xaxis.label, axes.yaxis.label, *ticks):
        if text.get_text() and text.get_visible():
            yield Text.get_window_extent(text)


@pytest.mark.parametrize("backbones", [1, 3])
def test_texts_of_figures_are_inside_and_apart(backbones: int) -> None:
    results = full() if backbones == 1 else union()
    for name in (*FIGURES_OF_THE_ABLATION, "sensitivity_gap"):
        module = find.load("figure", name)
        with style.applied():
            figure = Figure(dpi=100)
            if not module.draw(results, figure):
                continue
            FigureCanvasAgg(figure).draw()
            boxes = [box for axes in figure.axes for box in text_boxes(axes)]
        for box in boxes:
            assert box.x0 >= -1 and box.y0 >= -1, module.__name__
            assert box.x1 <= figure.bbox.x1 + 1 and box.y1 <= figure.bbox.y1 + 1, module.__name__
        for one, other in itertools.combinations(boxes, 2):
            across = min(one.x1, other.x1) - max(one.x0, other.x0)
            down = min(one.y1, other.y1) - max(one.y0, other.y0)
            assert across <= 2 or down <= 2, f"{module.__name__}: {one} {other}"


def test_labels_do_not_overlap() -> None:
    placed = style.spread([10.0, 11.0, 12.0, 90.0], [5.0] * 4, 0.0)
    assert all(b - a >= 5.0 - 1e-9 for a, b in itertools.pairwise(sorted(placed)))
    assert placed[3] == 90.0
    assert sorted(placed) == placed
    assert {style.colour("+ mine"), style.colour("+ mine")} == {style.colour("+ mine")}
