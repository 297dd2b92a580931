"""Renders composed clips: a panorama seen by a hand-held camera, with cut-outs moving in front of
it.

Used by `actions`, which says what moves how. World coordinates are in units of the frame height,
x to the right and y down, the origin in the middle of an unmoved frame. Whatever moves is an
array over the T frames of the clip.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from bench.data.builtin.cutouts import Cutout, load_cutout, load_panorama

PLATE_DEGREES = 80.0  # horizontal field of view of a plate
PLATE_SCALE = 1.63  # plate width / frame width: room for the camera to move
TRAIN_YAWS = (40.0, 200.0)  # plate centres; with 80 degrees they see azimuths 0 .. 240
VALID_YAWS = (280.0, 320.0)  # .. and these 240 .. 360, so no background pixel is in both


@dataclass(frozen=True)
class SceneLayer:
    """A cut-out on its way; `size_T` is the length of the sprite's long side."""

    sprite_HWC: np.ndarray  # float32 RGBA, premultiplied, 0 .. 255 (alpha 0 .. 1)
    x_T: np.ndarray
    y_T: np.ndarray
    size_T: np.ndarray
    angle_T: np.ndarray  # radians, clockwise
    squash_T: np.ndarray  # height factor; 1 keeps the aspect


@dataclass(frozen=True)
class Camera:
    """Where the camera looks (x, y), how close (zoom) and how tilted (roll, radians)."""

    x_T: np.ndarray
    y_T: np.ndarray
    zoom_T: np.ndarray
    roll_T: np.ndarray


def layer(
    sprite_HWC: np.ndarray,
    frames: int,
    *,
    x: np.ndarray | float,
    y: np.ndarray | float,
    size: np.ndarray | float,
    angle: np.ndarray | float = 0.0,
    squash: np.ndarray | float = 1.0,
) -> SceneLayer:
    """A layer from arrays or constants."""
    return SceneLayer(
        sprite_HWC,
        *(
            np.broadcast_to(np.asarray(v, np.float64), (frames,))
            for v in (x, y, size, angle, squash)
        ),
    )


@functools.lru_cache(maxsize=2048)
def _scaled(cutout: Cutout, pixels: int) -> np.ndarray:
    rgba = load_cutout(cutout).astype(np.float32)
    rgba[..., 3] /= 255
    rgba[..., :3] *= rgba[..., 3:]
    scale = pixels / max(rgba.shape[:2])
    size = (max(2, round(rgba.shape[1] * scale)), max(2, round(rgba.shape[0] * scale)))
    sprite = cv2.resize(rgba, size, interpolation=cv2.INTER_AREA)
    # A transparent rim keeps the border smooth when the sprite is rotated.
    sprite = cv2.copyMakeBorder(sprite, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=(0, 0, 0, 0))
    sprite.flags.writeable = False
    return sprite


def sprite_of(cutout: Cutout, pixels: float, *, mirrored: bool = False) -> np.ndarray:
    """The sprite of a cut-out, scaled down beforehand to about the `pixels` at which it will be
    drawn.
    """
    rounded = int(np.clip(8 * np.ceil(pixels / 8), 16, 128))  # few sizes, so that the cache hits
    sprite = _scaled(cutout, rounded)
    return np.ascontiguousarray(sprite[:, ::-1]) if mirrored else sprite


def plate_of(panorama: str, *, yaw: float, pitch: float, height: int, width: int) -> np.ndarray:
    """uint8 H' W' 3: a perspective view of a panorama, PLATE_SCALE times as large as the frame.
    Degrees.
    """
    rows, columns = round(height * PLATE_SCALE), round(width * PLATE_SCALE)
    focal = columns / 2 / np.tan(np.radians(PLATE_DEGREES / 2))
    x = (np.arange(columns, dtype=np.float32) - (columns - 1) / 2)[None, :] / np.float32(focal)
    y = (np.arange(rows, dtype=np.float32) - (rows - 1) / 2)[:, None] / np.float32(focal)
    sine, cosine = np.float32(np.sin(np.radians(pitch))), np.float32(np.cos(np.radians(pitch)))
    down, ahead = y * cosine + sine, cosine - y * sine  # the ray (x, y, 1), pitched downwards
    azimuth = np.degrees(np.arctan2(x, ahead)) + np.float32(yaw)
    elevation = np.degrees(np.arctan2(down, np.hypot(x, ahead)))
    image = load_panorama(panorama)
    map_x = azimuth * np.float32(image.shape[1] / 360)
    map_y = (elevation + 90) * np.float32(image.shape[0] / 180)
    return cv2.remap(image, map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)


