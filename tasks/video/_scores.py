"""What one pass over clips is worth, clip by clip, and the numbers that are made of it.

Used by `video.shuffle_gap` for every view. Per clip and draw (a permutation of its frames), from its logits z
of K classes and its class y:

    top1, top5        is y the first, among the first five (ties: the smaller class id, `bench.metrics`)
    confidence        max_k softmax(z)_k
    nll               -log softmax(z)_y
    top1_restricted   is y the first of the classes of its own subset (temporal-18, static-16)
    pair_top1         is z_y above z_r, of the class r that is y played backwards; equal: one half. Chance 1/2

and over clips: `top1_macro`, the mean over classes of their top1, and `ece`, the expected calibration error
(Guo et al., ICML 2017): sum over 15 equal bins of the confidence of |accuracy - confidence| x share of clips.
A clip that cannot be decoded is wrong, and has no nll and no part in the ece.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from bench import task
from bench.metrics import confidence, correct_top_k

COLUMNS = ("top1", "top5", "confidence", "nll", "top1_restricted", "pair_top1")
BINS = 15


class Scorer:
    """Scores of clips of a data set."""

    def __init__(self, spec: task.DataSpec) -> None:
        self._subset_of = {k: list(ids) for ids in spec.subsets.values() for k in ids}
        self._partner = {a: b for pair in spec.reversals for a, b in (pair, pair[::-1])}

    def __call__(self, logits_BK: Tensor, labels_B: Tensor, seen_B: np.ndarray) -> np.ndarray:
        """(B, len(COLUMNS)); NaN where a clip has no such score."""
        columns = (
            correct_top_k(logits_BK, labels_B, 1),
            correct_top_k(logits_BK, labels_B, 5),
            confidence(logits_BK),
            torch.nn.functional.cross_entropy(logits_BK.float(), labels_B, reduction="none"),
        )
        scores = torch.stack([column.double() for column in columns], dim=1).cpu().numpy()
        logits, labels = logits_BK.float().cpu().numpy(), labels_B.cpu().tolist()
        restricted = [self._restricted(z, y) for z, y in zip(logits, labels, strict=True)]
        within = [self._within_pair(z, y) for z, y in zip(logits, labels, strict=True)]
        scores = np.column_stack([scores, restricted, within])
        unseen = ~seen_B
        scores[unseen] = np.where(np.isnan(scores[unseen]), np.nan, 0.0)
        scores[unseen, COLUMNS.index("nll")] = np.nan
        return scores

    def _restricted(self, logits_K: np.ndarray, label: int) -> float:
        ids = self._subset_of.get(label)
        return np.nan if ids is None else float(ids[int(logits_K[ids].argmax())] == label)

    def _within_pair(self, logits_K: np.ndarray, label: int) -> float:
        partner = self._partner.get(label)
        if partner is None or max(label, partner) >= len(logits_K):
            return np.nan
        difference = logits_K[label] - logits_K[partner]
        return 0.5 if difference == 0 else float(difference > 0)


def summary(
    scores_RMC: np.ndarray, labels_M: np.ndarray, seen_M: np.ndarray, metrics: Sequence[str]
) -> Mapping[str, float]:
    """Metric -> value over clips M, the mean over draws R; without those that no clip has."""
    found = {}
    for metric in metrics:
        if metric == "top1_macro":
            top1_M = scores_RMC[..., 0].mean(axis=0)
            found[metric] = float(np.mean([top1_M[labels_M == k].mean() for k in set(labels_M)]))
        elif metric == "ece":
            if seen_M.any():
                found[metric] = float(
                    np.mean([_ece(scores_MC[seen_M]) for scores_MC in scores_RMC])
                )
        else:
            values = scores_RMC[..., COLUMNS.index(metric)].mean(axis=0)
            if not np.isnan(values).all():
                found[metric] = float(np.nanmean(values))
    return found


def _ece(scores_MC: np.ndarray) -> float:
    right_M, sure_M = scores_MC[:, 0], scores_MC[:, COLUMNS.index("confidence")]
    bins_M = np.minimum((sure_M * BINS).astype(int), BINS - 1)
    gaps = [abs((right_M - sure_M)[bins_M == b].sum()) for b in range(BINS)]
    return float(sum(gaps) / len(right_M))
