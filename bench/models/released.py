"""Released checkpoints -> our modules, with nothing but the file given.

    file -> `read` (plain state dict) -> `describe` (backbone, sizes) -> `build` (model, heads)

These are the TIME authors' checkpoints, those of the backbones' own authors, and what Hugging
Face's `save_pretrained` writes. Which backbone a state dict belongs to, and how its tensors are
named there, each backbone's own file says (`recognise` and what goes with it in
`bench.task.BackboneModule`); a backbone without these functions was never released.

The auxiliary heads carry the same names in all three models of TIME: each objective's file says which are
its own (`RELEASED`: released prefix -> prefix in its module).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from bench import find
from bench.config.mistakes import Mistake, Mistakes
from bench.config.science import parse_options
from bench.models.classifier import Classifier
from bench.models.preprocessing import read_json, read_processor
from bench.models.weights import load_checked, load_fitted, read_tensors, state_dict_of
from bench.task import BackboneModule

# What `save_pretrained` of transformers writes into a folder.
SAVED_WEIGHTS = ("model.safetensors", "pytorch_model.bin")


@dataclass(frozen=True)
class Description:
    """What the tensors of a checkpoint say about the model they belong to."""

    backbone: str  # component name
    config: dict[str, Any]  # those fields of the backbone's Config that tensors show
    frames: int
    size: int  # pixels
    num_classes: int
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)  # of the frames it was trained on, RGB
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)


@dataclass(frozen=True)
class ReleasedWeights:
    """A released model under our names."""

    description: Description  # of the model that was built, with its whole config
    model: Classifier
    objectives: dict[str, dict[str, Tensor]] = field(default_factory=dict)  # name -> state dict


def weights_file(path: Path) -> Path:
    """The file itself, or the weights in a folder of `save_pretrained`. ValueError if none."""
    if not path.is_dir():
        return path
    for name in SAVED_WEIGHTS:
        if (path / name).is_file():
            return path / name
    raise ValueError(
        f"{path} is neither a run directory (it has no config.yaml) nor a folder of "
        f"save_pretrained (it has no {' or '.join(SAVED_WEIGHTS)})"
    )


def read(path: Path) -> dict[str, Tensor]:
    """State dict of a released file or folder; see `read_tensors` for what is refused, and how."""
    path = weights_file(Path(path))
    loaded = read_tensors(path)
    try:
        return plain(loaded)
    except ValueError as error:
        raise ValueError(f"{path} is not a released checkpoint: {error}") from error


def read_settings(path: Path) -> dict[str, Any]:
    """What stands in the JSON files that `save_pretrained` writes beside the weights; {} without.

    Model and image processor in one; which of it counts, `describe_settings` of the backbone knows.
    """
    folder = weights_file(Path(path)).parent
    processor = read_processor(folder)
    config = folder / "config.json"
    return (processor[1] if processor else {}) | (read_json(config) if config.is_file() else {})


def plain(loaded: Any) -> dict[str, Tensor]:
    """The state dict in what was read, with neither wrappers nor `module.` (`state_dict_of`).

    Of reference files, whose state dict carries the prefix `weights/`, the other entries are
    dropped.
    """
    state = state_dict_of(loaded)
    if any(key.startswith("weights/") for key in state):
        state = {
            k.removeprefix("weights/"): v for k, v in state.items() if k.startswith("weights/")
        }
    return state


def describe(
    state: dict[str, Tensor],
    *,
    heads: int | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Description:
    """Backbone, sizes and class count of a plain state dict.

    Head counts are not in the tensors: `heads`, else what `settings` (see `read_settings`) say,
    else 64 channels per head. Raises ValueError for a state dict that no backbone recognises, that
    is not whole, or that has no classifier.
    """
    name = _backbone(state)
    module: BackboneModule = find.load("backbone", name)
    try:
        _, head = module.from_released(_without_auxiliary(state))
        found = module.describe_released(state, heads=heads)
    except KeyError as error:
        raise ValueError(f"this {name} is not whole: it has no {error.args[0]}") from error
    if "weight" not in head:
        raise ValueError(
            f"this {name} has no classifier, so there is nothing to evaluate; take a checkpoint "
            "that was trained to classify"
        )
    describe_settings = find.optional("backbone", name, "describe_settings")
    if settings and describe_settings:
        more = describe_settings(settings)
        config = found["config"] | more.get("config", {})
        found = found | more | {"config": config | ({} if heads is None else {"heads": heads})}
    return Description(backbone=name, num_classes=head["weight"].shape[0], **found)


def load(
    state: dict[str, Tensor],
    *,
    heads: int | None = None,
    frames: int | None = None,
    size: int | None = None,
    settings: Mapping[str, Any] | None = None,
    **overrides: Any,
) -> ReleasedWeights:
    """`describe` and `build` in one; `overrides` are fields of the backbone's Config."""
    found = describe(state, heads=heads, settings=settings)
    return build(state, found, overrides, frames=frames, size=size)


