"""Whatever stands in a file is shown, and controls nothing: each command, on a sweep, classes, a model and an
error that try to.
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest
from clips import grey_video
from hypothesis import given
from hypothesis import strategies as st
from makers import ROOT, released_checkpoint
from markdown_it import MarkdownIt
from rich.table import Table
from rich.text import Text

from bench.shown import inert
from bench.shown.console import InertConsole
from bench.store.files import write_text
from bench.store.rundir import RunDir, State
from bench.sweep.command import main as sweep
from bench.sweep.live import LiveProgress

TERMINAL = "\x1b]0;title\x07\x1b[2J\x9b1m\r\u202egnp"
MARKUP = "[x](http://e.example) ![](x) `c` <script>alert(1)</script> | [red] &lt; :x:"
HOSTILE = f"=cmd() {MARKUP} {TERMINAL}"
CONTROL = re.compile(r"[^\n\t\x20-\x7e\xa0-\U0010ffff]|[\u200e\u200f\u2028-\u202e\u2066-\u2069]")
# a cell of a table may be a number with its deviation
NUMBER = re.compile(r"[+-]?\d+(\.\d+)?(e[+-]?\d+)?( ± .*)?", re.IGNORECASE)
texts = st.text() | st.text("\x1b\x9b\r\t\n=+-@[]()!<>&`|*_~\\0.1eE\u202e\ud800")


def controls(text: str) -> list[str]:
    return CONTROL.findall(text)


def tags_of(rendered: str) -> set[str]:
    found: set[str] = set()

    class Tags(HTMLParser):
        def handle_starttag(self, tag: str, attributes: object) -> None:
            found.add(tag)

    Tags().feed(rendered)
    return found


def rendered_markdown(text: str) -> str:
    return str(MarkdownIt("commonmark").enable("table").render(text))


def formulas(text: str) -> list[str]:
    cells = [cell for row in csv.reader(io.StringIO(text)) for cell in row]
    return [c for c in cells if c.startswith(tuple("=+-@\t\r")) and not NUMBER.fullmatch(c)]


# -- one text ---


@given(texts)
def test_no_text_controls_a_terminal(text: str) -> None:
    shown = inert.printable(text)
    assert not controls(shown) and inert.printable(shown) == shown
    shown.encode()


@pytest.mark.parametrize("text", ["a b", "größer — ✓", "tab\tand\nline", r"\x1b", "日本", "👩‍🔬"])
def test_what_controls_nothing_is_shown_as_it_is(text: str) -> None:
    assert inert.printable(text) == text


@given(texts)
def test_no_text_is_more_than_text_in_markdown(text: str) -> None:
    page = f"| head |\n|:--|\n| {inert.markdown(text)} |\n"
    assert tags_of(rendered_markdown(page)) == {"table", "thead", "tr", "th", "tbody", "td"}


@given(texts)
def test_no_text_is_a_formula(text: str) -> None:
    table = io.StringIO()
    csv.writer(table).writerow([inert.csv_cell(text)])
    assert not formulas(table.getvalue())


@pytest.mark.parametrize("number", ["-1.2", "+3", "-1e-3", "0", ".5"])
def test_a_number_stays_one_in_a_spreadsheet(number: str) -> None:
    assert inert.csv_cell(number) == number


@pytest.mark.parametrize("terminal", [True, False])
def test_a_console_shows_markup_of_its_own_only(terminal: bool) -> None:
    out = io.StringIO()
    console = InertConsole(file=out, force_terminal=terminal, width=200)
    table = Table(title=Text(TERMINAL))
    table.add_column(Text(TERMINAL))
    table.add_row(TERMINAL)
    console.print(table, TERMINAL, Text(TERMINAL), "[bold]own[/]")
    styles = re.compile(r"\x1b\[[\d;]*m")
    assert bool(styles.findall(out.getvalue())) == terminal
    assert not controls(styles.sub("", out.getvalue()))
    assert r"\x1b]0;title\x07" in out.getvalue()


def test_bars_show_names_as_they_are(tmp_path: Path) -> None:
    out = io.StringIO()
    console = InertConsole(file=out, force_terminal=True, width=250)
    with LiveProgress(console, {"0": HOSTILE}) as bars:
        bars.changed(RunDir(tmp_path / "0"), State.RUNNING)
        bars.tick()
    own = re.compile(r"\x1b\[[?\d;]*[A-Za-z]|\r")  # moves the cursor, to draw again
    assert not controls(own.sub("", out.getvalue()))
    assert f"{MARKUP} " in own.sub("", out.getvalue()), "nor is it markup of rich"


# -- the commands ---

FAILS = f'''"""Fails in the first step."""

from bench import task

VERSION = 1


class Config(task.Config):
    weight: task.Weight = 1.0


class Objective(task.Objective):
    def forward(self, step, batch, features):
        raise ValueError({HOSTILE!r})
'''


def ran(work: Path, module: str, *arguments: str, status: int = 0) -> str:
    """What a command wrote to stdout and stderr."""
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments, "--components", "own"],
        cwd=work,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        check=False,
    )
    written = (done.stdout + done.stderr).decode()
    assert done.returncode == status, written
    assert not controls(written), controls(written)
    return written


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep of one cell that is trained and one that fails, and an objective that makes it fail."""
    folder = tmp_path_factory.mktemp("work")
    write_text(folder / "own/tasks/fails.py", FAILS)
    labels = {HOSTILE: {}, f"-{HOSTILE}": {"objectives": {"fails": {}}}}
    base = {"model.name": "timesformer", "objectives": {"classify": {}}}
    hostile = {
        "title": HOSTILE,
        "base": {**base, "evaluations": {"video.shuffle_gap": {}}},
        "axes": {"method": labels},
    }
    write_text(folder / "hostile.yaml", json.dumps(hostile))
    return folder


