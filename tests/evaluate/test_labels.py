"""Classes of a model and of the data are matched by name: permuted, refused, or said to be unverified."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from makers import ROOT
from safetensors.torch import load_file, save_file

from bench import find
from bench.data.access import open_data
from bench.data.transforms import eval_clip, eval_indices, normalise
from bench.evaluate import command as evaluate
from bench.evaluate.labels import BY_POSITION, match, read_names
from bench.grid.plan import plan
from bench.models.named import Asked

SSV2 = (
    "Pushing [something] from left to right",
    "Pushing [something] from right to left",
    "Pretending to put [something] on a surface",
    "Putting [something similar to other things] on the table",
)


def decorated(name: str, how: int) -> str:
    """The spellings of one class that labs' files have."""
    return (
        name.replace("[", "").replace("]", ""),
        name.lower().replace(" ", "_"),
        name.replace("[", "(").replace("]", ")").upper(),
        f"  {name}.",
    )[how]


@given(st.permutations(range(len(SSV2))), st.lists(st.integers(0, 3), min_size=4, max_size=4))
def test_spellings_and_orders_are_undone(order: Sequence[int], how: Sequence[int]) -> None:
    model = [decorated(SSV2[k], h) for k, h in zip(order, how, strict=True)]
    found, text = match(model, SSV2)
    assert [order[place] for place in found] == list(range(len(SSV2)))
    moved = sum(place != number for number, place in enumerate(found))
    assert (f"{moved} of 4 logits moved" if moved else "in the same order") in text


def test_names_of_releases_are_known() -> None:
    classes = (
        find.load("source", "imagenet9").spec(find.load("source", "imagenet9").Config()).classes
    )
    short = [name.split()[-1] for name in classes]  # the challenge's own tables
    folders = [f"{number:02d}_{name}" for number, name in enumerate(classes)]
    for names in (short, folders):
        assert match(names[::-1], classes)[0] == tuple(range(len(classes)))[::-1]
    assert match(["barbecuing", "a"], ["a", "barbequing"])[0] == (1, 0)


@pytest.mark.parametrize(
    ("model", "texts"),
    [
        (["a", "b", "x"], ("only the model has 'x'", "only the data have 'c'", "--labels FILE")),
        (["a", "b", "c", "d"], ("4 and 3 classes", "only the model has 'd'")),
        (["a", "A", "c"], ("more than one class called 'a', 'A'", "only the data have 'b'")),
        ([f"m{i}" for i in range(9)], ("'m5' and 3 more",)),
    ],
)
def test_what_does_not_agree_is_refused_with_the_names(
    model: list[str], texts: tuple[str, ...]
) -> None:
    with pytest.raises(ValueError) as caught:
        match(model, ["a", "b", "c"])
    assert all(text in str(caught.value) for text in texts), caught.value


def test_files_of_names(tmp_path: Path) -> None:
    file = tmp_path / "labels"
    for text in (
        "a b\n\nc\n",
        '["a b", "c"]',
        '{"1": "c", "0": "a b"}',
        '{"c": 1, "a b": "0"}',  # as in labels.json of Something-Something
        '{"model_type": "x", "id2label": {"0": "a b", "1": "c"}}',
    ):
        file.write_text(text)
        assert read_names(file, 2) == ("a b", "c")
    for text, message in {
        "a\nb\nc": "names 3 classes, the model has 2",
        '{"a": 0, "b": 2}': "the numbers 0, 1, ... of their classes",
        '["a", 1]': "a list of names",
        '{"a"': "labels: ",
    }.items():
        file.write_text(text)
        with pytest.raises(ValueError, match=message) as caught:
            read_names(file, 2)
        assert str(file) in str(caught.value)
    with pytest.raises(ValueError, match="cannot be read"):
        read_names(tmp_path / "nothing", 2)


# On the command line ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shards(data_dir: Path) -> Path:
    config = plan(ROOT / "sweeps/ablation.yaml", "smoke").cells[0].config.data
    return find.load("source", config.name).locate(config.config, data_dir)


