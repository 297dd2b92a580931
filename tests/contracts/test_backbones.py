"""The rules of an encoder (`bench.task.BackboneModule`)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn

from bench import find

NAMES = find.names("backbone")
FRAMES, SIZE, BATCH = 4, 16, 3
POSITIONS_OPTIONAL = [n for n in NAMES if find.optional("backbone", n, "POSITIONS_OPTIONAL")]


def frames_of(name: str) -> int:
    """FRAMES, or 1 of backbones that see a single image."""
    config, skip = (
        find.load("backbone", name).Config.tiny(),
        find.optional("backbone", name, "skip"),
    )
    if skip is None or skip(config, frames=FRAMES, size=SIZE) is None:
        return FRAMES
    assert skip(config, frames=1, size=SIZE) is None, (
        f"Config.tiny() works at {SIZE} pixels, with {FRAMES} frames or with one"
    )
    return 1


def built(name: str) -> Any:
    module = find.load("backbone", name)
    return module.build(module.Config.tiny(), frames=frames_of(name), size=SIZE)


def clip_for(name: str) -> torch.Tensor:
    return torch.randn(BATCH, frames_of(name), 3, SIZE, SIZE)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("train", [True, False])
def test_features_are_alike_in_train_and_eval(name: str, train: bool) -> None:
    config, model = find.load("backbone", name).Config.tiny(), built(name).train(train)
    assert (model.dim, model.patch) == (config.dim, config.patch), "dim and patch are the options'"
    features = model(clip_for(name))
    times, patches = frames_of(name) // getattr(config, "tubelet", 1), (SIZE // model.patch) ** 2
    assert features.cls_BD.shape == (BATCH, model.dim), "cls_BD: one feature per clip"
    assert features.tokens_BTND.shape == (BATCH, times, patches, model.dim), (
        "tokens_BTND: frames / tubelet, patches in rows, dim"
    )


@pytest.mark.parametrize("name", NAMES)
def test_stages_are_the_embedding_and_each_block(name: str) -> None:
    config, model, clip = find.load("backbone", name).Config.tiny(), built(name), clip_for(name)
    stages = list(model.stages(clip))
    shape = model(clip).tokens_BTND.shape
    assert len(stages) == getattr(config, "depth", len(stages) - 1) + 1 > 1, (
        "stages yields the tokens after the embedding and after each block: depth + 1"
    )
    assert all(stage.shape == shape for stage in stages), "every stage is shaped as tokens_BTND"


def returned(stages: Iterator[torch.Tensor]) -> Any:
    """What a generator returns after its last value."""
    while True:
        try:
            next(stages)
        except StopIteration as end:
            return end.value


@pytest.mark.parametrize("name", NAMES)
def test_what_stages_returns_are_the_features(name: str) -> None:
    model, clip = built(name).eval(), clip_for(name)
    features = returned(iter(model.stages(clip)))
    if features is not None:  # it may return nothing: then probes call it once more
        assert torch.equal(features.cls_BD, model(clip).cls_BD), "the same bits as of a call"
        assert torch.equal(features.tokens_BTND, model(clip).tokens_BTND)


@pytest.mark.parametrize("name", NAMES)
def test_its_state_is_all_that_it_computes_with(name: str) -> None:
    torch.manual_seed(0)
    one = built(name).eval()
    torch.manual_seed(1)
    other = built(name).eval()
    other.load_state_dict(one.state_dict())
    clip = clip_for(name)
    assert torch.equal(one(clip).cls_BD, other(clip).cls_BD), (
        "in eval the same state_dict gives the same features, or a checkpoint would lose something"
    )


@pytest.mark.parametrize("name", POSITIONS_OPTIONAL)
def test_without_positions_it_sees_a_bag_of_patches(name: str) -> None:
    model, clip = built(name).eval(), clip_for(name)
    having, without = model(clip), model(clip, positions=False)
    assert having.tokens_BTND.shape == without.tokens_BTND.shape, "the shape stays"
    assert not torch.equal(having.tokens_BTND, without.tokens_BTND), (
        "POSITIONS_OPTIONAL: positions=False leaves the position embedding out"
    )
    assert torch.equal(having.cls_BD, model(clip, positions=True).cls_BD), "the default is True"


@pytest.mark.parametrize("name", NAMES)
def test_without_time_embed_its_embedding_knows_no_order(name: str) -> None:
    """Evaluations leave the time embedding out: zero in the parameter `time_embed`."""
    model, clip = built(name).eval(), clip_for(name)
    tubelet = getattr(model, "tubelet", 1)
    backwards = clip.unflatten(1, (-1, tubelet)).flip(1).flatten(1, 2)
    if (embedding := getattr(model, "time_embed", None)) is not None:
        nn.init.zeros_(embedding)
    first, shown = (next(iter(model.stages(x))) for x in (clip, backwards))
    torch.testing.assert_close(first.flip(1), shown, msg="what it adds to a frame is `time_embed`")
