"""Released checkpoints, image weights, and `bench.evaluate` on files that somebody else wrote."""

from __future__ import annotations

import argparse
import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from einops import rearrange
from makers import ROOT
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from bench import find
from bench.config.resources import parse_resources
from bench.config.science import parse
from bench.config.signature import signature
from bench.data.shards import read as shard_files
from bench.evaluate import command as evaluate
from bench.grid.plan import plan
from bench.models import released
from bench.models.backbones import timesformer
from bench.models.classifier import Classifier
from bench.models.weights import (
    load_checked,
    missing_weights,
    read_image_weights,
    read_tensors,
    state_dict_of,
)
from bench.run.cell import run_cell
from bench.run.directory import create
from bench.store.files import sha256_of
from bench.store.rundir import RunDir, State

CONFIG = timesformer.Config(patch=8, dim=16, depth=2, heads=2)
FRAMES, SIZE = 4, 16


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def randomised(module: nn.Module, *, std: float = 0.1) -> Any:
    """Every parameter gets a share of noise, so that none is neutral."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(std * torch.randn_like(parameter))
    return module.eval()


def tiny(classes: int = 5) -> Classifier:
    backbone = timesformer.build(CONFIG, frames=FRAMES, size=SIZE)
    return randomised(Classifier(backbone, classes))


def as_released(model: Classifier) -> dict[str, Tensor]:
    """The names in TIME's release, without any wrapper."""
    return {k.removeprefix("backbone."): v for k, v in model.state_dict().items()}


def as_upstream(model: Classifier) -> dict[str, Tensor]:
    """The names in the release of TimeSformer's authors."""
    return {f"model.{key}": value for key, value in as_released(model).items()}


def same_logits(model: Classifier, state: dict[str, Tensor]) -> bool:
    clip = torch.randn(2, FRAMES, 3, SIZE, SIZE)
    loaded = released.load(state, heads=CONFIG.heads).model.eval()
    return torch.equal(loaded(clip), model(clip))


# Layouts ----------------------------------------------------------------------------------------

WRAPPED: dict[str, Callable[[dict[str, Tensor]], Any]] = {
    "plain": lambda state: state,
    "model_state": lambda state: {
        "epoch": 34,
        "model_state": state,
        "optimizer_state": {"state": {0: {"step": torch.ones(1)}}, "param_groups": [{"lr": 1e-3}]},
        "cfg": "DATA:\n  MEAN: [0.45, 0.45, 0.45]\n",
    },
    "module": lambda state: {"model_state": {f"module.{k}": v for k, v in state.items()}},
    "compiled": lambda state: {"state_dict": {f"module._orig_mod.{k}": state[k] for k in state}},
    "state_dict": lambda state: {"state_dict": state, "best": 0.5},
    "model": lambda state: {"model": state, "args": argparse.Namespace(lr=1e-3, data="x")},
    "averaged": lambda state: {
        "model": {k: torch.zeros_like(v) for k, v in state.items()},
        "model_ema": state,
    },
}


@pytest.mark.parametrize("layout", [as_released, as_upstream])
@pytest.mark.parametrize("wrapping", WRAPPED)
def test_a_file_loads_however_it_is_wrapped(
    wrapping: str, layout: Callable[[Classifier], dict[str, Tensor]], tmp_path: Path
) -> None:
    model = tiny()
    path = tmp_path / "any.pyth"
    torch.save(WRAPPED[wrapping](layout(model)), path)
    assert same_logits(model, released.read(path))


def test_the_format_is_in_the_bytes_not_in_the_suffix(tmp_path: Path) -> None:
    model = tiny()
    save_file(as_released(model), tmp_path / "weights.bin")
    torch.save(as_released(model), tmp_path / "weights.safetensors")
    legacy = tmp_path / "legacy.pth"
    torch.save(as_released(model), legacy, _use_new_zipfile_serialization=False)
    for path in tmp_path.iterdir():
        assert same_logits(model, released.read(path))


def test_the_layout_tells_whose_normalisation_it_was() -> None:
    ours = released.describe(as_released(tiny()))
    theirs = released.describe(as_upstream(tiny()))
    assert (ours.mean, ours.std) == ((0.5,) * 3, (0.5,) * 3)
    assert (theirs.mean, theirs.std) == ((0.45,) * 3, (0.225,) * 3)
    assert theirs.config == ours.config and theirs.num_classes == 5


