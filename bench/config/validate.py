"""A mapping from YAML -> a validated model; pydantic's errors -> mistakes with their paths."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import pydantic

from bench import find
from bench.config.mistakes import KeyPath, Mistake, cut, shown
from bench.task import Config


def validated(model: type[Config], raw: Any, path: KeyPath, mistakes: list[Mistake]) -> Any:
    if not isinstance(raw, Mapping):
        mistakes.append(Mistake(path, f"must be a mapping of options, got {shown(raw)}"))
        return None
    value, errors = _validate(model, json.dumps(raw, default=str, sort_keys=True))
    mistakes += [Mistake((*path, *where), message) for where, message in errors]
    return value


@lru_cache(maxsize=65536)
def _validate(model: type[Config], raw: str) -> tuple[Any, tuple[tuple[KeyPath, str], ...]]:
    """Cached: the cells of a grid share most of their parts. JSON mode: lists become tuples, ints
    become floats.
    """
    try:
        return model.model_validate_json(raw), ()
    except pydantic.ValidationError as error:
        return None, tuple(_explain(model, e) for e in error.errors(include_url=False))


def _explain(model: type[Config], error: Any) -> tuple[KeyPath, str]:
    where = tuple(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        return where, f"unknown key{find.nearest(where[-1], tuple(model.model_fields))}"
    message = error["msg"].removeprefix("Value error, ")
    if where and (field := model.model_fields.get(where[0])) and field.description:
        message += f" ({field.description})"
    if where:
        message += f"; got {cut(json.dumps(error['input'], default=str))}"
    return where, message
