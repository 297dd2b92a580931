"""A cell's config in its run directory: how it is written and read.

The directory's `config.yaml` says what is trained, once and for all; its `evaluations.json` says what the
last client that started it wants measured of that.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from bench import find
from bench.config import signature
from bench.config.mistakes import Mistake, Mistakes
from bench.config.resources import Resources
from bench.config.science import EVALUATION_INPUT, Input, RunConfig, parse, parse_options
from bench.store.files import DamagedFile
from bench.store.rundir import RunDir


@dataclass(frozen=True)
class AskedEvaluation:
    """One evaluation that a run is to make."""

    identity: str  # <name>-<digest>
    name: str
    version: int
    options: Any  # its Config
    shown: Mapping[str, Any]  # the fields of `Input` that only concern evaluation

    def input(self, trained: Input) -> Input:
        """How clips are shown, of a model trained on `trained`."""
        return Input(**{**trained.model_dump(), **self.shown})


def create(
    run: RunDir,
    config: RunConfig,
    resources: Resources,
    asked: Mapping[str, Any] | None = None,
) -> None:
    """Write what defines the run (once), and the resources and evaluations of its next start; all
    evaluations of the config where `asked` does not say which.
    """
    dump = config.dump_training()
    wanted = signature.asked_of(config) if asked is None else asked
    run.create(dump, resources.model_dump(mode="json"), signature.digest(dump), dict(wanted))


def read_config(run: RunDir) -> RunConfig:
    """What is trained; of a directory of before there were two identities, with its evaluations.

    Raises DamagedFile where that is not what the directory's name says, and Mistakes.
    """
    config = parse(run.read_config())
    if run.signature not in (signature.signature(config), *signature.earlier_signatures(config)):
        raise DamagedFile(
            run.config,
            f"is not what its directory is named for (that would be {signature.signature(config)}): it was "
            "edited, the directory renamed, or a default has changed; `bench.sweep --force` runs it afresh",
        )
    return config


def read_missing(
    run: RunDir, config: RunConfig, measured: Collection[str]
) -> list[AskedEvaluation]:
    """What is to be measured still. Raises Mistakes for options, or a version, that this code has not:
    its numbers would stand under another name.
    """
    asked = run.read_asked()
    found = signature.asked_of(config) if asked is None else asked
    return [_asked(name, found[name]) for name in sorted(found.keys() - set(measured))]


def _asked(identity: str, entry: Mapping[str, Any]) -> AskedEvaluation:
    name = entry["evaluation"]
    here = find.load("evaluation", name).VERSION
    if entry["version"] != here:
        text = f"version {entry['version']} is asked for, this code has version {here}: run the sweep again"
        raise Mistakes([Mistake((identity,), text)])
    options = parse_options("evaluation", name, entry["options"])
    shown = {key: entry["input"][key] for key in EVALUATION_INPUT}
    return AskedEvaluation(identity, name, entry["version"], options, shown)