def test_other_frames_and_sizes_interpolate_the_embeddings() -> None:
    state = as_upstream(tiny())
    loaded = released.load(state, heads=2, frames=8, size=32)
    assert (loaded.description.frames, loaded.description.size) == (8, 32)
    backbone = loaded.model.backbone
    assert torch.equal(backbone.time_embed, state["model.time_embed"].repeat_interleave(2, dim=1))
    assert torch.equal(backbone.pos_embed[:, 0], state["model.pos_embed"][:, 0])
    mean = state["model.pos_embed"][:, 1:].mean()
    assert backbone.pos_embed.shape == (1, 17, 16)
    torch.testing.assert_close(backbone.pos_embed[:, 1:].mean(), mean, rtol=0, atol=1e-6)
    assert loaded.model(torch.randn(1, 8, 3, 32, 32)).shape == (1, 5)


# Hugging Face -----------------------------------------------------------------------------------


def hugging_face(**changes: Any) -> Any:
    from transformers import TimesformerConfig, TimesformerForVideoClassification

    sizes: dict[str, Any] = {
        "image_size": SIZE,
        "patch_size": 8,
        "num_frames": FRAMES,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "num_labels": 5,
    }
    model = TimesformerForVideoClassification(TimesformerConfig(**(sizes | changes)))
    return randomised(model, std=0.02)


def largest_error(ours: Tensor, theirs: Tensor) -> float:
    assert ours.shape == theirs.shape
    return float((ours - theirs).abs().max())


def test_parity_with_hugging_face(tmp_path: Path, record_property: Any) -> None:
    """Base width at 8 x 224 x 224, two layers, one clip; every parameter away from its start."""
    sizes = {"image_size": 224, "patch_size": 16, "num_frames": 8, "hidden_size": 768}
    sizes |= {"num_attention_heads": 12, "intermediate_size": 3072, "num_labels": 174}
    theirs = hugging_face(**sizes)
    assert all(layer.temporal_dense.weight.any() for layer in theirs.timesformer.encoder.layer)
    assert theirs.timesformer.embeddings.time_embeddings.any()
    theirs.save_pretrained(tmp_path)
    loaded = released.load(released.read(tmp_path), settings=released.read_settings(tmp_path))
    assert loaded.description.config["heads"] == 12
    assert (loaded.description.frames, loaded.description.size) == (8, 224)
    model = loaded.model.eval()
    clip = torch.randn(1, 8, 3, 224, 224)
    normed: list[torch.Tensor] = []
    theirs.timesformer.layernorm.register_forward_hook(lambda *given: normed.append(given[-1]))
    with torch.no_grad():
        expected = theirs(clip, output_hidden_states=True)
        (last,) = normed
        features, stages = model.encode(clip), list(model.backbone.stages(clip))
        logits = model.classify(features)
    # Theirs: the class token, then patch after patch, the frames of each side by side.
    hidden = [rearrange(h[:, 1:], "b (n t) d -> b t n d", t=8) for h in expected.hidden_states]
    tokens = rearrange(last[:, 1:], "b (n t) d -> b t n d", t=8)
    errors = {
        "logits": largest_error(logits, expected.logits),
        "cls": largest_error(features.cls_BD, last[:, 0]),
        "tokens": largest_error(features.tokens_BTND, tokens),
    }
    errors |= {
        f"stage {i}": largest_error(ours, h)
        for i, (ours, h) in enumerate(zip(stages, hidden, strict=True))
    }
    record_property("errors", errors)
    assert expected.logits.std() > 0.1  # or the comparison would say nothing
    assert max(errors.values()) <= 1e-4, errors


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of `save_pretrained`, 4 heads of 4 channels; an image processor's file beside it."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("hugging_face")
    hugging_face().save_pretrained(folder)
    processor = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.2, 0.3, 0.4], "size": 224}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return folder


