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
share `rated` of each class, drawn by the seed. What the verdicts know of the sample is not computed
again. The share fooled in the sample is exact for it; but these are the best of many, so expect
less of them on other foregrounds. Without the rating (`strongest: 0`) the verdicts are the same.

Rows of split `test`: view `challenge`, metric `top1` (robust foregrounds / foregrounds, for all and
per class), `passes` and `rating_passes` (forward passes / all pairs); and per rated background view
`only_bg_t/<key>`, subset `class: <its own>`, metric `fooled` (n: size of its sample), in descending
order, equal ones by key. Rank k within a class is picture `strongest/<class>-<k>`.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from bench import task
from bench.data import views
from bench.data.imagenet9 import FG_MASK, IN9_OF_IMAGENET
from tasks.image._imagenet9 import imagenet9_predictions

VERSION = 1
OUTPUTS = (len(IN9_OF_IMAGENET),)  # outputs that a model may have instead of the data's classes

FOREGROUNDS, BACKGROUNDS = "original", "only_bg_t"
# What is known of a pair. Verdicts and rating are kept apart: what is strong enough to be rated is
# decided by the verdicts alone, also after a kill in the middle of the rating.
UNKNOWN, RIGHT, FOOLED, RATED_RIGHT, RATED_FOOLED = range(5)

SAVE_S = 30.0
PROGRESS_S = 0.5
SHOWN = 8  # files named in an error message


class Config(task.Config):
    # Composites per forward pass; None: 256 on a GPU, 64 on a CPU. Verdicts do not depend on it.
    batch: int | None = Field(default=None, ge=1)
    strongest: int = Field(default=3, ge=0)  # backgrounds rated per class
    rated: float = Field(default=0.1, gt=0.0, le=1.0)  # share of each class's foregrounds

    @classmethod
    def tiny(cls) -> Config:
        return cls(batch=16, strongest=1)


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
    material = _read(context)
    state = _State(context.scratch, material)
    batch = config.batch or (256 if material.device.type == "cuda" else 64)
    _find_verdicts(context, material, state, batch=batch)
    finalists = _finalists(material, state, config.strongest)
    sampled_F = _sample(material.labels_F, config.rated, seed=context.seed)
    _rate(context, material, state, finalists, sampled_F, batch=batch)
    rows = _verdict_rows(context.spec.classes, material, state)
    ratings = _ratings(material, state, finalists, sampled_F)
    _keep_pictures(context, material, ratings)
    return rows + [_rating_row(context.spec.classes, rating) for rating in ratings]


# -- the images ---


@dataclass(frozen=True)
class _Material:
    """F foregrounds and B backgrounds as stored, on the device if they fit, else on the host."""

    images_FHWC: Tensor  # uint8
    masks_FHW1: Tensor  # bool
    backgrounds_BHWC: Tensor  # uint8
    labels_F: np.ndarray
    labels_B: np.ndarray
    keys_F: tuple[str, ...]
    keys_B: tuple[str, ...]
    device: torch.device

    def composite(self, f_N: np.ndarray, b_N: np.ndarray) -> Tensor:
        """images_NHWC, uint8, on the device: foreground f_N[i] on background b_N[i]."""
        f, b = torch.from_numpy(f_N), torch.from_numpy(b_N)
        parts = [self.masks_FHW1[f], self.images_FHWC[f], self.backgrounds_BHWC[b]]
        if parts[0].device != self.device:
            # The copies of pinned memory do not wait for each other.
            parts = [part.pin_memory().to(self.device, non_blocking=True) for part in parts]
        mask_NHW1, image_NHWC, background_NHWC = parts
        return torch.where(mask_NHW1, image_NHWC, background_NHWC)


