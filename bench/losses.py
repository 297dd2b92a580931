"""The two losses of the suite: what an objective in `tasks/` asks of its logits, but for one that asks
two features to agree.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def smoothed_cross_entropy(
    logits: Tensor, labels: Tensor, *, smoothing: float = 0.0, weights: Tensor | None = None
) -> Tensor:
    """Mean cross-entropy to the label smoothed with the uniform distribution (Szegedy et al. 2016).

    logits (..., K), int64 labels (...): -(1 - s) log p[label] - s mean_k log p[k], averaged over
    all leading axes; with `weights` (...) the mean of weight x cross-entropy.
    """
    flat, targets = logits.flatten(0, -2), labels.flatten()
    if weights is None:
        return F.cross_entropy(flat, targets, label_smoothing=smoothing)
    each = F.cross_entropy(flat, targets, label_smoothing=smoothing, reduction="none")
    return (weights.flatten() * each).mean()


def uniform_cross_entropy(logits: Tensor) -> Tensor:
    """Mean cross-entropy to the uniform distribution, -mean_k log p[k] of logits (..., K).

    Least, log K, where every class is equally likely: it asks for low confidence.
    """
    return -F.log_softmax(logits, dim=-1).mean()
