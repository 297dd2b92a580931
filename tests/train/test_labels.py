"""Where the labels of an objective are computed: by the loader's workers or by the device."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from makers import Stop, assert_same, make_run, smoke_config, trainer_of

from bench.config import signature
from bench.data.access import prepare_data
from bench.data.loader import RawBatch
from bench.run.cell import run_cell
from bench.store.rundir import State
from bench.train import labels
from bench.train.step import Optimisation
from tasks.video import flow

CPU, GPU = torch.device("cpu"), torch.device("cuda")
ON_DEVICE = {"objectives.video.flow.where": "device"}


@pytest.fixture
def _no_loader_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> np.ndarray:
        raise AssertionError("the loader computed labels that the device computes")

    monkeypatch.setattr(flow, "prepare", refuse)


def test_the_device_is_the_default_on_a_gpu() -> None:
    chosen = {}
    for where in ("auto", "loader", "device"):
        config = smoke_config(**{"objectives.video.flow.where": where})
        chosen[where] = [labels.places(config, on)["video.flow"] for on in (CPU, GPU)]
        for on in (CPU, GPU):
            made = (labels.on_loader(config, on), labels.on_device(config, on))
            assert sorted(map(len, made)) == [0, 1]  # never both, never neither
    assert chosen == {
        "auto": ["loader", "device"],
        "loader": ["loader", "loader"],
        "device": ["device", "device"],
    }
    assert labels.places(smoke_config("baseline"), GPU) == {}


def test_auto_is_the_run_that_was_and_a_choice_is_another() -> None:
    plain = signature.signature(smoke_config())
    assert signature.signature(smoke_config(**{"objectives.video.flow.where": "auto"})) == plain
    assert signature.signature(smoke_config(**ON_DEVICE)) != plain


@pytest.mark.usefixtures("_no_loader_labels")
def test_a_cell_trains_with_labels_of_the_device_and_resumes_bitwise(
    tmp_path: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = smoke_config(**ON_DEVICE)
    prepare_data(config, data_dir)
    straight = make_run(tmp_path / "a", config, data_dir)
    trainer_of(straight).fit()
    cut = make_run(tmp_path / "b", config, data_dir, checkpoint_steps=1)
    trainer = trainer_of(cut)
    step = trainer._train_step

    def stopping(batches: list[RawBatch]) -> None:
        if trainer.step == 2:
            raise Stop
        step(batches)

    monkeypatch.setattr(trainer, "_train_step", stopping)
    with pytest.raises(Stop):
        trainer.fit()
    assert run_cell(cut.path) == State.DONE
    assert_same(straight, cut)
    assert json.loads(cut.env.read_text())["labels"] == {"video.flow": "device"}
    assert "labels of video.flow: computed on the device" in cut.log.read_text()


def test_the_step_sees_the_labels_of_prepare_batch(tmp_path: Path, data_dir: Path) -> None:
    """In whole batches and in micro-batches, and where training is in bfloat16."""
    config = smoke_config(**ON_DEVICE, **{"train.precision": "bf16"})
    prepare_data(config, data_dir)
    trainer = trainer_of(make_run(tmp_path, config, data_dir))
    (whole,) = next(trainer.batches.steps(0, 1))
    assert "video.flow" not in whole.extras
    spec, options = config.model_spec(), config.objectives["video.flow"].config
    expected = flow.prepare_batch(options, spec, whole.clip_BTHWC)
    seen = []

    def watch(_: torch.nn.Module, given: tuple[Any, ...]) -> None:
        seen.append(given[1].extras["video.flow"])

    handle = trainer.learner.objectives["video/flow"].register_forward_pre_hook(watch)
    trainer.optimisation.losses(whole, number=0)
    for i in range(len(whole.keys)):
        part = RawBatch(
            whole.clip_BTHWC[i : i + 1],
            whole.labels_B[i : i + 1],
            whole.keys[i : i + 1],
            whole.draws[i : i + 1],
            {},
        )
        trainer.optimisation.losses(part, number=0)
    handle.remove()
    assert torch.equal(seen[0], expected) and len(expected) > 1
    assert torch.equal(torch.cat(seen[1:]), expected)


def test_the_loader_and_the_device_train_alike(tmp_path: Path, data_dir: Path) -> None:
    """The first step's flow loss with the one's labels and with the other's."""
    found = {}
    for where in ("loader", "device"):
        config = smoke_config(**{"objectives.video.flow.where": where})
        prepare_data(config, data_dir)
        trainer = trainer_of(make_run(tmp_path / where, config, data_dir))
        optimisation: Optimisation = trainer.optimisation
        (raw,) = next(trainer.batches.steps(0, 1))
        assert ("video.flow" in raw.extras) == (where == "loader")
        found[where] = optimisation.losses(raw, number=0).terms["video.flow"].item()
    assert found["loader"] == pytest.approx(found["device"], rel=0.02)