def test_settings_beside_the_weights_give_what_tensors_do_not_show(saved: Path) -> None:
    state = released.read(saved)
    with_settings = released.describe(state, settings=released.read_settings(saved))
    assert with_settings.config["heads"] == 4
    assert (with_settings.mean, with_settings.std) == ((0.1, 0.2, 0.3), (0.2, 0.3, 0.4))
    from_file = saved / "model.safetensors"
    assert released.read_settings(from_file) == released.read_settings(saved)
    alone = released.describe(state)
    assert alone.config["heads"] == 1 and alone.mean == (0.45,) * 3
    given = released.describe(state, heads=2, settings=released.read_settings(saved))
    assert given.config["heads"] == 2


def test_the_processor_file_of_version_5_counts_before_the_older_one(
    saved: Path, tmp_path: Path
) -> None:
    transformers = pytest.importorskip("transformers")
    folder = Path(shutil.copytree(saved, tmp_path / "new"))
    mean, std = (0.3, 0.2, 0.1), (0.6, 0.5, 0.4)
    transformers.TimesformerVideoProcessor(
        image_mean=list(mean), image_std=list(std)
    ).save_pretrained(folder)
    assert (folder / "video_preprocessor_config.json").is_file()
    found = released.describe(released.read(folder), settings=released.read_settings(folder))
    assert (found.mean, found.std) == (mean, std)


def test_an_older_folder_with_a_pickle_loads_too(saved: Path, tmp_path: Path) -> None:
    torch.save(load_file(saved / "model.safetensors"), tmp_path / "pytorch_model.bin")
    old, new = released.read(tmp_path), released.read(saved)
    assert old.keys() == new.keys() and all(torch.equal(old[k], new[k]) for k in new)
    assert released.read_settings(tmp_path) == {}


def test_settings_of_another_model_are_not_used_and_impossible_ones_refused() -> None:
    assert timesformer.describe_settings({"model_type": "vit", "num_attention_heads": 3}) == {}
    with pytest.raises(ValueError, match="hidden_act relu, layer_norm_eps 1e-12"):
        timesformer.describe_settings(
            {"model_type": "timesformer", "hidden_act": "relu", "layer_norm_eps": 1e-12}
        )


# Files that are no checkpoint, and checkpoints of something else ---------------------------------


def _write(name: str) -> Callable[[Path], None]:
    """How to write a bad file, by what is wrong with it."""
    state = {"model_state": as_released(tiny())}

    def cut(path: Path, *, modern: bool, keep: float) -> None:
        torch.save(state, path, _use_new_zipfile_serialization=modern)
        content = path.read_bytes()
        path.write_bytes(content[: int(len(content) * keep)])

    def cut_safetensors(path: Path) -> None:
        save_file(state["model_state"], path)
        path.write_bytes(path.read_bytes()[:-100])

    return {
        "empty": lambda path: path.write_bytes(b""),
        "text": lambda path: path.write_text("<!DOCTYPE html><title>404</title>"),
        "pointer": lambda path: path.write_text(
            "version https://git-lfs.github.com/spec/v1\noid sha256:056f0c994344\nsize 485663890\n"
        ),
        "cut": lambda path: cut(path, modern=True, keep=0.7),
        "cut legacy": lambda path: cut(path, modern=False, keep=0.7),
        "cut legacy head": lambda path: cut(path, modern=False, keep=0.001),
        "cut safetensors": cut_safetensors,
        "code": lambda path: torch.save({"model_state": {"a": print}}, path),
        "module": lambda path: torch.save(tiny(), path),
        "pickle": lambda path: path.write_bytes(pickle.dumps({"a": np.zeros(3)}, protocol=4)),
        "list": lambda path: torch.save([torch.zeros(1)], path),
        "numbers": lambda path: torch.save({"epoch": 3}, path),
        "no state": lambda path: torch.save({"model_state": {}}, path),
        "image": lambda path: torch.save(without("time_embed", "temporal_"), path),
        "joint": lambda path: torch.save(without("temporal_"), path),
        "no time": lambda path: torch.save(without("time_embed"), path),
        "no mlp": lambda path: torch.save(without("mlp.fc1.weight"), path),
        "no positions": lambda path: torch.save(without("pos_embed"), path),
        "no head": lambda path: torch.save(without("head."), path),
        "oblong": lambda path: torch.save(
            as_released(tiny()) | {"pos_embed": torch.zeros(1, 7, 16)}, path
        ),
    }[name]


