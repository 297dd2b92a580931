"""What tables rank, and what they do not: no direction without a better end, no best among backbones or at a floor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import product

import pandas as pd
import pytest
from frames import cell, frame, full, top1, union

from bench import find
from reports import stats, table
from reports.tables import ablation, background_shift, backgrounds_leaderboard, main_result


@pytest.mark.parametrize("name", find.names("table"))
def test_no_order_of_frames_but_the_original_has_a_better_end(name: str) -> None:
    """Nor has a confidence: to be sure is good where one is right."""
    for results in (full(), union()):
        built = find.load("table", name).build(results)
        several = built.values() if isinstance(built, Mapping) else (built,)
        for column in (column for item in several for column in item.columns):
            neither = ("Shuffled", "Reversed", "Still", "confidence")
            if any(word in column.full_heading for word in neither):
                assert not column.better, column.full_heading


def bold(built: table.Table, heading: str) -> set[tuple[str, ...]]:
    return {
        built.rows[i].labels
        for i, j in table.best(built)
        if built.columns[j].heading.startswith(heading)
    }


def of_backbones(**provenance: str) -> pd.DataFrame:
    values = {"TimeSformer": (0.5, 0.6), "X-ViT": (0.9, 0.8)}
    cells = [
        cell(
            method,
            seed,
            backbone,
            numbers=top1(value + 0.001 * value * seed),
            provenance=provenance.get(method, backbone),
        )
        for backbone, found in values.items()
        for method, value in zip(("baseline", "+ TIME"), found, strict=True)
        for seed in range(3)
    ]
    return frame(*cells)


def test_each_backbone_has_a_best_of_its_own() -> None:
    """Also where all of one were shown other clips than all of the other."""
    best = {("TimeSformer", "+ TIME"), ("X-ViT", "baseline")}
    built = main_result.build(of_backbones())
    assert bold(built, "Top-1") == best
    assert not any("no best is marked" in note for note in table.notes(built))


def test_a_backbone_whose_rows_were_made_differently_has_none() -> None:
    mixed = of_backbones()
    other = (mixed["backbone"] == "X-ViT") & (mixed["method"] == "+ TIME")
    built = main_result.build(mixed.assign(provenance=mixed["provenance"].mask(other, "other")))
    assert bold(built, "Top-1") == {("TimeSformer", "+ TIME")}
    (note,) = [note for note in table.notes(built) if "no best is marked" in note]
    assert note.endswith("in: Top-1 ↑ of X-ViT.")


def test_rows_that_are_not_labelled_by_backbone_are_ranked_together() -> None:
    built = main_result.build(of_backbones())
    together = replace(built, labels=("Data", "Method"))
    assert not bold(together, "Top-1") and bold(built, "Top-1")  # of two ways of showing clips
    same = main_result.build(of_backbones(baseline="one", **{"+ TIME": "one"}))
    assert bold(replace(same, labels=("Data", "Method")), "Top-1") == {("X-ViT", "baseline")}


def test_complete_numbers_only() -> None:
    failed = cell("+ TIME", 1, state="FAILED", reason="boom")
    best = bold(ablation.build(frame(cell("baseline"), cell("+ TIME"), failed)), "Original")
    assert not best


def test_told_apart_by_the_seeds_it_must_be() -> None:
    """A lead that the next seed may turn round is none, however large, and one seed says nothing of it."""
    values = {"baseline": (0.5, 0.6, 0.7), "+ TIME": (0.9, 0.61, 0.75)}
    cells = [
        cell(m, k, numbers=top1(v)) for m, found in values.items() for k, v in enumerate(found)
    ]
    assert not bold(main_result.build(frame(*cells)), "Top-1")
    one = frame(cell("baseline", numbers=top1(0.1)), cell("+ TIME", numbers=top1(0.9)))
    assert not bold(main_result.build(one), "Top-1")


def challenge(robust: dict[str, int], of: int = 450) -> pd.DataFrame:
    """The Backgrounds Challenge of a ViT with each method, and one variant, so that both tables show it."""
    cells = []
    for (method, count), seed in product(robust.items(), range(3)):
        rows = [
            {"evaluation": evaluation, "split": "test", "view": view, "subset": "all",
             "metric": "top1", "value": value, "n": of}
            for evaluation, view, value in (
                ("image.background_challenge", "challenge", count / of * (1 + 0.0001 * seed)),
                ("image.background_shift", "original", 0.5),
            )
        ]  # fmt: skip
        cells.append(
            cell(method, seed, "ViT", numbers=rows, sweep="background", data="mini_imagenet9")
        )
    return frame(*cells)


@pytest.mark.parametrize(("count", "ranks"), [(0, False), (1, False), (3, False), (4, True)])
def test_a_few_foregrounds_are_no_best(count: int, ranks: bool) -> None:
    """Of 450: the normal interval of three reaches 0, that of four does not."""
    results = challenge({"baseline": count, "+ TIME": 0})
    built = background_shift.build(results)
    assert bold(built, "Challenge") == ({("ViT", "baseline")} if ranks else set())
    assert any("not told from none" in note and "Challenge" in note for note in table.notes(built))
    board = backgrounds_leaderboard.build(results)
    assert bool(bold(board, "Challenge")) == ranks


def test_the_leaderboard_is_not_sorted_by_what_is_at_the_floor() -> None:
    names = {}
    for gap in (0.1, 0.3):
        results = challenge({"baseline": 3, "+ TIME": 1, "+ order": 40})
        gaps = {"baseline": gap, "+ TIME": 0.2, "+ order": 0.9}
        shift = results[results["view"] == "original"]
        shift = shift.assign(view="bg_gap", value=shift["method"].map(gaps))
        board = backgrounds_leaderboard.build(stats.checked(pd.concat([results, shift])))
        names[gap] = [row.labels[1] for row in board.rows if row.labels[0] == "measured"]
    assert names == {
        0.1: ["ViT, + order", "ViT, baseline", "ViT, + TIME"],
        0.3: ["ViT, + order", "ViT, + TIME", "ViT, baseline"],
    }
