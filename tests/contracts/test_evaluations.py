"""The rules of a measurement (`bench.task.EvaluationModule`)."""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path

import pytest
from makers import ROOT, context_of

from bench import find
from bench.config.science import RunConfig
from bench.evaluate.context import run_one
from bench.grid.plan import plan

NAMES = find.names("evaluation")
PLACE = ("split", "view", "subset", "metric")
COLUMNS = {*PLACE, "value", "n"}
SWEEPS = {"video": "ablation", "image": "background"}


@cache
def config_of(media: str) -> RunConfig:
    """A small model of this medium and the built-in data."""
    return plan(ROOT / f"sweeps/{SWEEPS[media]}.yaml", "smoke").cells[0].config


def reasons(name: str) -> dict[str, str | None]:
    """Why it cannot be asked, by medium."""
    options, skip = (
        find.load("evaluation", name).Config.tiny(),
        find.optional("evaluation", name, "skip"),
    )
    configs = {media: config_of(media) for media in SWEEPS}
    return {
        media: skip and skip(options, config.model_spec(), config.data_spec())
        for media, config in configs.items()
    }


@pytest.mark.parametrize("name", NAMES)
def test_its_rows_are_results_and_the_same_again(name: str, data_dir: Path) -> None:
    possible = [media for media, reason in reasons(name).items() if reason is None]
    assert possible, f"it can be asked of videos or of images: {reasons(name)}"
    context = context_of(config_of(possible[0]), data_dir)
    options = find.load("evaluation", name).Config.tiny()
    rows = run_one(name, options, context)
    assert rows, "run returns at least one row"
    for row in rows:
        assert row.keys() >= COLUMNS, f"a row has {sorted(COLUMNS)}"
        assert all(isinstance(row[k], str) for k in PLACE), f"{', '.join(PLACE)} are texts"
        assert isinstance(row["value"], float) and math.isfinite(row["value"]), "value is a number"
        assert isinstance(row["n"], int) and row["n"] > 0, "n counts samples"
    places = [tuple(row[k] for k in PLACE) for row in rows]
    assert len(places) == len(set(places)), f"no two rows have the same {', '.join(PLACE)}"
    assert run_one(name, options, context) == rows, "the same model and data give the same rows"


@pytest.mark.parametrize("name", NAMES)
def test_outputs_are_numbers_of_classes(name: str) -> None:
    outputs = find.optional("evaluation", name, "OUTPUTS")
    assert all(isinstance(count, int) and count > 1 for count in outputs), (
        "OUTPUTS are numbers of classes"
    )
