"""The released evaluator's procedure of the Backgrounds Challenge, written anew: for each foreground a
pass over the folder of backgrounds in file order, every JPEG decoded each time by loader processes,
composed on the host in floats, batches of 32, up to the first batch with a failure.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from bench.data.imagenet9 import FG_MASK, IN9_OF_IMAGENET
from bench.evaluate.context import EvaluationContext
from bench.speed._measuring import Tell
from bench.task import Samples

RELEASED_BATCH = 32


class _Backgrounds(Dataset[Tensor]):
    """Decoded at each access, C H W in [0, 1]."""

    def __init__(self, samples: Samples) -> None:
        self._samples = samples

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, i: int) -> Tensor:
        return _as_floats(self._samples.frames(i, np.zeros(1, np.int64))[0])


def _as_floats(image_HWC: np.ndarray) -> Tensor:
    return torch.from_numpy(image_HWC).permute(2, 0, 1).contiguous().float() / 255


@torch.no_grad()
def released_procedure(
    context: EvaluationContext, workers: int, tell: Tell
) -> tuple[dict[str, bool], int]:
    """Whether each foreground is vulnerable, and how many images went through the model."""
    loader = DataLoader(
        _Backgrounds(context.samples("only_bg_t")),
        batch_size=RELEASED_BATCH,
        num_workers=workers,
        pin_memory=context.device.type == "cuda",
    )
    verdicts: dict[str, bool] = {}
    passes = 0
    foregrounds = list(_each_foreground(context.samples("original")))
    for key, label, image_CHW, mask_1HW in foregrounds:
        verdicts[key] = False
        for backgrounds_NCHW in loader:
            mixed = backgrounds_NCHW * (1 - mask_1HW) + mask_1HW * image_CHW
            passes += len(mixed)
            if (_predicted(context, mixed) != label).any():
                verdicts[key] = True
                break
        tell(f"the released procedure: foreground {len(verdicts)}/{len(foregrounds)}")
    return verdicts, passes


def _each_foreground(samples: Samples) -> Iterator[tuple[str, int, Tensor, Tensor]]:
    for i in samples.with_layer(FG_MASK).tolist():
        image_CHW = _as_floats(samples.frames(i, np.zeros(1, np.int64))[0])
        mask_1HW = torch.from_numpy(samples.layer(i, FG_MASK))[None].float()
        yield samples.keys[i], int(samples.labels[i]), image_CHW, mask_1HW


def _predicted(context: EvaluationContext, images_NCHW: Tensor) -> np.ndarray:
    outputs = context.model_spec.num_classes
    assert context.as_stored is not None
    mean, std = (torch.tensor(v, device=context.device)[:, None, None] for v in context.as_stored)
    images = images_NCHW.to(context.device, non_blocking=True)
    top = context.model(((images - mean) / std)[:, None]).argmax(dim=-1).cpu().numpy()
    return IN9_OF_IMAGENET[top] if outputs == len(IN9_OF_IMAGENET) else top
