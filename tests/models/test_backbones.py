"""Every video backbone through the same properties, and what only Motionformer or X-ViT has.

TimeSformer's own are in test_model.py, agreement with the releases in test_parity.py.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from bench import find, task
from bench.data import views
from bench.data.shards import read as shards
from bench.evaluate import command as evaluate
from bench.models import released
from bench.models.backbones import motionformer, timesformer, xvit
from bench.models.backbones._trajectory_attention import TrajectoryAttention
from bench.models.classifier import Classifier
from bench.models.weights import load_fitted
from bench.train.learner import Learner, TrainingStep
from tasks import classify
from tasks.video import debias, flow, order, order_probe

VIDEO = ("timesformer", "motionformer", "xvit")
HALF = (0.5, 0.5, 0.5)
VIT = "vit_tiny_patch16_224.augreg_in21k_ft_in1k"


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def tiny(name: str, *, frames: int = 4, size: int = 16, **changes: Any) -> Any:
    """A tiny model in which everything that starts at zero has a value, as after training."""
    module = find.load("backbone", name)
    config = module.Config.tiny().model_copy(update={"drop_path": 0.0, **changes})
    model = module.build(config, frames=frames, size=size)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


@pytest.mark.parametrize("name", VIDEO)
@settings(max_examples=12, deadline=None)
@given(
    frames=st.integers(1, 5),
    side=st.integers(1, 3),
    patch=st.sampled_from([4, 8]),
    heads=st.sampled_from([1, 2, 3]),
    width=st.integers(2, 5),
    depth=st.integers(1, 3),
)
def test_features_and_stages_have_the_stated_shapes(
    name: str, frames: int, side: int, patch: int, heads: int, width: int, depth: int
) -> None:
    dim, size = 2 * heads * width, side * patch
    model = tiny(name, frames=frames, size=size, patch=patch, dim=dim, heads=heads, depth=depth)
    clip = torch.randn(2, frames, 3, size, size)
    features = model(clip)
    assert features.cls_BD.shape == (2, dim)
    assert features.tokens_BTND.shape == (2, frames, side**2, dim)
    assert [tuple(s.shape) for s in model.stages(clip)] == [(2, frames, side**2, dim)] * (depth + 1)
    assert (model.dim, model.patch) == (dim, patch)


@pytest.mark.parametrize("name", VIDEO)
def test_clips_of_a_batch_do_not_see_each_other(name: str) -> None:
    model = tiny(name)
    clips = torch.randn(3, 4, 3, 16, 16)
    together = model(clips)
    for i, clip in enumerate(clips):
        alone = model(clip[None])
        torch.testing.assert_close(together.cls_BD[i], alone.cls_BD[0])
        torch.testing.assert_close(together.tokens_BTND[i], alone.tokens_BTND[0])


@pytest.mark.parametrize("name", VIDEO)
def test_the_last_stage_becomes_the_patch_tokens(name: str) -> None:
    model = tiny(name)
    clip = torch.randn(2, 4, 3, 16, 16)
    *_, last = model.stages(clip)
    finish = nn.Sequential(model.norm, getattr(model, "pre_logits", nn.Identity()))
    torch.testing.assert_close(finish(last), model(clip).tokens_BTND)


@pytest.mark.parametrize("name", VIDEO)
def test_tokens_are_row_major_over_the_patch_grid(name: str) -> None:
    model = tiny(name)
    clip = torch.zeros(1, 4, 3, 16, 16)
    changed = clip.clone()
    changed[0, 2, :, :8, 8:] = 1  # upper right patch of frame 2
    before, after = (next(model.stages(c)) for c in (clip, changed))
    assert (before != after).any(dim=-1)[0].nonzero().tolist() == [[2, 1]]


@pytest.mark.parametrize("name", VIDEO)
def test_the_order_of_the_frames_matters(name: str) -> None:
    model = tiny(name)
    clip = torch.randn(2, 4, 3, 16, 16)
    moved = views.show(clip, np.array([2, 0, 3, 1]))
    assert (model(clip).cls_BD - model(moved).cls_BD).abs().max() > 1e-3


@pytest.mark.parametrize("name", VIDEO)
def test_gradients_reach_every_parameter_that_wants_one(name: str) -> None:
    model = tiny(name).train()
    features = model(torch.randn(2, 4, 3, 16, 16))
    (features.cls_BD.square().sum() + features.tokens_BTND.square().sum()).backward()
    for key, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None and parameter.grad.abs().sum() > 0, key
        else:
            assert name == "motionformer" and key.endswith("attn.proj_kv.bias")


@pytest.mark.parametrize("name", VIDEO)
def test_another_frame_count_takes_the_nearest_time_embedding(name: str) -> None:
    module = find.load("backbone", name)
    model = tiny(name)
    doubled = module.build(module.Config.tiny(), frames=8, size=16).eval()
    load_fitted(doubled, model.state_dict())
    torch.testing.assert_close(doubled.time_embed, model.time_embed.repeat_interleave(2, dim=1))
    clip = torch.randn(1, 8, 3, 16, 16)
    torch.testing.assert_close(model(clip).cls_BD, doubled(clip).cls_BD)


@pytest.mark.parametrize("name", VIDEO)
def test_the_impossible_is_refused_with_a_reason(name: str) -> None:
    module = find.load("backbone", name)
    config = module.Config.tiny()
    assert module.skip(config, frames=4, size=16) is None
    assert "patches of 8" in (module.skip(config, frames=4, size=20) or "")
    with pytest.raises(ValueError, match="20 channels do not divide into 3 heads"):
        module.Config(dim=20, heads=3)
    with pytest.raises(ValueError, match=f"{name}: .*patches of 8"):
        module.build(config, frames=4, size=20)
    with pytest.raises(ValueError, match="16 x 16"):
        tiny(name)(torch.randn(1, 4, 3, 24, 24))


@pytest.mark.parametrize("name", VIDEO)
def test_bfloat16_is_close_to_float32(name: str) -> None:
    model = tiny(name)
    clip = torch.randn(2, 4, 3, 16, 16)
    with torch.no_grad():
        exact = model(clip).tokens_BTND
        with torch.autocast("cpu", torch.bfloat16):
            rough = model(clip).tokens_BTND
    assert (rough - exact).abs().max() < 0.1 * exact.abs().max()


# One batch for all clips of a step --------------------------------------------------------------


@pytest.mark.parametrize("name", VIDEO)
def test_original_and_shuffled_clips_go_through_the_encoder_in_one_batch(name: str) -> None:
    seen: list[int] = []
    backbone = tiny(name)
    backbone.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    spec = task.ModelSpec(4, 16, backbone.patch, backbone.dim, 5, HALF, HALF)
    parts = {
        "classify": classify.Objective(classify.Config(), spec),
        "video.debias": debias.Objective(debias.Config(), spec),
        "video.order": order.Objective(order.Config(shuffle=True), spec),
    }
    classifier = Classifier(backbone, 5)
    learner = Learner(classifier, parts, dict.fromkeys(parts, 1.0)).eval()
    batch = task.Batch(torch.randn(3, 4, 3, 16, 16), torch.tensor([0, 1, 2]), tuple("abc"))

    class Step(TrainingStep):
        def rng(self, name: str, *, per_sample: bool = False) -> Any:
            if per_sample:
                return [views.generator(0, f"{name} {key}") for key in batch.keys]
            return views.generator(0, name)

    step = Step(classifier, run_seed=0, number=0, draws=())
    together = learner(batch, step)
    assert seen == [9]
    features = classifier.encode(batch.clip_BTCHW)
    for part, objective in parts.items():
        extra = objective.extra_clips(step, batch)
        if extra is not None:
            step.encode_all(batch.clip_BTCHW, {objective: extra})
        loss, _ = objective(step, batch, features)
        torch.testing.assert_close(together.terms[part], loss.detach())


# Motionformer -------------------------------------------------------------------------------------


def _trajectory_by_definition(attention: TrajectoryAttention, x_BLD: Tensor, frames: int) -> Tensor:
    """The module's equations token by token, keys and values projected as written there."""
    B, L, D = x_BLD.shape
    h, d, N = attention.heads, D // attention.heads, (L - 1) // frames
    q, k, v = attention.qkv(x_BLD).chunk(3, dim=-1)
    out = torch.zeros_like(x_BLD)
    for b in range(B):
        for i in range(h):
            part = slice(i * d, (i + 1) * d)
            everything = (k[b, :, part] @ q[b, 0, part] / d**0.5).softmax(0)
            out[b, 0, part] = everything @ v[b, :, part]
        for s in range(1, L):
            path = torch.zeros(frames, D)
            for f in range(frames):
                rows = slice(1 + f * N, 1 + (f + 1) * N)
                for i in range(h):
                    part = slice(i * d, (i + 1) * d)
                    there = (k[b, rows, part] @ q[b, s, part] / d**0.5).softmax(0)
                    path[f, part] = there @ v[b, rows, part]
            query = attention.proj_q(path[(s - 1) // N])
            keys, values = attention.proj_kv(path).chunk(2, dim=-1)
            for i in range(h):
                part = slice(i * d, (i + 1) * d)
                along = (keys[:, part] @ query[part] / d**0.5).softmax(0)
                source = values if attention.project_values else path
                out[b, s, part] = along @ source[:, part]
    return attention.proj(out)


@pytest.mark.parametrize("project_values", [False, True])
@pytest.mark.parametrize("grad", [False, True])
def test_trajectory_attention_is_its_definition(project_values: bool, grad: bool) -> None:
    attention = TrajectoryAttention(12, 3, project_values=project_values).double()
    with torch.no_grad():
        for parameter in attention.parameters():
            parameter.normal_(std=0.5)
    x = torch.randn(2, 1 + 3 * 4, 12, dtype=torch.float64)
    torch.set_default_dtype(torch.float64)
    try:
        with torch.set_grad_enabled(grad):
            expected = _trajectory_by_definition(attention, x, 3) if not grad else None
            if grad:
                with torch.no_grad():
                    expected = _trajectory_by_definition(attention, x, 3)
            torch.testing.assert_close(attention(x, frames=3), expected)
    finally:
        torch.set_default_dtype(torch.float32)


def test_trajectory_attention_has_the_right_gradient() -> None:
    for project_values in (False, True):
        attention = TrajectoryAttention(6, 2, project_values=project_values).double()
        x = torch.randn(1, 1 + 2 * 2, 6, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(lambda x, a=attention: a(x, frames=2), (x,))


def test_tubelets_make_one_token_of_several_frames() -> None:
    model = tiny("motionformer", frames=6, tubelet=2)
    clip = torch.randn(2, 6, 3, 16, 16)
    assert model(clip).tokens_BTND.shape == (2, 3, 4, 16)
    changed = clip.clone()
    changed[:, 3] += 1
    before, after = (next(model.stages(c)) for c in (clip, changed))
    assert (before != after).any(dim=-1)[0].any(dim=-1).tolist() == [False, True, False]
    with pytest.raises(ValueError, match="5 frames do not divide into tubelets of 2"):
        model(clip[:, :5])
    assert "tubelets" in (
        motionformer.skip(motionformer.Config(tubelet=2), frames=5, size=224) or ""
    )


def test_objectives_know_of_tubelets() -> None:
    data = task.DataSpec("clips", "video", ("a", "b"), {}, ("train", "val"))
    spec = task.ModelSpec(4, 16, 8, 16, 2, HALF, HALF, tubelet=2)
    assert order.Objective(order.Config(), spec).head.out_features == 2
    assert order.skip(order.Config(), spec, data) is None
    assert "tubelets" in (order.skip(order.Config(shuffle=True), spec, data) or "")
    assert "tokens of 2 frames" in (
        flow.skip(flow.Config.tiny(), replace(spec, size=64), data) or ""
    )
    probe = order_probe.Config.tiny()
    assert order_probe.skip(probe, spec, data) is None
    assert "tokens of 4 frames" in (order_probe.skip(probe, replace(spec, tubelet=4), data) or "")


def upstream_motionformer(model: Any, classifier: nn.Module) -> dict[str, Tensor]:
    """A state dict with tubelets, as its authors name the tensors."""
    state = {
        k.replace("patch_embed.", "patch_embed_3d.").replace("time_embed", "temp_embed"): v
        for k, v in model.state_dict().items()
    }
    state |= {f"head.{k}": v for k, v in classifier.state_dict().items()}
    state["patch_embed.proj.weight"] = torch.randn(16, 3, 8, 8)  # left over there, and not used
    state["patch_embed.proj.bias"] = torch.randn(16)
    return state


def test_upstream_checkpoint_with_tubelets_loads() -> None:
    model = tiny("motionformer", frames=4, tubelet=2)
    classifier = nn.Linear(16, 5)
    state = upstream_motionformer(model, classifier)
    loaded = released.load(released.plain({"model_state": state}), heads=2, drop_path=0.0)
    assert loaded.description.config["tubelet"] == 2 and loaded.description.frames == 4
    clip = torch.randn(2, 4, 3, 16, 16)
    with torch.no_grad():
        expected = classifier(model(clip).cls_BD)
        torch.testing.assert_close(loaded.model.eval()(clip), expected)
    with pytest.raises(ValueError, match="several classifiers"):
        released.load({**state, "head0.weight": state["head.weight"]}, heads=2)


# X-ViT --------------------------------------------------------------------------------------------


def test_shift_takes_channels_from_the_neighbouring_frames() -> None:
    x = torch.arange(3 * 6, dtype=torch.float32).reshape(1, 3, 1, 6) + 1  # one token a frame
    shifted = xvit.shift(x, channels=2)
    for t in range(3):
        ahead = x[0, t + 1, 0, :2] if t < 2 else torch.zeros(2)
        behind = x[0, t - 1, 0, 2:4] if t > 0 else torch.zeros(2)
        assert torch.equal(shifted[0, t, 0], torch.cat([ahead, behind, x[0, t, 0, 4:]]))
    assert xvit.shift(x, channels=0) is x


def test_without_shift_frames_meet_in_the_temporal_head_only() -> None:
    model = tiny("xvit", shift_blocks=0)
    clip = torch.randn(1, 4, 3, 16, 16)
    changed = clip.clone()
    changed[:, 0] += 1
    before, after = model(clip), model(changed)
    assert torch.equal(before.tokens_BTND[:, 1:], after.tokens_BTND[:, 1:])
    assert not torch.equal(before.cls_BD, after.cls_BD)
    shifting = tiny("xvit", depth=1)
    before, after = shifting(clip), shifting(changed)
    moved = (before.tokens_BTND != after.tokens_BTND)[0].flatten(1).any(dim=1)
    assert moved.tolist() == [True, True, False, False]  # one block sees one frame further


def upstream_xvit(model: Any, classifier: nn.Module) -> dict[str, Tensor]:
    """A state dict as its authors name the tensors."""
    renamed = {new: old for old, new in xvit.RENAMED.items() if new}
    state = {}
    for key, value in model.state_dict().items():
        new = next((n for n in renamed if key.startswith(n)), "")
        state[renamed.get(new, "base_model.") + key.removeprefix(new)] = value
    state["base_model.temp_embed"] = state.pop("base_model.time_embed")[:, :, None]
    for key, value in classifier.state_dict().items():
        state[f"consensus.mlp_head.4.{key}"] = value
        state[f"new_fc.{key}"] = torch.randn_like(value)  # built there, and not used
    return state


def test_upstream_checkpoint_of_xvit_loads() -> None:
    model = tiny("xvit")
    classifier = nn.Linear(16, 5)
    state = upstream_xvit(model, classifier)
    loaded = released.load(released.plain({"model_state": state}), heads=2)
    clip = torch.randn(2, 4, 3, 16, 16)
    with torch.no_grad():
        expected = classifier(model(clip).cls_BD)
        torch.testing.assert_close(loaded.model.eval()(clip), expected)


# From the command line --------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["motionformer", "xvit"])
def test_a_released_file_evaluates_without_a_config(
    name: str, data_dir: Path, tmp_path: Path
) -> None:
    data = next(data_dir.glob("mini-ssv2-*"))
    classifier = nn.Linear(16, len(shards.read_index(data)["classes"]))
    if name == "xvit":
        state = upstream_xvit(tiny(name, shift_div=8), classifier)
        given = {"heads": 2, "shift_div": 8}
    else:
        state = upstream_motionformer(tiny(name, tubelet=2, project_values=True), classifier)
        given = {"heads": 2, "project_values": True}
    file, out = tmp_path / "released.pyth", tmp_path / "rows.json"
    torch.save({"model_state": state, "epoch": 35}, file)
    options = [part for k, v in given.items() for part in ("--backbone", f"{k}={str(v).lower()}")]
    arguments = ["video.shuffle_gap", "--model", str(file), "--data", str(data), *options]
    arguments += ["--runs", str(tmp_path / "runs")]
    assert evaluate.main([*arguments, "--out", str(out), "--device", "cpu"]) == 0
    found = json.loads(out.read_text())
    assert found["backbone"]["name"] == name and given.items() <= found["backbone"].items()
    rows = [row for row in found["rows"] if row["subset"] == "all" and row["metric"] == "top1"]
    assert {"original", "shuffled", "gap"} <= {row["view"] for row in rows}


# Image weights ------------------------------------------------------------------------------------


def inflated(module: ModuleType, folder: Path, *, frames: int, size: int, **options: Any) -> Any:
    config = module.Config(patch=16, dim=192, depth=12, heads=3, init=VIT, **options)
    return module.build(config, frames=frames, size=size, weights=folder).eval()


def test_xvit_without_shift_starts_as_the_image_model_on_each_frame(vit_folder: Path) -> None:
    image_model = timm.create_model(
        VIT,
        pretrained=True,
        pretrained_cfg_overlay={"file": str(vit_folder / f"{VIT}.safetensors")},
        img_size=96,
    ).eval()
    model = inflated(xvit, vit_folder, frames=3, size=96, shift_blocks=0)
    clip = torch.randn(1, 3, 3, 96, 96)
    with torch.no_grad():
        expected = image_model.forward_features(clip[0])
        features = model(clip)
    torch.testing.assert_close(features.tokens_BTND[0], expected[:, 1:], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("module", [motionformer, xvit])
def test_inflation_keeps_what_no_image_model_has(module: ModuleType, vit_folder: Path) -> None:
    model = inflated(module, vit_folder, frames=2, size=32)
    source = timm.create_model(
        VIT,
        pretrained=True,
        pretrained_cfg_overlay={"file": str(vit_folder / f"{VIT}.safetensors")},
    )
    assert torch.equal(model.blocks[3].attn.qkv.weight, source.blocks[3].attn.qkv.weight)
    assert torch.equal(model.norm.bias, source.norm.bias)
    assert not model.time_embed.any()
    assert model.loaded_weights is not None and model.loaded_weights["name"] == VIT
    if module is motionformer:
        assert abs(model.blocks[3].attn.proj_q.weight.std().item() - 0.02) < 0.002
        assert abs(model.pre_logits.fc.weight.std().item() - 0.02) < 0.002
    with pytest.raises(ValueError, match=r"unexpected blocks\.11"):
        config = module.Config(patch=16, dim=192, depth=11, heads=3, init=VIT)
        module.build(config, frames=2, size=32, weights=vit_folder)


def test_tubelet_projection_is_the_images_on_the_middle_frame(vit_folder: Path) -> None:
    flat = inflated(motionformer, vit_folder, frames=2, size=32)
    model = inflated(motionformer, vit_folder, frames=4, size=32, tubelet=2)
    clip = torch.randn(1, 4, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(
            next(model.stages(clip)), next(flat.stages(clip[:, 1::2])), rtol=1e-4, atol=1e-4
        )


def test_defaults_are_the_released_ones() -> None:
    for module, drop_path in ((timesformer, 0.1), (motionformer, 0.2), (xvit, 0.0)):
        config = module.Config()
        assert (config.patch, config.dim, config.depth, config.heads) == (16, 768, 12, 12)
        assert config.drop_path == drop_path
    assert (motionformer.Config().tubelet, motionformer.Config().project_values) == (1, False)
    assert (xvit.Config().shift_div, xvit.Config().temporal_depth) == (4, 1)


def test_a_temporal_path_that_does_not_start_at_zero_is_kept_by_inflation() -> None:
    """And shifts nothing else: the same seed gives the same spatial weights."""
    from bench.models.backbones import timesformer, vit

    made = {}
    for std in (0.0, 0.1):
        torch.manual_seed(0)
        config = timesformer.Config.tiny().model_copy(
            update={"time_embed_std": std, "temporal_fc_std": std}
        )
        made[std] = timesformer.build(config, frames=4, size=16)
    zero, moved = (model.state_dict() for model in made.values())
    different = {name for name in zero if not torch.equal(zero[name], moved[name])}
    assert different == {"time_embed", *(n for n in zero if n.endswith("temporal_fc.weight"))}
    assert not any(zero[name].any() for name in different)
    assert 0.05 < float(moved["time_embed"].std()) < 0.15
    image = vit.build(vit.Config.tiny(), frames=1, size=16)
    timesformer.load_image_weights(made[0.1], vit.as_image_weights(image.state_dict()))
    inflated = made[0.1].state_dict()
    assert all(torch.equal(inflated[name], moved[name]) for name in different)
    assert torch.equal(inflated["pos_embed"], image.state_dict()["vit.pos_embed"])
