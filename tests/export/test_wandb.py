"""The sink `wandb`: the file of an offline run, read back record by record."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from trackers import export, points_of, scalars_of

from bench.store.rundir import RunDir

pytest.importorskip("wandb")

BLOCK, HEADER = 32768, struct.Struct("<IHB")
FULL, FIRST, LAST = 1, 2, 4


def chunks(content: bytes) -> Iterator[bytes]:
    """What a log in LevelDB's format holds, after the 7 bytes that W&B begins it with."""
    at, parts = 7, b""
    while at < len(content):
        if BLOCK - at % BLOCK < HEADER.size:  # the rest of a block is too short for a header
            at += BLOCK - at % BLOCK
            continue
        _, length, kind = HEADER.unpack_from(content, at)
        at += HEADER.size
        parts = (b"" if kind in (FULL, FIRST) else parts) + content[at : at + length]
        at += length
        if kind in (FULL, LAST):
            yield parts


def records(folder: Path) -> list[Any]:
    from wandb.proto.wandb_internal_pb2 import Record

    (path,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    return [Record.FromString(chunk) for chunk in chunks(path.read_bytes())]


def key(item: Any) -> str:
    return item.key or "/".join(item.nested_key)


def test_it_holds_every_step_and_row_once_and_stays_offline(
    run: RunDir, metrics: list[dict[str, Any]], tmp_path: Path
) -> None:
    for _ in range(2):
        said = export("wandb", run, tmp_path, WANDB_MODE="online", WANDB_API_KEY="0" * 40)
    assert "wandb sync" in said
    found = records(tmp_path)
    (begun,) = [record.run for record in found if record.HasField("run")]
    assert (begun.run_id, begun.project) == (run.signature, "time-matters")
    config = {key(item): json.loads(item.value_json) for item in begun.config.update}
    assert config["model"] == run.read_config()["model"]
    history = [
        (key(item), record.history.step.num, json.loads(item.value_json))
        for record in found
        if record.HasField("history")
        for item in record.history.item
    ]
    wanted = set(points_of(metrics))  # a step and its validation are one line of a history
    names = {name for name, _, _ in wanted}
    assert sorted(point for point in history if point[0] in names) == sorted(wanted)
    summary = {
        key(item): json.loads(item.value_json)
        for record in found
        if record.HasField("summary")
        for item in record.summary.update
    }
    assert scalars_of(run).items() <= summary.items()
