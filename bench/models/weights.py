"""Weight files: reading them safely, and starting a backbone from an image model's.

Used by `bench/models/backbones/*.py` (image weights), `released.py` (whole checkpoints) and
`pretrained.py` (timm's classifiers). Nothing is ever downloaded, and no code in a file is ever run.
"""

from __future__ import annotations

import argparse
import difflib
import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from bench.models.layers import resize_positions, resize_times
from bench.store.files import sha256_of

WEIGHT_SUFFIXES = (".safetensors", ".pth", ".bin", ".npz")
# What training scripts call a state dict; averaged weights come first, as in timm.
WRAPPERS = ("state_dict_ema", "model_ema", "model_state", "state_dict", "model")


def load_checked(
    module: nn.Module,
    state: dict[str, Tensor],
    *,
    may_ignore: tuple[str, ...] = (),
) -> None:
    """Load a state dict; raise ValueError on any missing, unexpected or wrongly shaped tensor.

    Only keys that start with one of `may_ignore` may be surplus. The error lists all mistakes, and
    leaves the module untouched.
    """
    own = module.state_dict()
    if mistakes := misfits(own, state, may_ignore=may_ignore):
        raise ValueError(
            f"these weights do not fit {type(module).__name__}; change its config or the weights:"
            + "".join(f"\n  {mistake}" for mistake in mistakes)
        )
    module.load_state_dict({k: state[k] for k in own})


def misfits(
    own: Mapping[str, Tensor], state: Mapping[str, Tensor], *, may_ignore: tuple[str, ...] = ()
) -> list[str]:
    """Every missing, unexpected and wrongly shaped tensor of `state` beside a model's own."""
    mistakes = [f"missing {k}" for k in own if k not in state]
    mistakes += [f"unexpected {k}" for k in state if k not in own and not k.startswith(may_ignore)]
    mistakes += [
        f"{k} is {tuple(state[k].shape)}, the model needs {tuple(own[k].shape)}"
        for k in own
        if k in state and state[k].shape != own[k].shape
    ]
    return mistakes


def read_tensors(path: Path) -> Any:
    """What a weight file holds, on the CPU: safetensors, or a pickle of tensors and plain data.

    The first bytes tell the format, not the suffix, and no code in the file is ever run. Raises
    ValueError, with the remedy, for a file that is empty, cut off, not of weights, or that could be
    read only by running code.
    """
    start = _first_bytes(path)
    try:
        if start.endswith(b"{"):
            return load_file(path)
        # The arguments that many training scripts save: as harmless as a dict.
        with torch.serialization.safe_globals([argparse.Namespace]), path.open("rb") as file:
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle can fail with any
        needs = re.search(r"Unsupported (global: GLOBAL \S+|\w+ \d+)", str(error))
        if needs is None:
            cause = str(error).splitlines()[:1]
            raise ValueError(
                f"{path} is cut off or damaged; copy or download it again: {''.join(cause)}"
            ) from error
        raise ValueError(
            f"{path} holds more than tensors and plain data ({needs[0]}), and code in it is never "
            "run here. Load it with the program that wrote it, and save the state dict alone: "
            'torch.save({"model_state": model.state_dict()}, "weights.pth")'
        ) from error


def released_digest(path: Path, known: str = "") -> str:
    """SHA-256 of a weight file. Raises ValueError where it does not begin with what is known of it:
    `known`, or its name in Hugging Face's cache, where large files are called by their digest.
    """
    digest, blob = sha256_of(path), path.resolve()
    if blob.parent.name == "blobs" and re.fullmatch(r"[0-9a-f]{64}", blob.name):
        known = blob.name
    if digest.startswith(known):
        return digest
    raise ValueError(
        f"{path} is damaged: its SHA-256 is {digest}, and that of the file that was released begins "
        f"with {known}; delete it and download it again"
    )


