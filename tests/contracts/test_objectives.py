"""The rules of a loss (`bench.task.ObjectiveModule`)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from bench import find
from bench.config.seeds import rng
from bench.data.order import Draw
from bench.data.transforms import normalise
from bench.models.classifier import Classifier
from bench.task import Batch, Config, DataSpec, ModelSpec, Picture
from bench.train.learner import Learner, LossReport, TrainingStep

NAMES = find.names("objective")
FRAMES, SIZE, CLASSES, BATCH = 4, 64, 20, 3
HALF = (0.5, 0.5, 0.5)
LAYERS = ("only_bg_t", "only_bg_b", "clean_bg", "no_fg", "fg_mask")
WORLDS = {  # media: a backbone for it, frames, layers
    "video": ("timesformer", FRAMES, ()),
    "image": ("vit", 1, LAYERS),
}


def specs(media: str) -> tuple[ModelSpec, DataSpec]:
    """A small model, and data that it could be trained on."""
    name, frames, layers = WORLDS[media]
    sizes = find.load("backbone", name).Config.tiny()
    optional = find.optional("backbone", name, "POSITIONS_OPTIONAL")
    classes = tuple(f"c{i}" for i in range(CLASSES))
    return (
        ModelSpec(
            frames, SIZE, sizes.patch, sizes.dim, CLASSES, HALF, HALF, positions_optional=optional
        ),
        DataSpec("any", media, classes, {}, ("train", "val"), layers={"train": layers}),
    )


def why_not(name: str, config: Config, media: str) -> str | None:
    skip = find.optional("objective", name, "skip")
    return skip and skip(config, *specs(media))


def pixels(name: str, media: str) -> np.ndarray:
    shape = (BATCH, specs(media)[0].frames, SIZE, SIZE, 3)
    return rng(0, name).integers(0, 256, shape, dtype=np.uint8)


def picture(image_HWC: np.ndarray) -> Picture:
    """An image whose object is its upper left quarter; another colour is behind it in each layer."""
    mask_HW = np.zeros(image_HWC.shape[:2], np.uint8)
    mask_HW[: SIZE // 2, : SIZE // 2] = 1

    def layer(name: str) -> np.ndarray:
        behind = np.where(mask_HW[..., None], LAYERS.index(name), image_HWC).astype(np.uint8)
        return mask_HW if name == "fg_mask" else behind

    return Picture(image_HWC, layer)


def labels(name: str, config: Config, media: str) -> dict[str, torch.Tensor]:
    """What the loader's workers, or else the device, would have made for this objective."""
    frames, (model, _), made = pixels(name, media), specs(media), None
    if prepare := find.optional("objective", name, "prepare"):
        made = [prepare(config, model, clip, rng(0)) for clip in frames]
    if companion := find.optional("objective", name, "companion"):
        seconds = [companion(config, picture(clip[0]), rng(0)) for clip in frames]
        wanted = [second[None] for second in seconds if second is not None]
        assert len(wanted) in (0, BATCH), "its options decide whether there is a second image"
        assert all(m.shape == (1, SIZE, SIZE, 3) and m.dtype == np.uint8 for m in wanted), (
            "companion returns an uint8 image as large as the one that it gets"
        )
        made = wanted or None
    if made is not None:
        return {name: torch.from_numpy(np.stack(made))}
    prepare_batch = find.optional("objective", name, "prepare_batch")
    clips = torch.from_numpy(frames)
    return {name: prepare_batch(config, model, clips)} if prepare_batch else {}


def trained(name: str, config: Config, media: str) -> tuple[LossReport, Classifier, Any]:
    """The loss of one step with this objective alone, and the modules that it trains."""
    spec, _ = specs(media)
    backbone = find.load("backbone", WORLDS[media][0])
    encoder = backbone.build(backbone.Config.tiny(), frames=spec.frames, size=SIZE)
    classifier = Classifier(encoder, CLASSES, dropout=0.0)
    objective = find.load("objective", name).Objective(config, spec)
    draws = tuple(Draw(i, 0) for i in range(BATCH))
    step = TrainingStep(classifier, run_seed=0, number=0, draws=draws)
    clip = normalise(torch.from_numpy(pixels(name, media)), spec.mean, spec.std)
    batch = Batch(clip, torch.arange(BATCH), tuple("abc"), labels(name, config, media))
    return Learner(classifier, {name: objective}, {name: 1.0})(batch, step), classifier, objective


@pytest.mark.parametrize("name", NAMES)
def test_it_can_be_asked_of_videos_or_of_images(name: str) -> None:
    config = find.load("objective", name).Config()
    reasons = [why_not(name, config, media) for media in WORLDS]
    assert None in reasons, f"with its default options it works for one of them: {reasons}"


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("options", ["default", "tiny"])
@pytest.mark.parametrize("media", WORLDS)
def test_its_loss_is_finite_and_trains_the_model(name: str, options: str, media: str) -> None:
    module = find.load("objective", name)
    config = module.Config() if options == "default" else module.Config.tiny()
    if reason := why_not(name, config, media):
        pytest.skip(f"not for {media}: {reason}")
    report, classifier, objective = trained(name, config, media)
    assert report.total.ndim == 0, "the loss is a scalar, a mean over the batch"
    assert bool(torch.isfinite(report.total)), "the loss is finite"
    logs = dict(report.logs)
    if (found := logs.pop(f"{name}/shares", None)) is not None:
        assert found.ndim == 1, "shares are one for each label"
        assert found.sum().item() == pytest.approx(1.0), "shares of the labels add up to 1"
        assert f"{name}/accuracy" in logs, "shares stand beside an accuracy"
    assert all(value.ndim == 0 for value in logs.values()), "what else is logged are scalars"
    report.total.backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in classifier.parameters()), (
        "its gradient reaches the model"
    )
    assert all(p.grad is not None for p in objective.parameters()), (
        "its gradient reaches every parameter of its heads"
    )


@pytest.mark.parametrize(
    "name", [n for n in NAMES if find.optional("objective", n, "prepare_batch")]
)
def test_labels_are_alike_wherever_they_are_computed(name: str) -> None:
    module = find.load("objective", name)
    config, frames = module.Config.tiny(), torch.from_numpy(pixels(name, "video"))
    made = module.prepare_batch(config, specs("video")[0], frames)
    assert len(made) == BATCH, "prepare_batch returns B first"
    assert made.device == frames.device, "the labels are where the clips are"
    if find.optional("objective", name, "prepare"):
        assert getattr(config, "where", "auto") == "auto", "by default the device decides"
        loaders = labels(name, config, "video")[name]
        assert (made.shape, made.dtype) == (loaders.shape, loaders.dtype), (
            "prepare and prepare_batch make labels of one shape and type"
        )
