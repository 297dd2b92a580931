"""The user's own folders of components: names, imports, other processes, and what hides the suite."""

from __future__ import annotations

import importlib
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from makers import ROOT

import bench
from bench import components, find
from reports import build

EVALUATION = '"""One."""\n\n\ndef run():\n    return __name__\n'


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder that the suite looks into; what is imported from it is forgotten after."""
    before = set(sys.modules)
    folder = tmp_path / "own"
    folder.mkdir()
    monkeypatch.setenv(bench.COMPONENTS, str(folder))
    find.names.cache_clear(), find.load.cache_clear()
    yield folder
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", None)).startswith(str(tmp_path)):
            del sys.modules[name]
    find.names.cache_clear(), find.load.cache_clear()


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@pytest.mark.parametrize("kind", sorted(k for k, p in find.PACKAGES.items() if p in bench.ROOMS))
def test_a_file_in_a_room_is_a_component(own: Path, kind: str) -> None:
    package, text = find.PACKAGES[kind], f"{EVALUATION}\n\nclass Objective: ...\n"
    path = write(own / bench.ROOMS[package] / "mine_here.py", text)
    write(path.with_name("_helper.py"), "")
    assert set(find.names(kind)) > {"mine_here"} and "_helper" not in find.names(kind)
    module = importlib.import_module(f"{package}.mine_here")
    assert (module.__name__, module.__file__) == (f"{package}.mine_here", str(path))


def test_domains_of_the_suite_and_new_ones_go_on_there(own: Path) -> None:
    write(own / "tasks/video/__init__.py", "raise AssertionError('the suite has this package')")
    write(own / "tasks/video/mine.py", f"from tasks.video import flow, _far\n{EVALUATION}")
    write(own / "tasks/video/_far.py", "")
    write(own / "tasks/audio/mine.py", EVALUATION)
    write(own / "tasks/.checkpoints/old.py", EVALUATION)
    assert importlib.import_module("tasks.video.mine").run() == "tasks.video.mine"
    assert importlib.import_module("tasks.audio.mine").run() == "tasks.audio.mine"
    assert {"video.shuffle_gap", "video.mine", "audio.mine"} < set(find.names("evaluation"))
    assert not any("old" in name for name in find.names("evaluation"))


def test_two_folders_share_a_domain(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = own.with_name("other")
    write(own / "tasks/audio/__init__.py", '"""A package."""\n')
    write(own / "tasks/audio/one.py", EVALUATION)
    write(other / "tasks/audio/two.py", EVALUATION)
    monkeypatch.setenv(bench.COMPONENTS, os.pathsep.join([str(own), str(other)]))
    assert importlib.import_module("tasks.audio.one").run() == "tasks.audio.one"
    assert importlib.import_module("tasks.audio.two").run() == "tasks.audio.two"


@pytest.mark.parametrize("name", ["tasks/video/flow.py", "tasks/video/_farneback.py"])
def test_a_name_that_exists_twice_is_a_mistake(own: Path, name: str) -> None:
    """Helpers too: one of the two would never be imported. A loss and an evaluation share names."""
    path = write(own / name, EVALUATION)
    for kind in ("objective", "evaluation"):
        with pytest.raises(find.TwiceNamed, match="rename one") as caught:
            find.names(kind)
        assert str(path) in str(caught.value) and str(ROOT / name) in str(caught.value)


def test_a_broken_file_is_never_skipped(own: Path) -> None:
    write(own / "tasks/bad.py", "import no_such_dependency\n\n\ndef run(): ...\n")
    with pytest.raises(ModuleNotFoundError, match="no_such_dependency"):
        find.load("evaluation", "bad")


def test_a_file_that_no_name_can_mean_is_a_mistake(own: Path) -> None:
    path = write(own / "tasks/My-Loss.py", EVALUATION)
    with pytest.raises(ValueError, match="names have only a-z, 0-9 and _ in them") as caught:
        find.names("evaluation")
    assert str(path) in str(caught.value)


def test_spawned_and_new_processes_import_it_by_name(own: Path) -> None:
    write(own / "tasks/video/mine.py", EVALUATION)
    run = importlib.import_module("tasks.video.mine").run
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(run) == "tasks.video.mine"
    code = "import tasks.video.mine as mine; print(mine.run())"
    command = [sys.executable, "-c", code]
    assert subprocess.check_output(command, text=True, cwd=ROOT) == "tasks.video.mine\n"


def test_folders_of_the_working_directory_hide_nothing(tmp_path: Path) -> None:
    for package in ("tasks", "reports"):
        write(tmp_path / package / "__init__.py", "raise AssertionError('not the suite's')")
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    code = "import bench, tasks.video, reports.tables; print(tasks.__file__)"
    command = [sys.executable, "-c", code]
    found = subprocess.check_output(command, text=True, cwd=tmp_path, env=environment)
    assert found.strip() == str(ROOT / "tasks/__init__.py")


def test_what_was_imported_before_and_hides_the_suite_is_named(tmp_path: Path) -> None:
    write(tmp_path / "tasks/__init__.py", "")
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    code = "import tasks; from bench import find; find.names('objective')"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert f"{tmp_path / 'tasks'} hides the suite's {ROOT / 'tasks'}" in done.stderr


# -- --components ---


def test_the_option_may_be_repeated_and_adds_to_the_variable(
    own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    second, third = own.with_name("second"), own.with_name("third")
    for folder in (own, second, third):
        write(folder / f"tasks/{folder.name}.py", EVALUATION)
    monkeypatch.chdir(own.parent)
    arguments = ["x.yaml", "--components", "second", "--set", "a=1", f"--components={third}"]
    assert components.take(arguments) == ["x.yaml", "--set", "a=1"]
    assert os.environ[bench.COMPONENTS] == os.pathsep.join(map(str, (own, second, third)))
    assert {"own", "second", "third"} < set(find.names("evaluation"))


def test_a_wrong_folder_is_one_message(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(own / "tasks/mine.py", EVALUATION)
    (own.parent / "with:colon/tasks").mkdir(parents=True)
    twice = write(own.parent / "twice/tasks/mine.py", EVALUATION)
    (own.parent / "empty").mkdir()
    for name, message in {
        "nowhere": "no such folder",
        "empty": "has no folder of components (tasks, sources, decoders, ",
        "with:colon": "':' in its path",
        "twice": f"'mine' exists twice, rename one: {own / 'tasks/mine.py'} and {twice}",
    }.items():
        with pytest.raises(SystemExit) as stopped:
            components.take(["--components", str(own.parent / name)])
        assert stopped.value.code == 2
        assert message in capsys.readouterr().err
        os.environ[bench.COMPONENTS] = str(own)


@pytest.mark.parametrize(
    "command",
    [
        "sweep.command",
        "tune.command",
        "evaluate.command",
        "speed.command",
        "run.command",
        "prepare",
    ],
)
def test_every_command_takes_it(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    refuses(importlib.import_module(f"bench.{command}").main, capsys)


def test_the_report_takes_it(capsys: pytest.CaptureFixture[str]) -> None:
    refuses(build.main, capsys)


def refuses(main: Callable[[list[str]], int], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--components", "/no/where"])
    assert stopped.value.code == 2
    assert (
        capsys.readouterr().err == "--components (or BENCH_COMPONENTS): /no/where: no such folder\n"
    )
