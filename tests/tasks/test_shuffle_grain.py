"""Shuffled in blocks, on clips of which the truth is known."""

from __future__ import annotations

from dataclasses import replace

import torch
from hypothesis import given
from hypothesis import strategies as st
from moving import SEEING, SPEC, Sees, moving_context, numbers
from torch import Tensor

from tasks.video import shuffle_grain


class Neighbours(Sees):
    """Logits from steps between neighbouring frames: which of them is the most frequent."""

    def forward(self, clip_BTCHW: Tensor) -> Tensor:
        steps_BTD = self.places(clip_BTCHW).diff(dim=1)[..., :2]
        scale = 2 / (clip_BTCHW.shape[-1] - 1)  # of a pixel
        signs = torch.where(steps_BTD.abs() < 1.5 * scale, (steps_BTD / scale).round(), 0)
        right_B, down_B = signs.sum(dim=1).unbind(1)
        still_B = torch.full_like(right_B, 0.5)
        return torch.stack([right_B, -right_B, -down_B, down_B, still_B], dim=1)


def test_at_which_grain_models_notice() -> None:
    near, far = (
        numbers(
            "video.shuffle_grain", shuffle_grain.Config(grains=(1, 2, 8)), moving_context(model)
        )
        for model in (Neighbours(order=True), SEEING)
    )
    views = {view for view, _, _ in near}
    assert views == {"original", "blocks_1", "blocks_2", "halves", "reversed"}  # none of 8 frames
    for found in (near, far):
        assert found["original", "all", "top1"] == 1.0
        assert found["original", "all", "changed"] == 0.0
        assert found["reversed", "temporal", "top1"] == 0.0
        assert found["reversed", "static", "changed"] == 0.0
    # Within halves all neighbours are as they were: 6 steps to the right, and one jump.
    assert near["halves", "temporal", "top1"] == 1.0
    assert far["halves", "temporal", "top1"] == 0.0 and far["halves", "temporal", "changed"] == 1.0
    assert near["blocks_1", "temporal", "top1"] < near["blocks_2", "temporal", "top1"]


@given(st.integers(2, 12), st.integers(1, 11), st.integers(0, 9))
def test_blocks_are_shuffled_whole(frames: int, grain: int, key: int) -> None:
    if grain >= frames:
        return
    order = shuffle_grain._in_blocks(frames, grain, seed=0, key=str(key))
    assert sorted(order) == list(range(frames)) and order.tolist() != list(range(frames))
    starts = [t for t in order if t % grain == 0]
    whole = [t for s in starts for t in range(s, min(s + grain, frames))]
    assert order.tolist() == whole
    again = shuffle_grain._in_blocks(frames, grain, seed=0, key=str(key))
    assert again.tolist() == order.tolist()


def test_without_an_order_it_is_skipped() -> None:
    context, images = moving_context(SEEING), replace(SPEC, media="image")
    single = replace(context.model_spec, frames=1)
    for model, spec in ((context.model_spec, images), (single, SPEC)):
        assert "no frames" in (shuffle_grain.skip(shuffle_grain.Config(), model, spec) or "")
    assert shuffle_grain.skip(shuffle_grain.Config(), context.model_spec, SPEC) is None
