"""`python -m bench.evaluate image.*`: runs, timm models, shards, released trees, and every message."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from makers import ROOT, make_run
from PIL import Image

from bench import find, results
from bench.config.resources import Resources
from bench.data.access import prepare_data
from bench.data.imagenet9 import FOLDERS, IN9_OF_IMAGENET, MEAN, STD, VARIANTS
from bench.evaluate import command as evaluate
from bench.evaluate.context import context_for
from bench.grid.plan import plan
from bench.run.cell import run_cell
from bench.store.rundir import RunDir, State
from bench.train.learner import build

SHIFT, CHALLENGE = "image.background_shift", "image.background_challenge"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, data_dir: Path) -> RunDir:
    """The + TIME cell at the smallest scale, trained and evaluated."""
    cell = plan(ROOT / "sweeps/background.yaml", "smoke").cells[-1]
    made = make_run(tmp_path_factory.mktemp("runs"), cell.config, data_dir)
    assert run_cell(made.path) == State.DONE
    return made


@pytest.fixture(scope="module")
def shards(run: RunDir, data_dir: Path) -> Path:
    config = plan(ROOT / "sweeps/background.yaml", "smoke").cells[0].config.data
    return find.load("source", config.name).locate(config.config, data_dir)


@pytest.fixture
def tree(shards: Path, tmp_path: Path) -> Path:
    """A release to break."""
    return Path(shutil.copytree(shards / "bg_challenge", tmp_path / "bg_challenge"))


def call(name: str, model: Path | str, data: Path, runs: Path, *more: str) -> int:
    arguments = [name, "--model", str(model), "--data", str(data), "--runs", str(runs)]
    return evaluate.main([*arguments, "--device", "cpu", "--threads", "1", *more])


def rows_of(path: Path) -> dict[tuple[str, str, str], float]:
    """(split, view, subset) -> top1"""
    rows = rows_in(path)
    return {(r["split"], r["view"], r["subset"]): r["value"] for r in rows if r["metric"] == "top1"}


def rows_in(path: Path) -> list[dict[str, Any]]:
    return list(json.loads(path.read_text())["rows"])


def timm_file(folder: Path, name: str, **options: Any) -> Path:
    torch.manual_seed(0)
    path = folder / f"{name}.safetensors"
    safetensors.torch.save_file(timm.create_model(name, **options).state_dict(), path)
    return path


def test_a_released_tree_gives_the_numbers_of_its_shards(
    run: RunDir, shards: Path, tmp_path: Path
) -> None:
    out = tmp_path / "rows.json"
    for name in (SHIFT, CHALLENGE):
        assert call(name, run.path, shards / "bg_challenge", tmp_path, "--out", str(out)) == 0
        released = rows_of(out)
        assert call(name, run.path, shards, tmp_path, "--out", str(out)) == 0
        stored = {key: value for key, value in rows_of(out).items() if key[0] == "test"}
        assert released == stored and released


def test_the_gap_is_the_difference_of_its_variants(run: RunDir) -> None:
    value = {
        (r["view"], r["subset"]): r["value"] for r in run.read_rows() if r["evaluation"] == SHIFT
    }
    for subset in ("all", "class: dog"):
        gap = value["mixed_same", subset] - value["mixed_rand", subset]
        assert value["bg_gap", subset] == pytest.approx(gap)


def test_a_run_keeps_what_the_figures_need(run: RunDir) -> None:
    [folder] = [run.evaluation(one) for one in run.measured() if one.startswith(SHIFT)]
    kept = {str(p.relative_to(folder.pictures)) for p in folder.pictures.rglob("*.png")}
    for label in range(len(FOLDERS)):
        for picture in (*VARIANTS, "fg_mask"):
            assert f"{SHIFT}/{label:02d}/{picture}.png" in kept
    assert not run.scratch.exists()


def images_of(tree: Path, variant: str) -> Iterator[tuple[int, np.ndarray]]:
    """Label and pixels of every image of a variant, from its files alone."""
    for path in sorted((tree / variant.removesuffix("_mean") / "val").rglob("*.JPEG")):
        if variant == "only_fg_mean":
            path = tree / "original" / path.relative_to(tree / "only_fg")
        image = np.array(Image.open(path).convert("RGB"))
        if variant == "only_fg_mean":
            folder = tree / "fg_mask" / path.relative_to(tree / "original").parent
            mask = np.load(folder / f"{path.stem}.npy")
            image[mask == 0] = [round(255 * value) for value in MEAN]
        yield FOLDERS.index(path.parent.name), image


def test_a_timm_model_is_counted_through_the_mapping_with_its_own_normalisation(
    shards: Path, tmp_path: Path
) -> None:
    """Against a loop over the files that knows nothing of this project's loading."""
    file = timm_file(tmp_path, "test_vit")
    out = tmp_path / "rows.json"
    data = shards / "bg_challenge"
    arguments = (SHIFT, f"timm:test_vit@{file}", data, tmp_path, "--out", str(out))
    assert call(*arguments, "--official") == 2  # built for 160 pixels, the images have 24
    assert call(*arguments) == 0
    found = {(r["view"], r["metric"]): r["value"] for r in reversed(rows_in(out))}  # `all` is first
    model = timm.create_model("test_vit", checkpoint_path=str(file)).eval()
    cfg = model.pretrained_cfg
    size, shape = cfg["input_size"][-1], (1, 3, 1, 1)
    mean, std = (torch.tensor(cfg[name]).view(shape) for name in ("mean", "std"))
    for variant in (*VARIANTS, "only_fg_mean"):
        right, called = [], []
        for label, pixels in images_of(data, variant):
            image = torch.from_numpy(pixels).permute(2, 0, 1)[None].float()
            image = torch.nn.functional.interpolate(
                image, (size, size), mode="bilinear", antialias=True
            ).round()
            with torch.no_grad():
                top = int(model((image / 255 - mean) / std).argmax())
            called.append(int(IN9_OF_IMAGENET[top]))
            right.append(called[-1] == label)
        assert found[variant, "top1"] == np.mean(right)
        if variant in ("only_fg", "only_fg_mean"):
            most = max(called.count(k) for k in range(9))
            assert found[variant, "top_share"] == most / len(called)