def without(*parts: str) -> dict[str, Tensor]:
    """TimeSformer's authors' checkpoint without the keys that hold one of these."""
    return {k: v for k, v in as_upstream(tiny()).items() if not any(part in k for part in parts)}


BAD_FILES = {
    "empty": "is empty; copy or download it again",
    "text": "is not a weight file: it begins with b'<!DOCTYPE",
    "pointer": "is a Git LFS pointer, not the weights; run `git lfs pull`",
    "cut": "is cut off or damaged",
    "cut legacy": "is cut off or damaged",
    "cut legacy head": "is cut off or damaged",
    "cut safetensors": "is cut off or damaged",
    "code": "(Unsupported global: GLOBAL print), and code in it is never run here. Load it with",
    "module": "GLOBAL bench.models.classifier.Classifier",
    "pickle": "holds more than tensors and plain data",
    "list": "no state dict",
    "numbers": "no state dict",
    "no state": "no state dict",
    "image": "space_only attention or an image model: there is no blocks.0.temporal_norm1.weight",
    "joint": "joint_space_time attention: there is no blocks.0.temporal_norm1.weight, no",
    "no time": "there is no time_embed",
    "no mlp": "this timesformer is not whole: it has no blocks.0.mlp.fc1.weight",
    "no positions": "this timesformer is not whole: it has no pos_embed",
    "no head": "this timesformer has no classifier",
    "oblong": "pos_embed has 6 patches: not a square grid",
}


@pytest.fixture(scope="module")
def shards(data_dir: Path) -> Path:
    config = plan(ROOT / "sweeps/ablation.yaml", "smoke").cells[0].config.data
    return find.load("source", config.name).locate(config.config, data_dir)


def call(model: Path, data: Path, *more: str) -> int:
    runs = str(data.parent / "runs")
    arguments = ["video.shuffle_gap", "--model", str(model), "--data", str(data), "--runs", runs]
    return evaluate.main([*arguments, "--device", "cpu", *more])


