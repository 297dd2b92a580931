"""What tests of training and of what comes after it are made of: configs, run directories, samples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.config import signature
from bench.config.resources import Resources, parse_resources
from bench.config.science import Input, RunConfig, parse
from bench.data.access import prepare_data
from bench.evaluate.context import EvaluationContext, context_for
from bench.grid.patch import merge_layer, nest
from bench.grid.plan import plan
from bench.run.directory import create, read_config
from bench.store.rundir import RunDir
from bench.train import checkpoint
from bench.train.learner import build
from bench.train.loop import Trainer

ROOT = Path(__file__).resolve().parent.parent


IMAGE_VIT = """
cells:
  image ViT:
    data: {name: mini_imagenet9, train: 18, val: 9, test: 18, size: 24}
    input: {frames: 1, size: 24}
    model: {name: vit}
    objectives: {classify: {}}
    train: {epochs: 1, batch: 9}
"""
"""The smallest cell that models of the smoke scale can start from, for the YAML of a sweep."""


def smoke_config(method: str = "+ TIME", *, sweep: str = "ablation", **changes: Any) -> RunConfig:
    """Of the sweep's cell at smoke scale. With flow's loss, which that scale leaves out: its labels are of no
    use at this size, and are computed like any others.
    """
    cells = plan(ROOT / f"sweeps/{sweep}.yaml", "smoke").cells
    cell = next(c for c in cells if c.labels["method"] == method)
    raw = cell.config.dump()
    raw["objectives"] |= {name: {} for name in cell.left_out}
    merge_layer(raw, nest(changes))
    return parse(raw)


def make_run(folder: Path, config: RunConfig, data_dir: Path, **resources: Any) -> RunDir:
    run = RunDir(folder / signature.signature(config))
    places = parse_resources(
        {"data_dir": str(data_dir), "device": "cpu", "log_every": 1, **resources}
    )
    create(run, config, places)
    return run


def trainer_of(run: RunDir) -> Trainer:
    return Trainer(run, read_config(run), parse_resources(run.read_resources()), lambda _: None)


def final_weights(run: RunDir) -> dict[str, torch.Tensor]:
    return checkpoint.read(run.last)["learner"]


def assert_same(one: RunDir, other: RunDir) -> None:
    a, b = final_weights(one), final_weights(other)
    assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)
    assert one.metrics.read_bytes() == other.metrics.read_bytes()


class Stop(Exception):
    """Stands for a kill between two steps."""


def released_checkpoint(path: Path, classes: int) -> Path:
    """Random weights in the released layout: no config beside them."""
    torch.manual_seed(0)
    state = build(smoke_config("baseline"), weights_dir=None).classifier.state_dict()
    head = torch.nn.Linear(state["head.weight"].shape[1], classes)
    torch.nn.init.normal_(head.weight)
    released = {k.removeprefix("backbone."): v for k, v in state.items() if "head." not in k}
    released |= {f"head.{name}": value for name, value in head.state_dict().items()}
    torch.save({"model_state": {f"module.{k}": v for k, v in released.items()}}, path)
    return path


# -- order and sampling ---


class Fake:
    """Samples whose frames say which frame they are."""

    def __init__(self, length: int) -> None:
        self.keys = [f"k{i}" for i in range(length)]
        self.labels = np.arange(length) % 3
        self.digest = "fake"

    def __len__(self) -> int:
        return len(self.keys)

    def num_frames(self, i: int) -> int:
        return 5 + i % 7

    def frames(self, i: int, indices: np.ndarray) -> np.ndarray:
        frames = np.zeros((len(indices), 12, 16, 3), np.uint8)
        frames[:] = np.asarray(indices, np.uint8)[:, None, None, None]
        return frames


INPUT = Input(frames=4, size=8)


def numbered(height: int, width: int) -> np.ndarray:
    """Every pixel says where it is: red its row, green its column."""
    frames = np.zeros((2, height, width, 3), np.uint8)
    frames[..., 0] = np.arange(height)[:, None]
    frames[..., 1] = np.arange(width)
    return frames


class Counted:
    """Wide samples that count how often they are decoded."""

    def __init__(self, length: int = 5) -> None:
        self.keys = [f"k{i}" for i in range(length)]
        self.labels = np.arange(length)
        self.decoded = 0

    def __len__(self) -> int:
        return len(self.keys)

    def num_frames(self, i: int) -> int:
        return 6

    def frames(self, i: int, indices: np.ndarray) -> np.ndarray:
        self.decoded += 1
        return numbered(4, 12) + np.uint8(i)


# -- evaluations ---


def smoke(**changes: object) -> RunConfig:
    config = plan(ROOT / "sweeps/ablation.yaml", "smoke").cells[0].config
    raw = config.dump()
    raw["input"] |= changes
    return parse(raw)


def context_of(config: RunConfig, data_dir: Path) -> EvaluationContext:
    resources = Resources(data_dir=str(data_dir), device="cpu")
    prepare_data(config, data_dir)
    model = build(config, weights_dir=None).classifier
    # Classes must differ for accuracies to: a fresh classifier is nearly uniform.
    with torch.no_grad():
        model.head.weight.mul_(50)
    return context_for(config, resources, model, lambda _: None)
