"""Results of sweeps with any axes, as `bench.results.load` gives them."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd
from frames import _number, cell, frame, signature

Measured = Callable[[Mapping[str, str], int], float]


def numbers(original: float) -> list[dict[str, Any]]:
    """Of one run: three views of its whole split, and one class."""
    gap = original / 4
    views = {"original": original, "shuffled": original - gap, "gap": gap}
    return [
        _number("video.shuffle_gap", "test", view, subset, "top1", value)
        for view, value in views.items()
        for subset in ("all", "class: Moving up")
    ]


def run(
    name: str, labels: Mapping[str, str], seed: int, value: float | None, **changes: Any
) -> list[dict[str, Any]]:
    """The rows of one run; without a value those of one that failed."""
    named = {"backbone": None, "method": None, **labels}
    return cell(
        seed=seed,
        state="FAILED" if value is None else "DONE",
        reason="ERROR: stopped" if value is None else "",
        numbers=[] if value is None else numbers(value),
        **{
            "sweep": name,
            "signature": signature(name, *labels.items(), seed),
            "evaluations": "video.shuffle_gap",
            "axes": json.dumps({axis: [] for axis in labels}),
            **named,
            **changes,
        },
    )


def grid(
    name: str, axes: Mapping[str, Sequence[str]], seeds: Sequence[int], value: Measured
) -> pd.DataFrame:
    """All cells of a full grid."""
    cells = [dict(zip(axes, labels, strict=True)) for labels in itertools.product(*axes.values())]
    order = json.dumps(axes)
    return frame(
        *(
            run(name, labels, seed, value(labels, seed), axes=order)
            for labels in cells
            for seed in seeds
        )
    )


_README = {
    "backbone": ["TimeSformer"],
    "method": ["baseline", "+ order"],
    "weight": ["-", "0.5", "1"],
}


def readme() -> pd.DataFrame:
    """README's example: `weight` applies to + order alone."""
    cells = [
        {"backbone": "TimeSformer", "method": "baseline", "weight": "-"},
        {"backbone": "TimeSformer", "method": "+ order", "weight": "0.5"},
        {"backbone": "TimeSformer", "method": "+ order", "weight": "1"},
    ]
    return frame(
        *(
            run("mine", labels, seed, 0.4 + 0.1 * k + 0.01 * seed, axes=json.dumps(_README))
            for k, labels in enumerate(cells)
            for seed in (0, 1, 2)
        )
    )
