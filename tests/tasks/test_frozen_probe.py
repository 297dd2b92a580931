"""A linear classifier of frozen features and its shuffle gap, on clips of which the truth is known."""

from __future__ import annotations

from dataclasses import replace

import pytest
from moving import BLIND, QUICK, SEEING, SPEC, moving_context, numbers

from tasks.video import frozen_probe


@pytest.mark.parametrize("train", [100, 0], ids=["training split", "folds of the split itself"])
def test_the_frozen_probe_and_its_shuffle_gap(train: int) -> None:
    options = frozen_probe.Config(**QUICK)
    blind = numbers("video.frozen_probe", options, moving_context(BLIND, train=train))
    assert blind["gap", "all", "accuracy"] == 0.0 and blind["original", "all", "chance"] == 0.2
    # no clip changed, and yet so few are no proof that none would
    assert blind["gap", "all", "ci_low"] < -0.01 < 0.01 < blind["gap", "all", "ci_high"]
    seeing = numbers("video.frozen_probe", options, moving_context(SEEING, train=train))
    assert seeing["original", "all", "accuracy"] > 0.9
    assert seeing["reversed", "temporal", "accuracy"] < 0.1
    assert seeing["gap", "temporal", "ci_low"] > 0.2
    assert seeing["gap", "all", "accuracy"] == pytest.approx(
        seeing["original", "all", "accuracy"] - seeing["shuffled", "all", "accuracy"]
    )


def test_without_an_order_it_is_skipped() -> None:
    context, images = moving_context(SEEING), replace(SPEC, media="image")
    single = replace(context.model_spec, frames=1)
    for model, spec in ((context.model_spec, images), (single, SPEC)):
        assert "no frames" in (frozen_probe.skip(frozen_probe.Config(), model, spec) or "")
    assert frozen_probe.skip(frozen_probe.Config(), context.model_spec, SPEC) is None
