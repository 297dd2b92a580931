"""Accuracy under background shift: the eight test variants of ImageNet-9 (paper, table 3).

Xiao et al., "Noise or Signal: The Role of Image Backgrounds in Object Recognition", ICLR 2021. Each
variant keeps, removes or exchanges the background of the same test images; with all others equal,

    BG-Gap = accuracy(mixed_same) - accuracy(mixed_rand)

is what the background's agreement with the class is worth to the model. Rows are {split, view,
subset, metric, value, n}: split `test`, the variant as view, top1 as a fraction, subsets `all` and
`class: <name>`; view `bg_gap`; and the validation split, if the data have one, as view `original`.

The official Only-FG puts the object on black, and what black itself looks like to a model is part of
what it measures. So view `only_fg_mean` has the same objects on the mean colour of ImageNet-9, made here
from the original images that have a mask (its n counts them; without masks there is no such view).
Metric `top_share` of both views is the share of their images that are called the class that most of
them are called: 1 / 9 where nothing pulls, 1 where everything is called the same. Nobody has published
such numbers.

The model has the nine classes of ImageNet-9, or the 1000 of ImageNet-1k: then the largest of all
1000 logits counts, translated by the official mapping (630 of them belong to none of the nine and
are always wrong). Images are seen whole, as stored, with the model's own normalisation, unless the
evaluation is asked to be `--official` (bench.evaluate). Accuracies are quotients of counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import torch

from bench import task
from bench.data import imagenet9
from tasks.image._imagenet9 import challenge_normalisation, imagenet9_predictions

VERSION = 2
ON_MEAN = "only_fg_mean"
FILLED = ("only_fg", ON_MEAN)  # one colour instead of the background
OUTPUTS = (1000,)  # also understood, besides the data set's own number of classes
CLASS = "class: "


class Config(task.Config):
    pass


def official_normalisation(outputs: int) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Mean and std for `--official`, or None: as the released evaluator."""
    return challenge_normalisation(outputs)


def skip(config: Config, model: task.ModelSpec, spec: task.DataSpec) -> str | None:
    """The variants must be there."""
    if missing := [name for name in imagenet9.VARIANTS if name not in spec.splits]:
        return (
            f"{spec.name} lacks the test variants {', '.join(missing)}; unpack all of "
            "backgrounds_challenge_data.tar.gz"
        )
    return None


def run(config: Config, context: task.Context) -> list[task.Row]:
    """Rows of the test variants, of `only_fg_mean`, and of `val` if it is among the splits of
    `context`.

    Raises ValueError when a split does not give each of its images exactly once.
    """
    rows: list[task.Row] = []
    right: dict[str, dict[str, np.ndarray]] = {}
    for split in context.splits:
        where = ("test", split) if split in imagenet9.VARIANTS else (split, "original")
        batches = context.whole_images(split)
        right[split], shown = _measured(context, split, where, batches, context.count(split))
        rows += shown
    masked = context.samples("original").with_layer(imagenet9.FG_MASK)
    if len(masked):
        where, batches = ("test", ON_MEAN), _on_mean_colour(context, masked)
        rows += _measured(context, ON_MEAN, where, batches, len(masked))[1]
    rows += _gaps(right["mixed_same"], right["mixed_rand"])
    _keep_pictures(context)
    return rows


def _on_mean_colour(context: task.Context, masked: np.ndarray) -> Iterator[task.Batch]:
    """These of the original images, everything but the object in the mean colour of ImageNet-9, whatever
    mean the model normalises with.
    """
    samples = context.samples("original")
    colour_C = torch.tensor(imagenet9.MEAN).mul(255).round().to(torch.uint8)
    seen = 0
    for images in context.images("original"):
        places = masked[(masked >= seen) & (masked < seen + len(images.keys))]
        chosen = torch.from_numpy(places - seen).to(images.labels_B.device)
        seen += len(images.keys)
        if not len(places):
            continue
        masks = np.stack([samples.layer(int(i), imagenet9.FG_MASK) != 0 for i in places])
        mask_BHW1 = torch.from_numpy(masks)[..., None].to(images.images_BHWC.device)
        filled = images.images_BHWC[chosen].where(mask_BHW1, colour_C.to(mask_BHW1.device))
        keys = tuple(samples.keys[int(i)] for i in places)
        yield task.Batch(context.to_clip(filled), images.labels_B[chosen], keys)


