"""Fixtures of this room: a data folder whose shards hold videos, and a copy of the shards to be damaged."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.data.sources import mini_ssv2


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder whose shards hold videos."""
    folder = tmp_path_factory.mktemp("videos")
    mini_ssv2.prepare(mini_ssv2.Config(frames="video", train=24, tune=12, test=12), folder)
    return folder


@pytest.fixture
def data(videos: Path, tmp_path: Path) -> Path:
    """A copy of the data, to be damaged."""
    (shards,) = (path for path in videos.iterdir() if path.is_dir())
    copy = tmp_path / "data" / shards.name
    copy.mkdir(parents=True)
    for path in shards.iterdir():
        if path.is_file():
            (copy / path.name).write_bytes(path.read_bytes())
    return copy
