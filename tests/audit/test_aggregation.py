"""What tables make of seeds, against numpy and scipy: means, sample standard deviations, paired differences and
their intervals.
"""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
from frames import cell, frame, full, top1
from hypothesis import given, settings
from hypothesis import strategies as st

from reports import intervals, stats
from reports.tables import temporal_static

MEASURE = stats.Measure("video.shuffle_gap", "test", "original")
values = st.lists(st.floats(0, 1), min_size=4, max_size=4)


@settings(max_examples=20)
@given(values, values)
def test_seeds(base: list[float], full: list[float]) -> None:
    """Five seeds are planned; the last is pending in one method, and one more in the other."""
    cells = [cell("baseline", seed, numbers=top1(value)) for seed, value in enumerate(base)]
    cells += [cell("+ TIME", seed, numbers=top1(value)) for seed, value in enumerate(full[:3])]
    cells += [cell(method, 4, state="PENDING") for method in ("baseline", "+ TIME")]
    cells += [cell("+ TIME", 3, state="PENDING")]
    results = frame(*cells)
    one, other = (stats.aggregate(results, {"method": m}, MEASURE) for m in ("baseline", "+ TIME"))
    assert one.mean == pytest.approx(100 * sum(base) / 4)
    spread = 100 * (sum((v - sum(base) / 4) ** 2 for v in base) / 3) ** 0.5
    assert one.std == pytest.approx(spread, abs=1e-9)
    change = stats.difference(other, one)
    paired = 100 * (np.array(full[:3]) - np.array(base[:3]))
    assert change.values == pytest.approx(tuple(paired), abs=1e-9)
    assert change.std == pytest.approx(float(np.std(paired, ddof=1)), abs=1e-9)


@settings(max_examples=50)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=9), st.integers(0, 10_000))
def test_the_interval_of_a_paired_difference(base: list[float], seed: int) -> None:
    """That of a paired t-test, by scipy; none of one seed."""
    other = np.random.default_rng(seed).random(len(base))
    cells = [cell("baseline", s, numbers=top1(v)) for s, v in enumerate(base)]
    cells += [cell("+ TIME", s, numbers=top1(v)) for s, v in enumerate(other)]
    results = frame(*cells)
    after, before = (
        stats.aggregate(results, {"method": m}, MEASURE) for m in ("+ TIME", "baseline")
    )
    found = intervals.of_mean(stats.difference(after, before))
    if len(base) == 1:
        assert found is None
        return
    wanted = scipy.stats.ttest_rel(100 * other, 100 * np.array(base)).confidence_interval(0.95)
    assert found == pytest.approx((wanted.low, wanted.high))


def test_a_mean_lies_in_its_interval_nineteen_times_of_twenty() -> None:
    """3,000 simulated tables with three seeds each; and the quantile for many of them."""
    rng = np.random.default_rng(0)
    inside = 0
    for values in rng.normal(0.5, 0.02, (3000, 3)):
        runs = tuple(stats.Run(s, "DONE", "", (), value=100 * v) for s, v in enumerate(values))
        low, high = intervals.of_mean(stats.Aggregate(runs)) or (np.nan, np.nan)
        inside += low < 50 < high
    assert inside / 3000 == pytest.approx(0.95, abs=0.012)  # three standard errors
    for freedom in (1, 2, 3, 4, 9, 30, 999):
        assert intervals.student_t(freedom) == pytest.approx(scipy.stats.t.ppf(0.975, freedom))


def test_subsets_stand_over_all_classes_and_over_their_own() -> None:
    """Each in a column of its own; the published number beside the former."""
    results = full()
    built = temporal_static.build(results)
    [row] = [r for r in built.rows if r.labels == ("TimeSformer", "+ TIME")]
    shown = {(c.group, c.heading): n for c, n in zip(built.columns, row.cells, strict=True)}
    for subset, group in (("temporal", "Temporal classes"), ("static", "Static classes")):
        for metric, place in (("top1", group), ("top1_restricted", f"{group}, restricted")):
            chosen = results.query(
                "method == '+ TIME' and split == 'test' and view == 'shuffled' "
                f"and subset == '{subset}' and metric == '{metric}'"
            )
            assert len(chosen) == 3
            found = next(
                n for (g, h), n in shown.items() if g == place and h.startswith("Shuffled")
            )
            assert found.value == pytest.approx(100 * chosen["value"].mean())
    assert not any("paper" in h for g, h in shown if g.endswith("restricted"))
