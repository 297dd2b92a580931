"""Forward or reversed, on clips of which the truth is known."""

from __future__ import annotations

from dataclasses import replace

import pytest
from moving import BLIND, QUICK, SEEING, SPEC, covers_chance, moving_context, numbers

from bench.evaluate.context import run_one
from tasks.video import arrow_of_time


@pytest.mark.parametrize("train", [100, 0], ids=["training split", "folds of the split itself"])
def test_who_cannot_see_order_cannot_tell_the_direction(train: int) -> None:
    found = numbers(
        "video.arrow_of_time", arrow_of_time.Config(**QUICK), moving_context(BLIND, train=train)
    )
    layers = {subset for _, subset, _ in found if subset not in SPEC.subsets}
    assert layers == {"layer_00", "final"}
    for subset in (*layers, *SPEC.subsets):
        assert found["direction", subset, "accuracy"] == 0.5  # of each clip exactly one is right
        assert covers_chance(found, "direction", subset)


@pytest.mark.parametrize("train", [100, 0], ids=["training split", "folds of the split itself"])
def test_who_sees_order_tells_the_direction(train: int) -> None:
    context = moving_context(SEEING, train=train)
    found = numbers("video.arrow_of_time", arrow_of_time.Config(**QUICK), context)
    assert found["direction", "temporal", "accuracy"] == 1.0
    assert found["direction", "temporal", "ci_low"] > 0.8
    assert covers_chance(found, "direction", "layer_00")  # where it has not looked yet
    assert found["direction", "static", "accuracy"] == 0.5  # what lies still has no direction


def test_of_two_classes_that_are_each_others_reversal_one_is_asked() -> None:
    """With both, a clip played backwards is a clip of the other: nobody could tell."""
    context = moving_context(SEEING)
    asked = run_one("video.arrow_of_time", arrow_of_time.Config(**QUICK), context)
    assert {row["n"] for row in asked if row["subset"] == "temporal"} == {24}
    undirected = moving_context(SEEING, spec=replace(SPEC, reversals=()))
    found = numbers("video.arrow_of_time", arrow_of_time.Config(**QUICK), undirected)
    assert abs(found["direction", "temporal", "accuracy"] - 0.5) < 0.1


def test_without_an_order_it_is_skipped() -> None:
    context, images = moving_context(SEEING), replace(SPEC, media="image")
    single = replace(context.model_spec, frames=1)
    for model, spec in ((context.model_spec, images), (single, SPEC)):
        assert "no frames" in (arrow_of_time.skip(arrow_of_time.Config(), model, spec) or "")
    assert arrow_of_time.skip(arrow_of_time.Config(), context.model_spec, SPEC) is None
