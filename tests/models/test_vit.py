"""The image backbone: timm's own numbers, its tokens, its positions, and where its weights go."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from einops import rearrange
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from timm.layers import resample_abs_pos_embed
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from bench.models.backbones import vit

CLASSES = 9
# patch, dim, depth, heads of one of every kind
SMALL = {
    "test_vit": (16, 64, 6, 2),  # a class token
    "test_vit2": (16, 64, 8, 2),  # no class token but a mean, with its norm; register, layer scale
    "test_vit3": (16, 96, 9, 3),  # attention pooling
    "test_vit4": (16, 96, 9, 3),  # RMS norms
    "deit_tiny_distilled_patch16_224": (16, 192, 12, 3),  # class and distillation token
    "vit_wee_patch16_reg1_gap_256": (16, 256, 14, 4),  # a register token without position
    "vit_pwee_patch16_reg1_gap_256": (16, 256, 16, 4),  # attention and MLP in parallel
    "vit_tiny_r_s16_p8_224": (32, 192, 12, 3),  # patches from a ResNet
}


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def _config(name: str, **changes: Any) -> vit.Config:
    patch, dim, depth, heads = SMALL[name]
    return vit.Config(
        timm=name, patch=patch, dim=dim, depth=depth, heads=heads, drop_path=0.0
    ).model_copy(update=changes)


def _perturbed(model: Any) -> Any:
    """Every parameter has a value, as after training: none hides behind a zero or a one."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def _tiny(*, size: int = 24, **changes: Any) -> vit.ViT:
    config = vit.Config.tiny().model_copy(update={"drop_path": 0.0, **changes})
    return _perturbed(vit.build(config, frames=1, size=size))


# timm's numbers -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SMALL)
def test_features_are_those_of_timm_on_the_same_weights(name: str) -> None:
    size = 2 * SMALL[name][0]
    theirs = _perturbed(timm.create_model(name, img_size=size, num_classes=CLASSES))
    ours = vit.build(_config(name), frames=1, size=size).eval()
    vit.load_image_weights(ours, theirs.state_dict())
    image = torch.randn(2, 3, size, size)
    features = ours(image[:, None])
    tokens = theirs.forward_features(image)
    torch.testing.assert_close(
        features.cls_BD, theirs.forward_head(tokens, pre_logits=True), rtol=0, atol=1e-6
    )
    torch.testing.assert_close(
        features.tokens_BTND[:, 0],
        theirs.fc_norm(tokens[:, theirs.num_prefix_tokens :]),
        rtol=0,
        atol=1e-6,
    )
    assert features.tokens_BTND.shape == (2, 1, 4, ours.dim)
    stages = list(ours.stages(image[:, None]))
    assert len(stages) == len(theirs.blocks) + 1
    torch.testing.assert_close(
        ours.vit.fc_norm(ours.vit.norm(stages[-1])), features.tokens_BTND, rtol=0, atol=1e-6
    )


def test_logits_of_timms_classifier_on_our_features_are_timms() -> None:
    theirs = _perturbed(timm.create_model("deit_tiny_distilled_patch16_224", num_classes=CLASSES))
    ours = vit.build(_config("deit_tiny_distilled_patch16_224"), frames=1, size=224).eval()
    vit.load_image_weights(ours, theirs.state_dict())
    theirs.head_dist.load_state_dict(theirs.head.state_dict())  # then the mean of both is linear
    image = torch.randn(2, 3, 224, 224)
    logits = theirs.head(ours(image[:, None]).cls_BD)
    torch.testing.assert_close(logits, theirs(image), rtol=0, atol=1e-5)


def test_the_default_is_deit_s() -> None:
    config = vit.Config()
    assert vit.skip(config, frames=1, size=224) is None
    with torch.device("meta"):
        ours = vit.build(config, frames=1, size=224).vit.state_dict()
        theirs = timm.create_model("deit_small_patch16_224", num_classes=0).state_dict()
    assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in theirs.items()}


@pytest.mark.parametrize("std", [0.02, 0.1])
@pytest.mark.parametrize("name", [None, "deit_tiny_distilled_patch16_224"])
def test_init_std_is_that_of_every_linear_map_and_embedding(name: str | None, std: float) -> None:
    config = vit.Config(dim=192, depth=2, heads=3, init_std=std)
    if name is not None:
        config = _config(name, init_std=std)
    model = vit.build(config, frames=1, size=224).vit
    drawn = [model.pos_embed, model.blocks[0].attn.qkv.weight, model.blocks[1].mlp.fc2.weight]
    for tensor in [*drawn, model.cls_token]:
        assert tensor.std().item() == pytest.approx(std, rel=0.3)
    assert not model.blocks[0].attn.qkv.bias.any()


# Positions ----------------------------------------------------------------------------------------


def _permuted(clip: Tensor, order: Tensor, patch: int) -> Tensor:
    side = clip.shape[-1] // patch
    patches = rearrange(
        clip, "b t c (h p) (w q) -> b t (h w) c p q", h=side, w=side, p=patch, q=patch
    )
    return rearrange(patches[:, :, order], "b t (h w) c p q -> b t c (h p) (w q)", h=side, w=side)


