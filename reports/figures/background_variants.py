"""Figure F4: one image in all variants of ImageNet-9, and what each model takes it for.

One block per example: the mask of the object and the eight variants; under each variant, one line
per method, the predicted class and the confidence. Everything shown was kept by the evaluation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd
from matplotlib.figure import Figure

from bench import results
from reports import pictures, stats, style
from reports.tables import background_shift as shift

ORDER = 40
TITLE = "One image in all variants"

METHODS = ("baseline", "+ TIME")
MASK = "fg_mask"
MIXED = ("mixed_same", "mixed_rand", "mixed_next")
VARIANTS = {**shift.WITH_FOREGROUND, **shift.WITHOUT_FOREGROUND}
EXAMPLES = 3

SIDE, GAP = 0.728, 0.044  # of a picture, between two; inches
LINE, HEADING, BLOCK = 0.115, 0.15, 0.16


@dataclass(frozen=True)
class Guess:
    """What a model takes an image for."""

    name: str
    confidence: float
    right: bool


@dataclass(frozen=True)
class Example:
    """A test image, with the guesses of each method by variant."""

    label: int
    name: str
    guesses: Mapping[str, Mapping[str, Guess]]

    def right(self, method: str, variant: str) -> bool | None:
        guess = self.guesses[method].get(variant)
        return guess.right if guess else None


def data(frame: pd.DataFrame) -> pd.DataFrame:
    """Every guess that is shown, with its confidence in percent."""
    _, models, examples = _shown(frame)
    seeds = {model.name: model.seed for model in models}
    return pd.DataFrame(
        [
            {
                "class": example.name,
                "variant": variant,
                "method": method,
                "seed": seeds[method],
                "predicted": guess.name,
                "confidence": 100 * guess.confidence,
                "right": guess.right,
            }
            for example in examples
            for method, guesses in example.guesses.items()
            for variant, guess in guesses.items()
        ]
    )


def draw(frame: pd.DataFrame, figure: Figure) -> str | None:
    backbone, models, examples = _shown(frame)
    if not examples:
        return None
    block = HEADING + SIDE + 0.03 + LINE * len(models) + BLOCK
    height = HEADING + block * len(examples) - BLOCK + 0.05
    sheet = pictures.Sheet(figure, style.PAGE_WIDTH, height)
    for position, example in enumerate(examples):
        _block(sheet, example, models, HEADING + position * block, headed=position == 0)
    return (
        "Test images with the mask of their object, in the eight variants, and the class that each "
        f"model predicts ({backbone}, {pictures.seeds_text(models)}), with its confidence in "
        f"percent; {style.RIGHT.mark} right, {style.WRONG.mark} wrong (right without the "
        "object means guessed from what is left). Nothing is picked by eye: of each class the "
        "evaluation keeps the first image by file name that has a mask; "
        f"shown are the first {len(examples)} in the order of the classes, those before the others that "
        "the first model gets right as they are and wrong on a mixed background. So they are examples "
        "of the effect and no measure of it."
    )


def _shown(frame: pd.DataFrame) -> tuple[str, list[pictures.Kept], list[Example]]:
    """Backbone, models and examples."""
    rows = stats.of_evaluation(frame, shift.EVALUATION)
    backbone, models = pictures.kept(rows, METHODS, shift.EVALUATION)
    return backbone, models, _examples(models)[:EXAMPLES]


def _examples(models: list[pictures.Kept]) -> list[Example]:
    """All that were kept: first those where the background alone misleads the first model."""
    if not models:
        return []
    tables = {model.name: _tests(model) for model in models}
    first = next(iter(tables.values()))
    names = {
        int(label): pictures.class_of(key)
        for label, key in zip(first.label, first.key, strict=True)
    }
    kept = set(results.pictures(models[0].run_dir, shift.EVALUATION))
    found = []
    for label in sorted(names):
        if f"{label:02d}/original" not in kept:
            continue
        keys = _keys(first[first["label"] == label])
        guesses = {method: _guesses(table, keys, names) for method, table in tables.items()}
        if keys:
            found.append(Example(label, names[label], guesses))
    leader = models[0].name
    return sorted(found, key=lambda e: (not _misled(e, leader), e.label))


def _misled(example: Example, method: str) -> bool:
    fails = [example.right(method, variant) is False for variant in MIXED]
    return example.right(method, "original") is True and any(fails)


def _tests(model: pictures.Kept) -> pd.DataFrame:
    table = results.predictions(model.run_dir)
    ours = (table["evaluation"] == shift.EVALUATION) & (table["split"] == shift.SPLIT)
    return table[ours]


def _keys(images: pd.DataFrame) -> dict[str, str]:
    """By variant, the test image of the class that was kept: the first whose object is also in the
    mixed variants, which name their images fg_<object>_bg_<background>.
    """
    by_view = {str(view): part["key"].tolist() for view, part in images.groupby("view")}
    for original in by_view.get("original", ()):
        folder, _, stem = original.partition("/")
        shown = f"{folder}/fg_{stem}_bg_"
        keys = {
            view: next((k for k in found if k == original or k.startswith(shown)), None)
            for view, found in by_view.items()
        }
        if any(keys.get(variant) for variant in MIXED):
            return {view: key for view, key in keys.items() if key}
    return {}


def _guesses(
    table: pd.DataFrame, keys: Mapping[str, str], names: Mapping[int, str]
) -> dict[str, Guess]:
    guesses = {}
    for row in table[table["key"].isin(set(keys.values()))].to_dict("records"):
        view, top = row["view"], int(row["top5"][0])
        if keys.get(view) == row["key"]:
            name = names.get(top, f"class {top}")
            guesses[view] = Guess(name, float(row["confidence"]), top == row["label"])
    return guesses


def _block(
    sheet: pictures.Sheet,
    example: Example,
    models: list[pictures.Kept],
    top: float,
    *,
    headed: bool,
) -> None:
    """The pictures of an example, and the lines of its models under them."""
    bold = {"fontweight": "bold", "fontsize": 7.5}
    sheet.text(f"True class: {example.name}", GAP, top - (0.06 if headed else -0.08), **bold)
    pictures_top, lines_top = top + HEADING, top + HEADING + SIDE + 0.03
    for column, variant in enumerate((MASK, *VARIANTS)):
        left = GAP + column * (SIDE + GAP)
        image = results.picture(
            models[0].run_dir, shift.EVALUATION, f"{example.label:02d}/{variant}"
        )
        sheet.picture(image, left, pictures_top, SIDE)
        if headed:
            heading = VARIANTS.get(variant, "Mask")
            sheet.text(heading, left, pictures_top - 0.06, color=style.MUTED, fontsize=6.5)
        for line, model in enumerate(models):
            middle = lines_top + (line + 0.5) * LINE
            if variant == MASK:
                sheet.text(model.name, left, middle, fontweight="bold")
            elif guess := example.guesses[model.name].get(variant):
                looks = style.RIGHT if guess.right else style.WRONG
                colour = {"color": looks.colour, "fontsize": 5.8}
                sheet.text(f"{looks.mark} {pictures.short(guess.name)}", left, middle, **colour)
                percent = f"{100 * guess.confidence:.0f}"
                sheet.text(percent, left + SIDE, middle, ha="right", **colour)