def _first_bytes(path: Path) -> bytes:
    """The 9 bytes that tell the format. Raises ValueError when they are those of no weight file."""
    with path.open("rb") as file:
        start = file.read(64)
    if not start:
        raise ValueError(f"{path} is empty; copy or download it again")
    if start.startswith(b"version https://git-lfs"):
        raise ValueError(f"{path} is a Git LFS pointer, not the weights; run `git lfs pull` there")
    zipped, pickled = start.startswith(b"PK"), start.startswith(b"\x80")
    if not (zipped or pickled or start[5:9] == b"\0\0\0{"):  # safetensors: header length, JSON
        raise ValueError(
            f"{path} is not a weight file: it begins with {start[:20]!r}; safetensors or a file of "
            "torch.save is needed"
        )
    return start[:9]


def state_dict_of(loaded: Any) -> dict[str, Tensor]:
    """The state dict in what `read_tensors` returned, without what training scripts wrap round it.

    That is one of WRAPPERS, and `module.` or `_orig_mod.` before every key (data-parallel training,
    torch.compile). Raises ValueError when there is none.
    """
    if isinstance(loaded, Mapping):
        wrapped = (loaded[key] for key in WRAPPERS if isinstance(loaded.get(key), Mapping))
        loaded = next(wrapped, loaded)
    if not isinstance(loaded, Mapping) or not loaded or not all(map(_is_entry, loaded.items())):
        raise ValueError(f"no state dict: neither the file itself nor its {', '.join(WRAPPERS)}")
    return {re.sub(r"^((module|_orig_mod)\.)+", "", key): loaded[key] for key in loaded}


def _is_entry(item: tuple[Any, Any]) -> bool:
    return isinstance(item[0], str) and isinstance(item[1], Tensor)


