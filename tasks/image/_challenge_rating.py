"""The strongest backgrounds of the Backgrounds Challenge, rated on a sample of the foregrounds of other
classes, after the verdicts are known.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from bench import task
from bench.data import views
from tasks.image._challenge_images import Material, fooled
from tasks.image._challenge_state import (
    FOOLED,
    RATED_FOOLED,
    RATED_RIGHT,
    RIGHT,
    UNKNOWN,
    ChallengeProgress,
    ChallengeState,
)


class Rating(NamedTuple):
    background: int
    label: int
    key: str
    fooled: float  # share of the sample
    n: int  # foregrounds in the sample


def finalists_of(material: Material, state: ChallengeState, strongest: int) -> list[int]:
    """Of each class the backgrounds that fooled the most foregrounds of other classes so far."""
    chosen: list[int] = []
    for label in np.unique(material.labels_B):
        members = np.flatnonzero(material.labels_B == label)
        codes = state.codes_FB[material.labels_F != label][:, members]
        fooled = (codes == FOOLED).sum(axis=0)
        tried = fooled + (codes == RIGHT).sum(axis=0)
        # The last key of lexsort counts most; it is stable, so the rest goes by stored order.
        order = np.lexsort((-fooled / np.maximum(tried, 1), -fooled))
        chosen += members[order[:strongest]].tolist()
    return chosen


def sample(labels_F: np.ndarray, share: float, *, seed: int) -> np.ndarray:
    """bool (F,): a random but fixed part of each class's foregrounds, at least one."""
    sampled_F = np.zeros(len(labels_F), dtype=bool)
    for label in np.unique(labels_F):
        members = np.flatnonzero(labels_F == label)
        rng = views.generator(seed, f"background_challenge rated {label}")
        sampled_F[rng.permutation(members)[: max(1, round(share * len(members)))]] = True
    return sampled_F


def rate(
    context: task.Context,
    material: Material,
    state: ChallengeState,
    finalists: list[int],
    sampled_F: np.ndarray,
    *,
    batch: int,
) -> None:
    """Try what the verdicts left unknown of each finalist's sample."""
    open_FB = np.zeros(state.codes_FB.shape, dtype=bool)
    open_FB[:, finalists] = sampled_F[:, None]
    open_FB &= material.labels_F[:, None] != material.labels_B
    open_FB &= state.codes_FB == UNKNOWN
    f_M, b_M = np.nonzero(open_FB)
    progress = ChallengeProgress(context, len(f_M), "rating")
    for chunk in _chunks(len(f_M), batch):
        f_N, b_N = f_M[chunk], b_M[chunk]
        fooled_N = fooled(context, material, f_N, b_N)
        state.codes_FB[f_N, b_N] = np.where(fooled_N, RATED_FOOLED, RATED_RIGHT)
        progress(chunk.stop)
        state.save_now_and_then()
    state.save()


def _chunks(count: int, size: int) -> Iterator[slice]:
    for begin in range(0, count, size):
        yield slice(begin, min(begin + size, count))


def ratings_of(
    material: Material, state: ChallengeState, finalists: list[int], sampled_F: np.ndarray
) -> list[Rating]:
    """Strongest first; equal ones by key."""
    ratings = []
    for b in finalists:
        label = int(material.labels_B[b])
        codes = state.codes_FB[sampled_F & (material.labels_F != label), b]
        if len(codes):
            share = float(np.isin(codes, (FOOLED, RATED_FOOLED)).mean())
            ratings.append(Rating(b, label, material.keys_B[b], share, len(codes)))
    return sorted(ratings, key=lambda r: (-r.fooled, r.key))


def keep_pictures(context: task.Context, material: Material, ratings: list[Rating]) -> None:
    ranks: Counter[int] = Counter()
    for rating in ratings:
        ranks[rating.label] += 1
        name = f"strongest/{context.spec.classes[rating.label]}-{ranks[rating.label]}"
        context.keep_picture(name, material.backgrounds_BHWC[rating.background].cpu().numpy())
