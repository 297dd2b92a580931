"""Whatever stands in a sweep, a scale, a search or `--set`: a plan, or one message with all mistakes,
exit status 2 and nothing written.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
from collections import Counter
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from makers import ROOT
from ruamel.yaml import YAML

from bench import results
from bench.config.science import parse
from bench.grid import axes, yaml
from bench.grid.plan import plan
from bench.sweep import command as sweep_command
from bench.tune import command as tune_command

BASE = "base: {objectives: {classify: {}}, model.name: timesformer}\n"
SWEEP = BASE + "axes: {lr: {low: {train.lr: 1e-4}, high: {train.lr: 1e-3}}}\n"
SEARCH = BASE + "axes: {backbone: {T: {}}}\nsearch: {sampler: grid, space: {%s}}\n"
LONGEST_LINE = 1500


def told(
    sweep: Path, *arguments: str, main: Callable[[list[str]], int] = sweep_command.main
) -> tuple[int, str]:
    """Exit status, and what was said. Fails where anything was written beside the sweep."""
    folder = next(path for path in sweep.parents if len(path.name) < 99 and path.is_dir())
    before = sorted(folder.rglob("*"))
    out, err = io.StringIO(), io.StringIO()
    question = "--status" if main is tune_command.main else "--plan"
    scale = [] if "--scale" in arguments else ["--scale", "smoke"]
    runs = ["--runs", str(folder / "runs")]
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main([str(sweep), *scale, *runs, *arguments, question])
    assert sorted(folder.rglob("*")) == before
    said = err.getvalue()
    assert status in (0, 2) and ("mistake(s), nothing was started" in said) == (status == 2), said
    assert max(map(len, said.splitlines()), default=0) <= LONGEST_LINE
    said.encode()  # what a terminal takes
    return status, said


def refused(folder: Path, text: str | bytes, *arguments: str, **main: Any) -> str:
    path = folder / "sweep.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    status, said = told(path, *arguments, **main)
    assert status == 2
    return said


def with_value(key: str, value: str) -> str:
    return SWEEP.replace("model.name", f"{key}: {value}, model.name")


def bomb(levels: int) -> str:
    lines = [f"x{i}: &x{i} [{', '.join([f'*x{i - 1}'] * 9)}]\n" for i in range(1, levels)]
    return "x0: &x0 [x, x, x, x, x, x, x, x, x]\n" + "".join(lines)


NUMBERED = "".join(f"    l{i}: {{train.lr: {i + 1}e-6}}\n" for i in range(101))
MANY_CELLS = "axes:\n" + "".join(f"  a{axis}:\n{NUMBERED}" for axis in range(5))

OF_FILES = {
    "not UTF-8": (SWEEP.encode() + b"title: \xff\n", "line 3: not UTF-8"),
    "NUL": (SWEEP + "title: \0\n", "not valid YAML"),
    "NUL, escaped": (SWEEP + 'title: "\\0"\n', "line 3: title: has a NUL character"),
    "lone surrogate": (SWEEP + 'title: "\\ud800"\n', "title: has half a character"),
    "no character": (SWEEP + 'title: "\\UFFFFFFFF"\n', "not valid YAML"),
    "10 MB of comments": (SWEEP + "# nothing\n" * 1_000_000, "longer than 256 KiB"),
    "lists in lists": (SWEEP + "title: " + "[" * 1000, "nested deeper than 32 levels"),
    "mappings in mappings": (SWEEP + "title: " + "{a: " * 1000, "nested deeper than 32"),
    "dots in dots": (SWEEP + "base: {a" + ".a" * 50 + ": 1}", "nested deeper than 32 levels"),
    "25,000 values": (SWEEP + f"title: [{'a,' * 25_000}]", "more than 20,000 values"),
    "alias of itself": ("&x [*x]", "contains itself"),
    "alias within itself": (SWEEP + "title: &x {a: [*x]}", "title.a.0 contains itself"),
    "billion laughs": (SWEEP + bomb(12), "more than 20,000 values"),
    "deep by aliases": (
        SWEEP + "x: &x " + "[" * 20 + "]" * 20 + "\ny: " + "[" * 20 + "*x" + "]" * 20,
        "nested deeper than 32 levels",
    ),
    "huge integer": (with_value("train.batch", "9" * 6000), "beyond the whole numbers of 64 bits"),
    "2 ** 63": (with_value("train.batch", str(2**63)), f"+-{2**63 - 1}"),
    "long key": (SWEEP + "k" * 500 + ": 1", "a key has at most 200 characters"),
    "keys of mixed types": (SWEEP + "1: a\nnull: b\n", 'write it in quotes, "null"'),
    "a list as key": (SWEEP + "? [a]\n: b\n", "a key is text, not a list"),
    "a tag": (SWEEP + "title: !!python/name:os.system\n", "tags are not taken"),
    "a broken tag": (SWEEP + "title: !!float ''\n", "tags are not taken"),
    "a date": (with_value("data.name", "2001-99-99"), 'write it in quotes, "2001-99-99"'),
    "a document that is a list": ("- a\n", "must be a mapping"),
}  # fmt: skip

OF_GRIDS = {
    "10^10 cells": (BASE + MANY_CELLS, "10,510,100,501 cells (labels x seeds); a sweep has at most 10,000"),
    "cells by seeds": (SWEEP + f"seeds: {list(range(5001))}", "10,002 cells"),
    "33 axes": (BASE + "axes: {" + ", ".join(f"a{i}: {{x: }}" for i in range(33)) + "}", "at most 32"),
    "3,000 rules": (SWEEP + f"exclude: [{'{lr: low}, ' * 3000}]", "3,000 rules; a sweep has at most 200"),
    "zip of nothing": (SWEEP + "zip: [[]]", "zip.0: empty"),
    "zip of no names": (SWEEP + "zip: [[[lr]]]", "zip: must be a list of lists of axis names"),
    "zip of one axis twice": (SWEEP + "zip: [[lr, lr]]", "is in two groups, or twice in one"),
    "empty axis": (SWEEP.replace("{lr:", "{a: {}, lr:"), "axes.a: empty axis"),
    "no axis": (BASE + "axes: {}", "axes: empty"),
    "labels 1 and '1'": (SWEEP.replace("low:", '1: {}, "1":'), "duplicate key axes.lr.1"),
    "the label -": (SWEEP.replace("low:", '"-":'), "stands where an axis does not apply"),
}  # fmt: skip

OF_VALUES = {
    "weight NaN": ("objectives.classify.weight", ".nan", "finite number"),
    "weight infinite": ("objectives.classify.weight", ".inf", "finite number"),
    "weight negative": ("objectives.classify.weight", "-1.0", "greater than or equal to 0"),
    "lr 0": ("train.lr", "0.0", "greater than 0"),
    "lr 1e300": ("train.lr", "1e300", "less than 1000"),
    "lr infinite": ("train.lr", "1e999", "finite number"),
    "lr NaN": ("train.lr", ".nan", "finite number"),
    "10^8 frames": ("input.frames", "100000000", "less than or equal to 10000"),
    "no heads": ("model.heads", "0", "greater than or equal to 1"),
    "no patch": ("model.patch", "0", "greater than or equal to 1"),
    "heads that do not divide": ("model", "{dim: 20, heads: 3}", "20 channels do not divide into 3 heads"),
    "9,000 letters": ("train.batch", "x" * 9000, "(9,002 characters)"),
    "5,000 milestones": ("train.milestones", str(list(range(5000))), "at most 100 items"),
    "momentum of 1": ("train.betas", "[0.9, 1.0]", "less than 1"),
    "a folder of 9,000 letters": ("scales", "x" * 9000, "scales"),
}  # fmt: skip

OF_SETTINGS = {
    "key of 300": ("k" * 300 + "=1", "a key has at most 200 characters"),
    "key of 50 parts": ("a" + ".a" * 50 + "=1", "nested deeper than 32 levels"),
    "deep value": ("train.lr=" + "[" * 1000, "nested deeper than 32 levels"),
    "alias of itself": ("train.lr=&x [*x]", "contains itself"),
    "huge integer": ("train.batch=" + "9" * 6000, "beyond the whole numbers"),
    "300 KB": ("train.lr=" + "x" * 300_000, "longer than 256 KiB"),
    "not text": ("data.name=\udcff", "lone surrogate"),
    "weight negative": ("objectives.classify.weight=-1", "greater than or equal to 0"),
}  # fmt: skip

OF_SEARCHES = {
    "10^10 points": (
        "train.lr: {low: 1e-9, high: 10.0, step: 1e-9}", "a grid of 10,000,000,000 points; at most 10,000",
    ),
    "infinite range": ("train.lr: {low: 0.1, high: .inf, step: 1}", "finite number"),
    "2,000 values": (f"train.batch: {{values: {list(range(1, 2001))}}}", "at most 1000 items"),
    "lr that cannot be": ("train.lr: {values: [0.1, 1e300]}", "less than 1000"),
    "keys of mixed types": ("1: {values: [2]}", "search.space.1: unknown key"),
}  # fmt: skip


@pytest.mark.parametrize(("text", "message"), OF_FILES.values(), ids=OF_FILES)
def test_files_that_are_refused(tmp_path: Path, text: str | bytes, message: str) -> None:
    said = refused(tmp_path, text)
    assert f"{tmp_path}/sweep.yaml: " in said and message in said


@pytest.mark.parametrize(("text", "message"), OF_FILES.values(), ids=OF_FILES)
def test_a_scale_has_the_same_limits(tmp_path: Path, text: str | bytes, message: str) -> None:
    (tmp_path / "scales").mkdir()
    scale = tmp_path / "scales/bad.yaml"
    scale.write_bytes(text if isinstance(text, bytes) else text.encode())
    said = refused(tmp_path, SWEEP, "--scale", "bad")
    assert f"{scale}: " in said and message in said


@pytest.mark.parametrize(("text", "message"), OF_GRIDS.values(), ids=OF_GRIDS)
def test_grids_that_are_refused(tmp_path: Path, text: str, message: str) -> None:
    assert message in refused(tmp_path, text)


@pytest.mark.parametrize(("key", "value", "message"), OF_VALUES.values(), ids=OF_VALUES)
def test_values_that_cannot_work(tmp_path: Path, key: str, value: str, message: str) -> None:
    text = SWEEP.replace("lr: {low: {train.lr: 1e-4}, high: {train.lr: 1e-3}}", "a: {x: {}}")
    text = text.replace("model.name", f"{key}: {value}, model.name")
    said = refused(tmp_path, text)
    assert message in said and f"base.{key}" in said


@pytest.mark.parametrize(("setting", "message"), OF_SETTINGS.values(), ids=OF_SETTINGS)
def test_settings_that_are_refused(tmp_path: Path, setting: str, message: str) -> None:
    text = SWEEP.replace("lr: {low: {train.lr: 1e-4}, high: {train.lr: 1e-3}}", "a: {x: {}}")
    said = refused(tmp_path, text, "--set", setting)
    assert message in said and "--set" in said


@pytest.mark.parametrize(("space", "message"), OF_SEARCHES.values(), ids=OF_SEARCHES)
def test_searches_that_are_refused(tmp_path: Path, space: str, message: str) -> None:
    assert message in refused(tmp_path, SEARCH % space, main=tune_command.main)


@pytest.mark.parametrize(("text", "message"), OF_FILES.values(), ids=OF_FILES)
def test_a_search_has_the_same_limits(tmp_path: Path, text: str | bytes, message: str) -> None:
    assert message in refused(tmp_path, text, main=tune_command.main)


@pytest.mark.parametrize("name", ["x" * 300, "x\0y", "x\ud800", "/".join(["x" * 200] * 30)])
def test_names_that_no_file_has(tmp_path: Path, name: str) -> None:
    assert "--scale: " in refused(tmp_path, SWEEP, "--scale", name)
    assert told(tmp_path / name)[0] == 2


def test_labels_may_be_numbers(tmp_path: Path) -> None:
    """They are the text that was written."""
    text = SWEEP.replace(
        "low:", '8: {train.lr: 2e-3}, 1e-3: {train.lr: 1e-5}, "0.50": {train.lr: 1e-6}, low:'
    )
    (tmp_path / "sweep.yaml").write_text(text)
    labels = [cell.labels["lr"] for cell in plan(tmp_path / "sweep.yaml", "smoke").cells]
    assert labels[:3] == ["8", "1e-3", "0.50"]


def test_the_names_of_results_are_taken(tmp_path: Path) -> None:
    assert {*axes.TAKEN} == {*results.COLUMNS, "model"}
    for name in axes.TAKEN:
        text = BASE + f"axes: {{{name}: {{x: {{}}}}}}"
        assert f"axes.{name}: this name is taken by a column" in refused(tmp_path, text)


def test_unknown_components_come_with_all_other_mistakes(tmp_path: Path) -> None:
    wrong = "base: {evaluations: {clasify: {}}, objectives: {clasify: {}}, train.lr: 1e300}\n"
    for others in ("axes: {}\n", "axes: {a: {x: {data.name: mini_ssv}}}\nzip: [[]]\n", "axes: 3\n"):
        said = refused(tmp_path, wrong + others + "titel: x\n")
        for part in ("unknown evaluation", "unknown objective", "less than 1000", "titel: unknown"):
            assert part in said
        assert "required" not in said or "axes: {a" in others
    search = wrong + "search: {space: {train.lr: {low: 2, high: 1}}, pruner: never}\n"
    said = refused(tmp_path, search, main=tune_command.main)
    for part in ("unknown evaluation", "search.pruner", "a range needs low < high"):
        assert part in said


def test_what_is_refused_hides_no_other_mistake(tmp_path: Path) -> None:
    text = (
        with_value("train.batch", str(2**70)).replace("low:", "null:")
        + "titel: 2001-01-01\nseeds: x"
    )
    said = refused(tmp_path, text)
    for part in ("base.train.batch: ", "axes.lr.null: a key", "a date", "seeds: must be"):
        assert part in said


def test_the_limits_themselves_are_valid(tmp_path: Path) -> None:
    labels = {f"l{i}": {"train.lr": 1e-6 * (i + 1)} for i in range(100)}
    ids = {f"b{i}": {"train.weight_decay": 1e-6 * i} for i in range(100)}
    base = {"objectives": {"classify": {}}, "model.name": "timesformer"}
    document = {"base": base, "axes": {"k" * 200: labels, "decay": ids}}
    path = tmp_path / "sweep.yaml"
    path.write_text(json.dumps(document))
    assert told(path)[0] == 0
    path.write_text(SWEEP + "#" * (yaml.MOST_BYTES - len(SWEEP)))
    assert told(path)[0] == 0
    path.write_text(SWEEP + "#" * (yaml.MOST_BYTES - len(SWEEP) + 1))
    assert told(path)[0] == 2
    assert parse({**_raw(), "train": {"lr": 999.0}}).train.lr == 999.0


def _raw() -> dict[str, Any]:
    return {"data": {"name": "mini_ssv2"}, "model": {"name": "vit"}, "objectives": {"classify": {}}}


# -- generated ---

SHIPPED = sorted((ROOT / "sweeps").glob("*.yaml"))
SCALES = ROOT / "sweeps/scales"

DEEP: Any = "x"
for _ in range(40):
    DEEP = [DEEP]

VALUES = st.sampled_from(
    [
        None, True, "",
        "x" * 5000, "\ud800", "\0", "../..", "-", "1e-4", "[", "-1", 0, -1, 0.5, 10**8, 2**63, 10**30,
        1e300,
        math.nan, math.inf, -math.inf, [], {}, [[]], [{}], {"x": None}, {"": 1}, ["lr", "lr"], DEEP, [0] * 25_000,
        list(range(5000)),
    ]
)  # fmt: skip
KEYS = st.sampled_from(
    ["", ".", "a.b", "." * 50, "x" * 300, "\0", "\ud800", "-", "seed", "data", "name", "weight", "objectives",
     "resources", "base", "zip", "when", "exclude", "model.heads", "input.frames", "train.lr"]
)  # fmt: skip
PIECES = st.sampled_from(
    [b"\xff", b"\0", b"\t", b": ", b"- ", b"[", b"{", b"}", b'"', b"'", b"&x ", b"*x", b"&x [*x]", b"!!", b"%",
     b"---\n", b'"\\U00110000"',
     b"<<: ", b"? ", b"|", b"#", b"\n", b"\r", b"1: 2\n", b"2001-01-01", b".nan", b"9" * 5000, "\u2028".encode(),
     b"\xed\xa0\x80", b"[" * 1000, b"#" * 300_000]
)  # fmt: skip


@st.composite
def mutated(draw: st.DrawFn, file: Path) -> bytes:
    """A shipped file with one to three things wrong: in its tree, or in its bytes."""
    if draw(st.booleans()):
        document = YAML(typ="safe", pure=True).load(file.read_text(encoding="utf-8"))
        for _ in range(draw(st.integers(1, 3))):
            _change_tree(draw, document)
        text = json.dumps(document).replace("NaN", ".nan").replace("Infinity", ".inf")
        return text.encode()
    raw = file.read_bytes()
    for _ in range(draw(st.integers(1, 3))):
        raw = _change_bytes(draw, raw)
    return raw


def _change_tree(draw: st.DrawFn, document: Any) -> None:
    places = list(_places(document))
    if not places:
        return
    inside, key = draw(st.sampled_from(places))
    what = draw(st.sampled_from(["drop", "value", "key", "twice"]))
    value = inside[key]
    if what == "value":
        inside[key] = deepcopy(draw(VALUES))  # the next change may be within it
    elif what == "drop":
        del inside[key]
    elif isinstance(inside, list):
        inside += [value] * 50
    else:
        if what == "key":
            del inside[key]
        inside[draw(KEYS)] = value


def _places(value: Any) -> Any:
    """(container, key or index) of everything in a document."""
    if isinstance(value, dict | list):
        for key in list(value) if isinstance(value, dict) else range(len(value)):
            yield value, key
            if len(value) < 1000:
                yield from _places(value[key])


def _change_bytes(draw: st.DrawFn, raw: bytes) -> bytes:
    at = draw(st.integers(0, len(raw)))
    what = draw(st.sampled_from(["cut", "insert", "repeat", "drop"]))
    if what == "cut":
        return raw[:at]
    if what == "insert":
        return raw[:at] + draw(PIECES) + raw[at:]
    lines = raw.splitlines(keepends=True)
    i = draw(st.integers(0, max(0, len(lines) - 1)))
    times = draw(st.sampled_from([2, 100])) if what == "repeat" else 0
    return b"".join([*lines[:i], *lines[i : i + 1] * times, *lines[i + 1 :]])


@st.composite
def attacks(draw: st.DrawFn) -> tuple[Path, bytes, bytes | None, list[str]]:
    """A shipped sweep, what stands in its place, what stands in the place of its scale, and --set."""
    sweep = draw(st.sampled_from(SHIPPED))
    what = draw(st.sampled_from(["sweep", "sweep", "scale", "set"]))
    text, scale, arguments = sweep.read_bytes(), None, []
    if what == "sweep":
        text = draw(mutated(sweep))
    elif what == "scale":
        sweep = draw(st.sampled_from([path for path in SHIPPED if "background" not in path.stem]))
        text, scale = sweep.read_bytes(), draw(mutated(SCALES / "smoke.yaml"))
    else:
        value = draw(st.one_of(VALUES.map(str), PIECES.map(lambda piece: piece.decode("latin-1"))))
        arguments = [f"--set={draw(KEYS)}={value}"]
    return sweep, text, scale, arguments


def outcomes(folder: Path, **given_settings: Any) -> Counter[int]:
    """How often there was a plan (0) and how often it was refused (2)."""
    found: Counter[int] = Counter()

    @settings(
        derandomize=True, database=None, suppress_health_check=[*HealthCheck], **given_settings
    )
    @given(attacks())
    def attack(given_: tuple[Path, bytes, bytes | None, list[str]]) -> None:
        shipped, text, scale, arguments = given_
        place = folder / ("own" if scale is not None else "shared")
        place.mkdir(exist_ok=True)
        if scale is not None:
            (place / "scales").mkdir(exist_ok=True)
            (place / "scales/smoke.yaml").write_bytes(scale)
        path = place / shipped.name
        path.write_bytes(text)
        main = tune_command.main if shipped.stem == "tune" else sweep_command.main
        found[told(path, *arguments, main=main)[0]] += 1

    attack()
    print(f"{found[2]} of {found.total()} malformed inputs were refused, {found[0]} are valid")
    return found


def test_generated_mutations_of_the_shipped_sweeps(tmp_path: Path) -> None:
    found = outcomes(tmp_path, max_examples=150, deadline=None)
    assert found[0] and found[2] and found.total() >= 150


@pytest.mark.slow
def test_a_thousand_generated_mutations_each_within_two_seconds(tmp_path: Path) -> None:
    for path in SHIPPED:  # components are imported once
        told(path, main=tune_command.main if path.stem == "tune" else sweep_command.main)
    found = outcomes(tmp_path, max_examples=1000, deadline=2000)
    assert found[0] and found[2] and found.total() >= 1000
