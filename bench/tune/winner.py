"""What a search leaves for others: trials.json (bench.results and the report) and winner.yaml (a
sweep that compares the winner with the default over new seeds).

Both are made from the study alone, by study.py, at each end of a trial.
"""

from __future__ import annotations

import shlex
import warnings
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from bench.grid.files import own_scales
from bench.store.files import dump_yaml, write_text
from bench.tune.search import WINNER_AXIS, Search

SEEDS = [0, 1, 2]
BEST = 5
"""Trials that count as good at least, where PED-ANOVA compares the good ones with all."""


def record(search: Search, study: optuna.Study, best: FrozenTrial | None) -> dict[str, Any]:
    """The whole study as plain JSON."""
    importances, reason = _importances(study)
    return {
        "study": search.name,
        "sweep": search.recipe.sweep.stem,
        "scale": search.recipe.scale,
        "overrides": search.recipe.overrides,
        "title": search.recipe.title,
        "metric": search.metric_name,
        "split": search.split,
        "direction": search.options.direction,
        "sampler": search.options.sampler,
        "pruner": search.pruner.name,
        "optuna": optuna.__version__,
        "planned": search.trials,
        "epochs": search.base.config.train.epochs,
        "best": None if best is None else best.number,
        "importances": importances,
        "importances_reason": reason,
        "trials": [_trial(trial) for trial in study.get_trials(deepcopy=False)],
    }


def _trial(trial: FrozenTrial) -> dict[str, Any]:
    notes = trial.user_attrs
    return {
        "number": trial.number,
        "state": trial.state.name,
        "params": {**trial.system_attrs.get("fixed_params", {}), **trial.params},
        # Optuna gives a pruned trial its last intermediate value: not a value it was trained to.
        "value": trial.value if trial.state == TrialState.COMPLETE else None,
        "intermediate": {str(epoch): v for epoch, v in sorted(trial.intermediate_values.items())},
        "signature": notes.get("signature"),
        "seconds": seconds(trial),
        "retry_of": notes.get("retry_of"),
        "retries": notes.get("retries", 0),
        "point": notes.get("point"),
        "error": notes.get("error", ""),
        "lost": notes.get("lost", ""),
    }


def seconds(trial: FrozenTrial) -> float | None:
    """How long a trial that has ended took, where that is known: a journal that was made anew says it
    in a note.
    """
    if "seconds" in trial.user_attrs:
        found = trial.user_attrs["seconds"]
        return None if found is None else float(found)
    ended = trial.state.is_finished() and trial.duration
    return ended.total_seconds() if ended else None


def _importances(study: optuna.Study) -> tuple[dict[str, float], str]:
    """Which parameter the value depends on how much (PED-ANOVA; they add up to 1), or why nothing
    can be said of it.
    """
    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if len(trials) < 2 * BEST:
        return (
            {},
            f"needs {2 * BEST} trials that were trained to their end; there are {len(trials)}",
        )
    if len({trial.value for trial in trials}) == 1:
        return {}, "all trials have the same value"
    quantile = max(0.1, BEST / len(trials))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=quantile)
        found = optuna.importance.get_param_importances(study, evaluator=evaluator)
    return {key: float(value) for key, value in found.items()}, ""


def write(path: Path, search: Search, best: FrozenTrial, trials: list[FrozenTrial]) -> None:
    """The sweep `winner.yaml`. A winner that is the default itself stands there once."""
    document = search.recipe.document
    params = {key: best.params[key] for key in search.space}
    labels: dict[str, Any] = {"tuned": params, "default": {}}
    if search.cell(params).signature == search.base.signature:
        labels = {"default": {}}
    sweep: dict[str, Any] = {"title": f"Winner of {search.name} against the default"}
    sweep |= {
        key: document[key]
        for key in ("scales", "cells", "base", "resources", "leave_out")
        if key in document
    }
    if beside := own_scales(search.recipe.sweep):
        sweep["scales"] = str((beside / document.get("scales", ".")).resolve())
    sweep["axes"] = {**(document.get("axes") or {}), WINNER_AXIS: labels}
    sweep["seeds"] = SEEDS
    write_text(path, f"{_header(path, search, best, trials)}\n{dump_yaml(sweep)}")


def _header(path: Path, search: Search, best: FrozenTrial, trials: list[FrozenTrial]) -> str:
    recipe, seed = search.recipe, search.base.seed
    command = f"python -m bench.sweep {path} --scale {recipe.scale}"
    settings = [text for text in search.settings if not text.startswith("seeds=")]
    command += "".join(f" --set {shlex.quote(text)}" for text in settings)
    ended = [t for t in trials if t.state in (TrialState.COMPLETE, TrialState.PRUNED)]
    pruned = sum(t.state == TrialState.PRUNED for t in ended)
    new = [seed + i for i in (1, 2, 3)]
    return f"""\
# The winner of a search, to be compared with the default over several seeds.
#
# command   {command}
# study     {search.name}: trial {best.number}, {search.metric_name} = {best.value:.6g}, best of {len(ended)}
#           trials ({pruned} of them stopped early), {search.options.sampler}, seed {search.options.seed}
#
# It was chosen on {search.split}, by one run with seed {seed}: the best of many runs is also the luckiest, so that
# number, and all its results with seed {seed}, flatter it. Judge it by new seeds:
#   {command} --set 'seeds={new}'"""
