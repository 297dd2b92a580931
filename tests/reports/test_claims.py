"""README and docs say what the committed tables say, wherever a sentence or a table is marked."""

from __future__ import annotations

import re
from pathlib import Path

import claims
import pytest
from frames import METHODS, _number, cell, frame
from hypothesis import given
from hypothesis import strategies as st
from makers import ROOT
from scipy import stats as scipy_stats

from bench import find
from reports import formats

EXAMPLE = ROOT / "reports/example"
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SEEDS = (0, 1, 2)
ORIGINAL = {"baseline": (0.50, 0.52, 0.51), "+ TIME": (0.60, 0.64, 0.62)}
SHUFFLED = {"baseline": (0.50, 0.51, 0.53), "+ TIME": (0.40, 0.45, 0.44)}
UNBIASED = {"baseline": (0.30, 0.31, 0.30), "+ TIME": (0.30, 0.36, 0.31)}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_what_is_marked_holds(path: Path) -> None:
    assert claims.problems(path.read_text(encoding="utf-8"), EXAMPLE) == []


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ablation of known numbers, + flow with a seed less, as the report writes it."""
    cells = []
    for method in METHODS:
        for seed in SEEDS[: 3 if method != "+ flow" else 2]:
            of = method if method == "+ TIME" else "baseline"
            original, shuffled = ORIGINAL[of][seed], SHUFFLED[of][seed]
            values = {"original": original, "shuffled": shuffled, "gap": original - shuffled}
            numbers = [
                _number("video.shuffle_gap", "test", view, "all", "top1", value)
                for view, value in values.items()
            ]
            unbiased = ("test_unbiased", "original", "all", "top1", UNBIASED[of][seed])
            numbers.append(_number("video.shuffle_gap", *unbiased))
            cells.append(cell(method, seed, numbers=numbers))
    cells.append(cell("+ flow", 2, state="PENDING"))
    folder = tmp_path_factory.mktemp("tables")
    (folder / "mini").mkdir()
    built = find.load("table", "ablation").build(frame(*cells))
    (folder / "mini/ablation.json").write_text(formats.json(built, "ablation"), encoding="utf-8")
    return folder


TIME, BASE = '"TimeSformer + TIME @ test: Gap"', '"TimeSformer baseline"'
UP = '"+ TIME @ test_unbiased: Original"'


@pytest.mark.parametrize(
    "said",
    [
        f"{TIME} > {BASE}",
        f"{TIME} > baseline separated",
        f"{TIME} - {BASE} > 15 separated",
        f"{TIME} < 30",
        '"baseline @ test: Gap" < 1 not separated',
        '"baseline @ test: Shuffled" > "baseline @ test: Original"',
        f"{UP} > baseline not separated",
    ],
)
def test_a_right_claim_holds(said: str, tables: Path) -> None:
    assert claims.problems(f"It does. <!-- claim: mini/ablation {said} -->", tables) == []


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (f"mini/ablation {TIME} < {BASE}", "not below 0"),
        (f"mini/ablation {TIME} - {BASE} > 40", "not above 40"),
        (f"mini/ablation {UP} > baseline separated", "contains 0"),
        (f"mini/ablation {TIME} > baseline not separated", "excludes 0"),
        (f"mini/ablation {TIME} > 18 separated", "contains 18"),
        ('mini/ablation "+ TIMES @ test: Gap" > 0', "no row '\\+ TIMES', but TimeSformer baseline"),
        (
            'mini/ablation "+ TIME @ test: Gaps" > 0',
            "no column 'test: Gaps', but Seeds, test: Orig",
        ),
        ('mini/ablation "+ TIME @ Gap" > 0', "several of the columns 'Gap'"),
        ('mini/ablation "+ TIME" > 0', "no column ''"),
        ('mini/ablation "+ flow @ test: Gap" > -5', "seeds are missing: .* \\(2/3\\)"),
        ('mini/ablation "+ TIME @ test: Gap" > "+ flow"', "seeds are missing"),
        ('mini/ablation "baseline @ Change to baseline: Gap" > 0', "no number: reference"),
        (f"mini/ablations {TIME} > 0", "no table mini/ablations, but mini/ablation"),
        (f"mini/ablation {TIME} >= 0", "not of the form"),
        (f"mini/ablation {TIME} > 0 seperated", "not of the form"),
        ('mini/ablation "TimeSformer', "not of the form"),
    ],
)
def test_a_wrong_claim_is_named_with_its_line(said: str, why: str, tables: Path) -> None:
    (problem,) = claims.problems(f"One line.\n\nTIME does it. <!-- claim: {said} -->\n", tables)
    assert problem.startswith("line 3: claim: ") and re.search(why, problem), problem


def test_one_seed_is_separated_from_nothing(tables: Path, tmp_path: Path) -> None:
    rows = frame(*(cell(method, 0) for method in METHODS))
    (tmp_path / "mini").mkdir()
    built = formats.json(find.load("table", "ablation").build(rows))
    (tmp_path / "mini/ablation.json").write_text(built, encoding="utf-8")
    mark = f"<!-- claim: mini/ablation {TIME} > {BASE}%s -->"
    assert claims.problems(mark % "", tmp_path) == []
    assert "one seed has no interval" in claims.problems(mark % " separated", tmp_path)[0]


def test_cells_of_other_seeds_or_data_are_not_paired(tmp_path: Path) -> None:
    (tmp_path / "mini").mkdir()
    for changes, why in (
        ({"seed": 1}, "other seeds"),
        ({"seed": 0, "data_digest": "made anew"}, "other data"),
    ):
        rows = frame(cell("baseline", 0), cell("+ TIME", **changes))
        built = formats.json(find.load("table", "ablation").build(rows))
        (tmp_path / "mini/ablation.json").write_text(built, encoding="utf-8")
        mark = f"<!-- claim: mini/ablation {TIME} > {BASE} -->"
        assert why in claims.problems(mark, tmp_path)[0]


@given(st.lists(st.floats(-30, 30).map(lambda x: round(x, 2)), min_size=2, max_size=6, unique=True))
def test_the_interval_is_that_of_a_paired_t_test(values: list[float]) -> None:
    base = [50 + 3.7 * k for k in range(len(values))]
    test = scipy_stats.ttest_rel([v + b for v, b in zip(values, base, strict=True)], base)
    low, high = test.confidence_interval(0.95)
    assert claims.interval(values) == pytest.approx((low, high), abs=1e-6)


# --- numbers ---


@pytest.mark.parametrize("shown", ["19.0 ± 1.0", "**19.0**", "+19.0 points", "19.0 ± 1.0 %"])
def test_a_number_in_a_sentence_is_that_of_its_cell(shown: str, tables: Path) -> None:
    sentence = f"Of 3 seeds a gap of {shown}<!-- number: mini/ablation {TIME} --> in the mean."
    assert claims.problems(sentence, tables) == []
    for wrong in (("19.0", "19.1"), ("19.0", "9.0"), ("19.0", "119.0"), ("± 1.0", "± 1.1")):
        if wrong[0] in sentence:
            (problem,) = claims.problems(sentence.replace(*wrong), tables)
            assert "stands there, the table has 19.0 ± 1.0" in problem


def test_a_negative_number_is_not_a_positive_one(tables: Path) -> None:
    mark = 'A gap of %s0.3<!-- number: mini/ablation "baseline @ test: Gap" -->'
    assert claims.problems(mark % "-", tables) == claims.problems(mark % "\N{MINUS SIGN}", tables)
    assert claims.problems(mark % "-", tables) == []
    assert len(claims.problems(mark % "+", tables)) == len(claims.problems(mark % "", tables)) == 1
    assert "no number stands before" in claims.problems(mark.replace("%s0.3", "it"), tables)[0]


TABLE = """<!-- numbers: mini/ablation -->

