"""The Backgrounds Challenge: for how many foregrounds can no background change the prediction?

Xiao, Engstrom, Ilyas and Madry, "Noise or Signal" (ICLR 2021). A foreground is a test image x_f
with its mask m_f and class y_f. Put on background b, at native resolution, it becomes

    c(f, b) = m_f * x_f + (1 - m_f) * b,

and it is *vulnerable* if the prediction for c(f, b) differs from y_f for any b of `only_bg_t`, the
backgrounds of its own class included. The challenge accuracy is the share of foregrounds that are
not vulnerable. Verdicts are exactly those of the released evaluator; a 1000-class head answers by
its top class, mapped to the nine, and one that belongs to none of them is a wrong answer.

What is cheaper than there is the order. A foreground is done at its first failure, so each one
tries first the backgrounds that have fooled the most foregrounds of its own class so far, then the
most of all; ties are broken by an order that is random, fixed, and another for each foreground, its
own class last. Every pair is tried at most once. Which pair comes next is a function of what is
known alone: after a kill the search goes on from `context.scratch` as if nothing had happened.

Then the strongest backgrounds. Verdicts need few passes, so they say little on how many foregrounds
a background fools. The `strongest` of each class by what is known (foregrounds of *other* classes
fooled; on a tie, share of those tried) are rated on a sample of the foregrounds of other classes: a
share `rated` of each class, the same of every model. What the verdicts know of the sample is not computed
again. The share fooled in the sample is exact for it; but these are the best of many, so expect
less of them on other foregrounds. Without the rating (`strongest: 0`) the verdicts are the same.

Rows of split `test`: view `challenge`, metric `top1` (robust foregrounds / foregrounds, for all and
per class), `passes` and `rating_passes` (forward passes / all pairs); and per rated background view
`only_bg_t/<key>`, subset `class: <its own>`, metric `fooled` (n: size of its sample), in descending
order, equal ones by key. Rank k within a class is picture `strongest/<class>-<k>`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from pydantic import Field

from bench import task
from bench.data.imagenet9 import FG_MASK, IN9_OF_IMAGENET
from tasks.image._challenge_images import BACKGROUNDS, FOREGROUNDS, Material, fooled, read
from tasks.image._challenge_rating import (
    Rating,
    finalists_of,
    keep_pictures,
    rate,
    ratings_of,
    sample,
)
from tasks.image._challenge_search import BackgroundSearch
from tasks.image._challenge_state import (
    FOOLED,
    RATED_FOOLED,
    RATED_RIGHT,
    RIGHT,
    UNKNOWN,
    ChallengeProgress,
    ChallengeState,
)
from tasks.image._imagenet9 import challenge_normalisation

VERSION = 2  # 1: scored in the precision of training, and what was drawn changed with its seed
OUTPUTS = (len(IN9_OF_IMAGENET),)  # outputs that a model may have instead of the data's classes


class Config(task.Config):
    # Composites per forward pass; None: 256 on a GPU, 64 on a CPU. Verdicts do not depend on it.
    batch: int | None = Field(default=None, ge=1)
    strongest: int = Field(default=3, ge=0)  # backgrounds rated per class
    rated: float = Field(default=0.1, gt=0.0, le=1.0)  # share of each class's foregrounds

    @classmethod
    def tiny(cls) -> Config:
        return cls(batch=16, strongest=1)


def official_normalisation(outputs: int) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Mean and std for `--official`, or None: as the released evaluator."""
    return challenge_normalisation(outputs)


def skip(config: Config, model: task.ModelSpec, spec: task.DataSpec) -> str | None:
    """It needs foregrounds with masks, backgrounds, and a head whose classes are known."""
    if spec.media != "image":
        return f"{spec.name} has no images"
    missing = [name for name in (FOREGROUNDS, BACKGROUNDS) if name not in spec.splits]
    missing += [] if FG_MASK in spec.layers.get(FOREGROUNDS, ()) else [FG_MASK]
    if missing:
        return (
            f"{spec.name} lacks {', '.join(missing)}: unpack backgrounds_challenge_data.tar.gz, "
            "which holds them all, or name the folder that it made"
        )
    if model.num_classes not in (spec.num_classes, *OUTPUTS):
        return (
            f"a model with {model.num_classes} outputs does not say which of the "
            f"{spec.num_classes} classes it means; use one with {spec.num_classes} or {OUTPUTS[0]}"
        )
    return None


