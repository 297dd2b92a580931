"""The search: what it proposes, that no trial is lost or doubled whoever dies, and what it leaves."""

from __future__ import annotations

import importlib
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cluster
import pandas as pd
import pytest
import searching
from makers import IMAGE_VIT, ROOT
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from optuna.pruners import ThresholdPruner
from optuna.trial import FrozenTrial, TrialState
from rich.console import Console
from searching import GRID, PATIENCE_S, SWEEP, WEIGHT, Workers, computed, states

from bench import results
from bench.config.mistakes import Mistakes
from bench.grid.plan import plan
from bench.launch import local as launcher
from bench.launch.item import Item
from bench.store.rundir import RunDir
from bench.sweep import command as bench_sweep
from bench.tune import command as tune
from bench.tune import search as searches
from bench.tune.study import RETRIES, STOPPED, LeaseLost, Study
from reports import style


@pytest.fixture
def work() -> Callable[[Study], list[FrozenTrial]]:
    return searching.work


# -- what is asked for ---


def test_all_mistakes_of_the_block_come_at_once(make: Callable[..., searches.Search]) -> None:
    with pytest.raises(Mistakes) as caught:
        make("""
  metric: test/top1
  smpler: tpe
  pruner: {name: median, warmup_epochs: 0}
  space:
    train.lr: {low: 2, high: 1}
    train.batch: {values: [8], log: true}
    train.weight_decay: {low: 0, high: 1, log: true}
""")
    text = str(caught.value)
    for expected in (
        "s.yaml: search.smpler: unknown key; did you mean 'sampler'",
        "search.metric: must be val/top1",
        "search.pruner.warmup_epochs",
        "search.space.train.lr: a range needs low < high",
        "search.space.train.batch: log, int and step belong to a range",
        "search.space.train.weight_decay: log needs low > 0",
    ):
        assert expected in text


@pytest.mark.parametrize(
    ("block", "expected"),
    [
        ("  space: {train.lrr: {low: 1, high: 2}}", "search.space.train.lrr: unknown key"),
        ("  space: {train.batch: {low: 0, high: 8, int: true}}", "greater than or equal to 1"),
        ("  space: {objectives.video.ordr.weight: {values: [1]}}", "did you mean 'video.order'"),
        ("  space: {resources.threads: {values: [1]}}", "only what changes the numbers"),
        ("  sampler: grid\n  space: {train.lr: {low: 1, high: 2}}", "a grid needs values"),
        (
            "  metric: {evaluation: video.shuffle_gap, split: test, view: a, subset: b, metric: c}"
            "\n  space: {train.lr: {low: 1, high: 2}}",
            "only 'tune' may decide",
        ),
        (
            "  metric: {evaluation: video.shuffle_gap, view: a, subset: b, metric: c}"
            "\n  pruner: median\n  space: {train.lr: {low: 1, high: 2}}",
            "judged on the way by val/top1",
        ),
        ("", "search: a sweep without"),
    ],
)
def test_what_cannot_be_searched_is_said_before_anything_starts(
    make: Callable[..., searches.Search], block: str, expected: str
) -> None:
    with pytest.raises(Mistakes, match=expected):
        make(block)


def test_a_grid_has_every_point_once_and_steps_without_rounding_errors(
    make: Callable[..., searches.Search],
) -> None:
    search = make("""
  sampler: grid
  space:
    objectives.video.order.weight: {low: 0.1, high: 0.3, step: 0.1}
    train.batch: {low: 4, high: 8, step: 4, int: true}
""")
    assert [tuple(p.values()) for p in search.points] == [
        (0.1, 4), (0.1, 8), (0.2, 4), (0.2, 8), (0.3, 4), (0.3, 8)
    ]  # fmt: skip
    assert search.trials == 6 and make(GRID, trials=2).trials == 2


def test_more_trials_are_the_same_study_and_another_base_is_not(
    make: Callable[..., searches.Search],
) -> None:
    name = make(GRID).name
    assert make(GRID, trials=3).name == name
    assert make(GRID, settings=["resources.threads=2"]).name == name
    assert make(GRID, settings=["train.epochs=3"]).name != name
    assert make(GRID.replace("0.3", "0.4")).name != name


