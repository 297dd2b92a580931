"""Backbone, weights, objectives, views and the two evaluations that need no training."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from makers import ROOT
from safetensors.torch import save_file
from timm.loss import LabelSmoothingCrossEntropy
from torch import Tensor, nn

from bench import task
from bench.data import views
from bench.losses import smoothed_cross_entropy, uniform_cross_entropy
from bench.metrics import correct_top_k, top_k
from bench.models import released
from bench.models.backbones import timesformer
from bench.models.classifier import Classifier
from bench.models.weights import load_fitted
from bench.store.files import sha256_of
from tasks import classify
from tasks.video import debias, flow, order, order_probe, shuffle_gap

HALF = (0.5, 0.5, 0.5)
TINY = timesformer.Config.tiny()
SPEC = task.ModelSpec(frames=4, size=16, patch=8, dim=16, num_classes=5, mean=HALF, std=HALF)
VIDEO = task.DataSpec(
    name="made-up",
    media="video",
    classes=tuple("abcde"),
    subsets={"temporal": (0, 1), "static": (2, 3, 4)},
    splits=("train", "val"),
)
IMAGES = task.DataSpec(
    name="pictures", media="image", classes=("a", "b"), subsets={}, splits=("train", "val")
)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def tiny_backbone(**changes: Any) -> timesformer.TimeSformer:
    config = TINY.model_copy(update=changes)
    return timesformer.build(config, frames=4, size=16)


def awaken(backbone: timesformer.TimeSformer) -> timesformer.TimeSformer:
    """Give the parts that start at zero a value, as after training."""
    with torch.no_grad():
        backbone.time_embed.normal_()
        for block in backbone.blocks:
            block.temporal_fc.weight.normal_(std=0.5)
            block.temporal_fc.bias.normal_(std=0.5)
    return backbone


# TimeSformer ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("frames", "size", "patch"), [(4, 16, 8), (2, 24, 8), (1, 16, 4)])
def test_features_have_the_stated_shapes(frames: int, size: int, patch: int) -> None:
    model = timesformer.build(
        timesformer.Config(patch=patch, dim=12, depth=2, heads=3), frames=frames, size=size
    )
    clip = torch.randn(3, frames, 3, size, size)
    features = model(clip)
    num_patches = (size // patch) ** 2
    assert features.cls_BD.shape == (3, 12)
    assert features.tokens_BTND.shape == (3, frames, num_patches, 12)
    assert [tuple(s.shape) for s in model.stages(clip)] == [(3, frames, num_patches, 12)] * 3
    assert (model.dim, model.patch) == (12, patch)


def test_stages_end_in_the_features_before_the_norm() -> None:
    model = awaken(tiny_backbone()).eval()
    clip = torch.randn(2, 4, 3, 16, 16)
    *_, last = model.stages(clip)
    assert torch.equal(model.norm(last), model(clip).tokens_BTND)


def test_tokens_are_row_major_over_the_patch_grid() -> None:
    model = tiny_backbone().eval()
    clip = torch.zeros(1, 4, 3, 16, 16)
    changed = clip.clone()
    changed[0, 2, :, :8, 8:] = 1  # upper right patch of frame 2
    before, after = (next(model.stages(c)) for c in (clip, changed))
    where = (before != after).any(dim=-1)[0].nonzero().tolist()
    assert where == [[2, 1]]


def test_the_impossible_is_refused_with_a_reason() -> None:
    assert "patches of 8" in (timesformer.skip(TINY, frames=4, size=20) or "")
    with pytest.raises(ValueError, match="3 heads"):
        timesformer.Config(dim=20, heads=3)
    assert timesformer.skip(TINY, frames=4, size=16) is None
    with pytest.raises(ValueError, match="patches of 8"):
        timesformer.build(TINY, frames=4, size=20)
    with pytest.raises(ValueError, match="16 x 16"):
        tiny_backbone()(torch.randn(1, 4, 3, 24, 24))


def test_gradients_reach_every_parameter() -> None:
    model = awaken(tiny_backbone(drop_path=0.0)).train()
    features = model(torch.randn(2, 4, 3, 16, 16))
    (features.cls_BD.square().sum() + features.tokens_BTND.square().sum()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_released_initialisation() -> None:
    model = timesformer.build(
        timesformer.Config(patch=8, dim=64, depth=2, heads=4), frames=4, size=32
    )
    assert not model.time_embed.any()
    for block in model.blocks:
        assert not block.temporal_fc.weight.any() and not block.temporal_fc.bias.any()
        assert abs(block.attn.qkv.weight.std().item() - 0.02) < 0.002
        assert not block.attn.qkv.bias.any()
        assert block.norm1.eps == 1e-6
    assert abs(model.pos_embed.std().item() - 0.02) < 0.002
    assert timesformer.Config().drop_path == 0.1
    rates = [b.drop_path.rate for b in timesformer.build(TINY, frames=1, size=8).blocks]
    assert rates == pytest.approx([0.0, 0.1])


def test_drop_path_acts_in_training_only() -> None:
    model = awaken(tiny_backbone(drop_path=0.9))
    clip = torch.randn(2, 4, 3, 16, 16)
    model.eval()
    assert torch.equal(model(clip).cls_BD, model(clip).cls_BD)
    model.train()
    assert not torch.equal(model(clip).cls_BD, model(clip).cls_BD)


def test_frame_order_matters_only_through_the_time_embedding() -> None:
    clip = torch.randn(2, 4, 3, 16, 16)
    moved = views.show(clip, np.array([2, 0, 3, 1]))
    model = awaken(tiny_backbone()).eval()
    assert (model(clip).cls_BD - model(moved).cls_BD).abs().max() > 1e-3
    nn.init.zeros_(model.time_embed)
    torch.testing.assert_close(model(clip).cls_BD, model(moved).cls_BD)


def test_another_frame_count_takes_the_nearest_time_embedding() -> None:
    model = awaken(tiny_backbone()).eval()
    doubled = timesformer.build(TINY, frames=8, size=16).eval()
    load_fitted(doubled, model.state_dict())
    torch.testing.assert_close(doubled.time_embed, model.time_embed.repeat_interleave(2, dim=1))
    clip = torch.randn(1, 8, 3, 16, 16)
    torch.testing.assert_close(model(clip).cls_BD, doubled(clip).cls_BD)


def test_the_backbone_is_deterministic_per_seed() -> None:
    def weights() -> Tensor:
        torch.manual_seed(3)
        return torch.cat([p.flatten() for p in tiny_backbone().parameters()])

    assert torch.equal(weights(), weights())


# Weights of image models ------------------------------------------------------------------------

VIT = "vit_tiny_patch16_224.augreg_in21k_ft_in1k"
VIT_CONFIG = timesformer.Config(patch=16, dim=192, depth=12, heads=3, init=VIT)


@pytest.mark.parametrize("size", [224, 96])
def test_inflated_model_on_a_repeated_frame_is_the_image_model(vit_folder: Path, size: int) -> None:
    image_model = timm.create_model(
        VIT,
        pretrained=True,
        pretrained_cfg_overlay={"file": str(vit_folder / f"{VIT}.safetensors")},
        img_size=size,
    ).eval()
    video_model = timesformer.build(VIT_CONFIG, frames=3, size=size, weights=vit_folder).eval()
    frame = torch.randn(2, 3, size, size)
    with torch.no_grad():
        expected = image_model.forward_features(frame)
        features = video_model(frame[:, None].repeat(1, 3, 1, 1, 1))
    torch.testing.assert_close(features.cls_BD, expected[:, 0], rtol=1e-4, atol=1e-4)
    for t in range(3):
        torch.testing.assert_close(
            features.tokens_BTND[:, t], expected[:, 1:], rtol=1e-4, atol=1e-4
        )


def test_inflation_copies_space_into_time_and_reports_what_it_loaded(vit_folder: Path) -> None:
    model = timesformer.build(VIT_CONFIG, frames=2, size=32, weights=vit_folder)
    block = model.blocks[3]
    assert torch.equal(block.temporal_attn.qkv.weight, block.attn.qkv.weight)
    assert torch.equal(block.temporal_norm1.weight, block.norm1.weight)
    assert not model.time_embed.any() and not block.temporal_fc.weight.any()
    record = model.loaded_weights
    assert record is not None
    assert (record["name"], record["tag"]) == (VIT, "augreg_in21k_ft_in1k")
    same = VIT_CONFIG.model_copy(update={"init_sha256": record["sha256"]})
    timesformer.build(same, frames=2, size=32, weights=vit_folder)


def test_wrong_weights_are_refused(vit_folder: Path, tmp_path: Path) -> None:
    def build(folder: Path, **changes: Any) -> None:
        config = VIT_CONFIG.model_copy(update=changes)
        timesformer.build(config, frames=2, size=32, weights=folder)

    with pytest.raises(ValueError, match="SHA-256"):
        build(vit_folder, init_sha256="0" * 64)
    with pytest.raises(ValueError, match="no weights for"):
        build(tmp_path)
    with pytest.raises(ValueError, match="no model"):
        build(vit_folder, init="vit_imaginary_patch16_224")
    with pytest.raises(ValueError, match="3 heads"):
        build(vit_folder, heads=6)
    with pytest.raises(ValueError, match=r"unexpected blocks\.11"):
        build(vit_folder, depth=11)
    state = timm.create_model(VIT).state_dict()
    del state["blocks.2.mlp.fc1.bias"]
    save_file(state, tmp_path / f"{VIT}.safetensors")
    with pytest.raises(ValueError, match=r"missing blocks\.2\.mlp\.fc1\.bias"):
        build(tmp_path)


def test_a_cached_file_is_what_its_cache_says(vit_folder: Path, tmp_path: Path) -> None:
    """Hugging Face's cache calls large files by their SHA-256."""
    whole = vit_folder / f"{VIT}.safetensors"
    blob = tmp_path / "blobs" / sha256_of(whole)
    blob.parent.mkdir()
    shutil.copy(whole, blob)
    (tmp_path / whole.name).symlink_to(blob)
    built = timesformer.build(VIT_CONFIG, frames=2, size=32, weights=tmp_path)
    assert built.loaded_weights is not None and built.loaded_weights["sha256"] == blob.name
    content = bytearray(blob.read_bytes())
    content[-1] ^= 1
    blob.write_bytes(content)
    with pytest.raises(ValueError, match=rf"{VIT}\.safetensors is damaged: .*{blob.name}"):
        timesformer.build(VIT_CONFIG, frames=2, size=32, weights=tmp_path)


