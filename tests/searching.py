"""Searches whose cells train nothing, for tests."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from makers import ROOT
from optuna.trial import FrozenTrial
from rich.console import Console
from running import processes_with

from bench.launch import local as launcher
from bench.launch.item import Item
from bench.process.machine import is_alive
from bench.store.records import read_claim
from bench.store.rundir import RunDir
from bench.tune import command as tune
from bench.tune import search as searches
from bench.tune.study import Study

PATIENCE_S = 240.0  # tells "late" from "never"; on a quiet machine nothing takes a minute
# Stands in for training where the search is the subject. The value of a run is its weight of the
# order loss; learning rates say what else happens. It waits EPOCH_S per epoch, or for a file.
CELL = """
import atexit, json, os, pathlib, signal, sys, time
run = pathlib.Path(sys.argv[1])
from bench.store.failure import Failure
from bench.store.files import sha256_of
from bench.store.rundir import RunDir, State
from bench.store.result_files import Kind, write_result
this, go = RunDir(run), run.parent / "go"
config = this.read_config()
def note(what):
    with open(run.parent / "times.txt", "a") as times:
        times.write(f"{time.time()} {what} {run.name}\\n")
weight, lr = config["objectives"]["video.order"]["weight"], config["train"]["lr"]
signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
with this.hold():
    note("begins")
    atexit.register(note, "ends")
    with open(run.parent / "computed.txt", "a") as log:
        log.write(run.name + "\\n")
    this.env.write_text("{}")
    if lr == 0.5:
        this.write_outcome(State.FAILED, Failure.BUG, traceback="ValueError: too high")
        sys.exit(1)
    for epoch in (1, 2):
        with this.metrics.open("a") as metrics:
            metrics.write(json.dumps({"step": epoch, "epoch": epoch, "val/top1": weight * epoch}) + "\\n")
        deadline = time.monotonic() + (60 if lr == 0.25 else float(os.environ.get("EPOCH_S", "0")))
        while time.monotonic() < deadline and not this.stop.exists() and not go.exists():
            time.sleep(0.01)
        if this.stop.exists():
            this.write_outcome(State.PRUNED)
            sys.exit(76)
    rows = [{"evaluation": "video.shuffle_gap", "split": "tune", "view": "ordered", "subset": "all",
             "metric": "top1", "value": 1 - weight, "n": 12}]
    for identity, entry in (this.read_asked() or {}).items():
        folder = this.evaluation(identity)
        folder.path.mkdir(parents=True, exist_ok=True)
        mine = [row for row in rows if row["evaluation"] == entry["evaluation"]]
        made_from = {"data": "mini_ssv2", "data_digest": "", "provenance": ""}
        found = {"evaluation": entry["evaluation"], **made_from, "rows": mine}
        write_result(folder.result, Kind.EVALUATION, found)
    logged = {"sha256": sha256_of(this.metrics)}
    write_result(this.result, Kind.TRAINING, {"data_digest": "", "metrics": logged})
"""

SWEEP = """
title: A search
base:
  model: {name: timesformer}
  objectives: {classify: {}, video.order: {weight: 0.5}}
  evaluations: {video.shuffle_gap: {}}
axes: {backbone: {TimeSformer: {}}}
search:
"""
GRID = """
  sampler: grid
  space:
    objectives.video.order.weight: {values: [0.1, 0.2, 0.3]}
    train.lr: {low: 0.1, high: 0.2, step: 0.1}
"""
WEIGHT = "objectives.video.order.weight"


def computed(runs: Path) -> Counter[str]:
    return Counter((runs / "computed.txt").read_text().split())


def states(study: Study) -> list[str]:
    return [t.state.name for t in study.trials()]


def work(study: Study) -> list[FrozenTrial]:
    """One worker, in this process, until the search is over."""
    runs = study.folder.parents[1]
    (runs / "cell.py").write_text(CELL)
    command = (sys.executable, str(runs / "cell.py"))

    def start(cell: Any, run: RunDir, tick: Callable[[], None]) -> None:
        item = Item(run, cell.resources, "")
        launcher.run_local([item], runs=runs, on_change=lambda *_: None, tick=tick, command=command)

    assert tune.work(study, runs, Console(quiet=True), launch=start) == 0
    return study.trials()


class Workers:
    """`python -m bench.tune` with stand-in cells."""

    def __init__(self, tmp_path: Path, block: str) -> None:
        (tmp_path / "cell.py").write_text(CELL)
        (tmp_path / "s.yaml").write_text(SWEEP + block)
        self.runs = tmp_path
        self.study = Study(searches.read(tmp_path / "s.yaml", "smoke"), tmp_path)
        self.started: list[subprocess.Popen[bytes]] = []

    def start(
        self, *options: str, err: Path | None = None, **environment: str
    ) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "bench.tune", str(self.runs / "s.yaml"), "--scale"]
        command += ["smoke", "--runs", str(self.runs), *options]
        command += ["--command", f"{sys.executable} {self.runs / 'cell.py'}"]
        with (err or Path(os.devnull)).open("wb") as said:
            process = subprocess.Popen(
                command,
                cwd=ROOT,
                env={**os.environ, **environment},
                stderr=said if err else None,
            )
        self.started.append(process)
        return process

    def holders(self) -> dict[int, int]:
        """pid of the worker of each trial that is worked on."""
        found = {}
        for lease in (self.study.folder / "leases").glob("*.json"):
            try:
                found[int(lease.stem)] = int(json.loads(lease.read_text())["pid"])
            except (OSError, ValueError):
                continue
        return found

    def wait_for(self, condition: Callable[[], Any], what: str) -> Any:
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            if value := condition():
                return value
            time.sleep(0.02)
        raise AssertionError(f"no {what} within {PATIENCE_S:.0f} s")

    def end(self) -> None:
        """Whatever is left of it."""
        for process in self.started:
            process.kill()
            process.wait()
        for claim in self.runs.glob("*/job.json"):
            if is_alive(found := read_claim(claim)):
                os.kill(int(found["pid"]), signal.SIGKILL)

    def adopted(self) -> bool:
        """Whether two workers of this moment have trials."""
        live = processes_of(self.study.search.name)
        return len(set(self.holders().values()) & set(live)) == 2

    def running_cell(self) -> bool:
        return bool(self.holders()) and (self.runs / "computed.txt").exists()


def most_at_once(runs: Path) -> int:
    """Of the cells that were computed."""
    now = most = 0
    for line in sorted((runs / "times.txt").read_text().splitlines()):
        now += 1 if line.split()[1] == "begins" else -1
        most = max(most, now)
    return most


def processes_of(study: str) -> list[int]:
    """The workers of a search on this machine."""
    return processes_with("--worker", study)
