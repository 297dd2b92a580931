"""What can make a clip harder to read: changes of speed, a panning camera, something in the foreground.

Asked for by `Stage`, each from a random generator of its own. All three are drawn without looking at the
class, and as often as their mirror image in time: played backwards, they are as likely as played
forwards. So a temporal pair stays one distribution of clips in two orders, and nothing here says which.
"""

from __future__ import annotations

import cv2
import numpy as np

from bench.data.builtin.scenes import SceneLayer, layer, portion

_STEPS = 256  # of the way through an action, at which its speed is known
_PAUSE = 0.3  # the longest, as a share of the action's time
_BLUR = 0.035  # of what is in front of the plane in focus, as a share of its long side


def paced(rng: np.random.Generator, linear_T: np.ndarray, strength: float) -> np.ndarray:
    """The way from 0 to 1, not evenly but faster and slower, with a pause."""
    along = (np.arange(_STEPS) + 0.5) / _STEPS
    frequency = rng.uniform(0.5, 2.5, size=(3, 1))
    phase = rng.uniform(0, 1, size=(3, 1))
    waves = 0.5 * np.sin(2 * np.pi * (frequency * along + phase)).sum(0)
    pause = rng.uniform(0, _PAUSE) * min(strength, 1.0)
    middle = pause / 2 + rng.uniform(0, 1) * (1 - pause)
    waves[np.abs(along - middle) < pause / 2] = -np.inf
    speed = np.exp(strength * (waves - waves.max()))
    covered = np.concatenate([[0.0], np.cumsum(speed)])
    return np.interp(linear_T, np.linspace(0, 1, _STEPS + 1), covered / covered[-1])


def pan(rng: np.random.Generator, frames: int, strength: float) -> tuple[np.ndarray, np.ndarray]:
    """Where the camera looks (x, y) as it swings in any direction, mostly sideways, at a time of its own."""
    linear = portion(rng, frames)
    swing = 2 * linear * linear * (3 - 2 * linear) - 1
    way, reach = rng.uniform(0, 2 * np.pi), strength * rng.uniform(0.12, 0.3)
    return reach * np.cos(way) * swing, 0.5 * reach * np.sin(way) * swing


def occluder_of(rng: np.random.Generator, sprite_HWC: np.ndarray, item: SceneLayer) -> SceneLayer:
    """Something near the camera and out of focus, before a part of the item at one moment of the clip: it
    stays there, and whatever moves passes behind it, or it passes by itself.
    """
    frames = len(item.x_T)
    meets = int(rng.integers(frames // 4, frames - frames // 4))
    size = float(np.clip(item.size_T[meets] * rng.uniform(0.8, 1.1), 0.25, 0.5))
    beside, angle = item.size_T[meets] * rng.uniform(0.2, 0.4), rng.uniform(0, 2 * np.pi)
    passing = int(rng.integers(2)) * (int(rng.integers(2)) * 2 - 1) * rng.uniform(1.4, 2.4)
    travelled = passing * (np.arange(frames) - meets) / (frames - 1)
    blurred, margin = _out_of_focus(sprite_HWC)
    return layer(
        blurred,
        frames,
        x=item.x_T[meets] + beside * np.cos(angle) + travelled,
        y=item.y_T[meets] + beside * np.sin(angle),
        size=size * margin,
    )


def _out_of_focus(sprite_HWC: np.ndarray) -> tuple[np.ndarray, float]:
    """The blurred sprite with room for its soft edge, and how much longer its long side became."""
    before = max(sprite_HWC.shape[:2])
    sigma = _BLUR * before
    rim = int(np.ceil(2 * sigma))
    wider = cv2.copyMakeBorder(sprite_HWC, rim, rim, rim, rim, cv2.BORDER_CONSTANT, value=[0] * 4)
    return cv2.GaussianBlur(wider, (0, 0), sigma), (before + 2 * rim - 2) / (before - 2)