@torch.no_grad()
def run(config: Config, context: task.Context) -> list[task.Row]:
    """Rows as the module says; pictures through `context.keep_picture`."""
    material = read(context)
    state = ChallengeState(context.scratch, material, version=VERSION)
    batch = config.batch or (256 if material.device.type == "cuda" else 64)
    _find_verdicts(context, material, state, batch=batch)
    finalists = finalists_of(material, state, config.strongest)
    sampled_F = sample(material.labels_F, config.rated, seed=context.seed)
    rate(context, material, state, finalists, sampled_F, batch=batch)
    rows = _verdict_rows(context.spec.classes, material, state)
    ratings = ratings_of(material, state, finalists, sampled_F)
    keep_pictures(context, material, ratings)
    return rows + [_rating_row(context.spec.classes, rating) for rating in ratings]


# -- verdicts ---


def _find_verdicts(
    context: task.Context, material: Material, state: ChallengeState, *, batch: int
) -> None:
    """Try pairs until each foreground has failed or met every background."""
    search = BackgroundSearch(
        state.codes_FB, material.labels_F, material.labels_B, seed=context.seed
    )
    progress = ChallengeProgress(context, state.codes_FB.size, "verdicts")
    progress(search.settled)
    while len((pairs := search.next_pairs(batch)).f_N):
        search.learn(pairs, fooled(context, material, *pairs))
        progress(search.settled)
        state.save_now_and_then()
    state.save()


def verdicts(state: Path) -> dict[str, str | None]:
    """What a finished search left in `context.scratch`: for each foreground's key the key of a
    background that fools it, or None if it is robust. Raises ValueError for an unfinished one.
    """
    with np.load(state, allow_pickle=False) as stored:
        codes_FB, keys_F, keys_B = (stored[name] for name in ("codes_FB", "keys_F", "keys_B"))
    fooled_FB = codes_FB == FOOLED
    vulnerable_F = fooled_FB.any(axis=1)
    if (codes_FB[~vulnerable_F] == UNKNOWN).any():
        raise ValueError(f"{state}: the search for verdicts did not end; run it again to go on")
    by_F = keys_B[fooled_FB.argmax(axis=1)].tolist()
    rows = zip(keys_F.tolist(), by_F, vulnerable_F, strict=True)
    return {key: by if vulnerable else None for key, by, vulnerable in rows}


# -- rows ---


def _verdict_rows(
    classes: tuple[str, ...], material: Material, state: ChallengeState
) -> list[task.Row]:
    robust_F = ~state.vulnerable_F
    groups = {"all": np.ones_like(robust_F)}
    groups |= {f"class: {name}": material.labels_F == k for k, name in enumerate(classes)}
    view = {"split": "test", "view": "challenge"}
    rows: list[task.Row] = [
        {
            **view,
            "subset": subset,
            "metric": "top1",
            "value": float(robust_F[members].mean()),
            "n": int(members.sum()),
        }
        for subset, members in groups.items()
        if members.any()
    ]
    for metric, codes in (
        ("passes", (RIGHT, FOOLED)),
        ("rating_passes", (RATED_RIGHT, RATED_FOOLED)),
    ):
        value = state.share(*codes)
        n = state.codes_FB.size
        rows.append({**view, "subset": "all", "metric": metric, "value": value, "n": n})
    return rows


def _rating_row(classes: tuple[str, ...], rating: Rating) -> task.Row:
    return {
        "split": "test",
        "view": f"{BACKGROUNDS}/{rating.key}",
        "subset": f"class: {classes[rating.label]}",
        "metric": "fooled",
        "value": rating.fooled,
        "n": rating.n,
    }