def _read(context: task.Context) -> _Material:
    """Foregrounds, masks and backgrounds. Raises ValueError that names every unfit file."""
    samples = context.samples(FOREGROUNDS)
    with_mask = samples.with_layer(FG_MASK)
    if not len(with_mask):
        raise ValueError(
            f"no image of {FOREGROUNDS} has a {FG_MASK}: unpack backgrounds_challenge_data.tar.gz, "
            f"its folder {FG_MASK} belongs beside {FOREGROUNDS}"
        )
    foregrounds = _Pictures(context, FOREGROUNDS, with_mask)
    backgrounds = _Pictures(context, BACKGROUNDS, np.arange(context.count(BACKGROUNDS)))
    _check_one_size(foregrounds, backgrounds)
    masks_FHW = _read_masks(samples, with_mask, foregrounds.size)
    fits = _fits(foregrounds.device, foregrounds, backgrounds)
    storage = foregrounds.device if fits else torch.device("cpu")
    return _Material(
        images_FHWC=foregrounds.joined(storage),
        masks_FHW1=torch.from_numpy(masks_FHW).unsqueeze(-1).to(storage),
        backgrounds_BHWC=backgrounds.joined(storage),
        labels_F=foregrounds.labels,
        labels_B=backgrounds.labels,
        keys_F=tuple(foregrounds.keys),
        keys_B=tuple(backgrounds.keys),
        device=foregrounds.device,
    )


