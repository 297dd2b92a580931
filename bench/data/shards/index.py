"""What index.json must hold. Checked before anything in it is used."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any

import pydantic

INDEX = "index.json"
INDEX_DIGEST = "index.json.sha256"  # as sha256sum writes it
_Count = Annotated[int, pydantic.Field(ge=0)]


class _Part(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(strict=True, extra="allow")


class _Split(_Part):
    samples: _Count
    shards: list[str]


class _Shard(_Part):
    count: _Count
    bytes: _Count
    sha256: str


class _Frames(_Part):
    storage: str
    made_by: str
    rule: str


class _Index(_Part):
    """What index.json must hold; folders of earlier versions lack the last two."""

    source: str
    source_version: int
    config: dict[str, Any]
    classes: list[str]
    subsets: dict[str, list[_Count]]
    frames: _Frames
    splits: dict[str, _Split]
    shards: dict[str, _Shard]
    failed: list[dict[str, str]]
    samples_sha256: str
    media: str = "video"
    layers: dict[str, list[str]] = {}


def malformed(index: Mapping[str, Any]) -> list[str]:
    """What is missing or of another kind, a line each."""
    try:
        _Index.model_validate(index)
    except pydantic.ValidationError as error:
        return [_explain(e) for e in error.errors(include_url=False)]
    return []


def _explain(error: Any) -> str:
    where = ".".join(map(str, error["loc"]))
    if error["type"] == "missing":
        return f"{INDEX} lacks {where}"
    message = error["msg"][0].lower() + error["msg"][1:]
    return f"{INDEX}: {where}: {message}, not {json.dumps(error['input'])[:60]}"