# Released checkpoints ---------------------------------------------------------------------------

RELEASED = ROOT / "tests" / "fixtures" / "parity" / "timesformer.safetensors"


def test_released_files_read_the_same_however_they_are_wrapped(tmp_path: Path) -> None:
    bare = released.read(RELEASED)
    torch.save({"epoch": 3, "cfg": "text", "model_state": bare}, tmp_path / "a.pyth")
    wrapped = {"model_state": {f"module.{k}": v for k, v in bare.items()}}
    torch.save(wrapped, tmp_path / "b.pyth")
    save_file(bare, tmp_path / "c.safetensors")
    for name in ("a.pyth", "b.pyth", "c.safetensors"):
        state = released.read(tmp_path / name)
        assert state.keys() == bare.keys()
        assert all(torch.equal(state[k], bare[k]) for k in bare)


def test_released_checkpoint_gives_model_and_auxiliary_heads() -> None:
    loaded = released.load(released.read(RELEASED), heads=4)
    assert loaded.description.backbone == "timesformer"
    assert set(loaded.objectives) == {"video.order", "video.flow"}
    assert loaded.model.backbone.blocks[0].attn.heads == 4
    assert released.describe(released.read(RELEASED)).config["heads"] == 1  # 48 / 64, rounded up
    without = {
        k: v
        for k, v in released.read(RELEASED).items()
        if not k.startswith(("temp_", "mlp_", "flow_"))
    }
    assert released.load(without, heads=4).objectives == {}


