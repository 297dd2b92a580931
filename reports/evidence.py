"""How far a number may be from what it stands for: 95 % intervals and tests, of seeds and of samples.

Between `stats.Aggregate` and what a table says of it. A number is of the seeds that were trained and of the
samples that were tested; others would give another one. Where it is known which samples each run got right
(`bench.results.correct_samples`), both are taken into account. The runs of a cell form a table of S seeds by N
samples, the same samples for every seed; of a paired difference between two cells, of the differences. With the
mean squares of its two-way analysis of variance,

    variance of the mean = (MS_seeds + max(0, MS_samples - MS_rest)) / (S N)

and Student's t with (MS_seeds + max(0, MS_samples - MS_rest))^2 (S - 1) / MS_seeds^2 degrees of freedom: what is
done for readers and cases in radiology (Dorfman, Berbaum and Metz 1992; degrees of freedom of Hillis, Stat. Med.
26, 2007). With two or three seeds that covers a little less than it says, and Student's t over seeds, which
ignores the samples, does so with five; the wider of both covers 94 to 97 % in simulations (tests), and is what is
shown. One seed says nothing of others: its interval is of samples alone. Where samples are not known, the
interval is of seeds alone. Resampling seeds and samples (bootstrap) covers less with so few seeds.

Many comparisons are taken together by Holm's method (Scand. J. Stat. 6, 1979).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import special

from bench.results import correct_samples
from reports.stats import Aggregate, Measure, Run

LEVEL = 0.05
"""Of a table's family of comparisons: in so many tables at most is any difference shown where there is none."""

Of = Literal["seeds", "samples", "seeds and samples"]


@dataclass(frozen=True)
class Estimate:
    """In the unit of the number, percent."""

    mean: float
    error: float  # standard error
    freedom: float
    of: Of

    @property
    def half(self) -> float:
        """Half the width of the interval."""
        return float(special.stdtrit(self.freedom, 1 - LEVEL / 2)) * self.error

    @property
    def interval(self) -> tuple[float, float]:
        """95 %."""
        return self.mean - self.half, self.mean + self.half

    @property
    def p_value(self) -> float:
        """Two-sided, that it is zero."""
        if self.error == 0:
            return float(self.mean == 0)
        return float(2 * special.stdtr(self.freedom, -abs(self.mean) / self.error))


def estimate(number: Aggregate) -> Estimate | None:
    """None where nothing can be said: of one seed whose samples are not known."""
    if number.mean is None:
        return None
    rows = [_of_samples(run, number.measure) for run in number.measured]
    known = [row for row in rows if row is not None]
    if len(known) == len(rows) and len({len(row) for row in known}) == 1 and not _own_data(number):
        both, of_seeds = crossed(100 * np.stack(known)), _of_seeds(number)
        return max(both, of_seeds, key=lambda e: e.half) if of_seeds else both
    return _of_seeds(number)


def crossed(scores_SN: np.ndarray) -> Estimate:
    """Of S seeds by N samples, all pairs known; S may be 1."""
    seeds, samples = scores_SN.shape
    mean = float(scores_SN.mean())
    if samples < 2:
        raise ValueError("one sample says nothing of others")
    if seeds == 1:
        error = float(scores_SN.std(ddof=1)) / samples**0.5
        return Estimate(mean, error, samples - 1, "samples")
    of_seed, of_sample = scores_SN.mean(axis=1), scores_SN.mean(axis=0)
    rest = scores_SN - of_seed[:, None] - of_sample[None, :] + mean
    ms_seeds = samples * float(((of_seed - mean) ** 2).sum()) / (seeds - 1)
    ms_samples = seeds * float(((of_sample - mean) ** 2).sum()) / (samples - 1)
    ms_rest = float((rest**2).sum()) / ((seeds - 1) * (samples - 1))
    both = ms_seeds + max(0.0, ms_samples - ms_rest)
    if ms_seeds <= 1e-12 * both or both == 0:
        freedom = float(samples - 1)
    else:
        freedom = min(both**2 * (seeds - 1) / ms_seeds**2, float(samples - 1))
    return Estimate(mean, (both / (seeds * samples)) ** 0.5, freedom, "seeds and samples")


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted for their number, in their order."""
    order = sorted(range(len(p_values)), key=lambda k: p_values[k])
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, k in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[k]))
        adjusted[k] = largest
    return adjusted


def _of_seeds(number: Aggregate) -> Estimate | None:
    if number.mean is None or number.std is None:
        return None
    seeds = len(number.values)
    return Estimate(number.mean, number.std / seeds**0.5, seeds - 1, "seeds")


def _own_data(number: Aggregate) -> bool:
    """Whether each seed was tested on samples of its own, which form no table."""
    return len({run.made_from[1] for run in number.measured if run.made_from}) > 1


def _of_samples(run: Run, measure: Measure | None) -> np.ndarray | None:
    """What each sample adds to the run's number, if that is known: a mean over all samples of what was right."""
    if measure is None or run.value is None or not run.kept or run.kept[0][0] == "":
        return None
    if measure.metric != "top1" or measure.subset != "all":
        return None
    found = [_right(place, split, measure.view) for place, split in run.kept]
    if any(right is None for right in found):
        return None
    scores = [right for right in found if right is not None]
    if len({len(right) for right in scores}) != 1 or len(scores[0]) < 2:
        return None
    values = scores[0] - scores[1] if len(scores) == 2 else scores[0]
    # Whatever else was counted, e.g. samples that could not be decoded, or rounded on the way: no guess.
    return values if abs(100 * float(values.mean()) - run.value) < 1e-3 else None


_MINUS = {"gap": ("original", "shuffled"), "bg_gap": ("mixed_same", "mixed_rand")}
"""Views that are a difference of two others."""


def _right(place: str, split: str, view: str) -> np.ndarray | None:
    if view in _MINUS:
        one, other = (_right(place, split, name) for name in _MINUS[view])
        return None if one is None or other is None or len(one) != len(other) else one - other
    found = correct_samples(place)
    numbered = [
        right for (of, name), right in found.items() if of == split and _numbered(name, view)
    ]
    if (split, view) in found:
        return found[split, view].astype(float)
    if not numbered or len({len(right) for right in numbered}) != 1:
        return None
    return np.asarray(np.mean(numbered, axis=0))


def _numbered(name: str, view: str) -> bool:
    """`shuffled_0`, ...: one view over several permutations."""
    return name.startswith(f"{view}_") and name[len(view) + 1 :].isdigit()
