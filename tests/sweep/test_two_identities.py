"""A measurement never costs a training run: what is trained has a signature, what is measured of it a
digest, and a sweep makes what is missing of either.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from makers import ROOT

from bench import find, results
from bench.results import TRAINING
from bench.run.cell import run_cell
from bench.store.rundir import RunDir, State
from bench.sweep.command import main
from tasks.video import flow

GAP, PROBE = "video.shuffle_gap", "video.order_probe"
SWEEP = """title: One cell
base:
  model.name: timesformer
  objectives: {{classify: {{}}}}
  evaluations: {{{evaluations}}}
axes:
  method: {{baseline: {{}}}}
"""
ONE, BOTH = f"{GAP}: {{}}", f"{GAP}: {{}}, {PROBE}: {{}}"


class World:
    """A folder with a sweep of one cell, and the command line on it."""

    def __init__(self, folder: Path, data_dir: Path) -> None:
        self.folder, self._data_dir = folder, data_dir

    @property
    def runs(self) -> Path:
        return self.folder / "runs"

    def sweep(self, *more: str, evaluations: str = ONE, name: str = "one") -> int:
        path = self.folder / f"{name}.yaml"
        path.write_text(SWEEP.format(evaluations=evaluations))
        places = ("--runs", str(self.runs), "--launcher", "inline")
        data = ("--set", f"resources.data_dir={self._data_dir}", "--set", "resources.device=cpu")
        return main([str(path), "--scale", "smoke", *places, *data, *more])

    def run(self) -> RunDir:
        [path] = [path.parent for path in self.runs.glob("*/config.yaml")]
        return RunDir(path)

    def trained(self) -> dict[Path, int]:
        """The files of training, and when each was written."""
        run = self.run()
        files = (run.config, run.env, run.metrics, run.last, run.result)
        return {path: path.stat().st_mtime_ns for path in files}


@pytest.fixture(scope="module")
def _trained(tmp_path_factory: pytest.TempPathFactory, data_dir: Path) -> Path:
    world = World(tmp_path_factory.mktemp("one"), data_dir)
    assert world.sweep() == 0
    return world.folder


@pytest.fixture
def world(_trained: Path, tmp_path: Path, data_dir: Path) -> World:
    """Whose one cell is trained and has its shuffle gap."""
    return World(Path(shutil.copytree(_trained, tmp_path / "world")), data_dir)


def test_an_added_evaluation_trains_nothing(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    before, run = world.trained(), world.run()
    gap = results.load(world.runs)
    assert world.sweep("--plan", evaluations=BOTH) == 0
    out = capsys.readouterr().out
    assert "0 to train, 1 to evaluate" in out and f"to be measured: {PROBE}" in out
    assert run.measured() == set(run.read_asked() or ())  # the plan has written nothing
    assert world.sweep(evaluations=BOTH) == 0
    assert "1 TRAINED; launching 1 cells: 0 to train, 1 to evaluate" in capsys.readouterr().out
    assert world.trained() == before
    frame = results.load(world.runs)
    assert set(frame["evaluation"]) == {GAP, PROBE, TRAINING} and set(frame["state"]) == {"DONE"}
    kept = frame[frame["evaluation"] == GAP]["value"].tolist()
    assert kept == gap[gap["evaluation"] == GAP]["value"].tolist()
    assert world.sweep(evaluations=BOTH) == 0
    assert "launching 0 cells" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("evaluations", "setting"),
    [
        (f"{GAP}: {{permutations: 2}}", None),
        (ONE, "input.eval_crops=3"),
        (ONE, "input.average=probabilities"),
    ],
)
def test_other_options_are_another_measurement_of_the_same_weights(
    evaluations: str, setting: str | None, world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    before, first = world.trained(), world.run().measured()
    more = ("--set", setting) if setting else ()
    assert world.sweep(*more, evaluations=evaluations) == 0
    assert "0 to train, 1 to evaluate" in capsys.readouterr().out
    assert world.trained() == before
    assert world.run().measured() > first and len(world.run().measured()) == 2


def test_another_version_is_measured_again(
    world: World, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(find.load("evaluation", GAP), "VERSION", 9)
    assert world.sweep() == 0
    assert "0 to train, 1 to evaluate" in capsys.readouterr().out
    versions = {folder["version"] for folder in measured(world.run())}
    assert versions == {2, 9}


def test_numbers_of_this_version_never_stand_under_another(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cell that was queued, and is started by other code."""
    run = world.run()
    shutil.rmtree(run.evaluations)
    monkeypatch.setattr(find.load("evaluation", GAP), "VERSION", 9)
    assert run_cell(run.path) == State.FAILED
    assert "version 2 is asked for, this code has version 9" in run.error.read_text()
    assert not run.measured()


def measured(run: RunDir) -> list[dict[str, object]]:
    return [run.evaluation(one).read_result() or {} for one in run.measured()]


