"""The house rules that a program can check: one-way imports, a lean report, everything offline."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

from makers import ROOT


def test_imports_point_one_way() -> None:
    lint = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([str(lint)], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_results_and_reports_do_without_torch() -> None:
    code = "import sys, bench.results, reports.build; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_planning_does_not_import_timm_or_sklearn() -> None:
    """They cost seconds at every call of the command line."""
    code = (
        "import sys; from pathlib import Path; from bench.grid.plan import plan;"
        "plan(Path('sweeps/ablation.yaml'), 'mini');"
        "assert not {'timm', 'sklearn', 'torchvision'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_tests_do_not_look_outside_the_repository() -> None:
    for path in (ROOT / "tests").rglob("*.py"):
        if path.name != Path(__file__).name:
            assert "../shared" not in path.read_text(), path


def test_every_module_says_what_it_is() -> None:
    for folder in ("bench", "tasks", "reports"):
        for path in (ROOT / folder).rglob("*.py"):
            if path.stat().st_size:
                assert ast.get_docstring(ast.parse(path.read_text())), path


def test_no_unsafe_loading_and_no_network_code() -> None:
    for folder in ("bench", "tasks", "reports"):
        for path in (ROOT / folder).rglob("*.py"):
            if path.name == "make_assets.py":
                continue
            text = path.read_text()
            for call in (
                "weights_only=False",
                "pickle.load",
                "urllib",
                "requests.get",
                "yaml.unsafe",
            ):
                assert call not in text, f"{path}: {call}"
