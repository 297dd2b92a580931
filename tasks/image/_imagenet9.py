"""Models with 9 or 1000 classes on ImageNet-9: which of its nine classes they say, and how the official
evaluator shows them images.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

from bench.data.imagenet9 import CLASSES, IN9_OF_IMAGENET, MEAN, STD
from bench.metrics import top_k


def imagenet9_predictions(logits_BK: Tensor) -> np.ndarray:
    """int64 (B,): the ImageNet-9 class of the largest logit; of 1000 classes through the official
    mapping, -1 where it belongs to none of the nine.

    Raises ValueError on logits that are not finite.
    """
    top_B = top_k(logits_BK, 1)[:, 0].cpu().numpy()
    outputs = logits_BK.shape[-1]
    return top_B if outputs == len(CLASSES) else IN9_OF_IMAGENET[top_B]


def challenge_normalisation(outputs: int) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Mean and std that the Backgrounds Challenge's evaluator gives a model with so many outputs:
    those of ImageNet-9 for nine, those of ImageNet for 1000, whatever the model was trained with.
    """
    if outputs == len(CLASSES):
        return MEAN, STD
    if outputs == len(IN9_OF_IMAGENET):
        return (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    return None
