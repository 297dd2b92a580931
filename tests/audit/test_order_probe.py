"""`video.order_probe` against a second derivation: softmax regression by gradient, on random tokens."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.special import log_softmax

from bench.task import Batch, ModelSpec
from tasks.video import order_probe

CLIPS, T, N, D = 24, 4, 2, 5
PLACES = np.random.default_rng(0).normal(
    size=(2, T, D)
)  # what tokens know of their frame, by layer
NOISE = np.random.default_rng(1).normal(size=(2, CLIPS, T, N, D))


def tokens(clips: list[int], frames_BT: np.ndarray) -> list[np.ndarray]:
    """Of two layers, (B, T, N, D), as the frames are shown; the second knows less."""
    own = [(1.0, 0.25)[layer] * PLACES[layer][frames_BT][:, :, None] for layer in range(2)]
    return [own[layer] + NOISE[layer][np.array(clips)[:, None], frames_BT] for layer in range(2)]


class Seen:
    """A backbone that notes in which order it was shown each clip."""

    def __init__(self) -> None:
        self.shown: list[dict[int, list[int]]] = [{}, {}]  # ordered, shuffled

    def stages(self, clip_BTCHW: torch.Tensor) -> Iterator[torch.Tensor]:
        clips = clip_BTCHW[:, 0, 0, 0, 0].long().tolist()
        frames = clip_BTCHW[:, :, 1, 0, 0].long().numpy()
        view = int(clips[0] in self.shown[0])
        self.shown[view] |= dict(zip(clips, frames.tolist(), strict=True))
        return iter([torch.tensor(layer).float() for layer in tokens(clips, frames)])


def batches(split: str) -> Iterator[Batch]:
    for part in torch.arange(CLIPS).split(10):
        clip = torch.zeros(len(part), T, 2, 1, 1)
        clip[:, :, 0, 0, 0], clip[:, :, 1, 0, 0] = part[:, None].float(), torch.arange(T)
        yield Batch(clip, part % 2, tuple(f"k{int(i)}" for i in part))


def measured(config: order_probe.Config) -> tuple[dict[tuple[str, str, str], Any], Seen]:
    backbone = Seen()
    context: Any = SimpleNamespace(
        splits=("test",), seed=0, model=SimpleNamespace(backbone=backbone), batches=batches,
        model_spec=ModelSpec(T, 8, 8, D, 2, (0.5,) * 3, (0.5,) * 3),
        count=lambda _: CLIPS, progress=lambda *_: None,
    )  # fmt: skip
    rows = order_probe.run(config, context)
    return {(r["view"], r["subset"], r["metric"]): (r["value"], r["n"]) for r in rows}, backbone


def accuracy(
    config: order_probe.Config, x_MTD: np.ndarray, y_MT: np.ndarray, test_M: np.ndarray
) -> float:
    """min_W,b sum of cross-entropies + |W|^2 / 2 C, on features standardised as the fitted clips are."""
    fit, judged = x_MTD[~test_M].reshape(-1, D), x_MTD[test_M].reshape(-1, D)
    fit, judged = ((x - fit.mean(0)) / fit.std(0) for x in (fit, judged))
    y = y_MT[~test_M].ravel()

    def loss(flat: np.ndarray) -> float:
        w, b = flat[: D * T].reshape(D, T), flat[D * T :]
        chosen = log_softmax(fit @ w + b, axis=1)[np.arange(len(y)), y]
        return float((w**2).sum() / (2 * config.C) - chosen.sum())

    found = minimize(loss, np.zeros(D * T + T), method="L-BFGS-B", options={"maxfun": 100_000}).x
    said = (judged @ found[: D * T].reshape(D, T) + found[D * T :]).argmax(1)
    return float((said == y_MT[test_M].ravel()).mean())


def test_accuracy_is_that_of_softmax_regression_on_other_clips() -> None:
    config = order_probe.Config(clips=CLIPS, test_fraction=0.25)
    rows, backbone = measured(config)
    assert {n for _, n in rows.values()} == {6}
    test_M = order_probe._test_clips([f"k{i}" for i in range(CLIPS)], 0.25, seed=0)
    assert test_M.sum() == 6
    for view, shown in zip(("ordered", "shuffled"), backbone.shown, strict=True):
        y_MT = np.array([shown[i] for i in range(CLIPS)])
        assert (y_MT == np.arange(T)).all() == (view == "ordered")
        for layer, found in enumerate(tokens(list(range(CLIPS)), y_MT)):
            value, _ = rows[view, f"layer_{layer:02d}", "frame_accuracy"]
            x_MTD = found.astype(np.float32).mean(axis=2).astype(np.float64)
            # of 24 frames one may lie on the border between two answers
            assert value == pytest.approx(accuracy(config, x_MTD, y_MT, test_M), abs=1.01 / 24)
            assert rows[view, f"layer_{layer:02d}", "chance"][0] == 1 / T
    first, second = (rows["shuffled", f"layer_0{i}", "frame_accuracy"][0] for i in (0, 1))
    assert first > second


def test_shuffled_orders_are_uniform_with_the_identity() -> None:
    orders = order_probe._orders(tuple(map(str, range(600))), 3, seed=0)["shuffled"]
    found, counts = np.unique(orders, axis=0, return_counts=True)
    assert len(found) == 6 and (abs(counts - 100) < 4 * np.sqrt(600 / 6 * 5 / 6)).all()
