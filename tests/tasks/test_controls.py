"""The controls: what each shows the model, what its loss asks for, and that their sweeps can run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from makers import ROOT, make_run

from bench.config.seeds import rng
from bench.data.order import Draw
from bench.grid.plan import Cell, plan
from bench.run.cell import run_cell
from bench.store.rundir import State
from bench.task import Batch, Features, ModelSpec
from bench.train.learner import TrainingStep
from tasks.image import cutmix, patch_shuffle
from tasks.video import background_erasing, clip_order, debias_still, stillmix

HALF = (0.5, 0.5, 0.5)
B, T, S, D, K = 3, 4, 8, 5, 7
VIDEO = ModelSpec(T, S, 4, D, K, HALF, HALF)
IMAGE = ModelSpec(1, S, 4, D, K, HALF, HALF)


class Told(TrainingStep):
    """A step whose features and logits are given."""

    def __init__(self, *, epoch: int = 0, clips: int = B) -> None:
        draws = tuple(Draw(i, epoch) for i in range(clips))
        super().__init__(torch.nn.Identity(), run_seed=0, number=epoch, draws=draws)  # type: ignore[arg-type]
        self.extra = Features(torch.zeros(clips, D), torch.zeros(clips, T, 4, D))
        self.logits = torch.zeros(clips, K)

    def extra_features(self, objective: Any) -> Features:
        return self.extra

    def classify(self, features: Features) -> torch.Tensor:
        return self.logits


def batch_of(frames: int, clips: int = B, **extras: torch.Tensor) -> Batch:
    clip = torch.from_numpy(rng(0, "pixels").standard_normal((clips, frames, 3, S, S))).float()
    return Batch(clip, torch.arange(clips), tuple(map(str, range(clips))), dict(extras))


def shown(module: Any, spec: ModelSpec, batch: Batch, *, epoch: int = 0, **options: Any) -> Any:
    objective = module.Objective(module.Config(**options), spec)
    return objective.extra_clips(Told(epoch=epoch, clips=len(batch.keys)), batch)


def forward(module: Any, spec: ModelSpec, step: Told, batch: Batch, **options: Any) -> Any:
    return module.Objective(module.Config(**options), spec)(step, batch, step.extra)


# -- what is shown ---


def test_a_still_clip_is_one_frame_of_its_clip_another_in_each_epoch() -> None:
    batch, drawn = batch_of(T), set()
    for epoch in range(30):
        still = shown(debias_still, VIDEO, batch, epoch=epoch)
        for b in range(B):
            (t,) = (t for t in range(T) if torch.equal(still[b, 0], batch.clip_BTCHW[b, t]))
            assert torch.equal(still[b], batch.clip_BTCHW[b, [t] * T])
            drawn.add((b, t))
    assert len(drawn) == B * T


@given(st.floats(0.2, 500.0), st.integers(0, 9))
@settings(max_examples=20, deadline=None)
def test_stillmix_adds_a_frame_of_the_next_clip_to_every_frame(a: float, epoch: int) -> None:
    batch = batch_of(T)
    clip, mixed = (
        batch.clip_BTCHW,
        shown(stillmix, VIDEO, batch, epoch=epoch, concentration=a),
    )
    for b in range(B):
        # mixed - (1 - s) clip is s times one and the same frame of the next clip
        moved = clip[b] - clip[b, :1]
        kept = float(((mixed[b] - mixed[b, :1]) * moved).sum() / (moved**2).sum())
        assert 0.0 <= kept <= 1.0 + 1e-5
        rest = mixed[b] - kept * clip[b]
        frames = (1 - kept) * clip[(b + 1) % B]
        assert min((rest - frame).abs().max() for frame in frames) < 1e-4


def test_the_shares_of_stillmix_are_about_a_half_by_default() -> None:
    batch = batch_of(T, 40)
    batch.clip_BTCHW[:] = torch.arange(40.0).view(-1, 1, 1, 1, 1) % 2  # neighbours differ by one
    mixed = shown(stillmix, VIDEO, batch)
    shares = (mixed - batch.clip_BTCHW)[:, 0, 0, 0, 0].abs()
    assert shares.mean() == pytest.approx(0.5, abs=0.03) and shares.std() < 0.06


@given(st.floats(0.01, 1.0), st.integers(0, 9))
@settings(max_examples=20, deadline=None)
def test_background_erasing_scales_the_motion_and_keeps_one_frame(most: float, epoch: int) -> None:
    batch = batch_of(T)
    behind = shown(background_erasing, VIDEO, batch, epoch=epoch, most=most)
    for b in range(B):
        clip = batch.clip_BTCHW[b]
        moved = clip[1:] - clip[:-1]
        ratio = float(((behind[b, 1:] - behind[b, :-1]) * moved).sum() / (moved**2).sum())
        assert 1 - most - 1e-4 <= ratio <= 1 + 1e-5
        torch.testing.assert_close(behind[b, 1:] - behind[b, :-1], ratio * moved, atol=1e-4, rtol=0)
        assert min((behind[b, t] - clip[t]).abs().max() for t in range(T)) < 1e-5


def test_clip_order_shows_each_clip_in_an_order_of_its_own_never_its_own() -> None:
    batch = batch_of(T, 40)
    shuffled = shown(clip_order, VIDEO, batch)
    orders = set()
    for b in range(40):
        order = tuple(
            next(t for t in range(T) if torch.equal(frame, batch.clip_BTCHW[b, t]))
            for frame in shuffled[b]
        )
        assert sorted(order) == list(range(T)) and order != tuple(range(T))
        orders.add(order)
    assert len(orders) > 10


def test_patch_shuffle_shows_every_patch_once() -> None:
    batch = batch_of(1)
    mixed = shown(patch_shuffle, IMAGE, batch)

    def patches(images: torch.Tensor) -> torch.Tensor:
        return images.unfold(3, 4, 4).unfold(4, 4, 4).flatten(3, 4).transpose(2, 3).flatten(3)

    for b in range(B):
        was, now = patches(batch.clip_BTCHW)[b, 0], patches(mixed)[b, 0]
        assert sorted(map(tuple, was.tolist())) == sorted(map(tuple, now.tolist()))
    assert not torch.equal(mixed, batch.clip_BTCHW)
    assert not torch.equal(mixed, shown(patch_shuffle, IMAGE, batch, epoch=1))


@given(st.integers(4, 40), st.floats(0.1, 5.0), st.integers(0, 2**32 - 1))
def test_a_box_of_cutmix_lies_in_the_image(size: int, a: float, seed: int) -> None:
    box = cutmix.draw_box(rng(seed), size, concentration=a)
    assert 0 <= box.top <= box.bottom <= size and 0 <= box.left <= box.right <= size


def test_cutmix_labels_by_the_area_that_each_image_has() -> None:
    """Against pixels counted one by one, and cross-entropies added by hand."""
    images, step = 12, Told(clips=12)
    batch = batch_of(1, images)
    objective = cutmix.Objective(cutmix.Config(smoothing=0.0), IMAGE)
    mixed, clip = objective.extra_clips(step, batch), batch.clip_BTCHW
    own = (mixed == clip).all(dim=2).flatten(1).float().mean(1)
    other = (mixed == clip.roll(-1, 0)).all(dim=2).flatten(1).float().mean(1)
    torch.testing.assert_close(own + other, torch.ones(images))
    assert own.std() > 0
    step.logits = torch.from_numpy(rng(1).standard_normal((images, images))).float()
    loss, logs = objective(step, batch, step.extra)
    minus_log_p = -F.log_softmax(step.logits, -1)
    expected = sum(
        own[b] * minus_log_p[b, b] + other[b] * minus_log_p[b, (b + 1) % images]
        for b in range(images)
    )
    assert loss.item() == pytest.approx(float(expected) / images, rel=1e-5)
    assert logs["kept"].item() == pytest.approx(own.mean().item(), rel=1e-5)


# -- what is asked ---


def test_debias_on_still_clips_asks_for_no_confidence() -> None:
    step, batch = Told(), batch_of(T)
    least = forward(debias_still, VIDEO, step, batch)[0].item()
    assert least == pytest.approx(np.log(K))
    step.logits = torch.eye(B, K) * 5
    assert forward(debias_still, VIDEO, step, batch)[0].item() > least + 1


@pytest.mark.parametrize("module", [stillmix, patch_shuffle])
def test_the_label_stays_that_of_the_clip(module: Any) -> None:
    spec = VIDEO if module is stillmix else IMAGE
    step, batch = Told(), batch_of(spec.frames)
    step.logits = torch.eye(B, K) * 50  # class b for clip b, as labelled
    loss, logs = forward(module, spec, step, batch, smoothing=0.0)
    assert loss.item() < 1e-6 and logs["accuracy"] == 1
    step.logits = step.logits.roll(1, 0)
    assert forward(module, spec, step, batch, smoothing=0.0)[1]["accuracy"] == 0


def test_background_erasing_is_least_for_features_of_one_direction() -> None:
    step, batch = Told(), batch_of(T)
    plain = Features(torch.from_numpy(rng(2).standard_normal((B, D))).float(), step.extra[1])
    losses = []
    for factor in (3.0, -1.0):
        step.extra = Features(factor * plain.cls_BD, plain.tokens_BTND)
        objective = background_erasing.Objective(background_erasing.Config(), VIDEO)
        losses.append(objective(step, batch, plain)[0].item())
    assert losses == pytest.approx([0.0, 2.0], abs=1e-6)


def test_clip_order_is_solved_by_a_feature_that_knows() -> None:
    objective = clip_order.Objective(clip_order.Config(), VIDEO)
    with torch.no_grad():
        objective.head.weight.zero_()
        objective.head.weight[:, 0] = torch.tensor([-30.0, 30.0])
    step, batch = Told(), batch_of(T)
    ordered = Features(torch.ones(B, D), step.extra.tokens_BTND)
    step.extra = Features(-torch.ones(B, D), step.extra.tokens_BTND)
    loss, logs = objective(step, batch, ordered)
    assert loss.item() < 1e-6 and logs["accuracy"] == 1 and logs["shares"].tolist() == [0.5, 0.5]
    step.extra = ordered  # the same for both: as good as a coin
    assert objective(step, batch, ordered)[1]["accuracy"] == 0.5


# -- their sweeps ---


def cells_of(sweep: str, scale: str) -> list[Cell]:
    return list(plan(ROOT / f"sweeps/{sweep}.yaml", scale, ["seeds=[0]"]).cells)


@pytest.mark.parametrize(
    ("controls", "paper", "shared"),
    [("controls", "ablation", 2), ("background_controls", "background", 4)],
)
def test_controls_differ_from_the_baseline_in_their_objectives_only(
    controls: str, paper: str, shared: int
) -> None:
    cells = cells_of(controls, "mini")
    baseline, *others = ({**cell.config.dump(), "objectives": None} for cell in cells)
    assert all(other == baseline for other in others)
    assert len({cell.signature for cell in cells}) == len(cells)
    known = {cell.signature for cell in cells_of(paper, "mini")}
    assert sum(cell.signature in known for cell in cells) == shared


@pytest.mark.slow
@pytest.mark.parametrize("sweep", ["controls", "background_controls"])
def test_every_control_trains_and_is_measured(sweep: str, tmp_path: Path, data_dir: Path) -> None:
    for cell in plan(ROOT / f"sweeps/{sweep}.yaml", "smoke").cells:
        if "control" in cell.labels["method"]:
            run = make_run(tmp_path, cell.config, data_dir)
            assert run_cell(run.path) == State.DONE, cell.labels
