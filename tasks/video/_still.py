"""Still clips, and clips with a still frame mixed in: what the controls that train on them share."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from bench import task
from bench.data import views


def one_frame(step: task.Step, name: str, clip_BTCHW: Tensor) -> Tensor:
    """Each clip as one of its frames, repeated; the frame is drawn uniformly for each clip, by the
    random numbers of `name`.
    """
    B, T = clip_BTCHW.shape[:2]
    frames_B = np.array([rng.integers(T) for rng in step.rng(name, per_sample=True)])
    return views.show(clip_BTCHW, np.broadcast_to(frames_B[:, None], (B, T)).copy())


def mixed(clip_BTCHW: Tensor, still_BTCHW: Tensor, shares_B: np.ndarray) -> Tensor:
    """(1 - share) clip + share still, a share for each clip."""
    share = torch.from_numpy(shares_B).to(clip_BTCHW).view(-1, 1, 1, 1, 1)
    return torch.lerp(clip_BTCHW, still_BTCHW, share)


def of_the_neighbour(clip_BTCHW: Tensor) -> Tensor:
    """For each clip the next one of what is encoded together, the first after the last. Epochs are in
    random order, so it is a random other clip; a clip that is encoded alone is its own neighbour.
    """
    return clip_BTCHW.roll(-1, dims=0)
