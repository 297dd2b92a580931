"""Numbers of `video.shuffle_gap` derived a second time, in plain numpy, from random predictions."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.results import recount
from bench.task import DataSpec
from tasks.video import _scores, shuffle_gap

SPEC = DataSpec(
    name="random",
    media="video",
    classes=tuple("abcdefg"),
    subsets={"temporal": (0, 1, 2, 3), "static": (5, 6), "shared": (6, 3, 1)},
    splits=("train", "test"),
    reversals=((0, 1), (3, 2)),
)
K, DRAWS = SPEC.num_classes, 3
VIEWS = {"original": 1, "shuffled": DRAWS}


def drawn(
    seed: int, clips: int, *, coarse: bool
) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """labels, which were decoded, logits by view; coarse ones have ties."""
    rng = np.random.default_rng(seed)
    labels_M, seen_M = rng.integers(0, K, clips), rng.random(clips) > 0.1
    scale = (lambda z: np.round(z)) if coarse else (lambda z: z)
    logits = {view: scale(2 * rng.normal(size=(n, clips, K))) for view, n in VIEWS.items()}
    return labels_M, seen_M, logits


def rows_of(
    labels_M: np.ndarray, seen_M: np.ndarray, logits: dict[str, np.ndarray]
) -> dict[tuple[str, str, str], float]:
    scorer = _scores.Scorer(SPEC)
    by_view = {
        view: np.stack([scorer(torch.tensor(z), torch.tensor(labels_M), seen_M) for z in z_RMK])
        for view, z_RMK in logits.items()
    }
    scores = shuffle_gap._Scores(labels_M, seen_M, by_view)
    rows = list(shuffle_gap._rows("test", scores, SPEC))
    found = {(r["view"], r["subset"], r["metric"]): r["value"] for r in rows}
    assert len(found) == len(rows)
    return found


def first(z_K: np.ndarray, among: list[int]) -> int:
    return max(among, key=lambda k: (z_K[k], -k))


def accuracy(labels: np.ndarray, seen: np.ndarray, z_RMK: np.ndarray, among: list[int]) -> float:
    right = [
        [s and first(z, among) == y for y, s, z in zip(labels, seen, z_MK, strict=True)]
        for z_MK in z_RMK
    ]
    return float(np.mean(right))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), clips=st.integers(1, 40), coarse=st.booleans())
def test_every_number_is_that_of_its_definition(seed: int, clips: int, coarse: bool) -> None:
    labels, seen, logits = drawn(seed, clips, coarse=coarse)
    found = rows_of(labels, seen, logits)
    everything = list(range(K))
    chosen = {"all": np.ones(clips, bool)} | {
        s: np.isin(labels, c) for s, c in SPEC.subsets.items()
    }
    for subset, member in chosen.items():
        if not member.any():
            assert not any(s == subset for _, s, _ in found)
            continue
        own = labels[member], seen[member]
        tops = {v: accuracy(*own, logits[v][:, member], everything) for v in VIEWS}
        for view, top1 in tops.items():
            assert found[view, subset, "top1"] == pytest.approx(top1)
            macro = []
            for k in sorted(set(labels[member])):
                of = labels == k
                macro.append(accuracy(labels[of], seen[of], logits[view][:, of], everything))
            assert found[view, subset, "top1_macro"] == pytest.approx(np.mean(macro))
        gap = tops["original"] - tops["shuffled"]
        assert found["gap", subset, "top1"] == pytest.approx(gap)
        if tops["original"] > 1 / K:
            beyond = gap / (tops["original"] - 1 / K)
            assert found["gap", subset, "top1_normalised"] == pytest.approx(beyond)
        if subset != "all":
            ids = list(SPEC.subsets[subset])
            restricted = accuracy(*own, logits["original"][:, member], ids)
            assert found["original", subset, "top1_restricted"] == pytest.approx(restricted)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), clips=st.integers(1, 40), coarse=st.booleans())
def test_pairs_and_calibration(seed: int, clips: int, coarse: bool) -> None:
    labels, seen, logits = drawn(seed, clips, coarse=coarse)
    found = rows_of(labels, seen, logits)
    partner = {0: 1, 1: 0, 2: 3, 3: 2}
    within = [m for m in range(clips) if labels[m] in partner]
    if within:
        for view, z_RMK in logits.items():
            wins = [
                0.0
                if not seen[m]
                else 0.5 + 0.5 * np.sign(z_MK[m, labels[m]] - z_MK[m, partner[labels[m]]])
                for z_MK in z_RMK
                for m in within
            ]
            assert found[view, "pairs", "pair_top1"] == pytest.approx(np.mean(wins))
    if not seen.any():
        return
    z_MK = logits["original"][0][seen]
    p_MK = np.exp(z_MK) / np.exp(z_MK).sum(axis=1, keepdims=True)
    y_M = labels[seen]
    nll = -np.log(p_MK[np.arange(len(y_M)), y_M]).mean()
    assert found["original", "all", "nll"] == pytest.approx(nll, rel=1e-5)
    sure, right = p_MK.max(axis=1), np.array([first(z, list(range(K))) for z in z_MK]) == y_M
    edges = np.arange(16) / 15
    bins = [(sure >= a) & (sure < b) for a, b in zip(edges, [*edges[1:-1], 1.01], strict=False)]
    ece = sum(b.sum() * abs(right[b].mean() - sure[b].mean()) for b in bins if b.any()) / len(y_M)
    assert found["original", "all", "ece"] == pytest.approx(ece, abs=1e-6)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), clips=st.integers(1, 40), coarse=st.booleans())
def test_classes_add_up_to_all(seed: int, clips: int, coarse: bool) -> None:
    """Micro: their mean weighted by clips. Macro: not weighted, over classes that have clips."""
    labels, seen, logits = drawn(seed, clips, coarse=coarse)
    found = rows_of(labels, seen, logits)
    chosen = {"all": range(K), **SPEC.subsets}
    for view, (subset, ids) in itertools.product(VIEWS, chosen.items()):
        sizes = {k: (labels == k).sum() for k in ids if (labels == k).any()}
        if not sizes:
            continue
        by_class = [found[view, f"class: {SPEC.classes[k]}", "top1"] for k in sizes]
        micro = np.average(by_class, weights=list(sizes.values()))
        assert found[view, subset, "top1"] == pytest.approx(micro)
        assert found[view, subset, "top1_macro"] == pytest.approx(np.mean(by_class))


def test_a_model_that_cannot_see_order_has_exactly_no_gap() -> None:
    labels, seen, logits = drawn(3, 30, coarse=False)
    logits["shuffled"] = np.repeat(logits["original"], DRAWS, axis=0)
    found = rows_of(labels, seen, logits)
    assert {value for (view, *_), value in found.items() if view == "gap"} == {0.0}


def kept_of(labels_M: np.ndarray, seen_M: np.ndarray, logits_RMK: np.ndarray) -> pd.DataFrame:
    """The predictions of a view, as an evaluation keeps them."""
    order = np.argsort(-logits_RMK, axis=-1, kind="stable")[..., :5]
    top = np.where(seen_M[:, None], order, -1)
    halves = logits_RMK.astype(np.float16).reshape(-1, K)
    labels = np.tile(labels_M, len(logits_RMK))
    return pd.DataFrame({"label": labels, "top5": list(top.reshape(-1, 5)), "logits": list(halves)})


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), clips=st.integers(1, 40), coarse=st.booleans())
def test_kept_predictions_give_every_accuracy(seed: int, clips: int, coarse: bool) -> None:
    """Exactly, but where halves tie; and none where a draw is lost."""
    labels, seen, logits = drawn(seed, clips, coarse=coarse)
    data = {"classes": SPEC.classes, "subsets": SPEC.subsets, "reversals": SPEC.reversals}
    counted = set()
    for (view, subset, metric), value in rows_of(labels, seen, logits).items():
        if view == "gap" or metric not in ("top1", "top5", "top1_macro", *recount.OF_LOGITS):
            continue
        ids = recount._classes_of(subset, data)
        n = clips if subset == "all" else int(np.isin(labels, ids).sum())
        row = {"subset": subset, "metric": metric, "n": n}
        found = recount.bounds(row, kept_of(labels, seen, logits[view]), data)
        assert found is not None, row
        least, most = found
        assert least - 1e-9 <= value <= most + 1e-9
        assert metric in recount.OF_LOGITS or least == most
        counted.add(metric)
        one_draw_lost = kept_of(labels, seen, logits[view]).iloc[:-1]
        if n > 1 and labels[-1] in (ids or labels):
            assert recount.bounds(row, one_draw_lost, data) is None
    assert {"top1", "top5", "top1_macro"} <= counted


def test_logits_of_other_classes_are_not_counted() -> None:
    """A model of ImageNet's 1000 classes on nine: its rows are mapped, its predictions are as they were."""
    labels, seen, logits = drawn(0, 20, coarse=False)
    data = {"classes": SPEC.classes[:3], "subsets": {}, "reversals": ()}
    row = {"subset": "all", "metric": "top1", "n": 20}
    assert recount.bounds(row, kept_of(labels, seen, logits["original"]), data) is None
