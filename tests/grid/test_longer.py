"""`train.longer`: schedules as long as another method's, by a factor that the scale knows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from makers import ROOT

from bench.config.mistakes import Mistakes
from bench.grid.plan import Cell, plan

SCALE = {
    "base": {
        "data": {"name": "mini_ssv2", "train": 24, "tune": 12, "test": 12},
        "input": {"frames": 4, "size": 16},
        "model": {"patch": 8, "dim": 16, "depth": 1, "heads": 2},
        "train": {"epochs": 10, "batch": 8, "milestones": [4, 8]},
    },
    "longer": {"as + TIME": {"timesformer": 1.92}},
}
NAMED = {"baseline": {}, "equal": {"train.longer": "as + TIME"}}


def cells(
    folder: Path, methods: Any, *settings: str, backbone: str = "timesformer", **scale: Any
) -> dict[str, Cell]:
    (folder / "scales").mkdir(exist_ok=True)
    (folder / "scales/tiny.yaml").write_text(json.dumps(SCALE | scale))
    path = folder / "sweep.yaml"
    base = {"model.name": backbone, "objectives": {"classify": {}}}
    path.write_text(json.dumps({"base": base, "axes": {"method": methods}}))
    return {cell.labels["method"]: cell for cell in plan(path, "tiny", settings).cells}


def test_it_is_the_run_of_so_many_epochs(tmp_path: Path) -> None:
    found = cells(tmp_path, NAMED | {"twice": {"train.longer": 2}})
    assert (found["equal"].config.train.epochs, found["equal"].skip) == (19, None)
    assert found["equal"].config.train.milestones == (8, 15)
    assert found["twice"].config.train.epochs == 20
    by_hand = {"by hand": {"train.epochs": 19, "train.milestones": [8, 15]}}
    (plain,) = cells(tmp_path, by_hand).values()
    assert plain.signature == found["equal"].signature


def test_set_changes_what_it_is_a_multiple_of(tmp_path: Path) -> None:
    found = cells(tmp_path, NAMED, "train.epochs=50")
    assert [cell.config.train.epochs for cell in found.values()] == [50, 96]
    with pytest.raises(Mistakes, match=r"--set train.longer: is written by axes.method"):
        cells(tmp_path, NAMED, "train.longer=3")
    found = cells(tmp_path, {"one": {}}, "train.longer=3")
    assert found["one"].config.train.epochs == 30


def test_a_backbone_that_the_scale_says_nothing_of_is_skipped(tmp_path: Path) -> None:
    found = cells(tmp_path, NAMED, backbone="xvit")
    assert found["baseline"].skip is None
    why = found["equal"].skip
    assert why and "the scale tiny does not say" in why and "xvit: 2.0" in why
    assert found["equal"].signature != found["baseline"].signature  # it is not that run


def test_mistakes_come_together_with_their_places(tmp_path: Path) -> None:
    wrong = {"as + TIME": {"timesformr": 2, "xvit": -1}, "other": 3}
    with pytest.raises(Mistakes) as caught:
        cells(tmp_path, {"a": {"train.longer": 0}, "b": {"train.longer": [2]}}, longer=wrong)
    text = str(caught.value)
    for part in (
        "longer.as + TIME: unknown backbone 'timesformr'; did you mean 'timesformer'?",
        "longer.as + TIME.xvit: must be a factor above 0",
        "longer.other: must map backbones to factors, got 3",
        "axes.method.a.train.longer: must be a factor",
        "axes.method.b.train.longer: must be a factor",
    ):
        assert part in text
    with pytest.raises(Mistakes, match=r"epochs: .*1000000"):
        cells(tmp_path, {"a": {"train.longer": 1000, "train.epochs": 10_000}})


@settings(deadline=None, max_examples=30)
@given(epochs=st.integers(1, 1000), factor=st.floats(0.01, 1000))
def test_any_factor_gives_at_least_one_epoch(
    tmp_path_factory: pytest.TempPathFactory, epochs: int, factor: float
) -> None:
    folder = tmp_path_factory.getbasetemp() / "longer"
    folder.mkdir(exist_ok=True)
    (cell,) = cells(folder, {"a": {"train.longer": factor}}, f"train.epochs={epochs}").values()
    assert cell.config.train.epochs == max(1, round(epochs * factor))


@pytest.mark.parametrize("scale", ["smoke", "mini", "study", "paper"])
def test_every_scale_knows_how_long_time_takes(scale: str) -> None:
    found = plan(ROOT / "sweeps/backbones.yaml", scale).cells
    epochs = {(c.labels["backbone"], c.labels["method"]): c.config.train.epochs for c in found}
    for backbone in ("TimeSformer", "Motionformer", "X-ViT"):
        ratio = epochs[backbone, "baseline, equal compute"] / epochs[backbone, "+ TIME"]
        assert 1.8 <= ratio <= 2.2
    assert all("does not say" not in (cell.skip or "") for cell in found)
