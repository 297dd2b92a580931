"""The image domain's objectives and loading: patch order, background debias, second images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pydantic
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision import transforms as torchvision

from bench import find
from bench.config.science import Input
from bench.config.seeds import rng
from bench.data import imagenet9, loader, transforms
from bench.data.order import Draw
from bench.models.classifier import Classifier
from bench.task import Batch, DataSpec, Features, ModelSpec, Picture
from bench.train.learner import Learner, TrainingStep
from tasks.image import background_debias, patch_order
from tasks.video import order as frame_order

HALF = (0.5, 0.5, 0.5)
SPEC = ModelSpec(1, 16, 4, 8, 9, HALF, HALF, positions_optional=True)
IMAGES = DataSpec(
    "some images",
    "image",
    imagenet9.CLASSES,
    {},
    ("train", "val"),
    layers={"train": ("only_bg_t",)},
)
VIDEOS = DataSpec("some videos", "video", ("a", "b"), {}, ("train", "val"))


def batch_of(images: int = 3, *, size: int = 16, **extras: torch.Tensor) -> Batch:
    clip = torch.from_numpy(rng(0, "images").standard_normal((images, 1, 3, size, size))).float()
    labels = torch.arange(images)
    return Batch(clip, labels, tuple(map(str, range(images))), dict(extras))


def step_for(classifier: Any, images: int = 3, *, number: int = 0, epoch: int = 0) -> TrainingStep:
    draws = tuple(Draw(i, epoch) for i in range(images))
    return TrainingStep(classifier, run_seed=0, number=number, draws=draws)


@pytest.fixture
def classifier() -> Classifier:
    torch.manual_seed(0)
    vit = find.load("backbone", "vit")
    config = vit.Config(patch=4, dim=8, depth=2, heads=2, init_std=0.3, drop_path=0.0)
    return Classifier(vit.build(config, frames=1, size=16), 9)


# --- patch order -----------------------------------------------------------------------------------


@given(st.integers(1, 4), st.integers(2, 4), st.integers(0, 2**32 - 1))
def test_rearranged_images_show_the_named_patches(patch: int, side: int, seed: int) -> None:
    generator = rng(seed)
    images = torch.from_numpy(generator.standard_normal((2, 1, 3, patch * side, patch * side)))
    orders = np.stack([generator.permutation(side**2) for _ in range(2)])
    shown = patch_order.rearranged(images, orders, patch=patch)
    for b in range(2):
        for place, origin in enumerate(orders[b]):
            (row, column), (y, x) = divmod(place, side), divmod(int(origin), side)
            assert torch.equal(
                shown[
                    b, ..., row * patch : (row + 1) * patch, column * patch : (column + 1) * patch
                ],
                images[b, ..., y * patch : (y + 1) * patch, x * patch : (x + 1) * patch],
            )


@pytest.mark.parametrize(("share", "moved"), [(0.0, 0), (0.5, 8), (1.0, 16)])
def test_the_named_share_of_patches_is_permuted_per_image(
    share: float, moved: int, classifier: Classifier
) -> None:
    objective = patch_order.Objective(patch_order.Config(permuted=share), SPEC)
    orders = [
        objective.orders(step_for(classifier, 64, epoch=epoch), batch_of(64)) for epoch in (0, 0, 1)
    ]
    assert (np.sort(orders[0], axis=1) == np.arange(16)).all()
    away = (orders[0] != np.arange(16)).sum(1)
    assert away.max() <= moved and away.mean() == pytest.approx(max(0, moved - 1), abs=0.6)
    assert np.array_equal(orders[0], orders[1])  # a function of seed, epoch and sample
    if share:
        assert not np.array_equal(orders[0], orders[2])
        assert len({tuple(order) for order in orders[0]}) > 32


def test_patch_order_is_solved_by_tokens_that_know_their_place(classifier: Classifier) -> None:
    spec = ModelSpec(1, 16, 4, 16, 9, HALF, HALF)
    objective = patch_order.Objective(patch_order.Config(smoothing=0.0), spec)
    with torch.no_grad():
        objective.head.weight.copy_(50 * torch.eye(16))
    features = Features(torch.zeros(3, 16), torch.eye(16).expand(3, 1, 16, 16))
    loss, logs = objective(step_for(classifier), batch_of(), features)
    assert loss.item() < 1e-6 and logs["accuracy"].item() == 1.0


def test_patch_order_is_smoothed_as_frame_order_is() -> None:
    assert patch_order.Config().smoothing == frame_order.Config().smoothing == 0.2


def test_without_positions_permuting_patches_permutes_the_answers(classifier: Classifier) -> None:
    """Why `permuted` and `positions: false` exclude each other."""
    batch, step = batch_of(), step_for(classifier)
    orders = np.stack([rng(i).permutation(16) for i in range(3)])
    shown = patch_order.rearranged(batch.clip_BTCHW, orders, patch=4)
    plain, moved = (step.encode(x, positions=False).tokens_BTND for x in (batch.clip_BTCHW, shown))
    for b in range(3):
        torch.testing.assert_close(moved[b, 0], plain[b, 0][orders[b]], atol=1e-5, rtol=1e-4)
    with pytest.raises(pydantic.ValidationError, match="changes nothing"):
        patch_order.Config(permuted=0.5, positions=False)


@pytest.mark.parametrize("options", [{}, {"permuted": 1.0}, {"positions": False}])
def test_each_patch_order_option_trains_its_own_pass(
    options: dict[str, Any], classifier: Classifier
) -> None:
    """The options give different losses, all near log N before training."""
    torch.manual_seed(1)
    objective = patch_order.Objective(patch_order.Config(**options), SPEC)
    report = Learner(classifier, {"image.patch_order": objective}, {"image.patch_order": 1.0})(
        batch_of(), step_for(classifier)
    )
    assert report.total.item() == pytest.approx(np.log(16), abs=0.1)
    report.total.backward()
    used = classifier.backbone.vit.pos_embed.grad[:, 1:].abs().sum()
    assert bool(used > 0) == options.get("positions", True)


def test_skip_names_what_is_missing() -> None:
    order, debias = patch_order.Config(), background_debias.Config()
    assert "no images" in str(patch_order.skip(order, SPEC, VIDEOS))
    assert "no images" in str(background_debias.skip(debias, SPEC, VIDEOS))
    fixed = ModelSpec(1, 16, 4, 8, 9, HALF, HALF)
    reason = patch_order.skip(patch_order.Config(positions=False), fixed, IMAGES)
    assert "position embedding" in str(reason)
    other = background_debias.Config(layer="clean_bg")
    assert "clean_bg" in str(background_debias.skip(other, SPEC, IMAGES))
    assert patch_order.skip(order, SPEC, IMAGES) is background_debias.skip(debias, SPEC, IMAGES)


# --- background debias -----------------------------------------------------------------------------


def picture() -> Picture:
    generator = rng(0, "picture")
    image = generator.integers(1, 256, (20, 20, 3), dtype=np.uint8)
    mask = np.zeros((20, 20), np.uint8)
    mask[5:12, 3:9] = 1
    layers = {"fg_mask": mask, "only_bg_t": 255 - image}
    return Picture(image, layers.__getitem__)


def test_the_background_comes_from_where_the_config_says() -> None:
    sample = picture()
    made = {
        way: background_debias.companion(background_debias.Config(background=way), sample, rng(0))
        for way in ("paired", "tile", "mask")
    }
    mask = sample.layer("fg_mask").astype(bool)
    assert np.array_equal(made["paired"], sample.layer("only_bg_t"))
    assert np.array_equal(
        made["tile"], imagenet9.tile_background(sample.image_HWC, sample.layer("fg_mask"))
    )
    assert (made["mask"][mask] == 0).all()
    assert np.array_equal(made["mask"][~mask], sample.image_HWC[~mask])
    assert np.array_equal(
        made["tile"][~mask & _outside_box()], sample.image_HWC[~mask & _outside_box()]
    )
    assert all(image.dtype == np.uint8 and image.shape == (20, 20, 3) for image in made.values())


def _outside_box() -> np.ndarray:
    outside = np.ones((20, 20), bool)
    outside[5:12, 3:9] = False
    return outside


def test_debias_is_least_where_the_classifier_is_undecided(classifier: Classifier) -> None:
    objective = background_debias.Objective(background_debias.Config(), SPEC)
    name = background_debias.NAME
    batch = batch_of(**{name: torch.zeros(3, 1, 16, 16, 3, dtype=torch.uint8)})
    learner = Learner(classifier, {name: objective}, {name: 1.0})
    losses = []
    for scale in (0.0, 1.0, 30.0):
        with torch.no_grad():
            classifier.head.weight.copy_(scale * torch.randn(9, 8, generator=torch.manual_seed(0)))
        losses.append(learner(batch, step_for(classifier)).total.item())
    assert losses[0] == pytest.approx(np.log(9)) and losses[0] < losses[1] < losses[2]


# --- loading ---------------------------------------------------------------------------------------


class OneImage:
    """Samples with a layer that equals the image, to see that both are augmented alike."""

    keys, labels, classes = ("0",), np.zeros(1, np.int64), ("only",)
    digest = provenance = ""
    image = rng(0, "one").integers(0, 256, (40, 50, 3), dtype=np.uint8)

    def __len__(self) -> int:
        return 1

    def num_frames(self, i: int) -> int:
        return 1

    def frames(self, i: int, indices: np.ndarray) -> np.ndarray:
        return self.image[None]

    def with_layer(self, name: str) -> np.ndarray:
        return np.zeros(1, np.int64)

    def layer(self, i: int, name: str) -> np.ndarray:
        return self.image


@pytest.mark.parametrize("augment", [None, "rand-m9-mstd0.5-inc1"])
def test_a_second_image_is_augmented_as_the_first_and_changes_nothing_of_it(
    augment: str | None,
) -> None:
    config = Input(frames=1, size=24, jitter=(1.0, 1.5), hflip=True, rand_augment=augment)
    companion = {"paired": lambda picture, _: picture.layer("same")}
    alone = loader.Clips(OneImage(), config, run_seed=0)
    paired = loader.Clips(OneImage(), config, run_seed=0, companions=companion)
    for epoch in range(8):
        item = paired[Draw(0, epoch)]
        clip, extras = item.clip_THWC, item.extras
        assert np.array_equal(clip, alone[Draw(0, epoch)][0])
        assert extras["paired"].shape == (1, 24, 24, 3) and np.array_equal(extras["paired"], clip)


def test_half_of_the_samples_are_mirrored_and_only_if_asked() -> None:
    plain = Input(frames=1, size=40, jitter=(1.0, 1.0))
    clips = loader.Clips(OneImage(), plain.model_copy(update={"hflip": True}), run_seed=0)
    other = loader.Clips(OneImage(), plain, run_seed=0)
    mirrored = 0
    for epoch in range(100):
        clip, straight = clips[Draw(0, epoch)][0], other[Draw(0, epoch)][0]
        if not np.array_equal(clip, straight):
            assert np.array_equal(clip, straight[:, :, ::-1])
            mirrored += 1
    assert 30 < mirrored < 70


@given(st.integers(8, 40), st.integers(8, 40), st.sampled_from([1.0, 1.2]))
def test_images_are_cropped_on_the_device_as_on_the_workers(
    height: int, width: int, scale: float
) -> None:
    images = rng(height, width).integers(0, 256, (2, height, width, 3), dtype=np.uint8)
    side = round(min(height, width) / scale)
    exact = Input(frames=1, size=side, eval_scale=scale)
    shown = transforms.centre_crop(torch.from_numpy(images), exact)
    assert np.array_equal(shown.numpy(), transforms.eval_clip(images, exact))
    larger = Input(frames=1, size=2 * side, eval_scale=scale)
    resized = transforms.centre_crop(torch.from_numpy(images), larger)
    assert resized.shape == (2, 2 * side, 2 * side, 3) and resized.dtype == torch.uint8
    difference = resized.numpy().astype(int) - transforms.eval_clip(images, larger)
    assert np.abs(difference).max() <= 2


def test_the_official_normalisation_is_bitwise_torchvisions() -> None:
    images = rng(0).integers(0, 256, (2, 9, 7, 3), dtype=np.uint8)
    mean, std = imagenet9.MEAN, imagenet9.STD
    ours = transforms.normalise_exactly(torch.from_numpy(images)[:, None], mean, std)
    theirs = torchvision.Compose([torchvision.ToTensor(), torchvision.Normalize(mean, std)])
    for image, clip in zip(images, ours, strict=True):
        assert torch.equal(clip[0], theirs(image))


def test_images_of_several_sizes_come_in_batches_of_one_size(tmp_path: Path) -> None:
    class Mixed(OneImage):
        keys, labels = tuple("abcde"), np.arange(5)
        sizes = (8, 8, 6, 8, 8)

        def __len__(self) -> int:
            return 5

        def frames(self, i: int, indices: np.ndarray) -> np.ndarray:
            return np.full((1, self.sizes[i], 8, 3), i, np.uint8)

    batches = list(loader.evaluation_images(Mixed(), batch=4, workers=0, pin=False))
    assert [batch.keys for batch in batches] == [("a", "b"), ("c",), ("d",), ("e",)]
    assert [int(batch.images_BHWC[0, 0, 0, 0]) for batch in batches] == [0, 2, 3, 4]
