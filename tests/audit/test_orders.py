"""Which orders `video.shuffle_gap` shows, and that its shuffled accuracy is the mean over them: by a model whose
logits are random numbers of the clip and the order it is shown in.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from bench.task import Batch, DataSpec
from tasks.video import shuffle_gap

CLIPS, T, K = 23, 4, 5
SPEC = DataSpec("x", "video", tuple("abcde"), {}, ("train", "test"))


def logits_of(clip: int, order: tuple[int, ...]) -> np.ndarray:
    digest = hashlib.sha256(repr((clip, order)).encode()).digest()
    return np.random.default_rng(list(digest)).normal(size=K)


class Noted:
    """A context over clips whose pixels say which clip, and which frame of it, they are."""

    splits, spec, seed, clips_per_sample = ("test",), SPEC, 0, 1

    def __init__(self, batch: int) -> None:
        self.shown: dict[int, list[tuple[int, ...]]] = defaultdict(list)
        self.views: dict[str, list[list[tuple[int, ...]]]] = defaultdict(list)
        self._batch = batch

    def crops(self, split: str) -> Iterator[tuple[Batch]]:
        for part in torch.arange(CLIPS).split(self._batch):
            clip = torch.zeros(len(part), T, 2, 1, 1)
            clip[:, :, 0, 0, 0], clip[:, :, 1, 0, 0] = part[:, None].float(), torch.arange(T)
            yield (Batch(clip, part % K, tuple(f"k{int(i)}" for i in part)),)

    def model(self, clip_BTCHW: torch.Tensor) -> torch.Tensor:
        clips = clip_BTCHW[:, 0, 0, 0, 0].long().tolist()
        self._orders = [tuple(o) for o in clip_BTCHW[:, :, 1, 0, 0].long().tolist()]
        for clip, order in zip(clips, self._orders, strict=True):
            self.shown[clip].append(order)
        found = [logits_of(*one) for one in zip(clips, self._orders, strict=True)]
        return torch.tensor(np.array(found))

    def record(self, split: str, view: str, *_: Any) -> None:
        self.views[view].append(self._orders)

    def averaged(self, logits_CBK: torch.Tensor) -> torch.Tensor:
        return logits_CBK.mean(dim=0)

    def count(self, split: str) -> int:
        return CLIPS

    def progress(self, *_: Any) -> None: ...


@pytest.mark.parametrize("permutations", [1, 4, 99])
def test_the_gap_of_a_clip_is_over_all_its_orders(permutations: int) -> None:
    """23 orders of four frames besides their own: no more can be drawn, and none twice."""
    context: Any = Noted(batch=7)
    rows = shuffle_gap.run(shuffle_gap.Config(permutations=permutations), context)
    found = {(r["view"], r["metric"]): r["value"] for r in rows if r["subset"] == "all"}
    own, draws = tuple(range(T)), min(permutations, 23)
    right: dict[str, list[float]] = defaultdict(list)
    for clip, orders in context.shown.items():
        first, *shuffled, backwards, still = orders
        assert (first, backwards, still) == (own, own[::-1], (T // 2,) * T)
        assert len(shuffled) == len(set(shuffled)) == draws and own not in shuffled
        assert all(sorted(order) == list(own) for order in shuffled)
        hits = [logits_of(clip, o).argmax() == clip % K for o in (own, *shuffled)]
        right["original"].append(hits[0])
        right["shuffled"].append(np.mean(hits[1:]))
    assert len(context.shown) == CLIPS
    for view, values in right.items():
        assert found[view, "top1"] == pytest.approx(np.mean(values))
    gap = np.mean(right["original"]) - np.mean(right["shuffled"])
    assert found["gap", "top1"] == pytest.approx(gap)
    names = {f"shuffled_{i}" for i in range(draws)} if draws > 1 else {"shuffled"}
    assert context.views.keys() == {"original", "reversed", "single_frame"} | names


def test_orders_hang_on_the_clip_alone() -> None:
    """Not on its batch; and those of clips differ."""
    shown = []
    for batch in (3, CLIPS):
        context: Any = Noted(batch)
        shuffle_gap.run(shuffle_gap.Config(), context)
        shown.append(dict(context.shown))
    assert shown[0] == shown[1]
    assert len({tuple(orders[1:5]) for orders in shown[0].values()}) > CLIPS - 3


def test_four_orders_are_enough_for_the_mean() -> None:
    """Its standard error over permutations: that of the mean of four draws, without replacement, of each
    clip's 23; clips are independent. What four draws give lies within four of it.
    """
    context: Any = Noted(batch=CLIPS)
    rows = shuffle_gap.run(shuffle_gap.Config(permutations=4), context)
    [four] = [r["value"] for r in rows
              if (r["view"], r["subset"], r["metric"]) == ("shuffled", "all", "top1")]  # fmt: skip
    context = Noted(batch=CLIPS)
    shuffle_gap.run(shuffle_gap.Config(permutations=23), context)
    hits = np.array([
        [logits_of(clip, order).argmax() == clip % K for order in orders[1:24]]
        for clip, orders in context.shown.items()
    ])  # fmt: skip
    variance = hits.var(axis=1, ddof=1) / 4 * (1 - 4 / 23)
    assert abs(four - hits.mean()) < 4 * np.sqrt(variance.sum()) / CLIPS