def test_released_checkpoint_at_another_size_and_length() -> None:
    loaded = released.load(released.read(RELEASED), heads=4, frames=8, size=96)
    assert loaded.model(torch.randn(1, 8, 3, 96, 96)).shape == (1, 7)


def test_released_checkpoint_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    state = released.read(RELEASED)
    del state["blocks.1.norm2.bias"]
    state["surplus"] = torch.zeros(1)
    with pytest.raises(
        ValueError, match=r"missing blocks\.1\.norm2\.bias(.|\n)*unexpected surplus"
    ):
        released.load(state, heads=4)
    with pytest.raises(ValueError, match="no released model"):
        released.describe({"weight": torch.zeros(1)})
    torch.save({"model_state": {"a": print}}, tmp_path / "code.pyth")
    with pytest.raises(Exception, match=r"weights_only|Unsupported"):
        released.read(tmp_path / "code.pyth")


# Objectives -------------------------------------------------------------------------------------


class FakeStep:
    """task.Step whose random numbers are a function of (seed, step, name), and which remembers what
    it showed."""

    def __init__(self, model: Classifier, batch: task.Batch, *, number: int = 0) -> None:
        self.model = model
        self.batch = batch
        self.number = number
        self.shown: list[Tensor] = []

    def encode(self, clip_BTCHW: Tensor) -> task.Features:
        self.shown.append(clip_BTCHW)
        return self.model.encode(clip_BTCHW)

    def extra_features(self, objective: task.Objective) -> task.Features:
        clips = objective.extra_clips(self, self.batch)
        assert clips is not None
        return self.encode(clips)

    def classify(self, features: task.Features) -> Tensor:
        return self.model.classify(features)

    def rng(self, name: str, *, per_sample: bool = False) -> Any:
        if per_sample:
            return [views.generator(self.number, f"{name} {key}") for key in self.batch.keys]
        return views.generator(self.number, name)


