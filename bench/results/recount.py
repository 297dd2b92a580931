"""Accuracies counted again from the predictions that were kept: what `bench.results --check` compares.

    predictions of a view (all its permutations), classes, subsets and reversals of the data -> a row's value

Logits are kept as halves. Rounding keeps order but makes ties: of logits a > b the halves say a >= b. So where
halves tie, either may have been above, and what is counted is the least and the most that a number can be.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

ACCURACIES = {"top1": 1, "top5": 5}
OF_LOGITS = ("top1_restricted", "pair_top1")

Bounds = tuple[float, float]


def bounds(row: Mapping[str, Any], kept: pd.DataFrame, data: Mapping[str, Any]) -> Bounds | None:
    """Between what numbers the value of a row lies; None where the predictions do not say.

    `kept`: the predictions of the row's evaluation, split and view; `data`: `classes`, `subsets` and
    `reversals`, empty for results of before they were kept.
    """
    subset, metric = row["subset"], row["metric"]
    classes = _classes_of(subset, data)
    members = kept if subset == "all" else kept[kept["label"].isin(classes)]
    if (
        members.empty
        or row["n"] < 1
        or len(members) % row["n"]
        or not _of_these_classes(members, data)
    ):
        return None  # kept of none, or not of every permutation
    if metric in ACCURACIES:
        value = float(_right(members, ACCURACIES[metric]).mean())
        return value, value
    if metric == "top1_macro":
        right = pd.Series(_right(members, 1))
        value = float(right.groupby(members["label"].to_numpy()).mean().mean())
        return value, value
    if metric not in OF_LOGITS or "logits" not in members:
        return None
    return _above_others(members, classes) if metric == OF_LOGITS[0] else _pairs(members, data)


def _classes_of(subset: str, data: Mapping[str, Any]) -> list[int]:
    """The class ids of a subset of rows; none where it is not known."""
    reversals, names = data.get("reversals", ()), data.get("classes", ())
    pairs = {f"pair: {names[a]} / {names[b]}": [a, b] for a, b in reversals}
    own = {f"class: {name}": [k] for k, name in enumerate(names)}
    of_data = {"pairs": [k for pair in reversals for k in pair], **data.get("subsets", {})}
    return list({**own, **pairs, **of_data}.get(subset, ()))


def _of_these_classes(kept: pd.DataFrame, data: Mapping[str, Any]) -> bool:
    """Whether the logits are those of the data's classes, not of ImageNet's, that an evaluation maps."""
    if "logits" not in kept or not data:
        return True
    return len(kept["logits"].iloc[0]) == len(data["classes"])


def _right(kept: pd.DataFrame, k: int) -> np.ndarray:
    return np.array([y in top[:k] for y, top in zip(kept["label"], kept["top5"], strict=True)])


def _above_others(kept: pd.DataFrame, classes: Sequence[int]) -> Bounds:
    """How often the label is the first of these classes."""
    logits_nK = _logits(kept)
    others_nK = np.full_like(logits_nK, -np.inf)
    others_nK[:, classes] = logits_nK[:, classes]
    np.put_along_axis(others_nK, kept["label"].to_numpy()[:, None], -np.inf, axis=1)
    return _above(kept, logits_nK, others_nK.max(axis=1))


def _pairs(kept: pd.DataFrame, data: Mapping[str, Any]) -> Bounds | None:
    """How often the label is above its reversal."""
    partner = {a: b for pair in data.get("reversals", ()) for a, b in (pair, pair[::-1])}
    if not set(kept["label"]) <= partner.keys():
        return None
    logits_nK = _logits(kept)
    others_n = np.array([partner[label] for label in kept["label"]])
    return _above(kept, logits_nK, _of(logits_nK, others_n))


def _above(kept: pd.DataFrame, logits_nK: np.ndarray, others_n: np.ndarray) -> Bounds:
    """How often the label's logit is above, at least and at most; never of what could not be decoded."""
    own_n = _of(logits_nK, kept["label"].to_numpy())
    decoded_n = np.array([top[0] >= 0 for top in kept["top5"]])
    least, most = (own_n > others_n) & decoded_n, (own_n >= others_n) & decoded_n
    return float(least.mean()), float(most.mean())


def _logits(kept: pd.DataFrame) -> np.ndarray:
    """float32 (n, K)"""
    return np.stack(list(kept["logits"])).astype(np.float32)


def _of(logits_nK: np.ndarray, classes_n: np.ndarray) -> np.ndarray:
    return np.take_along_axis(logits_nK, classes_n[:, None], axis=1)[:, 0]
