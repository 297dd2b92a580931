"""The twenty actions of Mini-SSv2: what each template looks like, and the clips that show it.

The classes of a temporal pair are the same clips in another order of frames: the second plays the
first backwards. Everything else - objects, camera,
distractors - is drawn from the same distribution, so no single frame and no unordered set of
frames says which of the two it is. The six static classes are told apart by any one frame.
`sources/mini_ssv2.py` turns this into a data set.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np

from bench.data.builtin.cutouts import PROP, all_panoramas
from bench.data.builtin.scenes import TRAIN_YAWS, VALID_YAWS, SceneLayer, layer, plate_of, render
from bench.data.builtin.stage import HANDS, SceneRule, Stage, cloth_sprite, photo_sprite, pool

NO_SUPPORT = (*HANDS, "framed-picture")


def push_right(stage: Stage) -> list[SceneLayer]:
    x, y = stage.place()
    extent = stage.uniform(0.4, 0.8)
    track = x + extent * (stage.progress_T - 0.5)
    item = stage.put(stage.objects[0], x=track, y=y, size=stage.uniform(0.3, 0.45))
    return stage.maybe_held(item)


def move_up(stage: Stage) -> list[SceneLayer]:
    x, y = stage.place()
    extent = stage.uniform(0.3, 0.55)
    track = y - 0.08 - extent * (stage.progress_T - 0.5)
    item = stage.put(stage.objects[0], x=2 * x, y=track, size=stage.uniform(0.3, 0.42))
    return stage.maybe_held(item)


def move_towards(stage: Stage) -> list[SceneLayer]:
    """The object alone grows: it comes to the camera, the scene stays."""
    x, y = stage.place()
    ratio = stage.uniform(1.6, 2.6)
    size = stage.uniform(0.32, 0.42) * ratio ** (stage.progress_T - 0.5)
    item = stage.put(stage.objects[0], x=1.5 * x, y=y, size=size)
    return stage.maybe_held(item)


def approach_with_camera(stage: Stage) -> list[SceneLayer]:
    """Object, distractors and scene grow together: the camera comes closer."""
    x, y = stage.place()
    ratio = stage.uniform(1.5, 2.2)
    stage.zoom_T = stage.uniform(1.0, 1.15) * ratio ** (stage.progress_T - 0.5)
    return [stage.put(stage.objects[0], x=x, y=y, size=stage.uniform(0.3, 0.4))]


def move_closer(stage: Stage) -> list[SceneLayer]:
    x, y = stage.place()
    sizes = stage.uniform(0.28, 0.38), stage.uniform(0.28, 0.38)
    gap = 0.45 * sum(sizes) + stage.uniform(0.35, 0.6) * (1 - stage.progress_T)
    share = stage.uniform(0.35, 0.65)  # how much of the way the left object goes
    left = stage.put(stage.objects[0], x=x - share * gap, y=y, size=sizes[0])
    right = stage.put(
        stage.objects[1], x=x + (1 - share) * gap, y=y + stage.uniform(-0.04, 0.04), size=sizes[1]
    )
    return [left, right]


def cover(stage: Stage) -> list[SceneLayer]:
    """A cloth slides over the object, from any side."""
    x, y = stage.place()
    size = stage.uniform(0.3, 0.4)
    direction = stage.uniform(0, 2 * np.pi)
    away = stage.uniform(0.55, 0.8) * (1 - stage.progress_T)
    cloth = layer(
        cloth_sprite(stage.rng),
        stage.frames,
        x=1.5 * x + away * np.cos(direction) + stage.path(0.006),
        y=y + 0.7 * away * np.sin(direction) + stage.path(0.006),
        size=size * stage.uniform(1.2, 1.35),
        angle=stage.uniform(-0.25, 0.25) + stage.path(0.05),
    )
    return [stage.put(stage.objects[0], x=1.5 * x, y=y, size=size), cloth]


def turn_over(stage: Stage) -> list[SceneLayer]:
    """Half a turn either way round; the object stands upright to begin with."""
    x, y = stage.place()
    angle = stage.uniform(-0.15, 0.15) + stage.sign() * np.pi * stage.progress_T
    item = stage.put(stage.objects[0], x=1.5 * x, y=y, size=stage.uniform(0.34, 0.45), angle=angle)
    return stage.maybe_held(item)


def pile(stage: Stage) -> list[SceneLayer]:
    x, y = stage.place()
    size = stage.uniform(0.24, 0.3)
    count = int(stage.rng.integers(3, 5))
    mirrored = stage.sign() > 0
    return [
        stage.put(
            stage.objects[0],
            x=1.5 * x + stage.uniform(-0.03, 0.03),
            y=y + 0.22 - 0.66 * size * k,
            size=size,
            mirrored=mirrored,
        )
        for k in range(count)
    ]


def show_photo(stage: Stage) -> list[SceneLayer]:
    x, y = stage.place()
    size = stage.uniform(0.5, 0.62)
    photo = layer(
        photo_sprite(stage.objects[0], stage.rng),
        stage.frames,
        x=1.5 * x + stage.path(0.008),
        y=y - 0.06 + stage.path(0.008),
        size=size,
        angle=stage.uniform(-0.2, 0.2) + stage.path(0.02),
    )
    side = stage.sign()
    return [
        photo,
        stage.hand(
            "pinching-hand",
            x=photo.x_T + side * 0.4 * size,
            y=photo.y_T + 0.3 * size,
            mirrored=side < 0,
        ),
    ]


def squeeze(stage: Stage) -> list[SceneLayer]:
    """Flattened from the sides between two hands."""
    x, y = stage.place()
    size = stage.uniform(0.4, 0.48)
    # Drawn lying on its side, so that the height factor acts on the width.
    squash = np.clip(stage.uniform(0.38, 0.5) + stage.path(0.05), 0.25, 0.6)
    flat = stage.put(stage.objects[0], x=1.5 * x, y=y, size=size, squash=1.0)
    item = SceneLayer(
        np.ascontiguousarray(np.rot90(flat.sprite_HWC)),
        *_poses(flat, angle=np.pi / 2, squash_T=squash),
    )
    reach = 0.5 * size * squash + 0.1
    name = "backhand-index-pointing-left"
    left = stage.hand(name, x=item.x_T - reach, y=item.y_T, mirrored=True)
    right = stage.hand(name, x=item.x_T + reach, y=item.y_T, mirrored=False)
    return [item, left, right]


def _poses(item: SceneLayer, *, angle: float, squash_T: np.ndarray) -> tuple[np.ndarray, ...]:
    return item.x_T, item.y_T, item.size_T, item.angle_T + angle, squash_T


def on_top(stage: Stage) -> list[SceneLayer]:
    x, y = stage.place()
    size = stage.uniform(0.26, 0.32)
    supports = tuple(c for c in pool(PROP, training=stage.training) if c.concept not in NO_SUPPORT)
    support = stage.put(
        stage.choose(supports), x=1.5 * x, y=y + 0.2, size=stage.uniform(0.38, 0.44)
    )
    sprite = support.sprite_HWC
    top = support.y_T - 0.5 * support.size_T * sprite.shape[0] / max(sprite.shape[:2])
    return [support, stage.put(stage.objects[0], x=support.x_T, y=top - 0.4 * size, size=size)]


def behind(stage: Stage) -> list[SceneLayer]:
    """An object peeps out above and beside a larger one."""
    x, y = stage.place()
    back = stage.put(
        stage.objects[0],
        x=1.5 * x + stage.sign() * stage.uniform(0.1, 0.16),
        y=y - 0.14,
        size=stage.uniform(0.34, 0.4),
    )
    front = stage.put(stage.objects[1], x=1.5 * x, y=y + 0.1, size=stage.uniform(0.42, 0.5))
    return [back, front]


def in_front(stage: Stage) -> list[SceneLayer]:
    """A hand holds a small object before a large one."""
    x, y = stage.place()
    back = stage.put(stage.objects[1], x=1.5 * x, y=y - 0.04, size=stage.uniform(0.62, 0.75))
    front = stage.put(
        stage.objects[0], x=back.x_T + stage.uniform(-0.08, 0.08), y=back.y_T + 0.12, size=0.3
    )
    side = stage.sign()
    hand = stage.hand(
        "raised-hand", x=front.x_T + side * 0.1, y=front.y_T + 0.22, mirrored=side < 0
    )
    return [back, hand, front]


@dataclass(frozen=True)
class Action:
    """A class: its template, what happens, and in which order the frames of that are shown."""

    template: str
    play: Callable[[Stage], list[SceneLayer]]
    order: Literal["forward", "backward"] = "forward"
    subset: Literal["temporal", "static"] = "temporal"

    @property
    def name(self) -> str:
        return self.template.replace("[", "").replace("]", "")

    def arrange(self, frames_THWC: np.ndarray) -> np.ndarray:
        """The frames, in order or reversed."""
        return frames_THWC[::-1] if self.order == "backward" else frames_THWC


PAIRS = (
    (
        "Pushing [something] from left to right",
        "Pushing [something] from right to left",
        push_right,
    ),
    ("Moving [something] up", "Moving [something] down", move_up),
    (
        "Moving [something] towards the camera",
        "Moving [something] away from the camera",
        move_towards,
    ),
    (
        "Approaching [something] with your camera",
        "Moving away from [something] with your camera",
        approach_with_camera,
    ),
    (
        "Moving [something] and [something] closer to each other",
        "Moving [something] and [something] away from each other",
        move_closer,
    ),
    ("Covering [something] with [something]", "Uncovering [something]", cover),
    ("Turning [something] upside down", "Turning [something] upright", turn_over),
)
STATIC = (
    ("Piling [something] up", pile),
    ("Showing a photo of [something] to the camera", show_photo),
    ("Squeezing [something]", squeeze),
    ("Showing [something] on top of [something]", on_top),
    ("Showing [something] behind [something]", behind),
    ("Holding [something] in front of [something]", in_front),
)


def _actions() -> tuple[Action, ...]:
    found = [Action(template, play, subset="static") for template, play in STATIC]
    for first, second, play in PAIRS:
        found += [Action(first, play), Action(second, play, "backward")]
    return tuple(sorted(found, key=lambda action: action.name))


ACTIONS = _actions()
"""All classes; the position is the class id (alphabetical, as in SSv2)."""


def _reversals() -> tuple[tuple[str, str], ...]:
    forward = {action.play: action.name for action in ACTIONS if action.order == "forward"}
    return tuple(
        (forward[action.play], action.name) for action in ACTIONS if action.order == "backward"
    )


REVERSALS = _reversals()
"""Names of the classes that are each other's reversal, the one that is played forward first."""


