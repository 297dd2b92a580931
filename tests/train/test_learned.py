"""What objectives have come to in the last epoch, against a derivation in numpy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from makers import Stop, make_run, smoke_config, trainer_of

from bench.metrics import accuracy, shares
from bench.store.learned import nothing_learned
from bench.train.learned import Learned, majority

CLASSES = 3


def steps_of(seed: int, steps: int, batch: int) -> tuple[np.ndarray, np.ndarray]:
    """Guesses and labels, (S, B)."""
    random = np.random.default_rng(seed)
    return random.integers(0, CLASSES, (steps, batch)), random.integers(0, CLASSES, (steps, batch))


def losses(guesses_B: np.ndarray, labels_B: np.ndarray) -> dict[str, Any]:
    logits = torch.eye(CLASSES)[torch.from_numpy(guesses_B)]
    labels = torch.from_numpy(labels_B)
    return {
        "loss": 1.0,
        "x.y/accuracy": accuracy(logits, labels).item(),
        "x.y/shares": shares(labels, CLASSES).tolist(),
        "loss/x.y": 2.0,
    }


@given(st.integers(0, 10**6), st.integers(2, 6), st.integers(1, 9), st.integers(0, 6))
def test_the_last_epoch_is_that_of_numpy(seed: int, steps: int, batch: int, cut: int) -> None:
    guesses, labels = steps_of(seed, steps, batch)
    learned = Learned(since=4)
    for step in range(4):  # of the epochs before, which do not count
        learned.add(step, losses(labels[0], labels[0]))
    for step, pair in enumerate(zip(guesses, labels, strict=True), start=4):
        learned.add(step, losses(*pair))
        learned.add(step, losses(*pair))  # asked again, as a checkpoint does
        if step == 4 + cut:  # goes on from it
            again = Learned(since=4)
            again.resume(json.loads(json.dumps(learned.state())))
            learned = again
    found = learned.facts()["x.y"]
    right = guesses == labels
    counts = np.bincount(labels.ravel(), minlength=CLASSES)
    assert found["accuracy"] == pytest.approx(right.mean())
    assert found["majority"] == pytest.approx(counts.max() / labels.size)
    errors = []
    for commonest in np.flatnonzero(counts == counts.max()):
        difference = right.mean(1) - (labels == commonest).mean(1)
        errors.append(difference.std(ddof=1) / np.sqrt(steps))
    assert any(found["standard_error"] == pytest.approx(e, abs=1e-6) for e in errors)
    assert (found["loss"], found["steps"]) == (2.0, steps)


def test_of_a_step_the_majority_is_written() -> None:
    row = majority(losses(np.array([0, 1, 1]), np.array([2, 1, 2])))
    assert row["x.y/majority"] == pytest.approx(2 / 3) and "x.y/shares" not in row


@pytest.mark.parametrize(
    ("accuracy", "error", "warned"), [(0.15, 0.01, True), (0.16, 0.02, True), (0.18, 0.02, False)]
)
def test_what_is_not_above_its_majority_has_learned_nothing(
    accuracy: float, error: float, *, warned: bool
) -> None:
    flow = {"accuracy": accuracy, "majority": 0.15, "standard_error": error, "steps": 9}
    lines = nothing_learned({"objectives": {"video.flow": flow, "video.debias": {"loss": 2.0}}})
    text = f"video.flow: accuracy {accuracy:.2f}, its commonest label 0.15: it has learned nothing"
    assert lines == ((text,) if warned else ())
    assert nothing_learned({}) == ()  # of a result of before


def test_a_run_that_was_stopped_in_its_last_epoch_comes_to_the_same(
    tmp_path: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight = trainer_of(make_run(tmp_path / "a", smoke_config(), data_dir, log_every=50))
    straight.fit()
    run = make_run(tmp_path / "b", smoke_config(), data_dir, log_every=50, checkpoint_steps=1)
    cut = trainer_of(run)
    step = cut._train_step

    def stopping(batches: Any) -> None:
        if cut.step == cut.total_steps - 1:
            raise Stop
        step(batches)

    monkeypatch.setattr(cut, "_train_step", stopping)
    with pytest.raises(Stop):
        cut.fit()
    again = trainer_of(run)
    again.fit()
    assert again.learned.facts() == straight.learned.facts()
    found = straight.learned.facts()
    assert all(part["steps"] == straight.steps_per_epoch for part in found.values())
    assert found["video.order"]["majority"] == pytest.approx(1 / 4)
    assert 1 / 9 <= found["video.flow"]["majority"] <= 1
    assert {"loss", "confidence", "steps"} == set(found["video.debias"])
