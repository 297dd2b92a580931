"""Intervals and bold numbers mean what they say: by simulation with known truth, and against second derivations."""

from __future__ import annotations

import json
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest
from frames import METHODS, cell, frame, full, top1
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as reference

from bench.results import correct
from reports import evidence, formats, published, stats, table
from reports.evidence import crossed, estimate, holm
from reports.tables import ablation, background_shift, main_result

SIMULATED = 500


def world(
    rng: np.random.Generator, methods: int, seeds: int, samples: int, *, lift: float = 0.0
) -> np.ndarray:
    """Right or wrong, methods x seeds x samples: samples differ in difficulty, alike for all; each run in skill, and
    in which samples it has taken to. `lift` is what each method is better than the one before, on a probit scale.
    """
    difficulty = rng.normal(0, 1.2, samples)
    taste = rng.normal(0, 0.5, (methods, 1, samples))
    skill = rng.normal(0, 0.12, (methods, seeds, 1)) + lift * np.arange(methods)[:, None, None]
    return (rng.normal(0, 1, (methods, seeds, samples)) < skill + taste + difficulty).astype(float)


def truth(lift: float) -> float:
    """The difference of two neighbouring methods over all seeds and samples there could be."""
    spread = (1 + 1.2**2 + 0.5**2 + 0.12**2) ** 0.5
    return float(reference.norm.cdf(lift / spread) - 0.5)


@pytest.mark.parametrize("seeds", [1, 2, 3, 5])
def test_intervals_cover_the_truth(seeds: int) -> None:
    """Of a mean and of a paired difference; of one seed the truth is that seed's, over all samples."""
    rng = np.random.default_rng(seeds)
    inside = np.zeros(2)
    for _ in range(SIMULATED):
        scores = world(rng, 2, seeds, 300, lift=0.2)
        if seeds == 1:  # that of this very seed: without a skill of its own
            scores = one_seed(rng)
        one, other = (_Known.of(of) for of in scores)
        found = estimate(one), estimate(stats.difference(other, one))
        mean, change = (item.interval for item in found if item is not None)
        inside += [mean[0] <= 50 <= mean[1], change[0] <= 100 * truth_of(seeds) <= change[1]]
    assert ((inside / SIMULATED >= 0.92) & (inside / SIMULATED <= 0.98)).all(), inside / SIMULATED


def one_seed(rng: np.random.Generator) -> np.ndarray:
    difficulty = rng.normal(0, 1.2, 300)
    right = [rng.normal(0, 1, 300) < skill + difficulty for skill in (0.0, 0.2)]
    return np.array(right, dtype=float)[:, None, :]


def truth_of(seeds: int) -> float:
    if seeds > 1:
        return truth(0.2)
    return float(reference.norm.cdf(0.2 / (1 + 1.2**2) ** 0.5) - 0.5)


@pytest.mark.parametrize(("seeds", "methods"), [(2, 2), (3, 3), (5, 4)])
def test_where_nothing_differs_hardly_a_table_has_a_bold_number(seeds: int, methods: int) -> None:
    rng = np.random.default_rng(10 * seeds + methods)
    bold = sum(
        bool(of_scores([world(rng, methods, seeds, 200) for _ in range(3)]).winners)
        for _ in range(200)
    )
    assert bold <= 0.05 * 200


def test_a_difference_that_is_there_is_found() -> None:
    rng = np.random.default_rng(0)
    found = [of_scores([world(rng, 2, 3, 1000, lift=0.6)]).winners for _ in range(20)]
    assert sum(one == {(1, 0)} for one in found) >= 15


def of_scores(columns: list[np.ndarray]) -> table.Table:
    """A table of such worlds, one a column, as `measured` makes it of runs that kept what they got right."""
    methods = len(columns[0])
    rows = []
    for i in range(methods):
        cells = [table.measured(_Known.of(scores[i])) for scores in columns]
        rows.append(table.Row((str(i),), tuple(cells)))
    heads = tuple(table.Column(str(j), better="up") for j in range(len(columns)))
    return table.Table("t", "", ("Method",), heads, tuple(rows))


class _Known:
    """Makes the files of rows that evidence reads unnecessary: places stand for their samples."""

    places: ClassVar[dict[str, np.ndarray]] = {}

    @classmethod
    def of(cls, scores_SN: np.ndarray) -> stats.Aggregate:
        runs = []
        for seed, row in enumerate(scores_SN):
            place = f"{len(cls.places)}"
            cls.places[place] = row.astype(bool)
            about = {
                "value": 100 * float(row.mean()),
                "samples": len(row),
                "kept": ((place, "test"),),
            }
            runs.append(stats.Run(seed, "DONE", "", (place,), ("d", "x", "p"), **about))
        return stats.Aggregate(tuple(runs), "", stats.Measure("e", "test", "original"))


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    _Known.places.clear()

    def found(place: str) -> correct.Correct:
        return {("test", "original"): _Known.places[place]} if place in _Known.places else {}

    monkeypatch.setattr(evidence, "correct_samples", found)


