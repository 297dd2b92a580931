"""The search for verdicts of the Backgrounds Challenge: which foreground is tried on which background
next. The module docstring of `image.background_challenge` has the rule.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from bench.data import views
from tasks.image._challenge_state import FOOLED, RIGHT, UNKNOWN


class Pairs(NamedTuple):
    f_N: np.ndarray
    b_N: np.ndarray


class BackgroundSearch:
    """Which pair to try next: a function of `codes_FB` (which it fills in), the labels and the seed.

    Numpy, because a batch of a small model takes no longer than a few dozen torch calls.
    """

    def __init__(
        self, codes_FB: np.ndarray, labels_F: np.ndarray, labels_B: np.ndarray, *, seed: int
    ) -> None:
        self.codes_FB, self.labels_F, self.labels_B = codes_FB, labels_F, labels_B
        count_F, count_B = codes_FB.shape
        classes = int(labels_F.max()) + 1
        fooled_FB = codes_FB == FOOLED
        self.tried_F = (fooled_FB | (codes_FB == RIGHT)).sum(axis=1)
        self.vulnerable_F = fooled_FB.any(axis=1)
        self.fooled_KB = np.stack([fooled_FB[labels_F == k].sum(axis=0) for k in range(classes)])
        rng = views.generator(seed, "background_challenge order")
        order_B = rng.permutation(count_B)
        # Row s is the random order shifted by s places: one line of memory instead of F.
        self._orders_SB = np.lib.stride_tricks.sliding_window_view(np.tile(order_B, 2), count_B)
        self._shift_F = rng.permutation(count_F) % count_B

    @property
    def settled(self) -> int:
        """Pairs that need not be tried any more: those tried, and all of a vulnerable foreground."""
        count_B = self.codes_FB.shape[1]
        return int(np.where(self.vulnerable_F, count_B, self.tried_F).sum())

    def next_pairs(self, batch: int) -> Pairs:
        """At most `batch` untried pairs; none when every foreground has its verdict.

        The foregrounds with the fewest tries come first, one background each. Where too few are
        left to fill the batch they get more, but no more than they have had, so that no foreground
        takes much over twice the passes that it would take one by one.
        """
        count_B = self.codes_FB.shape[1]
        live = np.flatnonzero(~self.vulnerable_F & (self.tried_F < count_B))
        if not len(live):
            return Pairs(live, live)
        live = live[np.argsort(self.tried_F[live], kind="stable")[:batch]]
        tried = self.tried_F[live]
        each = -(-batch // len(live))
        each_G = np.minimum(np.clip(tried, 1, each), count_B - tried)
        best_GE = self._best(live, int(each_G.max()))
        taken_EG = (np.arange(best_GE.shape[1]) < each_G[:, None]).T  # first choices first
        f_N = np.broadcast_to(live, taken_EG.shape)[taken_EG][:batch]
        return Pairs(f_N, best_GE.T[taken_EG][:batch])

    def _best(self, live: np.ndarray, count: int) -> np.ndarray:
        """(G, count): of each foreground the untried backgrounds most likely to fool it, best first."""
        count_F, count_B = self.codes_FB.shape
        known_KB = (self.fooled_KB * (count_F + 1) + self.fooled_KB.sum(axis=0)) * 2 * count_B
        labels = self.labels_F[live]
        other_KB = np.arange(len(known_KB))[:, None] != self.labels_B
        score_GB = (known_KB + count_B * other_KB)[labels]
        score_GB += self._orders_SB[self._shift_F[live]]
        score_GB[self.codes_FB[live] != UNKNOWN] = -1
        if count == 1:
            return score_GB.argmax(axis=1)[:, None]
        best_GE = np.argpartition(score_GB, -count, axis=1)[:, -count:]
        order_GE = np.argsort(-np.take_along_axis(score_GB, best_GE, axis=1), axis=1)
        return np.take_along_axis(best_GE, order_GE, axis=1)

    def learn(self, pairs: Pairs, fooled_N: np.ndarray) -> None:
        f_N, b_N = pairs
        self.codes_FB[f_N, b_N] = np.where(fooled_N, FOOLED, RIGHT)
        np.add.at(self.tried_F, f_N, 1)
        self.vulnerable_F[f_N[fooled_N]] = True
        np.add.at(self.fooled_KB, (self.labels_F[f_N[fooled_N]], b_N[fooled_N]), 1)
