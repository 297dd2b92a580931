"""`bench.speed loader`: what a training and an evaluation clip cost, stage by stage, for each storage.

The code that is measured is what a run's loader workers execute (`bench.data`), on the same clips
stored as video, JPEG files and raw frames, beside the library alone on the same bytes (the ceiling)
and the released pipeline, written anew (`_released_loader`). One process times all stages by turns,
clip by clip, in CPU time of one core; others run the real loaders with worker processes, by turns
too, and look at the memory of the workers. docs/performance.md defines every column.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import torch

from bench.config.mistakes import Mistake, Mistakes
from bench.data import loader
from bench.data.order import Order, Part, Schedule
from bench.process.machine import available_cores
from bench.speed import _clips, _stages, _streams
from bench.speed._measuring import (
    GIB,
    Numbers,
    Show,
    SpeedColumn,
    SpeedRow,
    Tell,
    check_out,
    free_memory,
    in_fresh_process,
    ok,
    spread,
)
from bench.store.files import write_json
from bench.train import environment

HELP = "the data loader: clips/s per core and per machine, stage by stage, memory of workers"
DESCRIPTION = "Measure the stages of loading clips for each storage, beside decoding alone."
LOADER_TURNS = 4  # so that the first ends at a quarter of the clips
WITHOUT_FLOW = "training loader, no flow"
BATCHES_PER_WORKER = 8  # in a turn, where memory is not looked at
ENDLESS = 10**9  # steps
MIB = 2**20
WORKER_BYTES = 600 * MIB  # about what one has for itself


@dataclass(frozen=True)
class LoaderMeasurement:
    """All that is measured; travels to the processes as JSON."""

    shards: tuple[_clips.Shards, ...]
    clips: int
    frames: int
    size: int  # pixels
    batch: int
    turns: int
    workers: int
    memory_clips: int  # through the training loader of each storage; 0: few, and no look at memory
    peer: bool
    threads: int = 1  # of torch and OpenCV, in each process
    device: str = "cpu"

    @property
    def recipe(self) -> _stages.LoadingRecipe:
        return _stages.LoadingRecipe(self.frames, self.size)


def measurement_of(task: dict[str, Any]) -> LoaderMeasurement:
    return LoaderMeasurement(
        **{**task, "shards": tuple(_clips.Shards(**s) for s in task["shards"])}
    )


# -- in the process of a measurement ---


def answer_stages(task: dict[str, Any], tell: Tell) -> SpeedRow:
    """{"rows": a row for each stage of each storage, "kb_per_clip", "environment"}"""
    m = measurement_of(task)
    cv2.setNumThreads(0)
    stages = _stages.Stages(m.shards, m.clips, m.recipe, m.batch)
    with tempfile.TemporaryDirectory() as folder:
        works = stages.all()
        if m.peer and (peer := stages.peer(Path(folder))):
            works += peer
        seconds = _stages.take_turns(works, clips=stages.clips, turns=m.turns, tell=tell)
    return {
        "rows": list(_stages.rows(seconds)),
        "kb_per_clip": _clips.describe(stages.stored, stages.clips),
        "clips": stages.clips,
        "environment": environment.describe(torch.device("cpu"), threads=m.threads),
    }


def answer_training(task: dict[str, Any], tell: Tell) -> SpeedRow:
    """{"rows": ...}: the training loaders of all storages, open side by side, by turns."""
    m = measurement_of(task)
    batch = _epoch_batch(m)
    per_turn = -(-m.memory_clips // (LOADER_TURNS * batch))
    return {"rows": list(_training_rows(m, "training loader", per_turn, tell))}


def answer_training_without_flow(task: dict[str, Any], tell: Tell) -> SpeedRow:
    """{"rows": ...}: the same where the labels of flow are made on the device."""
    m = measurement_of(task)
    batches = BATCHES_PER_WORKER * m.workers
    return {"rows": list(_training_rows(m, WITHOUT_FLOW, batches, tell))}


def _training_rows(m: LoaderMeasurement, name: str, batches: int, tell: Tell) -> Iterator[SpeedRow]:
    def stream(shards: _clips.Shards) -> _streams.Stream:
        samples = shards.samples(m.clips)
        items = m.recipe.training(samples, rand_augment=True, flow=name != WITHOUT_FLOW)
        batch = _epoch_batch(m)
        assert items.run_seed is not None
        schedule = Schedule(
            Order(items.run_seed, len(items)),
            batch=batch,
            micro=batch,
            first_step=0,
            last_step=ENDLESS,
            part=Part.of(batch),
        )
        return _streams.Stream(
            lambda: loader.training_batches(items, schedule, workers=m.workers, pin=False),
            m.workers,
        )

    yield from _loader_rows(m, name, stream, _whole_rounds(batches, m.workers), tell)


def _epoch_batch(m: LoaderMeasurement) -> int:
    """A batch is at most an epoch."""
    return min(m.batch, *(len(part.samples(m.clips)) for part in m.shards))


def answer_evaluation(task: dict[str, Any], tell: Tell) -> SpeedRow:
    """{"rows": ...}: the same of the evaluation loaders."""
    m = measurement_of(task)
    batches = BATCHES_PER_WORKER * m.workers
    ahead = _streams.PREFETCHED * m.workers
    needed = LOADER_TURNS * (batches + ahead) + m.workers + ahead

    def stream(shards: _clips.Shards) -> _streams.Stream:
        samples = shards.samples(m.clips, length=(needed + 1) * m.batch)
        items = m.recipe.evaluation(samples, resized=False)
        return _streams.Stream(
            lambda: loader.evaluation_batches(items, batch=m.batch, workers=m.workers, pin=False),
            m.workers,
        )

    return {"rows": list(_loader_rows(m, "evaluation loader", stream, batches, tell))}


def _whole_rounds(batches: int, workers: int) -> int:
    """At least two batches of each worker, the same number of each."""
    return max(2, -(-batches // workers)) * workers


def _loader_rows(
    m: LoaderMeasurement, kind: str, open_stream: Any, batches: int, tell: Tell
) -> Iterator[SpeedRow]:
    streams: dict[str, _streams.Stream] = {}
    for shards in m.shards:
        tell(f"{kind}: starting the workers of {shards.name}")
        streams[shards.name] = open_stream(shards)
    windows: dict[str, list[_streams.StreamWindow]] = {name: [] for name in streams}
    memory = {name: [(s.clips, s.memory())] for name, s in streams.items()}
    for turn in range(LOADER_TURNS):
        for name, stream in streams.items():
            tell(f"{kind}: {name}, turn {turn + 1} of {LOADER_TURNS}")
            windows[name].append(stream.turn(batches))
            memory[name].append((stream.clips, stream.memory()))
    for name, stream in streams.items():
        stream.close()
        yield _loader_row(kind, name, windows[name], m)
    if kind == "training loader" and m.memory_clips:
        for name, seen in memory.items():
            yield _memory_row(name, seen)


def _loader_row(
    kind: str, name: str, windows: list[_streams.StreamWindow], m: LoaderMeasurement
) -> SpeedRow:
    parts = {
        part: spread([getattr(window, part) for window in windows])
        for part in ("clips_per_s", "worker_ms", "main_ms", "wait_ms")
    }
    main, wait = (parts[part]["median"] for part in ("main_ms", "wait_ms"))
    return {
        "storage": name,
        "stage": kind,
        "ms": spread([window.worker_ms + window.main_ms for window in windows]),
        "workers": m.workers,
        "cores": min(m.workers, available_cores()),
        **parts,
        "note": f"{m.workers} workers; main process {main:.2f} ms CPU, {wait:.2f} ms waiting",
    }


def _memory_row(name: str, seen: list[tuple[int, list[_streams.Memory]]]) -> SpeedRow:
    """At the start, after a quarter and in the end, the largest of all workers."""
    looks = [seen[0], seen[1], seen[-1]]
    resident = [max(worker.resident for worker in workers) for _, workers in looks]
    anonymous = [max(worker.anonymous for worker in workers) for _, workers in looks]
    first, quarter, last = (f"{value / MIB:.0f}" for value in resident)
    own = ", ".join(f"{value / MIB:.0f}" for value in anonymous)
    return {
        "storage": name,
        "stage": "worker memory",
        "after_clips": [clips for clips, _ in seen],
        "workers_bytes": [[asdict(worker) for worker in workers] for _, workers in seen],
        "growth_bytes": anonymous[2] - anonymous[1],
        "note": f"MiB {first}, {quarter}, {last} resident, of it {own} not of files, after "
        f"{', '.join(str(clips) for clips, _ in looks)} clips",
    }


# -- in the process of the command ---


@dataclass(frozen=True)
class LoaderPlan:
    """A valid command."""

    shared: LoaderMeasurement  # without shards, if they are to be generated
    height: int  # of generated clips, pixels
    out: Path | None


def read(options: argparse.Namespace) -> LoaderPlan:
    """Validate the command line. Raises Mistakes with all that is wrong with it."""
    mistakes: list[Mistake] = []
    number = Numbers(mistakes)
    shards: tuple[_clips.Shards, ...] = ()
    try:
        shards = _clips.existing(options.data)
    except ValueError as error:
        mistakes.append(Mistake(("--data",), str(error)))
    memory = options.memory_clips
    shared = LoaderMeasurement(
        shards=shards,
        clips=number.whole("--clips", options.clips),
        frames=number.whole("--frames", options.frames),
        size=number.whole("--size", options.size),
        batch=number.whole("--batch", options.batch),
        turns=number.whole("--turns", options.turns),
        workers=number.whole("--workers", options.workers or str(available_cores())),
        memory_clips=0 if memory == "0" else number.whole("--memory-clips", memory),
        peer=options.peer,
    )
    height = number.whole("--height", options.height)
    if not number.wrong:
        if reason := shared.recipe.reason_against():
            mistakes.append(Mistake(("--frames, --size",), reason))
        if height < 32 or height % 2:
            mistakes.append(Mistake(("--height",), f"must be even and >= 32, got {height}"))
    if not Path("/proc/self/stat").exists():
        mistakes.append(Mistake((), "CPU time of workers is read from /proc: run it on Linux"))
    if problem := _too_little_memory(shared.workers, len(shards) or len(_clips.STORAGES)):
        mistakes.append(Mistake(("--workers",), problem))
    check_out(options.out, mistakes)
    if mistakes:
        raise Mistakes(mistakes)
    return LoaderPlan(shared, height, options.out)


def _too_little_memory(workers: int, loaders: int) -> str | None:
    """The loaders of all storages are open side by side."""
    free, needed = free_memory(), loaders * workers * WORKER_BYTES
    if free is None or needed <= free:
        return None
    return (
        f"{loaders} loaders of {workers} workers need about {needed / GIB:.1f} GiB, "
        f"{free / GIB:.1f} are free; take fewer"
    )


def run(options: argparse.Namespace) -> int:
    """Exit status; raises Mistakes, before anything is measured, with all that is wrong."""
    plan = read(options)
    with Show(COLUMNS) as show, tempfile.TemporaryDirectory() as folder:
        m = plan.shared
        if not m.shards:
            shards = _generate(Path(folder), m.clips, plan.height, show)
            m = LoaderMeasurement(**{**vars(m), "shards": shards})
        rows = run_loader(m, plan, show)
    return 1 if any(row["status"] == "failed" for row in rows) else 0


def _generate(folder: Path, clips: int, height: int, show: Show) -> tuple[_clips.Shards, ...]:
    def progress(done: int, total: int) -> None:
        show.doing(f"generating clips: {done}/{total}", minor=True)

    show.doing(f"generating {clips} clips")
    videos = _clips.generate(folder / "videos", clips=clips, height=height, progress=progress)
    show.doing("packing them")
    return _clips.pack_all(videos, folder, clips=clips, height=height)


def run_loader(m: LoaderMeasurement, plan: LoaderPlan, show: Show) -> list[SpeedRow]:
    """Measure everything; rows as they come."""
    rows: list[SpeedRow] = []
    about: SpeedRow = {}
    for what in ("stages", "training", "training_without_flow", "evaluation"):
        show.doing(what.replace("_", " "))
        task = {"function": f"{__name__}:answer_{what}", **asdict(m)}
        answer = in_fresh_process(task, lambda text: show.doing(text, minor=True))
        if what == "stages":
            about = {key: answer.get(key) for key in ("environment", "kb_per_clip", "clips")}
            _start(show, m, about)
        failed = {"storage": "-", "stage": what, "note": answer["note"]}
        for row in answer.get("rows", [failed]):
            kept = {"status": answer["status"], "note": "", "n": m.turns, **row}
            rows.append(_beside_the_ceiling(kept, rows))
            show.row(rows[-1])
        if plan.out:
            shown = {**asdict(m), "height": plan.height, **about, "rows": rows}
            write_json(plan.out, {"what": "loader", **shown})
    return rows


def _beside_the_ceiling(row: SpeedRow, before: list[SpeedRow]) -> SpeedRow:
    """With the share of the rate of decoding alone that a loader reaches on the cores it has."""
    kind = row["stage"].partition(" ")[0]
    found = [
        other["ms"]["median"]
        for other in before
        if (other["storage"], other["stage"]) == (row["storage"], _stages.CEILINGS.get(kind))
    ]
    if not found or "workers" not in row:
        return row
    per_s = row["cores"] * 1e3 / found[0]
    return {**row, "of_ceiling": row["clips_per_s"]["median"] / per_s}


def _start(show: Show, m: LoaderMeasurement, about: SpeedRow) -> None:
    device = (about["environment"] or {}).get("device", {}).get("name", "CPU")
    sizes = (about["kb_per_clip"] or {}).items()
    show.line(
        f"{device}, {available_cores()} cores; torch 1 thread, cv2.setNumThreads(0); {about['clips']} "
        f"clips, {m.frames} frames of {m.size} x {m.size} each, batch {m.batch}"
    )
    show.line("stored: " + ", ".join(f"{name} {kb:.0f} kB/clip" for name, kb in sizes))
    show.head()


def _ms(row: SpeedRow) -> str:
    if "ms" not in row:
        return "-"
    median, low, high = (
        f"{value:.1f}" if abs(value) >= 10 else f"{value:.3f}"
        for value in (row["ms"][part] for part in ("median", "min", "max"))
    )
    return f"{median} ({low} to {high})"


def _clips_per_s(row: SpeedRow) -> str:
    rate = row.get("clips_per_s")
    if rate is None:
        return "-"
    return f"{rate['median'] if isinstance(rate, dict) else rate:.4g}"


def _of_ceiling(row: SpeedRow) -> str:
    return f"{row['of_ceiling']:.1%}" if row.get("of_ceiling") else "-"


COLUMNS = (
    SpeedColumn("storage", 8, lambda row: row["storage"]),
    SpeedColumn("stage", 34, lambda row: row["stage"]),
    SpeedColumn("ms/clip", 24, ok(_ms)),
    SpeedColumn("n", 2, ok(lambda row: str(row["ms"]["n"] if "ms" in row else "-"))),
    SpeedColumn("clips/s", 8, ok(_clips_per_s)),
    SpeedColumn("of ceiling", 10, ok(_of_ceiling)),
    SpeedColumn("note", 30, lambda row: row["note"]),
)


# -- the command line ---


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--data", type=Path, action="append", default=[], metavar="DIR",
        help="shards of a video data set, may be repeated; default: generated clips, in all storages")  # fmt: skip
    add("--clips", default="24", metavar="N",
        help="so many clips, of --data the first of its training split (default: %(default)s)")  # fmt: skip
    add("--height", default="240", metavar="PX",
        help="of generated clips, which are 1.53 times as wide (default: %(default)s)")  # fmt: skip
    add("--frames", default="8", metavar="T", help="per clip (default: %(default)s)")
    add("--size", default="224", metavar="PX", help="of the crops (default: %(default)s)")
    add("--batch", default="8", metavar="N", help="(default: %(default)s)")
    add("--turns", default="5", metavar="N",
        help="how often each stage is measured on all clips (default: %(default)s)")  # fmt: skip
    add("--workers", metavar="N", help="loader processes (default: the cores)")
    add("--memory-clips", default="2000", metavar="N",
        help="clips of each storage through the training loader, whose workers' memory is looked at; "
        "0: few, and memory is not (default: %(default)s)")  # fmt: skip
    add("--peer", action=argparse.BooleanOptionalAction, default=True,
        help="the released pipeline's stages too, where clips are stored as videos (default: yes)")  # fmt: skip
    add("--out", type=Path, metavar="FILE.json", help="write all rows and what they were made with")


EPILOG = """what the columns say (docs/performance.md has the full definitions):
  stage        decode alone: the ceiling, the library on bytes in memory; frames: reading, checking and
               decoding by the suite; item: all that a worker does for a clip; loader: with worker
               processes; released: the peer
  ms/clip      CPU time of one core, median (minimum to maximum) of n turns over all clips
  clips/s      of one core; of a loader, of all its workers together, by the clock
  of ceiling   clips/s / clips/s of decoding alone (of a loader: on as many cores)

examples:
  python -m bench.speed loader                                   generated clips; 20 minutes on 2 cores
  python -m bench.speed loader --memory-clips 0 --turns 3        quick
  python -m bench.speed loader --data data/ssv2 --clips 100 --out loader.json

exit status: 0 all measured, 1 some measurements failed, 2 bad input (nothing measured)"""
