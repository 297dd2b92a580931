"""What a linear classifier can read off frozen features, and how much of it shuffling takes away.

For encoders without a head: a linear probe of the data's own classes on the last layer's feature
(`final`, the class feature; of a model that only gives logits, these), fitted on clips as they were
filmed. It is then shown clips with their frames in other orders; the shuffle gap of the probe is its
accuracy on original minus on shuffled frames, as `video.shuffle_gap` measures it of a model's own
classifier. How the probe is fitted, chosen and counted is in `_probe.py`.

Views: `original`; `shuffled`, one permutation a clip, not the identity, fixed by the
clip's key (the first of shuffle_gap's); `reversed`; `gap`. Rows: {split, view, subset, metric, value,
n}; subsets `all` and those of the data; metric accuracy, with chance (one of all classes at random),
ci_low and ci_high; of the gap, accuracy and the ends of the interval at 95 % of the difference on the
same clips: the normal one with half a clip more in each cell of the table of both orders (Agresti & Min
2005, adjusted Wald), so that it has a width where no clip changed. n counts clips; one that cannot be
decoded is wrong in every view.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from bench import task
from tasks.video._probe import (
    Z95,
    Probe,
    ProbeConfig,
    drawn,
    examples_of,
    judged,
    rows_of,
)
from tasks.video._shuffling import nothing_to_shuffle, subsets_of

# 1: the interval of the gap had no width where no clip changed; 2: scored in the precision of
# training, draws changed with its seed
VERSION = 3
ORDERS = ("original", "shuffled", "reversed")


class Config(ProbeConfig):
    @classmethod
    def tiny(cls) -> Config:
        return cls(clips=12, folds=2, strengths=(0.1,), iterations=10)


def skip(config: Config, model: task.ModelSpec, spec: task.DataSpec) -> str | None:
    """There is nothing to shuffle in an image."""
    return nothing_to_shuffle(model, spec)


def run(config: Config, context: task.Context) -> list[task.Row]:
    """Rows of every evaluation split of `context` (see `bench.evaluate`)."""
    probe = None
    if split := context.training_split:
        chosen = drawn(context, split, np.arange(context.count(split)), config.clips)
        learned = context.features(split, chosen=chosen)["original"]
        layer, labels = learned.layers[-1], {"original": learned.labels_M}
        lessons = examples_of({"original": learned}, layer, labels, learned.seen_M)
        probe = Probe(config, lessons, seed=context.seed)
    rows: list[task.Row] = []
    for split in context.splits:
        shown = context.features(split, ORDERS)
        rows += _rows(context, split, _right(config, context, probe, shown))
    return rows


def _right(
    config: Config, context: task.Context, probe: Probe | None, shown: task.FeaturesByOrder
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Class ids (M,), and for each order of frames whether the probe is right, boolean (M,)."""
    original = shown["original"]
    labels_M, seen_M = original.labels_M, original.seen_M
    examples = examples_of(shown, original.layers[-1], {"original": labels_M}, seen_M)
    right = {order: np.zeros(len(labels_M), dtype=bool) for order in ORDERS}
    for order, said_M in judged(config, probe, examples, seed=context.seed).items():
        right[order][seen_M] = said_M == labels_M[seen_M]
    return labels_M, right


def _rows(
    context: task.Context, split: str, judged_M: tuple[np.ndarray, dict[str, np.ndarray]]
) -> Iterator[task.Row]:
    labels_M, right = judged_M
    for subset, member_M in subsets_of(labels_M, context.spec):
        where = {"split": split, "subset": subset}
        for order, right_M in right.items():
            chance = 1 / context.spec.num_classes
            yield from rows_of({**where, "view": order}, right_M[member_M], chance=chance)
        lost_M = right["original"].astype(float) - right["shuffled"]
        yield from _gap({**where, "view": "gap"}, lost_M[member_M])


def _gap(where: Mapping[str, Any], lost_M: np.ndarray) -> Iterator[task.Row]:
    """Mean and interval of differences of -1, 0 and 1."""
    n = len(lost_M)
    if not n:
        return
    # half a clip more in each cell of the table of both orders: n + 2 clips, of which 1 differs
    for_M, against_M = float((lost_M > 0).sum()) + 0.5, float((lost_M < 0).sum()) + 0.5
    centre = (for_M - against_M) / (n + 2)
    half = Z95 * float(np.sqrt(((for_M + against_M) / (n + 2) - centre**2) / (n + 2)))
    ends = (("ci_low", max(-1.0, centre - half)), ("ci_high", min(1.0, centre + half)))
    for metric, value in (("accuracy", float(lost_M.mean())), *ends):
        yield {**where, "metric": metric, "value": value, "n": n}
