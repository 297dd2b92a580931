"""Tables in print: as large as their place lets them be, and all of a setting in one document."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from frames import full

from bench.results import rows
from reports import build, latex, table
from reports.tables import main_result, within_pairs


def wide(columns: int) -> table.Table:
    cells = tuple(table.text("59.2 ± 1.2") for _ in range(columns))
    heads = tuple(table.Column("Original") for _ in range(columns))
    return table.Table("t", "One. Two.", ("Method",), heads, (table.Row(("baseline",), cells),))


def test_a_table_stands_where_it_is_readable() -> None:
    """In one column, across both, on its side; always with letters of 7 points and more."""
    places = [latex.fit(wide(columns)) for columns in (3, 8, 14)]
    assert [place for place, _ in places] == ["table", "table*", "sidewaystable*"]
    assert min(latex.SIZES[size] for _, size in places) >= 7
    text = latex.latex(wide(8), "x_y")
    assert "\\begin{table*}[t]" in text and text.rstrip().endswith("\\end{table*}")


def test_a_caption_is_short_and_a_minus_is_one() -> None:
    built = main_result.build(full((0, 1)))
    text = latex.latex(built)
    caption = next(line for line in text.splitlines() if line.startswith("\\caption"))
    assert caption.count(". ") == 0 and "Numbers are percent" not in caption
    assert "Numbers are percent" in text
    assert "Original $-$ Shuffled" in latex.latex(
        table.Table(
            "t", "Gap = Original - Shuffled. More.", ("M",), (), (table.Row(("a - b",), ()),)
        )
    )


def test_an_empty_table_is_no_file_of_a_paper(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "runs").mkdir()
    monkeypatch.setattr(rows, "load", lambda folder: full((0, 1)))
    assert build.main(["--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "out")]) == 0
    folder = tmp_path / "out" / "mini"
    assert (folder / "background_shift.md").is_file() and not (
        folder / "background_shift.tex"
    ).exists()
    paper = (folder / "paper.tex").read_text()
    assert "\\input{ablation.tex}" in paper and "background_shift" not in paper
    for figure in folder.glob("*.png"):
        assert figure.with_suffix(".caption.txt").read_text().strip()
        assert f"{{{figure.stem}.pdf}}" in paper
    assert within_pairs.build(full((0, 1))).rows


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_the_paper_compiles_and_nothing_sticks_out(tmp_path: Path) -> None:
    committed = Path(__file__).parents[2] / "reports" / "example" / "rows.jsonl.gz"
    assert build.main(["--runs", str(committed), "--out", str(tmp_path)]) == 0
    command = ["pdflatex", "-halt-on-error", "-interaction=nonstopmode", "paper.tex"]
    done = subprocess.run(
        command, cwd=tmp_path / "mini", capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:]
    assert "Overfull" not in done.stdout