def numbered_batch(size: int = 6, frames: int = 4) -> task.Batch:
    """Noise, except that the first pixel of each frame is its index."""
    clip = torch.randn(size, frames, 3, 16, 16)
    clip[:, :, 0, 0, 0] = torch.arange(frames, dtype=torch.float32)
    return task.Batch(
        clip_BTCHW=clip,
        labels_B=torch.arange(size) % 5,
        keys=tuple(f"clip{i}" for i in range(size)),
        extras={"video.flow": torch.randint(0, 9, (size, frames - 1, 4))},
    )


def shown_orders(step: FakeStep) -> np.ndarray:
    return step.shown[-1][:, :, 0, 0, 0].long().numpy()


def prepared(number: int = 0) -> tuple[FakeStep, task.Batch, task.Features]:
    model = Classifier(tiny_backbone(drop_path=0.0), 5)
    batch = numbered_batch()
    return FakeStep(model, batch, number=number), batch, model.encode(batch.clip_BTCHW)


@pytest.mark.parametrize("module", [classify, order, debias, flow])
def test_every_objective_gives_a_scalar_with_gradients(module: Any) -> None:
    step, batch, features = prepared()
    objective = module.Objective(module.Config.tiny(), SPEC)
    loss, logs = objective(step, batch, features)
    assert loss.shape == () and torch.isfinite(loss)
    assert logs and not any(value.requires_grad for value in logs.values())
    assert all(value.shape == () for name, value in logs.items() if name != "shares")
    loss.backward()
    assert step.model.backbone.pos_embed.grad.abs().sum() > 0
    assert all(p.grad is not None for p in objective.parameters())


@pytest.mark.parametrize(
    ("module", "options"),
    [(debias, {}), (debias, {"permutation": "sample"}), (order, {"shuffle": True})],
)
def test_random_orders_are_a_function_of_the_step(module: Any, options: dict[str, Any]) -> None:
    def orders(number: int) -> np.ndarray:
        step, batch, features = prepared(number)
        module.Objective(module.Config(**options), SPEC)(step, batch, features)
        return shown_orders(step)

    torch.rand(7)  # must not matter
    assert (orders(1) == orders(1)).all()
    assert any((orders(1) != orders(n)).any() for n in range(2, 6))


def test_debias_shows_one_order_to_the_batch_or_one_to_each_sample() -> None:
    step, batch, features = prepared()
    debias.Objective(debias.Config(), SPEC)(step, batch, features)
    assert (shown_orders(step) == shown_orders(step)[0]).all()
    debias.Objective(debias.Config(permutation="sample"), SPEC)(step, batch, features)
    assert (shown_orders(step) != shown_orders(step)[0]).any()


@pytest.mark.parametrize("kind", ["batch", "sample"])
def test_debias_excludes_the_identity_only_when_asked(kind: Any) -> None:
    seen = {True: 0, False: 0}
    for allow in seen:
        objective = debias.Objective(debias.Config(permutation=kind, allow_identity=allow), SPEC)
        for number in range(60):
            step = FakeStep(nn.Identity(), numbered_batch(4), number=number)
            orders = np.atleast_2d(objective.orders(step, 3))
            seen[allow] += int((orders == np.arange(3)).all(axis=1).sum())
    assert seen[True] > 0 and seen[False] == 0


def test_order_targets_the_original_index_of_the_shown_frame() -> None:
    """A head that reads the index off the tokens is right in either mode."""

    class Readable(nn.Module):
        dim, patch = 4, 8

        def forward(self, clip_BTCHW: Tensor) -> task.Features:
            onehot_BTD = nn.functional.one_hot(clip_BTCHW[:, :, 0, 0, 0].long(), 4).float()
            return task.Features(onehot_BTD[:, 0], onehot_BTD[:, :, None])

    spec = task.ModelSpec(frames=4, size=16, patch=8, dim=4, num_classes=5, mean=HALF, std=HALF)
    model = Classifier(Readable(), 5)
    batch = numbered_batch()
    for shuffle in (False, True):
        objective = order.Objective(order.Config(shuffle=shuffle), spec)
        with torch.no_grad():
            objective.head.weight.copy_(100 * torch.eye(4))
        step = FakeStep(model, batch)
        _, logs = objective(step, batch, model.encode(batch.clip_BTCHW))
        assert logs["accuracy"] == 1.0
        assert len(step.shown) == int(shuffle)