def test_on_the_mean_colour_are_those_that_have_a_mask(
    run: RunDir, tree: Path, tmp_path: Path
) -> None:
    out, counts = tmp_path / "rows.json", []
    for remove in (
        lambda: next((tree / "fg_mask").rglob("*.npy")).unlink(),
        lambda: no_masks(tree),
    ):
        remove()
        assert call(SHIFT, run.path, tree, tmp_path, "--again", "--out", str(out)) == 0
        counts.append({r["view"]: r["n"] for r in rows_in(out) if r["subset"] == "all"})
    assert counts[0]["only_fg_mean"] == counts[0]["original"] - 1
    assert set(counts[1]) == {*VARIANTS, "bg_gap"}


def test_official_normalises_for_all_models_alike() -> None:
    for name in (SHIFT, CHALLENGE):
        official = find.load("evaluation", name).official_normalisation
        assert official(9) == (MEAN, STD) and official(10) is None
        assert official(1000)[0] == (0.485, 0.456, 0.406)


def test_a_named_model_joins_the_results_of_the_report(
    run: RunDir, shards: Path, tmp_path: Path
) -> None:
    file = timm_file(tmp_path, "test_resnet")
    for name in (SHIFT, CHALLENGE):
        assert call(name, f"timm:test_resnet@{file}", shards, tmp_path, "--name", "My net") == 0
    frame = results.load(tmp_path)
    assert set(frame["model"]) == {"My net"} and set(frame["evaluation"]) == {SHIFT, CHALLENGE}
    assert {"original", "bg_gap", "challenge"} <= set(frame["view"])
    before = sorted((tmp_path / "evaluated").rglob("*.json"))
    assert call(SHIFT, f"timm:test_resnet@{file}", shards, tmp_path, "--name", "My net") == 0
    assert sorted((tmp_path / "evaluated").rglob("*.json")) == before  # the same question, one file


def lacks_variants(tree: Path) -> str:
    shutil.rmtree(tree / "no_fg"), shutil.rmtree(tree / "mixed_next")
    return "mixed_next, no_fg"


