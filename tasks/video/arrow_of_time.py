"""Forward or reversed: whether a model's features tell in which direction a clip is played, per layer.

A linear probe sees one feature of a clip, as it was filmed or with its frames reversed, and says
which; half of what it is asked is reversed, so chance is 1/2. How it is fitted, chosen and counted is
in `_probe.py`. Pickup et al., "Seeing the Arrow of Time" (CVPR 2014), asked it of videos; here it is
asked of a frozen model.

The feature is pooled over time: of a layer the mean of all tokens (time and space), at the end the
class feature. This matters. Features of single frames side by side would let a linear probe compare
them, and so tell the direction for a model that does not; pooled, a model that looks at each frame
alone and averages has the same feature for both directions, and is right on exactly one of the two.

A clip has a direction only if what is filmed has one. Where the data say that two classes are each
other's reversal (`DataSpec.reversals`; the built-in data do), the clips of the second are left out:
with both, the clips of one are the reversed clips of the other, and nobody could tell. Classes of
the built-in data that look the same either way (the static ones) stay; they keep the mean of all
near chance, and the subset `temporal` is the one to look at.

Rows: {split, view: direction, subset: layer_<ii> | final | logits, metric: accuracy | chance | ci_low
| ci_high, value, n}, and for each subset of the data (temporal, static) those of the last layer; n
counts clips, each seen in both directions. Clips that cannot be decoded are left out.
"""

from __future__ import annotations

import numpy as np

from bench import task
from tasks.video._probe import (
    Examples,
    Probe,
    ProbeConfig,
    drawn,
    examples_of,
    judged,
    members_of,
    rows_of,
)

VERSION = 2  # 1: scored in the precision of training, and what was drawn changed with its seed
ORDERS = ("original", "reversed")


class Config(ProbeConfig):
    @classmethod
    def tiny(cls) -> Config:
        return cls(clips=12, folds=2, strengths=(0.1,), iterations=10)


def skip(config: Config, model: task.ModelSpec, spec: task.DataSpec) -> str | None:
    """An image has no direction."""
    if spec.media != "video" or model.frames < 2:
        return f"{spec.name} has no frames to reverse"
    return None


def run(config: Config, context: task.Context) -> list[task.Row]:
    """Rows of every evaluation split of `context` (see `bench.evaluate`)."""
    seconds = {second for _, second in context.spec.reversals}
    classes = [k for k in range(context.spec.num_classes) if k not in seconds]
    learned: task.FeaturesByOrder | None = None
    if split := context.training_split:
        chosen = drawn(context, split, members_of(context, split, classes), config.clips)
        learned = context.features(split, ORDERS, chosen=chosen)
    rows: list[task.Row] = []
    probes: dict[str, Probe] = {}
    for split in context.splits:
        shown = context.features(split, ORDERS, chosen=members_of(context, split, classes))
        where = {"split": split, "view": "direction"}
        for layer in shown["original"].layers:
            if learned and layer not in probes:
                probes[layer] = Probe(config, _examples(learned, layer), seed=context.seed)
            examples = _examples(shown, layer)
            said = judged(config, probes.get(layer), examples, seed=context.seed)
            right_M = np.mean([said[order] == examples.labels[order] for order in ORDERS], axis=0)
            rows += rows_of({**where, "subset": layer}, right_M, chance=0.5)
        for name, members in context.spec.subsets.items():
            of_subset_M = np.isin(examples.strata_M, members)
            rows += rows_of({**where, "subset": name}, right_M[of_subset_M], chance=0.5)
    return rows


def _examples(features: task.FeaturesByOrder, layer: str) -> Examples:
    """1 where a clip is shown as it was filmed, 0 where it is reversed."""
    seen_M = features["original"].seen_M
    labels = {"original": np.ones(len(seen_M), int), "reversed": np.zeros(len(seen_M), int)}
    return examples_of(features, layer, labels, seen_M)