def test_flow_labels_follow_a_known_motion() -> None:
    rng = np.random.default_rng(0)
    texture = np.kron(rng.integers(0, 255, (12, 12)), np.ones((8, 8))).astype(np.uint8)
    texture = np.repeat(texture[..., None], 3, axis=-1)
    for (dx, dy), label in {(2, 2): 1, (-2, 2): 3, (-2, -2): 5, (2, -2): 7}.items():
        start = np.array([16, 16])
        frames = []
        for t in range(3):  # the window moves against the motion of what it shows
            y, x = start - t * np.array([dy, dx])
            frames.append(texture[y : y + 64, x : x + 64])
        spec = task.ModelSpec(
            frames=3, size=64, patch=16, dim=8, num_classes=2, mean=HALF, std=HALF
        )
        labels = flow.prepare(flow.Config(), spec, np.stack(frames), rng)
        assert labels.shape == (2, 16) and labels.dtype == np.int64
        centre = labels.reshape(2, 4, 4)[:, 1:3, 1:3]
        assert set(np.unique(centre)) <= {label, label + 1, 0}
        assert (centre > 0).any()


def test_flow_threshold_is_relative_unless_asked() -> None:
    still = np.full((2, 32, 32, 3), 128, dtype=np.uint8)
    spec = task.ModelSpec(frames=2, size=32, patch=8, dim=8, num_classes=2, mean=HALF, std=HALF)
    assert not flow.prepare(flow.Config(), spec, still, np.random.default_rng(0)).any()
    slow = np.array([[[0.001, 0.0], [0.01, 0.0], [1.0, 0.0]]], dtype=np.float32)
    tiny = slow / 1000
    rule = flow.directions
    assert rule(slow, min_relative=0.01, min_pixels=0.0).tolist() == [[0, 0, 1]]
    assert rule(tiny, min_relative=0.01, min_pixels=0.0).tolist() == [[0, 0, 1]]
    assert rule(tiny, min_relative=0.0, min_pixels=0.005).tolist() == [[0, 0, 0]]
    assert rule(slow, min_relative=0.0, min_pixels=0.005).tolist() == [[0, 1, 1]]


def test_flow_does_not_depend_on_the_normalisation_of_grey_levels_alone() -> None:
    """The label rule works on normalised frames, so the data set's own mean and std may be
    passed."""
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 255, (3, 32, 32, 3), dtype=np.uint8)
    spec = task.ModelSpec(
        frames=3, size=32, patch=8, dim=8, num_classes=2, mean=(0.4, 0.4, 0.4), std=HALF
    )
    other = task.ModelSpec(frames=3, size=32, patch=8, dim=8, num_classes=2, mean=HALF, std=HALF)
    a, b = (flow.prepare(flow.Config(), s, frames, rng) for s in (spec, other))
    assert (a == b).mean() > 0.9  # an offset moves nothing


@pytest.mark.parametrize("module", [order, debias, flow, shuffle_gap, order_probe])
def test_what_needs_frames_skips_images(module: Any) -> None:
    large = replace(SPEC, size=64)
    assert module.skip(module.Config.tiny(), large, VIDEO) is None
    assert "pictures" in module.skip(module.Config.tiny(), large, IMAGES)


@pytest.mark.parametrize(("size", "skipped"), [(24, True), (56, True), (64, False), (224, False)])
def test_flow_of_small_frames_cannot_be_learned(size: int, *, skipped: bool) -> None:
    reason = flow.skip(flow.Config(), replace(SPEC, size=size), VIDEO)
    assert (
        reason == f"frames of {size} pixels are too small for flow labels (at least 64)"
    ) == skipped
    assert (reason is None) != skipped


# Losses and metrics -----------------------------------------------------------------------------


def test_uniform_loss_is_least_where_every_class_is_equally_likely() -> None:
    flat = torch.full((3, 7), 2.5, requires_grad=True)
    loss = uniform_cross_entropy(flat)
    loss.backward()
    assert loss.item() == pytest.approx(math.log(7))
    assert flat.grad.abs().max() < 1e-7
    assert uniform_cross_entropy(torch.randn(3, 7)) > math.log(7)


def test_smoothed_loss_is_timms() -> None:
    logits, labels = torch.randn(4, 3, 9), torch.randint(0, 9, (4, 3))
    expected = LabelSmoothingCrossEntropy(0.2)(logits.flatten(0, 1), labels.flatten())
    torch.testing.assert_close(smoothed_cross_entropy(logits, labels, smoothing=0.2), expected)


def test_top_k_counts_and_breaks_ties_by_class_id() -> None:
    logits = torch.tensor([[0.0, 3.0, 2.0], [1.0, 1.0, 1.0]])
    assert top_k(logits, 2).tolist() == [[1, 2], [0, 1]]
    assert top_k(logits, 5).shape == (2, 3)
    assert correct_top_k(logits, torch.tensor([2, 2]), 1).tolist() == [False, False]
    assert correct_top_k(logits, torch.tensor([2, 2]), 2).tolist() == [True, False]
    with pytest.raises(ValueError, match="finite"):
        top_k(torch.tensor([[float("nan"), 1.0]]), 1)


