"""Which test variants of ImageNet-9 a method was trained on pictures like: these are no evidence for it.

A note under table 3, made from the objectives in the configs of the runs behind it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from bench import results
from reports import stats

BACKGROUND_DEBIAS = "image.background_debias"
OF_MASKS = {"tile": "only_bg_t", "mask": "no_fg"}
"""What `background: tile` and `mask` make of an image and its mask; `paired` names a layer."""
VARIANTS = {"only_bg_t": "Only-BG-T", "only_bg_b": "Only-BG-B", "no_fg": "No-FG"}


def notes(rows: pd.DataFrame) -> tuple[str, ...]:
    """One line that names the methods and the variants, or nothing where there are none."""
    methods: dict[str, list[str]] = {}
    for method in stats.labels(rows, "method", stats.METHODS):
        folders = sorted(set(rows.loc[rows["method"] == method, "run_dir"]) - {""})
        if folders and (variant := variant_of(results.objectives(folders[0]))):
            methods.setdefault(variant, []).append(method)
    if not methods:
        return ()
    parts = [
        f"{VARIANTS[name]}: {', '.join(methods[name])}" for name in VARIANTS if name in methods
    ]
    return (
        "Trained on pictures made like those of a variant, with no confidence as the aim, so that "
        f"accuracy there is no evidence of what the method does elsewhere: {'; '.join(parts)}. The "
        "independent evidence is Mixed-Rand and Mixed-Next.",
    )


def variant_of(objectives: Mapping[str, Mapping[str, Any]]) -> str:
    """The variant that background debias makes its pictures like; "" for none."""
    if (options := objectives.get(BACKGROUND_DEBIAS)) is None:
        return ""
    background = options.get("background", "paired")
    variant = OF_MASKS.get(background) or options.get("layer", "only_bg_t")
    return variant if variant in VARIANTS else ""
