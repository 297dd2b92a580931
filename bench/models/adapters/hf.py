"""Video classifiers of Hugging Face's transformers: `--model hf:<folder of save_pretrained>`.

    config.json -> the model's class and sizes; *processor*.json -> how frames must look
    model.safetensors | pytorch_model.bin -> its tensors, all of them and no others

The five classes of `AutoModelForVideoClassification`: TimeSformer, VideoMAE, ViViT, V-JEPA 2,
VideoPrism. The class is transformers' own and is built from the config here, never by
`from_pretrained`, which fills what is missing with random numbers. Of config.json only the fields of
that class are read: what would fetch or run code is not even seen.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from bench import task
from bench.config.science import Input
from bench.models.named import Asked, NamedModel
from bench.models.preprocessing import read_json, read_processor, understood
from bench.models.weights import misfits, read_tensors, state_dict_of
from bench.store.files import sha256_of

FORM = "<folder>: a video classifier that transformers saved"
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
SINCE = (5, 23)  # the version whose names of tensors are known to be right (VideoMAE's biases)
SHOWN = 12  # mistakes of a message
_Rearrange = Callable[[Tensor, int], Tensor]  # tokens of a clip, T' -> tokens_BTND


def _times_first(tokens_BLD: Tensor, times: int) -> Tensor:
    return rearrange(tokens_BLD, "b (t n) d -> b t n d", t=times)


def _patches_first(tokens_BLD: Tensor, times: int) -> Tensor:
    """TimeSformer's: class token, then all times of the first patch."""
    return rearrange(tokens_BLD[:, 1:], "b (n t) d -> b t n d", t=times)


def _after_class(tokens_BLD: Tensor, times: int) -> Tensor:
    return _times_first(tokens_BLD[:, 1:], times)


@dataclass(frozen=True)
class _Architecture:
    """What differs between the five."""

    config: str  # transformers' classes
    model: str
    frames: str = "num_frames"  # fields of the config
    size: str = "image_size"
    tokens: _Rearrange = _times_first


ARCHITECTURES = {  # model_type in config.json
    "timesformer": _Architecture(
        "TimesformerConfig", "TimesformerForVideoClassification", tokens=_patches_first
    ),
    "videomae": _Architecture("VideoMAEConfig", "VideoMAEForVideoClassification"),
    "vivit": _Architecture("VivitConfig", "VivitForVideoClassification", tokens=_after_class),
    "vjepa2": _Architecture(
        "VJEPA2Config", "VJEPA2ForVideoClassification", "frames_per_clip", "crop_size"
    ),
    "videoprism_vision_model": _Architecture(
        "VideoPrismVisionConfig", "VideoPrismForVideoClassification"
    ),
}


