"""Samples -> batches, in a given order.

`training_batches` loads what a `Schedule` says (`bench.data.order`): exactly what an uninterrupted run
would have seen from a step on, for any number of workers. Evaluation yields each key once, in stored
order: its centre crop (`Clips`), or all its crops (`Crops`).

Where several ranks train one run, each loads its own `Part` of the same batches.
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from multiprocessing import queues
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate, get_worker_info

from bench.config.science import Input
from bench.config.seeds import rng, seed
from bench.data import transforms
from bench.data.order import Draw, Part, Schedule
from bench.data.shards.read import BadData
from bench.process import interrupt
from bench.task import Images, Picture, Samples

Prepare = Callable[[np.ndarray, np.random.Generator], np.ndarray]
"""An objective's labels from the augmented uint8 clip (T H W 3)."""

Companion = Callable[[Picture, np.random.Generator], np.ndarray | None]
"""An objective's second image (uint8 H W 3) from a training image and its layers, if it wants one; the
two are then augmented alike."""


REPLACEMENTS = 10
"""So many samples in a row that cannot be decoded are not bad luck."""


class BadSample(ValueError):
    """A sample that cannot be read or decoded."""


class ClipItem(NamedTuple):
    """One clip of a batch."""

    clip_THWC: np.ndarray
    label: int
    key: str
    draw: Draw
    extras: dict[str, Any]
    failed: dict[str, str] = {}  # noqa: RUF012  what could not be decoded: key -> reason


@dataclass
class RawBatch:
    """What comes out of the loader, before it goes to the device."""

    clip_BTHWC: Tensor  # uint8; in evaluation perhaps larger than `size`
    labels_B: Tensor  # int64
    keys: tuple[str, ...]
    draws: tuple[Draw, ...]
    extras: dict[str, Tensor]
    failed: dict[str, str] = field(default_factory=dict)  # key -> why it could not be decoded
    size: int | None = None  # H = W that the model sees, pixels; None: those of the clip

    def pin_memory(self) -> RawBatch:
        self.clip_BTHWC = self.clip_BTHWC.pin_memory()
        self.labels_B = self.labels_B.pin_memory()
        self.extras = {name: value.pin_memory() for name, value in self.extras.items()}
        return self


