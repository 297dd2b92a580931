"""Which samples a model got right, one bit each: what is kept of predictions in a file of rows, and all that the
interval of an accuracy needs. Read by reports through `bench.results`.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bench.results.kept import predictions
from bench.results.rows_file import facts_of
from bench.store.files import DamagedFile

Correct = Mapping[tuple[str, str], np.ndarray]
"""By split and view, a bool for each sample, in the order of their keys."""

MOST_VIEWS = 20
"""An evaluation that shows each sample in a view of its own has nothing to keep."""
FACT = "correct"
"""Its name in a file of rows."""


def correct_samples(run_dir: str | Path) -> Correct:
    """Top-1 of what an evaluation kept of each sample; empty where it kept nothing, or what is damaged (which
    `bench.results --verify` says).
    """
    return _correct(str(run_dir))


@lru_cache(maxsize=512)
def _correct(run_dir: str) -> Correct:
    if (facts := facts_of(run_dir)) is not None:
        return unpacked(facts.get(FACT, {}))
    try:
        return of_predictions(predictions(run_dir))
    except DamagedFile:
        return {}


def of_predictions(kept: pd.DataFrame) -> Correct:
    if kept.empty or "top5" not in kept or kept["view"].nunique() > MOST_VIEWS:
        return {}
    first = np.array([top[0] if len(top) else -1 for top in kept["top5"]])
    right = kept.assign(right=first == kept["label"].to_numpy()).sort_values("key", kind="stable")
    return {
        (str(split), str(view)): part["right"].to_numpy()
        for (split, view), part in right.groupby(["split", "view"], sort=True)
    }


def packed(found: Correct) -> dict[str, dict[str, Any]]:
    """For JSON: {split: {view: [how many, bits in base 64]}}."""
    text: dict[str, dict[str, Any]] = {}
    for (split, view), right in found.items():
        bits = base64.b64encode(np.packbits(right).tobytes()).decode()
        text.setdefault(split, {})[view] = [len(right), bits]
    return text


def unpacked(text: Mapping[str, Mapping[str, Any]]) -> Correct:
    return {
        (split, view): np.unpackbits(
            np.frombuffer(base64.b64decode(bits), dtype=np.uint8), count=count
        ).astype(bool)
        for split, views in text.items()
        for view, (count, bits) in views.items()
    }