# --- second derivations ---


@given(st.integers(2, 6), st.integers(3, 40), st.integers(0, 10_000))
def test_the_mean_squares_are_those_of_a_two_way_analysis(
    seeds: int, samples: int, seed: int
) -> None:
    """Sums of squares by subtraction, from the totals."""
    scores = np.random.default_rng(seed).normal(size=(seeds, samples))
    total = (scores**2).sum() - scores.size * scores.mean() ** 2
    of_seeds = samples * (scores.mean(1) ** 2).sum() - scores.size * scores.mean() ** 2
    of_samples = seeds * (scores.mean(0) ** 2).sum() - scores.size * scores.mean() ** 2
    ms = of_seeds / (seeds - 1), of_samples / (samples - 1)
    rest = (total - of_seeds - of_samples) / ((seeds - 1) * (samples - 1))
    both = ms[0] + max(0.0, ms[1] - rest)
    found = crossed(scores)
    assert found.error == pytest.approx((both / scores.size) ** 0.5)
    assert found.freedom == pytest.approx(min(samples - 1, both**2 * (seeds - 1) / ms[0] ** 2))


@given(st.lists(st.floats(-50, 50), min_size=2, max_size=6, unique=True))
def test_without_samples_it_is_student_s_t_over_seeds(values: list[float]) -> None:
    runs = tuple(stats.Run(k, "DONE", "", (), value=v) for k, v in enumerate(values))
    found = estimate(stats.Aggregate(runs))
    assert found is not None and found.of == "seeds"
    again = reference.ttest_1samp(values, 0.0)
    assert found.interval == pytest.approx(tuple(again.confidence_interval()), rel=1e-6, abs=1e-9)
    assert found.p_value == pytest.approx(again.pvalue, rel=1e-6, abs=1e-12)


def test_of_one_seed_it_is_the_paired_test_over_samples() -> None:
    one, other = one_seed(np.random.default_rng(3))[:, 0]
    number = stats.difference(_Known.of(other[None]), _Known.of(one[None]))
    found = estimate(number)
    assert found is not None and found.of == "samples"
    assert found.p_value == pytest.approx(reference.ttest_rel(other, one).pvalue)


@given(st.lists(st.floats(0, 1), max_size=12))
def test_holm_against_its_definition(p_values: list[float]) -> None:
    """The k-th smallest is compared with level / (m - k + 1), and all before it must have passed."""
    adjusted = holm(p_values)
    for level in (0.01, 0.05, 0.2):
        passed: set[int] = set()
        order = sorted(range(len(p_values)), key=lambda k: p_values[k])
        for rank, k in enumerate(order):
            if p_values[k] * (len(p_values) - rank) >= level:
                break
            passed.add(k)
        assert {k for k, p in enumerate(adjusted) if p < level} == passed


# --- what runs keep ---


def test_which_samples_were_right_survives_a_file_of_rows() -> None:
    rng = np.random.default_rng(0)
    kept = pd.DataFrame(
        {
            "split": ["test"] * 20 + ["val"] * 11,
            "view": ["original"] * 31,
            "key": [f"{k:03}" for k in rng.permutation(31)],
            "label": rng.integers(0, 3, 31),
            "top5": [list(rng.permutation(3)) for _ in range(31)],
        }
    )
    found = correct.of_predictions(kept)
    for split in ("test", "val"):
        part = kept[kept["split"] == split].sort_values("key")
        right = [top[0] == label for top, label in zip(part["top5"], part["label"], strict=True)]
        assert found[split, "original"].tolist() == right
    again = correct.unpacked(json.loads(json.dumps(correct.packed(found))))
    assert {place: right.tolist() for place, right in again.items()} == {
        place: right.tolist() for place, right in found.items()
    }


def test_a_gap_is_of_each_sample_over_all_its_permutations(monkeypatch: pytest.MonkeyPatch) -> None:
    right = {"original": [1, 1, 0, 1], "shuffled_0": [1, 0, 0, 1], "shuffled_1": [0, 0, 0, 1]}
    places = {("test", name): np.array(of, dtype=bool) for name, of in right.items()}
    monkeypatch.setattr(evidence, "correct_samples", lambda place: places)
    measure = stats.Measure("video.shuffle_gap", "test", "gap")
    gap = np.array([0.5, 1, 0, 0])
    run = stats.Run(0, "DONE", "", (), value=37.5, samples=4, kept=(("x", "test"),))
    found = estimate(stats.Aggregate((run,), "", measure))
    assert found is not None and found.mean == pytest.approx(37.5)
    assert found.error == pytest.approx(100 * gap.std(ddof=1) / 2)
    # What does not give the number itself is no evidence for it.
    other = stats.Aggregate(
        (stats.Run(0, "DONE", "", (), value=30.0, kept=(("x", "test"),)),), "", measure
    )
    assert estimate(other) is None


