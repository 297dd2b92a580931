"""From which layers the order of frames can be read: the paper's figure on order lost with depth.

For every stage of the backbone (the embedding, `layer_00`, then each block) a linear probe predicts
a frame's index from that frame's tokens, averaged over its patches. On view `ordered` the time
embedding alone gives the answer away. On view `shuffled` each clip's frames are permuted, and the
probe must give the *original* index of the frame shown at each position, so only content helps; the
permutation is uniform with the identity (excluding it would make the position informative), and
fixed by seed and key.

Of a model whose tokens are of several frames (tubelets) the order of the tubelets is asked: a clip
of T frames has T / tubelet places, and what is permuted are tubelets, each with its frames as they
were. A model whose tubelet is one frame gives the numbers that it always gave.

The probe is scikit-learn's LogisticRegression on standardised features with a fixed C: it measures,
it is not tuned. It is fitted on some clips of an evaluation split and scored on others
(`test_fraction` of them, chosen by seed and key), never on other frames of a clip it was fitted on.
For cost only the split's first `clips` clips are used. How many are enough is a rule of the width, so that
a wide model's probe cannot learn its clips by heart: without `clips` they are 3 D, but at least LEAST, and
of 8 frames the half that is fitted on then has 12 frames for each feature (2,304 clips of a ViT-B; also
of a model that does not tell its width). Rows: {split, view, subset: layer_<ii>,
metric: frame_accuracy | chance, value, n}; n counts test clips.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import numpy as np
import torch
from pydantic import Field

from bench import task
from bench.data import views
from tasks.video._frames import drawn_orders, no_places, refuse_pooled_time

VERSION = 2
LEAST = 256
PER_FEATURE, UNKNOWN = 3, 768  # clips; width where a model does not tell it


class Config(task.Config):
    clips: int | None = Field(default=None, ge=2)  # else by the width of the model
    test_fraction: float = Field(default=0.5, gt=0.0, lt=1.0)
    C: float = Field(default=0.1, gt=0.0)  # inverse strength of the L2 penalty
    iterations: int = Field(default=200, ge=1)

    @classmethod
    def tiny(cls) -> Config:
        return cls(clips=4, iterations=10)


def skip(config: Config, model: task.ModelSpec, spec: task.DataSpec) -> str | None:
    """An image has no frame order to probe."""
    return no_places(model, spec)


def run(config: Config, context: task.Context) -> list[task.Row]:
    """Rows of every evaluation split of `context` (see `bench.evaluate`)."""
    rows: list[task.Row] = []
    for split in context.splits:
        rows += _probe_split(config, context, split)
    return rows


def _probe_split(config: Config, context: task.Context, split: str) -> Iterator[task.Row]:
    keys, orders, features = _collect(config, context, split)
    test_M = _test_clips(keys, config.test_fraction, seed=context.seed)
    for view, layers_LMTD in features.items():
        for layer, tokens_MTD in enumerate(layers_LMTD):
            where = {
                "split": split,
                "view": view,
                "subset": f"layer_{layer:02d}",
                "n": int(test_M.sum()),
            }
            value = _frame_accuracy(config, tokens_MTD, orders[view], test_M)
            yield {**where, "metric": "frame_accuracy", "value": value}
            yield {**where, "metric": "chance", "value": 1 / tokens_MTD.shape[1]}


@torch.no_grad()
def _collect(
    config: Config, context: task.Context, split: str
) -> tuple[list[str], dict[str, np.ndarray], dict[str, list[np.ndarray]]]:
    """Of a split's first clips: keys, and per view orders (M, T) of T frames or tubelets, layer tokens
    (M, T, D).
    """
    tubelet = context.model_spec.tubelet
    wanted = min(clips_for(config, context.model_spec), context.count(split))
    keys: list[str] = []
    orders: dict[str, list[np.ndarray]] = {"ordered": [], "shuffled": []}
    layers: dict[str, list[list[np.ndarray]]] = {"ordered": [], "shuffled": []}
    for batch in context.batches(split):
        # what cannot be decoded has no order to find
        shown_keys = tuple(key for key in batch.keys if key not in batch.failed)
        clip_BTCHW = batch.clip_BTCHW
        if batch.failed:
            clip_BTCHW = clip_BTCHW[[i for i, k in enumerate(batch.keys) if k not in batch.failed]]
        taken = min(len(shown_keys), wanted - len(keys))
        if not taken:
            continue
        clip_BTCHW = clip_BTCHW[:taken]
        places = clip_BTCHW.shape[1] // tubelet
        shown_as = _orders(shown_keys[:taken], places, seed=context.seed)
        for view, orders_BT in shown_as.items():
            shown = views.show(clip_BTCHW, views.in_blocks(orders_BT, tubelet))
            stages = [tokens.mean(dim=2) for tokens in context.model.backbone.stages(shown)]
            for layer, stage in enumerate(stages):
                refuse_pooled_time(layer, stage.shape[1], places)
            orders[view].append(orders_BT)
            layers[view].append([stage.float().cpu().numpy() for stage in stages])
        keys += shown_keys[:taken]
        context.progress(len(keys), wanted, split)
        if len(keys) >= wanted:
            break
    if len(keys) < 2:
        raise ValueError(
            f"split {split} gave {len(keys)} clips; a probe needs some to fit and others to test"
        )
    return (
        keys,
        {view: np.concatenate(parts) for view, parts in orders.items()},
        {
            view: [np.concatenate(p) for p in zip(*parts, strict=True)]
            for view, parts in layers.items()
        },
    )


def clips_for(config: Config, model: task.ModelSpec) -> int:
    """How many clips are asked of a split, at most."""
    if config.clips is not None:
        return config.clips
    return max(LEAST, PER_FEATURE * (model.dim or UNKNOWN))


def _orders(keys: tuple[str, ...], frames: int, *, seed: int) -> dict[str, np.ndarray]:
    return {
        "ordered": np.tile(views.original(frames), (len(keys), 1)),
        "shuffled": drawn_orders(keys, frames, seed=seed, name="order_probe"),
    }


def _test_clips(keys: list[str], fraction: float, *, seed: int) -> np.ndarray:
    """Boolean (M,): a random but fixed part of the clips, at least one, and not all."""
    draws = np.array([views.generator(seed, f"order_probe test {key}").random() for key in keys])
    count = min(max(1, round(fraction * len(keys))), len(keys) - 1)
    chosen = np.zeros(len(keys), dtype=bool)
    chosen[np.argsort(draws, kind="stable")[:count]] = True
    return chosen


def _frame_accuracy(
    config: Config, tokens_MTD: np.ndarray, orders_MT: np.ndarray, test_M: np.ndarray
) -> float:
    """Fit on the other clips, score on the test clips."""
    # Here, not above: importing scikit-learn takes two seconds that every `--plan` would pay.
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    probe = make_pipeline(
        StandardScaler(), LogisticRegression(C=config.C, max_iter=config.iterations, tol=1e-3)
    )
    width = tokens_MTD.shape[-1]
    with warnings.catch_warnings():
        # The iteration cap is part of the measure's definition.
        warnings.simplefilter("ignore", ConvergenceWarning)
        probe.fit(tokens_MTD[~test_M].reshape(-1, width), orders_MT[~test_M].ravel())
    return float(probe.score(tokens_MTD[test_M].reshape(-1, width), orders_MT[test_M].ravel()))
