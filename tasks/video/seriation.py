"""Seriation: can the frames of a shuffled clip be put in order by how alike their tokens are?

    z[t, n]  tokens of a layer for the frame shown at place t, patch n, less their mean over clips
    d[s, t]  = |z[s] - z[t]|, over all patches;   w[s, t] = exp(-d[s, t]^2 / median d^2),  w[t, t] = 0
    L f = lambda_2 f with L = diag(sum_t w[s, t]) - w: the Fiedler vector; the frames, sorted by it

Atkins, Boman & Hendrickson, "A Spectral Algorithm for Seriation and the Consecutive Ones Problem" (SIAM
J. Comput. 1998): where likeness falls with distance in time (a Robinson matrix), f recovers the order,
but for its direction. No probe is fitted, nothing is learned: it asks whether time is still visible in
a layer as a smooth change from frame to frame, and so whether order is lost by depth. It cannot ask
whether the model knows which end is the beginning (`video.pair_order` does).

The clips are shown to the model with their frames permuted (by seed and key, uniformly), and the mean
over clips of the tokens at each place is taken away, which is what a time or position embedding adds.
`pixels` are the frames themselves, as the model gets them, in the same way: what is in the data.

Scores, of each clip, both the same for an order and its reversal:

    rank   |tau|, Kendall's rank correlation with the true order:   2 |share of pairs in order - 1/2|
    place  share of frames at their place, in the better of the two directions

Chance is the mean of a score over all permutations of the places (over DRAWS drawn ones, the same ever
since, where there are more than EXACT places). `clips` clips of each split, drawn by the seed, are shown
twice: for the mean, then for the distances. Rows: {split, view: rank | place, subset: pixels | layer_<ii>,
metric: kendall | accuracy, chance, ci_low, ci_high, value, n}, and for each subset of the data those of
the last layer; n counts clips. The interval is that of `_probe.py`, for shares; a mean of scores between 0
and 1 varies less. Of tubelets the order of tubelets is asked.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from functools import cache

import numpy as np
import torch
from einops import rearrange
from pydantic import Field
from torch import Tensor

from bench import task
from bench.data import views
from tasks.video._frames import Shuffled, no_places, shuffled
from tasks.video._probe import drawn, rows_of

VERSION = 1
NAME = "seriation"
METRICS = {"rank": "kendall", "place": "accuracy"}
EXACT, DRAWS = 7, 20_000


class Config(task.Config):
    clips: int = Field(default=400, ge=2)  # of each split, at most

    @classmethod
    def tiny(cls) -> Config:
        return cls(clips=6)


def skip(config: Config, model: task.ModelSpec, spec: task.DataSpec) -> str | None:
    """There must be an order, and one of three or more places: two are in order either way round."""
    if model.frames // model.tubelet == 2:
        return "two frames or tubelets are in order either way round"
    return no_places(model, spec)


def run(config: Config, context: task.Context) -> list[task.Row]:
    """Rows of every evaluation split of `context` (see `bench.evaluate`)."""
    rows: list[task.Row] = []
    for split in context.splits:
        rows += _rows_of_split(config, context, split)
    return rows


def _rows_of_split(config: Config, context: task.Context, split: str) -> Iterator[task.Row]:
    chosen = drawn(context, split, np.arange(context.count(split)), config.clips)
    labels_M, orders_MT, distances = _collect(context, split, chosen)
    for layer, distances_MTT in distances.items():
        scores = scores_of(seriated(distances_MTT), orders_MT)
        yield from _rows(split, layer, scores, orders_MT.shape[1])
    for name, members in context.spec.subsets.items():
        member_M = np.isin(labels_M, members)
        of_subset = {view: score_M[member_M] for view, score_M in scores.items()}
        yield from _rows(split, name, of_subset, orders_MT.shape[1])


def _rows(
    split: str, subset: str, scores: dict[str, np.ndarray], places: int
) -> Iterator[task.Row]:
    for view, score_M in scores.items():
        where = {"split": split, "view": view, "subset": subset}
        yield from rows_of(where, score_M, chance=chance(places)[view], metric=METRICS[view])


@torch.no_grad()
def _collect(
    context: task.Context, split: str, chosen: np.ndarray
) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Class ids (M,), orders (M, T), and per layer the distances of frames (M, T, T)."""
    sums: dict[str, Tensor] = {}
    count = 0
    for batch in shuffled(context, split, chosen, NAME):
        count += len(batch.keys)
        for layer, x_BTF in _layers(batch, context):
            sums[layer] = sums.get(layer, 0) + x_BTF.double().sum(dim=0)
    if count < 2:
        raise ValueError(f"split {split} gave {count} clips; the mean to take away needs some more")
    labels, orders = [], []
    found: dict[str, list[np.ndarray]] = {layer: [] for layer in sums}
    for batch in shuffled(context, split, chosen, NAME):
        labels.append(batch.labels_B)
        orders.append(batch.orders_BT)
        for layer, x_BTF in _layers(batch, context):
            found[layer].append(_distances(x_BTF - (sums[layer] / count).float()))
    distances = {layer: np.concatenate(parts) for layer, parts in found.items()}
    return np.concatenate(labels), np.concatenate(orders), distances