def wobble(rng: np.random.Generator, frames: int) -> np.ndarray:
    """A smooth random path of about unit size, the unsteady hand: three slow waves, 12 fps."""
    t = np.arange(frames) / 12.0
    frequency = rng.uniform(0.15, 1.6, size=(3, 1))
    phase = rng.uniform(0, 2 * np.pi, size=(3, 1))
    amplitude = rng.uniform(0.3, 1.0, size=(3, 1)) / np.sqrt(frequency / 0.15)
    path: np.ndarray = (amplitude * np.sin(2 * np.pi * frequency * t + phase)).sum(0)
    return path


def portion(rng: np.random.Generator, frames: int) -> np.ndarray:
    """From 0 to 1, evenly, over a random part of the clip in its middle."""
    start, end = rng.uniform(0, 0.3), rng.uniform(0.7, 1)
    part: np.ndarray = np.clip((np.linspace(0, 1, frames) - start) / (end - start), 0, 1)
    return part


def rotation(angle: float) -> np.ndarray:
    sine, cosine = np.sin(angle), np.cos(angle)
    return np.array([[cosine, -sine], [sine, cosine]])


def render(
    plate: np.ndarray, camera: Camera, layers: Sequence[SceneLayer], *, height: int, width: int
) -> np.ndarray:
    """uint8 T H W 3: the plate and, in front of it in their order, the layers."""
    centre = np.array([(width - 1) / 2, (height - 1) / 2])
    plate_centre = np.array([(plate.shape[1] - 1) / 2, (plate.shape[0] - 1) / 2])
    frames = np.empty((len(camera.x_T), height, width, 3), np.uint8)
    for t, frame in enumerate(frames):
        position = np.array([camera.x_T[t], camera.y_T[t]])
        view = camera.zoom_T[t] * rotation(
            camera.roll_T[t]
        )  # world -> frame, without the factor `height`
        inverse = np.linalg.inv(view)
        offset = plate_centre + position * height - inverse @ centre
        cv2.warpAffine(
            plate,
            np.column_stack([inverse, offset]),
            (width, height),
            dst=frame,
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REFLECT_101,
        )
        for item in layers:
            sprite = item.sprite_HWC
            rows, columns = sprite.shape[:2]
            scale = item.size_T[t] / max(rows - 2, columns - 2)
            shape = np.diag([scale, scale * item.squash_T[t]])
            matrix = height * view @ rotation(item.angle_T[t]) @ shape
            at = height * view @ (np.array([item.x_T[t], item.y_T[t]]) - position) + centre
            _paste(frame, sprite, matrix, at - matrix @ [(columns - 1) / 2, (rows - 1) / 2])
    return frames


def _paste(frame: np.ndarray, sprite: np.ndarray, matrix: np.ndarray, offset: np.ndarray) -> None:
    """Draw one sprite into the frame: sprite pixel p goes to matrix @ p + offset. Works on its
    bounding box only.
    """
    rows, columns = sprite.shape[:2]
    corners = matrix @ [[0, columns, 0, columns], [0, 0, rows, rows]] + offset[:, None]
    low = np.maximum(np.floor(corners.min(1)).astype(int) - 1, 0)
    high = np.minimum(np.ceil(corners.max(1)).astype(int) + 2, (frame.shape[1], frame.shape[0]))
    if (high <= low).any():
        return
    patch = cv2.warpAffine(
        sprite, np.column_stack([matrix, offset - low]), tuple((high - low).tolist())
    )
    region = frame[low[1] : high[1], low[0] : high[0]]
    region[:] = patch[..., :3] + region * (1 - patch[..., 3:])
