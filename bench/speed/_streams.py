"""Loaders of bench.data in action, for `bench.speed loader`: clips/s through worker processes, their
CPU time and their memory. Several may be open at once and take turns; who has no turn is idle.

Linux only: CPU time and memory of the workers come from /proc.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.data.loader import RawBatch

PREFETCHED = 2  # batches per worker that a DataLoader has under way: torch's default
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
POLL_S = 0.1


@dataclass(frozen=True)
class StreamWindow:
    """What some batches took, per clip, in steady state."""

    clips_per_s: float
    worker_ms: float  # CPU of all workers
    main_ms: float  # CPU of the process that receives the batches
    wait_ms: float  # that it waited


@dataclass(frozen=True)
class Memory:
    """One worker process, in bytes."""

    resident: int
    anonymous: int  # of these, what is not a file's: pages of mapped shards come and go


class Stream:
    """A loader that stays open between its turns."""

    def __init__(self, batches: Callable[[], Iterator[RawBatch]], workers: int) -> None:
        before = {process.pid for process in multiprocessing.active_children()}
        self._batches = batches()
        self._pids = sorted(
            process.pid
            for process in multiprocessing.active_children()
            if process.pid is not None and process.pid not in before
        )
        assert len(self._pids) == workers
        self.clips = 0
        self._take(workers)  # every worker has started
        self._settle()

    def turn(self, batches: int) -> StreamWindow:
        """Take so many batches, a multiple of the workers' number, while the workers are busy from
        the first to the last.
        """
        self._take(PREFETCHED * len(self._pids))  # these are ready: all workers begin together
        wall, main, workers = time.perf_counter(), time.process_time(), self._worker_s()
        clips = self._take(batches)
        wall, main = time.perf_counter() - wall, time.process_time() - main
        workers = self._worker_s() - workers
        self._settle()
        ms = 1e3 / clips
        return StreamWindow(clips / wall, workers * ms, main * ms, (wall - main) * ms)

    def memory(self) -> list[Memory]:
        """Of each worker."""
        return [_memory(pid) for pid in self._pids]

    def close(self) -> None:
        """Ends the workers."""
        del self._batches

    def _take(self, count: int) -> int:
        clips = 0
        for _ in range(count):
            batch = next(self._batches)
            if batch.failed:  # a black clip costs nothing
                raise RuntimeError("; ".join(batch.failed.values()))
            clips += len(batch.keys)
        self.clips += clips
        return clips

    def _settle(self) -> None:
        """Wait until the workers have made ready what they may, and are idle."""
        quiet, before = 0, self._worker_s()
        while quiet < 3:
            time.sleep(POLL_S)
            now = self._worker_s()
            quiet, before = quiet + 1 if now == before else 0, now

    def _worker_s(self) -> float:
        return sum(_cpu_s(pid) for pid in self._pids)


def _cpu_s(pid: int) -> float:
    # the name, in parentheses, may hold spaces
    after_name = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(after_name[11]) + int(after_name[12])) / TICKS_PER_S


def _memory(pid: int) -> Memory:
    lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    kib = {
        name: int(v.split()[0]) for name, _, v in (li.partition(":") for li in lines) if "kB" in v
    }
    return Memory(kib["VmRSS"] * 1024, kib["RssAnon"] * 1024)
