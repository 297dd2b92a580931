"""`image.background_shift` against a second derivation, in numpy, from random logits."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from bench.data import imagenet9
from bench.task import Batch
from tasks.image import background_shift

K = 9


def context_over(labels: dict[str, np.ndarray], logits: dict[str, np.ndarray]) -> Any:
    """Its images are their logits, and its model shows them."""

    def whole_images(split: str) -> Iterator[Batch]:
        for part in np.array_split(np.arange(len(labels[split])), 3):
            shown = torch.tensor(logits[split][part])
            yield Batch(shown, torch.tensor(labels[split][part]), tuple(f"{i}" for i in part))

    return SimpleNamespace(
        splits=tuple(labels),
        spec=SimpleNamespace(classes=tuple("abcdefghi")),
        model=lambda shown: shown,
        whole_images=whole_images,
        count=lambda split: len(labels[split]),
        samples=lambda _: SimpleNamespace(with_layer=lambda _: np.array([], int)),  # no masks
        record=lambda *_: None,
        progress=lambda *_: None,
    )


def test_accuracies_and_the_gap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background_shift, "_keep_pictures", lambda _: None)
    rng = np.random.default_rng(0)
    splits = ("val", *imagenet9.VARIANTS)
    labels = {s: rng.permutation(np.arange(60 + i) % K) for i, s in enumerate(splits)}
    logits = {s: rng.integers(0, 4, (len(y), K)).astype(np.float32) for s, y in labels.items()}
    rows = list(background_shift.run(background_shift.Config(), context_over(labels, logits)))
    rows = [r for r in rows if r["metric"] != "top_share"]
    found = {(r["split"], r["view"], r["subset"]): (r["value"], r["n"]) for r in rows}
    assert len(found) == len(rows) == (len(splits) + 1) * (K + 1)

    right = {
        s: np.array([z.tolist().index(z.max()) for z in logits[s]]) == labels[s] for s in splits
    }
    for k, name in [(None, "all"), *((k, f"class: {c}") for k, c in enumerate("abcdefghi"))]:
        value = {}
        for s in splits:
            chosen = right[s] if k is None else right[s][labels[s] == k]
            value[s] = chosen.sum() / len(chosen)
            place = ("val", "original", name) if s == "val" else ("test", s, name)
            assert found[place] == (pytest.approx(value[s]), len(chosen))
        gap = value["mixed_same"] - value["mixed_rand"]
        assert found["test", "bg_gap", name][0] == pytest.approx(gap)
