"""`image.background_challenge` against a second derivation, in plain Python, from random predictions.

The world: a foreground spells its index where its mask is, a background where it is not, and the model looks up
the logits of the pair.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.data.imagenet9 import IN9_OF_IMAGENET
from bench.task import Images
from tasks.image import background_challenge

K = 9
MASK = np.array([[1, 0], [0, 0]], np.uint8)


def context_over(labels: dict[str, np.ndarray], logits_FBK: np.ndarray) -> Any:
    def images(split: str) -> Iterator[Images]:
        for part in np.array_split(np.arange(len(labels[split])), 3):
            if len(part):
                shown = torch.zeros(len(part), 2, 2, 3, dtype=torch.uint8)
                shown[...] = torch.tensor(part)[:, None, None, None]
                keys = tuple(f"{split}{i:02d}" for i in part)
                yield Images(shown, torch.tensor(labels[split][part]), keys)

    def samples(split: str) -> Any:
        everything = np.arange(len(labels[split]))
        return SimpleNamespace(with_layer=lambda _: everything, layer=lambda *_: MASK)

    return SimpleNamespace(
        spec=SimpleNamespace(classes=tuple("abcdefghi")), seed=0, scratch=None,
        count=lambda split: len(labels[split]), samples=samples, images=images,
        to_clip=lambda shown: shown,
        model=lambda shown: torch.tensor(
            logits_FBK[shown[:, 0, 0, 0].numpy(), shown[:, 1, 1, 0].numpy()]
        ),
        progress=lambda *_: None, keep_picture=lambda *_: None,
    )  # fmt: skip


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    foregrounds=st.integers(1, 40),
    backgrounds=st.integers(1, 30),
    outputs=st.sampled_from([K, len(IN9_OF_IMAGENET)]),
)
def test_a_foreground_is_robust_if_it_is_right_on_every_background(
    seed: int, foregrounds: int, backgrounds: int, outputs: int
) -> None:
    rng = np.random.default_rng(seed)
    labels = {
        "original": rng.integers(0, K, foregrounds),
        "only_bg_t": rng.integers(0, K, backgrounds),
    }
    meant = [int(k) for k in IN9_OF_IMAGENET] if outputs > K else list(range(K))
    # Rounded, so that logits tie; some foregrounds stand out, so that some are robust.
    logits = np.round(rng.normal(size=(foregrounds, backgrounds, outputs)))
    for f, y in enumerate(labels["original"]):
        logits[f, :, meant.index(y)] += rng.choice([0, 4, 20])
    config = background_challenge.Config(batch=int(rng.integers(1, 50)), rated=1.0, strongest=99)
    rows = background_challenge.run(config, context_over(labels, logits.astype(np.float32)))
    found = {(r["view"], r["subset"], r["metric"]): (r["value"], r["n"]) for r in rows}
    assert len(found) == len(rows)

    def right(f: int, b: int) -> bool:
        z = logits[f, b].tolist()
        return bool(meant[z.index(max(z))] == labels["original"][f])

    robust = [all(right(f, b) for b in range(backgrounds)) for f in range(foregrounds)]
    assert found["challenge", "all", "top1"] == (
        pytest.approx(sum(robust) / foregrounds),
        foregrounds,
    )
    of_class = {
        k: [r for r, y in zip(robust, labels["original"], strict=True) if y == k] for k in range(K)
    }
    for k, members in of_class.items():
        place = ("challenge", f"class: {'abcdefghi'[k]}", "top1")
        assert (place in found) == bool(members)
        if members:
            assert found[place] == (pytest.approx(sum(members) / len(members)), len(members))
    for b in range(backgrounds):
        own = labels["only_bg_t"][b]
        others = [right(f, b) for f in range(foregrounds) if labels["original"][f] != own]
        place = (f"only_bg_t/only_bg_t{b:02d}", f"class: {'abcdefghi'[own]}", "fooled")
        assert (place in found) == bool(others)
        if others:
            assert found[place] == (pytest.approx(1 - sum(others) / len(others)), len(others))
