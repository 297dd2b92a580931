"""Flow direction, L_flow: tokens must tell where their patch moves (TIME's token-level task).

    q = W_q z[t+1],  k = W_k z[t],  v = W_v z[t]
    L_flow = CE_smoothed(W_o norm(W_p softmax(q k' / sqrt D) v), direction)

averaged over clips, pairs of frames and patches.
z are the patch tokens after the final norm. The labels come from the clip itself: Farneback's dense
flow (2003) between consecutive frames, averaged over each patch, in 8 directions of 45 degrees (1..8,
clockwise from +x since y points down), and 0 for no motion. OpenCV computes it on the loader's
workers (`prepare`), or the device for whole batches (`prepare_batch`), so that the step need not wait
for workers; the two differ in about one label of 2000, of patches that hardly move.

As released: smoothing 0.2; flow of the clip after augmentation and cropping (so RandAugment's
colours and shears are in it); grey levels of the normalised frames times 128. "No motion" is
*relative*: less than `min_relative` of the way from the slowest to the fastest patch of that pair
of frames, so the slowest patch of every pair counts as still, and in a pair without motion all the
noise counts as moving. `min_pixels` adds an absolute threshold (with `min_relative: 0.0` the only
one): patches that move no further than this per frame are still.
"""

from __future__ import annotations

from itertools import pairwise

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from einops import reduce
from pydantic import Field
from torch import Tensor, nn

from bench import task
from bench.losses import smoothed_cross_entropy
from bench.metrics import accuracy, shares
from tasks.video._farneback import farneback, polar

VERSION = 1
RELEASED = {  # how its heads are called in released checkpoints
    "mlp_q.": "query.",
    "mlp_k.": "key.",
    "mlp_v.": "value.",
    "mlp_proj.": "proj.",
    "mlp_norm.": "norm.",
    "flow_head.": "head.",
}
NUM_DIRECTIONS = 8
# Rec. 601 luma, as in the release.
LUMA = np.array([0.299, 0.587, 0.114])
# Side of a frame in pixels below which Farneback's window of 15 blurs what moves into what does not:
# of 24 pixels, nobody has learned such labels (accuracy 0.15, commonest label 0.15).
SMALLEST = 64
# On a GPU so many pixels (of all frames) are in work at once: 10 clips of 8 x 224 x 224, 0.8 GiB.
PIXELS_AT_ONCE = 2**22


class Config(task.Config):
    weight: task.Weight = 1.0
    smoothing: float = Field(default=0.2, ge=0.0, lt=1.0)
    min_relative: float = Field(default=0.01, ge=0.0, le=1.0)  # of a pair's range of patch speeds
    min_pixels: float = Field(default=0.0, ge=0.0)  # per frame
    where: task.Where = "auto"  # are the labels computed: on the loader's workers, on the device


def skip(config: Config, model: task.ModelSpec, spec: task.DataSpec) -> str | None:
    """Flow needs two frames, whole patches, and frames that are large against Farneback's window."""
    if spec.media != "video" or model.frames < 2:
        return f"{spec.name} has no motion"
    if model.size % model.patch:
        return f"frames of {model.size} pixels do not divide into patches of {model.patch}"
    if model.size < SMALLEST:
        return f"frames of {model.size} pixels are too small for flow labels (at least {SMALLEST})"
    if model.tubelet > 1:
        return f"tokens of {model.tubelet} frames have no flow from one frame to the next"
    return None


