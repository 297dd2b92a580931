"""Checkpoints of a training run: written whole or not at all, checked before they are used, loaded
without executing anything they contain.

    save(path, state)                  sealed: the file carries the SHA-256 of its own bytes
    read(path)                         exactly this one: what is measured must be of these weights
    load_alike(path, world, ...)       to go on from: this one or, where it is damaged, the one before

A damaged checkpoint is never another state: whatever is wrong with it is a DamagedCheckpoint.
"""

from __future__ import annotations

import errno
import os
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch

from bench.config.science import RunConfig
from bench.config.signature import signature
from bench.store import sealed
from bench.store.failure import Failure, of_exception
from bench.store.files import replacing, set_aside
from bench.store.rundir import RunDir
from bench.train.world import World

STALE_S = 120.0
"""How long a network file system may show a machine the version before the last one."""

Objection = Callable[[dict[str, Any]], str | None]
"""What speaks against a state that is whole, e.g. that it is another run's; None: nothing."""


class DamagedCheckpoint(ValueError):
    """A checkpoint is not what was saved, or not of this run. `problem`: what is wrong with it."""

    def __init__(self, path: Path, problem: str) -> None:
        super().__init__(
            f"{path} cannot be read: {problem}. Put a copy of it back, or move the run's directory "
            "away and start it again, which trains it anew"
        )
        self.path, self.problem = path, problem


@dataclass(frozen=True)
class Loaded:
    """The newest checkpoint that is whole, if any, and those that were not."""

    state: dict[str, Any] | None
    path: Path | None = None
    damaged: tuple[DamagedCheckpoint, ...] = ()

    @property
    def moment(self) -> tuple[int, bool] | None:
        """Of the training: the step, and whether the validation after it is still to come."""
        return (self.state["step"], self.state.get("epoch_to_end", False)) if self.state else None


def previous(path: Path) -> Path:
    """Where the checkpoint before this one is kept."""
    return path.with_name(f"{path.stem}.previous{path.suffix}")


def save(path: Path, state: dict[str, Any], *, keep_previous: bool = False) -> None:
    """Write through a temporary file: a kill at any byte leaves the checkpoint before in place.
    `keep_previous`: that one also stays, under the name `previous(path)`.
    """
    with replacing(path) as temporary:
        _write(temporary, state)
        sealed.seal(temporary)
        if keep_previous:
            _keep(path)


def _write(path: Path, state: dict[str, Any]) -> None:
    """Raises OSError where the disk is full: torch's own words do not say so."""
    try:
        torch.save(state, path)
        return
    except RuntimeError as error:
        if of_exception(error) != Failure.DISK:
            raise
        words = str(error).partition("\n")[0]
    # Not within the block: its traceback holds torch's writer, and so the space of what was written.
    raise OSError(errno.ENOSPC, f"{os.strerror(errno.ENOSPC)} ({words})", str(path))


def _keep(path: Path) -> None:
    """As a second name of the same file, so that there is no moment without `path`."""
    try:
        with replacing(previous(path), durable=False) as link:
            link.hardlink_to(path)
    except OSError:
        pass  # the first checkpoint, or a file system without links: then there is no other


def read(path: Path, objection: Objection | None = None) -> dict[str, Any]:
    """The state in this file, on the CPU, verified. Raises DamagedCheckpoint; FileNotFoundError where
    there is none, and PermissionError where it is not for us to read: that is no damage.
    """
    try:
        with path.open("rb") as file:
            state = _verified(path, file)
    except PermissionError as error:
        raise PermissionError(
            f"{path} is there and may not be read by this user; make it readable (chmod u+r, or chown)"
        ) from error
    except OSError as error:
        if error.errno not in (errno.EISDIR, errno.EIO):
            raise
        raise DamagedCheckpoint(path, str(error.strerror)) from error
    if objection and (problem := objection(state)):
        raise DamagedCheckpoint(path, problem)
    return state


def _verified(path: Path, file: BinaryIO) -> dict[str, Any]:
    if problem := sealed.flaw(file):
        raise DamagedCheckpoint(path, problem)
    file.seek(0)
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # of what torch.save did not write, any
        if isinstance(error, OSError) or of_exception(error) == Failure.OOM:
            raise
        raise DamagedCheckpoint(path, str(error).partition("\n")[0]) from error
    if not isinstance(state, dict):
        raise DamagedCheckpoint(path, f"it holds no state but a {type(state).__name__}")
    return state


def of_run(run: RunDir, config: RunConfig, *needed: str) -> Objection:
    """Refuses states of other runs, and those without these entries. Whose it is says its `signature`,
    which older ones do not have. A directory that was renamed is still the run of its config.
    """

    def objection(state: dict[str, Any]) -> str | None:
        if lacks := [name for name in needed if name not in state]:
            return f"it lacks {', '.join(lacks)}"
        owner = state.get("signature")
        if owner in (None, run.signature, signature(config)):
            return None
        return f"it is of another run, {owner}"

    return objection


def load(path: Path, objection: Objection | None = None) -> Loaded:
    """The newest that is whole, of this checkpoint and the one before."""
    damaged: list[DamagedCheckpoint] = []
    for candidate in (path, previous(path)):
        try:
            return Loaded(read(candidate, objection), candidate, tuple(damaged))
        except FileNotFoundError:
            continue
        except DamagedCheckpoint as error:
            damaged.append(error)
    return Loaded(None, damaged=tuple(damaged))


def load_alike(
    path: Path, world: World, objection: Objection | None = None
) -> dict[str, Any] | None:
    """The state to go on from, the same on all ranks: waits while some are shown an older checkpoint
    than others. None: there is none. A damaged file is named in a warning and set aside, once all
    ranks have read. Raises RuntimeError when the ranks do not come to agree. The state has a `step`.
    """
    deadline = time.monotonic() + STALE_S
    while True:
        loaded = load(path, objection)
        moments = world.gathered(loaded.moment)
        if len(set(moments)) == 1:
            _report(loaded, world)
            return loaded.state
        [over] = world.agreed([time.monotonic() > deadline])
        if over:
            raise RuntimeError(f"{path}: the ranks read checkpoints of different steps: {moments}")
        time.sleep(2.0)


def _report(loaded: Loaded, world: World) -> None:
    goes_on = "starting without it"
    if loaded.state and loaded.path:
        goes_on = f"going on from step {loaded.state['step']} of {loaded.path.name}"
    for error in loaded.damaged:
        kept = f"; kept as {set_aside(error.path).name}" if world.first else ""
        warnings.warn(
            f"{error.path} cannot be read: {error.problem}; {goes_on}{kept}",
            stacklevel=3,
        )
