"""At what grain a model notices that its frames were shuffled: single frames, tubelets, halves.

Each clip is cut into blocks of frames in a row, and the blocks are shown in another order, the frames
within a block as they were. A model that looks at neighbouring frames only is hurt by blocks of one
frame and not by the exchange of two halves; one that knows where in the clip it is, by both. Only
logits are asked for, so any model can be measured.

Views: `original`; `blocks_<g>` for each grain g of the option `grains`, blocks of g frames (the last
one shorter where g does not divide the clip), in a permutation that is not the identity, fixed by the
grain and the clip's key; `halves`, the second half before the first; `reversed`. A grain of
which clips have one block only gives no view. Metrics: top1 with ci_low and ci_high (Wilson, 95 %)
and chance, and `changed`, the share of clips whose most likely class is another one than in the
original order: what a model notices, right or wrong. Rows: {split, view, subset, metric, value, n};
subsets `all` and those of the data; n counts clips.

Views and crops of a clip are averaged as in `video.shuffle_gap`. A clip that cannot be decoded is
wrong in every view, and changed in none.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import numpy as np
import torch
from pydantic import Field

from bench import task
from bench.data import views
from bench.metrics import top_k
from tasks.video._probe import rows_of
from tasks.video._shuffling import logits_in, nothing_to_shuffle, subsets_of

VERSION = 2  # 1: scored in the precision of training, and what was drawn changed with its seed


class Config(task.Config):
    grains: tuple[Annotated[int, Field(ge=1)], ...] = (1, 2)  # frames in a block

    @classmethod
    def tiny(cls) -> Config:
        return cls(grains=(1,))


def skip(config: Config, model: task.ModelSpec, spec: task.DataSpec) -> str | None:
    """There is nothing to shuffle in an image."""
    return nothing_to_shuffle(model, spec)


def run(config: Config, context: task.Context) -> list[task.Row]:
    """Rows of every evaluation split of `context` (see `bench.evaluate`); it keeps the predictions.

    Raises ValueError when a split does not give each of its samples exactly once.
    """
    rows: list[task.Row] = []
    for split in context.splits:
        rows += _rows(context, split, *_measure(config, context, split))
    return rows


@torch.no_grad()
def _measure(
    config: Config, context: task.Context, split: str
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Labels (M,), and of each view the most likely classes (M,), -1 of undecodable clips."""
    expected = context.count(split)
    keys: set[str] = set()
    labels: list[np.ndarray] = []
    said: dict[str, list[np.ndarray]] = {}
    for crops in context.crops(split):
        batch = crops[0]  # keys and labels are those of all crops
        seen_B = np.array([key not in batch.failed for key in batch.keys])
        for view, orders in _orders(config, batch, seed=context.seed).items():
            logits_BK = logits_in(context, crops, orders)
            context.record(split, view, batch.keys, batch.labels_B, logits_BK)
            first_B = top_k(logits_BK, 1)[:, 0].cpu().numpy()
            said.setdefault(view, []).append(np.where(seen_B, first_B, -1))
        labels.append(batch.labels_B.cpu().numpy())
        keys.update(batch.keys)
        context.progress(len(keys), expected, split)
    seen = sum(map(len, labels))
    if not (seen == len(keys) == expected > 0):
        raise ValueError(
            f"split {split} declares {expected} samples but gave {seen}, {len(keys)} of them "
            "different; accuracy over a part of a split is not its accuracy: check the data"
        )
    return np.concatenate(labels), {view: np.concatenate(parts) for view, parts in said.items()}


def _orders(config: Config, batch: task.Batch, *, seed: int) -> dict[str, np.ndarray]:
    """View -> frame orders: (T,) for all clips of the batch, or (B, T)."""
    frames = batch.clip_BTCHW.shape[1]
    found = {"original": views.original(frames)}
    for grain in sorted({grain for grain in config.grains if grain < frames}):
        found[f"blocks_{grain}"] = np.stack(
            [_in_blocks(frames, grain, seed=seed, key=key) for key in batch.keys]
        )
    found["halves"] = np.roll(views.original(frames), -(frames // 2))
    return {**found, "reversed": views.backwards(frames)}


def _in_blocks(frames: int, grain: int, *, seed: int, key: str) -> np.ndarray:
    """(T,): blocks of `grain` frames in another order than their own."""
    blocks = np.split(views.original(frames), range(grain, frames, grain))
    rng = views.generator(seed, f"shuffle_grain {grain} {key}")
    order = views.permutation(rng, len(blocks), allow_identity=False)
    return np.concatenate([blocks[i] for i in order])


def _rows(
    context: task.Context, split: str, labels_M: np.ndarray, said: dict[str, np.ndarray]
) -> Iterator[task.Row]:
    for subset, member_M in subsets_of(labels_M, context.spec):
        if not (n := int(member_M.sum())):
            continue
        for view, said_M in said.items():
            where = {"split": split, "view": view, "subset": subset}
            right_M, chance = (said_M == labels_M)[member_M], 1 / context.spec.num_classes
            yield from rows_of(where, right_M, chance=chance, metric="top1")
            changed = float((said_M != said["original"])[member_M].mean())
            yield {**where, "metric": "changed", "value": changed, "n": n}