def prepare(
    config: Config, model: task.ModelSpec, frames_THWC: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Labels int64 (T-1, N) of one augmented, cropped clip (uint8 RGB), N row-major over patches.

    `rng` is the interface's; nothing is random here.
    """
    flow_PNxy = patch_flow(frames_THWC, patch=model.patch, mean=model.mean, std=model.std)
    return directions(flow_PNxy, min_relative=config.min_relative, min_pixels=config.min_pixels)


def patch_flow(
    frames_THWC: np.ndarray,
    *,
    patch: int,
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
) -> np.ndarray:
    """Mean displacement (dx, dy) of each patch from frame to frame: float32 (T-1, N, 2), pixels."""
    # Workers are the parallelism; OpenCV's own threads only slow such small frames down.
    if cv2.getNumThreads() > 1:
        cv2.setNumThreads(0)
    grey_THW = _grey(frames_THWC, mean, std)
    flow_PHWxy = np.empty((len(grey_THW) - 1, *grey_THW.shape[1:], 2), dtype=np.float32)
    for (before, after), flow in zip(pairwise(grey_THW), flow_PHWxy, strict=True):
        cv2.calcOpticalFlowFarneback(
            before,
            after,
            flow,
            pyr_scale=0.5,
            levels=3,
            winsize=15,
            iterations=3,
            poly_n=5,
            poly_sigma=1.2,
            flags=0,
        )
    return reduce(flow_PHWxy, "t (h p) (w q) c -> t (h w) c", "mean", p=patch, q=patch)


def directions(flow_PNxy: np.ndarray, *, min_relative: float, min_pixels: float) -> np.ndarray:
    """Displacements float32 (P, N, 2) of P pairs of frames -> labels int64 (P, N).

    0 is still, 1..8 the direction: the label rule of the module docstring.
    """
    # OpenCV's polar coordinates, not numpy's: its angles are approximate (0.3 degrees), and the
    # release has them.
    speed_PN, angle_PN = cv2.cartToPolar(flow_PNxy[..., 0], flow_PNxy[..., 1], angleInDegrees=False)
    labels = _label(
        torch.from_numpy(speed_PN),
        torch.from_numpy(angle_PN),
        min_relative=min_relative,
        min_pixels=min_pixels,
    )
    return labels.numpy()


def _label(speed: Tensor, angle: Tensor, *, min_relative: float, min_pixels: float) -> Tensor:
    """Speeds (pixels) and angles (radians in [0, 2 pi]) of patches (..., N) -> int64, the same shape."""
    sector = (angle * 180 / np.pi).floor_divide(45).clamp(0, NUM_DIRECTIONS - 1).long()
    slowest = speed.amin(-1, keepdim=True).double()
    span = speed.amax(-1, keepdim=True) - slowest
    span = span.where(span > np.finfo(np.float64).eps, np.inf)
    moving = ((speed - slowest) / span >= min_relative) & (speed > min_pixels)
    return (sector + 1) * moving


def _grey(
    frames_THWC: np.ndarray, mean: tuple[float, float, float], std: tuple[float, float, float]
) -> np.ndarray:
    """Luma of the normalised frames times 128, float32 (T, H, W): one affine map of the bytes."""
    affine = np.array([_luma(mean, std)])
    rows = frames_THWC.reshape(-1, *frames_THWC.shape[2:]).astype(np.float32)
    return cv2.transform(rows, affine).reshape(frames_THWC.shape[:3])


def _luma(mean: tuple[float, float, float], std: tuple[float, float, float]) -> tuple[float, ...]:
    """Factors of R, G and B, and what is added."""
    scale = LUMA * 128 / np.asarray(std)
    return (*(scale / 255).tolist(), -float((scale * np.asarray(mean)).sum()))


# -- the same on the device ---


def prepare_batch(config: Config, model: task.ModelSpec, clip_BTHWC: Tensor) -> Tensor:
    """Labels int64 (B, T-1, N) of augmented, cropped clips (uint8 RGB, on any device).

    Those of `prepare`, but for about one label in 2000 (of patches that hardly move).
    """
    pixels = clip_BTHWC.shape[1:4].numel()
    # A CPU takes one clip at a time: its cache holds no more. Either way a clip's labels are its own.
    clips = max(1, PIXELS_AT_ONCE // pixels) if clip_BTHWC.is_cuda else 1
    return torch.cat([_labels(config, model, part) for part in clip_BTHWC.split(clips)])


def _labels(config: Config, model: task.ModelSpec, clip_BTHWC: Tensor) -> Tensor:
    red, green, blue, constant = _luma(model.mean, model.std)
    r, g, b = clip_BTHWC.unbind(-1)
    flow = farneback(r.float() * red + g.float() * green + b.float() * blue + constant)
    p = model.patch
    dx, dy = reduce(flow, "c b t (h p) (w q) -> c b t (h w)", "mean", p=p, q=p)
    return _label(*polar(dx, dy), min_relative=config.min_relative, min_pixels=config.min_pixels)


class Objective(task.Objective):
    """Single-head cross-attention from the later frame to the earlier one, and a linear head on it.

    `query`, `key`, `value`, `proj`, `norm`, `head` are `mlp_q`, `mlp_k`, `mlp_v`, `mlp_proj`,
    `mlp_norm`, `flow_head` of the released checkpoints.
    """

    config: Config

    def __init__(self, config: Config, model: task.ModelSpec) -> None:
        super().__init__(config, model)
        self.query = nn.Linear(model.dim, model.dim)
        self.key = nn.Linear(model.dim, model.dim)
        self.value = nn.Linear(model.dim, model.dim)
        self.proj = nn.Linear(model.dim, model.dim)
        self.norm = nn.LayerNorm(model.dim, eps=1e-6)
        self.head = nn.Linear(model.dim, 1 + NUM_DIRECTIONS)
        for linear in (self.query, self.key, self.value, self.proj, self.head):
            nn.init.trunc_normal_(linear.weight, std=0.02)
            nn.init.zeros_(linear.bias)

    def logits(self, features: task.Features) -> Tensor:
        """(B, T-1, N, 9)"""
        earlier, later = features.tokens_BTND[:, :-1], features.tokens_BTND[:, 1:]
        moved = F.scaled_dot_product_attention(
            self.query(later), self.key(earlier), self.value(earlier)
        )
        return self.head(self.norm(self.proj(moved)))

    def forward(
        self, step: task.Step, batch: task.Batch, features: task.Features
    ) -> tuple[Tensor, dict[str, Tensor]]:
        labels = batch.extras["video.flow"]  # what `prepare` returned, stacked: (B, T-1, N)
        logits = self.logits(features)
        loss = smoothed_cross_entropy(logits, labels, smoothing=self.config.smoothing)
        return loss, {
            "accuracy": accuracy(logits, labels),
            "shares": shares(labels, logits.shape[-1]),
        }
