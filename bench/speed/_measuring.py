"""What the benchmarks of `bench.speed` share: processes of their own, clocks, memory, the machine's
matmul rate, the reading of options, and rows on a terminal.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.markup import escape
from rich.table import Table

from bench import find
from bench.config.mistakes import Mistake
from bench.shown.console import InertConsole
from bench.shown.inert import printable
from bench.train import environment

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}
GIB = 2**30
MATMUL_SIZES = (1024, 2048, 4096, 8192, 16384)

SpeedRow = dict[str, Any]
Tell = Callable[[str], None]
"""Receives what is being done now; for progress displays only."""


# -- in the process of a measurement ---


class Clock:
    """Ticks on the device's own time line; the first tick is the start."""

    def __init__(self, target: torch.device) -> None:
        self._cuda = target.type == "cuda"
        self._ticks: list[Any] = []
        if self._cuda:
            torch.cuda.synchronize(target)
        self.tick()

    def tick(self) -> None:
        if self._cuda:
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self._ticks.append(event)
        else:
            self._ticks.append(time.perf_counter())

    def intervals(self) -> list[float]:
        """Seconds between ticks."""
        pairs = list(zip(self._ticks, self._ticks[1:], strict=False))
        if self._cuda:
            self._ticks[-1].synchronize()
            return [before.elapsed_time(after) / 1e3 for before, after in pairs]
        return [after - before for before, after in pairs]


def spread(times: list[float]) -> dict[str, float]:
    """Median, minimum, maximum, quartiles and count."""
    quarters = statistics.quantiles(times, n=4, method="inclusive") if len(times) > 1 else times * 3
    return {
        "median": statistics.median(times),
        "min": min(times),
        "max": max(times),
        "q25": quarters[0],
        "q75": quarters[2],
        "n": len(times),
    }


def peak_memory(target: torch.device) -> int:
    """Bytes: the most that tensors took on the GPU, or the most that this process had resident."""
    if target.type == "cuda":
        return torch.cuda.max_memory_allocated(target)
    try:
        # ru_maxrss would be the parent's where that was larger: it survives exec
        for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measure_ceiling(precision: str, device: str, threads: int, *, seconds: float) -> SpeedRow:
    """The best rate of large square matmuls in this process, and what this machine is."""
    target, dtype = torch.device(device), PRECISIONS[precision]
    rates: dict[str, float] = {}
    for size in MATMUL_SIZES:
        flops = 2 * size**3
        if rates and 3 * flops / max(rates.values()) > seconds:
            break
        a, b = (torch.randn(size, size, device=target).to(dtype) for _ in range(2))
        out = a @ b
        clock, begun = Clock(target), time.perf_counter()
        for _ in range(50):
            torch.mm(a, b, out=out)
            clock.tick()
            if time.perf_counter() - begun > seconds:
                break
        rates[str(size)] = flops / min(clock.intervals())
    return {
        "flops_per_s": max(rates.values()),
        "flops_per_s_by_size": rates,
        "fp32_matmul_precision": torch.get_float32_matmul_precision(),
        "environment": environment.describe(target, threads=threads),
    }


def child() -> None:
    """Do the task on stdin, answer in JSON lines on stdout: {"progress": ...} and one {"result": ...}
    or {"error": ...}.
    """
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # a library that prints must not garble the answers

    def answer(value: dict[str, Any]) -> None:
        print(json.dumps(value), file=answers, flush=True)

    task = json.load(sys.stdin)
    torch.set_num_threads(task["threads"])
    if not task["device"].startswith("cuda"):
        _limit_memory()
    elif ":" in task["device"]:
        torch.cuda.set_device(task["device"])  # events and sync warnings are the current device's
    module, _, function = task.pop("function").partition(":")
    try:
        do = getattr(importlib.import_module(module), function)
        answer({"result": do(task, lambda text: answer({"progress": text}))})
    except Exception as error:
        answer({"error": _describe(error), "traceback": traceback.format_exc()})


def _limit_memory() -> None:
    """Let allocations beyond the free memory fail, lest the kernel kill something else."""
    if free := free_memory():
        resource.setrlimit(
            resource.RLIMIT_DATA, (free, resource.getrlimit(resource.RLIMIT_DATA)[1])
        )


