"""`bench.evaluate --model <adapter>:<name>`: models of others on videos, and the messages."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import timm
import torch
from makers import ROOT
from safetensors.torch import save_file

from bench import find
from bench.evaluate import command as evaluate
from bench.evaluate.model import label
from bench.grid.plan import plan


@pytest.fixture(scope="module")
def shards(data_dir: Path) -> Path:
    config = plan(ROOT / "sweeps/ablation.yaml", "smoke").cells[0].config.data
    return find.load("source", config.name).locate(config.config, data_dir)


def classes(shards: Path) -> int:
    return len(json.loads((shards / "index.json").read_text())["classes"])


def call(name: str, model: str, shards: Path, runs: Path, *more: str) -> int:
    where = ["--data", str(shards), "--runs", str(runs), "--out", str(runs / "out.json")]
    machine = ["--device", "cpu", "--threads", "1"]
    return evaluate.main([name, "--model", model, *where, *machine, *more])


@pytest.fixture(scope="module")
def frame_wise(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("timm") / "test_vit.safetensors"
    model = timm.create_model("test_vit", num_classes=classes(shards))
    with torch.no_grad():
        model.head.weight.normal_()
    save_file(model.state_dict(), file)
    return f"timm:test_vit@{file}"


def test_a_timm_model_on_videos_is_the_frozen_frame_baseline(
    frame_wise: str, shards: Path, tmp_path: Path
) -> None:
    more = ("--frames", "4", "--set", "permutations=1")
    assert call("video.shuffle_gap", frame_wise, shards, tmp_path, *more) == 0
    written = json.loads((tmp_path / "out.json").read_text())
    gaps = [row["value"] for row in written["rows"] if row["view"] == "gap"]
    assert gaps and not any(gaps)
    still = [r["value"] for r in written["rows"] if r["view"] in ("original", "single_frame")]
    assert len(set(still)) > 2
    assert written["on_clips"] == "logits of its frames, averaged"


def test_the_order_of_frames_cannot_be_read_off_a_frame_wise_model_but_by_content(
    frame_wise: str, shards: Path, tmp_path: Path
) -> None:
    more = ("--frames", "4", "--set", "clips=4", "--set", "iterations=5")
    assert call("video.order_probe", frame_wise, shards, tmp_path, *more) == 0
    rows = json.loads((tmp_path / "out.json").read_text())["rows"]
    layers = {row["subset"] for row in rows}
    assert len(layers) == len(timm.create_model("test_vit").blocks)


@pytest.mark.parametrize(
    ("model", "more", "texts"),
    [
        ("nothing", (), ("neither a run directory nor a checkpoint file", "timm:", "hf:")),
        ("tim:test_vit", (), ("did you mean 'timm'",)),
        ("timm:test_vit", ("--size", "32", "--heads", "2"), ("no --size, no --backbone and",)),
        ("hf:nowhere", ("--by-position",), ("one of hf:", "no --by-position")),
        ("hf:nowhere", (), ("no config.json there",)),
    ],
)
def test_wrong_use_gets_one_message_and_writes_nothing(
    model: str,
    more: tuple[str, ...],
    texts: tuple[str, ...],
    shards: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert call("video.shuffle_gap", model, shards, tmp_path / "kept", *more) == 2
    error = capsys.readouterr().err
    assert all(text in error for text in texts), error
    assert error.count("python -m bench.evaluate:") == 1 and "Traceback" not in error
    assert not (tmp_path / "kept").exists()


def test_tables_call_a_model_without_the_folders_of_its_files(tmp_path: Path) -> None:
    (tmp_path / "a:b").mkdir()
    for given, shown in {
        "/runs/0123": "0123",
        "hf:/models/videomae-base": "hf:videomae-base",
        "timm:resnet50@/x/y.pth": "timm:resnet50@y.pth",
        "timm:resnet50.a1_in1k": "timm:resnet50.a1_in1k",
        f"{tmp_path}/a:b": "a:b",
    }.items():
        assert label(given) == shown
