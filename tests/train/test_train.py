"""The training loop: exact resume at any step, kills, non-finite losses, accumulation, schedules,
loader order.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from makers import INPUT, ROOT, Fake, Stop, assert_same, make_run, smoke_config, trainer_of

from bench.config import seeds
from bench.config.resources import Resources
from bench.config.science import Input, Train
from bench.data import loader
from bench.data.access import prepare_data
from bench.data.order import Draw, Order, Part, Schedule, steps_per_epoch
from bench.data.transforms import eval_clip, segment_indices, train_clip
from bench.run import command as run_command
from bench.run.cell import run_cell
from bench.store.rundir import State
from bench.train import checkpoint
from bench.train.metrics_log import NonFiniteLoss
from bench.train.step import learning_rate

# -- resume ---


# Of images everything random is switched on: mirrored images, permuted patches, paired backgrounds.
IMAGES = {
    "input.hflip": True,
    "objectives.image.patch_order.permuted": 0.5,
}


@pytest.mark.parametrize(
    ("sweep", "stop_at"), [*(("ablation", step) for step in (1, 2, 3, 4, 5)), ("background", 4)]
)
def test_resume_at_any_step_is_bitwise_the_same(
    sweep: str, stop_at: int, tmp_path: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    more: dict[str, Any] = IMAGES if sweep == "background" else {}
    config = smoke_config(sweep=sweep, **{"model.drop_path": 0.3, "train.dropout": 0.2}, **more)
    prepare_data(config, data_dir)
    straight = make_run(tmp_path / "a", config, data_dir)
    trainer_of(straight).fit()

    cut = make_run(tmp_path / "b", config, data_dir, checkpoint_steps=1)
    trainer = trainer_of(cut)
    step = trainer._train_step

    def stopping(batches: Any) -> None:
        if trainer.step == stop_at:
            raise Stop
        step(batches)

    monkeypatch.setattr(trainer, "_train_step", stopping)
    with pytest.raises(Stop):
        trainer.fit()
    resumed = trainer_of(cut)
    resumed.fit()
    assert resumed.total_steps == 6
    assert_same(straight, cut)


@pytest.mark.slow
def test_kill_minus_nine_and_start_again(tmp_path: Path, data_dir: Path) -> None:
    """A real process, killed at random moments until it gets through; same weights, metrics and
    result rows.
    """
    config = smoke_config(**{"train.epochs": 30})
    straight = make_run(tmp_path / "a", config, data_dir)
    assert run_cell(straight.path) == State.DONE
    killed = make_run(tmp_path / "b", config, data_dir, checkpoint_steps=1)
    command = [sys.executable, "-m", "bench.run", str(killed.path)]
    kills = 0
    for patience in (0.05, 0.4):
        process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 120
        while not killed.last.exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(patience * random.uniform(0.5, 1.5))
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
            kills += 1
        process.wait()
        if killed.result.exists():
            break
        assert killed.state() == State.INTERRUPTED
    assert kills >= 1
    assert run_cell(killed.path) == State.DONE
    assert_same(straight, killed)
    assert straight.read_rows() == killed.read_rows() != []


def test_a_killed_writer_leaves_the_old_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    checkpoint.save(path, {"step": 1})

    class Bomb:
        def __reduce__(self) -> Any:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        checkpoint.save(path, {"step": 2, "bomb": Bomb()})
    assert checkpoint.read(path) == {"step": 1}
    assert list(tmp_path.iterdir()) == [path]


# -- failures ---


def test_non_finite_loss_names_step_samples_and_objective(tmp_path: Path, data_dir: Path) -> None:
    config = smoke_config(**{"objectives.video.order.weight": 1.0})
    run = make_run(tmp_path, config, data_dir, log_every=4)
    trainer = trainer_of(run)
    order = trainer.learner.objectives["video/order"]
    original, calls = order.forward, []

    def poisoned(step: Any, batch: Any, features: Any) -> Any:
        calls.append(batch.keys)
        loss, logs = original(step, batch, features)
        return (loss * float("nan") if len(calls) == 3 else loss), logs

    order.forward = poisoned  # type: ignore[method-assign]
    with pytest.raises(NonFiniteLoss) as caught:
        trainer.fit()
    text = str(caught.value)
    assert "at step 2" in text and "objective: video.order" in text
    assert all(key in text for key in calls[2])
    saved = checkpoint.load(run.last).state
    assert saved is None or all(torch.isfinite(v).all() for v in saved["learner"].values())


def test_a_failing_cell_writes_its_traceback(tmp_path: Path, data_dir: Path) -> None:
    run = make_run(tmp_path, smoke_config("baseline"), tmp_path / "nowhere", device="nonsense")
    assert run_cell(run.path) == State.FAILED == run.state()
    assert "nonsense" in run.error_line() or "device" in run.error.read_text()
    assert not run.result.exists()


def test_run_on_something_that_is_no_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command.main([str(tmp_path)]) == 2
    assert "not a run directory" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


# -- what must not change the numbers ---


def test_accumulation_gives_the_same_training_up_to_rounding(
    tmp_path: Path, data_dir: Path
) -> None:
    # without drop path, whose masks are drawn per micro-batch
    config = smoke_config(**{"train.epochs": 1, "model.drop_path": 0.0})
    whole = trainer_of(make_run(tmp_path / "a", config, data_dir)).fit()
    pieces = trainer_of(make_run(tmp_path / "b", config, data_dir, micro_batch=3)).fit()
    for one, other in zip(whole.parameters(), pieces.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=2e-4)


@pytest.mark.parametrize("sweep", ["ablation", pytest.param("background", marks=pytest.mark.slow)])
def test_workers_do_not_change_the_run(sweep: str, tmp_path: Path, data_dir: Path) -> None:
    config = smoke_config(sweep=sweep, **{"train.epochs": 1})
    prepare_data(config, data_dir)
    alone = make_run(tmp_path / "a", config, data_dir)
    trainer_of(alone).fit()
    helped = make_run(tmp_path / "b", config, data_dir, workers=2)
    trainer_of(helped).fit()
    assert_same(alone, helped)


def test_bf16_trains(tmp_path: Path, data_dir: Path) -> None:
    run = make_run(tmp_path, smoke_config(**{"train.precision": "bf16"}), data_dir)
    assert run_cell(run.path) == State.DONE


def keys_from(first: int, last: int, *, length: int, batch: int, micro: int) -> list[list[str]]:
    clips = loader.Clips(Fake(length), INPUT, run_seed=3)
    whole = Part.of(min(batch, length))
    schedule = Schedule(Order(3, length), batch, micro, first, last, whole)
    batches = loader.training_batches(clips, schedule, workers=0, pin=False)
    return [list(b.keys) for b in batches]


@given(st.integers(1, 23), st.integers(1, 9), st.integers(0, 12))
@settings(max_examples=40, deadline=None)
def test_order_is_a_pure_function_of_seed_and_epoch(length: int, batch: int, first: int) -> None:
    whole = keys_from(0, 14, length=length, batch=batch, micro=batch)
    assert keys_from(first, 14, length=length, batch=batch, micro=batch) == whole[first:]
    flat = [k for b in keys_from(0, 14, length=length, batch=batch, micro=2) for k in b]
    assert flat == [k for b in whole for k in b]
    per_epoch = steps_per_epoch(length, batch)
    first_epoch = [k for b in whole[:per_epoch] for k in b]
    assert len(set(first_epoch)) == len(first_epoch)


def test_epochs_are_reshuffled_and_clips_replayable() -> None:
    orders = [tuple(Order(0, 50)(e)) for e in range(3)]
    assert len(set(orders)) == 3
    clips = loader.Clips(Fake(9), INPUT, run_seed=3)
    draw = Draw(4, 1)
    assert np.array_equal(clips[draw][0], clips[draw][0])
    others = [clips[Draw(4, e)][0] for e in range(2, 6)]
    assert any(not np.array_equal(clips[draw][0], other) for other in others)


@given(st.integers(1, 17), st.integers(1, 8))
@settings(max_examples=30, deadline=None)
def test_evaluation_yields_every_key_exactly_once(length: int, batch: int) -> None:
    clips = loader.Clips(Fake(length), INPUT)
    batches = loader.evaluation_batches(clips, batch=batch, workers=0, pin=False)
    assert [k for b in batches for k in b.keys] == Fake(length).keys


@given(st.integers(1, 90), st.integers(1, 16), st.integers(0, 99))
@settings(max_examples=100, deadline=None)
def test_segments(length: int, frames: int, seed: int) -> None:
    middle = segment_indices(length, frames, None)
    drawn = segment_indices(length, frames, seeds.rng(seed))
    for indices in (middle, drawn):
        assert len(indices) == frames
        assert (np.diff(indices) >= 0).all() and indices.min() >= 0 and indices.max() < length
    edges = np.round(np.arange(frames + 1) * (length - 1) / frames)
    assert (drawn >= edges[:-1]).all() and (drawn <= edges[1:]).all()


def test_crops_keep_left_and_right_apart() -> None:
    """No flip: the brighter side of a gradient stays on its side in every draw."""
    gradient = np.tile(np.linspace(0, 255, 60).astype(np.uint8)[None, None, :, None], (4, 40, 1, 3))
    for seed in range(20):
        clip = train_clip(gradient, INPUT, seeds.rng(seed))
        assert clip[:, :, -1].mean() > clip[:, :, 0].mean()
        assert clip.shape == (4, 8, 8, 3) and (clip == clip[:1]).all()  # one crop for all frames
    assert eval_clip(gradient, INPUT).shape == (4, 8, 8, 3)


def test_rand_augment_is_seeded_and_equal_for_all_frames() -> None:
    pytest.importorskip("timm")
    config = Input(frames=4, size=32, rand_augment="rand-m20-mstd0.5-inc1")
    frames = np.tile(seeds.rng(1).integers(0, 256, (1, 48, 64, 3), dtype=np.uint8), (4, 1, 1, 1))
    one = train_clip(frames, config, seeds.rng(5))
    assert np.array_equal(one, train_clip(frames, config, seeds.rng(5)))
    assert (one == one[:1]).all()
    assert not np.array_equal(one, train_clip(frames, config, seeds.rng(6)))


# -- schedules ---


def test_step_schedule_is_the_released_one() -> None:
    config = Train()
    rates = [learning_rate(config, epoch * 10, 10) for epoch in (0, 19, 20, 29, 30, 34)]
    np.testing.assert_allclose(rates, [1e-4, 1e-4, 1e-5, 1e-5, 1e-6, 1e-6])


def test_cosine_schedule_warms_up_and_ends_at_zero() -> None:
    config = Train(schedule="cosine", lr=1.0, epochs=10, warmup_epochs=2)
    rates = [learning_rate(config, step, 5) for step in range(50)]
    assert rates[0] == pytest.approx(0.1) and rates[9] == pytest.approx(1.0)
    assert max(rates) == pytest.approx(1.0) and rates[-1] < 0.01
    assert all(a >= b for a, b in itertools.pairwise(rates[10:]))


def test_one_dimensional_parameters_have_no_weight_decay(tmp_path: Path, data_dir: Path) -> None:
    trainer = trainer_of(make_run(tmp_path, smoke_config("baseline"), data_dir))
    with_decay, without = trainer.optimisation.optimizer.param_groups
    assert all(p.ndim > 1 for p in with_decay["params"]) and with_decay["weight_decay"] == 0.05
    assert all(p.ndim == 1 for p in without["params"]) and without["weight_decay"] == 0.0


def test_metrics_name_every_objective(tmp_path: Path, data_dir: Path) -> None:
    run = make_run(tmp_path, smoke_config(), data_dir)
    trainer_of(run).fit()
    rows = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    assert {
        "loss",
        "loss/classify",
        "loss/video.order",
        "loss/video.debias",
        "loss/video.flow",
        "lr",
    } <= set(rows[0])
    total = sum(value for key, value in rows[0].items() if key.startswith("loss/"))
    assert total == pytest.approx(rows[0]["loss"], rel=1e-5)
    assert rows[0]["video.order/majority"] == 0.25 and 0 < rows[0]["video.flow/majority"] <= 1
    assert any("val/top1" in row for row in rows)


def test_resources_are_not_science() -> None:
    assert not set(Resources.model_fields) & set(Train.model_fields)
