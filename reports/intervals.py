"""The 95 % interval of a mean over seeds: between `stats.Aggregate` and what a table may say of its direction.

By Student's t: mean ± t s / sqrt(n) of n seeds with sample standard deviation s, for seeds that are drawn
independently. Of a paired difference it is that of its seeds' differences.
"""

from __future__ import annotations

import math

from scipy.special import stdtrit

from reports.stats import Aggregate


def of_mean(number: Aggregate) -> tuple[float, float] | None:
    """Both ends, in the number's unit; None of one seed, which says nothing of the next."""
    if number.mean is None or number.std is None:
        return None
    seeds = len(number.values)
    half = student_t(seeds - 1) * number.std / math.sqrt(seeds)
    return number.mean - half, number.mean + half


def student_t(freedom: int) -> float:
    """What |t| of so many degrees of freedom exceeds once in twenty times."""
    return float(stdtrit(freedom, 0.975))