# -- who has which trial ---


def test_workers_share_a_grid_without_losing_or_doubling_a_point(
    make: Callable[..., searches.Search], tmp_path: Path
) -> None:
    search = make(GRID)
    one, other = Study(search, tmp_path), Study(search, tmp_path)
    seen = []
    while (taken := one.take()) and (second := other.take()):
        for study, (trial, cell) in ((one, taken), (other, second)):
            assert cell.config.train.lr == trial.params["train.lr"]
            seen.append(dict(trial.params))
            study.finish(trial.number, "COMPLETE", value=1.0)
    assert seen == search.points and one.over and other.take() is None


def test_the_sampler_does_not_repeat_itself_in_every_worker(
    make: Callable[..., searches.Search], tmp_path: Path
) -> None:
    for sampler in ("tpe", "random"):
        block = f"\n  sampler: {sampler}\n  trials: 6\n  space: {{train.lr: {{low: 0.1, high: 1}}}}"
        search = make(block)
        taken = [Study(search, tmp_path).take() for _ in range(6)]
        assert len({trial.params["train.lr"] for trial, _ in filter(None, taken)}) == 6
        alone = Study(search, tmp_path / "again")
        again = [alone.take() for _ in range(6)]
        first, same = ([t.params for t, _ in filter(None, found)] for found in (taken, again))
        assert first == same, "who asks must not matter"


def test_a_trial_of_a_dead_worker_is_given_out_again_once(
    make: Callable[..., searches.Search], tmp_path: Path
) -> None:
    study = Study(make(GRID, trials=1), tmp_path, lease_s=0.2)
    first, _ = study.take() or pytest.fail("no trial")
    assert study.take() is None, "its lease is young"
    time.sleep(0.3)
    again, _ = Study(study.search, tmp_path, lease_s=60).take() or (None, None)
    assert again is None, "for one who is more patient it is alive"
    again, _ = study.take() or pytest.fail("no trial")
    assert again.params == first.params and again.user_attrs["retry_of"] == first.number
    with pytest.raises(LeaseLost):  # the first worker was only frozen
        study.finish(first.number, "COMPLETE", value=9.0)
    study.finish(again.number, "COMPLETE", value=1.0)
    assert study.over and states(study) == ["FAIL", "COMPLETE"]
    best = study.best()
    assert best is not None and best.value == 1.0