@pytest.fixture(scope="module")
def swept(work: Path, data_dir: Path) -> tuple[str, ...]:
    """What each of its commands said."""
    where = ("--scale", "smoke", "--set", f"resources.data_dir={data_dir}")
    command = ("bench.sweep", "hostile.yaml", *where, "--set", "resources.device=cpu")
    plan = ran(work, *command, "--plan")
    launched = ran(work, *command, "--launcher", "inline", status=1)  # it shows what cells log
    return plan, launched, ran(work, *command, "--status")


@pytest.fixture(scope="module")
def evaluated(work: Path) -> str:
    """What `bench.evaluate` said of a model and of classes whose names try it."""
    lines = ["path,label"]
    for i, name in enumerate((HOSTILE.replace("\r", ""), "+b", "@c")):
        grey_video(work / f"videos/{i}.mp4", 60 * i, frames=8)
        lines.append(f'{i}.mp4,"{name}"')
    write_text(work / "videos/list.csv", "\n".join(lines))
    model = released_checkpoint(work / "model.pyth", 3)
    named = ("--model", str(model), "--heads", "2", "--name", HOSTILE)
    data = ("--data", "videos/list.csv", "--device", "cpu", "--threads", "1")
    return ran(work, "bench.evaluate", "video.shuffle_gap", *named, *data)


def test_a_sweep_shows_labels_titles_and_errors(work: Path, swept: tuple[str, ...]) -> None:
    plan, launched, status = swept
    for text in swept:
        assert r"\x1b]0;title\x07\x1b[2J" in re.sub(r"[\s│]+", "", text)
    assert "ValueError" in launched and "FAILED" in status and "NEW" in plan
    for kept in (*work.glob("runs/*/error.txt"), *work.glob("runs/*/log.txt")):
        assert not controls(kept.read_text(encoding="utf-8"))  # people look at them with cat


def test_classes_and_models_are_shown(evaluated: str) -> None:
    assert "video.shuffle_gap" in evaluated


@pytest.fixture(scope="module")
def report(work: Path, swept: tuple[str, ...], evaluated: str) -> Iterator[Path]:
    ran(work, "reports.build")
    ran(work, "bench.results", "--verify")
    yield work / "reports/out"


@pytest.mark.usefixtures("swept", "evaluated")
def test_a_report_is_text(report: Path) -> None:
    shown = dict.fromkeys(("csv", "md", "html", "tex"), "")
    for form in shown:
        for path in report.rglob(f"*.{form}"):
            text = path.read_text(encoding="utf-8")
            shown[form] += text
            assert not controls(text), path
            if form == "csv":
                assert not formulas(text), path
            elif form == "md":
                assert not tags_of(rendered_markdown(text)) & {"a", "img", "script", "code"}, path
            elif form == "html":
                # The page has what its readers ask of it, and its own script, and nobody else's.
                assert text.count("<script") == (2 if path.name == "index.html" else 0), path
                assert "script" in tags_of(text) or path.name != "index.html", path
    for form, text in shown.items():  # it is there, not left out
        assert "cmd()" in text, form


def test_a_card_of_a_model_is_text(work: Path, evaluated: str) -> None:
    [path] = (work / "runs/evaluated").glob("*.json")
    ran(work, "bench.export", "model_card", str(path))
    [card] = (work / "runs/exported").rglob("README.md")
    assert not controls(card.read_text(encoding="utf-8"))


def test_mistakes_are_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = {"axes": {"method": {HOSTILE: {HOSTILE: 1}}}}
    write_text(tmp_path / "wrong.yaml", json.dumps(wrong))
    assert sweep([str(tmp_path / "wrong.yaml"), "--plan"]) == 2
    said = capsys.readouterr().err
    assert "cmd()" in said and not controls(said)