@settings(max_examples=15, deadline=None)
@given(order=st.permutations(range(9)), heads=st.sampled_from([1, 2, 4]), depth=st.integers(1, 3))
def test_without_positions_the_patches_are_a_set(order: list[int], heads: int, depth: int) -> None:
    model = _tiny(heads=heads, depth=depth)
    clip, moved = torch.randn(2, 1, 3, 24, 24), torch.tensor(order)
    features = model(clip, positions=False)
    permuted = model(_permuted(clip, moved, model.patch), positions=False)
    torch.testing.assert_close(permuted.cls_BD, features.cls_BD, rtol=0, atol=1e-5)
    torch.testing.assert_close(
        permuted.tokens_BTND, features.tokens_BTND[:, :, moved], rtol=0, atol=1e-5
    )
    if order != sorted(order):
        with_positions = model(_permuted(clip, moved, model.patch))
        difference = with_positions.tokens_BTND - model(clip).tokens_BTND[:, :, moved]
        assert difference.abs().max() > 1e-3


@pytest.mark.parametrize("name", ["deit_tiny_distilled_patch16_224", "test_vit2", "test_vit4"])
def test_without_positions_in_timms_other_vits(name: str) -> None:
    model = _perturbed(vit.build(_config(name), frames=1, size=48))
    clip, order = torch.randn(2, 1, 3, 48, 48), torch.tensor([4, 0, 8, 1, 7, 2, 6, 3, 5])
    features = model(clip, positions=False)
    permuted = model(_permuted(clip, order, 16), positions=False)
    torch.testing.assert_close(permuted.cls_BD, features.cls_BD, rtol=0, atol=1e-5)
    torch.testing.assert_close(
        permuted.tokens_BTND, features.tokens_BTND[:, :, order], rtol=0, atol=1e-5
    )


def test_the_class_token_keeps_its_position() -> None:
    model, clip = _tiny(), torch.randn(2, 1, 3, 24, 24)
    before = model(clip, positions=False).cls_BD
    with torch.no_grad():
        model.vit.pos_embed[:, 1:] += 1.0
    assert torch.equal(model(clip, positions=False).cls_BD, before)
    with torch.no_grad():
        model.vit.pos_embed[:, 0] += torch.randn(16)
    assert (model(clip, positions=False).cls_BD - before).abs().max() > 1e-3


def test_gradients_reach_every_parameter() -> None:
    model = _tiny().train()
    features = model(torch.randn(2, 1, 3, 24, 24))
    (features.cls_BD.square().sum() + features.tokens_BTND.square().sum()).backward()
    assert all(p.grad is not None and p.grad.any() for p in model.parameters())


# Weights ------------------------------------------------------------------------------------------

VIT, DISTILLED = "test_vit.r160_in1k", "deit_tiny_distilled_patch16_224.fb_in1k"
GAP = "vit_wee_patch16_reg1_gap_256.sbb_in1k"  # its register token has no position
STORED = (VIT, DISTILLED, GAP, "test_vit3.r160_in1k")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    for name in STORED:
        save_file(timm.create_model(name).state_dict(), folder / f"{name}.safetensors")
    return folder


@pytest.mark.parametrize("name", STORED)
def test_image_weights_are_found_under_their_name_and_written_down(
    name: str, weights: Path
) -> None:
    config = _config(name.partition(".")[0], init=name)
    assert vit.missing(config, weights) is None
    size = timm.get_pretrained_cfg(name).input_size[1]
    model = vit.build(config, frames=1, size=size, weights=weights).eval()
    theirs = timm.create_model(name, num_classes=0).eval()
    assert model.loaded_weights is not None
    assert model.loaded_weights["name"] == name and len(model.loaded_weights["sha256"]) == 64
    state = {k: v for k, v in load_file(weights / f"{name}.safetensors").items() if "head" not in k}
    theirs.load_state_dict(state)
    image = torch.randn(2, 3, size, size)
    torch.testing.assert_close(model(image[:, None]).cls_BD, theirs(image), rtol=0, atol=1e-6)


def test_a_plain_vit_loads_without_naming_the_architecture(weights: Path) -> None:
    name = "vit_tiny_patch16_224.augreg_in21k"
    state = timm.create_model(name, num_classes=0).state_dict()
    torch.save(state, weights / f"{name}.pth")
    config = vit.Config(dim=192, depth=12, heads=3, init=name)
    model = vit.build(config, frames=1, size=64, weights=weights)
    named = config.model_copy(update={"timm": "vit_tiny_patch16_224"})
    same = vit.build(named, frames=1, size=64, weights=weights)
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, same.state_dict()[key]), key


@pytest.mark.parametrize(("name", "first"), [(VIT, 1), (DISTILLED, 2), (GAP, 0)])
def test_positions_are_resized_to_the_grid_as_timm_does_it(
    name: str, first: int, weights: Path
) -> None:
    config = _config(name.partition(".")[0], init=name)
    model = vit.build(config, frames=1, size=64, weights=weights)
    stored = load_file(weights / f"{name}.safetensors")["pos_embed"]
    expected = resample_abs_pos_embed(stored, [4, 4], num_prefix_tokens=first)
    assert torch.equal(model.vit.pos_embed, expected)
    assert torch.equal(model.vit.pos_embed[:, :first], stored[:, :first])


