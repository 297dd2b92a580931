"""One cell, as the launcher runs it: train, evaluate, write the result.

    python -m bench.run runs/<signature>

Starting it again goes on from the last checkpoint; a DONE run is left as it is. The result is
written last, so its existence means DONE. Exit status: 0 done, 1 failed (see error.txt), 2 the
directory is not a run.
"""

from __future__ import annotations

import argparse
import faulthandler
import logging
import shutil
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import cv2
import torch

from bench import environment, evaluate, find
from bench.config import RunConfig, parse, parse_resources
from bench.rundir import RunBusy, RunDir, State, write_json, write_text
from bench.train import Trainer, device

log = logging.getLogger("bench")


def run_cell(path: str | Path) -> str:
    """Run one cell to its end and return its state. Exceptions end in error.txt, not in the caller."""
    run = RunDir(Path(path))
    if run.state() == State.DONE:
        return str(State.DONE)
    try:
        with run.hold():
            return _run_held(run)
    except RunBusy as error:
        print(error, file=sys.stderr)
        return str(State.RUNNING)


def _run_held(run: RunDir) -> str:
    run.error.unlink(missing_ok=True)
    handler = _log_to(run.log)
    try:
        _train_and_evaluate(run)
    except Exception as error:  # a cell must never take others down
        write_text(run.error, traceback.format_exc())
        log.error("failed: %s", error)
        return str(State.FAILED)
    except (KeyboardInterrupt, SystemExit):
        log.warning("interrupted; goes on from the last checkpoint when started again")
        raise
    finally:
        log.removeHandler(handler)
        handler.close()
    return str(State.DONE)


def _train_and_evaluate(run: RunDir) -> None:
    config = parse(run.read_config())
    resources = parse_resources(run.read_resources())
    progress = Progress(run)
    torch.set_num_threads(resources.threads)
    cv2.setNumThreads(0)
    prepare_data(config, Path(resources.data_dir))
    env = environment.describe(
        device(resources), threads=resources.threads, compiled=resources.compile
    )
    log.info(
        "start %s on %s, commit %s",
        run.signature,
        env["device"]["name"],
        env["code"]["commit"][:12],
    )
    trainer = Trainer(run, config, resources, progress)
    env["data_digest"] = trainer.samples.digest
    env["weights"] = getattr(trainer.learner.classifier.backbone, "loaded_weights", None)
    write_json(run.env, env)

    started = time.monotonic()
    learner = trainer.fit()
    trained = time.monotonic()
    log.info("trained %d steps", trainer.total_steps)
    context = evaluate.context_for(
        config, resources, learner.classifier, progress, scratch=run.scratch
    )
    rows = evaluate.run_all(config, context)
    evaluate.write_predictions(run.predictions, context)
    evaluate.write_pictures(run.pictures, context)
    result = {
        "signature": run.signature,
        "rows": rows,
        "data": config.data.name,
        "data_digest": env["data_digest"],
        "provenance": evaluate.provenance(config.input, trainer.samples, trainer.spec.media),
        "seconds": {"train": trained - started, "evaluate": time.monotonic() - trained},
        "parameters": sum(p.numel() for p in learner.classifier.parameters()),
        "code": env["code"],
        "device": env["device"],
    }
    write_json(run.result, result)
    run.progress.unlink(missing_ok=True)
    shutil.rmtree(run.scratch, ignore_errors=True)
    log.info("done in %.0f s", time.monotonic() - started)


def prepare_data(config: RunConfig, data_dir: Path) -> None:
    """Make the data on first use, where the suite can (built-in data); a no-op afterwards."""
    source = find.load("source", config.data.name)
    if hasattr(source, "prepare"):
        source.prepare(config.data.config, data_dir)


class Progress:
    """progress.json for `--status` and live displays, at most once a second; epochs and phases also
    to log.txt.
    """

    def __init__(self, run: RunDir) -> None:
        self._run = run
        self._written = 0.0
        self._phase = ""
        self._begun = time.time()

    def __call__(self, update: dict[str, Any]) -> None:
        now = time.time()
        if update["phase"] != self._phase:
            self._phase, self._begun = update["phase"], now
            log.info("%s", self._phase)
        elif now - self._written < 1.0:
            return
        self._written = now
        write_json(self._run.progress, {**update, "phase_started": self._begun, "time": now})


def _log_to(path: Path) -> logging.Handler:
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    logging.captureWarnings(capture=True)
    logging.getLogger("py.warnings").addHandler(handler)
    return handler


def _stop(signum: int, _frame: object) -> None:
    """SIGTERM ends a cell as Ctrl-C does: the last checkpoint stands and the state is INTERRUPTED."""
    raise KeyboardInterrupt(f"signal {signum}")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.run",
        description="Run one cell of a sweep. Goes on from its last checkpoint; does nothing when it is DONE.",
    )
    parser.add_argument(
        "run_dir", type=Path, metavar="RUN_DIR", help="runs/<signature>, made by bench.sweep"
    )
    options = parser.parse_args(arguments)
    run = RunDir(options.run_dir)
    if not run.config.exists():
        print(
            f"{run.path}: not a run directory (no config.yaml); `python -m bench.sweep` makes them",
            file=sys.stderr,
        )
        return 2
    faulthandler.enable()
    signal.signal(signal.SIGTERM, _stop)
    console = logging.StreamHandler()
    console.setFormatter(logging.Formatter("%(message)s"))
    log.addHandler(console)
    try:
        state = run_cell(run.path)
    except KeyboardInterrupt:
        return 130
    if state == State.FAILED:
        print(
            f"{run.signature} failed: {run.error_line()}\nTraceback: {run.error}", file=sys.stderr
        )
    return 0 if state == State.DONE else 1


if __name__ == "__main__":
    sys.exit(main())
