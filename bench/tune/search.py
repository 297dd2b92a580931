"""The `search:` block of a sweep -> a checked `Search`: which config keys vary over what, how values
are proposed, and the number that decides.

Pure, and without Optuna: study.py proposes and keeps the trials, command.py runs them. A
trial is a cell of the sweep with other values of some keys, so it lives in runs/<signature>/ like
any other cell, and the same values twice are computed once.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pydantic
from pydantic import Field

from bench import find
from bench.config import signature
from bench.config.mistakes import Mistake, Mistakes, shown
from bench.config.science import KEYED
from bench.config.validate import validated
from bench.grid.axes import Labels, Layer, read_axes
from bench.grid.patch import nest, split_path
from bench.grid.plan import Cell, Recipe
from bench.grid.plan import read as read_recipe
from bench.grid.yaml import LARGEST_INTEGER
from bench.task import Config

Value = bool | int | float | str | None
Params = dict[str, Value]
"""Config key, dotted as in the YAML -> value."""

VALIDATION = "val/top1"
"""The metric of metrics.jsonl: the validation while training, top-1 on the split `DataSpec.tuned` at the
end of an epoch, whatever that is called."""

WINNER_AXIS = "method"


MOST_VALUES = 1000
"""Of one key."""

MOST_POINTS = 10_000
"""Of a grid: the product of how many values its keys have."""


class Dimension(Config):
    """What one config key may be: a range of numbers, or a list of values."""

    low: float | None = None
    high: float | None = Field(None, description="included")
    log: bool = Field(False, description="as likely between 0.1 and 1 as between 1 and 10")
    whole: bool = Field(False, alias="int", description="whole numbers only")
    step: float | None = Field(None, gt=0, description="distance of neighbouring values")
    values: tuple[Value, ...] | None = Field(None, min_length=1, max_length=MOST_VALUES)

    @pydantic.model_validator(mode="after")
    def _is_a_range_or_a_list(self) -> Dimension:
        if (self.values is None) == (self.low is None and self.high is None):
            raise ValueError("give a range {low: .., high: ..} or a list {values: [..]}")
        if self.values is not None:
            if len(set(self.values)) < len(self.values):
                raise ValueError("values must be distinct")
            if self.log or self.whole or self.step is not None:
                raise ValueError("log, int and step belong to a range, not to values")
            return self
        if self.low is None or self.high is None or not self.low < self.high:
            raise ValueError("a range needs low < high")
        if max(abs(self.low), abs(self.high)) > LARGEST_INTEGER:
            raise ValueError(f"a range lies within +-{LARGEST_INTEGER}")
        if self.log and (self.low <= 0 or self.step is not None):
            raise ValueError("log needs low > 0 and no step")
        numbers = (self.low, self.high, self.step or 1.0)
        if self.whole and not all(float(number).is_integer() for number in numbers):
            raise ValueError("int needs whole low, high and step")
        return self

    def grid(self) -> list[Value] | None:
        """All values in order, or None where there is no end of them."""
        if self.values is not None:
            return list(self.values)
        if self.low is None or self.high is None or self.step is None:
            return None
        # .12g: 0.1 + 2 * 0.1 is written 0.3
        found = [float(f"{self.low + i * self.step:.12g}") for i in range(self.count() or 0)]
        return [int(value) for value in found] if self.whole else list(found)

    def count(self) -> int | None:
        """How many values `grid` gives."""
        if self.values is not None:
            return len(self.values)
        if self.low is None or self.high is None or self.step is None:
            return None
        steps = (self.high - self.low) / self.step
        return math.floor(min(steps, LARGEST_INTEGER) + 1e-9) + 1

    def extremes(self) -> list[Value]:
        """Values that show whether the config takes them."""
        if self.values is not None:
            return list(self.values)
        ends = (self.low or 0.0, self.high or 0.0)
        return [int(end) if self.whole else end for end in ends]


class Metric(Config):
    """One number of an evaluation, as in the rows of result.json."""

    evaluation: str
    view: str
    subset: str
    metric: str
    split: str | None = Field(
        None, description="the one that options are chosen on; no other is accepted"
    )


class Pruner(Config):
    """When an unpromising trial is stopped early."""

    name: Literal["none", "median", "hyperband"] = "none"
    startup_trials: int = Field(5, ge=1, description="median: trials that end before one is judged")
    warmup_epochs: int = Field(
        1, ge=1, description="no trial is stopped before it has trained this many epochs"
    )
    reduction_factor: int = Field(3, ge=2, description="hyperband: one of so many goes on")


class Options(Config):
    """The plain values of the block."""

    direction: Literal["maximize", "minimize"] = "maximize"
    sampler: Literal["tpe", "random", "grid"] = "tpe"
    seed: int = Field(0, ge=0)
    trials: int | None = Field(None, ge=1, description="30; of a grid all points")


@dataclass(frozen=True)
class Search:
    """A search over one sweep at one scale: everything a worker needs to know."""

    recipe: Recipe
    settings: tuple[str, ...]  # --set, as typed
    labels: Labels
    layers: tuple[Layer, ...]  # what the labels stand for
    base: Cell  # without the search: what the winner is compared with
    options: Options
    metric: Metric | None  # None: VALIDATION
    pruner: Pruner
    space: Mapping[str, Dimension]

    @property
    def name(self) -> str:
        """Name of the study. Another base or another search is another study; more trials are not."""
        options = self.options.model_dump(mode="json", exclude={"trials"})
        asked = {
            "options": options,
            "base": self.base.signature,
            "metric": self.metric.model_dump(mode="json") if self.metric else VALIDATION,
            "pruner": self.pruner.model_dump(mode="json"),
            "space": {key: d.model_dump(mode="json") for key, d in self.space.items()},
        }
        return f"{self.recipe.sweep.stem}-{self.recipe.scale}-{signature.digest(asked)[:6]}"

    @property
    def metric_name(self) -> str:
        if self.metric is None:
            return VALIDATION
        row = self.metric
        return " ".join((row.evaluation, self.split, row.view, row.subset, row.metric))

    @property
    def split(self) -> str:
        """The split that decides."""
        return self.base.config.data_spec().tuned

    @property
    def maximize(self) -> bool:
        return self.options.direction == "maximize"

    @property
    def trials(self) -> int:
        if self.options.sampler != "grid":
            return self.options.trials or 30
        return min(self.options.trials or len(self.points), len(self.points))

    @property
    def points(self) -> list[Params]:
        """All points of a grid, the last key varying fastest."""
        columns = [dimension.grid() or [] for dimension in self.space.values()]
        return [
            dict(zip(self.space, values, strict=True)) for values in itertools.product(*columns)
        ]

    def cell(self, params: Params) -> Cell:
        """The cell that a trial runs. Raises Mistakes."""
        return _cell(self.recipe, self.labels, self.layers, params)


def read(
    sweep: Path, scale: str, settings: Iterable[str] = (), *, trials: int | None = None
) -> Search:
    """The search of a sweep; `trials` takes the place of the file's. Raises Mistakes with all that
    is wrong in the files and the block, and then with all that the config does not take.
    """
    settings = tuple(settings)
    mistakes: list[Mistake] = []
    recipe = read_recipe(sweep, scale, settings, mistakes)
    raw = recipe.document.get("search")
    if not isinstance(raw, dict):
        text = "a sweep without `search: {space: ..}` is run by python -m bench.sweep"
        mistakes.append(Mistake((), f"{sweep}: search: {text}; got {shown(raw)}"))
        raise Mistakes(mistakes)
    if trials is not None:
        raw = {**raw, "trials": trials}
    options, metric, pruner, space = _parts(raw, mistakes)
    space = _searched(space, recipe, mistakes)
    labels, layers = _fixed_labels(recipe, mistakes)
    base = None
    try:
        base = recipe.cell(labels, layers)
    except Mistakes as error:
        # what is not written may be missing because of a mistake before
        mistakes += [m for m in error.mistakes if not (mistakes and m.path)]
    if mistakes or base is None:
        raise Mistakes([_placed(sweep, mistake) for mistake in mistakes])
    search = Search(recipe, settings, labels, layers, base, options, metric, pruner, space)
    mistakes = [
        _placed(sweep, mistake) for mistake in [*_contradictions(search), *_refused(search)]
    ]
    if mistakes:
        raise Mistakes(mistakes)
    return search


def _parts(
    raw: Mapping[str, Any], mistakes: list[Mistake]
) -> tuple[Options, Metric | None, Pruner, dict[str, Dimension]]:
    """Validate each part of the block by itself, so that all mistakes come out."""
    known = (*Options.model_fields, "metric", "pruner", "space")
    for key in (key for key in raw if key not in known):
        mistakes.append(Mistake(("search", key), f"unknown key{find.nearest(key, known)}"))
    options = {key: raw[key] for key in raw if key in Options.model_fields}
    metric, pruner, space = raw.get("metric", VALIDATION), raw.get("pruner", {}), raw.get("space")
    row = None
    if isinstance(metric, str):
        if metric != VALIDATION:
            text = (
                f"must be {VALIDATION} or {{evaluation, view, subset, metric}}; got {shown(metric)}"
            )
            mistakes.append(Mistake(("search", "metric"), text))
    else:
        row = validated(Metric, metric, ("search", "metric"), mistakes)
    if not isinstance(space, dict) or not space:
        text = "required: e.g. {train.lr: {low: 1e-4, high: 1e-2, log: true}}"
        mistakes.append(Mistake(("search", "space"), text))
        space = {}
    return (
        validated(Options, options, ("search",), mistakes),
        row,
        validated(
            Pruner,
            {"name": pruner} if isinstance(pruner, str) else pruner,
            ("search", "pruner"),
            mistakes,
        ),
        {
            str(key): validated(Dimension, dimension, ("search", "space", str(key)), mistakes)
            for key, dimension in space.items()
        },
    )


def _searched(
    space: dict[str, Dimension], recipe: Recipe, mistakes: list[Mistake]
) -> dict[str, Dimension]:
    """Without the options of what the scale leaves out, which would change nothing."""
    gone = {(section, name) for section in KEYED for name in recipe.left_out}
    kept = {key: part for key, part in space.items() if split_path(key)[:2] not in gone}
    if space and not kept:
        text = "all of it is left out at this scale (`leave_out`)"
        mistakes.append(Mistake(("search", "space"), text))
    return kept


def _fixed_labels(recipe: Recipe, mistakes: list[Mistake]) -> tuple[Labels, tuple[Layer, ...]]:
    """The axes of a search have one label each: by them tables know what the winner is."""
    if not recipe.document.get("axes"):
        return {}, ()
    axes = read_axes(recipe.sweep, recipe.document, mistakes) or {}
    for axis, labels in axes.items():
        if len(labels) > 1:
            text = "an axis of a search has one label; what varies stands in search.space"
            mistakes.append(Mistake(("axes", axis), text))
        if axis == WINNER_AXIS:
            text = "this axis tells the winner from the default; use another name"
            mistakes.append(Mistake(("axes", axis), text))
    chosen = {axis: next(iter(labels)) for axis, labels in axes.items() if labels}
    return chosen, tuple(axes[axis][label] for axis, label in chosen.items())


def _contradictions(search: Search) -> list[Mistake]:
    """Parts that are right by themselves and do not go together."""
    found: list[Mistake] = []
    for key, dimension in search.space.items():
        path = ("search", "space", key)
        if key.split(".")[0] in ("resources", "seed", "seeds"):
            found.append(Mistake(path, "only what changes the numbers can be searched"))
        if search.options.sampler == "grid" and dimension.count() is None:
            found.append(Mistake(path, "a grid needs values, or a step"))
    points = math.prod(dimension.count() or 1 for dimension in search.space.values())
    if search.options.sampler == "grid" and points > MOST_POINTS:
        text = f"a grid of {points:,} points; at most {MOST_POINTS:,}"
        found.append(Mistake(("search", "space"), text))
    row = search.metric
    if row is None:
        return found
    if search.pruner.name != "none":
        text = f"trials are judged on the way by {VALIDATION}: use it as metric, or no pruner"
        found.append(Mistake(("search", "pruner"), text))
    evaluations = sorted(search.base.config.evaluations)
    if row.evaluation not in evaluations:
        hint = find.nearest(row.evaluation, evaluations)
        text = f"the cells have no evaluation {row.evaluation!r}{hint}"
        found.append(Mistake(("search", "metric", "evaluation"), text))
    if row.split not in (None, search.split):
        text = f"{row.split!r} is for the final numbers; only {search.split!r} may decide"
        found.append(Mistake(("search", "metric", "split"), text))
    return found


def _refused(search: Search) -> list[Mistake]:
    """What the config says to the ends of each range and to each listed value."""
    found: list[Mistake] = []
    first = {key: dimension.extremes()[0] for key, dimension in search.space.items()}
    for key, dimension in search.space.items():
        for value in dimension.extremes():
            try:
                search.cell({**first, key: value})
            except Mistakes as error:
                found += error.mistakes
    if search.base.skip:
        found.append(Mistake(("base",), f"cannot run: {search.base.skip}"))
    return found


def _cell(recipe: Recipe, labels: Labels, layers: Iterable[Layer], params: Params) -> Cell:
    origin = f"{recipe.sweep}: search.space"
    return recipe.cell(labels, [*layers, Layer(origin, nest(params))])


def _placed(sweep: Path, mistake: Mistake) -> Mistake:
    return Mistake((), f"{sweep}: {mistake}") if mistake.path else mistake
