"""Mini-SSv2, the built-in video data set: 20 classes, made on first use, no download.

The classes are in the phrasing of Something-Something-v2. Real panoramic photographs as scenes,
drawn cut-outs as objects, synthetic hand-held motion (`bench.data.builtin.actions`). The 14 temporal
classes come in pairs that only the order of the frames tells apart; each class has a home scene
in which it plays with probability rho, the shortcut. `test_unbiased` holds the clips of `test` in
scenes drawn without that bias, so the difference of the two accuracies measures the shortcut on
otherwise equal clips. Options are chosen on `tune`, which no table shows. `tune` and `test` show
objects and views that training never shows: the same held-out concepts, since some kinds have only
one, in other clips. It is not Something-Something-v2: numbers are not comparable with published ones.

How hard the clips are is asked for with `occlusion`, `speed`, `camera`, `jitter`, `distractors` and `rho`.
Two more splits exist where clips of them are asked for: `test_hard`, the motions of `test` under
circumstances at least as hard as HARD, and `test_seed`, clips of the same kind as `test` from a generator
seed that no other split uses, the same ones whatever `seed` is.

The clips are first written as Something-Something-v2 lies on disk (WebM files and JSON annotations)
and then converted by the code that converts the real one. Members of a temporal pair are rendered
as exact mirror images in time; VP9 adds a trace of asymmetry (its first frame is a key frame), as
it does in the real data.
"""

from __future__ import annotations

import argparse
import multiprocessing
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import pydantic

from bench.data.builtin import source as builtin
from bench.data.builtin.actions import ACTIONS, REVERSALS, draw_scene, placeholders, render_clip
from bench.data.builtin.stage import SceneRule
from bench.data.formats.ssv2 import VIDEO_FOLDER, read_annotations, write_annotations
from bench.data.formats.video_list import convert
from bench.data.progress import report
from bench.data.shards.read import INDEX, ShardSamples, open_split, require_source
from bench.data.shards.write import Clip, DataSetInfo, FrameRule, Packing, Progress, start_worker
from bench.data.video import encode_vp9
from bench.process.machine import available_cores
from bench.store.files import lock
from bench.task import Config as BaseConfig
from bench.task import DataSpec

VERSION = 2
FPS = 12
SPLITS = ("train", "tune", "test", "test_unbiased")
EXTRA_SPLITS = ("test_hard", "test_seed")  # there if clips of them are asked for
_FIRST_KEY = {name: n * 1_000_000 + 1 for n, name in enumerate((*SPLITS, *EXTRA_SPLITS))}
# What is drawn alike: three tests show the same motions, two of them in the same scenes.
_MOTION = {"train": 0, "tune": 1, "test": 2, "test_unbiased": 2, "test_hard": 2, "test_seed": 3}
_SCENE = {"train": 0, "tune": 1, "test": 2, "test_unbiased": 3, "test_hard": 2, "test_seed": 4}
HARD: Mapping[str, Any] = {"occlusion": 0.8, "speed": 1.0, "camera": 1.0, "distractors": 3}
"""The least of `test_hard`; where the other splits have more, it has as much as they."""
HELD_OUT_SEED = 515_151
"""The seed of `test_seed`."""
_SHARD_CLIPS = 200
_PARALLEL_FROM = 200  # clips; fewer are done before worker processes have started
CLASSES = tuple(action.name for action in ACTIONS)
SUBSETS = {
    subset: tuple(i for i, action in enumerate(ACTIONS) if action.subset == subset)
    for subset in ("temporal", "static")
}


_HARD = ", ".join(f"{name} {least:g}" for name, least in HARD.items())


def _option(default: Any, description: str, *, ge: float = 0, le: float | None = None) -> Any:
    """A number that the command line describes."""
    return pydantic.Field(default=default, ge=ge, le=le, description=description)