def test_a_worker_killed_between_the_question_and_the_lease_loses_nothing(
    make: Callable[..., searches.Search], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    search = make("\n  trials: 1\n  space: {train.lr: {low: 0.1, high: 1}}")
    study = Study(search, tmp_path, lease_s=0.2)
    with monkeypatch.context() as patch:
        patch.setattr("bench.tune.study.write_json", killed)
        with pytest.raises(Killed):
            study.take()
    time.sleep(0.3)
    again, _ = study.take() or pytest.fail("no trial")
    assert again.params == study.trials()[0].params and len(study.trials()) == 2


class Killed(BaseException):
    pass


def killed(*_: Any, **__: Any) -> None:
    raise Killed


@pytest.mark.parametrize("where", ["set_trial_user_attr", "set_trial_state_values", "create_new_trial"])  # fmt: skip
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_reaper_that_is_killed_is_replaced_by_the_next(
    make: Callable[..., searches.Search],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    where: str,
    when: str,
) -> None:
    study = Study(make(GRID, trials=1), tmp_path, lease_s=0.05)
    study.take()
    time.sleep(0.1)
    storage = study._storage
    do = getattr(storage, where)

    def cut_off(*arguments: Any, **options: Any) -> None:
        if when == "after":
            do(*arguments, **options)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(storage, where, cut_off)
        with pytest.raises(Killed):
            study.take()
    patient = Study(study.search, tmp_path, lease_s=60)
    time.sleep(0.1)
    found = [s.take() for s in (study, patient, patient)]
    taken = [trial for trial, _ in filter(None, found)]
    assert len(taken) == 1 and states(study) == ["FAIL", "RUNNING"]
    assert taken[0].user_attrs["retry_of"] == 0 and taken[0].params == study.trials()[0].params


def test_parameters_that_kill_are_given_up_after_some_tries_and_stopping_is_no_try(
    make: Callable[..., searches.Search], tmp_path: Path
) -> None:
    study = Study(make(GRID, trials=1), tmp_path)
    for lost in (STOPPED, "lease expired", STOPPED, *["KILLED: SIGKILL"] * RETRIES):
        trial, _ = study.take() or pytest.fail("no trial")
        study.finish(trial.number, "FAIL", lost=lost)
    assert study.take() is None and study.over and len(study.trials()) == 3 + RETRIES
    assert study.retry_failed() == 1
    assert study.take() is not None


def test_a_lease_that_is_renewed_does_not_expire(
    make: Callable[..., searches.Search], tmp_path: Path
) -> None:
    study = Study(make(GRID, trials=1), tmp_path, lease_s=0.3)
    trial, _ = study.take() or pytest.fail("no trial")
    with study.leased(trial.number):
        time.sleep(0.5)
        assert study.take() is None
    time.sleep(0.4)
    assert study.take() is not None


def test_a_torn_line_of_the_journal_is_cut_off(
    make: Callable[..., searches.Search], tmp_path: Path
) -> None:
    study = Study(make(GRID), tmp_path)
    study.take()
    with (study.folder / "journal.log").open("a") as journal:
        journal.write('{"op_code": 4, "wor')  # the machine failed here
    study.take()
    assert states(Study(study.search, tmp_path)) == ["RUNNING", "RUNNING"]


@pytest.mark.slow
def test_the_study_may_be_in_a_database(
    make: Callable[..., searches.Search], tmp_path: Path
) -> None:
    url, search = f"sqlite:///{tmp_path}/tune.db", make(GRID, trials=2)
    for value in (1.0, 2.0):
        study = Study(search, tmp_path, storage=url)
        trial, _ = study.take() or pytest.fail("no trial")
        study.finish(trial.number, "COMPLETE", value=value)
    assert study.over and not (study.folder / "journal.log").exists()
    best = study.best()
    assert best is not None and best.value == 2.0


def test_a_database_that_cannot_be_opened_is_one_message(
    make: Callable[..., searches.Search], tmp_path: Path
) -> None:
    search = make(GRID, trials=2)
    with pytest.raises(ValueError, match=r"--storage host/x: .*install the driver"):
        Study(search, tmp_path / "runs", storage="nosuch://me:secret@host/x")
    assert not (tmp_path / "runs").exists()


# -- running cells ---


def test_a_bad_trial_is_pruned_and_never_best(
    make: Callable[..., searches.Search],
    work: Callable[[Study], list[FrozenTrial]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # What it is told to minimise grows by the epoch: by its last value the pruned one looks best.
    search = make(f"""
  sampler: grid
  direction: minimize
  pruner: {{name: median, startup_trials: 1}}
  space: {{{WEIGHT}: {{values: [0.2, 0.3]}}, train.lr: {{values: [0.1]}}}}
""")
    monkeypatch.setenv("EPOCH_S", "0.3")
    study = Study(search, tmp_path)
    good, bad = work(study)
    assert (good.state, bad.state) == (TrialState.COMPLETE, TrialState.PRUNED)
    assert bad.intermediate_values == {1: 0.3} and good.intermediate_values == {1: 0.2, 2: 0.4}
    assert bad.value is not None and good.value is not None and bad.value < good.value
    assert study.best() == good
    assert not RunDir(tmp_path / bad.user_attrs["signature"]).result.exists()


def test_the_same_values_twice_are_computed_once(
    make: Callable[..., searches.Search],
    work: Callable[[Study], list[FrozenTrial]],
    tmp_path: Path,
) -> None:
    search = make(f"\n  sampler: random\n  trials: 3\n  space: {{{WEIGHT}: {{values: [0.2]}}}}")
    trials = work(Study(search, tmp_path))
    assert [t.value for t in trials] == [0.4] * 3
    assert list(computed(tmp_path).values()) == [1]


def test_a_cell_that_fails_is_told_and_the_search_goes_on(
    make: Callable[..., searches.Search],
    work: Callable[[Study], list[FrozenTrial]],
    tmp_path: Path,
) -> None:
    search = make("""
  metric: {evaluation: video.shuffle_gap, view: ordered, subset: all, metric: top1}
  sampler: grid
  space: {train.lr: {values: [0.5, 0.1]}}
""")
    study = Study(search, tmp_path)
    failed, good = work(study)
    assert failed.state == TrialState.FAIL and "ValueError: too high" in failed.user_attrs["error"]
    assert good.value == 0.5, "1 - weight: the row of the evaluation"
    assert len(study.trials()) == 2 and study.over, "a bug is not tried again"


# -- what it leaves ---


def test_the_winner_is_a_sweep_and_the_report_has_the_search(
    make: Callable[..., searches.Search],
    work: Callable[[Study], list[FrozenTrial]],
    tmp_path: Path,
) -> None:
    study = Study(make(GRID, settings=["train.epochs=2"]), tmp_path)
    work(study)
    path = study.folder / "winner.yaml"
    grid = plan(path, "smoke", ["train.epochs=2"])
    assert len(grid.cells) == 6 and {c.seed for c in grid.cells} == {0, 1, 2}
    by_label = {c.labels["method"]: c for c in grid.cells if c.seed == 0}
    assert by_label["default"].signature == study.search.base.signature
    best = study.best()
    assert best is not None and by_label["tuned"].signature == best.user_attrs["signature"]
    header = path.read_text().split("\naxes:")[0]
    assert f"trial {best.number}" in header and "chosen on tune" in header
    assert "--set train.epochs=2" in header and "seeds=[1, 2, 3]" in header

    (found,) = results.search(tmp_path)
    assert found["study"] == study.search.name and found["best"] == best.number
    assert len(found["trials"]) == 6 and found["trials"][best.number]["value"] == best.value
    assert found["importances"] == {} and "needs 10 trials" in found["importances_reason"]


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """A search whose value is that of the loss weight, with one pruned and one failed trial."""
    path = tmp_path_factory.mktemp("searched") / "s.yaml"
    path.write_text(f"""{SWEEP}
  sampler: grid
  space:
    {WEIGHT}: {{low: 0.1, high: 0.4, step: 0.1}}
    train.lr: {{values: [0.1, 0.2, 0.3]}}
""")
    study = Study(searches.read(path, "smoke"), path.parent)
    while taken := study.take():
        trial, _ = taken
        trial.report(0.9, 1)
        state = {5: "PRUNED", 6: "FAIL"}.get(trial.number, "COMPLETE")
        study.finish(trial.number, state, value=trial.params[WEIGHT], error="BUG: no")  # type: ignore[arg-type]
    return study


def runs_of(study: Study) -> Path:
    return study.folder.parent.parent


def rows(study: Study, **others: str) -> pd.DataFrame:
    """One row of a sweep beside the search, as results.load gives it."""
    run = str(runs_of(study) / "x")
    row = {"sweep": "a", "scale": "smoke", "overrides": "", "run_dir": run, **others}
    return pd.DataFrame([row])


def test_importance_finds_the_parameter_that_matters(searched: Study) -> None:
    (found,) = results.search(runs_of(searched))
    importances = found["importances"]
    assert abs(sum(importances.values()) - 1) < 1e-6
    assert importances[WEIGHT] > 2 * importances["train.lr"]
    values = [t["value"] for t in found["trials"] if t["state"] != "COMPLETE"]
    assert values == [None, None] and found["trials"][5]["intermediate"] == {"1": 0.9}


@pytest.mark.parametrize("name", ["search_history", "search_importance"])
def test_figures_show_the_searches_of_a_setting(searched: Study, name: str) -> None:
    module = importlib.import_module(f"reports.figures.{name}")
    with style.applied():
        figure = Figure(dpi=100)
        assert module.draw(rows(searched), figure)
        assert "n = 10" in figure.axes[0].get_title(loc="left")
        FigureCanvasAgg(figure).draw()
        boxes = [figure.get_tightbbox()]
        assert all(box.x0 >= 0 and box.x1 * 100 <= figure.bbox.x1 + 1 for box in boxes)
    for others in ({"scale": "mini"}, {"overrides": '{"train": {"lr": 1}}'}):
        figure = Figure()
        assert module.draw(rows(searched, **others), figure) is None and not figure.axes


def test_a_broken_file_of_a_search_is_said(
    searched: Study, caplog: pytest.LogCaptureFixture
) -> None:
    path = searched.folder / "trials.json"
    path.write_bytes(path.read_bytes().replace(b'"number": 1', b'"number": 7'))
    assert results.search(runs_of(searched)) == []
    assert str(path) in caplog.text and "bench.tune` writes it again" in caplog.text
    searched.refresh()
    assert results.search(runs_of(searched))


def test_a_winner_finds_the_scales_of_its_sweep(
    make: Callable[..., searches.Search], tmp_path: Path
) -> None:
    (tmp_path / "scales").mkdir()
    own = (ROOT / "sweeps/scales/smoke.yaml").read_text().replace("epochs: 2", "epochs: 3")
    (tmp_path / "scales/smoke.yaml").write_text(own)
    study = Study(make(ONE), tmp_path)
    trial, _ = study.take() or pytest.fail("no trial")
    study.finish(trial.number, "COMPLETE", value=1.0)
    cells = plan(study.folder / "winner.yaml", "smoke").cells
    assert {cell.config.train.epochs for cell in cells} == {3}


def test_hyperband_stops_the_worse_ones(
    make: Callable[..., searches.Search], tmp_path: Path
) -> None:
    block = f"""
  sampler: random
  trials: 12
  pruner: {{name: hyperband, warmup_epochs: 1, reduction_factor: 3}}
  space: {{{WEIGHT}: {{low: 0.1, high: 1.0}}}}
"""
    study = Study(make(block, settings=["train.epochs=9"]), tmp_path)
    pruned = []
    for number in range(12):
        trial, _ = study.take() or pytest.fail("no trial")
        for epoch in range(1, 10):
            trial.report(0.9 - 0.05 * number, epoch)  # each is worse than all before it
            if epoch < 9 and trial.should_prune():
                pruned.append(number)
                study.finish(number, "PRUNED")
                break
        else:
            study.finish(number, "COMPLETE", value=0.9 - 0.05 * number)
    best = study.best()
    assert 0 < len(pruned) < 12 and best is not None and best.number not in pruned
    assert study.over


def test_the_default_that_wins_is_compared_with_nothing(
    make: Callable[..., searches.Search], tmp_path: Path
) -> None:
    study = Study(make(f"\n  sampler: grid\n  space: {{{WEIGHT}: {{values: [0.5]}}}}"), tmp_path)
    trial, cell = study.take() or pytest.fail("no trial")
    assert cell.signature == study.search.base.signature
    study.finish(trial.number, "COMPLETE", value=1.0)
    assert len(plan(study.folder / "winner.yaml", "smoke").cells) == 3


def test_a_sweep_is_no_search_and_a_search_no_sweep(
    make: Callable[..., searches.Search], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make(GRID)
    assert bench_sweep.main([str(tmp_path / "s.yaml"), "--scale", "smoke", "--plan"]) == 2
    assert tune.main([str(ROOT / "sweeps/ablation.yaml"), "--scale", "smoke"]) == 2
    text = capsys.readouterr().err
    assert "python -m bench.tune" in text and "python -m bench.sweep" in text


@pytest.mark.slow
def test_bench_sweep_does_not_import_optuna() -> None:
    code = "import sys, bench.sweep, bench.tune; sys.exit('optuna' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


# -- real processes ---


ONE = f"\n  sampler: grid\n  space: {{{WEIGHT}: {{values: [0.2]}}}}"


@pytest.mark.slow
def test_eight_workers_ten_kills_hundred_points_none_lost_none_twice(
    workers: Callable[[str], Workers],
) -> None:
    it = workers(f"""
  sampler: grid
  space:
    {WEIGHT}: {{low: 0.1, high: 1.0, step: 0.1}}
    train.lr: {{low: 0.01, high: 0.1, step: 0.01}}
""")
    client = it.start("--workers", "8", "--lease", "600", EPOCH_S="0.4")
    draw, killed = random.Random(0), []
    while len(killed) < 10:
        time.sleep(draw.uniform(0.2, 1.5))
        assert client.poll() is None, "over before it could be disturbed"
        # A point that takes several workers with it is given up, which is another test.
        again = {t.number for t in it.study.trials() if "retry_of" in t.user_attrs}
        held = it.holders().items()
        victims = [pid for trial, pid in held if pid not in killed and trial not in again]
        if victims:
            killed.append(draw.choice(victims))
            os.kill(killed[-1], signal.SIGKILL)
    assert client.wait(timeout=PATIENCE_S) == 0
    trials = it.study.trials()
    complete = [t for t in trials if t.state == TrialState.COMPLETE]
    assert Counter(t.user_attrs["point"] for t in complete) == Counter(range(100))
    assert {t.state for t in trials} <= {TrialState.COMPLETE, TrialState.FAIL}
    # A worker that was killed after its last word about a trial lost nothing.
    assert 0 < len(trials) - 100 <= 10
    times = computed(it.runs)
    assert len(times) == 100 and set(times.values()) == {1}, "a cell outlives its worker"


@pytest.mark.slow
def test_a_frozen_worker_loses_its_trial_and_drops_its_result(
    workers: Callable[[str], Workers],
) -> None:
    it = workers(ONE)
    frozen = it.start("--worker", "--lease", "1", EPOCH_S="8")
    it.wait_for(it.running_cell, "running cell")
    os.kill(frozen.pid, signal.SIGSTOP)
    assert it.start("--worker", "--lease", "1").wait(timeout=PATIENCE_S) == 0
    os.kill(frozen.pid, signal.SIGCONT)
    assert frozen.wait(timeout=PATIENCE_S) == 0
    lost, done = it.study.trials()
    assert lost.state == TrialState.FAIL and lost.user_attrs["lost"] == "lease expired"
    assert done.state == TrialState.COMPLETE and done.user_attrs["retry_of"] == lost.number
    assert list(computed(it.runs).values()) == [1], "the second worker waited for the cell"


@pytest.mark.slow
def test_a_slow_worker_keeps_its_trial(workers: Callable[[str], Workers]) -> None:
    it = workers(ONE)
    slow = it.start("--worker", "--lease", "10", EPOCH_S="12")
    it.wait_for(it.running_cell, "running cell")
    assert (
        it.start("--worker", "--lease", "10").wait(timeout=PATIENCE_S)
        == 0
        == slow.wait(timeout=PATIENCE_S)
    )
    assert states(it.study) == ["COMPLETE"]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_worker_that_is_told_to_stop_gives_its_trial_back(
    workers: Callable[[str], Workers], number: signal.Signals
) -> None:
    it = workers(ONE)
    client = it.start("--workers", "1", EPOCH_S="600")
    it.wait_for(it.running_cell, "running cell")
    client.send_signal(number)
    assert client.wait(timeout=PATIENCE_S) == 75
    assert states(it.study) == ["FAIL", "WAITING"]
    assert not RunDir(it.runs / it.study.trials()[0].user_attrs["signature"]).is_locked()
    assert it.start("--workers", "1").wait(timeout=PATIENCE_S) == 0
    assert states(it.study) == ["FAIL", "COMPLETE"]


@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, 2])
def test_a_real_cell_is_pruned_by_all_its_processes(
    tmp_path: Path, data_dir: Path, devices: int
) -> None:
    (tmp_path / "s.yaml").write_text(f"""{SWEEP}
  pruner: median
  trials: 1
  space: {{train.lr: {{low: 0.001, high: 0.002}}}}""")
    sets = [f"resources.data_dir={data_dir}", f"resources.devices={devices}", "train.epochs=2000"]
    study = Study(searches.read(tmp_path / "s.yaml", "smoke", sets), tmp_path)
    study._study.pruner = ThresholdPruner(lower=2)  # nothing is good enough

    def start(cell: Any, run: RunDir, tick: Callable[[], None]) -> None:
        item = Item(run, cell.resources, "")
        launcher.run_local([item], runs=tmp_path, on_change=lambda *_: None, tick=tick)

    tune.work(study, tmp_path, Console(quiet=True), launch=start)
    (trial,) = study.trials()
    assert trial.state == TrialState.PRUNED and study.best() is None
    run = RunDir(tmp_path / trial.user_attrs["signature"])
    assert run.state() == "PRUNED" and run.read_outcome()["step"] < 2000 * 3
    assert run.last.exists(), "it could go on"


@pytest.mark.slow
def test_a_search_with_real_cells_ends_in_a_sweep(
    tmp_path: Path, data_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs, sets = tmp_path / "runs", ["--set", f"resources.data_dir={data_dir}"]
    command = [sys.executable, "-m", "bench.tune", "sweeps/tune.yaml", "--scale", "smoke"]
    command += ["--trials", "3", "--workers", "2", "--runs", str(runs), *sets]
    for _ in range(2):  # the second time there is nothing left to do
        subprocess.run(command, cwd=ROOT, check=True, timeout=PATIENCE_S)
        (found,) = results.search(runs)
        assert [t["state"] for t in found["trials"]] == ["COMPLETE"] * 3
        assert all(set(t["intermediate"]) == {"1", "2"} for t in found["trials"])
    winner = next((runs / "tune").glob("*/winner.yaml"))
    options = ["--scale", "smoke", "--runs", str(runs), *sets]
    assert bench_sweep.main([str(winner), *options, "--plan"]) == 0
    assert "6 cells: 5 NEW, 1 DONE" in capsys.readouterr().out


@pytest.mark.slurm
@pytest.mark.skipif(cluster.missing() is not None, reason=str(cluster.missing()))
def test_trials_are_jobs_of_slurm(tmp_path: Path, data_dir: Path) -> None:
    runs = tmp_path / "runs"
    command = [sys.executable, "-m", "bench.tune", "sweeps/tune.yaml", "--scale", "smoke"]
    command += ["--trials", "2", "--workers", "2", "--runs", str(runs), "--launcher", "slurm"]
    command += ["--set", f"resources.data_dir={data_dir}", "--set", "resources.slurm.time=30"]
    with cluster.running(cpus=4) as slurm:
        subprocess.run(command, cwd=ROOT, env=slurm.env, check=True, timeout=PATIENCE_S)
    (found,) = results.search(runs)
    assert [t["state"] for t in found["trials"]] == ["COMPLETE"] * 2
    starts = [RunDir(runs / t["signature"]).read_starts() for t in found["trials"]]
    assert sorted(start["job"] for (start,) in starts) == ["1_0", "2_0"]


PARENT = """title: From an image model
base:
  model: {name: timesformer, init: {cell: image ViT}}
  objectives: {classify: {}}
search:
  trials: 2
  space: {train.lr: {low: 1e-4, high: 1e-2, log: true}}
"""


@pytest.mark.slow
def test_trials_start_from_one_parent(tmp_path: Path, data_dir: Path) -> None:
    """Trained by whichever worker comes first; the winner's sweep knows it too."""
    path, runs = tmp_path / "parent.yaml", tmp_path / "runs"
    path.write_text(PARENT + IMAGE_VIT)
    places = ["--runs", str(runs), "--set", f"resources.data_dir={data_dir}"]
    command = [str(path), "--scale", "smoke", *places, "--set", "resources.device=cpu"]
    assert tune.main([*command, "--workers", "2"]) == 0
    configs = [RunDir(p.parent).read_config() for p in runs.glob("*/config.yaml")]
    assert sorted(c["model"]["name"] for c in configs) == ["timesformer", "timesformer", "vit"]
    [parent] = [p.parent.name for p in runs.glob("*/config.yaml") if "name: vit" in p.read_text()]
    assert {c["model"]["init"] for c in configs} == {None, f"run:{parent}"}
    [winner] = runs.glob("tune/*/winner.yaml")
    assert [c.signature for c in plan(winner, "smoke").parents] == [parent]
