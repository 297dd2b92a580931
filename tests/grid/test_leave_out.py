"""What a scale or a sweep leaves out: which cells run without it, which are skipped, and how to undo it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from makers import ROOT

from bench.config import signature
from bench.config.mistakes import Mistakes
from bench.grid.plan import Cell, plan

SCALE = {
    "base": {
        "data": {"name": "mini_ssv2", "train": 24, "tune": 12, "test": 12},
        "input": {"frames": 4, "size": 16},
        "model": {"patch": 8, "dim": 16, "depth": 1, "heads": 2},
        "train": {"epochs": 1, "batch": 8},
    }
}
LOSSES: dict[str, Any] = {"video.order": {}, "video.debias": {}, "video.flow": {}}
METHODS: dict[str, Any] = {
    "+ flow": {"objectives": {"video.flow": {}}},
    "baseline": {},
    "+ TIME": {"objectives": LOSSES},
    "heavier": {"objectives": LOSSES | {"video.flow": {"weight": 3.0}}},
}
REASON = "frames of 16 pixels\n  are too small"
SAID = "without video.flow (frames of 16 pixels are too small)"


def cells(
    folder: Path, *settings: str, sweep: Any = None, scale: Any = None, methods: Any = METHODS
) -> dict[str, Cell]:
    """By method, of a scale and a sweep with these `leave_out`."""
    (folder / "scales").mkdir(exist_ok=True)
    (folder / "scales/tiny.yaml").write_text(json.dumps({**SCALE, "leave_out": scale}))
    document = {
        "base": {
            "model.name": "timesformer",
            "objectives": {"classify": {}},
            "evaluations": {"video.shuffle_gap": {}},
        },
        "axes": {"method": methods},
        "leave_out": sweep,
    }
    path = folder / "sweep.yaml"
    path.write_text(json.dumps(document))
    return {cell.labels["method"]: cell for cell in plan(path, "tiny", settings).cells}


@pytest.mark.parametrize("where", ["scale", "sweep"])
def test_cells_run_without_it_and_those_that_are_another_are_skipped(
    tmp_path: Path, where: str
) -> None:
    found = cells(tmp_path, **{where: {"video.flow": REASON}})
    assert list(found) == list(METHODS)  # all of them, in their order
    plain, full = found["baseline"], found["+ TIME"]
    assert plain.skip is None and not plain.left_out
    assert full.skip is None and full.left_out == {"video.flow": " ".join(REASON.split())}
    assert set(full.config.objectives) == {"classify", "video.order", "video.debias"}
    assert full.signature == signature.signature(full.config)
    assert found["+ flow"].skip == f"{SAID}: the run of baseline"
    assert found["heavier"].skip == f"{SAID}: the run of + TIME"
    assert len({cell.signature for cell in found.values()}) == len(found)


def test_a_cell_that_asks_for_more_is_not_another(tmp_path: Path) -> None:
    """The same training, and another evaluation."""
    more = {"objectives": {"video.flow": {}}, "evaluations": {"video.shuffle_grain": {}}}
    found = cells(tmp_path, scale={"video.flow": REASON}, methods={"baseline": {}, "more": more})
    assert found["more"].skip is None and found["more"].signature == found["baseline"].signature


def test_evaluations_are_left_out_too(tmp_path: Path) -> None:
    (cell,) = cells(
        tmp_path, scale={"video.shuffle_gap": "slow"}, methods={"baseline": {}}
    ).values()
    assert not cell.config.evaluations and cell.left_out == {"video.shuffle_gap": "slow"}


def test_of_nothing_but_what_is_left_out_there_is_nothing_to_train(tmp_path: Path) -> None:
    found = cells(tmp_path, scale={name: "no" for name in ("classify", *LOSSES)})
    assert found["baseline"].skip == "nothing to train is left without classify (no)"


@pytest.mark.parametrize("sweep", [{"video.flow": None}, None])
def test_a_sweep_and_a_setting_put_it_back(tmp_path: Path, sweep: Any) -> None:
    given = () if sweep else ("leave_out.video.flow=null",)
    found = cells(tmp_path, *given, scale={"video.flow": REASON}, sweep=sweep)
    assert all("video.flow" in found[name].config.objectives for name in ("+ flow", "+ TIME"))
    assert not any(cell.left_out for cell in found.values())
    assert found["+ TIME"].skip == (
        "video.flow: frames of 16 pixels are too small for flow labels (at least 64)"
    )


def test_a_setting_that_leaves_out_is_another_experiment(tmp_path: Path) -> None:
    cells(tmp_path)
    path = tmp_path / "sweep.yaml"
    changed = plan(path, "tiny", ["leave_out.video.debias=for now"])
    assert changed.overrides == {"leave_out": {"video": {"debias": "for now"}}}
    assert changed.name != plan(path, "tiny").name
    assert all("video.debias" not in cell.config.objectives for cell in changed.cells)


def test_all_mistakes_come_at_once(tmp_path: Path) -> None:
    with pytest.raises(Mistakes) as caught:
        cells(
            tmp_path,
            "objectives.video.order.weight=2",
            scale={"video.flwo": "why", "video.debias": "  ", "video.order": "no"},
            sweep=["video.flow"],
            methods={**METHODS, "label": {"leave_out": {"video.flow": "no"}}},
        )
    text = str(caught.value)
    for part in (
        "tiny.yaml: leave_out.video.flwo: no objective or evaluation has this name; did you mean 'video.flow'",
        "tiny.yaml: leave_out.video.debias: say in words why",
        "sweep.yaml: leave_out: must map components to reasons",
        "--set objectives.video.order: is left out (no); --set leave_out.video.order=null puts it back",
        "axes.method.label.leave_out: unknown key",
    ):
        assert part in text, f"{part}\n\n{text}"


def test_the_suite_trains_no_flow_that_cannot_be_learned() -> None:
    for scale in ("smoke", "mini"):
        found = {c.labels["method"]: c for c in plan(ROOT / "sweeps/ablation.yaml", scale).cells}
        assert found["+ flow"].skip and "the run of TimeSformer / baseline" in found["+ flow"].skip
        assert found["+ TIME"].skip is None and set(found["+ TIME"].left_out) == {"video.flow"}
    assert not any(cell.left_out for cell in plan(ROOT / "sweeps/ablation.yaml", "paper").cells)


@pytest.mark.parametrize("scale", ["mini", "paper"])
def test_the_two_ablations_have_all_combinations_of_the_losses(scale: str) -> None:
    """And share the runs that they have in common."""
    first, rest = (
        plan(ROOT / f"sweeps/{name}.yaml", scale, ["seeds=[0]"]).cells
        for name in ("ablation", "ablation_full")
    )
    asked = {
        frozenset({*cell.config.objectives, *cell.left_out} - {"classify"})
        for cell in (*first, *rest)
    }
    assert len(asked) == 8
    new = {c.signature for c in rest if not c.skip} - {c.signature for c in first if not c.skip}
    skipped = {cell.labels["method"] for cell in rest if cell.skip}
    if scale == "paper":
        assert len(new) == 3 and not skipped
    else:
        assert not new and skipped == {"+ flow", "+ order + flow", "+ debias + flow"}