| top-1 | Original | Gap |
|:--|--:|--:|
| TimeSformer | 51.0 ± 1.0 | −0.3 ± 1.5 |
| **+ TIME** (all) | **62.0 ± 2.0** | **19.0 ± 1.0** |
"""


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (("", ""), ""),
        (("**62.0 ± 2.0**", "—"), ""),
        (("62.0 ± 2.0", "62.1 ± 2.0"), "not in the tables: 62.1 ± 2.0"),
        (("62.0 ± 2.0", "62.0"), "not in the tables: 62.0"),
        (("**62.0 ± 2.0** | **19.0 ± 1.0**", "19.0 ± 1.0 | 62.0 ± 2.0"), "no column of the tables"),
        (("62.0 ± 2.0", "51.0 ± 1.0"), "not in one row"),
        (("| TimeSformer | 51.0", "Text.\n\n| TimeSformer | 51.0"), "no table with numbers"),
        (("mini/ablation", "mini/other"), "no table mini/other"),
        (("numbers:", "nubmers:"), "no mark is called 'nubmers'"),
    ],
)
def test_the_numbers_of_a_table_are_in_the_committed_one(
    change: tuple[str, str], why: str, tables: Path
) -> None:
    found = claims.problems(TABLE.replace(*change) if change[0] else TABLE, tables)
    assert [bool(re.search(re.escape(why), problem)) for problem in found] == [True] * bool(why)


def test_code_is_not_read_and_the_recipe_is_right(tables: Path) -> None:
    mark = f"<!-- claim: mini/ablation {TIME} < 0 -->"
    assert claims.problems(f"`{mark}`\n\n```\n{mark}\n```\n", tables) == []
    recipe = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    kinds = [mark[1] for mark in claims.MARK.finditer(recipe)]
    assert kinds == ["claim", "number", "numbers"]
    (claim,) = (mark[2] for mark in claims.MARK.finditer(recipe) if mark[1] == "claim")
    assert claims.parse(claim).separated is True
