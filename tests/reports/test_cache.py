"""A second build: nothing where nothing has changed, what has changed where something has, and no old files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rendered import contents

from bench.speed.report import make_runs
from bench.store.result_files import Kind, read_result, write_result
from bench.store.rundir import RunDir
from reports import build, made, manifest

TABLES = ["main_result", "ablation"]
Build = Callable[..., int]


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    make_runs(tmp_path / "runs", 5)
    return tmp_path / "runs"


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


@pytest.fixture
def report(runs: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> Build:
    def of(*options: str, tables: list[str] = TABLES) -> int:
        monkeypatch.setattr(made, "ordered", {"table": tables, "figure": []}.get)
        return build.main(["--runs", str(runs), "--out", str(out), *options])

    return of


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What was built so far."""
    found: list[Any] = []
    whole = made.report
    monkeypatch.setattr(made, "report", lambda *about: found.append(about) or whole(*about))
    return found


def change_a_number(runs: Path, by: float = 0.1) -> None:
    path = sorted(runs.glob("*/evaluations/video.shuffle_gap-*/result.json"))[0]
    found = read_result(path, Kind.EVALUATION) or {}
    for row in found["rows"]:
        row["value"] = abs(row["value"] - by)
    write_result(path, Kind.EVALUATION, found)


def times(folder: Path) -> dict[str, int]:
    return {name: (folder / name).stat().st_mtime_ns for name in contents(folder)}


def test_where_nothing_has_changed_nothing_is_built(
    report: Build, built: list[Any], out: Path
) -> None:
    assert report() == 0 and len(built) == 1
    before, written = contents(out), times(out)
    assert report() == 0 and len(built) == 1
    assert (contents(out), times(out)) == (before, written)


def test_then_neither_pandas_nor_matplotlib_is_imported(runs: Path, out: Path) -> None:
    code = (
        "import sys; from reports import build; rc = build.main(sys.argv[1:]);"
        'sys.exit(f\'{rc} {sorted({"pandas", "matplotlib", "numpy", "torch"} & set(sys.modules))}\')'
    )
    said = []
    for _ in range(2):
        command = [sys.executable, "-c", code, "--runs", str(runs), "--out", str(out)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        said.append(done.stderr.splitlines()[-1])
    assert said == ["0 ['matplotlib', 'numpy', 'pandas']", "0 []"]


def test_only_what_changed_is_written(
    report: Build, built: list[Any], runs: Path, out: Path, tmp_path: Path
) -> None:
    report()
    before, written = contents(out), times(out)
    change_a_number(runs)
    assert report() == 0 and len(built) == 2
    after = contents(out)
    changed = {name for name in after if after[name] != before[name]}
    assert {"index.html", "mini/main_result.csv"} <= changed
    assert {name for name, time in times(out).items() if time != written[name]} == changed
    build.main(["--runs", str(runs), "--out", str(tmp_path / "fresh")])
    assert contents(tmp_path / "fresh") == after


def test_a_new_option_is_a_new_report(report: Build, built: list[Any]) -> None:
    report()
    report("--pool", "code")
    report("--pool", "code")
    assert len(built) == 2
    report("--pool", "code", "--strict")  # asks of the same report
    assert len(built) == 2


@pytest.mark.parametrize("name", ["index.html", "mini/ablation.md"])
def test_a_file_that_was_edited_or_is_gone_is_made_again(
    report: Build, out: Path, name: str
) -> None:
    report()
    whole = contents(out)
    (out / name).write_text("edited")
    report()
    assert contents(out) == whole
    (out / name).unlink()
    report()
    assert contents(out) == whole


def test_files_that_are_no_longer_made_go_unless_they_were_edited(
    report: Build, runs: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report()
    (out / "mini/mine.txt").write_text("of the user")
    (out / "mini/ablation.md").write_text("edited")
    change_a_number(runs)
    report(tables=["main_result"])
    left = {path.name for path in (out / "mini").iterdir()}
    assert {"mine.txt", "ablation.md", "main_result.md"} <= left
    assert not {"ablation.csv", "ablation.tex", "ablation.json", "ablation.html"} & left
    said = " ".join(capsys.readouterr().out.split())
    assert "removed: 4 files" in said and "kept: mini/ablation.md" in said
    assert (out / "mini/ablation.md").read_text() == "edited"


def test_a_folder_of_which_nothing_is_left_goes_too(report: Build, runs: Path, out: Path) -> None:
    report()
    for path in (runs / "sweeps").glob("*.json"):
        found = read_result(path, Kind.MANIFEST) or {}
        write_result(path, Kind.MANIFEST, {**found, "scale": "study"})
    report()
    assert {path.name for path in out.iterdir()} == {"index.html", "study", manifest.NAME}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no JSON",
        b"[]",
        b"{}",
        b'{"key": 3, "files": []}',
        b'{"key": "", "files": {"../outside.txt": "0"}, "schema": 1}',
        b'{"key": "", "files": {"/etc/passwd": "0"}, "schema": 1}',
        b'{"key": "", "files": {}, "schema": 99}',
        b'{"key": "", "files": {}, "schema": 1, "of": "another program"}',
    ],
)
def test_a_damaged_or_foreign_manifest_means_a_full_build(
    report: Build, built: list[Any], out: Path, content: bytes
) -> None:
    report()
    whole = contents(out)
    (out.parent / "outside.txt").write_text("")
    (out / manifest.NAME).write_bytes(content)
    assert report() == 0 and len(built) == 2
    assert contents(out) == whole and (out.parent / "outside.txt").exists()
    assert report() == 0 and len(built) == 2  # and it is written anew


def test_a_manifest_that_was_changed_removes_nothing_above_the_folder(
    report: Build, out: Path
) -> None:
    report()
    outside = out.parent / "outside.txt"
    outside.write_text("")
    found = json.loads((out / manifest.NAME).read_text())
    found["files"]["../outside.txt"] = manifest.sha256_of(outside)
    (out / manifest.NAME).write_text(json.dumps(found))
    assert report("--pool", "code") == 0
    assert outside.exists()


def test_a_report_of_running_cells_is_never_taken_for_the_last_word(
    report: Build, built: list[Any], runs: Path
) -> None:
    """Only a lock says that they run, and no file changes when they die."""
    run = RunDir(sorted(runs.glob("*/result.json"))[0].parent)
    run.result.unlink()
    run.env.write_text("{}")
    with run.hold():
        report()
        report()
    assert len(built) == 2
    report()
    report()
    assert len(built) == 3


def test_the_report_in_the_folder_of_runs_is_not_what_it_is_made_of(
    runs: Path, built: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(made, "ordered", {"table": TABLES, "figure": []}.get)
    for _ in range(2):
        assert build.main(["--runs", str(runs), "--out", str(runs / "report")]) == 0
    assert len(built) == 1


def test_times_and_sizes_tell_a_change(runs: Path, out: Path) -> None:
    path = sorted(runs.glob("*/result.json"))[0]
    before = manifest.key([runs], {}, out)
    assert before and manifest.key([runs], {}, out) == before
    state = path.stat()
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns + 1))
    assert manifest.key([runs], {}, out) != before
    (runs / "checkpoint").mkdir()
    (runs / "checkpoint/last.pt").write_bytes(b"not read")
    assert manifest.key([runs / "absent"], {}, out) == ""