# Views ------------------------------------------------------------------------------------------

KEYS = st.text(min_size=0, max_size=12)
FEW = settings(max_examples=60, deadline=None)


@FEW
@given(frames=st.integers(2, 12), seed=st.integers(0, 2**31), allow=st.booleans())
def test_a_permutation_shows_every_frame_once(frames: int, seed: int, allow: bool) -> None:
    order_T = views.permutation(np.random.default_rng(seed), frames, allow_identity=allow)
    assert sorted(order_T.tolist()) == list(range(frames))
    assert allow or (order_T != np.arange(frames)).any()


@FEW
@given(frames=st.integers(2, 8), seed=st.integers(0, 2**31), key=KEYS, draws=st.integers(1, 6))
def test_shuffles_are_distinct_and_fixed_by_seed_and_key(
    frames: int, seed: int, key: str, draws: int
) -> None:
    draws = min(draws, views.num_shuffles(frames))
    orders = views.shuffled(frames, seed=seed, key=key, draws=draws)
    assert len({tuple(o) for o in orders.tolist()} | {tuple(range(frames))}) == draws + 1
    assert (orders == views.shuffled(frames, seed=seed, key=key, draws=draws)).all()
    assert (orders[:1] == views.shuffled(frames, seed=seed, key=key, draws=1)).all()


def test_shuffles_differ_between_keys_and_seeds() -> None:
    first = [views.shuffled(8, seed=0, key=str(i), draws=1).tobytes() for i in range(50)]
    assert len(set(first)) == 50
    assert first[0] != views.shuffled(8, seed=1, key="0", draws=1).tobytes()
    with pytest.raises(ValueError, match="have 1 shuffled"):
        views.shuffled(2, seed=0, key="", draws=2)
    with pytest.raises(ValueError, match="at least 2"):
        views.permutation(np.random.default_rng(0), 1, allow_identity=False)


def test_shuffles_are_the_same_on_every_machine() -> None:
    """Stored predictions name views by seed and key, so the orders may never change."""
    assert views.shuffled(6, seed=0, key="clip", draws=2).tolist() == [
        [1, 2, 0, 3, 4, 5],
        [0, 4, 3, 1, 5, 2],
    ]


