"""Orders in which a clip's frames can be shown: as they are, shuffled, backwards, one throughout.

A view is an array of frame indices, so it applies to frames (numpy), clips (torch) and predictions
alike. Used by objectives (random order per step) and evaluations (an order fixed by seed and
sample, the same on every machine).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def original(frames: int) -> np.ndarray:
    """0, 1, ..., T - 1."""
    return np.arange(frames)


def backwards(frames: int) -> np.ndarray:
    """T - 1, ..., 1, 0."""
    return np.arange(frames)[::-1].copy()


def single_frame(frames: int) -> np.ndarray:
    """The middle frame, T times: no motion, the input shape unchanged."""
    return np.full(frames, frames // 2)


def permutation(rng: np.random.Generator, frames: int, *, allow_identity: bool) -> np.ndarray:
    """A uniformly random order of `frames` frames, int64 (T,); drawn again while it is the
    identity, if asked."""
    if not allow_identity and frames < 2:
        raise ValueError(f"{frames} frame has no order but its own; use at least 2 frames")
    while True:
        order = rng.permutation(frames)
        if allow_identity or (order != np.arange(frames)).any():
            return order


def in_blocks(orders: np.ndarray, length: int) -> np.ndarray:
    """Orders (..., n) of blocks of `length` frames in a row -> orders (..., n x length) of frames."""
    frames = orders[..., None] * length + np.arange(length)
    return frames.reshape(*orders.shape[:-1], -1)


def num_shuffles(frames: int) -> int:
    """How many orders there are besides the identity."""
    return math.factorial(frames) - 1


def shuffled(frames: int, *, seed: int, key: str, draws: int) -> np.ndarray:
    """`draws` different non-identity orders, int64 (draws, T): a function of (seed, key, draw).

    Asking for more of them leaves the first ones as they were. Raises ValueError when so many do
    not exist.
    """
    if draws > num_shuffles(frames):
        raise ValueError(
            f"{frames} frames have {num_shuffles(frames)} shuffled orders, not {draws}"
        )
    rng = generator(seed, key)
    orders: list[np.ndarray] = []
    while len(orders) < draws:
        order = permutation(rng, frames, allow_identity=False)
        if not any((order == earlier).all() for earlier in orders):
            orders.append(order)
    return np.stack(orders) if orders else np.empty((0, frames), dtype=np.int64)


NAMED = ("original", "reversed", "shuffled")


def named(view: str, frames: int, *, seed: int, keys: Sequence[str]) -> np.ndarray:
    """The orders of a view in NAMED, as `show` takes them: (T,), or (B, T) where each of the samples
    has its own. `shuffled` is the first of the orders that the function of that name draws.
    """
    if view == "original":
        return original(frames)
    if view == "reversed":
        return backwards(frames)
    assert view == "shuffled", f"no view {view!r}"
    return np.concatenate([shuffled(frames, seed=seed, key=key, draws=1) for key in keys])


def generator(seed: int, key: str) -> np.random.Generator:
    """Random numbers that depend on the seed and on one sample's key only."""
    # Hashed, because neighbouring seeds and keys must not give related streams; not Python's hash,
    # which is salted.
    digest = hashlib.sha256(f"{seed}\0{key}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "little"))


def show(clip_BTCHW: Tensor, orders: np.ndarray) -> Tensor:
    """The clips with their frames in the given order: (T,) for all clips, or one each, (B, T)."""
    order = indices(orders, clip_BTCHW.device)
    if order.ndim == 1:
        return clip_BTCHW.index_select(1, order)
    clips = torch.arange(len(clip_BTCHW), device=clip_BTCHW.device)
    return clip_BTCHW[clips[:, None], order]


def indices(orders: np.ndarray, target: torch.device) -> Tensor:
    """The orders on a device; from pinned memory, so that the host does not wait for a GPU."""
    order = torch.from_numpy(orders)
    if target.type == "cuda":
        order = order.pin_memory()
    return order.to(target, non_blocking=True)
