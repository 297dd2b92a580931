"""Our numbers against the released implementation's, for every reference file that is there.

Files: BENCH_PARITY_DIR/*.safetensors (default tests/fixtures/parity) and
BENCH_FLOW_DIR/*.safetensors (default tests/fixtures/flow). Sizes are read from the files, so a
folder of other sizes works as well.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from makers import ROOT
from safetensors import safe_open
from torch import Tensor

from bench import find, task
from bench.data import views
from bench.losses import uniform_cross_entropy
from bench.models import released

FIXTURES = ROOT / "tests" / "fixtures"
PARITY = sorted(Path(os.environ.get("BENCH_PARITY_DIR", FIXTURES / "parity")).glob("*.safetensors"))
FLOW = sorted(Path(os.environ.get("BENCH_FLOW_DIR", FIXTURES / "flow")).glob("*.safetensors"))
TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-6}
OBJECTIVES = {
    "order": "video.order",
    "flow": "video.flow",
    "debias": "video.debias",
    "ce": "classify",
}


def test_there_are_reference_files() -> None:
    assert PARITY and FLOW


@dataclass
class FixedStep:
    """A step whose only random number is the permutation of the reference."""

    model: torch.nn.Module
    order: np.ndarray
    batch: task.Batch

    def encode(self, clip_BTCHW: Tensor) -> task.Features:
        return self.model.encode(clip_BTCHW)

    def extra_features(self, objective: task.Objective) -> task.Features:
        clips = objective.extra_clips(self, self.batch)
        assert clips is not None
        return self.encode(clips)

    def classify(self, features: task.Features) -> Tensor:
        return self.model.classify(features)

    def rng(self, name: str, *, per_sample: bool = False) -> Any:
        assert name == "video.debias" and not per_sample
        return self

    def permutation(self, frames: int) -> np.ndarray:
        assert frames == len(self.order)
        return self.order


@cache
def reference(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    with safe_open(path, "pt") as file:
        return json.loads(file.metadata()["config"]), {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118


@cache
def measured(path: Path, dtype: torch.dtype) -> dict[str, Tensor]:
    """Everything the reference file states, computed with our modules."""
    config, tensors = reference(path)
    # What the tensors do not show.
    options = {"project_values": not config["orig"]} if config.get("orig") is not None else {}
    loaded = released.load(released.plain(tensors), heads=config["heads"], drop_path=0.0, **options)
    spec = task.ModelSpec(
        frames=config["T"],
        size=config["img_size"],
        patch=config["patch"],
        dim=config["dim"],
        num_classes=config["num_classes"],
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
    )
    model = loaded.model.to(dtype)
    scale = config["img_size"] // tensors["input/base_b_t_c_14_14"].shape[-1]
    clip = tensors["input/base_b_t_c_14_14"].to(dtype)
    clip = clip.repeat_interleave(scale, dim=-2).repeat_interleave(scale, dim=-1)
    batch = task.Batch(
        clip_BTCHW=clip,
        labels_B=tensors["input/labels"],
        keys=tuple(str(i) for i in range(len(clip))),
        extras={"video.flow": tensors["input/flow"]},
    )
    order = tensors["input/permutation"].numpy()
    step = FixedStep(model, order, batch)

    model.eval()
    with torch.no_grad():
        out = {"output/logits_eval": model(clip)}
    model.train()
    features = model.encode(clip)
    out["output/logits_train"] = model.classify(features)
    out["output/logits_shuffled"] = model(views.show(clip, order))

    losses = {}
    for short, name in OBJECTIVES.items():
        module = find.load("objective", name)
        options = {"smoothing": config["label_smoothing"]} if short != "debias" else {}
        objective = module.Objective(module.Config(**options), spec).to(dtype)
        if name in loaded.objectives:
            objective.load_state_dict(loaded.objectives[name])
            out[f"output/{short}_logits"] = objective.logits(features)
        losses[short], logs = objective(step, batch, features)
        assert all(torch.isfinite(value).all() for value in logs.values())
    total = sum(losses.values())
    total.backward()
    out |= {f"loss/{short}": loss for short, loss in losses.items()}
    out |= {"loss/total": total, "grad/head.weight": model.head.weight.grad}
    return {name: value.detach() for name, value in out.items()}


@pytest.mark.parametrize("dtype", TOLERANCE, ids=["float32", "float64"])
@pytest.mark.parametrize("path", PARITY, ids=lambda path: path.stem)
def test_outputs_losses_and_gradient_are_the_released_ones(path: Path, dtype: torch.dtype) -> None:
    _, expected = reference(path)
    ours = measured(path, dtype)
    stated = {k for k in expected if k.startswith(("output/", "loss/", "grad/"))}
    assert set(ours) == stated
    for name, value in ours.items():
        assert value.shape == expected[name].shape, name
        error = (value.double() - expected[name].double()).abs().max()
        relative = (error / expected[name].double().abs().max()).item()
        assert relative < TOLERANCE[dtype], f"{name} is off by {relative:.1e}"


@pytest.mark.parametrize("path", PARITY, ids=lambda path: path.stem)
def test_the_sizes_are_read_from_the_tensors(path: Path) -> None:
    config, tensors = reference(path)
    found = released.describe(released.plain(tensors), heads=config["heads"])
    assert found.backbone == config["kind"]
    assert (found.frames, found.size) == (config["T"], config["img_size"])
    assert found.num_classes == config["num_classes"]
    for name in ("dim", "depth", "heads", "patch"):
        assert found.config[name] == config[name]


def test_uniform_loss_is_the_released_one_on_the_stated_logits() -> None:
    for path in PARITY:
        _, tensors = reference(path)
        ours = uniform_cross_entropy(tensors["output/logits_shuffled"].double())
        assert abs(ours.item() / tensors["loss/debias"].item() - 1) < 1e-6


@pytest.mark.parametrize("path", FLOW, ids=lambda path: path.stem)
def test_flow_labels_are_the_released_ones(path: Path) -> None:
    flow = find.load("objective", "video.flow")
    with safe_open(path, "np") as file:
        meta = file.metadata()
        tensors = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118
    frames = tensors["input/frames_thwc_uint8"]
    patch = int(meta["patch"])
    spec = task.ModelSpec(
        frames=len(frames),
        size=frames.shape[1],  # of the height; the rule does not need squares
        patch=patch,
        dim=16,
        num_classes=2,
        mean=(float(meta["mean"]),) * 3,
        std=(float(meta["std"]),) * 3,
    )
    labels = flow.prepare(flow.Config(), spec, frames, np.random.default_rng(0))
    assert labels.dtype == np.int64
    # 0.5 %: another OpenCV build may put a patch on the other side of a sector's or the threshold's
    # edge.
    assert (labels != tensors["output/flow_labels"]).mean() <= 0.005
    # The label rule itself has no such excuse.
    stated = flow.directions(tensors["output/patch_flow_xy"], min_relative=0.01, min_pixels=0.0)
    assert (stated == tensors["output/flow_labels"]).all()
