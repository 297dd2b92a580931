"""The nine classes of ImageNet-9 from the outputs of models with 9 or 1000 classes."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from bench.data.imagenet9 import CLASSES, IN9_OF_IMAGENET
from bench.metrics import top_k


def imagenet9_predictions(logits_BK: Tensor) -> np.ndarray:
    """int64 (B,): the ImageNet-9 class of the largest logit; of 1000 classes through the official
    mapping, -1 where it belongs to none of the nine.

    Raises ValueError on logits that are not finite.
    """
    top_B = top_k(logits_BK, 1)[:, 0].cpu().numpy()
    outputs = logits_BK.shape[-1]
    return top_B if outputs == len(CLASSES) else IN9_OF_IMAGENET[top_B]