def home_scene(label: int) -> str:
    """The panorama in which a class mostly plays. Two of the 18 serve a second class each, never
    its pair.
    """
    scenes = all_panoramas()
    # Step 5 is coprime to 18: alphabetical neighbours, which the pairs often are, land in unlike
    # scenes.
    return scenes[(5 * label + 2 * (label // len(scenes))) % len(scenes)]


def draw_scene(rule: SceneRule, label: int, rng: np.random.Generator, *, biased: bool) -> str:
    """The home scene with probability rho, else any of the 18 alike."""
    scenes = all_panoramas()
    at_home, other = rng.random() < rule.rho, scenes[rng.integers(len(scenes))]
    return home_scene(label) if biased and at_home else other


def render_clip(
    rule: SceneRule, action: Action, *, scene: str, rng: np.random.Generator, training: bool
) -> np.ndarray:
    """uint8 T H W 3: one clip. For the same random numbers, paired actions give the same frames
    in another order.
    """
    frames = int(rng.integers(rule.min_frames, rule.max_frames + 1))
    stage = Stage(rng, frames, rule, training=training)
    layers = action.play(stage)
    yaw = stage.uniform(*(TRAIN_YAWS if training else VALID_YAWS))
    plate = plate_of(
        scene, yaw=yaw, pitch=stage.uniform(-4, 8), height=rule.height, width=rule.width
    )
    exposure = np.float32(stage.uniform(0.8, 1.15))
    clip = render(
        cv2.convertScaleAbs(plate, alpha=float(exposure)),
        stage.camera(),
        [*stage.distractors(), *layers, *stage.foreground(layers)],
        height=rule.height,
        width=rule.width,
    )
    return np.ascontiguousarray(action.arrange(clip))


def placeholders(
    rule: SceneRule, action: Action, *, rng: np.random.Generator, training: bool
) -> list[str]:
    """The names of the objects that `render_clip` will show with the same random numbers."""
    frames = int(rng.integers(rule.min_frames, rule.max_frames + 1))
    stage = Stage(rng, frames, rule, training=training)
    names = [c.concept.replace("-", " ") for c in stage.objects]
    if action.play is cover and action.order == "forward":
        names[1] = "cloth"
    if action.play is on_top:
        names[1] = "support"
    return names[: action.template.count("[")]
