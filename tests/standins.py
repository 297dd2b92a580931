"""Stands in for `python -m bench.run` where the subject is what starts and watches it.

    python tests/standins.py MODE... RUN_DIR

Imports nothing of the suite, so that it starts in no time. A word of MODE that starts with a number and
a colon is for the rank of that number only.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType


def write(path: Path, value: object) -> None:
    """Whole or not at all."""
    part = path.with_suffix(f".{os.getpid()}.part")
    part.write_text(json.dumps(value))
    part.replace(path)


def wait_until(condition: Callable[[], bool], what: object) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(what)
        time.sleep(0.01)


def wait_for(path: Path) -> None:
    wait_until(path.exists, path)


def act(word: str, run: Path, rank: int) -> None:
    """One word of MODE."""
    if word == "done":
        if rank == 0:
            write(run / "result.json", {"data_digest": "", **os.environ})
    elif word == "hang":
        time.sleep(600)
    elif word == "nap":
        time.sleep(0.15)
    elif word == "times":
        act("begin", run, rank)
        time.sleep(0.15)
        act("end", run, rank)
    elif word == "begin":
        write(run / "begun.json", time.time())
    elif word.startswith("meet"):  # meet3: until three cells of this folder have begun
        wait_until(lambda: len(list(run.parent.glob("*/begun.json"))) >= int(word[4:]), word)
    elif word == "end":
        times = {"begun": json.loads((run / "begun.json").read_text()), "ended": time.time()}
        write(run / "times.json", {**times, "gpus": os.environ.get("CUDA_VISIBLE_DEVICES")})
    elif word == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    elif word == "obey":
        for number in (signal.SIGTERM, signal.SIGUSR2):
            signal.signal(number, _leave)
    elif word == "crash":
        os.kill(os.getpid(), signal.SIGKILL)
    elif word == "exit3":
        sys.stderr.write("something is missing\n")
        sys.exit(3)
    elif word == "worker":  # a helper process that holds the run's lock and outlives us
        import fcntl

        lock = (run / "lock").open("a")
        fcntl.flock(lock, fcntl.LOCK_EX)
        subprocess.Popen(
            [sys.executable, "-c", "import time; time.sleep(600)"], pass_fds=[lock.fileno()]
        )
    elif word == "stack":
        text = "  File was_here\n"
        (run / f"stack.rank{rank}.txt").write_text(text)
    elif word in ("bug", "lost"):
        errors = {
            "bug": "ValueError: bad weights",
            "lost": "RuntimeError: Connection closed by peer",
        }
        trace = f'Traceback (most recent call last):\n  File "x.py", line 1\n{errors[word]}\n'
        when = time.time() - (5 if word == "lost" else 0)  # even where the clocks say otherwise
        (run / f"error.rank{rank}.txt").write_text(f"time: {when}\n{trace}")
        sys.exit(1)
    elif word == "pids":
        write(run / f"pid.{rank}", os.getpid())
    elif word == "peer":
        wait_for(run / "pid.1")
    elif word == "go":
        wait_for(run / "go")
    elif word == "environment":
        write(run / f"environment.{rank}", dict(os.environ))
    elif word == "by-name":
        act((run / "mode").read_text(), run, rank)
    else:
        raise ValueError(word)


def _leave(number: int, _frame: FrameType | None) -> None:
    run, rank = Path(sys.argv[-1]), int(os.environ.get("RANK", 0))
    if rank == 0:
        goes_on = not os.environ["BENCH_JOB"].startswith("local")
        end = {"state": "PREEMPTED", "goes_on": goes_on, "step": 7, "time": time.time()}
        write(run / "ended.json", end)
    os._exit(75)


def main() -> None:
    run, rank = Path(sys.argv[-1]), int(os.environ.get("RANK", 0))
    for word in sys.argv[1:-1]:
        number, colon, rest = word.rpartition(":")
        if not colon or int(number) == rank:
            act(rest, run, rank)


if __name__ == "__main__":
    main()
