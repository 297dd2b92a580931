"""Order by content: seriation and the order of pairs, on clips of which the truth is known."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from moving import FRAMES, QUICK, SPEC, MovingSquares, covers_chance, moving_context, numbers
from scipy.stats import kendalltau
from torch import Tensor, nn

from bench import find
from tasks.video import pair_order, seriation
from tasks.video._frames import without_time

orders = st.integers(3, 9).flatmap(lambda T: st.permutations(range(T)))


class Stages(nn.Module):
    """A `task.Model` whose stages are the frames, their places, and a constant; one patch."""

    dim, patch = 4, 16

    def __init__(self) -> None:
        super().__init__()
        self.time_embed = nn.Parameter(10.0 * torch.arange(FRAMES).float().reshape(1, -1, 1))
        self.backbone: Any
        object.__setattr__(self, "backbone", self)

    def stages(self, clip_BTCHW: Tensor) -> Iterator[Tensor]:
        B, T = clip_BTCHW.shape[:2]
        yield clip_BTCHW.reshape(B, T, 1, -1) + self.time_embed[:, :, None]
        yield self.time_embed[:, :, None].expand(B, T, 1, 1)
        yield torch.ones(B, T, 1, 2)


# -- seriation ---


def test_frames_of_a_moving_square_are_put_in_order() -> None:
    context = moving_context(Stages(), train=0)
    found = numbers("video.seriation", seriation.Config(), context)
    # Of five classes four move; what lies still has no order, and is right as often as by chance.
    for layer in ("pixels", "layer_00"):  # what a time embedding adds is in the mean
        assert found["rank", layer, "kendall"] > 0.8
    for layer in ("layer_01", "layer_02"):  # of which only the place is known, or nothing
        for view, metric in seriation.METRICS.items():
            chance = found[view, layer, "chance"]
            assert abs(found[view, layer, metric] - chance) < 0.1


def test_a_moving_square_is_in_perfect_order() -> None:
    clips = MovingSquares("val", 40)
    moving = [i for i in range(40) if i % 5 != 4]  # the last class lies still
    x_MTF = np.stack([clips.frames(i, np.arange(FRAMES)) for i in moving]).astype(float)
    x_MTF = x_MTF.reshape(len(moving), FRAMES, -1)
    d_MTT = np.linalg.norm(x_MTF[:, :, None] - x_MTF[:, None], axis=-1)
    true_MT = np.tile(np.arange(FRAMES), (len(moving), 1))
    for score_M in seriation.scores_of(seriation.seriated(d_MTT), true_MT).values():
        assert (score_M == 1.0).all()


@given(orders)
@settings(deadline=None, max_examples=40)
def test_a_line_is_seriated_whatever_its_order(order: list[int]) -> None:
    true_T = np.array(order)
    d_TT = np.abs(true_T[:, None] - true_T[None]).astype(float)
    scores = seriation.scores_of(seriation.seriated(d_TT[None]), true_T[None])
    assert scores["rank"] == scores["place"] == [1.0]


@given(orders, st.integers(0, 1000))
@settings(deadline=None, max_examples=60)
def test_scores_are_those_of_the_reversal(order: list[int], seed: int) -> None:
    true_1T, T = np.array([order]), len(order)
    ranks_1T = np.random.default_rng(seed).permutation(T)[None]
    one = seriation.scores_of(ranks_1T, true_1T)
    for ranks, true in ((T - 1 - ranks_1T, true_1T), (ranks_1T, T - 1 - true_1T)):
        assert seriation.scores_of(ranks, true) == one
    # Against scipy, and counted.
    assert one["rank"][0] == pytest.approx(abs(kendalltau(ranks_1T[0], true_1T[0]).statistic))
    matches = [sum(np.array(r) == true_1T[0]) / T for r in (ranks_1T[0], T - 1 - ranks_1T[0])]
    assert one["place"][0] == max(matches)


def test_noise_is_seriated_by_chance() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((3000, 8, 50))
    d_MTT = np.linalg.norm(x[:, :, None] - x[:, None], axis=-1)
    true_MT = rng.permuted(np.tile(np.arange(8), (3000, 1)), axis=1)
    for view, score_M in seriation.scores_of(seriation.seriated(d_MTT), true_MT).items():
        assert abs(score_M.mean() - seriation.chance(8)[view]) < 0.02
    # three places: of 6 orders 2 have |tau| 1 and 4 have 1/3; 1 place in 3 or all of them
    assert seriation.chance(3)["rank"] == pytest.approx(5 / 9)
    assert seriation.chance(3)["place"] == pytest.approx((2 * 1 + 4 * 1 / 3) / 6)


def test_equal_frames_have_no_order_but_a_number() -> None:
    assert sorted(seriation.seriated(np.zeros((1, 5, 5)))[0]) == list(range(5))


# -- the order of pairs ---


class Clock(Stages):
    """Stages: how far to the right and up the square is, or the sum of both; the time embedding."""

    def __init__(self, *, shared: bool = False) -> None:
        super().__init__()
        self.shared = shared

    def stages(self, clip_BTCHW: Tensor) -> Iterator[Tensor]:
        bright = (clip_BTCHW[:, :, 0] > 0.9).float()
        along = torch.linspace(-1, 1, clip_BTCHW.shape[-1])
        x_BT, y_BT = ((bright.sum(dim=k) * along).sum(-1) for k in (2, 3))
        places_BTD = torch.stack([x_BT, -y_BT], dim=-1)
        yield (places_BTD.sum(-1, keepdim=True) if self.shared else places_BTD)[:, :, None]
        yield self.time_embed[:, :, None].expand(len(clip_BTCHW), -1, 1, 1)


@pytest.fixture(scope="module", params=[100, 0], ids=["training split", "folds"])
def told(request: pytest.FixtureRequest) -> dict[tuple[str, str, str], float]:
    options = pair_order.Config(**QUICK)
    return numbers("video.pair_order", options, moving_context(Clock(), train=request.param))


def test_content_tells_the_order_of_pairs(told: dict[tuple[str, str, str], float]) -> None:
    """Asked are moving right, moving up, and lying still, of which nobody can tell."""
    assert told["known_classes", "layer_00", "accuracy"] == pytest.approx(2.5 / 3, abs=0.02)
    assert told["known_classes", "layer_00", "ci_low"] > 0.5


def test_the_time_embedding_tells_nothing(told: dict[tuple[str, str, str], float]) -> None:
    for view in ("known_classes", "new_classes"):
        assert told[view, "layer_01", "accuracy"] == 0.5  # either way round one is right
        assert covers_chance(told, view, "layer_01")


def test_new_classes_are_told_by_what_is_shared() -> None:
    """Right and up have a direction of features each, or one for both."""
    spec = replace(SPEC, subsets={}, reversals=((0, 1), (2, 3), (0, 4)))  # asked are these two
    for model, expected in ((Clock(), 0.5), (Clock(shared=True), 1.0)):
        context = moving_context(model, spec=spec)
        found = numbers("video.pair_order", pair_order.Config(**QUICK), context)
        # Of 8 frames one is shown twice, and a pair of these scores one half.
        assert found["known_classes", "layer_00", "accuracy"] > 0.97
        assert abs(found["new_classes", "layer_00", "accuracy"] - expected) < 0.03


def test_of_two_reversals_together_nobody_can_tell() -> None:
    context = moving_context(Clock(), spec=replace(SPEC, subsets={}, reversals=()))
    found = numbers("video.pair_order", pair_order.Config(**QUICK), context)
    assert abs(found["known_classes", "layer_00", "accuracy"] - 0.5) < 0.1


def test_the_time_embedding_is_back_afterwards() -> None:
    model = Stages()
    before = model.time_embed.clone()
    with pytest.raises(KeyError), without_time(model):
        assert not model.time_embed.any()
        raise KeyError
    assert torch.equal(model.time_embed, before)


@pytest.mark.parametrize("name", ["timesformer", "motionformer"])
def test_without_time_frames_are_a_set(name: str) -> None:
    """What the docstring says of these two: permuted frames have permuted features."""
    module = find.load("backbone", name)
    torch.manual_seed(0)
    model = module.build(module.Config.tiny(), frames=4, size=16).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    clip, order = torch.randn(2, 4, 3, 16, 16), torch.tensor([2, 0, 3, 1])

    def last(shown: Tensor) -> Tensor:
        return list(model.stages(shown))[-1]

    with torch.no_grad(), without_time(model):
        torch.testing.assert_close(last(clip)[:, order], last(clip[:, order]), rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        assert (last(clip)[:, order] - last(clip[:, order])).abs().max() > 0.1
