"""Table 3 of the paper: what is left of the accuracy when background and foreground disagree.

BG-Gap = Mixed-Same - Mixed-Rand, what a background of the right class is worth to the model. The
challenge accuracy (no background may change the prediction) is not in the paper's table.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import pandas as pd

from reports import compare, intervals, published, stats, table, trained_on

ORDER = 50
SUMMARY = True  # shown in the terminal after a build

EVALUATION = "image.background_shift"
CHALLENGE = "image.background_challenge"
SPLIT = "test"
METHODS = ("baseline", "+ order", "+ debias", "+ TIME")
WITH_FOREGROUND = {
    "original": "Original",
    "only_fg": "Only-FG",
    "mixed_same": "Mixed-Same",
    "mixed_rand": "Mixed-Rand",
    "mixed_next": "Mixed-Next",
}
ON_MEAN = "only_fg_mean"
"""Only-FG on the mean colour instead of black: not of the release, so nobody has published it."""
WITHOUT_FOREGROUND = {"no_fg": "No-FG", "only_bg_b": "Only-BG-B", "only_bg_t": "Only-BG-T"}
TILES = {
    "original": "top-1, original images",
    "mixed_rand": "top-1, Mixed-Rand",
    "bg_gap": "BG-Gap (Mixed-Same - Mixed-Rand)",
}
RECIPE = (
    "The paper's exact recipe for images is not public. Here the order objective predicts the "
    "position of every patch from its token, and the debias objective asks for a uniform output on "
    "images of the background alone; how patches are permuted and where the background comes from "
    "are options, kept in each run's config.yaml and explained in tasks/image/."
)

WHY_ORDER = (
    "Of the order loss: it is asked of every patch, of the background's as of the object's, so nothing "
    "in it tells one from the other; and of patches in their places, as frames are asked, the position "
    "embedding alone answers it (image.patch_order/accuracy in metrics.jsonl). The rows 'order: ...' "
    "of sweeps/background_options.yaml ask without that shortcut."
)


def build(frame: pd.DataFrame) -> table.Table:
    rows = stats.of_evaluation(frame, EVALUATION)
    return compare.build(
        frame,
        rows,
        compare.Comparison(
            title="Background shift",
            caption=(
                "Top-1 accuracy on the test variants of ImageNet-9 with each objective alone added to "
                "the baseline, and with both (+ TIME). Only-FG has no background but black, Only-FG "
                "(mean) the data's mean colour; in Mixed-Same, "
                "Mixed-Rand and Mixed-Next it is another image's, of the same, a random and the next "
                "class; BG-Gap = Mixed-Same - Mixed-Rand. No-FG, Only-BG-B and Only-BG-T do not show "
                "the object (cut out, its box black, its box covered with background): the lower, the "
                "less the model goes by the background, so neither direction is better as such. "
                f"Challenge: foregrounds that no test background makes it misclassify. "
                f"In brackets: the change to the baseline, paired by seed. {table.OVER_SEEDS}"
            ),
            shown=_shown(rows),
            cells=[
                (backbone, method)
                for backbone in stats.labels(rows, "backbone")
                for method in _methods(rows, backbone)
            ],
            paper=published.table("backgrounds"),
            sweep=lambda backbone: "background",
            notes=(RECIPE, *_fill_notes(rows), *trained_on.notes(rows), *_contradictions(rows)),
        ),
    )


def headline(frame: pd.DataFrame) -> tuple[tuple[str, str, str], ...]:
    """(what, number, explanation) for the top of the page: baseline against + TIME."""
    rows = stats.of_evaluation(frame, EVALUATION)
    return compare.tiles(rows, _shown(rows))


def _fill_notes(rows: pd.DataFrame) -> tuple[str, ...]:
    """How much of Only-FG is about its black, per backbone: the pull of its commonest prediction."""
    if len(rows) and ON_MEAN not in set(rows["view"].dropna()):
        return (
            "Only-FG on the mean colour is not shown: these results are of before it was measured "
            f"({EVALUATION} VERSION 2), or the original images have no masks (fg_mask).",
        )
    notes = []
    for backbone in stats.labels(rows, "backbone"):
        methods = stats.labels(rows[rows["backbone"] == backbone], "method", METHODS)
        for method in methods[:1]:
            shares = [
                stats.aggregate(
                    rows,
                    {"backbone": backbone, "method": method},
                    stats.Measure(EVALUATION, SPLIT, view, metric="top_share"),
                )
                for view in ("only_fg", ON_MEAN)
            ]
            if shares[0].mean is not None and shares[1].mean is not None:
                black, mean = (table.measured(share).text for share in shares)
                notes.append(
                    f"What the fill of Only-FG is taken for: {backbone}, {method}, calls {black} % of "
                    f"the images on black by one and the same class, and {mean} % of the same objects "
                    f"on the data's mean colour (11.1 % where no class is favoured)."
                )
    return tuple(notes)


@dataclass(frozen=True)
class _Change:
    """What a method does to a number, measured and published."""

    method: str
    name: str
    measured: stats.Aggregate  # paired with the baseline
    published: float

    @property
    def against(self) -> bool:
        """Whether its 95 % interval over seeds lies wholly on the other side of zero than the paper's."""
        ends = intervals.of_mean(self.measured)
        return ends is not None and max(end * self.published for end in ends) < 0

    def __str__(self) -> str:
        text = table.measured(self.measured, signed=True).text
        return f"{self.name} {text} ({table.percent(self.published, signed=True)})"


