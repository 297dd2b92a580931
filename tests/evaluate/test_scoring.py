"""What evaluations score in, what they keep of it, and that both say the same."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from makers import context_of, smoke

from bench.config.science import RunConfig
from bench.evaluate.context import EvaluationContext, run_one
from bench.metrics import correct_top_k
from tasks.video import shuffle_gap


def trained_in(precision: str) -> RunConfig:
    config = smoke()
    return replace(config, train=config.train.model_copy(update={"precision": precision}))


@pytest.fixture(scope="module")
def context(data_dir: Path) -> EvaluationContext:
    """Of a run that was trained in bf16."""
    return context_of(trained_in("bf16"), data_dir)


@pytest.mark.parametrize("speed", [False, True])
def test_a_run_trained_in_bf16_is_scored_in_fp32(speed: bool, context: EvaluationContext) -> None:
    """Unless bench.speed measures what bf16 would save."""
    seen: set[tuple[bool, torch.dtype]] = set()

    def note(_: torch.nn.Module, __: object, logits_BK: torch.Tensor) -> None:
        seen.add((torch.is_autocast_enabled("cpu"), logits_BK.dtype))

    asked = replace(context, precision="bf16") if speed else context
    hook = asked.model.register_forward_hook(note)
    run_one("video.shuffle_gap", shuffle_gap.Config.tiny(), asked)
    hook.remove()
    assert seen == ({(True, torch.bfloat16)} if speed else {(False, torch.float32)})


def kept_of(
    context: EvaluationContext, logits_MK: np.ndarray, labels_M: np.ndarray
) -> EvaluationContext:
    fresh = replace(context, predictions=[])
    keys = [str(i) for i in range(len(labels_M))]
    fresh.record("x", "original", keys, torch.tensor(labels_M), torch.tensor(logits_MK))
    return fresh


@given(arrays(np.float32, (6, 7), elements=st.sampled_from([-60.0, 0.0, 1.0, 1.0 + 2**-23, 60.0])))
def test_predictions_and_accuracies_rank_ties_alike(
    context: EvaluationContext, logits_MK: np.ndarray
) -> None:
    labels_M = np.arange(6)
    [kept] = kept_of(context, logits_MK, labels_M).predictions
    for k in (1, 5):
        listed = [label in top[:k] for label, top in zip(labels_M, kept["top5"], strict=True)]
        scored = correct_top_k(torch.tensor(logits_MK), torch.tensor(labels_M), k)
        assert listed == scored.tolist()
    first = [int(np.flatnonzero(row == row.max())[0]) for row in logits_MK]
    assert [top[0] for top in kept["top5"]] == first
