"""Any image classifier of timm with its weights, offline: ViT, ResNet, EfficientNet, ...

    timm:<name>[@<weights file>] -> `load` -> Pretrained (model, normalisation, record of the file)

`bench.evaluate` wraps the model in `ImageClassifier`, which is what evaluations see. Nothing is
downloaded, nothing is loaded in part, and what was loaded is written down with tag and SHA-256:
weights have changed under the same name before.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

from einops import rearrange
from torch import Tensor, nn

from bench import task
from bench.models.weights import (
    find_weights,
    misfits,
    missing_weights,
    read_tensors,
    record_of,
    released_digest,
    require_timm_name,
    state_dict_of,
    timm_model,
)

SUFFIXES = (".safetensors", ".pth", ".bin")
SHOWN = 12  # mistakes of a message; of a file of another model, every tensor is one
# The last part of a tensor's name says what it is of its layer, whatever the layer is called.
PARTS = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


@dataclass(frozen=True)
class Pretrained:
    """A classifier of timm in eval mode, and what its images must look like."""

    model: nn.Module  # normalised images B C H W -> logits_BK
    mean: tuple[float, float, float]  # of the RGB channels in [0, 1]
    std: tuple[float, float, float]
    size: int  # H = W, pixels
    crop_pct: float  # share of the image's side that timm keeps when it evaluates
    num_classes: int  # K, of the file
    # name, tag (whose normalisation and size these are), file, sha256, by_position
    record: dict[str, Any]


class FrameEncoder(nn.Module):
    """A `bench.task.Backbone` that sees one frame at a time: an image model of timm."""

    tubelet = 1

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        timm_model: Any = model
        self.model = timm_model
        self.dim: int = timm_model.num_features
        self._lacks = _lacks(timm_model)

    def forward(self, clip_BTCHW: Tensor) -> task.Features:
        """The mean over frames of what timm classifies, and the last map of features.

        Raises ValueError where timm's model does not offer them.
        """
        self._require_features()
        frames_NCHW, shape = clip_BTCHW.flatten(0, 1), clip_BTCHW.shape[:2]
        features = self.model.forward_features(frames_NCHW)
        pooled_ND = self.model.forward_head(features, pre_logits=True)
        (last,) = self._maps(clip_BTCHW, indices=1, norm=True)
        return task.Features(pooled_ND.unflatten(0, shape).mean(dim=1), last)

    def stages(self, clip_BTCHW: Tensor) -> Iterator[Tensor]:
        """tokens_BTND after each of timm's blocks; of a CNN the map of each stage, its pixels as
        tokens, N and D as they are there.
        """
        self._require_features()
        yield from self._maps(clip_BTCHW, indices=None, norm=False)

    def _maps(self, clip_BTCHW: Tensor, **options: Any) -> list[Tensor]:
        frames_NCHW = clip_BTCHW.flatten(0, 1)
        maps = self.model.forward_intermediates(
            frames_NCHW, output_fmt="NCHW", intermediates_only=True, **options
        )
        times = clip_BTCHW.shape[1]
        return [rearrange(m, "(b t) d h w -> b t (h w) d", t=times) for m in maps]

    def _require_features(self) -> None:
        if self._lacks:
            raise task.NoFeatures(
                "this evaluation needs class feature and patch tokens, and this timm model gives "
                f"logits only: {self._lacks}"
            )


def _lacks(model: Any) -> str | None:
    """What keeps the features of a timm model from being read, or None."""
    if not hasattr(model, "forward_intermediates"):
        return "timm offers no intermediate features of it"
    if not isinstance(model.get_classifier(), nn.Linear):
        return "its classifier is not one linear layer"
    return None


class ImageClassifier(nn.Module):
    """A `bench.task.Model`: a classifier of timm, on images and, frame by frame, on clips."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.backbone = FrameEncoder(model)
        self.dim = self.backbone.dim

    def forward(self, clip_BTCHW: Tensor) -> Tensor:
        """logits_BK, the mean of those of the frames: the order of frames changes nothing. Where the
        classifier is linear they are also those of the mean feature.
        """
        logits_NK = self.backbone.model(clip_BTCHW.flatten(0, 1))
        return logits_NK.unflatten(0, clip_BTCHW.shape[:2]).mean(dim=1)

    def encode(self, clip_BTCHW: Tensor, *, positions: bool = True) -> task.Features:
        return self.backbone(clip_BTCHW)

    def classify(self, features: task.Features) -> Tensor:
        return self.backbone.model.get_classifier()(features.cls_BD)


def load(
    name: str, *, file: Path | None, folder: Path | None, by_position: bool = False
) -> Pretrained:
    """The timm model `name` (with or without tag) with its weights.

    `file` is the weight file, as it stands or in `folder`. Without it, `<name>.{safetensors,pth,
    bin}` in `folder` is taken, then what timm's own downloads left in its cache; a name without tag
    means timm's default tag. The classifier is as wide as the file's, everything else must be
    exactly timm's; mean and std are timm's too, unless the file brings its own. With `by_position`,
    a file whose names are others is taken in its own order, provided that number, kind and shape of
    all tensors agree. Raises ValueError otherwise.
    """
    require_timm_name(name)
    model = timm_model(name)
    tag = model.pretrained_cfg.get("tag") or ""
    path = _weight_file(name, tag, file, folder)
    try:
        state = state_dict_of(read_tensors(path))
    except ValueError as error:
        hint = "" if str(path) in str(error) else f"{path}: "
        raise ValueError(f"{hint}{error}") from error
    state, normalisation = _without_normaliser(state)
    classes = _classes(name, model, state, path)
    if classes != model.num_classes:
        model = timm_model(name, num_classes=classes)

    own = model.state_dict()
    ordered = False
    if mistakes := misfits(own, state):
        if converted := _converted(name, own, state, classes):
            state = converted
        elif (why_not := _why_not_in_order(own, state, path)) or not by_position:
            _refuse(name, path, mistakes, why_not=why_not, by_position=by_position)
        else:
            state, ordered = dict(zip(own, state.values(), strict=True)), True
    model.load_state_dict(state)
    described = _described(
        model.eval(),
        classes,
        record_of(f"{name.partition('.')[0]}.{tag}" if tag else name, path, released_digest(path))
        | {"by_position": ordered},
    )
    return replace(described, **normalisation)


