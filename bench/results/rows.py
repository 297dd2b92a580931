"""Manifests, run directories and evaluated models, or a file of their rows -> one long DataFrame, one row
per measured number.

Rebuilt from manifests and run directories alone. A cell without a result is one row with empty
value and its reason, so that a table shows a hole instead of forgetting the cell. Models that
`bench.evaluate` measured without a run are rows of the sweep EVALUATED, told apart by `model`. A
damaged file is its cell's state and reason, and is listed in `attrs["damaged"]` like one of no cell.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from bench.config import left_out
from bench.results import made_by, rows_file
from bench.results.long_frame import TEXT, LongFrame, categorical
from bench.store.files import DamagedFile
from bench.store.result_files import Kind, is_result, read_result
from bench.store.rundir import RunDir, RunStatus, State, manifests

log = logging.getLogger(__name__)

COLUMNS = (
    "sweep", "scale", "overrides", "seed", "signature", "run_dir", "state", "reason", "evaluations",
    "data", "data_digest", "provenance", "code", "device", "evaluation", "split", "view", "subset", "metric",
    "value", "n", "n_failed", "train_replaced", "limit", "weights_sha256", "left_out", "data_seed", "axes",
)  # fmt: skip

EVALUATED = "evaluated"
"""Sweep of the models without a run, and their folder under `runs/`."""


def load(runs: Path) -> pd.DataFrame:
    """Of a folder of runs, or of a file of rows: `run_dir` is then a path in that file.

    Columns: COLUMNS plus one per axis of any sweep, and `model` where models without a run were
    evaluated. Empty when nothing was launched.

    `run_dir` is where `predictions` and `pictures` of a row are: the directory of its evaluation.
    `signature` names the run; where sweeps ask for the same evaluation of it with other options, `+`
    and a digest of what is asked tell them apart. `evaluations` are those that its sweep planned,
    separated by spaces. `n_failed`: samples of the split that could not be decoded and count as wrong;
    `train_replaced`: how often in training another sample took the place of such a one. `limit`: only
    so many samples of each class were shown; 0: all. `weights_sha256`: of the file that a model without
    a run came in; empty where there was none. `left_out`: "without <component> (<reason>)", what the labels
    of a cell ask for and it has not. Rows of the evaluation TRAINING are what objectives logged.
    `data_seed`: of generated data; the run's own where the config said `data.seed: null`. `code`, `device`:
    of what trained and, where that differs, of what measured: see `made_by`. `axes`: of the cell's sweep, with
    the labels of each, in their order, as JSON.

    Text is categorical: it compares, filters and groups like text; `astype(str)` makes it text. `attrs` has
    `damaged`: (path, reason) of each file that is not what was written.
    """
    if Path(runs).is_file():
        return _of_rows_file(Path(runs))
    rows, damaged = LongFrame(), list[DamagedFile]()
    found = _manifests(Path(runs), damaged)
    several = _measured_in_several_ways(found)
    for manifest in found:
        planned, axes = _planned(Path(runs), manifest), _axes(manifest)
        for cell in manifest["cells"]:
            name = cell["signature"]
            if name in several:
                name += f"+{_digest(sorted(cell.get('evaluations') or ()))}"
            for head, numbers in _cell_rows(Path(runs), manifest, cell, planned, damaged):
                rows.add({**head, "signature": name, "axes": axes}, numbers)
    for path in sorted((Path(runs) / EVALUATED).glob("*.json")):
        for head, numbers in _evaluated_rows(path, damaged):
            rows.add(head, numbers)
    _refuse_searches(Path(runs), damaged)
    return _with_damage(rows.frame(COLUMNS), damaged)


def _of_rows_file(path: Path) -> pd.DataFrame:
    file = rows_file.read(path)
    frame = categorical(file.frame)
    if (
        "code" not in frame
    ):  # written before there were these columns; what each was made by is beside
        places = frame["run_dir"].astype(str)
        made = {place: _by_facts(file, place.removeprefix(f"{path}/")) for place in places.unique()}
        new = {
            n: places.map({place: by[n] for place, by in made.items()}) for n in ("code", "device")
        }
        frame = categorical(frame.assign(**new))
    return _with_damage(frame, ())


def _by_facts(file: rows_file.RowsFile, name: str) -> dict[str, str]:
    """Of an evaluation in a file of rows and the run that it is of; of a model without a run, its own."""
    run = file.folders.get(name.partition("/evaluations/")[0], {})
    return made_by.both(run, file.folders.get(name, {}))


def _with_damage(frame: pd.DataFrame, damaged: Iterable[DamagedFile]) -> pd.DataFrame:
    found = dict.fromkeys((str(error.path), error.why) for error in damaged)
    for path, why in found:
        log.warning("%s %s", path, why)
    frame.attrs["damaged"] = tuple(found)
    return frame


def merged(folders: Sequence[Path]) -> pd.DataFrame:
    """As `load`, of several folders of runs: of one's own, of a colleague's, of another cluster.

    A cell that one folder lacks and another has is no hole; what several have is there once.
    """
    frames = [load(runs) for runs in folders]
    damaged = tuple(one for frame in frames for one in frame.attrs.pop("damaged", ()))
    there = [frame for frame in frames if len(frame)] or frames[:1]
    frame = there[0] if len(there) == 1 else categorical(pd.concat(there, ignore_index=True))
    if len(there) > 1:
        frame = _once(frame)
    frame.attrs["damaged"] = damaged
    return frame


def _once(frame: pd.DataFrame) -> pd.DataFrame:
    """Without the holes that another folder fills, and without what is there twice."""
    measured = frame["evaluation"].notna()
    cell = [*COLUMNS[:5], *(name for name in frame if name not in COLUMNS)]  # and its axes
    known = frame.loc[measured, cell].drop_duplicates()
    there = frame[cell].merge(known, how="left", on=cell, indicator=True)["_merge"] == "both"
    frame = frame[measured | ~there.to_numpy()]
    numbers = [name for name in frame if name not in ("run_dir", "reason")]
    return frame.drop_duplicates(numbers).reset_index(drop=True)


Part = tuple[dict[str, Any], list[dict[str, Any]]]
"""What rows share, and their numbers."""

_NOTHING = {**dict.fromkeys(TEXT), "value": None, "n": 0}

TRAINING = "training"
"""Stands for an evaluation in the rows of what objectives logged: view <objective>."""


# --- rows ---


def _manifests(runs: Path, damaged: list[DamagedFile]) -> list[dict[str, Any]]:
    """Of all sweeps."""
    found = []
    for path in manifests(runs):
        try:
            manifest = read_result(path, Kind.MANIFEST)
        except DamagedFile as error:
            damaged.append(DamagedFile(path, f"{error.why}; run the sweep again to write it anew"))
            continue
        found += [manifest] if manifest else []
    return found


def _measured_in_several_ways(found: list[dict[str, Any]]) -> set[str]:
    """The runs of which one evaluation is asked for with several digests."""
    ways: dict[tuple[str, str], set[str]] = {}
    for cell in (cell for manifest in found for cell in manifest["cells"]):
        for identity, name in (cell.get("evaluations") or {}).items():
            ways.setdefault((cell["signature"], name), set()).add(identity)
    return {run for (run, _), identities in ways.items() if len(identities) > 1}


def _axes(manifest: dict[str, Any]) -> str:
    """What the column `axes` says of a sweep."""
    axes: dict[str, list[str]] = {}
    for cell in manifest["cells"]:
        for axis, label in cell["labels"].items():
            if label not in axes.setdefault(axis, []):
                axes[axis].append(label)
    return json.dumps(axes)


def _digest(identities: list[str]) -> str:
    return hashlib.sha256(" ".join(identities).encode()).hexdigest()[:4]


def overrides_of(manifest: dict[str, Any]) -> str:
    """The `--set` changes of a sweep or a search, as the column `overrides` has them."""
    return json.dumps(manifest["overrides"], sort_keys=True) if manifest["overrides"] else ""


def _planned(runs: Path, manifest: dict[str, Any]) -> str:
    """The evaluations of a sweep, by the config of its first cell that has one: reading them all
    would take longer than everything else. Empty when none was launched.
    """
    for cell in manifest["cells"]:
        run = RunDir(runs / cell["signature"])
        if cell["signature"] and cell.get("evaluations") is None and run.config.exists():
            try:
                return " ".join(sorted(run.read_config().get("evaluations") or ()))
            except DamagedFile:  # which is that cell's alone
                continue
    return ""


def _cell_rows(
    runs: Path,
    manifest: dict[str, Any],
    cell: dict[str, Any],
    planned: str,
    damaged: list[DamagedFile],
) -> list[Part]:
    run = RunDir(runs / cell["signature"])
    asked = cell.get("evaluations")  # a manifest of before does not say
    names = planned if asked is None else " ".join(sorted(asked.values()))
    common = {
        "sweep": manifest["sweep"],
        "scale": manifest["scale"],
        "overrides": overrides_of(manifest),
        **cell["labels"],
        "seed": cell["seed"],
        "run_dir": str(run.path),
        "evaluations": names,
        "data": cell["data"],
        "data_seed": cell.get("data_seed", 0),
        "limit": 0,
        "weights_sha256": "",
        "left_out": left_out.without(cell.get("left_out") or {}),
    }
    status = run.status()
    if status.reason:
        where = run.config if status.reason.startswith(str(run.config)) else run.path
        why = status.reason.removeprefix(str(where)).lstrip()
        damaged += run.damage() or [DamagedFile(where, why)]
    try:
        return _measured_or_hole(run, status, cell, common)
    except (DamagedFile, LookupError, TypeError, ValueError, AttributeError) as error:
        # of before there were seals, a result may hold anything
        why = f"holds what it should not ({type(error).__name__}: {error})"
        damaged.append(error if isinstance(error, DamagedFile) else DamagedFile(run.path, why))
        state, reason = str(State.DAMAGED), f"{damaged[-1]}; run the sweep again"
        return [({**common, "state": state, "reason": reason}, [_NOTHING])]


def _measured_or_hole(
    run: RunDir, status: RunStatus, cell: dict[str, Any], common: dict[str, Any]
) -> list[Part]:
    asked = cell.get("evaluations")
    other = cell.get("stale") or status.state == State.EDITED
    trained = run.read_result() if status.trained and not other else None
    parts = [] if trained is None else _measured(run, trained, asked)
    measured = {row["evaluation"] for _, rows in parts for row in rows}
    missing = [] if trained is None else _missing(status, asked or {}, measured)
    if trained is not None and (measured or not missing):
        # Before samples that cannot be decoded were counted, one of them was an error.
        replaced = trained.get("bad_samples", {}).get("replaced", 0)
        reason = _why_missing(run, status, missing) if missing else ""
        known = {**common, "state": str(State.DONE), "reason": reason, "train_replaced": replaced}
        return [({**known, **head}, rows) for head, rows in [*parts, _of_training(trained)]]
    state, reason = _hole(run, status, cell, missing)
    return [({**common, "state": state, "reason": reason}, [_NOTHING])]


def _measured(run: RunDir, trained: dict[str, Any], asked: dict[str, str] | None) -> list[Part]:
    """What was measured of a run, as far as its sweep asks for it."""
    parts: list[Part] = []
    anew = set()
    for folder, found in run.read_measured(asked):
        anew.add(found["evaluation"])
        made_from = {name: found[name] for name in ("data", "data_digest", "provenance")}
        made_from |= made_by.both(trained, found)
        parts.append(({"run_dir": str(folder.path), **made_from}, found["rows"]))
    # A run of before there were two identities has the rows of its evaluations in its one result.
    wanted = None if asked is None else set(asked.values())
    made_from = {name: trained.get(name) for name in ("data_digest", "provenance")}
    rows = [
        row
        for row in trained.get("rows", ())
        if row["evaluation"] not in anew and (wanted is None or row["evaluation"] in wanted)
    ]
    return [*parts, ({**made_from, **made_by.both(trained, trained)}, rows)]


def _of_training(trained: dict[str, Any]) -> Part:
    """What the objectives of a run logged, over its last epoch; `n` counts steps."""
    made_from = {"data_digest": trained["data_digest"], "provenance": "training"}
    where = {"evaluation": TRAINING, "split": "train", "subset": "all"}
    return {**made_from, **made_by.both(trained, trained)}, [
        {**where, "view": name, "metric": metric, "value": value, "n": found["steps"]}
        for name, found in (trained.get("objectives") or {}).items()
        for metric, value in found.items()
        if metric != "steps"
    ]


def _missing(status: RunStatus, asked: dict[str, str], measured: set[str]) -> list[str]:
    """The names of the evaluations that have measured nothing."""
    through = {asked[identity] for identity in status.measured & asked.keys()}
    return sorted(set(asked.values()) - through - measured)


def _why_missing(run: RunDir, status: RunStatus, missing: list[str]) -> str:
    names = ", ".join(missing)
    if status.state == State.FAILED:
        return f"{names} failed: {_why_failed(run)}"
    if status.state == State.DAMAGED:
        return f"{status.reason}; run the sweep again (it trains nothing)"
    return f"{names} is not measured yet; run the sweep again (it trains nothing)"


def _evaluated_rows(path: Path, damaged: list[DamagedFile]) -> list[Part]:
    """The rows of `runs/evaluated/<slug>.json`; everything else kept is in the folder <slug>."""
    try:
        found = read_result(path, Kind.MODEL)
    except DamagedFile as error:
        damaged.append(DamagedFile(path, f"{error.why}; delete it, or evaluate the model again"))
        found = None
    if found is None:
        return []
    # Two normalisations of one model are two entries of a table.
    official = " (official)" if found["official"] else ""
    common = {
        "sweep": EVALUATED,
        "scale": "",
        "overrides": "",
        "model": f"{found['model']}{official}",
        "seed": 0,
        "signature": f"{EVALUATED}/{path.stem}",
        "run_dir": str(path.with_suffix("")),
        "state": str(State.DONE),
        "reason": "",
        "evaluations": found["evaluation"],
        "limit": found.get("limit", 0),
        "left_out": "",
        "weights_sha256": str(found.get("made_by", {}).get("sha256", "")),
        **{name: found[name] for name in ("data", "data_digest", "provenance")},
    }
    named = {**common, "train_replaced": 0, **made_by.both(found, found)}
    return [(named, [{**row, "evaluation": found["evaluation"]} for row in found["rows"]])]


def _refuse_searches(runs: Path, damaged: list[DamagedFile]) -> None:
    """Damage of what bench.tune wrote, which has no rows; `searches` reads it."""
    for path in sorted((runs / "tune").glob("*/trials.json")):
        try:
            is_result(path, Kind.SEARCH)
        except DamagedFile as error:
            damaged.append(
                DamagedFile(path, f"{error.why}; `python -m bench.tune` writes it again")
            )


def _hole(
    run: RunDir, status: RunStatus, cell: dict[str, Any], missing: list[str]
) -> tuple[str, str]:
    if cell["skip"]:
        return str(State.SKIPPED), cell["skip"]
    if cell.get("stale"):
        return str(State.STALE), cell["stale"]
    state = status.state
    if missing and state in (State.DONE, State.TRAINED, State.DAMAGED):
        shown = State.DAMAGED if state == State.DAMAGED else State.TRAINED
        return str(shown), _why_missing(run, status, missing)
    reasons = {
        State.FAILED: _why_failed(run) if state == State.FAILED else "",
        State.DAMAGED: f"{status.reason}; run the sweep again",
        State.EDITED: status.reason,
        State.NEW: "not run yet",
        State.PENDING: "waiting to start",
        State.RUNNING: "still running",
        State.INTERRUPTED: "interrupted; run the sweep again to go on",
        State.PREEMPTED: "was stopped; goes on from its checkpoint: see bench.sweep --status",
        State.PRUNED: _why_pruned(run) if state == State.PRUNED else "",
    }
    return str(state), reasons.get(state, "")


def _why_failed(run: RunDir) -> str:
    """'OOM: torch.OutOfMemoryError: ...'"""
    kind = run.read_outcome().get("kind")
    return f"{kind}: {run.error_line()}" if kind else run.error_line()


def _why_pruned(run: RunDir) -> str:
    step = run.read_outcome().get("step")
    return "stopped by a search" + ("" if step is None else f" at step {step}")