class _Pictures:
    """The wanted images of a split, on the host until it is known whether they fit."""

    def __init__(self, context: task.Context, split: str, wanted: np.ndarray) -> None:
        self.split = split
        self.keys: list[str] = []
        self.sizes: list[tuple[int, int]] = []
        self._parts: list[Tensor] = []
        labels: list[np.ndarray] = []
        total, seen = context.count(split), 0
        for batch in context.images(split):
            inside = np.flatnonzero(np.isin(np.arange(seen, seen + len(batch.keys)), wanted))
            seen += len(batch.keys)
            chosen = batch.images_BHWC.cpu()[torch.from_numpy(inside)]
            height, width = chosen.shape[1:3]
            self.device = batch.images_BHWC.device
            self._parts.append(chosen)
            self.keys += [batch.keys[i] for i in inside]
            self.sizes += [(height, width)] * len(inside)
            labels.append(batch.labels_B.cpu().numpy()[inside])
            context.progress(seen, total, f"reading {split}")
        if seen != total or not self.keys:
            raise ValueError(f"split {split} declares {total} images and gave {seen}")
        self.labels = np.concatenate(labels)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the most, pixels."""
        return Counter(self.sizes).most_common(1)[0][0]

    @property
    def num_bytes(self) -> int:
        return sum(part.numel() for part in self._parts)

    def joined(self, device: torch.device) -> Tensor:
        """images_NHWC on `device`; the parts are let go one by one."""
        count = len(self.keys)
        out = torch.empty((count, *self.size, 3), dtype=torch.uint8, device=device)
        begin = 0
        while self._parts:
            part = self._parts.pop(0)
            out[begin : begin + len(part)] = part
            begin += len(part)
        return out


def _check_one_size(foregrounds: _Pictures, backgrounds: _Pictures) -> None:
    height, width = size = backgrounds.size
    odd = [
        f"{pictures.split}/{key} ({h} x {w})"
        for pictures in (foregrounds, backgrounds)
        for key, (h, w) in zip(pictures.keys, pictures.sizes, strict=True)
        if (h, w) != size
    ]
    if odd:
        raise ValueError(
            "foregrounds can be put on backgrounds of their own size only; most backgrounds are "
            f"{height} x {width}, not so {_listed(odd)}; resize them together with their masks"
        )


def _read_masks(samples: task.Samples, with_mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """bool F H W"""
    masks_FHW = np.zeros((len(with_mask), *size), dtype=bool)
    wrong = []
    for f, i in enumerate(with_mask):
        try:
            mask = samples.layer(int(i), FG_MASK)
            if mask.shape == size:
                masks_FHW[f] = mask != 0
            else:
                shape = " x ".join(map(str, mask.shape))
                wrong.append(f"{samples.keys[i]}: {shape}, its image {size[0]} x {size[1]}")
        except ValueError as error:
            wrong.append(f"{samples.keys[i]}: {error}")
    if wrong:
        raise ValueError(f"unfit masks in {FG_MASK}: {_listed(wrong)}; unpack the archive again")
    return masks_FHW


def _listed(items: list[str]) -> str:
    more = f" and {len(items) - SHOWN} more" if len(items) > SHOWN else ""
    return "; ".join(items[:SHOWN]) + more


def _fits(device: torch.device, foregrounds: _Pictures, backgrounds: _Pictures) -> bool:
    """Whether the device has room for the images, and as much again for the model to work in."""
    if device.type != "cuda":
        return True
    masks = foregrounds.num_bytes // 3
    wanted = foregrounds.num_bytes + masks + backgrounds.num_bytes
    return 2 * wanted < torch.cuda.mem_get_info(device)[0]


# -- what is known ---


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


class _State:
    """What is known of each pair, and its file: a kill at any moment leaves the last saved state."""

    def __init__(self, path: Path | None, material: _Material) -> None:
        self.path = path
        self._saved = time.monotonic()
        self._keys = {"keys_F": np.array(material.keys_F), "keys_B": np.array(material.keys_B)}
        stored = self._load()
        shape = len(material.keys_F), len(material.keys_B)
        self.codes_FB = np.zeros(shape, dtype=np.int8) if stored is None else stored

    def _load(self) -> np.ndarray | None:
        """None when there is no file, or it is of something else."""
        if self.path is None:
            return None
        try:
            with np.load(self.path, allow_pickle=False) as stored:
                same = all(np.array_equal(stored[name], keys) for name, keys in self._keys.items())
                return stored["codes_FB"] if same and stored["version"] == VERSION else None
        except Exception:
            # Not written by this class, or by another version of it: start again.
            return None

    def save(self, *, every_s: float = 0.0) -> None:
        if self.path is None or time.monotonic() - self._saved < every_s:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.path.with_name(f".{self.path.name}.tmp")
        with temporary.open("wb") as handle:
            np.savez(
                handle,
                codes_FB=self.codes_FB,
                version=np.array(VERSION),
                keys_F=self._keys["keys_F"],
                keys_B=self._keys["keys_B"],
            )
            handle.flush()
            os.fsync(handle.fileno())
        temporary.replace(self.path)
        self._saved = time.monotonic()

    @property
    def vulnerable_F(self) -> np.ndarray:
        return (self.codes_FB == FOOLED).any(axis=1)

    def share(self, *codes: int) -> float:
        """Of all pairs, those with one of these codes."""
        return float(np.isin(self.codes_FB, codes).mean())


class _Progress:
    """Not at every batch: a batch of a tiny model takes milliseconds."""

    def __init__(self, context: task.Context, total: int, text: str) -> None:
        self._context, self._total, self._text = context, total, text
        self._told = float("-inf")

    def __call__(self, done: int) -> None:
        now = time.monotonic()
        if done >= self._total or now - self._told > PROGRESS_S:
            self._context.progress(done, self._total, self._text)
            self._told = now


def _fooled(
    context: task.Context, material: _Material, f_N: np.ndarray, b_N: np.ndarray
) -> np.ndarray:
    """bool (N,): whether the prediction differs from the foreground's class. One forward pass."""
    logits_NK = context.model(context.to_clip(material.composite(f_N, b_N)))
    return imagenet9_predictions(logits_NK) != material.labels_F[f_N]


# -- verdicts ---


def _find_verdicts(
    context: task.Context, material: _Material, state: _State, *, batch: int
) -> None:
    """Try pairs until each foreground has failed or met every background."""
    search = Search(state.codes_FB, material.labels_F, material.labels_B, seed=context.seed)
    progress = _Progress(context, state.codes_FB.size, "verdicts")
    progress(search.settled)
    while len((pairs := search.next_pairs(batch)).f_N):
        search.learn(pairs, _fooled(context, material, *pairs))
        progress(search.settled)
        state.save(every_s=SAVE_S)
    state.save()


class Pairs(NamedTuple):
    f_N: np.ndarray
    b_N: np.ndarray


