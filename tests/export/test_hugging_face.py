"""The sinks `eval_results` and `model_card`, read back by huggingface_hub and rendered as Markdown."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from makers import smoke_config
from markdown_it import MarkdownIt
from recorded import ROWS, recorded
from ruamel.yaml import YAML

from bench import find
from bench.evaluate import command as evaluate
from bench.export import command
from bench.export.numbers import numbers
from bench.export.record import RunRecord
from bench.export.sinks.eval_results import FILE
from bench.store.files import load_yaml, sha256_of
from bench.store.rundir import RunDir

hub = pytest.importorskip("huggingface_hub", minversion="1.4")

BESIDE = ("chance", "ci_low", "ci_high")
HOSTILE = (
    "x | [a](http://evil.example) <script>\n# y\n---\n``` ` \u202e &lt; ![z](w) www.evil.example"
)


def export(sink: str, out: Path, *what: Path) -> Path:
    assert command.main([sink, *map(str, what), "--out", str(out)]) == 0
    (folder,) = out.iterdir()
    return folder


def entries(path: Path) -> list[Any]:
    return list(hub.parse_eval_result_entries(YAML(typ="safe").load(path)))


def shown(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows that stand for themselves."""
    return [r for r in rows if r["metric"] not in BESIDE and not r["subset"].startswith("class: ")]


def measured(evaluated: list[Path]) -> list[dict[str, Any]]:
    return [row for path in evaluated for row in json.loads(path.read_text())["rows"]]


# -- the numbers ---


def test_chance_and_interval_stand_with_their_number() -> None:
    other = {**ROWS[0], "metric": "changed", "value": 0.1}
    alone = {**ROWS[1], "view": "gap"}
    of_class = {**ROWS[0], "subset": "class: open"}
    first, second, third = numbers([*ROWS, other, of_class, alone])
    assert (first.value, first.chance, first.low, first.high) == (0.625, 0.5, 0.25, 0.875)
    assert (second.metric, second.value, second.chance) == ("changed", 0.1, None)
    assert (third.metric, third.view, third.value) == ("chance", "gap", 0.5)


def test_eval_results_hold_every_number(evaluated: list[Path], tmp_path: Path) -> None:
    found = entries(export("eval_results", tmp_path, *evaluated) / FILE)
    wanted = shown(measured(evaluated))
    assert [entry.value for entry in found] == [row["value"] for row in wanted]
    names = ("evaluation", "split", "view", "subset", "metric")
    assert [e.task_id for e in found] == ["/".join(r[n] for n in names) for r in wanted]
    assert {entry.dataset_id for entry in found} == {"mini_ssv2"}
    for entry, row in zip(found, wanted, strict=True):
        assert f"n = {row['n']};" in entry.notes
    assert "95 % interval" in found[0].notes and "chance 0.5" in found[0].notes


def test_the_front_matter_of_a_card_holds_every_number(
    evaluated: list[Path], tmp_path: Path
) -> None:
    card = hub.ModelCard.load(export("model_card", tmp_path, *evaluated) / "README.md")
    # huggingface_hub groups them by data set and split
    found = [(r.dataset_split, r.metric_args, r.metric_value) for r in card.data.eval_results]
    wanted = sorted(shown(measured(evaluated)), key=lambda row: row["split"])
    assert [value for _, _, value in sorted(found, key=lambda r: r[0])] == [
        row["value"] for row in wanted
    ]
    assert {args["n"] for _, args, _ in found} == {row["n"] for row in wanted}
    digest = json.loads(evaluated[0].read_text())["data_digest"]
    assert {args["data_digest"] for _, args, _ in found} == {digest}
    assert {r.task_type for r in card.data.eval_results} == {"video-classification"}


# -- the text ---


def rendered(path: Path) -> Any:
    text = re.sub(r"\A---\n.*?\n---\n", "", path.read_text(), flags=re.DOTALL)
    return MarkdownIt("commonmark").enable("table").parse(text)


def test_a_card_says_of_what_it_was_measured(run: RunDir, tmp_path: Path) -> None:
    path = export("model_card", tmp_path, run.path) / "README.md"
    text = path.read_text()
    result = run.read_measured()[0][1] or {}
    torch = json.loads(run.env.read_text())["versions"]["torch"]
    for fact in (result["data_digest"], result["provenance"], sha256_of(run.last), f"`{torch}`"):
        assert fact in text
    (config, *_) = [token for token in rendered(path) if token.info == "yaml"]
    written = tmp_path / "config.yaml"
    written.write_text(config.content)
    assert load_yaml(written) == run.read_config(), "what trains it again"
    again = export("model_card", tmp_path / "again", run.path) / "README.md"
    assert again.read_text() == text