def test_numbers_of_different_digests_are_never_averaged(world: World) -> None:
    """Two sweeps, one run: each has its own numbers, under its own name."""
    assert world.sweep("--set", "input.eval_crops=3", name="three") == 0
    frame = results.load(world.runs)
    by_sweep = frame.groupby("sweep")
    assert set(by_sweep.groups) == {"one", "three"}
    for name, crops in (("one", "1 centre crop"), ("three", "3 crops")):
        rows = by_sweep.get_group(name)
        rows = rows[rows["evaluation"] != TRAINING]
        assert rows["provenance"].str.contains(crops).all()
        assert not rows.duplicated(["split", "view", "subset", "metric"]).any()
    assert frame["signature"].nunique() == 2
    assert {name.partition("+")[0] for name in frame["signature"]} == {world.run().signature}


def test_cells_that_differ_in_what_is_measured_are_trained_once(
    tmp_path: Path, data_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    world = World(tmp_path, data_dir)
    sweep = tmp_path / "crops.yaml"
    sweep.write_text(
        SWEEP.format(evaluations=ONE)
        + "  crops: {one: {}, three: {input.eval_crops: 3}}\nscales: .\n"
    )
    (tmp_path / "smoke.yaml").write_text((ROOT / "sweeps/scales/smoke.yaml").read_text())
    places = ("--runs", str(world.runs), "--launcher", "inline")
    data = ("--set", f"resources.data_dir={data_dir}", "--set", "resources.device=cpu")
    arguments = [str(sweep), "--scale", "smoke", *places, *data]
    assert main(arguments) == 0
    assert "2 DONE" in capsys.readouterr().out
    assert len(world.run().measured()) == 2 and len(world.run().read_starts()) == 1
    assert main(arguments) == 0
    assert "launching 0 cells" in capsys.readouterr().out


def test_without_weights_it_says_what_it_costs(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    run, steps = world.run(), world.run().metrics.read_bytes()
    shutil.rmtree(run.last.parent)
    assert world.sweep() == 0  # nothing is missing
    assert world.sweep(evaluations=BOTH) == 1
    out = capsys.readouterr().out
    assert f"kept no weights, so {PROBE} costs training it again: --retrain" in " ".join(
        out.split()
    )
    assert run.read_rows() and len(world.run().measured()) == 1
    assert world.sweep("--retrain", evaluations=BOTH) == 0
    assert len(world.run().measured()) == 2 and world.run().metrics.read_bytes() == steps
    assert len(list((world.runs / "replaced").iterdir())) == 1


def test_a_failed_evaluation_takes_neither_the_weights_nor_the_others(
    world: World, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = world.trained()

    def broken(*_: object) -> None:
        raise RuntimeError("no such luck")

    with monkeypatch.context() as patch:
        patch.setattr(find.load("evaluation", PROBE), "run", broken)
        assert world.sweep(evaluations=BOTH) == 1
    assert world.run().state() == State.FAILED
    frame = results.load(world.runs)
    assert set(frame["evaluation"]) == {GAP, TRAINING} and set(frame["state"]) == {"DONE"}
    assert frame["reason"].str.contains(f"{PROBE} failed: BUG: RuntimeError: no such luck").all()
    capsys.readouterr()
    assert world.sweep() == 0, "what this sweep asks for is all there"
    assert "1 DONE; launching 0 cells" in capsys.readouterr().out
    assert world.sweep(evaluations=BOTH) == 0
    assert world.trained() == before and world.run().state() == State.DONE


def test_a_broken_measurement_is_damaged_and_made_again(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, weights = measured(world.run()), world.run().last.read_bytes()
    [identity] = world.run().measured()
    path = world.run().evaluation(identity).result
    path.write_text(json.dumps({"evaluation": GAP}))
    holes = results.load(world.runs)
    assert set(holes["state"]) == {"DAMAGED"} and str(path) in holes["reason"][0]
    assert world.sweep("--plan") == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "1 DAMAGED" in out and "0 to train, 1 to evaluate" in out
    assert world.sweep() == 0
    assert world.run().last.read_bytes() == weights
    (after,) = measured(world.run())
    assert {**after, "seconds": 0} == {**whole[0], "seconds": 0}
    [aside] = path.parent.glob("result.json.damaged-*")
    assert aside.read_text() == json.dumps({"evaluation": GAP})


def test_earlier_runs_keep_their_name_and_are_measured_further(
    tmp_path: Path,
    data_dir: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Directories whose name also signed the evaluations."""
    old = ROOT / "tests/fixtures/old_runs"
    runs = Path(shutil.copytree(old / "runs", tmp_path / "runs"))
    monkeypatch.setattr(flow, "SMALLEST", 0)  # as it was
    text = (old / "old.yaml").read_text()
    assert "evaluations: {video.shuffle_gap: {}}" in text
    further = tmp_path / "old.yaml"
    further.write_text(text.replace(f"{{{ONE}}}", f"{{{BOTH}}}"))
    data = ("--set", f"resources.data_dir={data_dir}")
    assert main([str(further), "--scale", "smoke", "--runs", str(runs), "--plan", *data]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "0094dbc920555cda" in out and "b9546d10603b9974" in out and "2 TRAINED" in out
    assert "kept no weights" in out  # the fixture holds none