@pytest.fixture(scope="module")
def saved(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A VideoMAE that names the data's classes as they are."""
    transformers = pytest.importorskip("transformers")
    classes = open_data(shards).spec.classes
    torch.manual_seed(0)
    config = transformers.VideoMAEConfig(
        image_size=16, patch_size=8, num_frames=4, hidden_size=16, num_hidden_layers=2,
        num_attention_heads=2, intermediate_size=32, initializer_range=0.5,
        id2label=dict(enumerate(classes)), label2id={name: i for i, name in enumerate(classes)},
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("named") / "model"
    transformers.VideoMAEForVideoClassification(config).save_pretrained(folder)
    size = {"height": 16, "width": 16}
    processor = transformers.VideoMAEVideoProcessor(size={"shortest_edge": 18}, crop_size=size)
    processor.save_pretrained(folder)
    return folder


def permuted(saved: Path, folder: Path) -> Path:
    """The same model as another lab would have trained it: classes in another order and spelling."""
    shutil.copytree(saved, folder)
    config = json.loads((folder / "config.json").read_text())
    order = list(range(len(config["id2label"])))
    random.Random(1).shuffle(order)
    named = {str(k): config["id2label"][str(old)] for k, old in enumerate(order)}
    config["id2label"] = {k: name.upper().replace(" ", "_") for k, name in named.items()}
    config["label2id"] = {name: int(k) for k, name in config["id2label"].items()}
    (folder / "config.json").write_text(json.dumps(config))
    state = load_file(folder / "model.safetensors")
    for key in ("classifier.weight", "classifier.bias"):
        state[key] = state[key][order].contiguous()
    save_file(state, folder / "model.safetensors")
    return folder


def call(folder: Path, data: Path, runs: Path, *more: str) -> int:
    where = ["--runs", str(runs), "--out", str(runs / "out.json"), "--device", "cpu"]
    where += ["--set", "permutations=1", "--threads", "1"]
    name = "video.shuffle_gap"
    return evaluate.main([name, "--model", f"hf:{folder}", "--data", str(data), *where, *more])


def result(runs: Path) -> dict[str, Any]:
    return json.loads((runs / "out.json").read_text())


def test_a_permuted_model_gives_the_same_numbers_and_says_how(
    saved: Path, shards: Path, tmp_path: Path
) -> None:
    assert call(saved, shards, tmp_path / "one") == 0
    assert call(permuted(saved, tmp_path / "model"), shards, tmp_path / "two") == 0
    one, two = result(tmp_path / "one"), result(tmp_path / "two")
    assert one["rows"] == two["rows"] and one["labels"] == "by name: the same, in the same order"
    assert two["labels"].startswith("by name (signs and case aside): ")
    assert len({row["value"] for row in one["rows"]}) > 3


@torch.no_grad()
def test_predictions_are_those_of_the_library(saved: Path, shards: Path, tmp_path: Path) -> None:
    """Against a loop that knows nothing of the evaluation's: transformers' class on each clip."""
    transformers = pytest.importorskip("transformers")
    assert call(saved, shards, tmp_path) == 0
    (file,) = (tmp_path / "evaluated").rglob("predictions.parquet")
    kept = pd.read_parquet(file).query("view == 'original'").set_index("key")
    model = transformers.AutoModelForVideoClassification.from_pretrained(saved).eval()
    made = find.load("adapter", "hf").load(str(saved), Asked())
    found = open_data(shards)
    samples = found.open(found.splits[0])
    for i, key in enumerate(list(samples.keys)[:5]):
        (indices,) = eval_indices(samples.num_frames(i), made.input)
        clip = torch.from_numpy(eval_clip(samples.frames(i, indices), made.input))[None]
        theirs = model(pixel_values=normalise(clip, made.mean, made.std)).logits.softmax(-1)[0]
        assert kept.loc[key, "top5"][0] == int(theirs.argmax())
        assert kept.loc[key, "confidence"] == pytest.approx(float(theirs.max()), abs=1e-5)


def test_names_of_a_file_count_before_the_models(
    saved: Path, shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = tmp_path / "labels.txt"
    classes = open_data(shards).spec.classes
    labels.write_text("\n".join(classes[::-1]))
    assert call(saved, shards, tmp_path, "--labels", str(labels)) == 0
    assert result(tmp_path)["labels"].endswith("from labels.txt")
    assert "classes matched by name" in capsys.readouterr().err
    labels.write_text("\n".join(("other", *classes[1:])))
    assert call(saved, shards, tmp_path / "kept", "--labels", str(labels)) == 2
    error = capsys.readouterr().err
    assert "only the model has 'other'" in error and str(labels) in error
    assert not (tmp_path / "kept").exists()


def test_without_names_it_is_by_position_and_said_to_be(
    saved: Path, shards: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(saved, tmp_path / "model"))
    config = json.loads((folder / "config.json").read_text())
    config["id2label"] = {k: f"LABEL_{k}" for k in config["id2label"]}
    (folder / "config.json").write_text(json.dumps(config))
    assert call(folder, shards, tmp_path) == 0
    assert result(tmp_path)["labels"] == BY_POSITION


def test_a_class_too_many_is_refused_with_its_name(
    saved: Path, shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(saved, tmp_path / "model"))
    config = json.loads((folder / "config.json").read_text())
    count = len(config["id2label"])
    config["id2label"][str(count)] = "Doing nothing"
    (folder / "config.json").write_text(json.dumps(config))
    state = load_file(folder / "model.safetensors")
    for key in ("classifier.weight", "classifier.bias"):
        state[key] = torch.cat([state[key], state[key][:1]])
    save_file(state, folder / "model.safetensors")
    assert call(folder, shards, tmp_path / "kept") == 2
    error = capsys.readouterr().err
    assert f"{count + 1} and {count} classes; only the model has 'Doing nothing'" in error
    assert not (tmp_path / "kept").exists()
