"""Cells that start from other cells: what must be trained first, and whether it still is what they
started from.

In the flow: status.py reads each cell by itself; here those of a plan are seen together. `--plan`, `--status`
and the plain command show parents beside the cells of the grid.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.grid.plan import Plan
from bench.store.files import DamagedFile, read_json_if_sound
from bench.store.rundir import RunDir, State
from bench.sweep.status import CellStatus, label, read_statuses

UNNEEDED = "not needed: all that starts from it is trained"


def read_plan(runs: Path, grid: Plan) -> list[CellStatus]:
    """The status of each cell of the grid, after those of cells that only serve them. A parent that is there
    for nobody any more is SKIPPED, and what started from other weights than its parent has now is STALE.
    """
    found = read_statuses(runs, grid.all_cells)
    needed: set[str] = set()
    for s in found:
        if not s.trained and s.state not in (State.SKIPPED, State.STALE, State.EDITED):
            needed |= {parent.signature for parent in s.cell.parents()}
    only = {parent.signature for parent in grid.parents}
    found = [_as_parent(s, needed=needed, only=only) for s in found]
    by_signature = {s.cell.signature: s for s in found}
    # Read once each, however many start from it; one need not be in the plan.
    results = {
        parent: _result_of(
            by_signature[parent].run if parent in by_signature else RunDir(runs / parent)
        )
        for parent in {s.cell.config.parent for s in found}
        if parent is not None
    }
    return [_as_started(s, by_signature, results) if s.cell.config.parent else s for s in found]


def _result_of(run: RunDir) -> dict[str, Any] | None:
    try:
        return run.read_result()
    except DamagedFile:
        return None


def _as_parent(s: CellStatus, *, needed: set[str], only: set[str]) -> CellStatus:
    """A cell as those see it that start from it."""
    if s.cell.signature in needed:
        gone = s.trained and not s.busy and not s.run.last.exists()
        if gone and s.state in (State.DONE, State.TRAINED):
            note = "kept no weights, and cells are to start from them: --retrain"
            return replace(s, state=State.TRAINED, note=note, wanted=True)
        return s
    if s.cell.signature in only and not s.trained and not s.busy and s.state != State.EDITED:
        return replace(s, state=State.SKIPPED, kind=None, note=UNNEEDED)
    return s


def _as_started(
    s: CellStatus, parents: dict[str, CellStatus], results: dict[str, dict[str, Any] | None]
) -> CellStatus:
    """A cell that starts from another, which need not be in the plan."""
    signature = s.cell.config.parent
    assert signature is not None
    if s.busy or s.state in (State.SKIPPED, State.STALE, State.EDITED):
        return s
    known, result = parents.get(signature), results[signature]
    began = _began_with(s.run)
    if result and began and result.get("weights") not in (None, began):
        note = f"its parent {signature} was trained again and has other weights since; --force runs it afresh"
        return replace(s, state=State.STALE, kind=None, note=note)
    if result is None and not s.trained and s.state in (State.NEW, State.PENDING):
        name = label(known.cell) if known else f"{signature}, of which only the signature is known,"
        state = f" ({known.text})" if known and known.state != State.NEW else ""
        return replace(s, note=f"starts from {name} once it is trained{state}")
    return s


def _began_with(run: RunDir) -> str | None:
    """SHA-256 of the weights that it started from, as far as it has."""
    try:
        record = (run.read_result() or {}).get("started_from")
    except DamagedFile:
        return None
    record = record or read_json_if_sound(run.env).get("weights")
    return record.get("sha256") if isinstance(record, dict) else None


def waits_for(s: CellStatus) -> RunDir | None:
    """The run that must be trained before this cell can start."""
    signature = s.cell.config.parent
    return None if signature is None or s.trained else RunDir(s.run.path.with_name(signature))
