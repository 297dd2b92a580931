"""Chiral pairs: whether a model's features tell two classes that are each other's reversal.

Bagad & Zisserman, "Chirality in Action" (NeurIPS 2025) ask a linear probe of frozen features for each
pair of temporally opposite actions; chance is 1/2. Here it is the last layer's feature, and per pair
at most `per_class` training clips of each class; how a probe is fitted, chosen and counted is in
`_probe.py`. The feature is the clip's, pooled over time (why: `arrow_of_time.py`).

The pairs are those that the data know of (`DataSpec.reversals`: six in the built-in data), or those
of a table of the user's, `pairs`: a csv file with the columns `verb_forward` and `verb_reverse` that
name classes (case, brackets and punctuation aside). The published list of 16 groups of
Something-Something-v2 has them; its other columns are not read. All clips of both classes are used.

The classes of a pair may also look different, for instance where each has its own scenes, and then
a model that sees no order is right more often than by chance. So each clip is also shown backwards,
where the other class of the pair is the right answer. Views: `original` (the published measure),
`reversed`, and `both`, the mean of the two for each clip: it is exactly 1/2, whatever gives the
classes away, for a model that has the same feature for both directions.

Rows: {split, view, subset: "<class> | <class>" or all, metric: accuracy | chance | ci_low | ci_high,
value, n}; n counts clips. `all` is the mean over pairs, each counting alike; its interval is Wilson's
with P^2 / sum(1 / n_p) in the place of n, which is n where all P pairs have as many clips. A pair of
which a split has no clip, or the training split not both classes, gives no row; ValueError where no
pair is left.
"""

from __future__ import annotations

import csv
import hashlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pydantic
from pydantic import Field

from bench import task
from tasks.video._probe import (
    Examples,
    Probe,
    ProbeConfig,
    drawn,
    examples_of,
    interval,
    judged,
    members_of,
    rows_of,
)

VERSION = 2  # 1: scored in the precision of training, and what was drawn changed with its seed
ORDERS = ("original", "reversed")
COLUMNS = ("verb_forward", "verb_reverse")

Pair = tuple[int, int]


class Config(ProbeConfig):
    clips: int = Field(default=20_000, ge=2)  # of the training split, at most
    per_class: int = Field(default=200, ge=2)  # of them, of each class
    pairs: str | None = None  # csv file; else the pairs that come with the data
    pairs_sha256: str = ""  # of its content, filled in: another table is another measurement

    @pydantic.model_validator(mode="after")
    def _sign_table(self) -> Config:
        """A table that cannot be read is for `skip` to name."""
        if self.pairs is None or not Path(self.pairs).is_file():
            return self
        digest = hashlib.sha256(Path(self.pairs).read_bytes()).hexdigest()
        if self.pairs_sha256 not in ("", digest):
            raise ValueError(
                f"{self.pairs} is not the table that was asked for: its SHA-256 is {digest}"
            )
        object.__setattr__(self, "pairs_sha256", digest)  # before anybody has seen it
        return self

    @classmethod
    def tiny(cls) -> Config:
        return cls(folds=2, strengths=(0.1,), iterations=10)


def skip(config: Config, model: task.ModelSpec, spec: task.DataSpec) -> str | None:
    """There must be pairs, and an order."""
    if spec.media != "video" or model.frames < 2:
        return f"{spec.name} has no frames to reverse"
    if config.pairs is None and not spec.reversals:
        return (
            f"{spec.name} names no classes that are each other's reversal; give a table of them as "
            f"option `pairs` (csv with the columns {' and '.join(COLUMNS)})"
        )
    try:
        # Only later do the data tell the names of all their classes.
        _ = config.pairs and _table(Path(config.pairs))
    except ValueError as error:
        return str(error)
    return None


def run(config: Config, context: task.Context) -> list[task.Row]:
    """Rows of every evaluation split of `context` (see `bench.evaluate`).

    Raises ValueError for a wrong table, and where no pair has clips to learn from and to judge.
    """
    pairs = _pairs(config, context.spec)
    learned = _learned(config, context, pairs)
    rows: list[task.Row] = []
    for split in context.splits:
        classes = sorted({k for pair in pairs for k in pair})
        shown = context.features(split, ORDERS, chosen=members_of(context, split, classes))
        scores: dict[str, np.ndarray] = {}
        for pair in pairs:
            if (score_M2 := _score(config, context, learned, shown, pair)) is not None:
                scores[" | ".join(context.spec.classes[k] for k in pair)] = score_M2
        if not scores:
            raise ValueError(
                f"split {split} has no pair of which there are clips to learn and judge"
            )
        rows += _rows(split, scores)
    return rows