def fitted(model: Any, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state with its embeddings interpolated to the model's patch grid and frame count."""
    state = dict(state)
    if "pos_embed" in state:
        state["pos_embed"] = resize_positions(state["pos_embed"], model.pos_embed.shape[1] - 1)
    if "time_embed" in state:
        state["time_embed"] = resize_times(state["time_embed"], model.time_embed.shape[1])
    return state


def load_fitted(model: Any, state: dict[str, Tensor]) -> None:
    """Load a video model's state dict into one of another patch grid or frame count. Raises
    ValueError as `load_checked` does.
    """
    load_checked(model, fitted(model, state))


def digest_of(model: nn.Module) -> str:
    """SHA-256 of a model's parameters and buffers: names, types, shapes and values; of no file."""
    return digest_of_tensors(model.state_dict())


def digest_of_tensors(state: Mapping[str, Tensor]) -> str:
    """The same of a state dict."""
    found = hashlib.sha256()
    for name, tensor in state.items():
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        found.update(flat.view(torch.uint8).numpy().data)
    return found.hexdigest()


def load_init(
    model: Any,
    config: Any,
    inflate: Callable[[Any, dict[str, Tensor]], None],
    *,
    folder: Path | None,
    plain: bool = True,
) -> None:
    """`inflate(model, state)` with the image model that `config.init` names; nothing when None.

    `folder` is where weight files lie, `plain` what is demanded of the ViT (see
    `read_image_weights`). What was loaded stands in
    `model.loaded_weights`. Raises ValueError when the weights are absent, are not those of
    `config.init_sha256`, or do not fit.
    """
    if config.init is None:
        return
    weights = read_image_weights(config.init, folder, sha256=config.init_sha256, plain=plain)
    if weights.heads != config.heads:
        raise ValueError(f"{config.init} has {weights.heads} heads, the config {config.heads}")
    inflate(model, weights.state)
    model.loaded_weights = weights.record


@dataclass(frozen=True)
class ImageWeights:
    """The weights of a timm ViT, and what to write down about them."""

    state: dict[str, Tensor]
    heads: int  # not visible in the tensors
    record: dict[str, str]  # name, tag, file, sha256


def read_image_weights(
    init: str, folder: Path | None, *, sha256: str | None = None, plain: bool = True
) -> ImageWeights:
    """Weights of the timm ViT that `init` names, offline.

    `vit_tiny_patch16_224.augreg_in21k` (name and tag) is looked up as
    `<folder>/<name>.{safetensors,pth,bin,npz}`, then in the caches that timm's own downloads fill;
    `vit_tiny_patch16_224@file` is that file, relative to the folder. Raises ValueError when there
    is no such model or file, when the file's SHA-256 is not `sha256`, when the model is no ViT, or
    `plain` and not a plain one, and when the file is of another patch size or resolution than the
    name says.
    """
    name, _, _ = init.partition("@")
    require_timm_name(name)
    if problem := missing_weights(init, folder):
        raise ValueError(problem)
    path = find_weights(init, folder)
    assert path is not None
    digest = released_digest(path)
    if sha256 is not None and digest != sha256.lower():
        raise ValueError(
            f"{path.name} has SHA-256 {digest}, but init_sha256 is {sha256}: "
            "other weights under the same name"
        )
    # On the meta device: only the sizes are needed, and a ViT-B would take a second to initialise.
    with torch.device("meta"):
        model = timm_model(name)
    reasons = _not_plain(model)
    if reasons and plain:
        raise ValueError(
            f"{name} cannot be inflated, for it is not a plain ViT: {', '.join(reasons)}. The "
            f"backbone `vit` takes all of timm's ViTs: `timm: {name.partition('.')[0]}`"
        )
    if reasons and path.suffix == ".npz":
        raise ValueError(
            f"{path}: of .npz files only plain ViTs are read, and {name} is none: "
            f"{', '.join(reasons)}. Save timm's own, as {name}.safetensors"
        )
    return ImageWeights(
        state=_read_npz(name, path) if path.suffix == ".npz" else _read_timm(model, path),
        heads=next(m.num_heads for m in model.blocks[0].modules() if hasattr(m, "num_heads")),
        record=record_of(name, path, digest),
    )


def record_of(name: str, path: Path, digest: str) -> dict[str, str]:
    """What is written down about the weights of a timm model."""
    tag = name.partition(".")[2]
    return {"name": name, "tag": tag, "file": path.name, "sha256": digest}


def require_timm_name(name: str) -> None:
    """Raises ValueError, with the nearest names, when timm has no such model."""
    import timm

    if timm.is_model(name):
        return
    architecture = name.partition(".")[0]
    near = difflib.get_close_matches(architecture, timm.list_models(), n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    raise ValueError(
        f"timm has no model {name!r}; {hint}`timm.list_models('*vit*')` lists the names"
    )


def timm_model(name: str, **options: Any) -> Any:
    """`timm.create_model`, random. Raises ValueError for unknown names and tags."""
    import timm

    require_timm_name(name)
    try:
        return timm.create_model(name, **options)
    except RuntimeError as error:  # an unknown tag
        tags = ", ".join(timm.list_pretrained(name.partition(".")[0] + ".*"))
        raise ValueError(f"timm cannot make {name}: {error} There are: {tags}") from error


def _not_plain(model: Any) -> list[str]:
    """What keeps a timm model from being inflated; empty for a plain ViT (Dosovitskiy et al. 2021).

    Much of it leaves no trace in the tensors, so that they would load and give other features.
    """
    from timm.layers import Mlp, PatchEmbed
    from timm.models.vision_transformer import Block, VisionTransformer

    if not isinstance(model, VisionTransformer):
        return [f"it is a {type(model).__name__}"]
    block, pooling = model.blocks[0], model.global_pool
    if not isinstance(block, Block):
        return [f"its blocks are {type(block).__name__}"]
    wrong = {
        f"its feature is not a class token but pooled ({pooling})": pooling != "token",
        "it has register or distillation tokens": model.num_prefix_tokens > 1,
        "its class token has no position": model.no_embed_class,
        "its patches come from convolutions": not isinstance(model.patch_embed, PatchEmbed),
        "a norm stands before its blocks, as in CLIP": not _absent(model.norm_pre),
        "it has layer scale": not _absent(block.ls1),
        "it normalises queries and keys": not _absent(block.attn.q_norm),
        "its MLP is not linear, GELU, linear": not isinstance(block.mlp, Mlp)
        or not isinstance(block.mlp.act, nn.GELU),
        "its norms are not layer norms with epsilon 1e-6": not isinstance(block.norm1, nn.LayerNorm)
        or block.norm1.eps != 1e-6,
    }
    return [reason for reason, holds in wrong.items() if holds]


def _absent(module: Any) -> bool:
    return isinstance(module, nn.Identity)


def _read_timm(model: Any, path: Path) -> dict[str, Tensor]:
    """State dict of a file in a format that timm loads into `model` (on the meta device)."""
    from timm.models.vision_transformer import checkpoint_filter_fn

    state = state_dict_of(read_tensors(path))
    # DINOv2's own files, which timm rearranges, have one position more than timm's model.
    sized = {"patch_embed.proj.weight"} if "mask_token" in state else SIZED.keys()
    _require_sizes(model, path, {key: state[key].numel() for key in sized if key in state})
    return checkpoint_filter_fn(state, model, adapt_layer_scale=True)


def _read_npz(name: str, path: Path) -> dict[str, Tensor]:
    """State dict of one of Google's .npz (JAX) files: arrays only, which timm's own model reads."""
    _first_bytes(path)
    model = timm_model(name)
    try:
        with np.load(path, allow_pickle=False) as arrays:
            sizes = {k: arrays[n].size for k, end in SIZED.items() for n in arrays if _ends(n, end)}
            depth = _npz_depth(arrays)
        _require_sizes(model, path, sizes)
        if depth != len(model.blocks):
            raise ValueError(f"it has {depth} blocks, the model {len(model.blocks)}")
        model.load_pretrained(str(path))
    except (ValueError, KeyError, IndexError, RuntimeError, AssertionError, BadZipFile) as error:
        raise ValueError(f"{path} is not the .npz of a {name}: {error}") from error
    return model.state_dict()


def _npz_depth(arrays: Any) -> int:
    """timm would read as many blocks as its model has, and leave the others."""
    for name in arrays:
        if _ends(name, "encoderblock/LayerNorm_0/scale"):  # all blocks in one array
            return len(arrays[name])
    return len({m[0] for name in arrays if (m := re.search(r"encoderblock_\d+", name))})


# Tensors that timm would interpolate to the model's size without a word; how their names end in
# Google's files.
SIZED = {"patch_embed.proj.weight": "embedding/kernel", "pos_embed": "pos_embedding"}


def _ends(name: str, end: str) -> bool:
    return name == end or name.endswith(f"/{end}")


def _require_sizes(model: Any, path: Path, sizes: dict[str, int]) -> None:
    own = model.state_dict()
    for key, size in sizes.items():
        if key in own and size != own[key].numel():
            raise ValueError(
                f"{path.name}: {key} has {size} numbers, {model.default_cfg['architecture']} has "
                f"{own[key].numel()}: another patch size, width or resolution than the name says"
            )


def missing_weights(
    init: str, folder: Path | None, *, suffixes: tuple[str, ...] = WEIGHT_SUFFIXES
) -> str | None:
    """What to do when the weights of a timm model are not on this machine, else None."""
    if find_weights(init, folder, suffixes=suffixes) is not None:
        return None
    name, _, file = init.partition("@")
    if file:
        return f"no weight file {file} (looked in {folder}), which `init: {init}` names"
    wanted = f"{name}{{{','.join(suffixes)}}}"
    return (
        f"no weights for {name}: put {wanted} into {folder}, or download them once with "
        f"timm.create_model({name!r}, pretrained=True); nothing is downloaded here"
    )


def find_weights(
    init: str, folder: Path | None, *, suffixes: tuple[str, ...] = WEIGHT_SUFFIXES
) -> Path | None:
    """The local file of a timm model: the named one, or in the folder, or in timm's cache."""
    name, _, file = init.partition("@")
    if file:
        path = Path(folder or ".") / file  # an absolute file stays as it is
        return path if path.is_file() else None
    if folder is not None:
        for suffix in suffixes:
            # Not with_suffix: the tag of a timm name looks like one.
            if (path := Path(folder) / f"{name}{suffix}").is_file():
                return path
    from huggingface_hub import try_to_load_from_cache

    for filename in ("model.safetensors", "pytorch_model.bin"):
        cached = try_to_load_from_cache(f"timm/{name}", filename)
        if isinstance(cached, str):
            return Path(cached)
    return None