class Clips(Dataset[Any]):
    """Draw -> Item. Augmented when `run_seed` is given.

    A sample that cannot be decoded raises BadSample, or, where `skip_bad`, another one takes its
    place. In evaluation it is a black clip that says so. `resized`: else the device is to resize
    the crops of evaluation where it can.
    """

    def __init__(
        self,
        samples: Samples,
        config: Input,
        *,
        run_seed: int | None = None,
        prepare: dict[str, Prepare] | None = None,
        companions: dict[str, Companion] | None = None,
        skip_bad: bool = False,
        resized: bool = True,
    ) -> None:
        self.samples = samples
        self.config = config
        self.run_seed = run_seed
        self.prepare = prepare or {}
        self.companions = companions or {}
        self.skip_bad = skip_bad
        self.resized = resized
        self.mirrored = transforms.mirrored_classes(samples.classes) if config.hflip else ()

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, draw: Draw) -> Any:
        if self.run_seed is None:
            middle = slice(self.config.eval_views // 2, self.config.eval_views // 2 + 1)
            frames_VTHWC, failed = self._views(draw.index, middle)
            squares = transforms.eval_squares(frames_VTHWC[0], self.config)
            return self._item(self._shown(squares[len(squares) // 2]), draw, {}, failed)
        try:
            return self._training_item(draw, self.run_seed)
        except BadSample as error:
            if not self.skip_bad:
                raise
            return self._instead(draw, self.run_seed, {self.samples.keys[draw.index]: str(error)})

    def _training_item(self, draw: Draw, run_seed: int) -> ClipItem:
        i = draw.index
        generator = rng(run_seed, "augment", draw.epoch, i)
        indices = transforms.train_indices(self._num_frames(i), self.config, generator)
        frames = self._frames(i, indices)
        companions = self._companions(draw, frames)
        shown = np.concatenate([frames, *companions.values()]) if companions else frames
        augmented = transforms.train_clip(shown, self.config, generator)
        mirrored = transforms.draws_mirror(self.config, generator)
        if mirrored:
            augmented = transforms.mirror(augmented)
        clip, others = augmented[: len(frames)], augmented[len(frames) :, None]
        extras = dict(zip(companions, others, strict=True))
        extras |= {
            name: make(clip, rng(run_seed, name, draw.epoch, i))
            for name, make in self.prepare.items()
        }
        item = self._item(clip, draw, extras, {})
        return item._replace(label=self.mirrored[item.label]) if mirrored else item

    def _instead(self, draw: Draw, run_seed: int, failed: dict[str, str]) -> ClipItem:
        """The item of another sample, a function of the draw, with what failed before it."""
        generator = rng(run_seed, "instead", draw.epoch, draw.index)
        for _ in range(REPLACEMENTS):
            other = Draw(int(generator.integers(len(self))), draw.epoch)
            try:
                return self._training_item(other, run_seed)._replace(failed=failed)
            except BadSample as error:
                failed = {**failed, self.samples.keys[other.index]: str(error)}
        raise BadSample(
            f"{len(failed)} samples in a row cannot be decoded, the last: {list(failed.values())[-1]}"
        )

    def _item(
        self, clip: np.ndarray, draw: Draw, extras: dict[str, Any], failed: dict[str, str]
    ) -> ClipItem:
        i = draw.index
        return ClipItem(
            clip, int(self.samples.labels[i]), self.samples.keys[i], draw, extras, failed
        )

    def _num_frames(self, i: int) -> int:
        """BadSample where counting takes decoding, which fails."""
        try:
            return self.samples.num_frames(i)
        except ValueError as error:
            raise BadSample(f"sample {self.samples.keys[i]}: {error}") from error

    def _frames(self, i: int, indices: np.ndarray) -> np.ndarray:
        """Decoded frames; BadSample."""
        try:
            return self.samples.frames(i, indices)
        except ValueError as error:
            raise BadSample(f"sample {self.samples.keys[i]}: {error}") from error

    def _layer(self, i: int, name: str) -> np.ndarray:
        """BadSample where it is damaged. A layer that a sample does not have is wrong use."""
        try:
            return self.samples.layer(i, name)
        except BadData as error:
            raise BadSample(f"sample {self.samples.keys[i]}: {error}") from error

    def _companions(self, draw: Draw, frames: np.ndarray) -> dict[str, np.ndarray]:
        """1 H W 3 of each objective that wants a second image."""
        if not self.companions:
            return {}
        assert self.run_seed is not None
        i = draw.index
        picture = Picture(frames[0], partial(self._layer, i))
        made = {
            name: make(picture, rng(self.run_seed, name, draw.epoch, i))
            for name, make in self.companions.items()
        }
        return {name: image[None] for name, image in made.items() if image is not None}

    def _views(self, i: int, which: slice) -> tuple[np.ndarray, dict[str, str]]:
        """The frames of these temporal views, decoded once and not yet cropped, V T H W 3; black
        ones, with the reason, where they cannot be decoded.
        """
        try:
            indices_VT = transforms.eval_indices(self._num_frames(i), self.config)[which]
            if len(indices_VT) == 1:
                return self._frames(i, indices_VT[0])[None], {}
            wanted, places_VT = np.unique(indices_VT, return_inverse=True)
            return self._frames(i, wanted)[places_VT.reshape(indices_VT.shape)], {}
        except BadSample as error:
            size, views = self.config.size, len(range(self.config.eval_views)[which])
            black_VTHWC = np.zeros((views, self.config.frames, size, size, 3), np.uint8)
            return black_VTHWC, {self.samples.keys[i]: str(error)}

    def _shown(self, square_THWC: np.ndarray) -> np.ndarray:
        """A crop of evaluation, resized unless the device can do that."""
        size = self.config.size
        if not self.resized and transforms.resizes_on_device(square_THWC.shape[1], size):
            return square_THWC
        return transforms.resize(square_THWC, size)

    def collate(self, items: list[Any]) -> Any:
        """Items -> RawBatch."""
        return collate(items, self.config.size)


class Crops(Clips):
    """Draw -> `Input.eval_clips` Items, views x crops; the clip is decoded once."""

    def __getitem__(self, draw: Draw) -> tuple[ClipItem, ...]:
        frames_VTHWC, failed = self._views(draw.index, slice(None))
        return tuple(
            self._item(self._shown(square), draw, {}, failed)
            for frames_THWC in frames_VTHWC
            for square in transforms.eval_squares(frames_THWC, self.config)
        )

    def collate(self, items: list[Any]) -> Any:
        """Tuples of Items -> a RawBatch for each of the clips that are seen of a sample."""
        return tuple(collate(list(same), self.config.size) for same in zip(*items, strict=True))


class StoredImages(Dataset[Any]):
    """Draw -> (image, label, key), as stored; or the ValueError of one that cannot be read."""

    def __init__(self, samples: Samples) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, draw: Draw) -> tuple[np.ndarray, int, str] | ValueError:
        i = draw.index
        try:
            image_HWC = self.samples.frames(i, np.zeros(1, np.int64))[0]
        except ValueError as error:
            return error  # raised by a worker it would arrive wrapped in the worker's traceback
        return image_HWC, int(self.samples.labels[i]), self.samples.keys[i]

    def collate(self, items: list[Any]) -> list[Images] | ValueError:
        return collate_images(items)


def collate(items: list[ClipItem], size: int) -> RawBatch:
    """Where crops of several sizes meet, none is left to the device."""
    clips, labels, keys, draws, extras, failed = zip(*items, strict=True)
    if len({clip.shape for clip in clips}) > 1:
        clips = tuple(transforms.resize(clip, size) for clip in clips)
    return RawBatch(
        clip_BTHWC=_stacked(clips),
        labels_B=torch.tensor(labels, dtype=torch.int64),
        keys=tuple(keys),
        draws=tuple(draws),
        extras=default_collate(list(extras)) if extras[0] else {},
        failed={key: reason for each in failed for key, reason in each.items()},
        size=size,
    )


def _stacked(clips: Sequence[np.ndarray]) -> Tensor:
    """uint8 B T H W 3; in a worker it lies in shared memory at once, so that handing it over copies
    nothing.
    """
    shape = (len(clips), *clips[0].shape)
    out = torch.empty(shape, dtype=torch.uint8)
    if get_worker_info() is not None:
        out = torch.empty(0, dtype=torch.uint8)
        shared = out.untyped_storage()._new_shared(int(np.prod(shape)), device=out.device)
        out.set_(shared).resize_(shape)
    np.stack(clips, out=out.numpy())
    return out


def collate_images(items: list[Any]) -> list[Images] | ValueError:
    """The items in their order, cut where the size of the images changes; or the first's error."""
    if errors := [item for item in items if isinstance(item, ValueError)]:
        return errors[0]
    batches = []
    for _, group in groupby(items, key=lambda item: item[0].shape):
        images, labels, keys = zip(*group, strict=True)
        images_BHWC = torch.from_numpy(np.stack(images))
        batches.append(Images(images_BHWC, torch.tensor(labels, dtype=torch.int64), keys))
    return batches


def training_batches(
    clips: Clips, schedule: Schedule, *, workers: int, pin: bool
) -> Iterator[RawBatch]:
    """The scheduled micro-batches."""
    assert clips.run_seed is not None
    return _iterate(_loader(clips, schedule, workers=workers, pin=pin))


def evaluation_batches(
    clips: Clips, *, batch: int, workers: int, pin: bool, rank: int = 0, world: int = 1
) -> Iterator[RawBatch]:
    """Every sample once, in stored order. With several ranks each gets some of the same batches,
    not batches of some of the samples: what is computed of one depends a little on the others in it.
    """
    batches = _in_order(len(clips), batch)
    part = Part.of(len(batches), rank=rank, world=world)
    mine = batches[part.start : part.stop]
    return _iterate(_loader(clips, mine, workers=workers, pin=pin))


def chosen_batches(
    clips: Clips, chosen: Sequence[int], *, batch: int, workers: int, pin: bool
) -> Iterator[RawBatch]:
    """These samples once each, in this order."""
    draws = [Draw(int(i), 0) for i in chosen]
    batches = [draws[start : start + batch] for start in range(0, len(draws), batch)]
    return _iterate(_loader(clips, batches, workers=workers, pin=pin))


def evaluation_crops(
    crops: Crops, *, batch: int, workers: int, pin: bool
) -> Iterator[Sequence[RawBatch]]:
    """Every sample once, in stored order: its crops, a batch for each."""
    return _iterate(_loader(crops, _in_order(len(crops), batch), workers=workers, pin=pin))


def evaluation_images(samples: Samples, *, batch: int, workers: int, pin: bool) -> Iterator[Images]:
    """Every image once, in stored order and as stored; a batch is of one size.

    Raises ValueError for an image that cannot be read.
    """
    images = StoredImages(samples)
    found = _loader(images, _in_order(len(images), batch), workers=workers, pin=pin)
    for batches in _iterate(found):
        if isinstance(batches, ValueError):
            raise batches
        yield from batches


def _in_order(length: int, batch: int) -> list[list[Draw]]:
    draws = [Draw(i, 0) for i in range(length)]
    return [draws[start : start + batch] for start in range(0, length, batch)]


def _loader(
    clips: Clips | StoredImages, batches: Any, *, workers: int, pin: bool
) -> DataLoader[Any]:
    return DataLoader(
        clips,
        batch_sampler=batches,
        num_workers=workers,
        collate_fn=clips.collate,
        pin_memory=pin,
        worker_init_fn=_start_worker,
        # OpenCV and video decoders do not survive a fork once they have started threads
        multiprocessing_context="spawn" if workers else None,
        generator=torch.Generator().manual_seed(seed("loader") % 2**63),
    )


def _iterate(batches: DataLoader[Any]) -> Iterator[Any]:
    """Its worker processes get none of the signals that ask the run to stop: they must deliver what
    was begun. They end when this process ends them (`_start_worker`).
    """
    if not batches.num_workers:
        return iter(batches)
    with interrupt.held_back():
        return iter(batches)


def _start_worker(_: int) -> None:
    interrupt.end_with_parent()
    # Else a batch that cannot be sent (no memory left to map it) is dropped, and awaited for ever.
    queues.Queue._on_queue_feeder_error = staticmethod(_end_worker)  # type: ignore[attr-defined]
    cv2.setNumThreads(0)
    torch.set_num_threads(1)


def _end_worker(error: BaseException, _: object) -> None:
    """Ends this worker, which its parent notices within seconds."""
    try:
        traceback.print_exception(error)
    finally:
        os._exit(1)