# --- in tables ---


def test_one_seed_is_never_bold_but_has_an_interval() -> None:
    scores = [np.stack([np.zeros((1, 100)), np.ones((1, 100)) * (np.arange(100) > 3)])]
    built = of_scores(scores)
    assert built.winners == frozenset()
    low, high = built.rows[1].cells[0].interval or (0, 0)
    assert low < 96 < high


def test_a_difference_has_its_p_among_all_of_the_table() -> None:
    document = json.loads(formats.json(ablation.build(full((0, 1, 2)))))
    found = [c for row in document["rows"] for c in row["cells"] if "p" in c]
    assert found and all(c["p"] <= c["p_holm"] <= 1 for c in found)
    assert [c["p_holm"] for c in found] == pytest.approx(holm([c["p"] for c in found]))
    numbers = [c for row in document["rows"] for c in row["cells"] if c["n_seeds"] > 1]
    assert all(c["interval"][0] <= c["value"] <= c["interval"][1] for c in numbers)
    assert {c["interval_of"] for c in numbers} == {"seeds"}


def test_cells_in_intervals() -> None:
    labels = {"method": "baseline", "backbone": "TimeSformer"}
    measure = stats.Measure("video.shuffle_gap", "test", "original")
    with table.in_intervals(shown=True):
        text = table.measured(stats.aggregate(full((0, 1)), labels, measure)).text
        assert table.over_seeds() == table.IN_INTERVALS
    assert "[" in text and "±" not in text


def test_table_3_has_the_change_in_brackets() -> None:
    numbers = {"baseline": (0.5, 0.52), "+ order": (0.6, 0.64)}
    about = {"backbone": "ViT", "data": "mini_imagenet9"}
    cells = []
    for method, values in numbers.items():
        for seed, value in enumerate(values):
            of = {"evaluation": "image.background_shift", "view": "original", "metric": "top1"}
            (row,) = top1(value, **of)
            cells.append(cell(method, seed, numbers=[row], **about))
    built = background_shift.build(frame(*cells))
    texts = {row.labels[1]: row.cells[1].text for row in built.rows}
    assert texts["baseline"] == "51.0 ± 1.4" and texts["+ order"] == "62.0 ± 2.8 (+11.0)"
    document = json.loads(formats.json(built))
    (found,) = [r["cells"][1]["change"] for r in document["rows"] if r["labels"][1] == "+ order"]
    assert found["value"] == pytest.approx(11) and found["interval"] == pytest.approx(
        [-1.706, 23.706], abs=1e-3
    )


# --- published numbers ---


def paper(**changes: object) -> pd.DataFrame:
    about = {"data": "ssv2", "scale": "paper", **changes}
    return frame(
        *(cell(m, s, numbers=top1(0.6 + 0.01 * s), **about) for m in METHODS for s in (0, 1))
    )


def headings(built: table.Table) -> list[str]:
    return [column.name for column in built.columns]


def test_published_numbers_stand_where_they_compare() -> None:
    of_mini = main_result.build(full((0, 1)))
    data = stats.data_sets(full((0, 1)))
    assert "paper" in headings(of_mini) and "paper" not in headings(
        published.shown_in(of_mini, data)
    )
    with published.choosing("always"):
        assert published.shown_in(of_mini, data) == of_mini
    of_paper = main_result.build(paper())
    shown = published.shown_in(of_paper, ("ssv2",))
    assert headings(shown) == headings(of_paper)
    with published.choosing("never"):
        assert "paper" not in headings(published.shown_in(of_paper, ("ssv2",)))
    hidden = published.shown_in(of_mini, data)
    assert any("--published" in note for note in table.notes(hidden))
    assert not any("Columns 'paper'" in note for note in table.notes(hidden))


def test_measured_minus_published_only_of_the_same_data_and_scale() -> None:
    assert "to paper" in headings(main_result.build(paper()))
    assert "to paper" not in headings(main_result.build(paper(scale="half")))
    assert "to paper" not in headings(main_result.build(paper(data="kinetics400")))
    row = next(
        r for r in main_result.build(paper()).rows if r.labels == ("TimeSformer", "baseline")
    )
    place = headings(main_result.build(paper())).index("to paper")
    assert row.cells[place].text == f"{table.MINUS}1.6"  # 60.5 measured, 62.1 published


def test_a_file_of_rows_has_a_bit_for_each_sample() -> None:
    packed = correct.packed({("test", "original"): np.array([True, False])})
    assert packed == {"test": {"original": [2, "gA=="]}}
