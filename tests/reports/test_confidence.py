"""The table of confidence and calibration, from numbers made by hand, each in its own unit."""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np
import pandas as pd
import pytest
from frames import cell, frame, full
from rendered import by_label, from_csv, from_html, from_json, from_markdown, from_tex

from reports import formats, hypertext, latex, table
from reports.tables import confidence

NLL = {"baseline": (1.234, 1.301), "+ TIME": (1.011, 1.104)}
ECE = {"baseline": (0.123, 0.131), "+ TIME": (0.042, 0.038)}


def results() -> pd.DataFrame:
    def rows(method: str, seed: int) -> list[dict[str, Any]]:
        time = method == "+ TIME"
        found = {
            ("original", "confidence"): 0.7 - 0.05 * time,
            ("shuffled", "confidence"): 0.69 - 0.39 * time,
            ("original", "ece"): ECE[method][seed],
            ("original", "nll"): NLL[method][seed],
            ("shuffled", "ece"): 0.9,
            ("shuffled", "nll"): 9.0,
        }
        where = {"evaluation": "video.shuffle_gap", "split": "test", "subset": "all", "n": 400}
        return [{**where, "view": v, "metric": m, "value": x} for (v, m), x in found.items()]

    return frame(*(cell(m, s, numbers=rows(m, s)) for m in NLL for s in (0, 1)))


def shown(built: table.Table, method: str) -> dict[str, table.TableCell]:
    found = by_label(built, "TimeSformer", method)
    return {name.partition(" ")[2]: cell for name, cell in found.items()}


def test_each_number_in_its_unit() -> None:
    cells = shown(confidence.build(results()), "+ TIME")
    assert cells["test, confidence: Original"].text == "65.0 ± 0.0"
    assert cells["test, confidence: Shuffled"].text == "30.0 ± 0.0"
    assert cells["test, original clips: ECE ↓"].text == "4.0 ± 0.3"
    nll = cells["test, original clips: NLL ↓"]
    assert nll.text == "1.06 ± 0.07"
    assert nll.value == pytest.approx(np.mean(NLL["+ TIME"]))
    assert nll.std == pytest.approx(np.std(NLL["+ TIME"], ddof=1))
    assert nll.seeds == ((0, pytest.approx(1.011)), (1, pytest.approx(1.104)))


def test_changes_are_paired_and_written_alike() -> None:
    cells = shown(confidence.build(results()), "+ TIME")
    paired = np.array(NLL["+ TIME"]) - NLL["baseline"]
    change = cells["Change to baseline: NLL ↓"]
    assert change.text == f"{table.MINUS}0.21 ± 0.02"
    assert change.value == pytest.approx(paired.mean())
    assert change.std == pytest.approx(paired.std(ddof=1))
    assert cells["Change to baseline: Shuffled confidence"].text == f"{table.MINUS}39.0 ± 0.0"
    assert cells["Change to baseline: ECE ↓"].text == f"{table.MINUS}8.7 ± 0.8"


def test_the_caption_says_what_is_evidence() -> None:
    caption = confidence.build(results()).caption
    assert "by construction" in caption and "independent evidence" in caption


def test_every_format_shows_the_same_and_json_says_the_unit() -> None:
    built = confidence.build(results())
    rows = from_csv(formats.csv(built))
    assert from_markdown(formats.markdown(built)) == rows
    assert from_json(formats.json(built)) == rows
    assert from_html(hypertext.html(built)) == rows
    assert from_tex(latex.latex(built)) == rows
    document = json.loads(formats.json(built))
    units = {c["name"]: c.get("unit", document["unit"]) for c in document["columns"]}
    assert units["NLL"] == "nats" and units["ECE"] == "percent"
    assert re.search(r"seed 0: 1\.01\b", hypertext.html(built))


def test_results_of_before_have_confidence_alone() -> None:
    rows = full()
    built = confidence.build(rows[~rows["metric"].isin(["ece", "nll"])])
    assert [c.name for c in built.columns[1:3]] == ["Original", "Shuffled"]
    assert not built.holes and confidence.NONE in built.notes
    assert not any("ECE" in column.name for column in built.columns)