def test_a_state_dict_round_trips_through_a_file(tmp_path: Path) -> None:
    config = _config("deit_tiny_distilled_patch16_224")
    one = _perturbed(vit.build(config, frames=1, size=32))
    torch.save(one.state_dict(), tmp_path / "state.pth")
    other = vit.build(config, frames=1, size=32).eval()
    other.load_state_dict(torch.load(tmp_path / "state.pth", weights_only=True))
    clip = torch.randn(2, 1, 3, 32, 32)
    assert torch.equal(one(clip).cls_BD, other(clip).cls_BD)


def test_weights_that_do_not_fit_are_refused(weights: Path, tmp_path: Path) -> None:
    state = load_file(weights / f"{DISTILLED}.safetensors")
    del state["dist_token"]
    state["surplus"] = torch.zeros(1)
    save_file(state, tmp_path / f"{DISTILLED}.safetensors")
    config = _config("deit_tiny_distilled_patch16_224", init=DISTILLED)
    with pytest.raises(ValueError, match=r"missing dist_token(.|\n)*unexpected surplus"):
        vit.build(config, frames=1, size=32, weights=tmp_path)
    with pytest.raises(ValueError, match="SHA-256"):
        wrong = config.model_copy(update={"init_sha256": "0" * 64})
        vit.build(wrong, frames=1, size=32, weights=weights)
    # A ViT with a distillation token is no plain ViT, and the message says where it belongs.
    plain = vit.Config(dim=192, depth=12, heads=3, init=DISTILLED)
    with pytest.raises(ValueError, match="timm: deit_tiny_distilled_patch16_224"):
        vit.build(plain, frames=1, size=32, weights=weights)


# Impossible models --------------------------------------------------------------------------------


def test_what_cannot_be_is_said_before_anything_is_built() -> None:
    tiny = vit.Config.tiny()
    assert vit.skip(tiny, frames=1, size=16) is None
    both = vit.skip(tiny, frames=8, size=20)
    assert both == (
        "a ViT sees one image: set input.frames: 1; "
        "frames of 20 pixels do not divide into patches of 8"
    )
    with pytest.raises(ValueError, match=r"vit: a ViT sees one image"):
        vit.build(tiny, frames=2, size=16)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"dim": 384, "heads": 6}, "another dim and heads .* patch: 16, dim: 192, depth: 12, heads: 3"),
        ({"timm": "deit_tiny_patch16_225"}, "did you mean deit_tiny_patch16_224"),
        ({"timm": "resnet50"}, "is a ResNet, and this backbone is for timm's ViTs"),
        ({"timm": DISTILLED}, f"`timm: deit_tiny_distilled_patch16_224`.*`init: {DISTILLED}`"),
        ({"init": "deit_tiny_patch16_224.fb_in1k"}, "weights of deit_tiny_patch16_224, but timm is"),
        ({"mlp_ratio": 2.0}, "mlp_ratio is of plain ViTs only"),
    ],
)  # fmt: skip
def test_a_timm_name_that_contradicts_the_config(changes: dict[str, Any], reason: str) -> None:
    config = _config("deit_tiny_distilled_patch16_224", **changes)
    said = vit.skip(config, frames=1, size=224)
    assert said is not None and re.search(reason, said), said


def test_clips_of_another_shape_are_refused() -> None:
    model = _tiny()
    with pytest.raises(ValueError, match="one image at a time, got clips of 2 frames"):
        model(torch.zeros(1, 2, 3, 24, 24))
    with pytest.raises(ValueError, match="built for 24 x 24 pixels, got 32 x 32"):
        model(torch.zeros(1, 1, 3, 32, 32))


def test_every_vit_of_timm_is_accepted_with_its_own_numbers() -> None:
    """Whatever its tokens, norms, pooling and blocks: one of each kind that is not above."""
    for name in (
        "vit_small_patch14_reg4_dinov2",
        "vit_base_patch16_clip_224",
        "vit_base_patch16_siglip_224",
        "deit3_small_patch16_224",
        "vit_small_patch16_18x2_224",
        "vit_base_patch16_rpn_224",
        "vit_small_r26_s32_224",
    ):
        said = vit.skip(vit.Config.tiny().model_copy(update={"timm": name}), frames=1, size=8)
        assert said is not None and "write patch: " in said
        numbers = dict(part.split(": ") for part in said.partition("write ")[2].split(", "))
        config = vit.Config(timm=name, **{k: int(v) for k, v in numbers.items()})
        size = 2 * config.patch
        with torch.device("meta"):
            model = vit.build(config, frames=1, size=size)
            features = model(torch.empty(2, 1, 3, size, size))
        assert isinstance(model.vit, VisionTransformer)
        assert features.cls_BD.shape == (2, config.dim)
        assert features.tokens_BTND.shape == (2, 1, 4, config.dim)
