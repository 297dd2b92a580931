"""Frozen features: what they are, and that each is computed once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from makers import context_of, smoke
from torch import Tensor, nn

from bench import task
from bench.data import views
from bench.evaluate import features as room
from bench.evaluate.context import EvaluationContext

ORDERS = ("original", "reversed", "shuffled")


@pytest.fixture
def context(data_dir: Path) -> EvaluationContext:
    found = context_of(smoke(), data_dir)
    found.batch = found.count("test")
    return found


class Counting(nn.Module):
    """A model that counts the clips it is shown."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model, self.clips = model, 0

    @property
    def backbone(self) -> Any:
        return self

    def stages(self, clip_BTCHW: Tensor) -> Any:
        self.clips += len(clip_BTCHW)
        return self.model.backbone.stages(clip_BTCHW)


class OnlyFeatures(nn.Module):
    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def encode(self, clip_BTCHW: Tensor) -> task.Features:
        return self.model.encode(clip_BTCHW)


class Classifies(nn.Module):
    """Can only classify, and says so when asked for features, as the wrapper of timm's models does."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def encode(self, clip_BTCHW: Tensor) -> task.Features:
        raise task.NoFeatures("logits only")

    def forward(self, clip_BTCHW: Tensor) -> Tensor:
        return self.model(clip_BTCHW)


class SaysSoAtTheFirstStep(Classifies):
    """As a generator does."""

    @property
    def backbone(self) -> Any:
        return self

    def stages(self, clip_BTCHW: Tensor) -> Any:
        yield from self.encode(clip_BTCHW)


class Fails(OnlyFeatures):
    def encode(self, clip_BTCHW: Tensor) -> task.Features:
        raise ValueError("a mistake of its own")


@torch.no_grad()
def test_they_are_what_the_model_computes(context: EvaluationContext) -> None:
    found = context.features("test", ORDERS)
    (batch,) = context.batches("test")
    depth = context.model.backbone.blocks
    assert found["original"].layers == (*[f"layer_{i:02d}" for i in range(len(depth) + 1)], "final")
    for view, part in found.items():
        orders = views.named(view, 4, seed=context.seed, keys=batch.keys)
        clip = views.show(batch.clip_BTCHW, orders)
        assert part.keys == batch.keys and part.seen_M.all()
        assert part.labels_M.tolist() == batch.labels_B.tolist()
        assert np.array_equal(part.layer("final"), context.model.encode(clip).cls_BD.numpy())
        for i, tokens_BTND in enumerate(context.model.backbone.stages(clip)):
            pooled = tokens_BTND.mean(dim=(1, 2)).numpy()
            assert np.allclose(part.layer(f"layer_{i:02d}"), pooled, atol=1e-6)
    shuffled = views.named("shuffled", 4, seed=context.seed, keys=batch.keys)
    one = views.shuffled(4, seed=context.seed, key=batch.keys[3], draws=4)[0]
    assert shuffled[3].tolist() == one.tolist()  # the first of video.shuffle_gap's


@torch.no_grad()
def test_each_is_computed_once(context: EvaluationContext) -> None:
    context.model = model = Counting(context.model)
    count = context.count("test")
    some = np.array([5, 0, 3])
    first = context.features("test", chosen=some)["original"]
    assert model.clips == 3 and first.keys == tuple(context.samples("test").keys[i] for i in some)
    both = context.features("test", ("original", "reversed"))
    assert model.clips == 2 * count
    again = context.features("test", ("reversed", "original"), chosen=some)
    assert model.clips == 2 * count
    for layer in first.layers:
        # Whatever batch a clip was in, up to the rounding that differs between batch sizes.
        assert np.allclose(both["original"].layer(layer)[some], first.layer(layer), atol=1e-5)
        assert np.array_equal(again["reversed"].layer(layer), both["reversed"].layer(layer)[some])
    context.features("train", chosen=some)
    assert model.clips == 2 * count + 3


@torch.no_grad()
@pytest.mark.parametrize(
    ("wrapper", "layers"),
    [
        (OnlyFeatures, ("final",)),
        (Classifies, ("logits",)),
        (SaysSoAtTheFirstStep, ("logits",)),
    ],
)
def test_a_model_without_stages_gives_what_it_has(
    wrapper: type[nn.Module], layers: tuple[str, ...], context: EvaluationContext
) -> None:
    model = context.model
    (batch,) = context.batches("test")
    expected = {"final": model.encode(batch.clip_BTCHW).cls_BD, "logits": model(batch.clip_BTCHW)}
    context.model = wrapper(model)
    found = context.features("test")["original"]
    assert found.layers == layers
    assert np.array_equal(found.layer(layers[0]), expected[layers[0]].numpy())


@torch.no_grad()
def test_an_error_of_the_model_is_not_taken_for_a_lack_of_features(
    context: EvaluationContext,
) -> None:
    context.model = Fails(context.model)
    with pytest.raises(ValueError, match="a mistake of its own"):
        context.features("test")


@torch.no_grad()
def test_large_ones_lie_in_scratch(
    context: EvaluationContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = context.features("test")["original"]
    other = replace(context)  # which knows nothing yet
    other.scratch_folder = tmp_path / "scratch"
    monkeypatch.setattr(room, "LARGE", 1)
    found = other.features("test")["original"]
    assert len(list((tmp_path / "scratch/features").glob("test-original-*.npy"))) == len(
        found.layers
    )
    assert all(np.array_equal(found.layer(n), expected.layer(n)) for n in found.layers)


@torch.no_grad()
def test_what_cannot_be_decoded_is_marked(context: EvaluationContext) -> None:
    class Damaged:
        def __init__(self, samples: Any) -> None:
            self._samples = samples

        def __getattr__(self, name: str) -> Any:
            return getattr(self._samples, name)

        def __len__(self) -> int:
            return len(self._samples)

        def frames(self, i: int, indices: np.ndarray) -> np.ndarray:
            if i == 4:
                raise ValueError("broken")
            return self._samples.frames(i, indices)

    opened = context.open_split
    context.open_split = lambda split: Damaged(opened(split))
    found = context.features("test", ("original", "reversed"))
    for part in found.values():
        assert np.flatnonzero(~part.seen_M).tolist() == [4]
    assert len(context.failed["test"]) == 1


def test_the_training_split_is_named_where_it_is_at_hand(context: EvaluationContext) -> None:
    assert context.training_split == "train"
    opened = context.open_split

    def only_evaluated(split: str) -> task.Samples:
        if split == "train":
            raise ValueError("not here")
        return opened(split)

    context.open_split = only_evaluated
    assert context.training_split is None
    context.open_split, context.splits = opened, ("train",)
    assert context.training_split is None