def _layers(batch: Shuffled, context: task.Context) -> Iterator[tuple[str, Tensor]]:
    """(layer, all numbers of each frame, (B, T, F)); the pixels come first."""
    clip, places = batch.clip_BTCHW.float(), batch.orders_BT.shape[1]
    yield "pixels", rearrange(clip, "b (t tubelet) c h w -> b t (tubelet c h w)", t=places)
    for layer, tokens_BTND in batch.stages(context.model):
        yield layer, rearrange(tokens_BTND.float(), "b t n d -> b t (n d)")


def _distances(x_BTF: Tensor) -> np.ndarray:
    """(B, T, T), Euclidean; by differences, for equal frames must be at no distance at all."""
    exact = "donot_use_mm_for_euclid_dist"
    return torch.cdist(x_BTF, x_BTF, compute_mode=exact).double().cpu().numpy()


def seriated(distances_MTT: np.ndarray) -> np.ndarray:
    """Rank (M, T) of each frame along the Fiedler vector; which end comes first means nothing."""
    squared_MTT, T = distances_MTT**2, distances_MTT.shape[-1]
    scale_M = np.median(squared_MTT[:, ~np.eye(T, dtype=bool)], axis=1)
    scale_M[scale_M == 0] = 1.0  # most frames are equal
    weights_MTT = np.exp(-squared_MTT / scale_M[:, None, None]) * (1 - np.eye(T))
    laplacian_MTT = np.eye(T) * weights_MTT.sum(axis=-1)[:, :, None] - weights_MTT
    fiedler_MT = np.linalg.eigh(laplacian_MTT).eigenvectors[:, :, 1]
    return fiedler_MT.argsort(axis=1, kind="stable").argsort(axis=1)


def scores_of(ranks_MT: np.ndarray, orders_MT: np.ndarray) -> dict[str, np.ndarray]:
    """Of ranks that were found and the true places, each 0 ... T - 1: view -> (M,), see the module."""
    T = orders_MT.shape[1]
    first, second = np.triu_indices(T, k=1)
    found, true = (np.sign(x[:, first] - x[:, second]) for x in (ranks_MT, orders_MT))
    forwards_M = (ranks_MT == orders_MT).mean(axis=1)
    backwards_M = (T - 1 - ranks_MT == orders_MT).mean(axis=1)
    return {
        "rank": np.abs((found * true).mean(axis=1)),
        "place": np.maximum(forwards_M, backwards_M),
    }


@cache
def chance(places: int) -> dict[str, float]:
    """The mean scores of an order that knows nothing."""
    if places <= EXACT:
        guesses = np.array(list(itertools.permutations(range(places))))
    else:
        rng = views.generator(0, "chance of seriation")
        guesses = rng.permuted(np.tile(np.arange(places), (DRAWS, 1)), axis=1)
    scores = scores_of(guesses, np.tile(np.arange(places), (len(guesses), 1)))
    return {view: float(score_M.mean()) for view, score_M in scores.items()}
