"""Which of two frames came first? Told by the content of frozen features alone, layer by layer.

    x[t] = mean over patches of the tokens of frame t, in a pass without time embedding
    a linear probe of x[s] - x[t]: was s filmed before t?                          chance 1/2

The probe `video.order_probe` fits on clips in order is what L_order trains: the time embedding answers
it. Here nothing but content can. The backbone's time embedding is left out (its parameter `time_embed`
is zero meanwhile; a backbone without one is asked as it is), and each clip's frames are permuted, so
that not even an architecture that knows neighbours or the ends of a clip (X-ViT's shift) has seen the
order. TimeSformer and Motionformer treat what is left as a set: for them permuting changes nothing.

The feature is the difference of the two frames. Each pair is learned and asked both ways round, so that
a linear probe of both frames side by side would gain nothing: its halves could only be each other's
negative. Scored is the mean of both ways, exactly 1/2 where two frames have the same features. What is
measured is therefore whether *one* direction of the feature space runs with time in all clips; a model
may know the order of each clip and have no such direction.

Where two classes are each other's reversal the clips of the second are left out, as in
`video.arrow_of_time` and for its reason: with both, the order of a set of frames would be a guess.

Views: `known_classes`: the probe has learned from (other) clips of the same classes; `new_classes`: from
the clips of one half of the classes, and is asked about the other half, and the other way round (halves
drawn by the seed). The first may recognise what an action looks like at its end; the second needs what
all actions share. How a probe is fitted, chosen and counted is in `_probe.py`; `pairs` pairs of each clip
are asked, and all of them stay in one fold. Rows: {split, view, subset: layer_<ii>, metric: accuracy |
chance | ci_low | ci_high, value, n}, and for each subset of the data those of the last layer; n counts
clips. Of tubelets the order of tubelets is asked.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from pydantic import Field

from bench import task
from bench.data import views
from tasks.video._frames import Shuffled, no_places, shuffled, without_time
from tasks.video._probe import Examples, Probe, ProbeConfig, drawn, judged, members_of, rows_of

VERSION = 1
NAME = "pair_order"


class Config(ProbeConfig):
    """`clips` holds for each split, training or evaluated."""

    clips: int = Field(default=1000, ge=2)  # whose pairs, both ways round, are 4,000 examples
    pairs: int = Field(default=2, ge=1)  # of each clip, at most
    # Fewer than other probes try, for there are three probes of each layer to fit.
    folds: int = Field(default=3, ge=2)
    strengths: tuple[Annotated[float, Field(gt=0.0)], ...] = Field(
        default=(1e-3, 1e-1), min_length=1
    )

    @classmethod
    def tiny(cls) -> Config:
        return cls(clips=12, folds=2, strengths=(0.1,), iterations=10)


def skip(config: Config, model: task.ModelSpec, spec: task.DataSpec) -> str | None:
    """There must be two frames."""
    return no_places(model, spec)


@dataclass(frozen=True)
class _Pairs:
    """Of M clips P pairs of frames each."""

    labels_M: np.ndarray  # class ids
    first_MP: np.ndarray  # 1 where the first of the two was filmed first
    differences: dict[str, np.ndarray]  # layer -> (M, P, D)

    def examples(self, layer: str) -> Examples:
        """The p-th pairs of all clips are one "order" of them, so that a clip stays in one fold."""
        shown: dict[str, np.ndarray] = {}
        labels: dict[str, np.ndarray] = {}
        for p, (x_MD, first_M) in enumerate(
            zip(self.differences[layer].swapaxes(0, 1), self.first_MP.T, strict=True)
        ):
            shown |= {f"{p}": x_MD, f"{p} swapped": -x_MD}
            labels |= {f"{p}": first_M, f"{p} swapped": 1 - first_M}
        return Examples(shown, labels, self.labels_M)

    def score(self, said: dict[str, np.ndarray], member_M: np.ndarray) -> np.ndarray:
        """(M',): of these clips the share of pairs told right, asked both ways round."""
        right = []
        for p, first_M in enumerate(self.first_MP[member_M].T):
            right += [said[f"{p}"] == first_M, said[f"{p} swapped"] == 1 - first_M]
        return np.mean(right, axis=0)


def run(config: Config, context: task.Context) -> list[task.Row]:
    """Rows of every evaluation split of `context` (see `bench.evaluate`)."""
    seconds = {second for _, second in context.spec.reversals}
    classes = np.array([k for k in range(context.spec.num_classes) if k not in seconds])
    halves = np.array_split(
        views.generator(context.seed, "halves of the classes").permutation(classes), 2
    )
    rows: list[task.Row] = []
    with without_time(context.model.backbone):
        training = context.training_split
        learned = training and _collect(config, context, training, classes)
        for split in context.splits:
            asked = _collect(config, context, split, classes)
            rows += _rows(config, context, split, learned or None, asked, halves)
    return rows


def _rows(
    config: Config,
    context: task.Context,
    split: str,
    learned: _Pairs | None,
    asked: _Pairs,
    halves: list[np.ndarray],
) -> Iterator[task.Row]:
    seed, everybody = context.seed, np.ones(len(asked.labels_M), dtype=bool)
    for layer in asked.differences:
        examples = asked.examples(layer)
        lessons = examples if learned is None else learned.examples(layer)
        probe = None if learned is None else Probe(config, lessons, seed=seed)
        known_M = asked.score(judged(config, probe, examples, seed=seed), everybody)
        yield from rows_of(_where(split, "known_classes", layer), known_M, chance=0.5)
        new = [np.empty(0)]
        for known, others in (halves, halves[::-1]):
            lesson_M, asked_M = np.isin(lessons.strata_M, known), np.isin(asked.labels_M, others)
            if lesson_M.any() and asked_M.any():
                other = Probe(config, lessons.part(lesson_M), seed=seed)
                new.append(asked.score(other(examples.part(asked_M)), asked_M))
        yield from rows_of(_where(split, "new_classes", layer), np.concatenate(new), chance=0.5)
    for name, members in context.spec.subsets.items():
        of_subset_M = np.isin(asked.labels_M, members)
        yield from rows_of(_where(split, "known_classes", name), known_M[of_subset_M], chance=0.5)


def _where(split: str, view: str, subset: str) -> dict[str, str]:
    return {"split": split, "view": view, "subset": subset}


@torch.no_grad()
def _collect(config: Config, context: task.Context, split: str, classes: np.ndarray) -> _Pairs:
    """The pairs of a split's clips of these classes, at most `clips` of them.

    Raises ValueError where no clip can be asked about.
    """
    chosen = drawn(context, split, members_of(context, split, classes.tolist()), config.clips)
    labels, firsts = [np.empty(0, np.int64)], []
    found: dict[str, list[np.ndarray]] = {}
    for batch in shuffled(context, split, chosen, NAME):
        pairs_BP2 = _pairs(config, batch, seed=context.seed)
        clip_B1 = np.arange(len(pairs_BP2))[:, None]
        places_BP2 = batch.orders_BT[clip_B1[:, :, None], pairs_BP2]
        labels.append(batch.labels_B)
        firsts.append((places_BP2[..., 0] < places_BP2[..., 1]).astype(int))
        for layer, tokens_BTND in batch.stages(context.model):
            x_BTD = tokens_BTND.float().mean(dim=2).cpu().numpy()
            difference_BPD = x_BTD[clip_B1, pairs_BP2[..., 0]] - x_BTD[clip_B1, pairs_BP2[..., 1]]
            found.setdefault(layer, []).append(difference_BPD)
    if not found:
        raise ValueError(f"split {split} has no clip of which two frames could be told apart")
    differences = {layer: np.concatenate(parts) for layer, parts in found.items()}
    return _Pairs(np.concatenate(labels), np.concatenate(firsts), differences)


def _pairs(config: Config, batch: Shuffled, *, seed: int) -> np.ndarray:
    """(B, P, 2): different pairs of places of each clip."""
    first_Q, second_Q = np.triu_indices(batch.orders_BT.shape[1], k=1)
    both_Q2 = np.stack([first_Q, second_Q], axis=1)
    rngs = [views.generator(seed, f"{NAME} pairs {key}") for key in batch.keys]
    return np.stack([rng.permutation(both_Q2)[: config.pairs] for rng in rngs])