@FEW
@given(frames=st.integers(1, 9), size=st.integers(1, 4))
def test_views_of_a_clip(frames: int, size: int) -> None:
    clip = torch.arange(size * frames).view(size, frames, 1, 1, 1)
    assert torch.equal(views.show(clip, views.original(frames)), clip)
    assert torch.equal(views.show(clip, views.backwards(frames)), clip.flip(1))
    still = views.show(clip, views.single_frame(frames))
    assert torch.equal(still, clip[:, frames // 2, None].expand_as(clip))
    each = np.stack([np.roll(np.arange(frames), i) for i in range(size)])
    shown = views.show(clip, each)
    for i in range(size):
        assert torch.equal(shown[i], clip[i].roll(i, 0))


# Evaluations ------------------------------------------------------------------------------------


class FakeContext:
    """What bench.evaluate gives to an evaluation, over batches in memory."""

    def __init__(self, model: nn.Module, batches: list[task.Batch], *, spec: task.DataSpec = VIDEO):
        self.model = model.eval()
        self.spec = spec
        self.model_spec = SPEC
        self.splits = spec.splits[1:]
        self.seed = 0
        self.device = torch.device("cpu")
        self.declared = sum(len(b.keys) for b in batches)
        self.recorded: list[tuple[str, str, tuple[str, ...]]] = []
        self._batches = batches

    def batches(self, split: str) -> Iterator[task.Batch]:
        return iter(self._batches)

    clips_per_sample = 1

    def averaged(self, logits_CBK: Tensor) -> Tensor:
        return logits_CBK.mean(dim=0)

    def crops(self, split: str) -> Iterator[tuple[task.Batch, ...]]:
        return ((batch,) for batch in self._batches)

    def count(self, split: str) -> int:
        return self.declared

    def progress(self, done: int, total: int, text: str = "") -> None:
        assert 0 <= done <= total

    def record(
        self, split: str, view: str, keys: tuple[str, ...], labels: Tensor, logits: Tensor
    ) -> None:
        assert len(keys) == len(labels) == len(logits)
        self.recorded.append((split, view, keys))


class FirstFrame(nn.Module):
    """Reads the class off the first pixel of frame 0: right only while the frames are in order."""

    dim, patch = 5, 8

    def __init__(self, read: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.read = read

    def forward(self, clip_BTCHW: Tensor) -> task.Features:
        classes_B = self.read(clip_BTCHW[:, :, 0, 0, 0]).long() % 5
        onehot_BD = nn.functional.one_hot(classes_B, 5).float()
        return task.Features(onehot_BD, onehot_BD[:, None, None])


def coded_batches(samples: int = 200, frames: int = 8) -> list[task.Batch]:
    """Frame t of a clip of class c carries the number c + t."""
    labels = torch.arange(samples) % 5
    clip = torch.zeros(samples, frames, 3, 2, 2)
    clip[:, :, 0, 0, 0] = (labels[:, None] + torch.arange(frames)).float()
    keys = [f"k{i}" for i in range(samples)]
    return [
        task.Batch(clip[i : i + 33], labels[i : i + 33], tuple(keys[i : i + 33]))
        for i in range(0, samples, 33)
    ]


def hand_made(read: Callable[[Tensor], Tensor]) -> Classifier:
    model = Classifier(FirstFrame(read), 5)
    with torch.no_grad():
        model.head.weight.copy_(10 * torch.eye(5))
    return model


def value(rows: list[task.Row], view: str, subset: str, metric: str) -> float:
    (row,) = [r for r in rows if (r["view"], r["subset"], r["metric"]) == (view, subset, metric)]
    return row["value"]


def test_shuffle_gap_of_a_model_that_knows_only_order() -> None:
    context = FakeContext(hand_made(lambda codes_BT: codes_BT[:, 0]), coded_batches())
    rows = shuffle_gap.run(shuffle_gap.Config(), context)
    for subset in ("all", "temporal", "static", "class: a"):
        assert value(rows, "original", subset, "top1") == 1.0
        # Frame t says class + t mod 5, so of 8 frames 0 and 5 are right: 2 / 8, a little less
        # since the identity is excluded.
        assert abs(value(rows, "shuffled", subset, "top1") - 0.25) < 0.12
        gap = value(rows, "original", subset, "top1") - value(rows, "shuffled", subset, "top1")
        assert value(rows, "gap", subset, "top1") == gap
    assert value(rows, "reversed", "all", "top1") == 0.0
    assert value(rows, "single_frame", "all", "top1") == 0.0
    assert value(rows, "shuffled", "all", "top5") == 1.0
    assert 0.9 < value(rows, "original", "all", "confidence") <= 1.0
    assert {r["n"] for r in rows if r["subset"] == "static"} == {120}
    assert {r["metric"] for r in rows if r["subset"].startswith("class: ")} == {"top1"}
    assert {r["split"] for r in rows} == {"val"}
    assert all(set(r) == {"split", "view", "subset", "metric", "value", "n"} for r in rows)
    recorded = {view for _, view, _ in context.recorded}
    assert recorded == {"original", "reversed", "single_frame"} | {
        f"shuffled_{i}" for i in range(4)
    }
    assert sum(len(keys) for _, view, keys in context.recorded if view == "shuffled_2") == 200


def test_shuffle_gap_of_a_model_blind_to_order_is_exactly_zero() -> None:
    context = FakeContext(hand_made(lambda codes_BT: codes_BT.amin(dim=1)), coded_batches())
    rows = shuffle_gap.run(shuffle_gap.Config(permutations=3), context)
    gaps = [r["value"] for r in rows if (r["view"], r["metric"]) == ("gap", "top1")]
    assert len(gaps) == 3 + 5 and set(gaps) == {0.0}
    assert value(rows, "shuffled", "all", "top1") == 1.0


class OnlyLogits(nn.Module):
    """Another's logits, and nothing else of a model."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, clip_BTCHW: Tensor) -> Tensor:
        return self.model(clip_BTCHW)


def test_shuffle_gap_asks_for_logits_only() -> None:
    """The same rows, bit by bit, as of class feature and classifier."""
    model = Classifier(awaken(tiny_backbone()), 5).eval()
    batches = [numbered_batch()]
    clip_BTCHW = batches[0].clip_BTCHW
    assert torch.equal(model(clip_BTCHW), model.classify(model.encode(clip_BTCHW)))
    whole, logits = (
        shuffle_gap.run(shuffle_gap.Config(), FakeContext(given, batches))
        for given in (model, OnlyLogits(model))
    )
    assert whole == logits and {row["view"] for row in whole} >= {"original", "gap"}


def test_shuffle_gap_does_not_depend_on_the_batches() -> None:
    batches = coded_batches(40)
    split = [
        task.Batch(b.clip_BTCHW[i : i + 1], b.labels_B[i : i + 1], b.keys[i : i + 1])
        for b in batches
        for i in range(len(b.keys))
    ]
    model = hand_made(lambda codes_BT: codes_BT[:, 0])
    assert shuffle_gap.run(shuffle_gap.Config(), FakeContext(model, batches)) == shuffle_gap.run(
        shuffle_gap.Config(), FakeContext(model, split[::-1])
    )


def test_shuffle_gap_refuses_a_part_of_a_split() -> None:
    model = hand_made(lambda codes_BT: codes_BT[:, 0])
    context = FakeContext(model, coded_batches(40))
    context.declared = 41
    with pytest.raises(ValueError, match="declares 41 samples but gave 40"):
        shuffle_gap.run(shuffle_gap.Config(), context)
    batches = coded_batches(40)
    with pytest.raises(ValueError, match="twice"):
        shuffle_gap.run(shuffle_gap.Config(), FakeContext(model, [*batches, batches[0]]))


def test_shuffle_gap_of_two_frames_has_one_shuffle() -> None:
    context = FakeContext(hand_made(lambda codes_BT: codes_BT[:, 0]), coded_batches(20, frames=2))
    rows = shuffle_gap.run(shuffle_gap.Config(), context)
    assert value(rows, "shuffled", "all", "top1") == 0.0
    assert {view for _, view, _ in context.recorded} >= {"shuffled"}


class Coded(nn.Module):
    """Stages: the shown frame's number as one-hot, only the position, nothing."""

    dim, patch = 8, 8

    def stages(self, clip_BTCHW: Tensor) -> Iterator[Tensor]:
        frames = clip_BTCHW.shape[1]
        content = nn.functional.one_hot(clip_BTCHW[:, :, 0, 0, 0].long(), 8).float()[:, :, None]
        position = torch.eye(frames, 8)[None, :, None].expand_as(content)
        yield content
        yield position
        yield torch.randn_like(content)


def test_order_probe_tells_content_from_position() -> None:
    clip = torch.zeros(64, 8, 3, 2, 2)
    clip[:, :, 0, 0, 0] = torch.arange(8).float()
    batch = task.Batch(clip, torch.zeros(64).long(), tuple(map(str, range(64))))
    model = nn.Module()
    model.backbone = Coded()
    rows = order_probe.run(order_probe.Config(), FakeContext(model, [batch]))
    assert value(rows, "ordered", "layer_00", "frame_accuracy") == 1.0
    assert value(rows, "ordered", "layer_01", "frame_accuracy") == 1.0
    assert value(rows, "shuffled", "layer_00", "frame_accuracy") == 1.0
    for view, layer in (("shuffled", 1), ("shuffled", 2), ("ordered", 2)):
        assert abs(value(rows, view, f"layer_{layer:02d}", "frame_accuracy") - 1 / 8) < 0.1
    assert value(rows, "ordered", "layer_00", "chance") == 1 / 8
    assert {r["n"] for r in rows} == {32}


class CodedTubelets(nn.Module):
    """One stage: the number of the first frame of each pair, as one-hot; knows if a pair was torn."""

    dim, patch, tubelet = 8, 8, 2

    def stages(self, clip_BTCHW: Tensor) -> Iterator[Tensor]:
        first_BT, second_BT = (clip_BTCHW[:, k::2, 0, 0, 0].long() for k in (0, 1))
        assert torch.equal(first_BT + 1, second_BT), "frames of a tubelet stay as they were"
        yield nn.functional.one_hot(first_BT, 8).float()[:, :, None]


def test_order_probe_asks_for_the_order_of_tubelets() -> None:
    clip = torch.zeros(32, 8, 3, 2, 2)
    clip[:, :, 0, 0, 0] = torch.arange(8).float()
    batch = task.Batch(clip, torch.zeros(32).long(), tuple(map(str, range(32))))
    model = nn.Module()
    model.backbone = CodedTubelets()
    context = FakeContext(model, [batch])
    context.model_spec = replace(SPEC, frames=8, tubelet=2)
    rows = order_probe.run(order_probe.Config(), context)
    for view in ("ordered", "shuffled"):
        assert value(rows, view, "layer_00", "frame_accuracy") == 1.0
        assert value(rows, view, "layer_00", "chance") == 1 / 4


def test_order_probe_has_clips_for_the_width() -> None:
    def clips(dim: int, **options: int) -> int:
        return order_probe.clips_for(order_probe.Config(**options), replace(SPEC, dim=dim))

    assert clips(48) == clips(16) == 256  # as ever
    assert clips(768) == clips(0) == 2304 and clips(384) == 1152
    assert clips(768, clips=8) == 8


def test_order_probe_uses_no_more_clips_than_asked() -> None:
    context = FakeContext(Classifier(tiny_backbone(), 5), [numbered_batch() for _ in range(3)])
    for i, batch in enumerate(context._batches):
        batch.keys = tuple(f"{i} {key}" for key in batch.keys)
    rows = order_probe.run(order_probe.Config(clips=8), context)
    assert {r["n"] for r in rows} == {4}
    assert {r["subset"] for r in rows} == {"layer_00", "layer_01", "layer_02"}
