"""Run directories of an image sweep as they are on disk, with pictures and predictions, written by hand: for
tests of what reads them.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from bench.store.rundir import RunDir

SHIFT, CHALLENGE = "image.background_shift", "image.background_challenge"
FOLDERS = (
    "00_dog", "01_bird", "02_wheeled vehicle", "03_reptile", "04_carnivore", "05_insect",
    "06_musical instrument", "07_primate", "08_fish",
)  # fmt: skip
CLASSES = tuple(folder.partition("_")[2] for folder in FOLDERS)
METHODS = ("baseline", "+ order", "+ debias", "+ TIME")
MIXED = ("mixed_same", "mixed_rand", "mixed_next")
VARIANTS = ("original", "only_fg", *MIXED, "no_fg", "only_bg_b", "only_bg_t")
BASE = dict(zip(VARIANTS, (0.65, 0.45, 0.60, 0.30, 0.26, 0.40, 0.35, 0.38), strict=True))
LIFT = {"baseline": 0.0, "+ order": 0.05, "+ debias": 0.02, "+ TIME": 0.08}
IMAGES = 4  # per class
SIDE = 24
PROVENANCE = "pillow 12; as stored, 24 x 24"


def accuracy(method: str, seed: int, variant: str) -> float:
    """What the synthetic runs measured."""
    noise = np.random.default_rng([seed, len(method), VARIANTS.index(variant)]).normal(0, 0.01)
    sign = -1 if variant in ("no_fg", "only_bg_b", "only_bg_t") else 1
    return float(BASE[variant] + sign * LIFT.get(method, 0.03) + noise)


def row(evaluation: str, view: str, subset: str, metric: str, value: float, n: int) -> dict:
    return {
        "evaluation": evaluation,
        "split": "test",
        "view": view,
        "subset": subset,
        "metric": metric,
        "value": value,
        "n": n,
    }


def shift_rows(method: str, seed: int) -> list[dict]:
    values = {variant: accuracy(method, seed, variant) for variant in VARIANTS}
    values["bg_gap"] = values["mixed_same"] - values["mixed_rand"]
    subsets = ("all", *(f"class: {name}" for name in CLASSES))
    rows = [row(SHIFT, v, s, "top1", x, 450) for v, x in values.items() for s in subsets]
    return [*rows, {**row(SHIFT, "original", "all", "top1", 0.9, 90), "split": "val"}]


def challenge_rows(method: str, seed: int) -> list[dict]:
    robust = 0.05 + LIFT.get(method, 0.03) + 0.001 * seed
    rows = [row(CHALLENGE, "challenge", "all", "top1", robust, 450)]
    rows.append(row(CHALLENGE, "challenge", "all", "passes", 0.1, 450 * 450))
    for k, folder in enumerate(FOLDERS):
        for i, share in enumerate((0.75, 0.5, 0.5)):
            view = f"only_bg_t/{folder}/n{k}_{i}"
            value = share - LIFT.get(method, 0.03)
            rows.append(row(CHALLENGE, view, f"class: {CLASSES[k]}", "fooled", value, 40))
    return rows


def predicted(method: str, label: int, image: int, variant: str) -> int:
    """Every class but 0 is misled by another background, unless debiased; 2 is wrong everywhere."""
    if label == 2 or (variant in MIXED[1:] and label and method == "baseline"):
        return (label + 1) % 9
    return label


def predictions(method: str) -> pd.DataFrame:
    records = []
    for variant, label, image in itertools.product(VARIANTS, range(9), range(IMAGES)):
        stem = f"n{label}_{image}"
        if variant in MIXED:
            stem = f"fg_{stem}_bg_n{(label + 1) % 9}_{(image + 1) % IMAGES}"
        top = predicted(method, label, image, variant)
        records.append(
            {
                "evaluation": SHIFT,
                "split": "test",
                "view": variant,
                "key": f"{FOLDERS[label]}/{stem}",
                "label": label,
                "top5": np.array([(top + i) % 9 for i in range(5)]),
                "confidence": np.float32(0.3 + 0.07 * label),
                "logits": np.eye(9, dtype=np.float16)[top],
            }
        )
    return pd.DataFrame(records)


def scene(label: int) -> np.ndarray:
    """A background: a sky over ground, of the colours of its class."""
    random = np.random.default_rng(label)
    sky, ground = random.integers(60, 255, (2, 3))
    rows = np.linspace(0.5, 1, SIDE)[:, None, None]
    image = np.where(np.arange(SIDE)[:, None, None] < SIDE * 0.6, sky * rows, ground * rows)
    return np.broadcast_to(image, (SIDE, SIDE, 3)).astype(np.uint8)


def shown(label: int, variant: str) -> np.ndarray:
    y, x = np.mgrid[:SIDE, :SIDE] / SIDE - 0.5
    mask = (np.abs(x) ** (1 + label / 3) + np.abs(y) ** (1 + label / 3) < 0.3 ** (1 + label / 3))[
        ..., None
    ]
    colour = np.random.default_rng(100 + label).integers(0, 255, 3)
    background = {
        "original": scene(label), "only_fg": 0, "mixed_same": scene(label), "mixed_rand": scene(5),
        "mixed_next": scene((label + 1) % 9), "no_fg": scene(label), "only_bg_b": scene(label),
        "only_bg_t": scene(label), "fg_mask": 0,
    }[variant]  # fmt: skip
    foreground = {"no_fg": 0, "only_bg_b": 0, "only_bg_t": background, "fg_mask": 255}
    image = np.where(mask, foreground.get(variant, colour), background)
    return np.broadcast_to(image, (SIDE, SIDE, 3)).astype(np.uint8)


def keep(folder: Path, method: str) -> None:
    """Predictions and pictures, as an evaluation leaves them."""
    folder.mkdir(parents=True, exist_ok=True)
    predictions(method).to_parquet(folder / "predictions.parquet", index=False)
    images = {
        f"{SHIFT}/{k:02d}/{variant}": shown(k, variant)
        for k in range(9)
        for variant in (*VARIANTS, "fg_mask")
    }
    for k, rank in itertools.product(range(9), (1, 2, 3)):
        images[f"{CHALLENGE}/strongest/{CLASSES[k]}-{rank}"] = scene(10 * rank + k)
    for name, image in images.items():
        path = folder / "pictures" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)


def sweep(
    runs: Path,
    methods: Sequence[str] = METHODS,
    seeds: Sequence[int] = (0, 1, 2),
    *,
    backbone: str = "ViT",
    data: str = "mini_imagenet9",
    scale: str = "mini",
    challenge: bool = True,
    missing: Sequence[tuple[str, int]] = (),
) -> None:
    """An image sweep; cells in `missing` have not been run."""
    cells = []
    for method, seed in itertools.product(methods, seeds):
        name = hashlib.sha256(repr((backbone, method, seed, data)).encode()).hexdigest()[:16]
        entry = {
            "labels": {"backbone": backbone, "method": method},
            "seed": seed,
            "signature": name,
            "skip": None,
            "stale": None,
            "data": data,
        }
        cells.append(entry)
        evaluations = {SHIFT: {}, **({CHALLENGE: {}} if challenge else {})}
        RunDir(runs / name).create({"evaluations": evaluations}, {}, digest="")
        if (method, seed) in missing:
            continue
        rows = shift_rows(method, seed) + (challenge_rows(method, seed) if challenge else [])
        result = {
            "signature": name,
            "rows": rows,
            "data": data,
            "data_digest": "ab" * 16,
            "provenance": PROVENANCE,
        }
        (runs / name / "result.json").write_text(json.dumps(result))
        if seed == min(seeds):
            keep(runs / name, method)
    manifest = {"sweep": "background", "scale": scale, "overrides": {}, "cells": cells}
    path = runs / "sweeps" / f"background-{backbone}-{scale}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(manifest))


def model(
    runs: Path,
    name: str = "timm:resnet50",
    evaluation: str = SHIFT,
    *,
    data: str = "imagenet9",
    official: bool = False,
    slug: str = "",
    **changes: Any,
) -> Path:
    """A model that bench.evaluate measured without a run."""
    rows = shift_rows("+ TIME", 7) if evaluation == SHIFT else challenge_rows("+ TIME", 7)
    slug = slug or re.sub(r"\W", "_", f"{name}-{evaluation}-{data}-{official}")
    path = runs / "evaluated" / f"{slug}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    found = {
        "model": name,
        "evaluation": evaluation,
        "data": data,
        "data_digest": "ab" * 16,
        "provenance": PROVENANCE,
        "made_by": {"sha256": "00"},
        "official": official,
        "rows": rows,
    }
    path.write_text(json.dumps({**found, **changes}))
    keep(path.with_suffix(""), "+ TIME")
    return path