def free_memory() -> int | None:
    """Bytes this machine can still give, or None when it does not say."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    found = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    return found[0] if found else None


def _describe(error: Exception) -> str:
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or "allocate memory" in str(error):
        return "out of memory"
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


# -- in the process of the command ---


def in_fresh_process(task: dict[str, Any], tell: Tell) -> SpeedRow:
    """What function(task, tell) returns in a process of its own, with "status" ("ok", "out of memory"
    or "failed") and "note".

    `task` holds "function" ("module:name"), "threads", "device", and what else the function needs.
    """
    threads = str(task["threads"])
    env = {**os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
    final: dict[str, Any] = {}
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as noise:
        process = subprocess.Popen(
            child_command(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=noise,
            text=True,
            env=env,
        )
        assert process.stdin and process.stdout
        try:
            with process.stdin as pipe:
                json.dump(task, pipe)
        except BrokenPipeError:
            pass  # it died at once; its exit status says how
        try:
            for line in process.stdout:
                final = json.loads(line)
                if "progress" in final:
                    tell(final["progress"])
            process.wait()
        finally:
            process.kill()
            process.wait()
        noise.seek(0)
        last_words = [line for line in noise.read().splitlines() if line.strip()][-1:]
    if "result" in final:
        return {"status": "ok", "note": "", **final["result"]}
    if final.get("error") == "out of memory" or process.returncode == -signal.SIGKILL:
        return {"status": "out of memory", "note": "out of memory"}
    note = final.get("error") or f"ended with status {process.returncode}: {''.join(last_words)}"
    return {"status": "failed", "note": note, "traceback": final.get("traceback")}


def child_command() -> list[str]:
    return [sys.executable, "-c", "from bench.speed._measuring import child; child()"]


# -- showing ---


@dataclass(frozen=True)
class SpeedColumn:
    title: str
    width: int
    text: Callable[[SpeedRow], str]


def ok(text: Callable[[SpeedRow], str]) -> Callable[[SpeedRow], str]:
    return lambda row: text(row) if row["status"] == "ok" else "-"


def or_dash(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


class Show:
    """Rows to stdout as they come: a table on a terminal, lines otherwise. Progress to stderr."""

    def __init__(self, columns: Sequence[SpeedColumn]) -> None:
        self._columns = columns
        self._out = InertConsole()
        self._err = InertConsole(stderr=True)
        self._status = self._err.status("") if self._err.is_terminal else nullcontext()

    def __enter__(self) -> Show:
        self._status.__enter__()
        return self

    def __exit__(self, *ended: Any) -> None:
        self._status.__exit__(*ended)

    def doing(self, text: str, *, minor: bool = False) -> None:
        """What is under way. `minor`: too often for a log."""
        if isinstance(self._status, nullcontext):
            if not minor:
                print(printable(text), file=self._err.file, flush=True)
        else:
            self._status.update(escape(text))

    def line(self, text: str) -> None:
        self._out.print(escape(text), soft_wrap=True, highlight=False)

    def head(self) -> None:
        self._print([c.title for c in self._columns], style="bold")

    def row(self, row: SpeedRow) -> None:
        style = {"ok": "", "out of memory": "yellow"}.get(row["status"], "red")
        self._print([c.text(row) for c in self._columns], style=style)

    def _print(self, cells: list[str], *, style: str) -> None:
        if not self._out.is_terminal:
            fitted = (
                cell.ljust(max(c.width, len(c.title)))
                for cell, c in zip(cells, self._columns, strict=True)
            )
            print(printable("  ".join(fitted).rstrip()), file=self._out.file, flush=True)
            return
        # One table per row, of fixed widths: a row stands as soon as it is measured.
        table = Table(show_header=False, box=None, padding=(0, 1, 0, 0))
        for column in self._columns:
            table.add_column(width=column.width, overflow="fold")
        table.add_row(*(escape(cell) for cell in cells), style=style)
        self._out.print(table)


# -- the command line ---


class Numbers:
    """Reads numbers and notes what is none; after a mistake the value is a stand-in."""

    def __init__(self, mistakes: list[Mistake]) -> None:
        self._mistakes = mistakes
        self.wrong = False

    def whole(self, name: str, text: str) -> int:
        if text.isascii() and text.isdigit() and int(text) > 0:
            return int(text)
        also = " or `best`" if name == "--batch" else ""
        return int(self._note(name, f"must be a whole number >= 1{also}, got {text!r}"))

    def positive(self, name: str, text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = 0.0
        if 0 < value < float("inf"):
            return value
        return self._note(name, f"must be a number of seconds > 0, got {text!r}")

    def _note(self, name: str, message: str) -> float:
        self.wrong = True
        self._mistakes.append(Mistake((name,), message))
        return 1.0


def known(
    option: str, asked: list[str], valid: tuple[str, ...], mistakes: list[Mistake]
) -> list[str]:
    """What was asked for and exists, without repetitions; everything when nothing was asked for."""
    for name in asked:
        if name not in valid:
            mistakes.append(Mistake((option,), f"no {name!r}{find.nearest(name, valid)}"))
    return [name for name in dict.fromkeys(asked or valid) if name in valid]


def read_device(text: str, mistakes: list[Mistake]) -> str:
    if text == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        kind = torch.device(text).type
    except RuntimeError:
        kind = ""
    if kind not in ("cpu", "cuda"):
        mistakes.append(Mistake(("--device",), f"must be auto, cpu, cuda or cuda:N, got {text!r}"))
        return "cpu"
    if kind == "cuda" and not torch.cuda.is_available():
        mistakes.append(Mistake(("--device",), "this machine has no GPU that torch can use"))
        return "cpu"
    if kind == "cuda" and (torch.device(text).index or 0) >= torch.cuda.device_count():
        found = f"there are {torch.cuda.device_count()} GPUs, no {text}"
        mistakes.append(Mistake(("--device",), found))
        return "cpu"
    return text


def check_out(out: Path | None, mistakes: list[Mistake]) -> None:
    """Whether a file can be written there; before anything is measured."""
    if out and not out.resolve().parent.is_dir():
        mistakes.append(Mistake(("--out",), f"there is no folder {out.parent}"))
    if out and out.is_dir():
        mistakes.append(Mistake(("--out",), f"{out} is a folder, name a file"))
