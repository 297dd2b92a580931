"""Linear probes on frozen features: how the evaluations that use them fit, choose and count.

A probe is scikit-learn's logistic regression on standardised features with an L2 penalty. A number
that varies by no more than rounding (CONSTANT of its mean) is taken for constant: standardised, the
order in which floating-point numbers were added would look like a feature. The inverse strength C is
chosen from a small grid by cross-validation within what the probe learns from (accuracy; of equals
the smallest). It learns from the training split where that is at hand (`clips` of its clips, the
same for every model); else from the evaluated split itself, in `folds` parts: each clip is then judged by the probe
that was fitted without it. All orders in which a clip is shown stay in one part, or a probe would be
asked about what it learned by heart.

The interval is Wilson's score interval at 95 % with n = clips. Where a clip is judged in several
orders, its score is the mean, and n stays the number of clips: the interval is then at least as wide
as it must be. It is that of the judged clips; what another training sample would change is not in it.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from bench import task
from bench.data import views

CONSTANT = 1e-5
Z95 = 1.959963984540054  # two-sided 95 % of a normal distribution

Predicted = dict[str, np.ndarray]
"""Order of frames -> class id (M,)."""


class ProbeConfig(task.Config):
    """What every probe's options are."""

    clips: int = Field(default=2000, ge=2)  # of the training split, at most
    folds: int = Field(default=5, ge=2)
    strengths: tuple[Annotated[float, Field(gt=0.0)], ...] = Field(
        default=(1e-4, 1e-3, 1e-2, 1e-1, 1.0), min_length=1
    )
    iterations: int = Field(default=200, ge=1)


@dataclass(frozen=True)
class Examples:
    """Clips, each shown in one or several orders of its frames."""

    shown: Mapping[str, np.ndarray]  # order -> features (M, D)
    labels: Mapping[str, np.ndarray]  # order that is learned from -> class ids (M,)
    strata_M: np.ndarray  # what is to be balanced over folds, int64

    def __len__(self) -> int:
        return len(self.strata_M)

    def part(self, member_M: np.ndarray) -> Examples:
        return Examples(
            {order: x_MD[member_M] for order, x_MD in self.shown.items()},
            {order: y_M[member_M] for order, y_M in self.labels.items()},
            self.strata_M[member_M],
        )

    def learned(self) -> tuple[np.ndarray, np.ndarray]:
        """Features and labels of all orders that are learned from, one after another."""
        x = np.concatenate([self.shown[order] for order in self.labels])
        return x, np.concatenate(list(self.labels.values()))


class Probe:
    """A fitted probe. ValueError: no clip to fit it on."""

    def __init__(self, config: ProbeConfig, examples: Examples, *, seed: int) -> None:
        if not len(examples):
            raise ValueError("there is no clip to fit a probe on")
        strength = _strength(config, examples, seed=seed)
        (self._says,) = _fit(config, examples, [strength])

    def __call__(self, examples: Examples) -> Predicted:
        return {order: self._says(x_MD) for order, x_MD in examples.shown.items()}


def judged(config: ProbeConfig, probe: Probe | None, examples: Examples, *, seed: int) -> Predicted:
    """What the probe says of the examples; without one, what probes say that were fitted on the other
    parts of them.
    """
    if probe is not None:
        return probe(examples)
    if len(examples) < 2:
        raise ValueError(
            f"{len(examples)} clips and no training split: a probe needs some clips to fit and "
            "others to judge"
        )
    fold_M = folds_of(examples.strata_M, config.folds, seed=seed)
    found = {order: np.full(len(examples), -1, np.int64) for order in examples.shown}
    for fold in np.unique(fold_M):
        inner = Probe(config, examples.part(fold_M != fold), seed=seed)
        for order, predicted in inner(examples.part(fold_M == fold)).items():
            found[order][fold_M == fold] = predicted
    return found


def examples_of(
    features: task.FeaturesByOrder,
    layer: str,
    labels: Mapping[str, np.ndarray],
    seen_M: np.ndarray,
) -> Examples:
    """The clips of `seen_M`, with the labels of the orders that are learned from, all (M,)."""
    some = next(iter(features.values()))
    shown = {order: part.layer(layer)[seen_M] for order, part in features.items()}
    learned = {order: labels_M[seen_M] for order, labels_M in labels.items()}
    return Examples(shown, learned, some.labels_M[seen_M])


