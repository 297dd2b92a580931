"""What holds for a component of any kind; the other files here have the rules of one kind each.

Components are found, not named, so a new file is tested by being there.
"""

from __future__ import annotations

import pytest

from bench import find

COMPONENTS = [(kind, name) for kind in find.PACKAGES for name in find.names(kind)]
WITH_OPTIONS = [
    (kind, name) for kind, name in COMPONENTS if "Config" in find.contract(kind).__annotations__
]


@pytest.mark.parametrize(("kind", "name"), COMPONENTS)
def test_it_keeps_its_contract_and_says_what_it_is(kind: str, name: str) -> None:
    module = find.load(kind, name)  # raises InvalidComponent with all that is wrong
    assert module.__doc__, "the module's docstring says what it is"


@pytest.mark.parametrize(("kind", "name"), WITH_OPTIONS)
def test_its_numbers_can_be_traced(kind: str, name: str) -> None:
    module = find.load(kind, name)
    assert len(module.__doc__) > 60, "the docstring says where it comes from, or how it works"
    assert module.VERSION >= 1, "VERSION counts from 1"
    tiny = module.Config.tiny()
    assert module.Config.model_validate_json(tiny.model_dump_json()) == tiny, (
        "options come back equal from JSON: a run directory keeps them so"
    )