def _measured(
    context: task.Context,
    name: str,
    where: tuple[str, str],
    batches: Iterable[task.Batch],
    expected: int,
) -> tuple[dict[str, np.ndarray], list[task.Row]]:
    """One pass over the images of a split, shown as `where` (split, view) says -> for `all` and each
    class, which of its images are right, boolean (M,); and the rows of it.
    """
    labels: list[np.ndarray] = []
    found: list[np.ndarray] = []
    keys: set[str] = set()
    for batch in batches:
        keys.update(batch.keys)
        logits_BK = context.model(batch.clip_BTCHW).float()
        found.append(imagenet9_predictions(logits_BK))
        labels.append(batch.labels_B.cpu().numpy())
        context.record(*where, batch.keys, batch.labels_B, logits_BK)
        context.progress(len(keys), expected, name)
    seen = sum(map(len, labels))
    if not (seen == len(keys) == expected > 0):
        raise ValueError(
            f"split {name} declares {expected} images but gave {seen}, {len(keys)} of them "
            "different; accuracy over a part of a split is not its accuracy: check the data"
        )
    label_M, found_M = np.concatenate(labels), np.concatenate(found)
    groups = _groups(found_M == label_M, label_M, context.spec.classes)
    rows = [_row(*where, subset, hits_M) for subset, hits_M in groups.items()]
    if where[1] in FILLED:
        rows.append({**rows[0], "metric": "top_share", "value": _top_share(found_M)})
    return groups, rows


def _groups(
    hit_M: np.ndarray, label_M: np.ndarray, classes: tuple[str, ...]
) -> dict[str, np.ndarray]:
    """Of `all` and of each class that has images, which are right."""
    parts = {f"{CLASS}{name}": hit_M[label_M == k] for k, name in enumerate(classes)}
    return {"all": hit_M, **{subset: part for subset, part in parts.items() if len(part)}}


def _top_share(found_M: np.ndarray) -> float:
    """The share of the class that is predicted most often; -1, none of the nine, is no class."""
    counts = np.bincount(found_M[found_M >= 0], minlength=1)
    return float(counts.max() / len(found_M))


def _row(split: str, view: str, subset: str, hits_M: np.ndarray) -> task.Row:
    value, n = float(np.mean(hits_M)), len(hits_M)
    return {
        "split": split,
        "view": view,
        "subset": subset,
        "metric": "top1",
        "value": value,
        "n": n,
    }


def _gaps(same: Mapping[str, np.ndarray], rand: Mapping[str, np.ndarray]) -> Iterator[task.Row]:
    for subset in (name for name in rand if name in same):
        row = _row("test", "bg_gap", subset, rand[subset])
        yield {**row, "value": float(np.mean(same[subset])) - row["value"]}


def _keep_pictures(context: task.Context) -> None:
    """Of each class the first image with a mask, in all variants, for the figure."""
    originals = context.samples("original")
    masked = originals.with_layer(imagenet9.FG_MASK)
    firsts = {int(originals.labels[i]): int(i) for i in reversed(masked)}
    splits = {variant: context.samples(variant) for variant in imagenet9.VARIANTS}
    for label, i in sorted(firsts.items()):
        folder, stem = originals.keys[i].split("/")
        mask_HW = originals.layer(i, imagenet9.FG_MASK)
        mask_HWC = np.repeat(255 * mask_HW[..., None], 3, axis=2)
        context.keep_picture(f"{label:02d}/{imagenet9.FG_MASK}", mask_HWC)
        for variant, samples in splits.items():
            shown = next(
                (j for j, key in enumerate(samples.keys) if _shows(key, folder, stem)), None
            )
            if shown is not None:
                picture = samples.frames(shown, np.zeros(1, np.int64))[0]
                context.keep_picture(f"{label:02d}/{variant}", picture)


def _shows(key: str, folder: str, stem: str) -> bool:
    """Whether a test image shows the foreground of `stem` (mixed: fg_<stem>_bg_<other>)."""
    return key == f"{folder}/{stem}" or key.startswith(f"{folder}/fg_{stem}_bg_")
