"""The house rules that a program can check: one-way imports, a lean report, everything offline, sizes."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from makers import ROOT


def test_imports_point_one_way() -> None:
    lint = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([str(lint)], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_results_and_reports_do_without_torch() -> None:
    code = (
        "import sys, bench.results, reports.made as b; b.ordered('table'); b.ordered('figure');"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_planning_does_not_import_timm_or_sklearn() -> None:
    """They cost seconds at every call of the command line."""
    code = (
        "import sys; from pathlib import Path; from bench.grid.plan import plan;"
        "plan(Path('sweeps/ablation.yaml'), 'mini');"
        "from bench.models.backbones import vit;"
        "assert vit.skip(vit.Config(), frames=1, size=224) is None;"
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


def test_text_is_shown_through_one_place() -> None:
    """Where text from files is made inert."""
    ways = re.compile(r"(?<![\w.])print\(|\bConsole\(|\bbasicConfig\(|\bstd(out|err)\.write\(")
    apart = ("shown", "assets", "_measuring.py", "__main__.py")
    for folder in ("bench", "tasks", "reports"):
        for path in (ROOT / folder).rglob("*.py"):
            if not set(apart) & set(path.parts):
                assert not ways.search(path.read_text()), path


# -- size: what one screen and one memory hold ---

Function = ast.FunctionDef | ast.AsyncFunctionDef


def sources() -> list[Path]:
    return [path for room in ("bench", "tasks", "reports") for path in (ROOT / room).rglob("*.py")]


def functions() -> Iterator[tuple[str, Function]]:
    for path in sources():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, Function):
                yield f"{path.relative_to(ROOT)}:{node.lineno} {node.name}", node


def parameters(function: Function) -> int:
    """Without self and cls."""
    a = function.args
    named = [p.arg for p in (*a.posonlyargs, *a.args, *a.kwonlyargs)]
    return sum(name not in ("self", "cls") for name in named) + bool(a.vararg) + bool(a.kwarg)


def test_functions_fit_a_screen() -> None:
    lines = {name: (f.end_lineno or f.lineno) - f.lineno + 1 for name, f in functions()}
    assert not {name: n for name, n in lines.items() if n > 60}
    assert sorted(lines.values())[int(0.9 * len(lines))] <= 22


def test_no_function_has_more_than_seven_parameters() -> None:
    found = {name: parameters(function) for name, function in functions()}
    assert not {name: n for name, n in found.items() if n > 7}


def test_no_file_is_longer_than_450_lines() -> None:
    lines = {path: path.read_text(encoding="utf-8").count("\n") for path in sources()}
    assert not {path: n for path, n in lines.items() if n > 450}


def test_what_does_not_lie_in_a_room_is_little() -> None:
    assert len(list((ROOT / "bench").glob("*.py"))) <= 8


def test_no_two_public_classes_share_a_name() -> None:
    """But those that every component has."""
    found: dict[str, list[Path]] = {}
    for path in sources():
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                found.setdefault(node.name, []).append(path)
    of_components = ("Config", "Objective")
    assert not {n: paths for n, paths in found.items() if len(paths) > 1 and n not in of_components}