class Config(BaseConfig):
    """What is generated. Everything but the last four, which say how shards hold the clips, changes
    what the clips show.
    """

    train: int = _option(2400, "clips to train on", ge=1)
    tune: int = _option(400, "clips that options are chosen on", ge=1)
    test: int = _option(1000, "clips of test, and of test_unbiased", ge=1)
    test_hard: int = _option(0, f"clips of test under circumstances at least as hard: {_HARD}")
    test_seed: int = _option(0, "clips of a seed that no other split uses, whatever --seed is")
    rho: float = _option(0.6, "probability of a class's home scene", le=1)
    seed: builtin.Seed = 0
    height: int = _option(96, "pixels; the width is 4/3 of it", ge=32)
    min_frames: int = _option(24, "of a clip", ge=2)
    max_frames: int = _option(32, "of a clip", ge=2)
    jitter: float = _option(0.3, "strength of the camera's and the hands' unsteadiness")
    distractors: int = _option(1, "at most so many objects that take no part")
    occlusion: float = _option(0.0, "probability of something in front that hides a part", le=1)
    speed: float = _option(0.0, "strength of changes of speed and pauses; 1 is much")
    camera: float = _option(0.0, "strength of a pan, whatever the object does; 1 is much")
    frames: Literal["raw", "jpeg", "video"] = "raw"
    short_side: int | None = 36  # of stored frames, pixels
    quality: int = pydantic.Field(default=90, ge=1, le=100)  # of jpeg
    decoder: Literal["opencv", "pyav", "torchcodec"] = "opencv"

    @pydantic.model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.min_frames > self.max_frames:
            raise ValueError(f"min_frames {self.min_frames} exceeds max_frames {self.max_frames}")
        return self

    @classmethod
    def tiny(cls) -> Self:
        """Small, and through the real data set's whole pipeline: WebM files, JSON, conversion."""
        return cls(train=24, tune=12, test=12, height=48, min_frames=10, max_frames=12)

    @property
    def rule(self) -> SceneRule:
        options = {name: getattr(self, name) for name in SceneRule.__dataclass_fields__}
        return SceneRule(**options | {"seed": builtin.seed_of(self)})

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that there are."""
        return (*SPLITS, *(name for name in EXTRA_SPLITS if self.size(name)))

    def size(self, split: str) -> int:
        return int(getattr(self, split.removesuffix("_unbiased")))


LATER = ("quality", "decoder", "test_hard", "test_seed", "occlusion", "speed", "camera")
DEFAULTS = Config().model_dump(include=set(LATER))


def spec(config: Config) -> DataSpec:
    """Twenty classes in seven temporal pairs and six static ones."""
    return DataSpec(
        name="mini_ssv2",
        media="video",
        classes=CLASSES,
        subsets=SUBSETS,
        splits=config.splits,
        reversals=reversals_of(CLASSES),
    )


def reversals_of(classes: Sequence[str]) -> tuple[tuple[int, int], ...]:
    """The seven temporal pairs: the frames of one are those of the other in reverse."""
    ids = {name: i for i, name in enumerate(classes)}
    return tuple((ids[forward], ids[backward]) for forward, backward in REVERSALS)


def locate(config: Config, data_root: Path) -> Path:
    """The cached folder of this configuration."""
    return data_root / builtin.folder_name("mini-ssv2", VERSION, config, LATER)


def missing(config: Config, data_root: Path) -> str | None:
    """Never anything: `prepare` makes the data."""
    return None


def prepare(config: Config, data_root: Path, *, workers: int | None = None) -> Path:
    """The shard folder, generated on first use. Safe to call from several processes at once;
    continues after a kill.
    """
    folder = locate(config, data_root)
    if (folder / INDEX).is_file():
        return folder
    with (
        lock(data_root / f".{folder.name}.lock"),
        report("generating Mini-SSv2") as progress,
    ):
        return build(config, folder, workers=workers, progress=progress)


def needed(config: Config, data_root: Path) -> int:
    """About the bytes that `prepare` would write, by what files of other sizes came to."""
    if (locate(config, data_root) / INDEX).is_file():
        return 0
    frames = (config.min_frames + config.max_frames) / 2
    video = 3600 + 0.036 * frames * config.height**2 * 4 / 3
    pixels = (config.short_side or config.height) ** 2 * 4 / 3
    stored = {"raw": frames * pixels * 3, "jpeg": frames * (1024 + 0.6 * pixels), "video": video}
    clips = sum(map(config.size, config.splits))
    return int(clips * (video + stored[config.frames] + 2048))


def open(config: Config, data_root: Path, split: str) -> ShardSamples:
    """Random access to a split of prepared data."""
    folder = locate(config, data_root)
    if not (folder / INDEX).is_file():
        raise ValueError(f"Mini-SSv2 is not in {folder}. {remedy(config, folder)}")
    require_source(
        folder,
        source="mini_ssv2",
        version=VERSION,
        config=config.model_dump(),
        remedy=remedy(config, folder),
        defaults=DEFAULTS,
    )
    return open_split(folder, split)


def remedy(config: Config, folder: Path) -> str:
    """The command that generates this configuration."""
    return builtin.remedy("mini-ssv2", config, folder)


def clips_of(config: Config, split: str) -> tuple[Clip, ...]:
    """The clips of a split, planned but not rendered: balanced classes in random order, each with
    its scene.
    """
    rng = np.random.default_rng([rule_of(config.rule, split).seed, _MOTION[split]])
    rounds = -(-config.size(split) // len(ACTIONS))
    labels = np.concatenate([rng.permutation(len(ACTIONS)) for _ in range(rounds)])
    return tuple(_clip(config, split, n, int(labels[n])) for n in range(config.size(split)))


def rule_of(rule: SceneRule, split: str) -> SceneRule:
    """What the clips of one split depend on."""
    if split == "test_hard":
        return replace(rule, **{name: max(getattr(rule, name), HARD[name]) for name in HARD})
    return replace(rule, seed=HELD_OUT_SEED) if split == "test_seed" else rule


def _clip(config: Config, split: str, number: int, label: int) -> Clip:
    action, rule = ACTIONS[label], rule_of(config.rule, split)
    scene_rng = np.random.default_rng([rule.seed, _SCENE[split], number, 1])
    scene = draw_scene(rule, label, scene_rng, biased=split != "test_unbiased")
    names = placeholders(
        rule, action, rng=_motion_rng(rule.seed, split, number), training=split == "train"
    )
    caption = action.template
    for name in names:
        caption = caption.replace("[something]", name, 1)
    key = str(_FIRST_KEY[split] + number)
    meta = {
        "id": key,
        "template": action.template,
        "placeholders": names,
        "caption": caption,
        "scene": scene,
    }
    return Clip(key, label, meta)


def _motion_rng(seed: int, split: str, number: int) -> np.random.Generator:
    return np.random.default_rng([seed, _MOTION[split], number, 0])


@dataclass(frozen=True)
class ClipRenderer:
    """Renders planned clips; pickles into worker processes."""

    rule: SceneRule

    def __call__(self, split: str, clip: Clip) -> np.ndarray:
        rule, action = rule_of(self.rule, split), ACTIONS[clip.label]
        rng = _motion_rng(rule.seed, split, int(clip.key) - _FIRST_KEY[split])
        return render_clip(
            rule, action, scene=clip.meta["scene"], rng=rng, training=split == "train"
        )


def build(
    config: Config, out: Path, *, workers: int | None = None, progress: Progress | None = None
) -> Path:
    """Generate the data set into `out`; nothing happens if it is already there."""
    if (out / INDEX).is_file():
        require_source(
            out,
            source="mini_ssv2",
            version=VERSION,
            config=config.model_dump(),
            remedy="Choose another --out",
            defaults=DEFAULTS,
        )
        return out
    clips = {split: clips_of(config, split) for split in config.splits}
    few = sum(map(len, clips.values())) < _PARALLEL_FROM
    workers = workers or (1 if few else available_cores())
    short_side = config.short_side if config.frames != "video" else None
    rule = FrameRule(config.frames, short_side, config.quality, config.decoder)
    read = ClipRenderer(config.rule)
    write_videos(out, clips, read, workers=workers, progress=progress)
    annotations = read_annotations(out / "labels", config.splits)
    stored = builtin.stored(config, LATER)
    info = DataSetInfo("mini_ssv2", VERSION, stored, annotations.classes, SUBSETS)
    packing = Packing(_SHARD_CLIPS, workers, progress)
    return convert(annotations, [out / VIDEO_FOLDER], out, info, rule, packing)


def write_videos(
    out: Path,
    clips: Mapping[str, tuple[Clip, ...]],
    read: ClipRenderer,
    *,
    workers: int,
    progress: Progress | None = None,
) -> None:
    """Write the clips as Something-Something-v2 lies on disk; files that are there already are
    kept.
    """
    folder = out / VIDEO_FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    tasks = [(folder, read, split, clip) for split, part in clips.items() for clip in part]
    if workers <= 1:
        for done, task in enumerate(tasks, 1):
            _write_video(task)
            if progress:
                progress(done, len(tasks))
    else:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(workers, context, initializer=start_worker) as pool:
            for done, _ in enumerate(pool.map(_write_video, tasks, chunksize=8), 1):
                if progress:
                    progress(done, len(tasks))
    items: dict[str, list[dict[str, Any]]] = {}
    for split, part in clips.items():
        # In the annotations `label` is the sentence, as in SSv2; readers find the class by the
        # template.
        items[split] = [{"label": c.meta["caption"], **c.meta} for c in part]
        for item in items[split]:
            del item["caption"]
    write_annotations(out / "labels", CLASSES, items)


def _write_video(task: tuple[Path, ClipRenderer, str, Clip]) -> None:
    folder, read, split, clip = task
    path = folder / f"{clip.key}.webm"
    if not path.is_file():
        encode_vp9(path, read(split, clip), FPS)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `python -m bench.prepare mini-ssv2`: the fields of Config."""
    builtin.add_arguments(parser, Config)


def run(args: argparse.Namespace) -> Path:
    """What `python -m bench.prepare mini-ssv2` does."""
    config = Config(**{name: getattr(args, name) for name in Config.model_fields})
    with (
        lock(args.out.with_name(f".{args.out.name}.lock")),
        report("generating Mini-SSv2") as progress,
    ):
        return build(config, args.out, workers=args.workers, progress=progress)
