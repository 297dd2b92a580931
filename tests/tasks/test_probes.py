"""What all linear probes of frozen features share: folds, interval, rounding."""

from __future__ import annotations

import numpy as np
import pytest
from moving import QUICK

from tasks.video import _probe


def test_folds_are_balanced_and_fixed_by_the_seed() -> None:
    strata = np.repeat([3, 5], [10, 15])
    fold_M = _probe.folds_of(strata, 5, seed=1)
    assert [np.bincount(fold_M[strata == k]).tolist() for k in (3, 5)] == [[2] * 5, [3] * 5]
    assert (fold_M == _probe.folds_of(strata, 5, seed=1)).all()
    assert (fold_M != _probe.folds_of(strata, 5, seed=2)).any()


def test_the_interval_is_wilsons() -> None:
    """Against the roots of (p - s)^2 = z^2 p (1 - p) / n, its definition."""
    for share, n in ((0.5, 40), (0.1, 7), (1.0, 30), (0.0, 3)):
        low, high = _probe.interval(share, n)
        z2 = _probe.Z95**2
        roots = sorted(np.roots([1 + z2 / n, -2 * share - z2 / n, share**2]).real)
        assert (low, high) == pytest.approx(roots, abs=1e-6)
        assert 0 <= low <= share <= high <= 1


def test_both_orders_of_a_clip_are_in_one_fold() -> None:
    """A probe that learns its clips by heart knows nothing of other clips."""
    rng = np.random.default_rng(0)
    x_MD = np.eye(30, dtype=np.float32) + 0.01 * rng.standard_normal((30, 30)).astype(np.float32)
    labels = {"original": rng.integers(0, 2, 30)}
    labels["reversed"] = labels["original"]  # a clip's other order would give it away
    examples = _probe.Examples({"original": x_MD, "reversed": x_MD}, labels, labels["original"])
    config = _probe.ProbeConfig(folds=5, strengths=(1.0,))
    said = _probe.judged(config, None, examples, seed=0)
    assert np.mean(said["original"] == labels["original"]) < 0.8
    probe = _probe.Probe(config, examples, seed=0)
    assert np.mean(probe(examples)["original"] == labels["original"]) == 1.0


def test_rounding_is_no_feature() -> None:
    rng = np.random.default_rng(0)
    label_M = rng.integers(0, 2, 200)
    x_MD = (3.0 + 1e-6 * label_M[:, None]).astype(np.float32)
    examples = _probe.Examples({"original": x_MD}, {"original": label_M}, label_M)
    said = _probe.Probe(_probe.ProbeConfig(**QUICK), examples, seed=0)(examples)["original"]
    assert len(set(said.tolist())) == 1