def test_its_command_measures_the_same_again(run: RunDir, data_dir: Path, tmp_path: Path) -> None:
    data = smoke_config().data
    shards = find.load("source", data.name).locate(data.config, data_dir)
    places = ["--model", str(run.path), "--data", str(shards)]

    def rows(given: list[str], runs: Path) -> tuple[Path, Any]:
        where = ["--runs", str(runs), "--device", "cpu", "--threads", "1"]
        assert evaluate.main([*given, *where]) == 0
        (path,) = (runs / "evaluated").glob("*.json")
        return path, json.loads(path.read_text())["rows"]

    shown = ["--views", "2", "--crops", "3", "--average", "probabilities", "--stride", "2"]
    asked = ["video.shuffle_gap", *places, *shown, "--set", "permutations=2"]
    kept, first = rows(asked, tmp_path / "first")
    card = export("model_card", tmp_path / "out", kept) / "README.md"
    (block,) = [t.content for t in rendered(card) if t.type == "fence" and t.info != "yaml"]
    program, _, *words = shlex.split(block)
    given = [{"MODEL": places[1], "DATA": places[3]}.get(word, word) for word in words]
    again, second = rows(given, tmp_path / "second")
    assert program == "time-matters" and second == first
    assert again.name == kept.name, "which is made of all that was asked"


def test_names_from_files_are_inert(evaluated: list[Path], tmp_path: Path) -> None:
    result = json.loads(evaluated[0].read_text())
    made_by = {**result["made_by"], "note": HOSTILE}
    names = {"model": HOSTILE, "data": HOSTILE, "provenance": HOSTILE, "made_by": made_by}
    rows = [{**row, "subset": HOSTILE, "view": HOSTILE} for row in ROWS]
    hostile = tmp_path / "hostile.json"
    hostile.write_text(json.dumps({**result, **names, "rows": rows}))
    path = export("model_card", tmp_path / "card", hostile) / "README.md"
    tokens = rendered(path)
    inline = [child for token in tokens for child in token.children or ()]
    assert {token.type for token in inline} == {"text", "code_inline", "softbreak"}
    headings = [t for t in tokens if t.type == "heading_open"]
    assert [t.tag for t in headings] == ["h1", *["h2"] * 5]
    assert [t.content for t in tokens if t.type == "html_block"] == [
        "<!-- Written by time-matters export model_card; the same command writes it anew. -->\n"
    ]
    cells = [token.type for token in tokens].count("td_open")
    assert cells == 9, "one line of the table, of as many cells as it has heads"
    assert "evil" not in "".join(t.content for t in inline if t.type == "text")
    card = hub.ModelCard.load(path)
    assert card.data.eval_results[0].metric_value == ROWS[0]["value"]
    (entry,) = entries(export("eval_results", tmp_path / "eval", hostile) / FILE)
    assert entry.value == ROWS[0]["value"] and "\n" not in entry.task_id


# -- what is refused ---


def test_what_is_not_to_be_published(
    evaluated: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    limited = tmp_path / "limited.json"
    limited.write_text(json.dumps({**json.loads(evaluated[0].read_text()), "limit": 5}))
    empty = recorded(tmp_path / "empty")
    (empty.evaluation("video.arrow_of_time-12345678").result).unlink()
    for sink in ("eval_results", "model_card"):
        out = tmp_path / sink
        assert command.main([sink, str(limited), str(empty.path), "--out", str(out)]) == 2
        said = capsys.readouterr().err
        assert "5 samples of each class only; evaluate it without --limit" in said
        assert "nothing was measured of it yet" in said
        assert said.startswith("2 mistake(s)") and not out.exists()


def test_nobody_elses_card_is_overwritten(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = recorded(tmp_path / "0123")
    own = tmp_path / "out/0123/README.md"
    own.parent.mkdir(parents=True)
    own.write_text("# Mine\n")
    given = ["model_card", str(run.path), "--out", str(tmp_path / "out")]
    assert command.main(given) == 2
    assert "was written by others" in capsys.readouterr().err and own.read_text() == "# Mine\n"
    own.unlink()
    assert command.main(given) == 0 and command.main(given) == 0
    assert RunRecord(run).name in own.read_text()
