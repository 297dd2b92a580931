"""Cells that start from other cells: the parent is trained first, once, and what started from it is never
mixed with what it has become.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from damaging import damage
from makers import IMAGE_VIT, final_weights

from bench.models.weights import digest_of_tensors
from bench.store.rundir import RunDir, State
from bench.sweep.command import main

SWEEP = """title: From an image model
base:
  model: {name: timesformer, init: {cell: image ViT}}
  objectives: {classify: {}}
  evaluations: {video.shuffle_gap: {}}
axes:
  method:
    baseline: {}
    + order: {objectives: {video.order: {}}}
"""


class World:
    def __init__(self, folder: Path, data_dir: Path) -> None:
        self.folder, self._data_dir = folder, data_dir
        self.runs = folder / "runs"

    def sweep(self, *more: str, launcher: str = "inline") -> int:
        path = self.folder / "started.yaml"
        path.write_text(SWEEP + IMAGE_VIT)
        places = ("--runs", str(self.runs), "--launcher", launcher, "--scale", "smoke")
        data = ("--set", f"resources.data_dir={self._data_dir}", "--set", "resources.device=cpu")
        return main([str(path), *places, *data, *more])

    def cells(self) -> tuple[RunDir, list[RunDir]]:
        """The parent, and what starts from it."""
        runs = [RunDir(path.parent) for path in sorted(self.runs.glob("*/config.yaml"))]
        [parent] = [run for run in runs if run.read_config()["model"]["name"] == "vit"]
        return parent, [run for run in runs if run != parent]


@pytest.fixture(scope="module")
def _trained(tmp_path_factory: pytest.TempPathFactory, data_dir: Path) -> Path:
    world = World(tmp_path_factory.mktemp("parents"), data_dir)
    assert world.sweep() == 0
    return world.folder


@pytest.fixture
def world(_trained: Path, tmp_path: Path, data_dir: Path) -> World:
    """Parent and two cells, all trained."""
    return World(Path(shutil.copytree(_trained, tmp_path / "world")), data_dir)


Said = pytest.CaptureFixture[str]


def test_cells_start_from_the_weights_of_their_parent(world: World) -> None:
    parent, started = world.cells()
    weights = {
        key.removeprefix("classifier."): tensor
        for key, tensor in final_weights(parent).items()
        if key.startswith("classifier.")
    }
    for run in started:
        result = run.read_result()
        assert result is not None
        record = {
            "name": f"run:{parent.signature}",
            "file": "last.pt",
            "sha256": digest_of_tensors(weights),
        }
        assert result["started_from"] == record
        assert run.read_config()["model"]["init"] == f"run:{parent.signature}"


def test_a_parent_is_trained_once_and_is_no_row_of_the_sweep(world: World, capsys: Said) -> None:
    assert world.sweep() == 0
    assert "launching 0 cells" in capsys.readouterr().out
    manifest = (world.runs / "sweeps/started-smoke.json").read_text()
    parent, started = world.cells()
    assert parent.signature not in manifest and all(r.signature in manifest for r in started)


def test_a_parent_that_is_gone_is_not_made_again_for_nobody(world: World, capsys: Said) -> None:
    parent, [one, other] = world.cells()
    shutil.rmtree(parent.path)
    assert world.sweep() == 0
    out = capsys.readouterr().out
    assert "launching 0 cells" in out and not parent.path.exists()
    before = final_weights(one)
    shutil.rmtree(other.path)
    assert world.sweep() == 0
    assert parent.is_trained() and other.is_trained()
    assert all(torch.equal(tensor, before[key]) for key, tensor in final_weights(one).items())


def test_what_started_from_other_weights_is_stale(world: World, capsys: Said) -> None:
    """The parent is trained again elsewhere, with another device's rounding: stood for by other weights."""
    from bench.store.result_files import Kind, write_result

    parent, started = world.cells()
    result = parent.read_result()
    assert result is not None
    write_result(parent.result, Kind.TRAINING, {**result, "weights": "0" * 64})
    assert world.sweep("--status") == 0
    out = capsys.readouterr().out
    assert out.count("STALE") == len(started) + 1  # and in the line with the counts
    assert world.sweep() == 1 and "launching 0 cells" in capsys.readouterr().out


def test_a_parent_without_weights_is_said_and_retrained_on_demand(
    world: World, capsys: Said
) -> None:
    parent, [_, other] = world.cells()
    parent.last.unlink()
    shutil.rmtree(other.path)
    assert world.sweep() == 1
    assert "kept no weights, and cells are to start from them: --retrain" in capsys.readouterr().out
    assert not other.path.exists()
    assert world.sweep("--retrain") == 0
    assert parent.last.exists() and other.is_trained()


def test_a_damaged_parent_is_named_by_what_would_start_from_it(world: World) -> None:
    parent, [_, other] = world.cells()
    damage(parent.last, "flipped")
    shutil.rmtree(other.path)
    assert world.sweep() == 1
    assert other.state() == State.FAILED and str(parent.last) in other.error_line()


@pytest.mark.slow
def test_what_fails_takes_what_starts_from_it_along_and_no_other(
    tmp_path: Path, data_dir: Path, capsys: Said
) -> None:
    world = World(tmp_path, data_dir)
    assert world.sweep("--plan") == 0
    signature = next(
        line.split("│")[3].strip()
        for line in capsys.readouterr().out.splitlines()
        if "image ViT" in line
    )
    world.runs.mkdir()
    (world.runs / signature).write_text("in its place")  # DAMAGED: not started
    assert world.sweep(launcher="local") == 1
    out = capsys.readouterr().out
    assert out.count("not again") == 3 and signature in out
