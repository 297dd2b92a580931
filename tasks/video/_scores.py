"""What one pass over clips is worth, clip by clip, and the numbers that are made of it.

Used by `video.shuffle_gap` for every view. Per clip and draw (a permutation of its frames), from its logits z
of K classes and its class y:

    top1, top5        is y the first, among the first five (ties: the smaller class id, `bench.metrics`)
    confidence        max_k softmax(z)_k
    nll               -log softmax(z)_y
    pair_top1         is z_y above z_r, of the class r that is y played backwards; equal: one half. Chance 1/2
    top1_restricted   is y the first of the classes of a subset (temporal-18, static-16), the others left out;
                      of each subset that has y, for subsets may share classes

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

COLUMNS = ("top1", "top5", "confidence", "nll", "pair_top1", "top1_restricted")
"""Of one subset; a `Scorer` gives a last column for each subset, see `columns_of`."""
BINS = 15


class Scorer:
    """Scores of clips of a data set."""

    def __init__(self, spec: task.DataSpec) -> None:
        self._subsets = [np.array(sorted(set(ids)), np.int64) for ids in spec.subsets.values()]
        self._partner = {a: b for pair in spec.reversals for a, b in (pair, pair[::-1])}

    def __call__(self, logits_BK: Tensor, labels_B: Tensor, seen_B: np.ndarray) -> np.ndarray:
        """(B, COLUMNS but the last, then that of each subset); NaN where a clip has no such score."""
        columns = (
            correct_top_k(logits_BK, labels_B, 1),
            correct_top_k(logits_BK, labels_B, 5),
            confidence(logits_BK),
            torch.nn.functional.cross_entropy(logits_BK.float(), labels_B, reduction="none"),
        )
        scores = torch.stack([column.double() for column in columns], dim=1).cpu().numpy()
        logits, labels = logits_BK.float().cpu().numpy(), labels_B.cpu().numpy()
        within = [self._within_pair(z, int(y)) for z, y in zip(logits, labels, strict=True)]
        restricted = [_restricted(logits, labels, ids) for ids in self._subsets]
        scores = np.column_stack([scores, within, *restricted])
        unseen = ~seen_B
        scores[unseen] = np.where(np.isnan(scores[unseen]), np.nan, 0.0)
        scores[unseen, COLUMNS.index("nll")] = np.nan
        return scores

    def _within_pair(self, logits_K: np.ndarray, label: int) -> float:
        partner = self._partner.get(label)
        if partner is None or max(label, partner) >= len(logits_K):
            return np.nan
        difference = logits_K[label] - logits_K[partner]
        return 0.5 if difference == 0 else float(difference > 0)


def _restricted(logits_BK: np.ndarray, labels_B: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """(B,); ties go to the smaller id."""
    if not len(ids):
        return np.full(len(labels_B), np.nan)
    right_B = ids[logits_BK[:, ids].argmax(axis=1)] == labels_B
    return np.where(np.isin(labels_B, ids), right_B, np.nan)


def columns_of(subset: str, spec: task.DataSpec) -> list[int]:
    """Where a Scorer's row has COLUMNS of this subset; the last is lacking where it is none of the data's."""
    shared = len(COLUMNS) - 1
    own = [shared + list(spec.subsets).index(subset)] if subset in spec.subsets else []
    return [*range(shared), *own]


def summary(
    scores_RMC: np.ndarray, labels_M: np.ndarray, seen_M: np.ndarray, metrics: Sequence[str]
) -> Mapping[str, float]:
    """Metric -> value over clips M, the mean over draws R; without those that no clip has. Columns: COLUMNS."""
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
