"""What a sink gets: of a run that has ended or goes on, and of results of bench.evaluate."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from recorded import copy_of, rows_of

from bench.config.mistakes import Mistake
from bench.export.find_records import records
from bench.export.record import EvaluatedRecord, Rewritten, RunRecord
from bench.store.result_files import Kind, read_result, write_result
from bench.store.rundir import RunDir, manifest_path


def test_another_way_to_show_a_model_is_another_record(evaluated: list[Path]) -> None:
    result = json.loads(evaluated[0].read_text())
    official = {**result, "official": True}
    other = {**result, "made_by": {**result["made_by"], "size": 224}}
    names = {EvaluatedRecord({Path(): found}).name for found in (result, official, other)}
    assert len(names) == 3
    labels = {**result, "made_by": {**result["made_by"], "labels": "by position"}}
    assert EvaluatedRecord({Path(): labels}).name in names


def test_a_name_from_a_file_is_no_path(evaluated: list[Path]) -> None:
    result = json.loads(evaluated[0].read_text())
    name = EvaluatedRecord({Path(): {**result, "model": "../../x/\n| [y](z)"}}).name
    assert Path(name).name == name and name.isprintable() and " " not in name


def test_a_row_without_a_value_is_a_mistake(
    run: RunDir, evaluated: list[Path], tmp_path: Path
) -> None:
    holed = copy_of(run, tmp_path)
    first = holed.evaluation(sorted(holed.measured())[0])
    result = first.read_result() or {}
    write_result(first.result, Kind.EVALUATION, _holed(result))
    with pytest.raises(ValueError, match=r"result\.json: has rows without a value"):
        RunRecord(holed)
    sent = tmp_path / "sent.json"
    write_result(sent, Kind.MODEL, _holed(read_result(evaluated[0], Kind.MODEL) or {}))
    mistakes: list[Mistake] = []
    assert records([str(sent)], tmp_path, mistakes) == []
    assert "sent.json: has rows without a value" in str(mistakes[0])


def _holed(result: dict[str, Any]) -> dict[str, Any]:
    first, *others = result["rows"]
    return {**result, "rows": [{**first, "value": None}, *others]}


def test_a_run_of_before_there_were_two_identities(run: RunDir, tmp_path: Path) -> None:
    old = copy_of(run, tmp_path)
    trained = {**(run.read_result() or {}), "rows": rows_of(run), "provenance": "as then"}
    old.result.write_text(json.dumps(trained))
    shutil.rmtree(old.evaluations)
    measured = RunRecord(old).evaluations()
    assert [e.label for e in measured] == list(dict.fromkeys(r["evaluation"] for r in rows_of(run)))
    assert [row for e in measured for row in e.rows] == rows_of(run)
    assert {(e.data, e.provenance) for e in measured} == {("mini_ssv2", "as then")}


def test_evaluations_of_one_name_are_told_apart_by_their_digest(
    run: RunDir, tmp_path: Path
) -> None:
    twice = copy_of(run, tmp_path)
    first = twice.evaluation(sorted(twice.measured())[0])
    second = twice.evaluation("video.arrow_of_time-00000000")
    shutil.copytree(first.path, second.path)
    write_result(second.result, Kind.EVALUATION, first.read_result() or {})
    labels = [evaluation.label for evaluation in RunRecord(twice).evaluations()]
    assert labels[:2] == ["video.arrow_of_time-00000000", first.path.name]
    assert labels[2:] == ["video.order_probe", "video.shuffle_gap"]


def test_results_of_one_evaluation_are_told_apart_by_their_digest(evaluated: list[Path]) -> None:
    results = {path: json.loads(evaluated[0].read_text()) for path in evaluated}
    labels = [evaluation.label for evaluation in EvaluatedRecord(results).evaluations()]
    assert labels == [f"video.arrow_of_time-{path.stem[-8:]}" for path in evaluated]


def test_trackers_are_told_what_its_sweeps_call_a_run(run: RunDir, tmp_path: Path) -> None:
    named = copy_of(run, tmp_path)
    assert RunRecord(named).settings == RunRecord(named).config == run.read_config()
    labels = {"backbone": "TimeSformer", "method": "+ TIME"}
    cell = {
        "signature": run.signature,
        "labels": labels,
        "seed": 3,
        "skip": None,
        "data": "mini_ssv2",
    }
    other = {**cell, "signature": "other", "labels": {}}
    manifest = {"sweep": "ablation", "scale": "smoke", "overrides": {}, "cells": [other, cell]}
    write_result(manifest_path(tmp_path, "ablation-smoke"), Kind.MANIFEST, manifest)
    assert RunRecord(named).settings["sweeps"] == {"ablation-smoke": {**labels, "seed": "3"}}


def test_only_whole_lines_are_read_until_the_run_ends(
    run: RunDir, unfinished: RunDir, metrics: list[dict[str, Any]]
) -> None:
    first, second, *others = run.metrics.read_bytes().splitlines(keepends=True)
    with unfinished.hold():
        unfinished.metrics.write_bytes(first + second[:9])
        points = RunRecord(unfinished, follow=True).points()
        assert next(points).step == metrics[0]["step"]
        unfinished.metrics.write_bytes(first + second + others[0][:-1])
        assert next(points).values["loss"] == metrics[1]["loss"]
    unfinished.metrics.write_bytes(run.metrics.read_bytes())
    assert [point.step for point in points] == [row["step"] for row in metrics[2:]]


def test_without_follow_a_cut_line_is_left_for_later(run: RunDir, unfinished: RunDir) -> None:
    unfinished.metrics.write_bytes(run.metrics.read_bytes()[:-1])
    with unfinished.hold():
        assert len(list(RunRecord(unfinished).points())) == 7


def test_a_run_that_went_back_to_its_checkpoint_is_noticed(run: RunDir, unfinished: RunDir) -> None:
    first, second, *_ = run.metrics.read_bytes().splitlines(keepends=True)
    with unfinished.hold():
        unfinished.metrics.write_bytes(first + second)
        points = RunRecord(unfinished, follow=True).points()
        next(points), next(points)
        unfinished.metrics.write_bytes(first)
        with pytest.raises(Rewritten):
            next(points)
        points = RunRecord(unfinished, follow=True).points()
        next(points)
        unfinished.metrics.unlink()
        with pytest.raises(Rewritten):
            next(points)