def build(
    state: dict[str, Tensor],
    found: Description,
    overrides: Mapping[str, Any],
    *,
    frames: int | None = None,
    size: int | None = None,
) -> ReleasedWeights:
    """Build the model that `describe` found in a plain state dict, and fill it; strict about every
    tensor.

    `frames` and `size` interpolate the embeddings to another clip than the released one;
    `overrides` are further fields of the backbone's Config (`drop_path: 0.0`), and Mistakes lists
    all that is wrong with them. What tensors do not show must be right: nothing can check it.
    """
    module: BackboneModule = find.load("backbone", found.backbone)
    config = _config(found, overrides)
    built = replace(
        found,
        config=config.model_dump(mode="json"),
        frames=frames or found.frames,
        size=size or found.size,
    )
    backbone = module.build(config, frames=built.frames, size=built.size)
    backbone_state, head_state = module.from_released(_without_auxiliary(state))
    load_fitted(backbone, backbone_state)
    model = Classifier(backbone, found.num_classes)
    load_checked(model.head, head_state)
    return ReleasedWeights(built, model, _auxiliary(state))


def _config(found: Description, overrides: Mapping[str, Any]) -> Any:
    """The backbone's Config. Raises Mistakes."""
    mistakes = [
        Mistake((found.backbone, key), "a released checkpoint brings its own weights; leave it out")
        for key in ("init", "init_sha256")
        if overrides.get(key) is not None
    ]
    try:
        config = parse_options("backbone", found.backbone, {**found.config, **overrides})
    except Mistakes as error:
        mistakes += error.mistakes
    if mistakes:
        raise Mistakes(mistakes)
    return config


def _backbone(state: dict[str, Tensor]) -> str:
    offered = {
        name: find.optional("backbone", name, "recognise") for name in find.names("backbone")
    }
    known = {name: recognise for name, recognise in offered.items() if recognise}
    matches = [name for name, recognise in known.items() if recognise(state)]
    if len(matches) != 1:
        whys = [find.optional("backbone", name, "why_not") for name in known]
        reasons = [why_not(state) for why_not in whys if why_not]
        raise ValueError(
            f"these tensors match {matches or 'no released model'} (known: {', '.join(known)}); "
            f"they begin with {', '.join(list(state)[:5])}"
            + "".join(f"\n  {reason}" for reason in reasons if reason)
        )
    return matches[0]


def _without_auxiliary(state: dict[str, Tensor]) -> dict[str, Tensor]:
    prefixes = tuple(prefix for heads in _released_heads().values() for prefix in heads)
    return {k: v for k, v in state.items() if not k.startswith(prefixes)}


def _auxiliary(state: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Objective name -> state dict of its heads, for those it was trained with."""
    parts: dict[str, dict[str, Tensor]] = {}
    for objective, heads in _released_heads().items():
        for released, ours in heads.items():
            for key in (key for key in state if key.startswith(released)):
                parts.setdefault(objective, {})[ours + key.removeprefix(released)] = state[key]
    return parts


def _released_heads() -> dict[str, Mapping[str, str]]:
    """Objective -> how the tensors of its heads begin in released checkpoints -> and in its module."""
    names = find.names("objective")
    return {name: find.optional("objective", name, "RELEASED") for name in names}
