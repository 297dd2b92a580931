"""`bench.evaluate.evaluate`: a module in memory on labelled videos, and docs/evaluate-any-model.md, run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from makers import ROOT, smoke_config
from torch import Tensor, nn

from bench import find, results
from bench.evaluate import evaluate

GAP, ARROW, GRAIN = "video.shuffle_gap", "video.arrow_of_time", "video.shuffle_grain"
SHOWN: dict[str, Any] = {"frames": 4, "size": 16, "mean": [0.5] * 3, "std": [0.5] * 3}


class Averaging(nn.Module):
    """Logits of the mean frame: it cannot see order."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.head = nn.Linear(3 * 16 * 16, classes)

    def forward(self, clip_BTCHW: Tensor) -> Tensor:
        return self.head(clip_BTCHW.mean(1).flatten(1))


@pytest.fixture
def shards(data_dir: Path) -> Path:
    data = smoke_config("baseline").data
    return Path(find.load("source", data.name).locate(data.config, data_dir))


def classes_of(shards: Path) -> int:
    from bench.data.access import open_data

    return open_data(shards).spec.num_classes


def test_a_module_in_memory(shards: Path, tmp_path: Path) -> None:
    model = Averaging(classes_of(shards))
    frame = evaluate(model, shards, [GAP, GRAIN], shown=SHOWN, runs=tmp_path)
    assert set(frame["evaluation"]) == {GAP, GRAIN}
    gap = frame[(frame["evaluation"] == GAP) & (frame["view"] == "gap")]
    assert len(gap) and (gap[gap["metric"] == "top1"]["value"].abs() < 1e-12).all()
    kept = results.load(tmp_path)
    assert set(kept["model"]) == {"Averaging"} and len(kept) == len(frame)
    again = evaluate(model, shards, {GAP: {"permutations": 2}}, shown=SHOWN)
    assert isinstance(again, pd.DataFrame) and set(again["evaluation"]) == {GAP}


def test_order_cannot_be_told_by_who_does_not_see_it(shards: Path) -> None:
    frame = evaluate(Averaging(classes_of(shards)), shards, {ARROW: {"clips": 24}}, shown=SHOWN)
    by_metric = frame.groupby("metric")["value"]
    assert (by_metric.get_group("accuracy") == 0.5).all()
    assert (by_metric.get_group("ci_low") < 0.5).all() and (
        by_metric.get_group("ci_high") > 0.5
    ).all()


@pytest.mark.parametrize(
    ("shown", "words"),
    [
        (None, "how the module sees clips"),
        ({"frames": 4}, "size"),
        ({**SHOWN, "classes": ["one"]}, "1 classes are named"),
    ],
)
def test_what_is_not_said_is_asked_for(shown: Any, words: str, shards: Path) -> None:
    with pytest.raises(ValueError, match=words):
        evaluate(Averaging(classes_of(shards)), shards, [GAP], shown=shown)


def test_a_string_describes_itself(shards: Path) -> None:
    with pytest.raises(ValueError, match="only an nn"):
        evaluate("runs/nothing", shards, [GAP], shown=SHOWN)
    with pytest.raises(ValueError, match="neither a run directory nor a checkpoint"):
        evaluate("runs/nothing", shards, [GAP])


def test_the_example_of_the_documentation(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it stands there, with the folder of videos that is at hand."""
    text = (ROOT / "docs/evaluate-any-model.md").read_text()
    [code] = re.findall(r"```python\n(.*?)```", text, flags=re.S)
    assert code.count('"my-videos"') == 1
    monkeypatch.chdir(tmp_path)
    scope: dict[str, Any] = {}
    exec(code.replace('"my-videos"', repr(str(shards))), scope)
    assert set(scope["frame"]["evaluation"]) == {GAP, ARROW}
    assert list((tmp_path / "runs/evaluated").glob("*.json"))
