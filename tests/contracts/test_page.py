"""docs/components.md says what the contracts say."""

from __future__ import annotations

import inspect
import re
import runpy

import pytest
from makers import ROOT

from bench import find

RECIPES = {
    "source": "a data set",
    "decoder": "a decoder",
    "backbone": "a backbone",
    "adapter": "an adapter",
    "objective": "an objective",
    "evaluation": "an evaluation",
    "benchmark": "a benchmark",
    "sink": "a sink",
    "table": "a table or a figure",
    "figure": "a table or a figure",
}


def test_the_page_is_as_generated() -> None:
    made = runpy.run_path(str(ROOT / "docs/components.py"))["page"]()
    assert (ROOT / "docs/components.md").read_text(encoding="utf-8") == made, (
        "a contract was changed: run `python docs/components.py`"
    )


@pytest.mark.parametrize("kind", find.CONTRACTS)
def test_optional_functions_say_what_happens_without_them(kind: str) -> None:
    for name, member in vars(find.contract(kind)).items():
        required = getattr(member, "__isabstractmethod__", False)
        if inspect.isfunction(member) and not name.startswith("_") and not required:
            assert "Without it" in " ".join((member.__doc__ or "").split()), (
                f"{name} is optional, so its docstring says what happens without it"
            )


@pytest.mark.parametrize("kind", find.CONTRACTS)
def test_the_recipes_name_every_required_member(kind: str) -> None:
    contract = find.contract(kind)
    values = {name for name in contract.__annotations__ if not hasattr(contract, name)}
    functions = contract.__abstractmethods__ & vars(contract).keys()
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    before, *recipes = text.split("\n## ")
    recipe = next(r for r in recipes if RECIPES[kind] in r.partition("\n")[0])
    for name in functions | values:
        named = re.compile(rf"`(def |class )?{name}\b")
        assert named.search(before + recipe), f"the recipe of {RECIPES[kind]} names `{name}`"
    assert len(re.findall(r"^\d+\. ", recipe, re.MULTILINE)) <= 10, (
        "a recipe has ten points at most"
    )
