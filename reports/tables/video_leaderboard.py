"""Leaderboard of video models: what `bench.evaluate` measured of models without a run, by data set.

One row per model, file of weights, and way of showing clips: models differ in frames and views, so
these stand beside the numbers, two ways are never averaged, and no best is marked. One group per data
set, digest of it and split; where the data are those of the paper, its numbers are rows of the group.
`figures/video_leaderboard.py` draws the same entries.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

import pandas as pd

from reports import published, splits, stats, table

ORDER = 45

GAP, ARROW, PROBE = "video.shuffle_gap", "video.arrow_of_time", "video.order_probe"
EVALUATIONS = (GAP, ARROW, PROBE)
SPLIT = "val"  # of the published numbers
ALL, TEMPORAL, STATIC, LAST = "All classes", "Temporal classes", "Static classes", "last"
ARROW_GROUP, ORDER_GROUP = "Arrow of time", "Order"
MEASURED, PUBLISHED = "measured", "published"

COMMAND = "python -m bench.evaluate {} --model MODEL --data DIR"
NO_CLASSES = "there is no clip of such a class"


@dataclass(frozen=True)
class LeaderboardColumn:
    """A number of the leaderboard. Subset LAST: the feature at the end of the model."""

    column: table.Column
    evaluation: str
    view: str
    subset: str
    metric: str
    paper: tuple[str, str] = ("", "")  # table and column in published.yaml


def _gap(name: str, group: str, view: str, subset: str, *paper: str) -> LeaderboardColumn:
    place = (paper[0], paper[1]) if paper else ("", "")
    return LeaderboardColumn(table.Column(name, group), GAP, view, subset, "top1", place)


def _by_class(subset: str, group: str, original: tuple[str, str]) -> dict[str, LeaderboardColumn]:
    """Original, shuffled and gap of a kind of class."""
    split = "temporal_static"
    return {
        f"{subset} original": _gap("Original", group, "original", subset, *original),
        f"{subset} shuffled": _gap("Shuffled", group, "shuffled", subset, split, f"{subset} shuffled"),
        f"{subset} gap": _gap("Gap", group, "gap", subset, split, f"{subset} gap"),
    }  # fmt: skip


def _arrow(name: str, subset: str) -> LeaderboardColumn:
    return LeaderboardColumn(
        table.Column(name, ARROW_GROUP), ARROW, "direction", subset, "accuracy"
    )


SHOWN: Mapping[str, LeaderboardColumn] = {
    **_by_class("all", ALL, ("main_result", "top1")),
    "reversed": _gap("Reversed", ALL, "reversed", "all"),
    "still": _gap("Still", ALL, "single_frame", "all"),
    **_by_class("temporal", TEMPORAL, ("temporal_static", "temporal original")),
    **_by_class("static", STATIC, ("temporal_static", "static original")),
    "arrow": _arrow("All", LAST),
    "arrow temporal": _arrow("Temporal", "temporal"),
    "arrow static": _arrow("Static", "static"),
    "order": LeaderboardColumn(
        table.Column("Last layer", ORDER_GROUP), PROBE, "shuffled", LAST, "frame_accuracy"
    ),
}


@dataclass(frozen=True)
class LeaderboardEntry:
    """One row of the leaderboard."""

    group: str  # data set and split
    source: str
    model: str
    clips: str  # how they were shown: frames, size, views, crops
    weights: str
    cells: Mapping[str, table.TableCell]  # by the names of SHOWN
    intervals: Mapping[str, tuple[float, float]]  # percent; of those that have one
    chance: Mapping[str, float]  # percent; of those that come with it

    @property
    def rank(self) -> tuple[object, ...]:
        """The largest gap first, then the highest accuracy; unknown ones last."""
        gap, original = (self.cells[name].value for name in ("all gap", "all original"))
        known = (gap is None, -(gap or 0.0), original is None, -(original or 0.0))
        return (*known, self.source, self.model, self.clips, self.weights)


def build(frame: pd.DataFrame) -> table.Table:
    found = entries(frame)
    return table.Table(
        title="Leaderboard of video models",
        caption=(
            "Models evaluated without a run. Top-1 accuracy on frames in their original order, "
            "shuffled, reversed, and on one frame throughout (Still); Gap = Original - Shuffled. "
            "Arrow of time: how often a linear probe of the last feature tells whether a clip is "
            "played forward, in parentheses Wilson's interval at 95 %; chance is 50, where a model that "
            "cannot see order stays. Order: how often a linear probe finds the original place of a "
            "shuffled frame in the last layer. Percent. Sorted by Gap within each data set. Models "
            "differ in frames and views (column Clips), so no best is marked."
        ),
        labels=("Data", "Source", "Model", "Clips", "Weights"),
        columns=tuple(shown.column for shown in SHOWN.values()),
        rows=tuple(
            table.Row(
                (entry.group, entry.source, entry.model, entry.clips, entry.weights),
                tuple(entry.cells[name] for name in SHOWN),
            )
            for entry in found
        ),
        notes=tuple(_notes(frame, found)),
    )


def entries(frame: pd.DataFrame) -> list[LeaderboardEntry]:
    """All rows, group by group, each sorted by `LeaderboardEntry.rank`; published ones where models were measured
    on their data set and split.
    """
    rows = pd.concat([stats.evaluated(frame, name) for name in EVALUATIONS])
    if rows.empty:
        return []
    rows = rows[rows["split"] != splits.TUNE]
    if "weights_sha256" not in rows:
        rows = rows.assign(weights_sha256="")
    rows = rows.assign(weights_sha256=rows["weights_sha256"].fillna(""))
    digests = rows.groupby("data")["data_digest"].nunique()
    found: list[LeaderboardEntry] = []
    for key, part in rows.groupby(["data", "data_digest", "split"]):
        data, digest, split = map(str, key)
        which = f"{data} (digest {digest[:8]})" if digests[data] > 1 else data
        group = f"{which}, {split}"
        members = [*_measured(group, part)]
        if (data, split) == (published.table("main_result").data, SPLIT):
            members += _published(group)
        found += sorted(members, key=lambda entry: entry.rank)
    return found


# --- measured ---


def _measured(group: str, rows: pd.DataFrame) -> Iterator[LeaderboardEntry]:
    for key, part in rows.groupby([stats.MODEL, "weights_sha256", "provenance"]):
        model, sha256, provenance = map(str, key)
        # The last part is how a clip is shown, what stands before how it was stored and decoded.
        clips = provenance.rpartition("; ")[2]
        entry = LeaderboardEntry(group, MEASURED, model, clips, _weights(model, sha256), {}, {}, {})
        by_evaluation = dict(iter(part.groupby("evaluation")))
        found = {
            name: _shown(by_evaluation.get(shown.evaluation), model, shown)
            for name, shown in SHOWN.items()
        }
        yield replace(
            entry,
            cells={name: cell for name, (cell, _, _) in found.items()},
            intervals={name: ends for name, (_, ends, _) in found.items() if ends},
            chance={name: level for name, (*_, level) in found.items() if level is not None},
        )


def _shown(
    rows: pd.DataFrame | None, model: str, shown: LeaderboardColumn
) -> tuple[table.TableCell, tuple[float, float] | None, float | None]:
    """The cell, its interval, and the level of chance, where the evaluation gives them."""
    cell = _cell(rows, model, shown)
    if rows is None or cell.value is None:
        return cell, None, None
    low, high, chance = (
        _number(rows, model, replace(shown, metric=metric)).mean
        for metric in ("ci_low", "ci_high", "chance")
    )
    interval = None if low is None or high is None else (low, high)
    return _with_context(cell, interval, chance), interval, chance


def _cell(rows: pd.DataFrame | None, model: str, shown: LeaderboardColumn) -> table.TableCell:
    # What nobody asked for is a dash, but no hole.
    if rows is None:
        how = COMMAND.format(shown.evaluation)
        return table.TableCell(table.DASH, "skipped", reason=f"not measured; {how}")
    if shown.subset in ("temporal", "static") and shown.subset not in set(rows["subset"]):
        return table.TableCell(table.DASH, "skipped", reason=NO_CLASSES)
    return table.measured(_number(rows, model, shown))


def _number(rows: pd.DataFrame, model: str, shown: LeaderboardColumn) -> stats.Aggregate:
    """Of rows of one evaluation; two measurements with other options are a problem, and no mean."""
    subset = shown.subset
    if subset == LAST:
        subset = _last(rows, shown)
    measure = stats.Measure(
        shown.evaluation, rows["split"].iloc[0], shown.view, subset, shown.metric
    )
    return stats.aggregate(rows, {stats.MODEL: model}, measure)


def _last(rows: pd.DataFrame, shown: LeaderboardColumn) -> str:
    """The feature at the end: the last layer of a probe of all layers, else what comes after it."""
    found = set(rows.loc[rows["view"] == shown.view, "subset"])
    layers = sorted(name for name in found if name.startswith("layer_"))
    if shown.evaluation == PROBE:
        return layers[-1] if layers else "layer"
    return "final" if "final" in found else "logits"


def _with_context(
    cell: table.TableCell, interval: tuple[float, float] | None, chance: float | None
) -> table.TableCell:
    """A share of clips with its interval, else with the level of chance where that differs by model."""
    if interval:
        low, high = map(table.percent, interval)
        return replace(cell, text=f"{cell.text} ({low}–{high})")
    if chance is not None:
        return replace(cell, text=f"{cell.text} (chance {table.percent(chance)})")
    return cell


def _weights(model: str, sha256: str) -> str:
    """Which file the model is: whether it is, or only claims to be, one that the authors released."""
    if not sha256:
        return table.DASH
    known = published.table("main_result").checkpoints
    for checkpoint in known:
        if checkpoint.is_file(sha256):
            whole = len(checkpoint.sha256) == 64
            by = "" if whole else f", by {len(checkpoint.sha256)} digits of its SHA-256"
            return f"released checkpoint of the TIME authors ({checkpoint.file}{by})"
    for checkpoint in known:
        if checkpoint.is_named(model):
            return f"not the {checkpoint.file} of the TIME authors (sha256 {sha256[:8]})"
    return f"sha256 {sha256[:8]}"


# --- published ---


def _published(group: str) -> Iterator[LeaderboardEntry]:
    main = published.table("main_result")
    files = {(known.backbone, known.method): known.file for known in main.checkpoints}
    for backbone, methods in main.values.items():
        for method in methods:
            model = f"{backbone}, {method}"
            cells = {
                name: _published_cell(backbone, method, *shown.paper)
                for name, shown in SHOWN.items()
            }
            weights = files.get((backbone, method), table.DASH)
            yield LeaderboardEntry(group, PUBLISHED, model, "as published", weights, cells, {}, {})


def _published_cell(backbone: str, method: str, name: str, column: str) -> table.TableCell:
    if not name:
        return table.published(None, published.table("main_result").source)
    paper = published.table(name)
    return table.published(paper.number(backbone, method, column), paper.source)


# --- notes ---


def _notes(frame: pd.DataFrame, found: Iterable[LeaderboardEntry]) -> Iterator[str]:
    sources = {entry.source for entry in found}
    if not sources:
        yield f"No model without a run was evaluated; {COMMAND.format(','.join(EVALUATIONS))}."
    if PUBLISHED in sources:
        for name in ("main_result", "temporal_static"):
            paper = published.table(name)
            yield from paper.notes((paper.data,), (), f"Rows '{PUBLISHED}'")
    left_out = sorted({name for e in EVALUATIONS for name in stats.limited(frame, e)})
    if left_out:
        partly = ", ".join(left_out)
        yield f"Left out, measured on a part of each class only: {partly}."
