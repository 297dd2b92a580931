"""Images with their patches in another order: what the losses that show them share."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from bench.data import views


def shuffled_places(
    rngs: Sequence[np.random.Generator], patches: int, *, share: float
) -> np.ndarray:
    """(B, N): for each image the place that the patch shown at each place came from. A `share` of the
    patches, drawn for each image, is permuted among themselves.
    """
    orders_BN = np.tile(np.arange(patches), (len(rngs), 1))
    moved = round(share * patches)
    for order_N, rng in zip(orders_BN, rngs, strict=True):
        places = rng.permutation(patches)[:moved]
        order_N[places] = rng.permutation(places)
    return orders_BN


def rearranged(clip_BTCHW: Tensor, orders_BN: np.ndarray, *, patch: int) -> Tensor:
    """The images with, at each place of the grid, the patch of place `orders_BN`."""
    side = clip_BTCHW.shape[-1] // patch
    patches = rearrange(
        clip_BTCHW, "b t c (h p) (w q) -> b (h w) (t c p q)", p=patch, q=patch, h=side
    )
    order_BN = views.indices(orders_BN, clip_BTCHW.device)
    shown = torch.gather(patches, 1, order_BN[:, :, None].expand_as(patches))
    t, c = clip_BTCHW.shape[1:3]
    return rearrange(
        shown, "b (h w) (t c p q) -> b t c (h p) (w q)", h=side, t=t, c=c, p=patch, q=patch
    )