def only_message(capsys: pytest.CaptureFixture[str]) -> str:
    error = capsys.readouterr().err
    assert error.startswith("python -m bench.evaluate: ") and "Traceback" not in error
    return error


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("name", BAD_FILES)
def test_a_bad_file_gets_one_message_and_status_2(
    name: str, shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "bad.pyth"
    _write(name)(path)
    assert call(path, shards) == 2
    assert BAD_FILES[name] in only_message(capsys)


def test_bad_folders(
    saved: Path, shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(tmp_path, shards) == 2
    assert "no model.safetensors or pytorch_model.bin" in only_message(capsys)
    (tmp_path / "model.safetensors").write_bytes((saved / "model.safetensors").read_bytes())
    (tmp_path / "config.json").write_text("{")
    assert call(tmp_path, shards) == 2
    assert "config.json is not valid JSON" in only_message(capsys)


# bench.evaluate ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fitting(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of TimeSformer's authors with as many classes as the built-in data."""
    torch.manual_seed(0)
    classes = len(shard_files.read_index(shards)["classes"])
    path = tmp_path_factory.mktemp("released") / "TimeSformer.pyth"
    state = as_upstream(tiny(classes))
    torch.save({"model_state": state, "epoch": 15, "cfg": "DATA: {}"}, path)
    return path


def evaluated(path: Path, data: Path, out: Path, *more: str) -> dict[str, Any]:
    assert call(path, data, "--out", str(out), *more) == 0
    return json.loads(out.read_text())


@pytest.fixture(scope="module")
def result(fitting: Path, shards: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return evaluated(fitting, shards, tmp_path_factory.mktemp("out") / "a.json", "--heads", "2")


def test_evaluate_needs_the_file_alone_and_writes_down_what_it_was(
    fitting: Path, result: dict[str, Any]
) -> None:
    assert result["sha256"] == sha256_of(fitting)
    expected = {"name": "timesformer", "patch": 8, "dim": 16, "depth": 2, "heads": 2}
    assert expected.items() <= result["backbone"].items()
    assert (result["frames"], result["size"]) == (FRAMES, SIZE)
    assert (result["mean"], result["std"]) == ([0.45] * 3, [0.225] * 3)
    assert {row["view"] for row in result["rows"]} >= {"original", "shuffled"}


def test_backbone_options_reach_the_model(
    fitting: Path, shards: Path, result: dict[str, Any], tmp_path: Path
) -> None:
    options = ("--backbone", "heads=2", "--backbone", "drop_path=0.3")
    given = evaluated(fitting, shards, tmp_path / "rows.json", *options)
    assert (given["backbone"]["heads"], given["backbone"]["drop_path"]) == (2, 0.3)
    assert given["rows"] == result["rows"]


def test_frames_and_size_may_differ_from_the_checkpoint(
    fitting: Path, shards: Path, tmp_path: Path
) -> None:
    options = ("--heads", "2", "--frames", "2", "--size", "24")
    found = evaluated(fitting, shards, tmp_path / "rows.json", *options)
    assert (found["frames"], found["size"]) == (2, 24)


def test_a_folder_of_save_pretrained_evaluates(fitting: Path, shards: Path, tmp_path: Path) -> None:
    classes = len(shard_files.read_index(shards)["classes"])
    hugging_face(num_labels=classes).save_pretrained(tmp_path)
    found = evaluated(tmp_path, shards, tmp_path / "rows.json")
    assert found["backbone"]["heads"] == 4  # config.json; the guess would be 1
    assert found["sha256"] == sha256_of(tmp_path / "model.safetensors")


@pytest.mark.parametrize(
    ("options", "messages"),
    [
        (
            ["--backbone", "haeds=2", "--backbone", "drop_path=much", "--backbone", "init=vit"],
            ["haeds: unknown key; did you mean 'heads'", "drop_path: ", "timesformer.init: "],
        ),
        (["--backbone", "frames=2"], ["frames: unknown key"]),
        (
            ["--set", "permutations", "--backbone", "heads"],
            ["--set permutations: write it", "--backbone heads: write it"],
        ),
        (["--backbone", "heads=2", "--heads", "4"], ["say different numbers"]),
        (["--heads", "3"], ["16 channels do not divide into 3 heads"]),
        (["--backbone", "depth=1"], ["unexpected blocks.1."]),
        (["--size", "20"], ["do not divide into patches of 8"]),
    ],
)
def test_impossible_options_are_named_all_at_once(
    options: list[str],
    messages: list[str],
    fitting: Path,
    shards: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert call(fitting, shards, *options) == 2
    error = only_message(capsys)
    assert all(message in error for message in messages), error


@pytest.mark.parametrize(
    ("kind", "option"),
    [("xvit", {"shift_div": 3}), ("motionformer", {"project_values": True})],
)
def test_what_no_tensor_shows_can_be_given(kind: str, option: dict[str, Any]) -> None:
    state = released.read(ROOT / f"tests/fixtures/parity/{kind}.safetensors")
    found = released.describe(state, heads=4)
    clip = torch.randn(1, found.frames, 3, found.size, found.size)
    plain, given = (released.build(state, found, options) for options in ({}, option))
    assert option.items() <= given.description.config.items()
    assert not torch.allclose(plain.model.eval()(clip), given.model.eval()(clip))


def test_numbers_below_one_are_refused(fitting: Path, shards: Path) -> None:
    for option in ("--heads", "--frames", "--size", "--batch"):
        with pytest.raises(SystemExit) as end:
            call(fitting, shards, option, "0")
        assert end.value.code == 2


def test_other_classes_than_the_data_has_are_refused(
    shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(as_upstream(tiny(3)), tmp_path / "three.pyth")
    assert call(tmp_path / "three.pyth", shards, "--heads", "2") == 2
    assert "the model has 3 classes" in only_message(capsys)


def test_options_of_released_checkpoints_do_not_change_a_run(
    tmp_path: Path, shards: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.yaml").write_text("seed: 0\n")
    assert call(tmp_path, shards, "--frames", "4") == 2
    assert "is a run, with a config of its own" in only_message(capsys)


# Image weights ----------------------------------------------------------------------------------

VIT = "test_vit.r160_in1k"  # plain, 160 pixels, 6 blocks
VIT_CONFIG = timesformer.Config(patch=16, dim=64, depth=6, heads=2, mlp_ratio=3.0)


@pytest.fixture(scope="module")
def image_model() -> Any:
    torch.manual_seed(1)
    return randomised(timm.create_model(VIT), std=0.02)


@pytest.fixture(scope="module")
def weights(image_model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One random ViT in each format."""
    folder = tmp_path_factory.mktemp("weights")
    state = image_model.state_dict()
    save_file(state, folder / "safe.safetensors")
    torch.save({"model": state, "args": argparse.Namespace(lr=1)}, folder / "deit.pth")
    torch.save({"state_dict": {f"module.{k}": v for k, v in state.items()}}, folder / "ddp.bin")
    np.savez(folder / "google.npz", **google(state, heads=2))
    return folder


def google(state: dict[str, Tensor], *, heads: int) -> dict[str, np.ndarray]:
    """A timm ViT's state dict under the names and layouts of Google's JAX code."""
    arrays = {k: v.numpy() for k, v in state.items()}
    found = {
        "cls": arrays["cls_token"],
        "Transformer/posembed_input/pos_embedding": arrays["pos_embed"],
        "embedding/kernel": rearrange(arrays["patch_embed.proj.weight"], "o i h w -> h w i o"),
        "embedding/bias": arrays["patch_embed.proj.bias"],
        "Transformer/encoder_norm/scale": arrays["norm.weight"],
        "Transformer/encoder_norm/bias": arrays["norm.bias"],
        "head/kernel": arrays["head.weight"].T,
        "head/bias": arrays["head.bias"],
    }
    for i in range(1 + max(int(k.split(".")[1]) for k in arrays if k.startswith("blocks."))):
        ours, theirs = f"blocks.{i}.", f"Transformer/encoderblock_{i}/"
        attention = f"{theirs}MultiHeadDotProductAttention_1/"
        for norm, number in (("norm1", 0), ("norm2", 2)):
            found[f"{theirs}LayerNorm_{number}/scale"] = arrays[f"{ours}{norm}.weight"]
            found[f"{theirs}LayerNorm_{number}/bias"] = arrays[f"{ours}{norm}.bias"]
        for j, part in enumerate(("query", "key", "value")):
            weight = np.split(arrays[f"{ours}attn.qkv.weight"], 3)[j]
            bias = np.split(arrays[f"{ours}attn.qkv.bias"], 3)[j]
            found[f"{attention}{part}/kernel"] = rearrange(weight, "(h d) c -> c h d", h=heads)
            found[f"{attention}{part}/bias"] = rearrange(bias, "(h d) -> h d", h=heads)
        out = rearrange(arrays[f"{ours}attn.proj.weight"], "c (h d) -> h d c", h=heads)
        found[f"{attention}out/kernel"] = out
        found[f"{attention}out/bias"] = arrays[f"{ours}attn.proj.bias"]
        for j, layer in enumerate(("fc1", "fc2")):
            dense = f"{theirs}MlpBlock_3/Dense_{j}/"
            found[f"{dense}kernel"] = arrays[f"{ours}mlp.{layer}.weight"].T
            found[f"{dense}bias"] = arrays[f"{ours}mlp.{layer}.bias"]
    return found


def inflated(init: str, folder: Path | None, *, size: int = 160) -> timesformer.TimeSformer:
    config = VIT_CONFIG.model_copy(update={"init": init})
    return timesformer.build(config, frames=3, size=size, weights=folder).eval()


@pytest.mark.parametrize("size", [160, 224])
def test_a_repeated_frame_gives_the_image_models_output(
    size: int, image_model: Any, weights: Path
) -> None:
    """At the weights' resolution, and at another, which timm interpolates to by itself."""
    file = weights / "safe.safetensors"
    expecting = timm.create_model(
        VIT, pretrained=True, pretrained_cfg_overlay={"file": str(file)}, img_size=size
    ).eval()
    model = inflated(f"{VIT}@{file}", None, size=size)
    frame = torch.randn(1, 3, size, size)
    with torch.no_grad():
        expected = expecting.forward_features(frame)[:, 0]
        ours = model(frame[:, None].expand(-1, 3, -1, -1, -1)).cls_BD
    assert expected.std() > 0.5
    assert largest_error(ours, expected) <= 1e-5


@pytest.mark.parametrize("file", ["safe.safetensors", "deit.pth", "ddp.bin", "google.npz"])
def test_a_named_file_is_read_in_every_format_timm_takes(
    file: str, image_model: Any, weights: Path, tmp_path: Path
) -> None:
    expected = image_model.state_dict()
    for init, folder in ((f"{VIT}@{file}", weights), (f"{VIT}@{weights / file}", tmp_path)):
        found = read_image_weights(init, folder)
        assert found.heads == 2
        assert found.state.keys() == expected.keys()
        assert all(torch.equal(found.state[k], expected[k]) for k in expected)
        assert found.record == {
            "name": VIT,
            "tag": "r160_in1k",
            "file": file,
            "sha256": sha256_of(weights / file),
        }


def test_the_record_of_a_named_file_is_kept_with_the_model(weights: Path) -> None:
    model = inflated("test_vit@deit.pth", weights, size=32)
    assert model.loaded_weights is not None
    # Nothing is known of the tag of a file that the user names.
    assert model.loaded_weights["tag"] == "" and model.loaded_weights["file"] == "deit.pth"


def test_a_run_writes_down_its_image_weights(weights: Path, data_dir: Path, tmp_path: Path) -> None:
    raw = plan(ROOT / "sweeps/ablation.yaml", "smoke").cells[0].config.dump()
    model = VIT_CONFIG.model_copy(update={"init": f"{VIT}@deit.pth"})
    raw["model"] = {"name": "timesformer", **model.model_dump(mode="json")}
    places = {"data_dir": str(data_dir), "weights_dir": str(weights), "device": "cpu"}
    config = parse(raw)
    run = RunDir(tmp_path / signature(config))
    create(run, config, parse_resources(places))
    assert run_cell(run.path) == State.DONE
    assert json.loads(run.env.read_text())["weights"] == {
        "name": VIT,
        "tag": "r160_in1k",
        "file": "deit.pth",
        "sha256": sha256_of(weights / "deit.pth"),
    }


def test_a_missing_file_is_named_by_the_plan(weights: Path) -> None:
    missing = missing_weights(f"{VIT}@nothing.pth", weights)
    assert missing is not None and "no weight file nothing.pth" in missing
    assert missing_weights(f"{VIT}@deit.pth", weights) is None
    config = VIT_CONFIG.model_copy(update={"init": f"{VIT}@nothing.pth"})
    assert timesformer.missing(config, weights) == missing


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("vit_base_patch16_clip_224", "a norm stands before its blocks, as in CLIP"),
        ("vit_base_patch16_clip_quickgelu_224", "its MLP is not linear, GELU, linear"),
        ("vit_base_patch16_siglip_gap_224", "not a class token but pooled (avg)"),
        ("vit_base_patch16_siglip_224", "not a class token but pooled (map)"),
        ("vit_base_patch14_reg4_dinov2", "register or distillation tokens"),
        ("deit_base_distilled_patch16_224", "register or distillation tokens"),
        ("deit3_base_patch16_224", "it has layer scale"),
        ("vit_small_r26_s32_224", "its patches come from convolutions"),
        ("vit_base_patch16_rpn_224", "its blocks are ResPostBlock"),
        ("swin_tiny_patch4_window7_224", "it is a SwinTransformer"),
    ],
)
def test_what_is_not_a_plain_vit_is_refused_with_the_reason(
    name: str, reason: str, weights: Path
) -> None:
    with pytest.raises(ValueError, match="cannot be inflated") as error:
        read_image_weights(f"{name}@safe.safetensors", weights)
    assert reason in str(error.value)


def test_wrong_files_and_names_are_refused_before_step_1(
    image_model: Any, weights: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=r"Invalid pretrained tag(.|\n)*test_vit\.r160_in1k"):
        read_image_weights("test_vit.no_such_tag@deit.pth", weights)
    with pytest.raises(ValueError, match="no model 'vit_imaginary'"):
        read_image_weights("vit_imaginary@deit.pth", weights)
    for file in ("deit.pth", "google.npz"):
        with pytest.raises(ValueError, match=r"embed.* numbers, .* another patch size, width or"):
            read_image_weights(f"vit_tiny_patch16_224@{file}", weights)
    larger = timm.create_model("test_vit", img_size=224).state_dict()
    torch.save(larger, tmp_path / "larger.pth")
    with pytest.raises(ValueError, match="pos_embed has 12608 numbers, test_vit has 6464"):
        read_image_weights("test_vit@larger.pth", tmp_path)
    with pytest.raises(ValueError, match="SHA-256"):
        read_image_weights(f"{VIT}@deit.pth", weights, sha256="0" * 64)
    (tmp_path / "pointer.npz").write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(ValueError, match="Git LFS pointer"):
        read_image_weights(f"{VIT}@pointer.npz", tmp_path)
    torch.save({"model": {"a": print}}, tmp_path / "code.pth")
    with pytest.raises(ValueError, match="code in it is never run"):
        read_image_weights(f"{VIT}@code.pth", tmp_path)
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    with pytest.raises(ValueError, match=r"is not the \.npz of a"):
        read_image_weights(f"{VIT}@other.npz", tmp_path)


@pytest.mark.parametrize("file", ["short.pth", "short.npz"])
def test_missing_and_unexpected_tensors_are_an_error(
    file: str, image_model: Any, tmp_path: Path
) -> None:
    state = dict(image_model.state_dict())
    if file.endswith(".pth"):
        del state["blocks.3.norm1.bias"]
        state["extra"] = torch.zeros(1)
        torch.save(state, tmp_path / file)
        expected = r"missing blocks\.3\.norm1\.bias(.|\n)*unexpected extra"
    else:
        arrays = google(state, heads=2)
        arrays = {k: v for k, v in arrays.items() if not k.startswith("Transformer/encoder_norm")}
        np.savez(tmp_path / file, **arrays)
        expected = r"is not the \.npz of a test_vit(.|\n)*encoder_norm"
    with pytest.raises(ValueError, match=expected):
        inflated(f"{VIT}@{file}", tmp_path)


def test_a_deeper_npz_is_not_cut_to_size(image_model: Any, tmp_path: Path) -> None:
    state = dict(image_model.state_dict())
    state |= {k.replace("blocks.0.", "blocks.6."): v for k, v in state.items()}
    arrays = google(state, heads=2)
    np.savez(tmp_path / "deep.npz", **arrays)
    stacked = {k: v for k, v in arrays.items() if "encoderblock_" not in k}
    stacked["Transformer/encoderblock/LayerNorm_0/scale"] = np.ones((7, 64), np.float32)
    np.savez(tmp_path / "stacked.npz", **stacked)
    for file in ("deep.npz", "stacked.npz"):
        with pytest.raises(ValueError, match="it has 7 blocks, the model 6"):
            read_image_weights(f"{VIT}@{file}", tmp_path)


def test_only_named_keys_may_be_surplus_and_a_refusal_changes_nothing() -> None:
    module = nn.Linear(2, 2)
    before = module.weight.clone()
    fitting = {"weight": torch.ones(2, 2), "bias": torch.ones(2)}
    surplus = fitting | {"head.weight": torch.ones(1), "other": torch.ones(1)}
    with pytest.raises(ValueError, match="unexpected other") as error:
        load_checked(module, surplus, may_ignore=("head.",))
    assert "head.weight" not in str(error.value) and torch.equal(module.weight, before)
    with pytest.raises(ValueError, match=r"weight is \(3, 2\), the model needs \(2, 2\)"):
        load_checked(module, {"weight": torch.ones(3, 2), "bias": torch.ones(2)})
    load_checked(module, fitting | {"head.weight": torch.ones(1)}, may_ignore=("head.",))
    assert torch.equal(module.weight, torch.ones(2, 2))


def test_reading_never_runs_code(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"model_state": Bomb()}, tmp_path / "bomb.pth")
    with pytest.raises(ValueError, match="code in it is never run"):
        read_tensors(tmp_path / "bomb.pth")
    assert not (tmp_path / "ran").exists()


def test_the_innermost_state_dict_is_found() -> None:
    state = {"a": torch.zeros(1)}
    assert state_dict_of({"model": torch.zeros(1)}).keys() == {"model"}  # a tensor of that name
    assert state_dict_of({"module.a": state["a"]}).keys() == {"a"}
    with pytest.raises(ValueError, match="no state dict"):
        state_dict_of({"model": {"a": 3}})
