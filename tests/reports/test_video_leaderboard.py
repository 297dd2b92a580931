"""The leaderboard of video models, from files as `bench.evaluate` keeps them, with known contents."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from bench import find, results
from reports import build, published, stats, style, table
from reports.tables import video_leaderboard as board

NAME = "video_leaderboard"
GAP, ARROW, PROBE = board.EVALUATIONS
CLIPS = "8 frames, segment midpoints, short side 1 x 224, 1 temporal view x 3 crops"
PROVENANCE = f"opencv 4.12; raw; {CLIPS}"
CLASSES = {"all": 10, "temporal": 6, "static": 4}


def row(
    split: str, view: str, subset: str, metric: str, value: float, n: int = 10
) -> dict[str, Any]:
    return {
        "split": split, "view": view, "subset": subset, "metric": metric, "value": value, "n": n
    }  # fmt: skip


def gap_rows(
    original: float, shuffled: float, split: str, subsets: tuple[str, ...]
) -> Iterator[Any]:
    views = {"original": original, "shuffled": shuffled, "reversed": 0.3, "single_frame": 0.2}
    for subset in subsets:
        for view, value in views.items():
            yield row(split, view, subset, "top1", value, CLASSES[subset])
            yield row(split, view, subset, "confidence", 0.9, CLASSES[subset])
        yield row(split, "gap", subset, "top1", original - shuffled, CLASSES[subset])


def arrow_rows(right: float, last: str, split: str) -> Iterator[Any]:
    shares = {"layer_00": 0.5, "layer_01": 0.9, last: right, "temporal": right, "static": 0.5}
    for subset, share in shares.items():
        numbers = {
            "accuracy": share, "chance": 0.5, "ci_low": share - 0.1, "ci_high": share + 0.1
        }  # fmt: skip
        for metric, value in numbers.items():
            yield row(split, "direction", subset, metric, value)


def probe_rows(split: str) -> Iterator[Any]:
    for layer, view in itertools.product(range(3), ("ordered", "shuffled")):
        for metric, value in (("frame_accuracy", 0.5 - 0.1 * layer), ("chance", 0.125)):
            yield row(split, view, f"layer_{layer:02d}", metric, value)


def model(
    runs: Path,
    name: str,
    evaluation: str = GAP,
    *,
    original: float = 0.6,
    shuffled: float = 0.4,
    arrow: float = 0.5,
    **changes: Any,
) -> None:
    """One file of `runs/evaluated/`; `changes` to what it says."""
    split, last = changes.pop("split", "val"), changes.pop("last", "final")
    subsets = changes.pop("subsets", tuple(CLASSES))
    rows = {
        GAP: gap_rows(original, shuffled, split, subsets),
        ARROW: arrow_rows(arrow, last, split),
        PROBE: probe_rows(split),
    }
    folder = runs / "evaluated"
    folder.mkdir(parents=True, exist_ok=True)
    found = {
        "model": name,
        "evaluation": evaluation,
        "data": "ssv2",
        "data_digest": "ab" * 16,
        "provenance": PROVENANCE,
        "made_by": {"sha256": "0" * 64},
        "official": False,
        "rows": list(rows[evaluation]),
        **changes,
    }
    (folder / f"{len(list(folder.iterdir())):03d}.json").write_text(json.dumps(found))


def load(runs: Path) -> pd.DataFrame:
    return stats.checked(results.load(runs))


def built(runs: Path) -> table.Table:
    return find.load("table", NAME).build(load(runs))


def cells(shown: table.Table, model: str) -> dict[str, table.TableCell]:
    """By column, of the only row of a model."""
    (found,) = [row for row in shown.rows if row.labels[2] == model]
    return {
        column.full_heading: cell for column, cell in zip(shown.columns, found.cells, strict=True)
    }


def column(shown: table.Table, label: str) -> list[str]:
    return [row.labels[shown.labels.index(label)] for row in shown.rows]


def test_every_number_stands_in_its_column(tmp_path: Path) -> None:
    for evaluation in board.EVALUATIONS:
        model(tmp_path, "mine", evaluation, original=0.7, shuffled=0.25, arrow=0.8)
    shown = cells(built(tmp_path), "mine")
    for group in ("All classes", "Temporal classes", "Static classes"):
        assert [shown[f"{group}: {name}"].text for name in ("Original", "Shuffled", "Gap")] == [
            "70.0", "25.0", "45.0"
        ]  # fmt: skip
    assert shown["All classes: Reversed"].text == "30.0"
    assert shown["All classes: Still"].text == "20.0"
    assert shown["Arrow of time: All"].text == "80.0 (70.0–90.0)"
    assert shown["Arrow of time: Static"].text == "50.0 (40.0–60.0)"
    assert shown["Order: Last layer"].text == "30.0 (chance 12.5)"
    assert not built(tmp_path).holes


def test_a_model_that_sees_no_order_stays_at_chance_within_its_interval(tmp_path: Path) -> None:
    model(tmp_path, "frames", ARROW, arrow=0.5, last="logits")  # of one that gives logits only
    (entry,) = [entry for entry in board.entries(load(tmp_path)) if entry.source == board.MEASURED]
    low, high = entry.intervals["arrow"]
    assert low < entry.chance["arrow"] < high
    assert entry.cells["arrow"].value == entry.chance["arrow"] == 50.0


def test_published_rows_stand_beside_measured_ones_of_their_data_only(tmp_path: Path) -> None:
    model(tmp_path, "between", original=0.6, shuffled=0.3)
    model(tmp_path, "elsewhere", data="mini_ssv2")
    model(tmp_path, "another split", split="test")
    shown = built(tmp_path)
    of_group = {
        group: [row.labels[2] for row in shown.rows if row.labels[0] == group]
        for group in dict.fromkeys(column(shown, "Data"))
    }
    assert of_group == {
        "mini_ssv2, val": ["elsewhere"],
        "ssv2, test": ["another split"],
        "ssv2, val": [
            "TimeSformer, + TIME", "between", "TimeSformer, baseline",
            "Motionformer, + TIME", "Motionformer, baseline", "X-ViT, + TIME", "X-ViT, baseline",
        ],
    }  # fmt: skip
    paper = cells(shown, "TimeSformer, + TIME")
    assert paper["Temporal classes: Gap"].text == "68.1"
    assert paper["Arrow of time: All"].text == table.DASH
    assert {cell.status for cell in paper.values()} == {"published"}
    assert sum("Rows 'published'" in note for note in shown.notes) == 2


def test_two_digests_of_a_data_set_are_two_groups(tmp_path: Path) -> None:
    model(tmp_path, "mine", data="videos")
    model(tmp_path, "mine", data="videos", data_digest="cd" * 16)
    shown = built(tmp_path)
    assert column(shown, "Data") == [f"videos (digest {d * 4}), val" for d in ("ab", "cd")]
    assert {row.cells[0].text for row in shown.rows} == {"60.0"}


def test_ways_of_showing_clips_are_rows_of_their_own(tmp_path: Path) -> None:
    model(tmp_path, "mine", data="videos")
    other = CLIPS.replace("8 frames", "16 frames")
    model(tmp_path, "mine", data="videos", provenance=f"opencv 4.12; raw; {other}")
    shown = built(tmp_path)
    assert sorted(column(shown, "Clips")) == sorted([CLIPS, other])
    assert not shown.holes and not table.best(shown)


def test_two_measurements_with_other_options_do_not_vanish(tmp_path: Path) -> None:
    model(tmp_path, "mine", data="videos")
    model(tmp_path, "mine", data="videos", original=0.9)
    cell = cells(built(tmp_path), "mine")["All classes: Original"]
    assert cell.hole and cell.text == table.DASH
    assert "evaluated/000, evaluated/001" in cell.reason


def test_what_was_not_asked_for_or_cannot_be_is_a_dash_with_a_reason(tmp_path: Path) -> None:
    model(tmp_path, "mine", data="videos", subsets=("all",))
    shown = built(tmp_path)
    found = cells(shown, "mine")
    assert found["Temporal classes: Gap"].reason == board.NO_CLASSES
    assert f"bench.evaluate {ARROW}" in found["Arrow of time: All"].reason
    assert found["Order: Last layer"].text == table.DASH
    assert not shown.holes


def test_a_part_of_each_class_stands_in_no_table(tmp_path: Path) -> None:
    model(tmp_path, "whole", data="videos")
    model(tmp_path, "part", data="videos", limit=5)
    shown = built(tmp_path)
    assert column(shown, "Model") == ["whole"]
    assert any("part (--limit 5)" in note for note in shown.notes)


def test_a_released_file_is_known_by_its_digest_whatever_it_is_called(tmp_path: Path) -> None:
    known = {file.file: file for file in published.table("main_result").checkpoints}
    whole = known["Motionformer_TIME.pyth"].sha256
    prefix = known["XViT.pyth"].sha256
    model(tmp_path, "renamed.pt", made_by={"sha256": whole})
    model(tmp_path, "some", made_by={"sha256": prefix + "f" * (64 - len(prefix))})
    model(tmp_path, "TimeSformer_TIME.pyth", made_by={"sha256": "1" * 64})
    model(tmp_path, "runs/0123", made_by={"signature": "0123"})
    shown = built(tmp_path)
    weights = dict(zip(column(shown, "Model"), column(shown, "Weights"), strict=True))
    assert (
        weights["renamed.pt"] == "released checkpoint of the TIME authors (Motionformer_TIME.pyth)"
    )
    assert weights["some"].endswith("(XViT.pyth, by 12 digits of its SHA-256)")
    assert weights["TimeSformer_TIME.pyth"] == (
        "not the TimeSformer_TIME.pyth of the TIME authors (sha256 11111111)"
    )
    assert weights["runs/0123"] == table.DASH


def test_two_files_of_one_name_are_two_rows(tmp_path: Path) -> None:
    for digest in ("1", "2"):
        model(tmp_path, "checkpoint.pth", data="videos", made_by={"sha256": digest * 64})
    shown = built(tmp_path)
    assert column(shown, "Weights") == ["sha256 11111111", "sha256 22222222"] and not shown.holes


@pytest.mark.parametrize("name", ["TimeSformer.pyth", "timesformer", "TimeSformer, baseline"])
def test_names_that_claim_to_be_a_released_file(name: str) -> None:
    (claimed,) = [c for c in published.table("main_result").checkpoints if c.is_named(name)]
    assert claimed.file == "TimeSformer.pyth"
    assert not claimed.is_file("") and not claimed.is_file(claimed.sha256[:12])
    assert claimed.is_file(claimed.sha256.upper())


def test_the_known_digests_are_six_different_ones() -> None:
    digests = [known.sha256 for known in published.table("main_result").checkpoints]
    assert len(set(digests)) == 6 and all(re.fullmatch(r"[0-9a-f]{12,64}", d) for d in digests)


def test_a_frame_of_before_there_were_digests(tmp_path: Path) -> None:
    model(tmp_path, "mine")
    old = load(tmp_path).drop(columns="weights_sha256")
    (entry,) = [e for e in board.entries(old) if e.source == board.MEASURED]
    assert entry.weights == table.DASH and entry.cells["all gap"].text == "20.0"


def test_it_is_on_the_page_of_models_alone(tmp_path: Path) -> None:
    model(tmp_path / "runs", "mine", data="videos")
    assert build.main(["--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "out")]) == 0
    (folder,) = [path for path in (tmp_path / "out").iterdir() if path.is_dir()]
    assert {path.name for path in folder.iterdir()} >= {f"{NAME}.md", f"{NAME}.csv", f"{NAME}.png"}


def drawn(runs: Path) -> tuple[Figure, str | None]:
    figure = Figure(dpi=100)
    with style.applied():
        caption = find.load("figure", NAME).draw(load(runs), figure)
        FigureCanvasAgg(figure).draw()
    return figure, caption


def test_the_figure_shows_gap_interval_and_chance(tmp_path: Path) -> None:
    for evaluation in (GAP, ARROW):
        model(tmp_path, "mine", evaluation, original=0.95, shuffled=0.5, arrow=0.8, data="videos")
    figure, caption = drawn(tmp_path)
    assert caption and "Wilson" in caption
    left, right = figure.axes
    assert [text.get_text() for text in left.texts] == ["gap 45.0"]
    assert [label.get_text() for label in left.get_yticklabels()] == [
        "mine\n8 frames, 1 temporal view x 3 crops"
    ]
    lines = [tuple(map(float, line.get_xdata())) for line in right.lines]
    assert (50.0, 50.0) in lines
    assert any(line == pytest.approx((70.0, 90.0)) for line in lines)


def test_texts_of_the_figure_are_inside_and_apart(tmp_path: Path) -> None:
    for place in range(3):
        name = f"a model of a very long name, {'x' * 60}, version {place}"
        model(tmp_path, name, original=0.3 * place + 0.35, shuffled=0.3)
        model(tmp_path, name, data="videos", split="test")
    figure, _ = drawn(tmp_path)
    texts = [text for axes in figure.axes for text in (*axes.texts, *axes.get_yticklabels())]
    boxes = [text.get_window_extent() for text in texts if text.get_text()]
    assert len(boxes) > 12
    for box in boxes:
        assert box.x0 >= -1 and box.x1 <= figure.bbox.x1 + 1
    for one, other in itertools.combinations(boxes, 2):
        across = min(one.x1, other.x1) - max(one.x0, other.x0)
        down = min(one.y1, other.y1) - max(one.y0, other.y0)
        assert across <= 2 or down <= 2