def members_of(context: task.Context, split: str, classes: Sequence[int]) -> np.ndarray:
    """Indices, ascending, of the split's clips of these classes."""
    return np.flatnonzero(np.isin(context.samples(split).labels, list(classes)))


def drawn(context: task.Context, split: str, members: np.ndarray, clips: int) -> np.ndarray:
    """So many of these clips of a split, the same for every model; indices, ascending."""
    rng = views.generator(context.seed, f"probe clips of {split}")
    rank = rng.permutation(len(context.samples(split).labels))
    return np.sort(members[np.argsort(rank[members])][:clips])


def folds_of(strata_M: np.ndarray, folds: int, *, seed: int) -> np.ndarray:
    """The fold of each clip: as many of each stratum in each fold as can be, the same for every model."""
    tie_M = views.generator(seed, "probe folds").random(len(strata_M))
    fold_M = np.empty(len(strata_M), np.int64)
    fold_M[np.lexsort((tie_M, strata_M))] = np.arange(len(strata_M)) % folds
    return fold_M


def _strength(config: ProbeConfig, examples: Examples, *, seed: int) -> float:
    """The C that is right most often about clips it was not fitted on."""
    strengths = sorted(config.strengths)
    folds = min(config.folds, len(examples))
    fold_M = folds_of(examples.strata_M, folds, seed=seed)
    if len(strengths) == 1 or folds < 2:
        return strengths[len(strengths) // 2]
    right = np.zeros(len(strengths))
    for fold in range(folds):
        fitted_on, held_out = examples.part(fold_M != fold), examples.part(fold_M == fold)
        x, y = held_out.learned()
        right += [(says(x) == y).sum() for says in _fit(config, fitted_on, strengths)]
    return strengths[int(right.argmax())]  # the first of equals is the smallest


Says = Callable[[np.ndarray], np.ndarray]
"""Features (M, D) -> class ids (M,)."""


def _fit(config: ProbeConfig, examples: Examples, strengths: Sequence[float]) -> list[Says]:
    """A probe of each C, on the same standardised features; where all clips are of one class, what
    says that class.
    """
    # Here, not above: importing scikit-learn takes two seconds that every `--plan` would pay.
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    x, y = examples.learned()
    if len(np.unique(y)) < 2:
        return [lambda x_MD: np.full(len(x_MD), y[0])] * len(strengths)
    mean, std = x.mean(axis=0, dtype=np.float64), x.std(axis=0, dtype=np.float64)
    varies = std > CONSTANT * np.abs(mean)
    factor = np.where(varies, 1 / np.where(varies, std, 1.0), 0.0)

    def standardised(x_MD: np.ndarray) -> np.ndarray:
        return ((x_MD - mean) * factor).astype(np.float32)  # fitted in half the time of float64

    def fitted(strength: float) -> Says:
        model = LogisticRegression(C=strength, max_iter=config.iterations, tol=1e-3)
        model.fit(inputs, y)
        return lambda x_MD: model.predict(standardised(x_MD))

    inputs = standardised(x)
    with warnings.catch_warnings():
        # The iteration cap is part of the measure's definition.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return [fitted(strength) for strength in strengths]


def interval(share: float, n: float) -> tuple[float, float]:
    """Wilson's score interval at 95 % of a share of n clips."""
    centre = (share + Z95**2 / (2 * n)) / (1 + Z95**2 / n)
    spread = share * (1 - share) / n + Z95**2 / (4 * n**2)
    half = Z95 * math.sqrt(max(spread, 0.0)) / (1 + Z95**2 / n)
    # Rounding must not push the end of an interval past the share at 0 and 1.
    return min(max(centre - half, 0.0), share), max(min(centre + half, 1.0), share)


def rows_of(
    where: Mapping[str, Any], scores_M: np.ndarray, *, chance: float, metric: str = "accuracy"
) -> Iterator[task.Row]:
    """The mean score of clips, the level of chance and the ends of the interval, as rows; `where`
    has split, view and subset. No row of no clip.
    """
    n = len(scores_M)
    if not n:
        return
    share = float(np.mean(scores_M, dtype=np.float64))
    low, high = interval(share, n)
    for name, value in ((metric, share), ("chance", chance), ("ci_low", low), ("ci_high", high)):
        yield {**where, "metric": name, "value": float(value), "n": n}
