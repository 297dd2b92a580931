"""The ablation shows whether its losses were learned, and what a scale leaves out."""

from __future__ import annotations

from typing import Any

import pandas as pd
from frames import METHODS, cell, frame, full, top1

from bench.results import TRAINING
from reports import table
from reports.tables import ablation, main_result


def trained(**objectives: dict[str, float]) -> list[dict[str, Any]]:
    """The rows of what `objectives` logged (`__` stands for a dot), after a measured number."""
    rows = [
        {
            "evaluation": TRAINING, "split": "train", "view": name.replace("__", "."), "subset": "all",
            "metric": metric, "value": value, "n": 75, "provenance": "training",
        }
        for name, found in objectives.items()
        for metric, value in found.items()
    ]  # fmt: skip
    return [*top1(0.5), *rows]


def guessed(accuracy: float, majority: float, error: float = 0.01) -> dict[str, float]:
    return {"accuracy": accuracy, "majority": majority, "standard_error": error, "loss": 2.0}


def results() -> pd.DataFrame:
    flow, order = guessed(0.152, 0.149), guessed(0.9, 0.125)
    debias = {"confidence": 0.11, "loss": 3.0}
    return frame(
        cell("baseline", numbers=trained(classify={"accuracy": 0.6})),
        cell("+ order", numbers=trained(video__order=order)),
        cell("+ debias", numbers=trained(video__debias=debias)),
        cell("+ flow", numbers=trained(video__flow=flow)),
        cell("+ flow", 1, numbers=trained(video__flow=guessed(0.2, 0.149))),
        cell("+ TIME", numbers=trained(video__order=order, video__debias=debias, video__flow=flow)),
    )


def test_each_loss_stands_beside_its_majority_rate() -> None:
    built = ablation.build(results())
    heads = [(c.group, c.name) for c in built.columns[-4:]]
    assert heads == [
        (f"{name}, training", what)
        for name in ("video.flow", "video.order")
        for what in ("accuracy", "majority")
    ]
    rows = {row.labels[1]: [c.text for c in row.cells[-4:]] for row in built.rows}
    assert rows["baseline"] == rows["+ debias"] == [table.DASH] * 4
    assert rows["+ order"] == [table.DASH, table.DASH, "90.0", "12.5"]
    assert rows["+ flow"][0].startswith("17.6 ± ") and rows["+ TIME"][:2] == ["15.2", "14.9"]
    assert not any("training" in column for _, column, _ in built.holes)


def test_what_did_not_learn_is_named() -> None:
    notes = [note for note in ablation.build(results()).notes if "did not learn" in note]
    assert len(notes) == 1
    assert "did not learn in TimeSformer + flow (seed 0), TimeSformer + TIME (seed 0):" in notes[0]
    (confidence,) = (n for n in ablation.build(results()).notes if "video.debias" in n)
    assert "11.0 in TimeSformer + debias, 11.0 in TimeSformer + TIME" in confidence


def test_results_of_before_have_the_table_of_before() -> None:
    assert not any("training" in column.group for column in ablation.build(full()).columns)


def test_what_is_left_out_is_said_in_the_tables_that_show_it() -> None:
    why = "without video.flow (frames of 24 pixels are too small)"
    rows = frame(
        *(cell(m, left_out=why if m == "+ TIME" else "") for m in METHODS if m != "+ flow"),
        cell("+ flow", state="SKIPPED", reason=f"{why}: the run of TimeSformer / baseline"),
    )
    for module in (ablation, main_result):
        assert f"+ TIME at scale mini is {why}." in module.build(rows).notes
    built = ablation.build(rows)
    (flow,) = (row for row in built.rows if row.labels[1] == "+ flow")
    assert flow.cells[1].text == table.DASH and why in flow.cells[1].reason
    assert not built.holes
