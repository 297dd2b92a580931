"""The strongest backgrounds of each class, and how many objects of other classes each one fools.

One panel per model, one column per class, strongest on top. Without a sweep, the models are those
that `bench.evaluate` measured.
"""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd
from matplotlib.figure import Figure

from bench import results
from reports import pictures, stats, style, table

ORDER = 50
TITLE = "The strongest backgrounds"

EVALUATION = "image.background_challenge"
METHODS = ("baseline", "+ TIME")
BACKGROUNDS = "only_bg_t/"
CLASS = "class: "
PANELS, RANKS = 2, 3

GAP = 0.06  # inches between two pictures, and above and below their lines of text
TITLE_LINE, HEADING, SHARE = 0.24, 0.13, 0.15


@dataclass(frozen=True)
class Panel:
    """What is shown of one model: (share fooled, n) of the strongest of each class, best first."""

    model: pictures.Kept
    strongest: dict[str, list[tuple[float, int]]]
    robust: str  # its challenge accuracy, in words


def data(frame: pd.DataFrame) -> pd.DataFrame:
    """Of each background that is shown the share of objects on it that fool the model, in percent."""
    return pd.DataFrame(
        [
            {
                "model": panel.model.name,
                "seed": panel.model.seed,
                "class": name,
                "rank": position + 1,
                "fooled": 100 * share,
                "n": n,
            }
            for panel in _panels(frame)[1]
            for name, shares in panel.strongest.items()
            for position, (share, n) in enumerate(shares)
        ]
    )


def draw(frame: pd.DataFrame, figure: Figure) -> str | None:
    who, panels = _panels(frame)
    if not panels:
        return None
    columns = max(len(panel.strongest) for panel in panels)
    ranks = max(len(shares) for panel in panels for shares in panel.strongest.values())
    side = min(0.72, (style.PAGE_WIDTH - GAP) / columns - GAP)
    height = TITLE_LINE + HEADING + ranks * (SHARE + side) + 0.08
    sheet = pictures.Sheet(figure, style.PAGE_WIDTH, height * len(panels) + 0.02)
    for position, panel in enumerate(panels):
        _draw(sheet, panel, position * height, side)
    return (
        f"The backgrounds of each class that fool {who} most, strongest on top. Above each: on how "
        "many of the objects of other classes put on it the model is wrong, and of how many that "
        "was measured (n; they are chosen as the strongest of many, so expect less of them on other "
        "objects). Challenge accuracy is the share of objects that no background of the test set "
        "makes the model misclassify. Nothing is picked by eye: of each class the "
        f"{RANKS} with the largest share, equal ones by file name, of the run of the lowest seed."
    )


def _panels(frame: pd.DataFrame) -> tuple[str, list[Panel]]:
    """Who is fooled, in words, and what is shown of each model that there are backgrounds of."""
    who, models = _models(frame)
    panels = [_panel(frame, model) for model in models]
    return who, [panel for panel in panels if panel.strongest]


def _models(frame: pd.DataFrame) -> tuple[str, list[pictures.Kept]]:
    """Who is fooled, in words, and the models: of a sweep, or else those without a run."""
    rows = stats.of_evaluation(frame, EVALUATION)
    backbone, models = pictures.kept(rows, METHODS, EVALUATION)
    if models:
        return f"{backbone} ({pictures.seeds_text(models)})", models
    alone = stats.evaluated(frame, EVALUATION)
    found = alone[[stats.MODEL, "run_dir"]].drop_duplicates() if len(alone) else alone
    there = pictures.with_pictures(found["run_dir"], EVALUATION)
    for name, folder in sorted(zip(found.get(stats.MODEL, ()), found["run_dir"], strict=True)):
        if folder in there:
            models.append(pictures.Kept(str(name), str(folder), 0))
    return "each model", models[:PANELS]


def _panel(frame: pd.DataFrame, model: pictures.Kept) -> Panel:
    rows = frame[(frame["run_dir"] == model.run_dir) & (frame["evaluation"] == EVALUATION)]
    rows = rows.drop_duplicates(["view", "subset", "metric"])  # a run may serve several sweeps
    fooled = rows[rows["metric"] == "fooled"]
    # By class, then in the order of the ranks: the strongest first, equal ones by key.
    fooled = fooled.assign(
        folder=fooled["view"].str.removeprefix(BACKGROUNDS).str.partition("/")[0],
        weakness=-fooled["value"],
    ).sort_values(["folder", "weakness", "view"])
    strongest: dict[str, list[tuple[float, int]]] = {}
    for row in fooled.to_dict("records"):
        name = row["subset"].removeprefix(CLASS)
        strongest.setdefault(name, []).append((float(row["value"]), int(row["n"])))
    whole = rows[
        (rows["view"] == "challenge") & (rows["metric"] == "top1") & (rows["subset"] == "all")
    ]
    robust = ""
    if len(whole):
        value, n = float(whole["value"].iloc[0]), int(whole["n"].iloc[0])
        robust = f"challenge accuracy {table.percent(100 * value)}% of {n}"
    return Panel(model, {name: best[:RANKS] for name, best in strongest.items()}, robust)


def _draw(sheet: pictures.Sheet, panel: Panel, top: float, side: float) -> None:
    sheet.text(
        panel.model.name,
        GAP,
        top + 0.11,
        fontsize=8,
        fontweight="bold",
        color=style.colour(panel.model.name),
    )
    sheet.text(panel.robust, sheet.width - GAP, top + 0.11, ha="right", fontsize=7)
    for column, (name, shares) in enumerate(panel.strongest.items()):
        left = GAP + column * (side + GAP)
        sheet.text(pictures.short(name), left, top + TITLE_LINE + 0.06, fontweight="bold")
        for position, (share, n) in enumerate(shares):
            line = top + TITLE_LINE + HEADING + position * (SHARE + side)
            sheet.text(f"{100 * share:.0f}%", left, line + SHARE / 2 + 0.01)
            quiet = {"color": style.MUTED, "fontsize": 5.5}
            sheet.text(f"n {n}", left + side, line + SHARE / 2 + 0.01, ha="right", **quiet)
            image = results.picture(
                panel.model.run_dir, EVALUATION, f"strongest/{name}-{position + 1}"
            )
            sheet.picture(image, left, line + SHARE, side)
