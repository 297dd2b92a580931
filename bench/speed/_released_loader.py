"""The TIME release's way from a video file to a training sample, written anew: the peer of
`bench.speed loader`.

Stage by stage, as the paper's code is described to work: every frame of the clip is decoded to RGB
(ffprobe and an ffmpeg process per sample, else PyAV), 8 are kept, timm's RandAugment runs on each
as a PIL image with the same draw, then float32, normalised, whole frames resized to the drawn short
side, one crop, and Farneback's flow on the cropped frames times 128.
"""

from __future__ import annotations

import io
import json
import shutil
import subprocess
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from PIL import Image
from torch import Tensor

from bench.config.science import Input
from bench.data import rand_augment

MEAN = STD = 0.5
LUMA = (0.299, 0.587, 0.114)


def has_ffmpeg() -> bool:
    """Whether the release's own decoder is on the PATH."""
    return all(shutil.which(program) for program in ("ffprobe", "ffmpeg"))


def decode_by_ffmpeg(path: Path) -> np.ndarray:
    """uint8 T H W 3: all frames, through a pipe from a process of their own."""
    probe = ["ffprobe", "-v", "error", "-select_streams", "v:0", "-of", "json"]
    probe += ["-show_entries", "stream=width,height", str(path)]
    found = subprocess.run(probe, check=True, capture_output=True)
    (stream,) = json.loads(found.stdout)["streams"]
    convert = ["ffmpeg", "-v", "error", "-i", str(path), "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    pixels = subprocess.run(convert, check=True, capture_output=True).stdout
    shape = (-1, stream["height"], stream["width"], 3)
    return np.frombuffer(pixels, np.uint8).reshape(shape)


def decode_by_pyav(data: bytes) -> np.ndarray:
    """uint8 T H W 3: all frames, on one thread."""
    import av

    with av.open(io.BytesIO(data), "r") as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        return np.stack([f.to_ndarray(format="rgb24") for f in container.decode(stream)])


def rand_augmented(
    frames_THWC: np.ndarray, spec: str, size: int, generator: np.random.Generator
) -> list[Image.Image]:
    """timm's operations on whole frames, one after the other."""
    images = [Image.fromarray(frame_HWC) for frame_HWC in frames_THWC]
    for step in rand_augment.draw(spec, size, int(generator.integers(2**32))):
        images = [_apply(step, image) for image in images]
    return images


def _apply(step: rand_augment.Drawn, image: Image.Image) -> Image.Image:
    if step.name.startswith("Posterize") and step.arguments[0] < 1:
        return Image.new("RGB", image.size)  # today's Pillow refuses 0 bits
    return step.on(image)


def cropped(images: list[Image.Image], config: Input, generator: np.random.Generator) -> Tensor:
    """float32 T 3 S S, normalised: jittered short side, one crop for all frames."""
    frames_THWC = torch.from_numpy(np.stack([np.asarray(image) for image in images]))
    normalised = (frames_THWC.float() / 255 - MEAN) / STD
    frames_TCHW = rearrange(normalised, "t h w c -> t c h w")
    low, high = config.jitter
    short = config.size / generator.uniform(1 / high, 1 / low)
    height, width = frames_TCHW.shape[2:]
    scale = short / min(height, width)
    size = (max(config.size, round(height * scale)), max(config.size, round(width * scale)))
    resized = F.interpolate(frames_TCHW, size, mode="bilinear", align_corners=False)
    top, left = (int(generator.integers(side - config.size + 1)) for side in size)
    return resized[:, :, top : top + config.size, left : left + config.size].contiguous()


def flow_labels(clip_TCHW: Tensor, patch: int) -> np.ndarray:
    """int64 (T-1, N): 0 where a patch moves by less than 1 % of its frame's range, else 1 + its
    direction in steps of 45 degrees.
    """
    red, green, blue = clip_TCHW.numpy().transpose(1, 0, 2, 3)
    grey_THW = (LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue) * 128
    labels = []
    for before, after in pairwise(grey_THW.astype(np.float32)):
        flow_HWxy = cv2.calcOpticalFlowFarneback(
            before,
            after,
            None,
            0.5,
            3,
            15,
            3,
            5,
            1.2,
            0,  # type: ignore[call-overload]
        )
        moved_Nxy = reduce(flow_HWxy, "(h p) (w q) c -> (h w) c", "mean", p=patch, q=patch)
        speed, angle = cv2.cartToPolar(moved_Nxy[:, 0], moved_Nxy[:, 1], angleInDegrees=True)
        speed, angle = speed.ravel(), angle.ravel()
        percent = (speed - speed.min()) * 100 / max(speed.max() - speed.min(), 1e-12)
        sector = np.clip(angle // 45, 0, 7).astype(np.int64)
        labels.append((sector + 1) * (np.floor(percent) > 0))
    return np.stack(labels)
