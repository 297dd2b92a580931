"""What tables make of seeds, against numpy: means, sample standard deviations, paired differences."""

from __future__ import annotations

import numpy as np
import pytest
from frames import cell, frame, full, top1
from hypothesis import given, settings
from hypothesis import strategies as st

from reports import stats
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