def corrupt(tree: Path) -> str:
    path = sorted((tree / "only_fg").rglob("*.JPEG"))[3]
    path.write_bytes(path.read_bytes()[:100])
    return path.name


def empty_class(tree: Path) -> str:
    shutil.rmtree(tree / "only_fg/val/02_wheeled vehicle")
    return "02_wheeled vehicle"


@pytest.mark.parametrize("damage", [lacks_variants, corrupt, empty_class])
def test_a_broken_release_gets_one_message(
    damage: Any, run: RunDir, tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    named = damage(tree)
    runs = tmp_path / "kept"
    assert call(SHIFT, run.path, tree, runs) == 2
    error = capsys.readouterr().err
    assert named in error and error.count("python -m bench.evaluate:") == 1
    assert "Traceback" not in error and not runs.exists()


def wrong_size(tree: Path) -> str:
    path = sorted((tree / "fg_mask").rglob("*.npy"))[2]
    np.save(path, np.ones((5, 7), np.uint8))
    return path.stem


def no_masks(tree: Path) -> str:
    shutil.rmtree(tree / "fg_mask")
    return "fg_mask"


def not_binary(tree: Path) -> str:
    path = sorted((tree / "fg_mask").rglob("*.npy"))[0]
    np.save(path, 255 * np.load(path))
    return path.stem


@pytest.mark.parametrize("damage", [wrong_size, no_masks, not_binary])
def test_a_broken_mask_gets_one_message(
    damage: Any, run: RunDir, tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    named = damage(tree)
    assert call(CHALLENGE, run.path, tree, tmp_path / "kept") == 2
    error = capsys.readouterr().err
    assert named in error and "Traceback" not in error


def test_a_model_of_another_kind_gets_one_message(
    run: RunDir, shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = timm_file(tmp_path, "test_resnet", num_classes=10)
    cases = {
        (SHIFT, f"timm:test_resnet@{file}"): "10 classes",
        (SHIFT, "timm:resnet5"): "resnet50",
        (SHIFT, "timm:test_vit@nowhere.pth"): "nowhere.pth",
        ("video.shuffle_gap", str(run.path)): "no frames to shuffle",
        (SHIFT, "runs/nothing"): "timm:",
    }
    for (name, model), message in cases.items():
        assert call(name, model, shards, tmp_path / "kept") == 2
        error = capsys.readouterr().err
        assert message in error and "Traceback" not in error
    for folder in (tmp_path, tmp_path / "nothing", shards / "train"):
        assert call(SHIFT, run.path, folder, tmp_path / "kept") == 2
        error = capsys.readouterr().err
        assert str(folder) in error and "Traceback" not in error
    assert not (tmp_path / "kept").exists()


# -- images of many sizes ---


class MixedSizes:
    """Images of which no two neighbours have one size."""

    classes = ("a", "b")

    def __init__(self, length: int) -> None:
        self.keys = [f"k{i}" for i in range(length)]
        self.labels = np.arange(length) % 2
        self.drawn = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)

    def __len__(self) -> int:
        return len(self.keys)

    def num_frames(self, i: int) -> int:
        return 1

    def frames(self, i: int, indices: np.ndarray) -> np.ndarray:
        return self.drawn[None, : 30 + i % 7, : 40 + i % 11]


def test_images_of_many_sizes_reach_the_model_in_full_batches(data_dir: Path) -> None:
    """One by one they took the model 32 times as many calls."""
    samples = MixedSizes(50)
    config = plan(ROOT / "sweeps/background.yaml", "smoke").cells[0].config
    prepare_data(config, data_dir)
    resources = Resources(data_dir=str(data_dir), device="cpu")
    context = context_for(
        config, resources, build(config, weights_dir=None).classifier, lambda _: None
    )
    context = replace(context, open_split=lambda _: samples, batch=16)
    batches = list(context.whole_images("val"))
    assert max(len(batch.keys) for batch in batches) == 16
    assert len(batches) <= 5 and [key for b in batches for key in b.keys] == samples.keys
    shown = torch.cat([batch.clip_BTCHW for batch in batches])
    for i in (0, 17, 49):
        alone = context.to_clip(torch.from_numpy(samples.frames(i, np.zeros(1))))
        assert torch.equal(shown[i], alone[0])
