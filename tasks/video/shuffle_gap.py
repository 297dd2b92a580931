"""How much accuracy a model loses on shuffled frames: its use of temporal order (paper, table 2).

Views of each clip: `original`; `shuffled`, the mean over several permutations, none the identity,
all different, fixed by the seed and the sample's key (so the same on every machine and for every
model); `reversed`; `single_frame`, the middle frame throughout. Rows are {split, view, subset,
metric, value, n}: metrics top1, top5 and confidence (mean largest softmax probability) as
fractions; subsets `all`, those of the data set (temporal, static), and one `class: <name>` per
class (top1 only). View `gap` is top1 of original minus shuffled, for each subset. Subsets without a
sample give no row. n counts samples, never permutations.

Where a clip is seen in several temporal views and spatial crops (`Input.eval_views`, `eval_crops`),
their logits are added, as in the release, for every order of frames. The sum is divided by their
number: that changes no rank and makes the confidence, a softmax of the mean logits, comparable with
that of one crop. (Or their probabilities are averaged: `Input.average`.)

A clip that cannot be decoded is wrong in every view, with no confidence: n counts it, and n_failed.

Accuracies are quotients of counts: where no prediction depends on order, the gap is exactly 0.
Only logits are asked for, so any model can be measured.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from pydantic import Field

from bench import task
from bench.data import views
from bench.metrics import confidence, correct_top_k
from tasks.video._shuffling import logits_in, nothing_to_shuffle, subsets_of

VERSION = 1
METRICS = ("top1", "top5", "confidence")
CLASS = "class: "


class Config(task.Config):
    permutations: int = Field(default=4, ge=1)  # per clip; fewer where the frames have fewer

    @classmethod
    def tiny(cls) -> Config:
        return cls(permutations=1)


def skip(config: Config, model: task.ModelSpec, spec: task.DataSpec) -> str | None:
    """There is nothing to shuffle in an image."""
    return nothing_to_shuffle(model, spec)


def run(config: Config, context: task.Context) -> list[task.Row]:
    """Rows of every evaluation split of `context` (see `bench.evaluate`); it keeps the predictions.

    Raises ValueError when a split does not give each of its samples exactly once.
    """
    rows: list[task.Row] = []
    for split in context.splits:
        labels_M, scores = _measure(config, context, split)
        rows += _rows(split, labels_M, scores, context.spec)
    return rows


@torch.no_grad()
def _measure(
    config: Config, context: task.Context, split: str
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """One pass over a split -> labels (M,), and per view scores (M, metrics), means over draws."""
    expected = context.count(split)
    keys: set[str] = set()
    labels: list[np.ndarray] = []
    scores: dict[str, list[np.ndarray]] = {}
    for crops in context.crops(split):
        if len(crops) != context.clips_per_sample:
            raise ValueError(
                f"split {split} shows {len(crops)} clips of a sample instead of "
                f"{context.clips_per_sample} (temporal views x crops)"
            )
        batch = crops[0]  # keys and labels are those of all crops
        seen_B = np.array([key not in batch.failed for key in batch.keys])
        _note_keys(keys, batch.keys, split)
        labels.append(batch.labels_B.cpu().numpy())
        for view, draws in _orders(config, batch, seed=context.seed).items():
            scored = []
            for draw, orders in enumerate(draws):
                logits_BK = logits_in(context, crops, orders)
                name = view if len(draws) == 1 else f"{view}_{draw}"
                context.record(split, name, batch.keys, batch.labels_B, logits_BK)
                scored.append(_scores(logits_BK, batch.labels_B) * seen_B[:, None])
            scores.setdefault(view, []).append(np.mean(scored, axis=0))
        context.progress(len(keys), expected, split)
    if len(keys) != expected:
        raise ValueError(
            f"split {split} declares {expected} samples but gave {len(keys)}; "
            "accuracy over a part of a split is not its accuracy: check the data"
        )
    if not keys:
        raise ValueError(f"split {split} has no samples")
    return np.concatenate(labels), {view: np.concatenate(s) for view, s in scores.items()}


def _note_keys(seen: set[str], keys: tuple[str, ...], split: str) -> None:
    before = len(seen)
    seen.update(keys)
    if len(seen) != before + len(keys):
        raise ValueError(f"split {split} gave a sample twice, among {', '.join(keys[:3])}, ...")


def _orders(config: Config, batch: task.Batch, *, seed: int) -> dict[str, list[np.ndarray]]:
    """View -> frame orders of each of its draws; (T,) for all clips of the batch, or (B, T)."""
    frames = batch.clip_BTCHW.shape[1]
    draws = min(config.permutations, views.num_shuffles(frames))
    shuffled_BRT = np.stack(
        [views.shuffled(frames, seed=seed, key=key, draws=draws) for key in batch.keys]
    )
    return {
        "original": [views.original(frames)],
        "shuffled": list(shuffled_BRT.swapaxes(0, 1)),
        "reversed": [views.backwards(frames)],
        "single_frame": [views.single_frame(frames)],
    }


def _scores(logits_BK: torch.Tensor, labels_B: torch.Tensor) -> np.ndarray:
    """(B, metrics), in the order of METRICS."""
    columns = (
        correct_top_k(logits_BK, labels_B, 1),
        correct_top_k(logits_BK, labels_B, 5),
        confidence(logits_BK),
    )
    return torch.stack([column.double() for column in columns], dim=1).cpu().numpy()


def _rows(
    split: str, labels_M: np.ndarray, scores: dict[str, np.ndarray], spec: task.DataSpec
) -> Iterator[task.Row]:
    for subset, member_M in _subsets(labels_M, spec):
        n = int(member_M.sum())
        if n == 0:
            continue
        where = {"split": split, "subset": subset, "n": n}
        means = {view: score[member_M].mean(axis=0) for view, score in scores.items()}
        metrics = METRICS[:1] if subset.startswith(CLASS) else METRICS
        for view, mean in means.items():
            for metric, value in zip(metrics, mean, strict=False):
                yield {**where, "view": view, "metric": metric, "value": float(value)}
        gap = float(means["original"][0] - means["shuffled"][0])
        yield {**where, "view": "gap", "metric": "top1", "value": gap}


def _subsets(labels_M: np.ndarray, spec: task.DataSpec) -> Iterator[tuple[str, np.ndarray]]:
    """(name, boolean (M,)) of everything that gets its own rows."""
    yield from subsets_of(labels_M, spec)
    for index, name in enumerate(spec.classes):
        yield f"{CLASS}{name}", labels_M == index
