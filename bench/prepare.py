"""Data sets on disk -> shards: `python -m bench.prepare SOURCE ... --out DIR [--check [--deep]]`.
Run once, before the first sweep.

The sources are the files in bench/data/sources: one that offers `run` has a command here, under its
name with hyphens. One message on bad input; exit status 1 for data that fail, 2 for wrong use.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench import components, find
from bench.data.progress import report
from bench.data.shards.check import check
from bench.data.shards.read import BadData, index_digest, open_split, read_index
from bench.data.shards.sheet import draw_sheet
from bench.data.shards.write import SHOWN
from bench.shown.streams import complain, log_to, say
from bench.store import places
from bench.task import SourceModule

EXAMPLES = """\
examples:
  python -m bench.prepare mini-ssv2 --out data/mini            the built-in videos, no download
  python -m bench.prepare mini-imagenet9 --out data/mini9      the built-in images, no download
  python -m bench.prepare ssv2 --videos 20bn-something-something-v2 --annotations labels \\
                               --out data/ssv2
  python -m bench.prepare kinetics400 --videos k400 --annotations k400/annotations \\
                               --store jpeg --short-side 256 --out data/kinetics400
  python -m bench.prepare diving48 --videos rgb --annotations diving48 --out data/diving48
  python -m bench.prepare videos --videos UCF-101 --hold-out 0.2 --out data/videos     your own: class folders
  python -m bench.prepare videos --videos my/list.csv --store jpeg --out data/videos   or a list
  python -m bench.prepare imagenet9 --train archives --test bg_challenge --out data/imagenet9
  python -m bench.prepare ssv2 --out data/ssv2 --check         verify what is there
  python -m bench.prepare ssv2 --out data/ssv2 --check --deep  and decode every clip
  python -m bench.prepare ssv2 --out data/ssv2 --check --sheet ssv2.png    and look at it

An interrupted conversion continues when the same command is run again; finished shards are
not rewritten.
"""


def preparable_sources() -> Mapping[str, SourceModule]:
    """Command name -> module, for every source that has something to prepare."""
    return {
        name.replace("_", "-"): find.load("source", name)
        for name in find.names("source")
        if find.optional("source", name, "run")
    }


def parser_for(modules: Mapping[str, SourceModule]) -> argparse.ArgumentParser:
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog=components.program("bench.prepare"),
        parents=[components.option()],
        description="Convert a data set to shards, or verify shards.",
        epilog=EXAMPLES,
        formatter_class=formatter,
    )
    commands = parser.add_subparsers(dest="source", metavar="SOURCE", required=True)
    for name, module in modules.items():
        text = module.__doc__ or ""
        command = commands.add_parser(
            name, help=text.splitlines()[0], description=text, formatter_class=formatter
        )
        command.add_argument(
            "--out", type=Path, required=True, metavar="DIR", help="the shard folder"
        )
        command.add_argument(
            "--check",
            action="store_true",
            help="only verify DIR: counts, classes, members and SHA-256 of every file",
        )
        command.add_argument(
            "--deep", action="store_true", help="with --check: also decode every sample"
        )
        command.add_argument(
            "--failures",
            type=Path,
            metavar="FILE",
            help="where --check lists all that is wrong, if it is more than fits on a screen "
            "(default DIR.failures.txt)",
        )
        command.add_argument(
            "--sheet", type=Path, metavar="FILE.png", help="also draw one sample of each class"
        )
        command.add_argument(
            "--workers", type=int, metavar="N", help="processes; default: all cores"
        )
        add_arguments = find.optional("source", name.replace("-", "_"), "add_arguments")
        if add_arguments:
            add_arguments(command)
    return parser


def verify(
    folder: Path,
    source: str,
    *,
    deep: bool = False,
    workers: int | None = None,
    failures: Path | None = None,
) -> str:
    """Check a shard folder and describe it: a line, what is left out, and the counts per class."""
    with report(f"checking {folder}") as progress:
        index = check(folder, deep=deep, workers=workers, progress=progress, failures=failures)
    if index["source"] != source:
        raise ValueError(f"{folder} holds {index['source']!r}, not {source!r}")
    counts = ", ".join(f"{split} {entry['samples']:,}" for split, entry in index["splits"].items())
    decoded = ", all decoded" if deep else ""
    line = f"{folder}: {source}, {counts}{decoded}; digest {index_digest(folder)}"
    return "\n".join([line, *_left_out(index), _per_class(folder, index)])


def _left_out(index: Mapping[str, Any]) -> Iterator[str]:
    """Nothing where the data set is complete."""
    failed = index["failed"]
    if not failed:
        return
    media = index.get("media", "video")
    of_split = Counter(failure["split"] for failure in failed)
    counts = ", ".join(f"{split} {count:,}" for split, count in of_split.items())
    yield f"{len(failed):,} {media}s left out ({counts}), listed in index.json:"
    yield from (f"  {f['split']}/{f['key']}: {f['reason']}" for f in failed[:SHOWN])
    if len(failed) > SHOWN:
        yield f"  ... and {len(failed) - SHOWN:,} more"


def _per_class(folder: Path, index: Mapping[str, Any]) -> str:
    """A table: samples of each class in each split, then how many have each layer."""
    opened = {split: open_split(folder, split) for split in index["splits"]}
    layers = sorted({name for names in index.get("layers", {}).values() for name in names})
    lines = [["", *opened]]
    for n, name in enumerate(index["classes"]):
        lines.append([name, *(f"{(s.labels == n).sum():,}" for s in opened.values())])
    for name in layers:
        counts = (len(samples.with_layer(name)) for samples in opened.values())
        lines.append([f"with {name}", *(f"{count:,}" for count in counts)])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(w) if not i else cell.rjust(w) for i, (cell, w) in enumerate(cells))
        for cells in (list(zip(line, widths, strict=True)) for line in lines)
    )


def main(arguments: Sequence[str] | None = None) -> int:
    log_to(sys.stderr)
    arguments = components.take(arguments)
    try:
        modules = preparable_sources()
        args = parser_for(modules).parse_args(arguments)
        if args.deep and not args.check:
            raise ValueError("--deep goes with --check: it decodes what is there")
        if problem := places.no_folder(args.out):
            raise ValueError(f"--out: {problem}")
        if not args.check:
            modules[args.source].run(args)
        source = args.source.replace("-", "_")
        say(verify(args.out, source, deep=args.deep, workers=args.workers, failures=args.failures))
        if args.sheet:
            draw_sheet(args.out, next(iter(read_index(args.out)["splits"])), args.sheet)
    except (ValueError, OSError) as error:
        why = isinstance(error, OSError) and places.unwritable(args.out)
        complain(f"{components.program('bench.prepare')}: {why or error}")
        return 1 if isinstance(error, BadData) else 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
