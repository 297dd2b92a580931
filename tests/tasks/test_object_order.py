"""Patch order asked of the object's patches only (`image.patch_order`, `patches: object`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from makers import ROOT, make_run, smoke_config, trainer_of

from bench.config.science import Input
from bench.config.seeds import rng
from bench.data import transforms
from bench.data.access import prepare_data
from bench.data.order import Draw
from bench.grid.plan import plan
from bench.losses import smoothed_cross_entropy
from bench.task import Batch, Features, ModelSpec, Picture
from bench.train.learner import TrainingStep
from tasks.image import patch_order

S, D = 8, 5
IMAGE = ModelSpec(1, S, 4, D, 7, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


class Told(TrainingStep):
    """A step whose second pass has the features that it is told."""

    def __init__(self, *, clips: int, epoch: int = 0) -> None:
        draws = tuple(Draw(i, epoch) for i in range(clips))
        super().__init__(torch.nn.Identity(), run_seed=0, number=epoch, draws=draws)  # type: ignore[arg-type]
        self.extra = Features(torch.zeros(clips, D), torch.zeros(clips, 1, 4, D))

    def extra_features(self, objective: Any) -> Features:
        return self.extra


def batch_of(clips: int, **extras: torch.Tensor) -> Batch:
    clip = torch.zeros(clips, 1, 3, S, S)
    return Batch(clip, torch.arange(clips), tuple(map(str, range(clips))), dict(extras))


def picture(mask_HW: np.ndarray) -> Picture:
    return Picture(np.zeros((*mask_HW.shape, 3), np.uint8), {"fg_mask": mask_HW}.__getitem__)


def marked(*masks_HW: np.ndarray) -> torch.Tensor:
    """What the loader hands over where it neither crops nor augments."""
    config = patch_order.Config(patches="object")
    images = [patch_order.companion(config, picture(mask), rng(0)) for mask in masks_HW]
    assert all(image is not None for image in images)
    return torch.from_numpy(np.stack(images))[:, None]


def test_only_patches_of_the_object_count() -> None:
    """Two images: an object over one patch and half of another, and none. By hand."""
    mask = np.zeros((S, S), np.uint8)
    mask[:4, :6] = 1
    batch = batch_of(2, **{patch_order.NAME: marked(mask, np.zeros_like(mask))})
    torch.testing.assert_close(
        patch_order.object_shares(batch.extras[patch_order.NAME], patch=4),
        torch.tensor([[1.0, 0.5, 0.0, 0.0], [0.0] * 4]),
    )
    objective = patch_order.Objective(patch_order.Config(patches="object", smoothing=0.0), IMAGE)
    tokens = torch.from_numpy(rng(3).standard_normal((2, 1, 4, D))).float()
    features = Features(torch.zeros(2, D), tokens)
    loss, logs = objective(Told(clips=2), batch, features)
    minus_log_p = -F.log_softmax(objective.head(tokens[:, 0]), -1)
    expected = (minus_log_p[0, 0, 0] + 0.5 * minus_log_p[0, 1, 1]) / 1.5 / 2
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    loss.backward()
    assert objective.head.weight.grad is not None and 0 <= logs["accuracy"] <= 1


def test_the_object_is_where_its_permuted_patches_are_shown() -> None:
    mask = np.zeros((S, S), np.uint8)
    mask[4:, 4:] = 1  # patch 3
    batch = batch_of(1, **{patch_order.NAME: marked(mask)})
    config = patch_order.Config(patches="object", permuted=1.0, smoothing=0.0)
    objective = patch_order.Objective(config, IMAGE)
    step = next(s for s in map(lambda e: Told(epoch=e, clips=1), range(50)) if _moves(objective, s))
    place = int(np.flatnonzero(objective.orders(step, batch)[0] == 3)[0])
    tokens = torch.from_numpy(rng(4).standard_normal((1, 1, 4, D))).float()
    step.extra = Features(torch.zeros(1, D), tokens)
    expected = -F.log_softmax(objective.head(tokens[0, 0, place]), -1)[3]
    assert objective(step, batch, step.extra)[0].item() == pytest.approx(expected.item(), rel=1e-5)


def _moves(objective: patch_order.Objective, step: Told) -> bool:
    return bool(objective.orders(step, batch_of(1))[0, 3] != 3)


def test_colours_that_augmentation_changes_are_never_taken_for_the_object() -> None:
    """Inverted, solarised or darkened, a mask is lost; it never becomes another one."""
    mask = np.zeros((S, S), np.uint8)
    config = Input(frames=1, size=S, jitter=(1.0, 1.0), rand_augment="rand-m9-mstd0.5-inc1")
    (nothing,), (everything,) = marked(mask), marked(mask + 1)
    found = []
    for seed in range(80):
        shown, of_all = (
            torch.from_numpy(transforms.train_clip(image.numpy(), config, rng(seed)))[None]
            for image in (nothing, everything)
        )
        assert patch_order.object_shares(shown, patch=4).sum() == 0
        found.append(patch_order.object_shares(of_all, patch=4).mean().item())
    assert np.mean(found) > 0.5 and min(found) == 0


def test_without_masks_it_is_skipped_and_by_default_no_mask_is_read() -> None:
    cells = plan(ROOT / "sweeps/background.yaml", "paper", ["seeds=[0]"]).cells
    order = next(cell.config for cell in cells if cell.labels["method"] == "+ order")
    asked = (order.model_spec(), order.data_spec())
    assert patch_order.skip(patch_order.Config(), *asked) is None
    assert "fg_mask" in str(patch_order.skip(patch_order.Config(patches="object"), *asked))
    no_layers = Picture(np.zeros((S, S, 3), np.uint8), {}.__getitem__)
    assert patch_order.companion(patch_order.Config(), no_layers, rng(0)) is None


def test_a_run_gets_the_masks_of_its_images(tmp_path: Path, data_dir: Path) -> None:
    """Through shards and loader: the share of the object that the loss sees is that of the masks."""
    option = {"objectives.image.patch_order.patches": "object"}
    still = {"input.jitter": [1.0, 1.0], "input.hflip": False, "train.epochs": 1}
    config = smoke_config("+ order", sweep="background", **option, **still)
    prepare_data(config, data_dir)
    trainer = trainer_of(make_run(tmp_path, config, data_dir))
    ((raw,), *_) = trainer.batches.steps(0, 1)
    samples = trainer.batches.samples
    patch = config.model_spec().patch
    shares = patch_order.object_shares(raw.extras[patch_order.NAME], patch=patch)
    for draw, share_N in zip(raw.draws, shares, strict=True):
        mask = torch.from_numpy(samples.layer(draw.index, "fg_mask") != 0).float()
        torch.testing.assert_close(share_N, F.avg_pool2d(mask[None], patch).flatten())
    assert shares.sum() > 0


def test_weights_of_the_cross_entropy_are_those_of_each_term() -> None:
    logits = torch.from_numpy(rng(5).standard_normal((2, 3, 4)))
    labels = torch.from_numpy(rng(6).integers(0, 4, (2, 3)))
    weights = torch.from_numpy(rng(7).uniform(size=(2, 3)))
    p = np.exp(logits.numpy()) / np.exp(logits.numpy()).sum(-1, keepdims=True)
    each = -0.9 * np.log(np.take_along_axis(p, labels.numpy()[..., None], -1))[..., 0]
    each -= 0.1 * np.log(p).mean(-1)
    found = smoothed_cross_entropy(logits, labels, smoothing=0.1, weights=weights)
    assert found.item() == pytest.approx(float((weights.numpy() * each).mean()))