def _contradictions(rows: pd.DataFrame) -> tuple[str, ...]:
    """What went the other way than in the paper, per backbone, and what is known of why."""
    notes = []
    for backbone in stats.labels(rows, "backbone"):
        changes = list(_changes(rows, backbone))
        found = []
        for method in METHODS[1:]:
            if against := [str(c) for c in changes if c.method == method and c.against]:
                found.append(f"{method}: {', '.join(against)}")
        if found:
            notes.append(
                f"Against the paper's direction, {backbone} (paired changes to the baseline whose 95 % "
                "interval over seeds, Student's t, each by itself, excludes 0; in brackets the paper's): "
                f"{'; '.join(found)}. {WHY_ORDER}"
            )
        single = dict.fromkeys(c.method for c in changes if len(c.measured.values) == 1)
        if single:
            notes.append(
                f"Whether {backbone}, {', '.join(single)}, goes in the paper's direction is not said: "
                "one seed shows no direction."
            )
    return tuple(notes)


def _changes(rows: pd.DataFrame, backbone: str) -> Iterator[_Change]:
    """Those that are measured and published."""
    paper = published.table("backgrounds")
    shown = (*WITH_FOREGROUND.items(), ("bg_gap", "BG-Gap"))
    for method, (view, name) in product(METHODS[1:], shown):
        ends = (method, METHODS[0])
        measured = stats.difference(
            *(
                stats.aggregate(
                    rows,
                    {"backbone": backbone, "method": m},
                    stats.Measure(EVALUATION, SPLIT, view),
                )
                for m in ends
            )
        )
        after, before = (paper.number(backbone, m, view) for m in ends)
        if measured.mean is not None and after is not None and before is not None:
            yield _Change(method, name, measured, after - before)


def _shown(frame: pd.DataFrame) -> tuple[compare.Shown, ...]:
    items = [_item(view, table.Column(name, better="up")) for view, name in WITH_FOREGROUND.items()]
    if ON_MEAN in set(
        frame["view"].dropna()
    ):  # results of before, or of data without masks, have none
        measure = stats.Measure(EVALUATION, SPLIT, ON_MEAN)
        mean = table.Column("Only-FG (mean)", better="up")
        items.insert(2, compare.Shown(mean, measure, in_brackets=True))
    items.append(_item("bg_gap", table.Column("BG-Gap", better="down")))
    items += [
        compare.Shown(table.Column(name, "No object"), stats.Measure(EVALUATION, SPLIT, view))
        for view, name in WITHOUT_FOREGROUND.items()
    ]
    # It is costly on the real data, so a sweep may do without; kept until something is measured.
    evaluations = set(frame["evaluation"].dropna())
    if not evaluations or CHALLENGE in evaluations:
        column = table.Column("Challenge", better="up", from_zero=True)
        items.append(compare.Shown(column, stats.Measure(CHALLENGE, SPLIT, "challenge")))
    return tuple(items)


def _item(view: str, column: table.Column) -> compare.Shown:
    measure = stats.Measure(EVALUATION, SPLIT, view)
    return compare.Shown(column, measure, paper=view, tile=TILES.get(view, ""), in_brackets=True)


def _methods(frame: pd.DataFrame, backbone: str) -> tuple[str, ...]:
    found = stats.labels(frame[frame["backbone"] == backbone], "method", stats.METHODS)
    return (*METHODS, *(label for label in found if label not in METHODS))
