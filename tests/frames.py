"""Long frames of results, as `bench.results` loads them, for tests of the report."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from reports import stats

METHODS = ("baseline", "+ order", "+ debias", "+ flow", "+ TIME")
ORIGINAL = {"baseline": 0.62, "+ order": 0.66, "+ debias": 0.63, "+ flow": 0.65, "+ TIME": 0.70}
SHUFFLED = {"baseline": 0.41, "+ order": 0.37, "+ debias": 0.21, "+ flow": 0.39, "+ TIME": 0.18}
PROVENANCE = "opencv 4.12 | segment midpoints | 1 view x 3 crops"
LAYERS = 6


def signature(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def cell(
    method: str = "baseline",
    seed: int = 0,
    backbone: str = "TimeSformer",
    *,
    state: str = "DONE",
    reason: str = "",
    numbers: Sequence[Mapping[str, Any]] | None = None,
    **changes: Any,
) -> list[dict[str, Any]]:
    """The rows of one run: all its numbers if it is DONE, else the one row that every cell has."""
    head: dict[str, Any] = {
        "sweep": "ablation",
        "scale": "mini",
        "overrides": "",
        "backbone": backbone,
        "method": method,
        "seed": seed,
        "signature": signature(backbone, method, seed),
        "run_dir": "",
        "state": state,
        "reason": reason,
        "evaluations": "",
        "data": "mini_ssv2",
        "data_digest": "d41d8cd98f00b204",
        "provenance": PROVENANCE,
        **changes,
    }
    if numbers is None:
        numbers = list(_numbers(method, seed)) if state == "DONE" else []
    empty = dict.fromkeys(stats.NUMBER, np.nan)
    return [{**head, **row} for row in numbers or [empty]]


def _numbers(method: str, seed: int) -> Iterator[dict[str, Any]]:
    random = np.random.default_rng([seed, len(method)])
    for split, subset in itertools.product(
        ("test", "test_unbiased"), ("all", "temporal", "static", "class: Moving 50% up_down")
    ):
        lift = {"temporal": 0.1, "static": 0.15}.get(subset, 0.0)
        original = ORIGINAL.get(method, 0.5) + lift + random.normal(0, 0.012)
        shuffled = SHUFFLED.get(method, 0.4) + lift + random.normal(0, 0.012)
        if split == "test_unbiased":
            original, shuffled = original - 0.15, shuffled - 0.1
        views = {
            "original": original,
            "shuffled": shuffled,
            "reversed": shuffled + 0.04,
            "single_frame": shuffled - 0.05,
        }
        for view, value in views.items():
            for metric, change in (("top1", 0.0), ("top5", 0.15), ("confidence", -0.05)):
                yield _number("video.shuffle_gap", split, view, subset, metric, value + change)
            if subset in ("temporal", "static"):
                yield _number(
                    "video.shuffle_gap", split, view, subset, "top1_restricted", value + 0.1
                )
        for metric in ("top1", "top1_restricted")[: 2 if subset in ("temporal", "static") else 1]:
            yield _number("video.shuffle_gap", split, "gap", subset, metric, original - shuffled)
        if subset == "all":
            yield from _of_pairs_and_calibration(split, original, shuffled)
    keeps = 0.4 if method in ("+ order", "+ TIME") else 0.1
    for layer, view in itertools.product(range(LAYERS + 1), ("ordered", "shuffled")):
        start = 1.0 if view == "ordered" else 0.7
        value = max(0.125, start - (1 - keeps) * layer / LAYERS + random.normal(0, 0.01))
        subset = f"layer_{layer:02d}"
        yield _number("video.order_probe", "test", view, subset, "frame_accuracy", min(value, 1))
        yield _number("video.order_probe", "test", view, subset, "chance", 0.125)


def _of_pairs_and_calibration(
    split: str, original: float, shuffled: float
) -> Iterator[dict[str, Any]]:
    gap = original - shuffled
    for view, within in (
        ("original", 0.5 + gap / 2),
        ("shuffled", 0.5),
        ("reversed", 0.5 - gap / 2),
    ):
        yield _number("video.shuffle_gap", split, view, "pairs", "pair_top1", within)
    normalised = gap / (original - 0.05)
    yield _number("video.shuffle_gap", split, "gap", "all", "top1_normalised", normalised)
    for view, value in (("original", original), ("shuffled", shuffled)):
        yield _number("video.shuffle_gap", split, view, "all", "ece", 0.05)
        yield _number("video.shuffle_gap", split, view, "all", "nll", 3 * (1 - value))


def _number(
    evaluation: str, split: str, view: str, subset: str, metric: str, value: float
) -> dict[str, Any]:
    return {
        "evaluation": evaluation,
        "split": split,
        "view": view,
        "subset": subset,
        "metric": metric,
        "value": value,
        "n": 500,
    }


def top1(value: float, **changes: Any) -> list[dict[str, Any]]:
    return [{**_number("video.shuffle_gap", "test", "original", "all", "top1", value), **changes}]


def frame(*cells: list[dict[str, Any]]) -> pd.DataFrame:
    return stats.checked(pd.DataFrame(list(itertools.chain(*cells))))


def full(seeds: Sequence[int] = (0, 1, 2)) -> pd.DataFrame:
    return frame(*(cell(method, seed) for method in METHODS for seed in seeds))


def realistic() -> pd.DataFrame:
    """A sweep as it looks half-way: a failure, a pending seed, and a second backbone on its way."""
    failed = {"state": "FAILED", "reason": "RuntimeError: loss is nan at step 120 <head_1 & 50%>"}
    cells = [cell(method, seed) for method in METHODS for seed in (0, 1, 2)]
    cells[4] = cell("+ order", 1, **failed)
    cells[9:12] = [cell("+ flow", seed, state="PENDING") for seed in (0, 1, 2)]
    for seed, (method, state) in itertools.product(
        (0, 1), (("baseline", "DONE"), ("+ TIME", "RUNNING"))
    ):
        cells.append(cell(method, seed, "Motionformer", state=state, sweep="backbones"))
    skipped = {"state": "SKIPPED", "reason": "needs frame tokens, which this backbone merges"}
    cells.append(cell("+ TIME", 0, "X-ViT", sweep="backbones", **skipped))
    return frame(*cells)


BACKBONES = ("TimeSformer", "Motionformer", "X-ViT")
VARIANTS = (
    "order weight: 0.3",
    "order weight: 3",
    "debias weight: 0.3",
    "debias weight: 3",
    "flow weight: 0.3",
    "flow weight: 3",
    "debias shuffle: per clip",
    "debias shuffle: no identity",
    "order frames: shuffled",
)


def union(seeds: Sequence[int] = (0, 1, 2)) -> pd.DataFrame:
    """The ablation, the backbones and the sensitivity sweep, finished, with their shared cells."""
    cells = [cell(method, seed) for method in METHODS for seed in seeds]
    for backbone, method, seed in itertools.product(BACKBONES, ("baseline", "+ TIME"), seeds):
        cells.append(cell(method, seed, backbone, sweep="backbones"))
    return pd.concat([frame(*cells), sensitivity(seeds)], ignore_index=True)


def sensitivity(seeds: Sequence[int] = (0, 1, 2)) -> pd.DataFrame:
    settings = [(m, f, "-") for m in ("baseline", "+ TIME") for f in ("4", "8", "16")]
    settings[4] = ("+ TIME", "8", "as released")
    settings += [("+ TIME", "8", variant) for variant in VARIANTS]
    cells = []
    for position, (method, frames, variant) in enumerate(settings):
        for seed in seeds:
            where: dict[str, Any] = {"sweep": "sensitivity", "frames": frames, "variant": variant}
            if frames == "8" and variant in ("-", "as released"):
                cells.append(cell(method, seed, **where))  # the ablation's own run
                continue
            numbers = list(_numbers(method, seed))
            for number in numbers:
                lower = number["view"] in ("original", "gap") and number["split"] == "test"
                number["value"] -= 0.006 * position * lower
            where["provenance"] = f"{PROVENANCE}, {frames} frames" if frames != "8" else PROVENANCE
            where["signature"] = signature(method, frames, variant, seed)
            cells.append(cell(method, seed, numbers=numbers, **where))
    return frame(*cells)


BASELINE = {"backbone": "TimeSformer", "method": "baseline"}
