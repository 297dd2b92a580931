"""How much accuracy a model loses on shuffled frames: its use of temporal order (paper, table 2).

Views of each clip: `original`; `shuffled`, the mean over several permutations, none the identity,
all different, fixed by the seed and the sample's key (so the same on every machine and for every
model); `reversed`; `single_frame`, the middle frame throughout. Rows are {split, view, subset,
metric, value, n}; metrics are those of `_scores.py` as fractions (nll: nats): top1 and top1_macro (the mean
over classes), top5, confidence, nll, ece, and for the subsets of the data top1_restricted (argmax over the
subset's own classes only: the paper does not say which of the two its table 2 shows). Subsets: `all`, those of
the data set (temporal, static), `pairs` of classes that are each other's reversal and each `pair: <a> / <b>`
(pair_top1: right within the pair, chance 1/2), `class: <name>` (top1). View `gap` is original minus shuffled of
top1, top1_restricted, top1_macro and pair_top1, and `top1_normalised`, that of top1 over (original - 1/K): the
share of what is known beyond chance that the order carries. Subsets without a sample give no row. n counts
samples, never permutations.

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
from dataclasses import dataclass

import numpy as np
import torch
from pydantic import Field

from bench import task
from bench.data import views
from tasks.video._scores import Scorer, columns_of, summary
from tasks.video._shuffling import logits_in, nothing_to_shuffle, subsets_of

VERSION = 2
METRICS = ("top1", "top5", "confidence", "top1_macro", "nll", "ece")
RESTRICTED = "top1_restricted"
GAPS = ("top1", "top1_macro", RESTRICTED, "pair_top1")
CLASS, PAIR = "class: ", "pair: "
TOP1 = ("top1",)


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
        rows += _rows(split, _measure(config, context, split), context.spec)
    return rows


@dataclass(frozen=True)
class _Scores:
    """Of the clips of a split."""

    labels_M: np.ndarray
    seen_M: np.ndarray  # whether they could be decoded
    by_view: dict[str, np.ndarray]  # (draws, M, columns of `_scores.py`)


@torch.no_grad()
def _measure(config: Config, context: task.Context, split: str) -> _Scores:
    """One pass over a split."""
    expected = context.count(split)
    keys: set[str] = set()
    labels: list[np.ndarray] = []
    seen: list[np.ndarray] = []
    scores: dict[str, list[np.ndarray]] = {}
    scorer = Scorer(context.spec)
    for crops in context.crops(split):
        if len(crops) != context.clips_per_sample:
            raise ValueError(
                f"split {split} shows {len(crops)} clips of a sample instead of "
                f"{context.clips_per_sample} (temporal views x crops)"
            )
        batch = crops[0]  # keys and labels are those of all crops
        _note_keys(keys, batch.keys, split)
        labels.append(batch.labels_B.cpu().numpy())
        seen.append(np.array([key not in batch.failed for key in batch.keys]))
        for view, draws in _orders(config, batch, seed=context.seed).items():
            scored = []
            for draw, orders in enumerate(draws):
                logits_BK = logits_in(context, crops, orders)
                name = view if len(draws) == 1 else f"{view}_{draw}"
                context.record(split, name, batch.keys, batch.labels_B, logits_BK)
                scored.append(scorer(logits_BK, batch.labels_B, seen[-1]))
            scores.setdefault(view, []).append(np.stack(scored))
        context.progress(len(keys), expected, split)
    if len(keys) != expected:
        raise ValueError(
            f"split {split} declares {expected} samples but gave {len(keys)}; "
            "accuracy over a part of a split is not its accuracy: check the data"
        )
    if not keys:
        raise ValueError(f"split {split} has no samples")
    by_view = {view: np.concatenate(found, axis=1) for view, found in scores.items()}
    return _Scores(np.concatenate(labels), np.concatenate(seen), by_view)


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


def _rows(split: str, scores: _Scores, spec: task.DataSpec) -> Iterator[task.Row]:
    for subset, member_M, metrics in _subsets(scores.labels_M, spec):
        if not member_M.any():
            continue
        where = {"split": split, "subset": subset, "n": int(member_M.sum())}
        means = {}
        for view, scores_RMC in scores.by_view.items():
            of_RMC = scores_RMC[:, member_M][..., columns_of(subset, spec)]
            labels_M, seen_M = scores.labels_M[member_M], scores.seen_M[member_M]
            means[view] = summary(of_RMC, labels_M, seen_M, metrics)
            for metric, value in means[view].items():
                yield {**where, "view": view, "metric": metric, "value": value}
        for metric in (m for m in GAPS if m in means["original"]):
            gap = means["original"][metric] - means["shuffled"][metric]
            yield {**where, "view": "gap", "metric": metric, "value": gap}
            beyond = means["original"][metric] - 1 / spec.num_classes
            if metric == "top1" and metrics is not TOP1 and beyond > 0:
                yield {**where, "view": "gap", "metric": "top1_normalised", "value": gap / beyond}


def _subsets(
    labels_M: np.ndarray, spec: task.DataSpec
) -> Iterator[tuple[str, np.ndarray, tuple[str, ...]]]:
    """(name, boolean (M,), metrics) of everything that gets its own rows."""
    for name, member_M in subsets_of(labels_M, spec):
        yield name, member_M, METRICS if name == "all" else (*METRICS, RESTRICTED)
    paired = tuple(k for pair in spec.reversals for k in pair)
    yield "pairs", np.isin(labels_M, paired), (*TOP1, "pair_top1")
    for one, other in spec.reversals:
        name = f"{PAIR}{spec.classes[one]} / {spec.classes[other]}"
        yield name, np.isin(labels_M, (one, other)), ("pair_top1",)
    for index, name in enumerate(spec.classes):
        yield f"{CLASS}{name}", labels_M == index, TOP1
