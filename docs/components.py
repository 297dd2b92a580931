"""Writes docs/components.md from the protocols of components: `python docs/components.py`.

`tests/contracts/test_page.py` holds the page equal to what this writes.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterator
from pathlib import Path

from bench import find

PAGE = Path(__file__).with_suffix(".md")
WIDTH = 120

HEAD = """\
# Components

Made from the protocols by `python docs/components.py`; edit those, not this page.

A component is one Python file, and its path is its name. What the file must and may offer is below, for each kind; in
the code these are protocols in `bench.task`, `bench.models.named`, `bench.data.decoders`,
`bench.export.sinks` and `reports.contracts`.
Whoever loads a component gets it checked: what is missing or wrong is one message with the file, every such member and
the signature wanted, and the command ends with status 2. Parameters before a `*` are given by position, so their names
are free; further ones need defaults. `task` is `bench.task`.

How to write one, step by step: [CONTRIBUTING](../CONTRIBUTING.md). `python -m pytest tests/contracts` tests every
component that is found.
"""
TITLES = {
    "source": "Data set",
    "decoder": "Decoder",
    "backbone": "Backbone",
    "adapter": "Adapter",
    "objective": "Objective",
    "evaluation": "Evaluation",
    "benchmark": "Benchmark",
    "sink": "Sink",
    "table": "Table",
    "figure": "Figure",
}


def page() -> str:
    """What docs/components.md says."""
    assert TITLES.keys() == find.CONTRACTS.keys()
    return "\n".join([HEAD, *(section(kind) for kind in TITLES)])


def section(kind: str) -> str:
    """One kind: what it is, what it must offer, what it may."""
    contract = find.contract(kind)
    (tree,) = ast.parse(inspect.getsource(contract)).body
    assert isinstance(tree, ast.ClassDef)
    required, optional = [], []
    for name, text in members(tree):
        (required if is_required(contract, name) else optional).append(text)
    lines = [f"## {TITLES[kind]}", "", filled(ast.get_docstring(tree) or ""), ""]
    lines += ["Required:", "", *required, ""]
    return "\n".join(lines + (["Optional:", "", *optional, ""] if optional else []))


def is_required(contract: type, name: str) -> bool:
    """An abstract function, or a value without a default."""
    member = vars(contract).get(name)
    return member is None or getattr(member, "__isabstractmethod__", False)


def members(tree: ast.ClassDef) -> Iterator[tuple[str, str]]:
    """Name and list item of each member, as written."""
    for node, after in zip(tree.body, [*tree.body[1:], None], strict=True):
        if isinstance(node, ast.FunctionDef):
            yield node.name, item(signature(node), ast.get_docstring(node) or "")
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            assert isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
            yield node.target.id, item(value(node), inspect.cleandoc(str(after.value.value)))


def signature(node: ast.FunctionDef) -> str:
    parameters = ast.unparse(node.args).removeprefix("self").removeprefix(", ")
    return (
        f"{node.name}({parameters}) -> {ast.unparse(node.returns)}" if node.returns else node.name
    )


def value(node: ast.AnnAssign) -> str:
    """`name: type`, and what it is where the module has none."""
    kind = node.annotation
    if isinstance(kind, ast.Subscript) and ast.unparse(kind.value) == "Annotated":
        assert isinstance(kind.slice, ast.Tuple)
        kind = kind.slice.elts[0]
    default = f" = {ast.unparse(node.value)}" if node.value else ""
    return f"{ast.unparse(node.target)}: {ast.unparse(kind)}{default}"


def item(code: str, text: str) -> str:
    return filled(f"* `{code}`: {text}", indent="  ")


def filled(text: str, indent: str = "") -> str:
    return textwrap.fill(
        " ".join(text.split()), WIDTH, subsequent_indent=indent, break_on_hyphens=False
    )


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
