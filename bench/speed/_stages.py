"""The stages of loading a clip, one by one, in CPU time of one core: for `bench.speed loader`.

A stage is given a draw (which clip, which epoch) and returns what is to be timed, its inputs ready.
All stages of all storages see the same draws, hence the same frames, crops and augmentations.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from bench import find
from bench.config.science import Input
from bench.config.seeds import rng
from bench.data import loader, transforms
from bench.data.loader import Clips, Crops
from bench.data.order import Draw
from bench.speed import _clips, _released_loader
from bench.speed._measuring import SpeedRow, Tell, spread
from bench.task import DataSpec, ModelSpec, Samples

SEED = 0
FLOW = "video.flow"
RAND_AUGMENT = "rand-m20-mstd0.5-inc1"
PATCH = 16  # pixels
COMMON = "any"  # storage of the stages that come after decoding
CEILINGS = {
    "training": "decode alone, training",
    "evaluation": "decode alone, evaluation",
}
AUGMENT, AUGMENT_RA = "augment: crop and resize", "augment with RandAugment"


@dataclass(frozen=True)
class LoadingRecipe:
    """What a sample becomes."""

    frames: int
    size: int  # pixels

    def input(self, **options: Any) -> Input:
        return Input(frames=self.frames, size=self.size, **options)

    def _model_spec(self) -> ModelSpec:
        half = (0.5, 0.5, 0.5)
        return ModelSpec(self.frames, self.size, PATCH, 768, 174, half, half)

    def reason_against(self) -> str | None:
        """Why these sizes have no flow labels."""
        module = find.load("objective", FLOW)
        spec = DataSpec("clips", "video", (), {}, (_clips.SPLIT,))
        return module.skip(module.Config(), self._model_spec(), spec)

    def flow(self) -> loader.Prepare:
        module = find.load("objective", FLOW)
        return partial(module.prepare, module.Config(), self._model_spec())

    def training(self, samples: Samples, *, rand_augment: bool, flow: bool) -> Clips:
        config = self.input(rand_augment=RAND_AUGMENT if rand_augment else None)
        return Clips(samples, config, run_seed=SEED, prepare={FLOW: self.flow()} if flow else {})

    def evaluation(self, samples: Samples, *, resized: bool) -> Clips:
        return Clips(samples, self.input(), resized=resized)


@dataclass(frozen=True)
class LoadingStage:
    storage: str
    name: str
    ready: Callable[[Draw], Callable[[], Any]]
    clips: int = 1  # that one call handles


class Stages:
    """All stages over the first clips of each folder."""

    def __init__(
        self, shards: tuple[_clips.Shards, ...], clips: int, recipe: LoadingRecipe, batch: int
    ) -> None:
        self.samples = {part.name: part.samples(clips) for part in shards}
        self.storages = {part.name: part.storage for part in shards}
        self.clips = min(len(samples) for samples in self.samples.values())
        self.stored = {
            part.name: _clips.Stored(part, self.samples[part.name].keys) for part in shards
        }
        self.recipe, self.batch = recipe, batch
        self._first = next(iter(self.samples.values()))
        self._frames = lru_cache(maxsize=1)(self._decoded)

    def all(self) -> list[LoadingStage]:
        return [stage for name in self.samples for stage in self._of_storage(name)] + self._common()

    def _of_storage(self, name: str) -> list[LoadingStage]:
        samples, recipe = self.samples[name], self.recipe
        train = partial(recipe.training, samples)

        def read(draw: Draw) -> Callable[[], Any]:
            return partial(self.stored[name].read, draw.index, self.drawn(draw)[0])

        def frames(draw: Draw) -> Callable[[], Any]:
            return partial(samples.frames, draw.index, self.drawn(draw)[0])

        three = recipe.input(eval_crops=3)
        items = {
            "training item": train(rand_augment=False, flow=False),
            "training item + flow": train(rand_augment=False, flow=True),
            "training item + RandAugment": train(rand_augment=True, flow=False),
            "training item + RandAugment + flow": train(rand_augment=True, flow=True),
            "evaluation item": recipe.evaluation(samples, resized=False),
            "evaluation item, 3 crops": Crops(samples, three, resized=False),
            "evaluation item, resized here": recipe.evaluation(samples, resized=True),
        }
        stages = [
            LoadingStage(name, CEILINGS["training"], self._alone(name, self.drawn)),
            LoadingStage(name, CEILINGS["evaluation"], self._alone(name, self._middles)),
            LoadingStage(name, "read", read),
            LoadingStage(name, "frames", frames),
        ]
        made = (LoadingStage(name, item, self._item(clips)) for item, clips in items.items())
        return [*stages, *made]

    @staticmethod
    def _item(clips: Clips) -> Callable[[Draw], Callable[[], Any]]:
        return lambda draw: partial(clips.__getitem__, draw)

    def _alone(
        self, name: str, choose: Callable[[Draw], tuple[np.ndarray, Any]]
    ) -> Callable[[Draw], Callable[[], Any]]:
        def ready(draw: Draw) -> Callable[[], Any]:
            indices = choose(draw)[0]
            files = self.stored[name].read(draw.index, indices)
            return _clips.decode_alone(self.storages[name], files, indices)

        return ready

    def _common(self) -> list[LoadingStage]:
        """What does not depend on the storage, on the frames of the first."""
        plain, augmented = self.recipe.input(), self.recipe.input(rand_augment=RAND_AUGMENT)
        flow = self.recipe.flow()

        def indices(draw: Draw) -> Callable[[], Any]:
            return partial(self.drawn, draw)

        def augment(config: Input, draw: Draw) -> Callable[[], Any]:
            frames = self._frames(draw)
            return partial(transforms.train_clip, frames, config, self.drawn(draw)[1])

        def labels(draw: Draw) -> Callable[[], Any]:
            return partial(flow, augment(augmented, draw)(), rng(SEED, FLOW))

        def collate(draw: Draw) -> Callable[[], Any]:
            item = self.recipe.training(self._first, rand_augment=False, flow=True)[draw]
            copies = (item.clip_THWC.copy() for _ in range(self.batch))
            items = [item._replace(clip_THWC=clip) for clip in copies]
            return partial(loader.collate, items, self.recipe.size)

        return [
            LoadingStage(COMMON, "sample indices", indices),
            LoadingStage(COMMON, AUGMENT, partial(augment, plain)),
            LoadingStage(COMMON, AUGMENT_RA, partial(augment, augmented)),
            LoadingStage(COMMON, "flow labels", labels),
            LoadingStage(COMMON, "collate", collate, clips=self.batch),
        ]

    def _decoded(self, draw: Draw) -> np.ndarray:
        return self._first.frames(draw.index, self.drawn(draw)[0])

    def drawn(self, draw: Draw) -> tuple[np.ndarray, np.random.Generator]:
        """The frames of a training item, and the generator that its augmentation goes on with."""
        generator = rng(SEED, "augment", draw.epoch, draw.index)
        length = self._first.num_frames(draw.index)
        return transforms.train_indices(length, self.recipe.input(), generator), generator

    def _middles(self, draw: Draw) -> tuple[np.ndarray, None]:
        length = self._first.num_frames(draw.index)
        return transforms.eval_indices(length, self.recipe.input())[0], None

    def peer(self, folder: Path) -> list[LoadingStage]:
        """The released pipeline over the clips that are stored as videos; empty without any."""
        names = [name for name, storage in self.storages.items() if storage == "video"]
        return ReleasedStages(self, self.stored[names[0]], folder).all() if names else []


class ReleasedStages:
    """The stages of the released pipeline, over the same draws; `folder` is for its video files."""

    def __init__(self, stages: Stages, stored: _clips.Stored, folder: Path) -> None:
        self._drawn, self._recipe = stages.drawn, stages.recipe
        self._stored, self._folder = stored, folder
        self._by_ffmpeg = _released_loader.has_ffmpeg()

    def all(self) -> list[LoadingStage]:
        decoders = [LoadingStage("released", "all frames by PyAV", self.pyav)]
        if self._by_ffmpeg:
            decoders.append(LoadingStage("released", "all frames by ffprobe + ffmpeg", self.ffmpeg))
        return [
            *decoders,
            LoadingStage("released", "RandAugment frame by frame", self.rand_augment),
            LoadingStage("released", "normalise, resize, crop", self.crop),
            LoadingStage("released", "flow labels", self.flow),
            LoadingStage("released", "training item + RandAugment + flow", self.whole),
        ]

    def pyav(self, draw: Draw) -> Callable[[], np.ndarray]:
        (data,) = self._stored.read(draw.index, np.zeros(1, np.int64))
        return partial(_released_loader.decode_by_pyav, data)

    def ffmpeg(self, draw: Draw) -> Callable[[], np.ndarray]:
        path = self._folder / f"{draw.index}.webm"
        if not path.exists():
            path.write_bytes(self._stored.read(draw.index, np.zeros(1, np.int64))[0])
        return partial(_released_loader.decode_by_ffmpeg, path)

    def rand_augment(self, draw: Draw) -> Callable[[], Any]:
        return partial(self._augmented, draw, self.pyav(draw)())

    def crop(self, draw: Draw) -> Callable[[], Any]:
        return partial(self._cropped, *self.rand_augment(draw)())

    def flow(self, draw: Draw) -> Callable[[], np.ndarray]:
        return partial(_released_loader.flow_labels, self.crop(draw)(), PATCH)

    def whole(self, draw: Draw) -> Callable[[], Any]:
        decode = self.ffmpeg(draw) if self._by_ffmpeg else self.pyav(draw)

        def make() -> Any:
            clip_TCHW = self._cropped(*self._augmented(draw, decode()))
            return clip_TCHW, _released_loader.flow_labels(clip_TCHW, PATCH)

        return make

    def _augmented(self, draw: Draw, frames_THWC: np.ndarray) -> tuple[Any, np.random.Generator]:
        indices, generator = self._drawn(draw)
        kept, size = frames_THWC[indices], self._recipe.size
        return _released_loader.rand_augmented(kept, RAND_AUGMENT, size, generator), generator

    def _cropped(self, images: Any, generator: np.random.Generator) -> Any:
        return _released_loader.cropped(images, self._recipe.input(), generator)


# -- timing them ---


def take_turns(
    stages: list[LoadingStage], *, clips: int, turns: int, tell: Tell
) -> dict[tuple[str, str], list[float]]:
    """(storage, stage) -> CPU seconds per clip, of each turn over all clips."""
    for stage in stages:  # imports and first calls
        stage.ready(Draw(0, 0))()
    seconds: dict[tuple[str, str], list[float]] = {(s.storage, s.name): [] for s in stages}
    for turn in range(turns):
        for times in seconds.values():
            times.append(0.0)
        for clip in range(clips):
            tell(f"turn {turn + 1} of {turns}: clip {clip + 1} of {clips}")
            # in another order each time: what ran before leaves the caches as it likes
            for place in rng("order of stages", turn, clip).permutation(len(stages)):
                stage = stages[place]
                work = stage.ready(Draw(clip, turn))
                begun = cpu_s()
                work()
                taken = (cpu_s() - begun) / stage.clips / clips
                seconds[stage.storage, stage.name][-1] += taken
    return seconds


def cpu_s() -> float:
    """CPU time of this process, all its threads, and of the processes it has waited for."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def rows(seconds: Mapping[tuple[str, str], list[float]]) -> Iterator[SpeedRow]:
    """A row for each stage; RandAugment's is the difference that it makes, turn by turn."""
    for (storage, name), times in seconds.items():
        ms = [1e3 * value for value in times]
        row: SpeedRow = {"storage": storage, "stage": name}
        if name == AUGMENT_RA:
            without = seconds[storage, AUGMENT]
            ms = [1e3 * (a - b) for a, b in zip(times, without, strict=True)]
            row |= {"stage": "RandAugment", "note": "the difference that it makes to augment"}
        row |= {"ms": spread(ms)}
        row["clips_per_s"] = 1e3 / row["ms"]["median"] if row["ms"]["median"] > 0 else None
        kind = "evaluation" if name.startswith("evaluation") else "training"
        ceiling = seconds.get((storage, CEILINGS[kind]))
        if ceiling and name not in (*CEILINGS.values(), "read"):
            row["of_ceiling"] = 1e3 * spread(ceiling)["median"] / row["ms"]["median"]
        yield row