class Search:
    """Which pair to try next: a function of `codes_FB` (which it fills in), the labels and the seed.

    Numpy, because a batch of a small model takes no longer than a few dozen torch calls.
    """

    def __init__(
        self, codes_FB: np.ndarray, labels_F: np.ndarray, labels_B: np.ndarray, *, seed: int
    ) -> None:
        self.codes_FB, self.labels_F, self.labels_B = codes_FB, labels_F, labels_B
        count_F, count_B = codes_FB.shape
        classes = int(labels_F.max()) + 1
        fooled_FB = codes_FB == FOOLED
        self.tried_F = (fooled_FB | (codes_FB == RIGHT)).sum(axis=1)
        self.vulnerable_F = fooled_FB.any(axis=1)
        self.fooled_KB = np.stack([fooled_FB[labels_F == k].sum(axis=0) for k in range(classes)])
        rng = views.generator(seed, "background_challenge order")
        order_B = rng.permutation(count_B)
        # Row s is the random order shifted by s places: one line of memory instead of F.
        self._orders_SB = np.lib.stride_tricks.sliding_window_view(np.tile(order_B, 2), count_B)
        self._shift_F = rng.permutation(count_F) % count_B

    @property
    def settled(self) -> int:
        """Pairs that need not be tried any more: those tried, and all of a vulnerable foreground."""
        count_B = self.codes_FB.shape[1]
        return int(np.where(self.vulnerable_F, count_B, self.tried_F).sum())

    def next_pairs(self, batch: int) -> Pairs:
        """At most `batch` untried pairs; none when every foreground has its verdict.

        The foregrounds with the fewest tries come first, one background each. Where too few are
        left to fill the batch they get more, but no more than they have had, so that no foreground
        takes much over twice the passes that it would take one by one.
        """
        count_B = self.codes_FB.shape[1]
        live = np.flatnonzero(~self.vulnerable_F & (self.tried_F < count_B))
        if not len(live):
            return Pairs(live, live)
        live = live[np.argsort(self.tried_F[live], kind="stable")[:batch]]
        tried = self.tried_F[live]
        each = -(-batch // len(live))
        each_G = np.minimum(np.clip(tried, 1, each), count_B - tried)
        best_GE = self._best(live, int(each_G.max()))
        taken_EG = (np.arange(best_GE.shape[1]) < each_G[:, None]).T  # first choices first
        f_N = np.broadcast_to(live, taken_EG.shape)[taken_EG][:batch]
        return Pairs(f_N, best_GE.T[taken_EG][:batch])

    def _best(self, live: np.ndarray, count: int) -> np.ndarray:
        """(G, count): of each foreground the untried backgrounds most likely to fool it, best first."""
        count_F, count_B = self.codes_FB.shape
        known_KB = (self.fooled_KB * (count_F + 1) + self.fooled_KB.sum(axis=0)) * 2 * count_B
        labels = self.labels_F[live]
        other_KB = np.arange(len(known_KB))[:, None] != self.labels_B
        score_GB = (known_KB + count_B * other_KB)[labels]
        score_GB += self._orders_SB[self._shift_F[live]]
        score_GB[self.codes_FB[live] != UNKNOWN] = -1
        if count == 1:
            return score_GB.argmax(axis=1)[:, None]
        best_GE = np.argpartition(score_GB, -count, axis=1)[:, -count:]
        order_GE = np.argsort(-np.take_along_axis(score_GB, best_GE, axis=1), axis=1)
        return np.take_along_axis(best_GE, order_GE, axis=1)

    def learn(self, pairs: Pairs, fooled_N: np.ndarray) -> None:
        f_N, b_N = pairs
        self.codes_FB[f_N, b_N] = np.where(fooled_N, FOOLED, RIGHT)
        np.add.at(self.tried_F, f_N, 1)
        self.vulnerable_F[f_N[fooled_N]] = True
        np.add.at(self.fooled_KB, (self.labels_F[f_N[fooled_N]], b_N[fooled_N]), 1)


# -- the strongest backgrounds ---


class _Rating(NamedTuple):
    background: int
    label: int
    key: str
    fooled: float  # share of the sample
    n: int  # foregrounds in the sample


def _finalists(material: _Material, state: _State, strongest: int) -> list[int]:
    """Of each class the backgrounds that fooled the most foregrounds of other classes so far."""
    chosen: list[int] = []
    for label in np.unique(material.labels_B):
        members = np.flatnonzero(material.labels_B == label)
        codes = state.codes_FB[material.labels_F != label][:, members]
        fooled = (codes == FOOLED).sum(axis=0)
        tried = fooled + (codes == RIGHT).sum(axis=0)
        # The last key of lexsort counts most; it is stable, so the rest goes by stored order.
        order = np.lexsort((-fooled / np.maximum(tried, 1), -fooled))
        chosen += members[order[:strongest]].tolist()
    return chosen


def _sample(labels_F: np.ndarray, share: float, *, seed: int) -> np.ndarray:
    """bool (F,): a random but fixed part of each class's foregrounds, at least one."""
    sampled_F = np.zeros(len(labels_F), dtype=bool)
    for label in np.unique(labels_F):
        members = np.flatnonzero(labels_F == label)
        rng = views.generator(seed, f"background_challenge rated {label}")
        sampled_F[rng.permutation(members)[: max(1, round(share * len(members)))]] = True
    return sampled_F


def _rate(
    context: task.Context,
    material: _Material,
    state: _State,
    finalists: list[int],
    sampled_F: np.ndarray,
    *,
    batch: int,
) -> None:
    """Try what the verdicts left unknown of each finalist's sample."""
    open_FB = np.zeros(state.codes_FB.shape, dtype=bool)
    open_FB[:, finalists] = sampled_F[:, None]
    open_FB &= material.labels_F[:, None] != material.labels_B
    open_FB &= state.codes_FB == UNKNOWN
    f_M, b_M = np.nonzero(open_FB)
    progress = _Progress(context, len(f_M), "rating")
    for chunk in _chunks(len(f_M), batch):
        f_N, b_N = f_M[chunk], b_M[chunk]
        fooled_N = _fooled(context, material, f_N, b_N)
        state.codes_FB[f_N, b_N] = np.where(fooled_N, RATED_FOOLED, RATED_RIGHT)
        progress(chunk.stop)
        state.save(every_s=SAVE_S)
    state.save()


def _chunks(count: int, size: int) -> Iterator[slice]:
    for begin in range(0, count, size):
        yield slice(begin, min(begin + size, count))


def _ratings(
    material: _Material, state: _State, finalists: list[int], sampled_F: np.ndarray
) -> list[_Rating]:
    """Strongest first; equal ones by key."""
    ratings = []
    for b in finalists:
        label = int(material.labels_B[b])
        codes = state.codes_FB[sampled_F & (material.labels_F != label), b]
        if len(codes):
            share = float(np.isin(codes, (FOOLED, RATED_FOOLED)).mean())
            ratings.append(_Rating(b, label, material.keys_B[b], share, len(codes)))
    return sorted(ratings, key=lambda r: (-r.fooled, r.key))


def _keep_pictures(context: task.Context, material: _Material, ratings: list[_Rating]) -> None:
    ranks: Counter[int] = Counter()
    for rating in ratings:
        ranks[rating.label] += 1
        name = f"strongest/{context.spec.classes[rating.label]}-{ranks[rating.label]}"
        context.keep_picture(name, material.backgrounds_BHWC[rating.background].cpu().numpy())


# -- rows ---


def _verdict_rows(classes: tuple[str, ...], material: _Material, state: _State) -> list[task.Row]:
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


def _rating_row(classes: tuple[str, ...], rating: _Rating) -> task.Row:
    return {
        "split": "test",
        "view": f"{BACKGROUNDS}/{rating.key}",
        "subset": f"class: {classes[rating.label]}",
        "metric": "fooled",
        "value": rating.fooled,
        "n": rating.n,
    }