def _without_normaliser(state: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """A model that was saved with its normalisation in front, as the Backgrounds Challenge's own
    checkpoints are (`normalizer.new_mean`, `model.conv1.weight`, ...) -> (the model's tensors,
    mean and std); (state, {}) of any other.
    """
    own = {f"normalizer.new_{name}": name for name in ("mean", "std")}
    inner = {k.removeprefix("model."): v for k, v in state.items() if k.startswith("model.")}
    if not own.keys() <= state.keys() or len(inner) + len(own) != len(state):
        return state, {}
    return inner, {name: tuple(state[key].flatten().tolist()) for key, name in own.items()}


def _described(model: nn.Module, classes: int, record: dict[str, Any]) -> Pretrained:
    from timm.data import resolve_model_data_config

    wanted = resolve_model_data_config(model)
    channels, height, width = wanted["input_size"]
    if channels != 3 or height != width:
        raise ValueError(
            f"{record['name']} takes {channels} x {height} x {width} images; square RGB is needed"
        )
    return Pretrained(
        model=model,
        mean=tuple(wanted["mean"]),
        std=tuple(wanted["std"]),
        size=height,
        crop_pct=wanted["crop_pct"],
        num_classes=classes,
        record=record,
    )


def _weight_file(name: str, tag: str, file: Path | None, folder: Path | None) -> Path:
    if file is not None:
        candidates = [file] if folder is None else [file, folder / file]
        for candidate in candidates:
            if candidate.is_file():
                return candidate
        looked = " and ".join(map(str, candidates))
        raise ValueError(f"no weight file {file} (looked for {looked}); check timm:{name}@FILE")
    # "resnet50" means the weights of one tag, and which one, timm says (it may change).
    full = name if "." in name or not tag else f"{name}.{tag}"
    for wanted in dict.fromkeys((name, full)):
        if path := find_weights(wanted, folder, suffixes=SUFFIXES):
            return path
    problem = missing_weights(full, folder, suffixes=SUFFIXES)
    raise ValueError(f"{problem}; or name the file: timm:{name}@FILE")


def _classes(name: str, model: Any, state: dict[str, Tensor], path: Path) -> int:
    """K, from the classifier in the file: by its name, else by its place among timm's tensors."""
    classifier = model.pretrained_cfg.get("classifier") or "head"
    key = f"{classifier if isinstance(classifier, str) else classifier[0]}.weight"
    own = list(model.state_dict())
    found = state.get(key)
    if found is None and key in own and len(own) == len(state):
        found = list(state.values())[own.index(key)]
    if found is not None and found.ndim:
        return len(found)
    if model.num_classes:
        return model.num_classes
    raise ValueError(
        f"{path} has no classifier ({key}), and timm's {name} is a feature extractor: take weights "
        "that were trained to classify"
    )


def _converted(
    name: str, own: dict[str, Tensor], state: dict[str, Tensor], classes: int
) -> dict[str, Tensor] | None:
    """The state dict as timm itself converts it, from the names of a model's authors; else None.

    timm would also interpolate what has another size without a word, and that is left to nobody
    here: a tensor of the right name and another shape is a mistake.
    """
    import timm

    if any(key in own and own[key].shape != tensor.shape for key, tensor in state.items()):
        return None
    given = {"state_dict": dict(state), "num_classes": classes}
    try:
        model = timm.create_model(
            name, pretrained=True, num_classes=classes, pretrained_cfg_overlay=given
        )
    except Exception:  # each architecture has a conversion of its own, which can fail with any
        return None
    return model.state_dict()


def _why_not_in_order(own: dict[str, Tensor], state: dict[str, Tensor], path: Path) -> str | None:
    """What speaks against the file's tensors being timm's own, in order; None when nothing does."""
    if path.suffix == ".safetensors":
        return "safetensors files do not keep the order of the tensors"
    if len(own) != len(state):
        return f"the file has {len(state)} tensors, the model {len(own)}"
    for (key, mine), (other, theirs) in zip(own.items(), state.items(), strict=True):
        kinds = key.rpartition(".")[2], other.rpartition(".")[2]
        if mine.shape != theirs.shape or (kinds[0] != kinds[1] and set(kinds) <= set(PARTS)):
            return f"in order, {other} {tuple(theirs.shape)} would become {key} {tuple(mine.shape)}"
    return None


def _refuse(
    name: str, path: Path, mistakes: list[str], *, why_not: str | None, by_position: bool
) -> NoReturn:
    """The one message about tensors that do not fit."""
    if why_not is None:
        remedy = (
            "The names are others, but number, kind and shape of all tensors agree in order; if "
            "this is that model, written by other code, add --by-position"
        )
    elif by_position:
        remedy = f"--by-position does not help: {why_not}"
    else:
        remedy = "Take the weights of exactly this model, or the name of the model of these weights"
    listed = "".join(f"\n  {mistake}" for mistake in mistakes[:SHOWN])
    more = f"\n  and {len(mistakes) - SHOWN} more" if len(mistakes) > SHOWN else ""
    raise ValueError(f"{path} does not fit timm's {name}:{listed}{more}\n{remedy}.")