class SavedEncoder(nn.Module):
    """A `bench.task.Backbone`: the features that a model of transformers classifies."""

    def __init__(self, model: Any, architecture: _Architecture) -> None:
        super().__init__()
        self.model = model
        config = model.config
        tubelet = getattr(config, "tubelet_size", 1)
        frames, patch, _ = tubelet if isinstance(tubelet, list | tuple) else (tubelet, None, None)
        patch = patch or config.patch_size
        self.dim: int = config.hidden_size
        self.tubelet: int = frames
        self.patch: int = patch[0] if isinstance(patch, list | tuple) else patch
        self._tokens = architecture.tokens

    def call(self, clip_BTCHW: Tensor, **options: Any) -> Any:
        """The output of transformers' own forward."""
        return self.model(**{self.model.main_input_name: clip_BTCHW}, **options)

    def forward(self, clip_BTCHW: Tensor) -> task.Features:
        """What the classifier gets, and the tokens that it was made from."""
        kept: dict[str, Tensor] = {}

        def keep_feature(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            kept["cls"] = inputs[0].reshape(len(clip_BTCHW), -1)

        def keep_tokens(_: nn.Module, inputs: Any, output: Any) -> None:
            kept["tokens"] = output.last_hidden_state

        hooks = (
            self.model.classifier.register_forward_pre_hook(keep_feature),
            self.model.base_model.register_forward_hook(keep_tokens),
        )
        try:
            self.call(clip_BTCHW)
        finally:
            for hook in hooks:
                hook.remove()
        times = clip_BTCHW.shape[1] // self.tubelet
        return task.Features(kept["cls"], self._tokens(kept["tokens"], times))

    def stages(self, clip_BTCHW: Tensor) -> Iterator[Tensor]:
        """tokens_BTND of each of transformers' `hidden_states`, without the class token."""
        clips, frames = clip_BTCHW.shape[:2]
        times = frames // self.tubelet
        states = self.call(clip_BTCHW, output_hidden_states=True).hidden_states
        # VideoPrism encodes frames, then columns; the last state is a clip's, as all others are.
        spatial = 1 + getattr(self.model.config, "num_spatial_layers", -1)
        for number, state in enumerate(states):
            if number < spatial:
                yield rearrange(state, "(b t) n d -> b t n d", b=clips)
            elif spatial and number < len(states) - 1:
                yield rearrange(state, "(b n) t d -> b t n d", b=clips)
            else:
                yield self._tokens(state, times)


class SavedClassifier(nn.Module):
    """A `bench.task.Model`: a video classifier of transformers."""

    def __init__(self, backbone: SavedEncoder) -> None:
        super().__init__()
        self.backbone = backbone

    def encode(self, clip_BTCHW: Tensor, *, positions: bool = True) -> task.Features:
        if not positions:
            raise ValueError("models of transformers always add their position embeddings")
        return self.backbone(clip_BTCHW)

    def classify(self, features: task.Features) -> Tensor:
        return self.backbone.model.classifier(features.cls_BD)

    def forward(self, clip_BTCHW: Tensor) -> Tensor:
        """logits_BK, by transformers' own forward."""
        return self.backbone.call(clip_BTCHW).logits.reshape(len(clip_BTCHW), -1)


def load(name: str, asked: Asked) -> NamedModel:
    """The model in the folder `name`. ValueError with all that is wrong."""
    folder = Path(name)
    if not (folder / "config.json").is_file():
        raise ValueError(f"hf:{name}: no config.json there; name a folder of save_pretrained")
    raw = read_json(folder / "config.json")
    architecture = _architecture(folder / "config.json", raw)
    found = read_processor(folder)
    if found is None:
        raise ValueError(
            f"{folder} has no video_preprocessor_config.json or preprocessor_config.json, so nothing "
            "says how frames must be resized and normalised; copy it from where the weights are from"
        )
    shown = understood(folder / found[0], found[1])
    files = _weight_files(folder)
    state = _read(files)
    model = _built(folder / "config.json", raw, architecture, _classes(state, files[0]))
    _fill(model, state, files[0])
    frames, size = (getattr(model.config, key) for key in (architecture.frames, architecture.size))
    if size not in (shown.size, [shown.size] * 2, (shown.size,) * 2):
        raise ValueError(
            f"{folder / found[0]} shows {shown.size} x {shown.size} pixels, config.json's "
            f"{architecture.size} is {size}; one of them belongs to another checkpoint"
        )
    return NamedModel(
        model=SavedClassifier(SavedEncoder(model, architecture)).eval(),
        media="video",
        input=Input(frames=frames, size=shown.size, eval_scale=shown.scale),
        num_classes=model.config.num_labels,
        made_by={
            "sha256": _digest(files),
            "class": architecture.model,
            "frames": frames,
            "size": shown.size,
            "mean": shown.mean,
            "std": shown.std,
            "preprocessing": shown.record,
        },
        mean=shown.mean,
        std=shown.std,
        class_names=_class_names(folder / "config.json", raw, model.config.num_labels),
    )


def _transformers() -> Any:
    """The library, which looks nowhere but here. ValueError with the command that installs it."""
    remedy = f'pip install "transformers>={SINCE[0]}.{SINCE[1]}" (or the extra `hf` of this suite)'
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    try:
        library = importlib.import_module("transformers")
    except ImportError as error:
        raise ValueError(f"--model hf:<folder> needs transformers: {remedy}") from error
    if tuple(map(int, library.__version__.split(".")[:2])) < SINCE:
        raise ValueError(f"transformers {library.__version__} is too old for hf: {remedy}")
    return library


def _architecture(file: Path, raw: dict[str, Any]) -> _Architecture:
    """By the config's `model_type`. ValueError for everything that is no plain classifier of these."""
    wrong = []
    if raw.get("auto_map"):
        wrong.append(f"auto_map {raw['auto_map']}: code of its own, which is never run here")
    if raw.get("quantization_config"):
        wrong.append("quantization_config: quantised weights are not read; save them in float")
    kind = str(raw.get("model_type"))
    architecture = ARCHITECTURES.get(kind)
    if architecture is None:
        known = ", ".join(ARCHITECTURES)
        wrong.append(f"model_type {kind}: not a video classifier of transformers (known: {known})")
    elif raw.get("architectures", [architecture.model]) != [architecture.model]:
        wrong.append(f"architectures {raw['architectures']}: not a {architecture.model}")
    if wrong or architecture is None:
        listed = "".join(f"\n  {mistake}" for mistake in wrong)
        raise ValueError(f"{file} asks for what cannot be done here:{listed}")
    return architecture


def _weight_files(folder: Path) -> list[Path]:
    """The file, or the parts that an index lists. ValueError when one is not there."""
    for name in WEIGHTS:
        if (folder / name).is_file():
            return [folder / name]
        index = folder / f"{name}.index.json"
        if index.is_file():
            listed = read_json(index).get("weight_map")
            names = sorted({str(n) for n in listed.values()}) if isinstance(listed, dict) else []
            parts = [folder / Path(part).name for part in names]  # never outside the folder
            if lacking := [str(part) for part in parts if not part.is_file()]:
                raise ValueError(f"{index} lists files that are not there: {', '.join(lacking)}")
            if parts:
                return parts
    raise ValueError(f"{folder} has no weights ({' or '.join(WEIGHTS)})")


def _read(files: list[Path]) -> dict[str, Tensor]:
    state: dict[str, Tensor] = {}
    for file in files:
        try:
            state |= state_dict_of(read_tensors(file))
        except ValueError as error:
            hint = "" if str(file) in str(error) else f"{file}: "
            raise ValueError(f"{hint}{error}") from error
    return state


def _digest(files: list[Path]) -> str:
    digests = [sha256_of(file) for file in files]
    return (
        digests[0] if len(digests) == 1 else hashlib.sha256("\n".join(digests).encode()).hexdigest()
    )


def _classes(state: dict[str, Tensor], file: Path) -> int:
    if "classifier.weight" not in state:
        raise ValueError(
            f"{file} has no classifier.weight: an encoder alone gives no logits; take a checkpoint "
            "that was trained to classify"
        )
    return len(state["classifier.weight"])


def _built(file: Path, raw: dict[str, Any], architecture: _Architecture, classes: int) -> Any:
    """transformers' own class, random, from those fields of the config that are this class's."""
    library = _transformers()
    config_class = getattr(library, architecture.config)
    own = {*config_class.__annotations__, "qkv_bias"} - {"model_type"}
    fields = {key: value for key, value in raw.items() if key in own}
    try:
        return getattr(library, architecture.model)(config_class(**fields, num_labels=classes))
    except Exception as error:  # of a config that somebody wrote, any
        raise ValueError(
            f"{file}: transformers cannot build a {architecture.model} of it "
            f"({type(error).__name__}: {error}); copy it from where the weights are from"
        ) from error


def _fill(model: Any, state: dict[str, Tensor], file: Path) -> None:
    """Load the tensors under the names that transformers saves. ValueError: all that do not fit."""
    saving = importlib.import_module("transformers.core_model_loading")
    own = model.state_dict()
    numbered = {key: torch.tensor(number) for number, key in enumerate(own)}
    saved = saving.revert_weight_conversion(model, numbered)
    names = {saved_as: list(own)[int(number)] for saved_as, number in saved.items()}
    ours = {names.get(key, key): tensor for key, tensor in state.items()}
    mistakes = misfits(own, ours)
    if len(ours) != len(state):
        mistakes.append("some tensors stand there twice, under an old and a new name")
    if mistakes:
        listed = "".join(f"\n  {mistake}" for mistake in mistakes[:SHOWN])
        more = f"\n  and {len(mistakes) - SHOWN} more" if len(mistakes) > SHOWN else ""
        raise ValueError(
            f"{file} does not fit the {type(model).__name__} of config.json:{listed}{more}\n"
            "Take both from one checkpoint, as save_pretrained wrote it."
        )
    model.load_state_dict(ours)


def _class_names(file: Path, raw: dict[str, Any], classes: int) -> tuple[str, ...] | None:
    """`id2label` in the order of the logits; None where it only counts (LABEL_0, LABEL_1, ...)."""
    given = raw.get("id2label")
    if given is None:
        return None
    names = {str(key): str(name) for key, name in given.items()} if isinstance(given, dict) else {}
    ids = [str(number) for number in range(classes)]
    if names.keys() != set(ids):
        raise ValueError(
            f"{file}: id2label names {len(names)} classes, not 0 to {classes - 1}, which the "
            "classifier has; correct it, or copy it from where the weights are from"
        )
    ordered = tuple(names[number] for number in ids)
    return None if all(re.fullmatch(r"LABEL_\d+", name) for name in ordered) else ordered


def example(folder: Path) -> str:
    """A VideoMAE of two small blocks and its processor, saved by transformers."""
    library = _transformers()
    config = library.VideoMAEConfig(
        image_size=16,
        patch_size=8,
        num_frames=4,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        num_labels=5,
        initializer_range=0.5,
    )
    library.VideoMAEForVideoClassification(config).save_pretrained(folder)
    size = {"height": 16, "width": 16}
    library.VideoMAEVideoProcessor(size={"shortest_edge": 18}, crop_size=size).save_pretrained(
        folder
    )
    return str(folder)
