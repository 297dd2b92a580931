"""Which samples are right and how sure the model was: per sample, so any grouping adds up exactly.

Used by evaluations over a whole split; objectives log `accuracy` and `shares`.
"""

from __future__ import annotations

import torch
from torch import Tensor


def top_k(logits_BK: Tensor, k: int) -> Tensor:
    """Class ids (B, min(k, K)) by falling logit; ties go to the smaller id, on every device.

    Raises ValueError on logits that are not finite: there is no ranking to report then.
    """
    if not bool(torch.isfinite(logits_BK).all()):
        raise ValueError("logits are not finite: the model diverged, or its input is broken")
    if k == 1:  # the same, ties included, in a fraction of the time
        return logits_BK.argmax(dim=-1, keepdim=True)
    return logits_BK.sort(dim=-1, descending=True, stable=True).indices[:, :k]


def correct_top_k(logits_BK: Tensor, labels_B: Tensor, k: int) -> Tensor:
    """Boolean (B,): whether the label is among the k first classes."""
    return (top_k(logits_BK, k) == labels_B[:, None]).any(dim=1)


def confidence(logits: Tensor) -> Tensor:
    """Largest softmax probability over the last axis."""
    return logits.float().softmax(dim=-1).amax(dim=-1)


def accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    """Fraction of positions where the largest of logits (..., K) is the label (...); for logs."""
    return (logits.detach().argmax(dim=-1) == labels).float().mean()


def shares(labels: Tensor, classes: int) -> Tensor:
    """(K,): how often each of the K classes is the label (...); for logs. The largest is what the guess
    of one and the same class would have as `accuracy`.
    """
    flat = labels.flatten()
    counts = torch.zeros(classes, device=labels.device)
    return counts.scatter_add_(0, flat, torch.ones_like(flat, dtype=counts.dtype)) / flat.numel()
