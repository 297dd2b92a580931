"""The command `time-matters`, and the suite as an installed package, far from its source."""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest
from makers import ROOT

from bench import __main__ as commands
from reports import build as report

SWEEP = """
base:
  model: {name: timesformer}
  objectives: {classify: {}}
  evaluations: {video.shuffle_gap: {}}
axes:
  method:
    baseline: {}
    + order: {objectives: {video.order: {}}}
"""


# -- the command ---


def test_it_lists_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ([], ["--help"]):
        assert commands.main(arguments) == 0
        listed = capsys.readouterr().out
        assert all(f"  {name} " in listed for name in commands.COMMANDS)
    assert commands.main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("time-matters ")


def test_an_unknown_command_is_bad_input(capsys: pytest.CaptureFixture[str]) -> None:
    assert commands.main(["swep"]) == 2
    assert "unknown command 'swep'; did you mean 'sweep'?" in capsys.readouterr().err


@pytest.mark.parametrize("name", commands.COMMANDS)
def test_each_command_is_there(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        commands.main([name, "--help"])
    assert stopped.value.code == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"usage: time-matters {name} ") and "--components DIR" in shown


@pytest.mark.parametrize("name", commands.COMMANDS)
def test_each_module_goes_by_its_own_name(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    path, _, function = commands.COMMANDS[name].function.partition(":")
    with pytest.raises(SystemExit):
        getattr(importlib.import_module(path), function)(["--help"])
    module = path.removesuffix(".command")
    assert capsys.readouterr().out.startswith(f"usage: python -m {module} ")


def test_messages_begin_with_the_name_of_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--runs", str(tmp_path / "absent"), "--out", str(tmp_path / "out")]
    assert commands.main(["report", *given]) == 2 == report.main(given)
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("time-matters report: ")
    assert second == first.replace("time-matters report", "python -m reports.build")


def test_it_imports_only_the_command_asked_for() -> None:
    code = "import sys; from bench.__main__ import main; main({}); print({} & set(sys.modules))"
    for arguments, modules in (([], {"numpy"}), (["report", "--runs", "/none"], {"torch"})):
        command = [sys.executable, "-c", code.format(arguments, modules)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        assert done.stdout.endswith("set()\n")


# -- installed ---


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of a new virtual environment into which the suite was installed (not editable).
    Its dependencies are those of this one; a .pth file in there, an editable suite's, is not read.
    """
    folder = tmp_path_factory.mktemp("installed")
    source = folder / "source"
    ignored = shutil.ignore_patterns("__pycache__", "out", "example")
    for package in ("bench", "tasks", "reports", "sweeps"):
        shutil.copytree(ROOT / package, source / package, ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    environment = folder / "venv"
    venv.create(environment)
    [packages] = environment.glob("lib/python*/site-packages")
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    pip = [sys.executable, "-m", "pip", "--python", str(environment / "bin/python"), "install"]
    pip += ["--quiet", "--no-deps", "--no-index", "--no-build-isolation", str(source)]
    subprocess.run(pip, check=True)
    shutil.rmtree(source)
    return environment / "bin"


def run(command: list[str | Path], folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(
        list(map(str, command)), cwd=folder, env=environment, capture_output=True, text=True, check=False
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.mark.slow
def test_a_sweep_and_its_report_from_an_empty_folder(installed: Path, tmp_path: Path) -> None:
    where = [installed / "python", "-c", "import bench; print(bench.SUITE)"]
    assert Path(run(where, tmp_path).stdout.strip()).is_relative_to(installed.parent)
    (tmp_path / "my.yaml").write_text(SWEEP)
    # folders of the suite's names, which must not hide it
    for name in ("tasks", "reports", "sweeps"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise AssertionError('not the suite')")
    tool = installed / "time-matters"
    run([tool, "sweep", "my.yaml", "--scale", "smoke"], tmp_path)
    status = run([tool, "sweep", "my.yaml", "--scale", "smoke", "--status"], tmp_path).stdout
    assert "DONE" in status and len(list(tmp_path.glob("runs/*/result.json"))) == 2
    with_folder_first = [installed / "python", "-m", "bench.sweep"]
    assert (
        "DONE"
        in run([*with_folder_first, "my.yaml", "--scale", "smoke", "--plan"], tmp_path).stdout
    )
    run([tool, "report"], tmp_path)
    assert "+ order" in (tmp_path / "reports/out/index.html").read_text()


@pytest.mark.slow
def test_sweeps_of_the_suite_from_an_empty_folder(installed: Path, tmp_path: Path) -> None:
    tool = installed / "time-matters"
    for name in ("ablation", "background"):
        plan = run([tool, "sweep", name, "--scale", "smoke", "--plan"], tmp_path).stdout
        assert "+ TIME" in plan
    assert list(tmp_path.iterdir()) == []
