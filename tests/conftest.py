"""What every test shares: no network, one small data set per session, quiet threads."""

from __future__ import annotations

import gc
import os
import socket
from pathlib import Path

import pytest

# Also for the processes that tests start: hubs answer from their caches or not at all.
os.environ.update(HF_HUB_OFFLINE="1", OMP_NUM_THREADS="1", MKL_NUM_THREADS="1")

ROOT = Path(__file__).resolve().parent.parent

# Fonts are looked for once on a machine, not once in each cache of a test.
os.environ.setdefault(
    "MPLCONFIGDIR",
    str(Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "matplotlib"),
)

# What imports make stays until the end: to look through it for garbage again and again takes seconds.
gc.disable()


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


def pytest_unconfigure() -> None:
    gc.unfreeze()


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: object) -> None:
        if self.family != socket.AF_UNIX:
            raise RuntimeError(f"a test tried to connect to {address}: everything must run offline")
        connect(self, address)  # type: ignore[arg-type]

    monkeypatch.setattr(socket.socket, "connect", guarded)


@pytest.fixture(autouse=True, scope="session")
def _threads() -> None:
    import cv2
    import torch

    torch.set_num_threads(1)
    cv2.setNumThreads(0)


@pytest.fixture(autouse=True, scope="session")
def _cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Nothing of the tests stays in the user's cache."""
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with the tiny built-in data set, as the smoke scale uses it."""
    from bench import find
    from bench.grid.plan import plan

    folder = tmp_path_factory.mktemp("data")
    grid = plan(ROOT / "sweeps/ablation.yaml", "smoke")
    data = grid.cells[0].config.data
    find.load("source", data.name).prepare(data.config, folder)
    return folder
