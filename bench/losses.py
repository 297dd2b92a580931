"""The two losses of the suite; every objective in `tasks/` is one of them on some logits."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def smoothed_cross_entropy(logits: Tensor, labels: Tensor, *, smoothing: float = 0.0) -> Tensor:
    """Mean cross-entropy to the label smoothed with the uniform distribution (Szegedy et al. 2016).

    logits (..., K), int64 labels (...): -(1 - s) log p[label] - s mean_k log p[k], averaged over
    all leading axes.
    """
    return F.cross_entropy(logits.flatten(0, -2), labels.flatten(), label_smoothing=smoothing)


def uniform_cross_entropy(logits: Tensor) -> Tensor:
    """Mean cross-entropy to the uniform distribution, -mean_k log p[k] of logits (..., K).

    Least, log K, where every class is equally likely: it asks for low confidence.
    """
    return -F.log_softmax(logits, dim=-1).mean()
