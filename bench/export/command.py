"""What was measured, as files of other tools.

    python -m bench.export SINK RUN [RUN ...] [--out DIR] [--follow]

Each sink is a file in bench/export/sinks/, found by its name, that keeps `bench.export.sinks.SinkModule`.
Everything stays on this machine. The same command again writes the same files anew, so nothing is there
twice; `--follow` does so beside a run, which knows nothing of it.
"""

from __future__ import annotations

import argparse
import signal
from collections.abc import Sequence
from pathlib import Path

from bench import components, find
from bench.config.mistakes import Mistake, Mistakes
from bench.export.find_records import records
from bench.export.record import Record, Rewritten
from bench.export.sinks import SinkModule
from bench.shown.streams import complain, say


def _parser() -> argparse.ArgumentParser:
    sinks = {name: find.load("sink", name).HELP for name in find.names("sink")}
    listed = "".join(f"  {name:<14}{does}\n" for name, does in sinks.items())
    parser = argparse.ArgumentParser(
        prog=components.program("bench.export"),
        parents=[components.option()],
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Write what was measured as files of another tool. Nothing is uploaded.",
        epilog=f"""sinks:
{listed}
examples:
  python -m bench.export tensorboard runs/0123456789abcdef            all steps and evaluations of a run
  python -m bench.export wandb runs/0123456789abcdef --follow         beside a run, until it ends
  python -m bench.export model_card runs/evaluated/my-model-*.json    one card of several evaluations""",
    )
    parser.add_argument("sink", metavar="SINK", help=", ".join(sinks))
    parser.add_argument(
        "what",
        nargs="+",
        metavar="RUN",
        help="a run directory, its signature, or what bench.evaluate kept (runs/evaluated/*.json)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="where to (default: RUNS/exported/SINK, RUNS as --runs says)",
    )
    parser.add_argument(
        "--runs",
        type=Path,
        default=Path("runs"),
        metavar="DIR",
        help="where a signature is looked up, and --out lies (default: %(default)s)",
    )
    parser.add_argument(
        "--follow",
        action="store_true",
        help="go on as long as the run does; Ctrl-C keeps what is written",
    )
    return parser


def main(arguments: list[str] | None = None) -> int:
    try:
        options = _parser().parse_args(components.take(arguments))
        sink: SinkModule = find.load("sink", options.sink)
        folder = options.out or options.runs / "exported" / options.sink
        found = _ready(sink, options, folder)
    except find.ComponentError as error:
        complain(f"{components.program('bench.export')}: {error}")
        return 2
    except Mistakes as error:
        complain(f"{len(error.mistakes)} mistake(s), nothing was written:\n{error}")
        return 2
    try:
        for record in found:
            say(_write(sink, record, folder))
    except (ValueError, OSError) as error:
        complain(f"{components.program('bench.export')}: {error}")
        return 2
    return 0


def _ready(sink: SinkModule, options: argparse.Namespace, folder: Path) -> Sequence[Record]:
    """The records, if they can all be written. Raises Mistakes."""
    mistakes: list[Mistake] = []
    if options.follow and len(options.what) > 1:
        mistakes.append(Mistake((), "--follow: name one run, and start a command for each"))
    found = records(options.what, options.runs, mistakes, follow=options.follow)
    mistakes += [Mistake((options.sink,), problem) for problem in sink.check(found, folder)]
    if mistakes:
        raise Mistakes(mistakes)
    return found


def _write(sink: SinkModule, record: Record, folder: Path) -> str:
    """Again from the start whenever the run itself went back, to its last checkpoint."""
    while True:
        try:
            return sink.write(record, folder)
        except Rewritten:
            complain(f"{record.name} went on from a checkpoint: written again")


def entry(arguments: list[str] | None = None) -> int:
    """The command as a process of its own."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # closes what is being written
    try:
        return main(arguments)
    except KeyboardInterrupt:
        complain("stopped; what was written until then is kept")
        return 130
