"""Checkpoints of the TIME authors' release -> our modules, with nothing but the file given.

    file -> `read` (plain state dict) -> `describe` (backbone, sizes) -> `load` (model, heads)

Which backbone a state dict belongs to, and how its tensors are named there, each backbone's own
file says through `recognise`, `describe_released`, `from_released` and `load_released`; a backbone
without them was never released. The auxiliary heads carry the same names in all three released
models, so their mapping is here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from bench import find
from bench.models.classifier import Classifier
from bench.models.layers import load_checked

# Released prefix -> (objective, prefix in that objective's module).
AUXILIARY = {
    "temp_head.": ("video.order", "head."),
    "mlp_q.": ("video.flow", "query."),
    "mlp_k.": ("video.flow", "key."),
    "mlp_v.": ("video.flow", "value."),
    "mlp_proj.": ("video.flow", "proj."),
    "mlp_norm.": ("video.flow", "norm."),
    "flow_head.": ("video.flow", "head."),
}


@dataclass(frozen=True)
class Description:
    """What the tensors of a checkpoint say about the model they belong to."""

    backbone: str  # component name
    config: dict[str, Any]  # those fields of the backbone's Config that tensors show
    frames: int
    size: int  # pixels
    num_classes: int


@dataclass(frozen=True)
class Released:
    """A released model under our names."""

    description: Description
    model: Classifier
    objectives: dict[str, dict[str, Tensor]] = field(default_factory=dict)  # name -> state dict


def read(path: Path) -> dict[str, Tensor]:
    """State dict of a released file: safetensors, or a pickle of tensors and plain data only."""
    if Path(path).suffix == ".safetensors":
        return plain(load_file(path))
    return plain(torch.load(path, map_location="cpu", weights_only=True))


def plain(loaded: dict[str, Any]) -> dict[str, Tensor]:
    """Undo what training scripts wrap around a state dict.

    That is `{"model_state": ...}`, the `module.` of data-parallel training, and the `weights/` of
    reference files, whose other entries are dropped.
    """
    state = loaded.get("model_state", loaded)
    if any(key.startswith("weights/") for key in state):
        state = {
            k.removeprefix("weights/"): v for k, v in state.items() if k.startswith("weights/")
        }
    state = {key.removeprefix("module."): value for key, value in state.items()}
    if not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError("not a released checkpoint: no state dict, and no model_state that is one")
    return state


def describe(state: dict[str, Tensor], *, heads: int | None = None) -> Description:
    """Backbone, sizes and class count of a plain state dict.

    Head counts are not in the tensors: 64 channels per head unless `heads` is given. Raises
    ValueError for a state dict that no backbone recognises.
    """
    name, module = _backbone(state)
    _, head = module.from_released(_without_auxiliary(state))
    return Description(
        backbone=name,
        num_classes=head["weight"].shape[0],
        **module.describe_released(state, heads=heads),
    )


def load(
    state: dict[str, Tensor],
    *,
    heads: int | None = None,
    frames: int | None = None,
    size: int | None = None,
    **overrides: Any,
) -> Released:
    """Build the model of a plain state dict and fill it; strict about every tensor.

    `frames` and `size` interpolate the embeddings to another clip than the released one;
    `overrides` are further fields of the backbone's Config (`drop_path=0.0`). The head count must
    be right: nothing can check it.
    """
    found = describe(state, heads=heads)
    module = find.load("backbone", found.backbone)
    config = module.Config(**{**found.config, **overrides})
    backbone = module.build(config, frames=frames or found.frames, size=size or found.size)
    backbone_state, head_state = module.from_released(_without_auxiliary(state))
    module.load_released(backbone, backbone_state)
    model = Classifier(backbone, found.num_classes)
    load_checked(model.head, head_state)
    return Released(found, model, _auxiliary(state))


def _backbone(state: dict[str, Tensor]) -> tuple[str, ModuleType]:
    known = [n for n in find.names("backbone") if hasattr(find.load("backbone", n), "recognise")]
    matches = [name for name in known if find.load("backbone", name).recognise(state)]
    if len(matches) != 1:
        raise ValueError(
            f"these tensors match {matches or 'no released model'} (known: {', '.join(known)}); "
            f"they begin with {', '.join(list(state)[:5])}"
        )
    return matches[0], find.load("backbone", matches[0])


def _without_auxiliary(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k: v for k, v in state.items() if not k.startswith(tuple(AUXILIARY))}


def _auxiliary(state: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Objective name -> state dict of its heads, for those it was trained with."""
    parts: dict[str, dict[str, Tensor]] = {}
    for released, (objective, ours) in AUXILIARY.items():
        for key in (key for key in state if key.startswith(released)):
            parts.setdefault(objective, {})[ours + key.removeprefix(released)] = state[key]
    return parts
