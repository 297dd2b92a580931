"""Probes of a network that was trained on reversal, on the built-in data."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from makers import context_of, smoke_config
from torch import Tensor, nn

from bench import task
from bench.evaluate.context import EvaluationContext, run_one
from tasks.video import arrow_of_time, chiral

STEPS = 220


class SpaceTime(nn.Module):
    """A `task.Model`: convolutions over space and time, averaged; its answer is "forward"."""

    def __init__(self, width: int = 48) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv3d(3, 24, (3, 5, 5), (1, 2, 2), (1, 2, 2)),
            nn.ReLU(),
            nn.Conv3d(24, width, 3, (1, 2, 2), 1),
            nn.ReLU(),
            nn.Conv3d(width, width, 3, (1, 2, 2), 1),
            nn.ReLU(),
        )
        self.head = nn.Linear(width, 1)

    @property
    def backbone(self) -> Any:
        return self

    def encode(self, clip_BTCHW: Tensor) -> task.Features:
        tokens_BTND = self.net(clip_BTCHW.transpose(1, 2)).flatten(3).permute(0, 2, 3, 1)
        return task.Features(tokens_BTND.mean(dim=(1, 2)), tokens_BTND)

    def stages(self, clip_BTCHW: Tensor) -> Generator[Tensor, None, task.Features]:
        features = self.encode(clip_BTCHW)
        yield features.tokens_BTND
        return features


def trained_on_reversal(context: EvaluationContext) -> SpaceTime:
    """Told forward from backward on the training clips of all pairs, each in both directions."""
    torch.manual_seed(0)
    samples, pairs = context.samples("train"), context.spec.reversals
    chosen = np.flatnonzero(np.isin(samples.labels, [k for pair in pairs for k in pair]))
    clips = torch.cat([batch.clip_BTCHW for batch in context._chosen_batches("train", chosen)])
    firsts = [first for first, _ in pairs]
    forward_M = torch.from_numpy(np.isin(samples.labels[chosen], firsts)).float()
    model = SpaceTime()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.05)
    for _ in range(STEPS):
        some_B = torch.randint(len(clips), (32,))
        shift = torch.randint(-3, 4, (2,)).tolist()
        shown = torch.roll(clips[some_B], shift, dims=(3, 4))
        said = model.head(model.encode(torch.cat([shown, shown.flip(1)])).cls_BD)[:, 0]
        wanted = torch.cat([forward_M[some_B], 1 - forward_M[some_B]])
        nn.functional.binary_cross_entropy_with_logits(said, wanted).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


def lower_end(rows: list[task.Row], view: str, subset: str) -> float:
    """Of the interval on clips whose scenes say nothing of the class."""
    wanted = ("test_unbiased", view, subset, "ci_low")
    (found,) = (
        row["value"]
        for row in rows
        if (row["split"], row["view"], row["subset"], row["metric"]) == wanted
    )
    return found


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_network_trained_on_reversal_is_far_above_chance(tmp_path: Path) -> None:
    config = smoke_config(
        "baseline",
        **{
            "data.train": 400,
            "data.tune": 160,
            "data.test": 160,
            "input.frames": 8,
            "input.size": 24,
        },
    )
    untrained = context_of(config, tmp_path)
    context = replace(untrained, model=trained_on_reversal(untrained))
    arrow = run_one("video.arrow_of_time", arrow_of_time.Config(), context)
    pairs = run_one("video.chiral", chiral.Config(), context)
    # A quarter of the temporal clips that are asked look alike in both directions: 7/8 is the most.
    assert lower_end(arrow, "direction", "temporal") > 0.55
    assert lower_end(pairs, "both", "all") > 0.65
