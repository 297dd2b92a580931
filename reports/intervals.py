"""The 95 % interval of a mean over seeds: between `stats.Aggregate` and what a table may say of its direction.

By Student's t: mean ± t s / sqrt(n) of n seeds with sample standard deviation s, for seeds that are drawn
independently. Of a paired difference it is that of its seeds' differences.
"""

from __future__ import annotations

import math

from reports.stats import Aggregate


def of_mean(number: Aggregate) -> tuple[float, float] | None:
    """Both ends, in the number's unit; None of one seed, which says nothing of the next."""
    if number.mean is None or number.std is None:
        return None
    seeds = len(number.values)
    half = student_t(seeds - 1) * number.std / math.sqrt(seeds)
    return number.mean - half, number.mean + half


def student_t(freedom: int) -> float:
    """What |t| of so many degrees of freedom exceeds once in twenty times.

    By bisection over the angle arctan(t / sqrt(freedom)). scipy has it too, but is no dependency of the suite.
    """
    low, high = 0.0, math.pi / 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _within(middle, freedom) < 0.95 else (low, middle)
    return math.sqrt(freedom) * math.tan(low)


def _within(angle: float, freedom: int) -> float:
    """P(|t| < sqrt(freedom) tan(angle)): Abramowitz and Stegun, 26.7.3 and 26.7.4."""
    odd, total = freedom % 2, 0.0
    term = math.cos(angle) if odd else 1.0
    for exponent in range(odd, freedom - 1, 2):
        total += term
        term *= math.cos(angle) ** 2 * (exponent + 1) / (exponent + 2)
    total *= math.sin(angle)
    return (angle + total) * 2 / math.pi if odd else total
