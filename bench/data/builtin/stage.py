"""One clip before it is rendered: its objects, progress, camera and props, all from one random
generator.

`actions` directs on this stage, `scenes` draws the result. Objects of held-out clips come from
concepts that training clips never show.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from bench.data.builtin.cutouts import IN9_CLASSES, Cutout, all_cutouts
from bench.data.builtin.disturbances import occluder_of, paced, pan
from bench.data.builtin.scenes import Camera, SceneLayer, layer, portion, sprite_of, wobble

HANDS = ("backhand-index-pointing-left", "pinching-hand", "raised-hand")
HELD_OUT = 4  # one concept in so many is kept from training


@dataclass(frozen=True)
class SceneRule:
    """What the rendered clips depend on; the fields are explained in mini_ssv2.Config."""

    seed: int
    rho: float
    height: int
    min_frames: int
    max_frames: int
    jitter: float
    distractors: int
    occlusion: float
    speed: float
    camera: float

    @property
    def width(self) -> int:
        return round(self.height * 4 / 3)


def held_out(kind: str) -> frozenset[str]:
    """The concepts of a kind that only held-out clips show, of `tune` and of `test` (hands are nobody's
    object and serve all).
    """
    concepts = sorted({c.concept for c in all_cutouts() if c.kind == kind} - set(HANDS))
    return frozenset(concepts[1::HELD_OUT])


@functools.cache
def pool(kind: str, *, training: bool) -> tuple[Cutout, ...]:
    """The cut-outs of a kind on one side of the split, in all styles."""
    kept = held_out(kind)
    return tuple(
        c
        for c in all_cutouts()
        if c.kind == kind and c.concept not in HANDS and (c.concept in kept) != training
    )


class Stage:
    """The random circumstances of one clip: its objects, its progress over time, its camera."""

    def __init__(
        self, rng: np.random.Generator, frames: int, rule: SceneRule, *, training: bool
    ) -> None:
        self.rng = rng
        # Streams beside `rng`, which spawning leaves where it is: an option that is off draws nothing,
        # and one that is set moves no number of anything else.
        self._of_speed, self._of_camera, self._of_occlusion = rng.spawn(3)
        self.frames = frames
        self.rule = rule
        self.training = training
        self.objects = tuple(self.another_object() for _ in range(2))
        self.zoom_T = np.ones(frames)
        # The action fills a random part of the clip and may start and end slowly.
        linear = portion(rng, frames)
        if rule.speed > 0:
            linear = paced(self._of_speed, linear, rule.speed)
        self.progress_T = linear + rng.uniform(0, 1) * (linear * linear * (3 - 2 * linear) - linear)

    def another_object(self) -> Cutout:
        kind = IN9_CLASSES[self.rng.integers(len(IN9_CLASSES))]
        return self.choose(pool(kind, training=self.training))

    def choose(self, cutouts: tuple[Cutout, ...]) -> Cutout:
        return cutouts[self.rng.integers(len(cutouts))]

    def uniform(self, low: float, high: float) -> float:
        return float(self.rng.uniform(low, high))

    def sign(self) -> int:
        return int(self.rng.integers(2)) * 2 - 1

    def path(self, scale: float) -> np.ndarray:
        """A small unsteady motion."""
        return scale * self.rule.jitter * wobble(self.rng, self.frames)

    def put(
        self,
        cutout: Cutout,
        *,
        x: np.ndarray | float,
        y: np.ndarray | float,
        size: np.ndarray | float,
        angle: np.ndarray | float = 0.0,
        squash: np.ndarray | float = 1.0,
        mirrored: bool | None = None,
    ) -> SceneLayer:
        """A layer showing the cut-out, held by an unsteady hand; mirrored at random unless told."""
        mirrored = self.sign() > 0 if mirrored is None else mirrored
        pixels = float(np.max(size)) * float(self.zoom_T.max()) * self.rule.height
        return layer(
            sprite_of(cutout, pixels, mirrored=mirrored),
            self.frames,
            x=x + self.path(0.006),
            y=y + self.path(0.006),
            size=size,
            angle=angle + self.path(0.02),
            squash=squash,
        )

    def hand(
        self, name: str, *, x: np.ndarray | float, y: np.ndarray | float, mirrored: bool
    ) -> SceneLayer:
        hands = tuple(c for c in all_cutouts() if c.concept == name)
        return self.put(self.choose(hands), x=x, y=y, size=0.24, mirrored=mirrored)

    def maybe_held(self, item: SceneLayer) -> list[SceneLayer]:
        """The item, half of the time with a hand that holds it from below and so moves with it."""
        if self.sign() < 0:
            return [item]
        side = self.sign()
        x, y = item.x_T + side * 0.25 * item.size_T, item.y_T + 0.42 * item.size_T
        return [item, self.hand("pinching-hand", x=x, y=y, mirrored=side < 0)]

    def place(self) -> tuple[float, float]:
        return self.uniform(-0.15, 0.15), self.uniform(0.0, 0.16)

    def camera(self) -> Camera:
        """A hand-held camera that also drifts one way: position alone does not give the object's
        motion away. With `camera` it also swings, whatever the object does.
        """
        drift = self.rule.jitter * self.rng.uniform(-0.14, 0.14, size=2) * (1.0, 0.5)
        ramp = np.linspace(-1, 1, self.frames)
        x_T, y_T = drift[0] * ramp, drift[1] * ramp
        if self.rule.camera > 0:
            across, along = pan(self._of_camera, self.frames, self.rule.camera)
            x_T, y_T = x_T + across, y_T + along
        return Camera(
            x_T=x_T + self.path(0.015),
            y_T=y_T + self.path(0.012),
            zoom_T=self.zoom_T * np.exp(self.path(0.012)),
            roll_T=self.path(0.012),
        )

    def distractors(self) -> list[SceneLayer]:
        """Smaller objects that take no part; half of them drift in any direction."""
        ramp = np.linspace(-0.5, 0.5, self.frames)
        layers = []
        for _ in range(int(self.rng.integers(self.rule.distractors + 1))):
            way = self.uniform(0, 2 * np.pi)
            extent = self.uniform(0.2, 0.5) * int(self.rng.integers(2))
            x, y = self.uniform(-0.6, 0.6), self.uniform(-0.3, 0.35)
            layers.append(
                self.put(
                    self.another_object(),
                    x=x + extent * np.cos(way) * ramp,
                    y=y + 0.5 * extent * np.sin(way) * ramp,
                    size=self.uniform(0.15, 0.22),
                )
            )
        return layers

    def foreground(self, layers: Sequence[SceneLayer]) -> list[SceneLayer]:
        """With probability `occlusion` something that hides a part of one of the layers for a while."""
        rng = self._of_occlusion
        if rng.random() >= self.rule.occlusion:
            return []
        item = layers[int(rng.integers(len(layers)))]
        drawings = pool(IN9_CLASSES[rng.integers(len(IN9_CLASSES))], training=self.training)
        pixels = 0.5 * float(self.zoom_T.max()) * self.rule.height
        mirrored = bool(rng.integers(2))
        sprite = sprite_of(drawings[rng.integers(len(drawings))], pixels, mirrored=mirrored)
        return [occluder_of(rng, sprite, item)]


def cloth_sprite(rng: np.random.Generator) -> np.ndarray:
    """A striped or checked cloth with uneven edges, as a premultiplied sprite."""
    n = 64
    colours = rng.uniform(30, 230, size=(2, 3)).astype(np.float32)
    period, tilt = rng.uniform(8, 24), rng.uniform(0, np.pi)
    row, column = np.mgrid[:n, :n].astype(np.float32)
    along = column * np.cos(tilt) + row * np.sin(tilt)
    across = -column * np.sin(tilt) + row * np.cos(tilt)
    stripes = (along % period < period / 2) ^ (
        (across % period < period / 2) & (rng.random() < 0.5)
    )
    image = np.where(stripes[..., None], colours[0], colours[1])
    wave = 2.5 * np.sin(2 * np.pi * (row / n * rng.uniform(1, 3) + rng.random()))
    alpha = ((column > 4 + wave) & (column < n - 5 + wave) & (row > 3) & (row < n - 4)).astype(
        np.float32
    )
    return _premultiplied(image, cv2.GaussianBlur(alpha, (3, 3), 0))


def photo_sprite(cutout: Cutout, rng: np.random.Generator) -> np.ndarray:
    """A framed print of the object on a plain ground, as a premultiplied sprite."""
    n = 72
    image = np.empty((n, n, 3), np.float32)
    image[:] = rng.uniform((60, 30, 10), (150, 110, 90))  # a wooden frame
    image[6:-6, 6:-6] = 245  # the white margin
    image[12:-12, 12:-12] = rng.uniform(120, 230, size=3)
    sprite = sprite_of(cutout, 40)
    rows, columns = sprite.shape[:2]
    top, left = (n - rows) // 2, (n - columns) // 2
    region = image[top : top + rows, left : left + columns]
    region[:] = sprite[..., :3] + region * (1 - sprite[..., 3:])
    alpha = np.pad(np.ones((n - 2, n - 2), np.float32), 1)
    return _premultiplied(image, alpha)


def _premultiplied(image_HWC: np.ndarray, alpha_HW: np.ndarray) -> np.ndarray:
    return np.dstack([image_HWC * alpha_HW[..., None], alpha_HW]).astype(np.float32)