def _learned(
    config: Config, context: task.Context, pairs: Sequence[Pair]
) -> task.FeaturesByOrder | None:
    """Features of the training clips of all pairs; None without a training split."""
    if (split := context.training_split) is None:
        return None
    chosen = [
        drawn(context, split, members_of(context, split, (k,)), config.per_class)
        for k in sorted({k for pair in pairs for k in pair})
    ]
    members = drawn(context, split, np.unique(np.concatenate(chosen)), config.clips)
    return context.features(split, chosen=members)


def _score(
    config: Config,
    context: task.Context,
    learned: task.FeaturesByOrder | None,
    shown: task.FeaturesByOrder,
    pair: Pair,
) -> np.ndarray | None:
    """Boolean (M, 2): whether each clip of the pair is taken for what it is, as filmed and backwards;
    None if there are no clips of it.
    """
    examples = _examples(shown, pair)
    probe = None
    if learned is not None:
        lessons = _examples(learned, pair)
        if len(np.unique(lessons.strata_M)) < 2 or not len(examples):
            return None
        probe = Probe(config, lessons, seed=context.seed)
    elif min((examples.strata_M == k).sum() for k in pair) < 2:
        return None
    said = judged(config, probe, examples, seed=context.seed)
    second_M = (examples.strata_M == pair[1]).astype(int)
    return np.stack([said["original"] == second_M, said["reversed"] == 1 - second_M], axis=1)


def _examples(features: task.FeaturesByOrder, pair: Pair) -> Examples:
    """The pair's clips; 1 is the second class."""
    original = features["original"]
    member_M = original.seen_M & np.isin(original.labels_M, pair)
    labels = {"original": (original.labels_M == pair[1]).astype(int)}
    return examples_of(features, original.layers[-1], labels, member_M)


def _rows(split: str, scores: dict[str, np.ndarray]) -> Iterator[task.Row]:
    """`scores`: pair -> boolean (M, 2)."""
    views = {"original": [0], "reversed": [1], "both": [0, 1]}
    for view, columns in views.items():
        where = {"split": split, "view": view}
        means = []
        for pair, score_M2 in scores.items():
            score_M = score_M2[:, columns].mean(axis=1)
            means.append(float(score_M.mean()))
            yield from rows_of({**where, "subset": pair}, score_M, chance=0.5)
        sizes = np.array([len(score_M2) for score_M2 in scores.values()])
        mean = float(np.mean(means))
        low, high = interval(mean, len(sizes) ** 2 / float((1 / sizes).sum()))
        for metric, value in (
            ("accuracy", mean), ("chance", 0.5), ("ci_low", low), ("ci_high", high)
        ):  # fmt: skip
            yield {
                **where,
                "subset": "all",
                "metric": metric,
                "value": value,
                "n": int(sizes.sum()),
            }


# -- the table of pairs ---


def _pairs(config: Config, spec: task.DataSpec) -> tuple[Pair, ...]:
    """Class ids. ValueError with all names of the table that the data do not have."""
    if config.pairs is None:
        return spec.reversals
    table = _table(Path(config.pairs))
    ids = {_plain(name): i for i, name in enumerate(spec.classes)}
    mistakes = [
        f"\n  line {line}: {spec.name} has no class {name!r}"
        for line, names in table
        for name in names
        if _plain(name) not in ids
    ]
    if mistakes:
        raise ValueError(f"pairs: {config.pairs}{''.join(mistakes)}")
    return tuple(dict.fromkeys((ids[_plain(a)], ids[_plain(b)]) for _, (a, b) in table))


def _table(path: Path) -> list[tuple[int, tuple[str, str]]]:
    """Number and two classes of each line. ValueError with all that is wrong."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, restval="")
            columns = reader.fieldnames or ()
            lines = [(reader.line_num, line) for line in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"pairs: {path} cannot be read ({error})") from error
    if lacking := [name for name in COLUMNS if name not in columns]:
        found = ", ".join(columns) or "none"
        raise ValueError(f"pairs: {path} lacks the columns {', '.join(lacking)}; it has: {found}")
    table = [(number, (line[COLUMNS[0]], line[COLUMNS[1]])) for number, line in lines]
    mistakes = [
        f"\n  line {number}: {a!r} and {b!r} are no two classes"
        for number, (a, b) in table
        if not a or not b or _plain(a) == _plain(b)
    ]
    if mistakes or not table:
        raise ValueError(f"pairs: {path}{''.join(mistakes) or ' names no pair'}")
    return table


def _plain(name: str) -> str:
    """Without case, brackets and punctuation."""
    return " ".join(re.findall(r"[a-z0-9]+", name.lower()))
