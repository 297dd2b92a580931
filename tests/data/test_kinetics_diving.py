"""Kinetics-400 and Diving48 as they lie on disk, on generated files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from clips import grey_video
from torch import nn

from bench import prepare
from bench.config.resources import Resources
from bench.config.science import parse
from bench.data import access
from bench.data.shards.read import BadData, open_split, read_index
from bench.data.shards.write import Packing
from bench.data.sources import diving48, kinetics400
from bench.evaluate.context import context_for

LISTED = (*kinetics400.TEMPORAL, *kinetics400.STATIC)
OTHERS = tuple(f"made up {i:03d}" for i in range(400 - len(LISTED)))
CLASSES = tuple(sorted((*LISTED, *OTHERS)))
YOGA, VAULT = CLASSES.index("yoga"), CLASSES.index("vault")


def write_lists(folder: Path, classes: tuple[str, ...] = CLASSES) -> Path:
    """The released lists: a training clip of each class, two clips to validate on."""
    header = "label,youtube_id,time_start,time_end,split\n"
    folder.mkdir()
    train = "".join(f"{c},-id{i:08d},{i},{i + 10},train\n" for i, c in enumerate(classes))
    (folder / "train.csv").write_text(header + train)
    val = "yoga,_val-000001,5,15,val\nvault,valvalval_2,7,17,val\n"
    (folder / "validate.csv").write_text(header + val)
    return folder


def name(i: int) -> str:
    return f"-id{i:08d}_{i:06d}_{i + 10:06d}"


def write_videos(root: Path) -> Path:
    """What has survived: two training clips in folders of classes, one flat, one to validate on."""
    grey_video(root / "train/yoga" / f"{name(YOGA)}.mp4", 40)
    grey_video(root / "train/ski_jumping" / f"{name(CLASSES.index('ski jumping'))}.mp4", 120)
    grey_video(root / f"{name(0)}.mp4", 200)
    grey_video(root / "val/_val-000001_000005_000015.mp4", 80)
    return root


def test_kinetics_is_converted_from_the_released_lists(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lists, videos = write_lists(tmp_path / "lists"), write_videos(tmp_path / "videos")
    out = kinetics400.locate(kinetics400.Config(), tmp_path)
    arguments = ["kinetics400", "--videos", str(videos), "--annotations", str(lists)]
    arguments += ["--out", str(out), "--workers", "1"]
    assert prepare.main(arguments) == 1
    message = capsys.readouterr().err
    assert "398 of 402 listed videos are not in" in message and "--allow-missing 398" in message
    assert prepare.main([*arguments, "--allow-missing", "398"]) == 0
    assert kinetics400.missing(kinetics400.Config(), tmp_path) is None
    train = kinetics400.open(kinetics400.Config(), tmp_path, "train")
    assert set(train.keys) == {name(0), name(YOGA), name(CLASSES.index("ski jumping"))}
    assert train.classes == CLASSES and train.classes[train.labels[-1]] == "yoga"
    assert open_split(out, "val").keys == ("_val-000001_000005_000015",)
    index = read_index(out)
    assert [CLASSES[i] for i in index["subsets"]["static"]] == sorted(kinetics400.STATIC)
    assert [CLASSES[i] for i in index["subsets"]["temporal"]] == sorted(kinetics400.TEMPORAL)
    assert len(index["failed"]) == 398


def test_an_evaluation_gets_names_and_subsets_from_the_data(tmp_path: Path) -> None:
    kinetics400.convert(
        kinetics400.Config(),
        videos=[write_videos(tmp_path / "videos")],
        annotations=write_lists(tmp_path / "lists"),
        out=tmp_path / "kinetics400",
        packing=Packing(workers=1, allow_missing=398),
    )
    config = parse(
        {
            "data": {"name": "kinetics400"},
            "model": {"name": "timesformer"},
            "objectives": {"classify": {}},
        }
    )
    assert config.data_spec().subsets == {} and config.data_spec().num_classes == 400
    resources = Resources(data_dir=str(tmp_path), device="cpu")
    context = context_for(config, resources, nn.Identity(), lambda _: None)
    assert context.spec.classes == CLASSES
    assert YOGA in context.spec.subsets["static"] and VAULT in context.spec.subsets["temporal"]
    assert access.open_data(tmp_path / "kinetics400").spec.subsets == context.spec.subsets


def test_kinetics_is_read_from_lists_of_paths_with_numbers(tmp_path: Path) -> None:
    folder = tmp_path / "lists"
    folder.mkdir()
    order = tuple(
        reversed(CLASSES)
    )  # the numbers of the list are the ids, whatever the alphabet says
    lines = [f"train/{c.replace(' ', '_')}/{i}.mp4 {i}" for i, c in enumerate(order)]
    (folder / "train.csv").write_text("\n".join(lines))
    (folder / "val.csv").write_text("val/yoga/v.mp4 " + str(order.index("yoga")))
    read = kinetics400.read_annotations(folder)
    assert read.classes == order and read.entries[-1].label == "yoga"
    flat = [f"{i}.mp4,{i}" for i in range(400)]
    (folder / "train.csv").write_text("\n".join(flat))
    with pytest.raises(BadData, match="--classes FILE"):
        kinetics400.read_annotations(folder)
    for file, content in (
        ("names.txt", "\n".join(order)),
        ("names.csv", "id,name\n" + "\n".join(f"{i},{c}" for i, c in enumerate(order))),
        ("names.json", json.dumps({f'"{c}"': i for i, c in enumerate(order)})),
    ):
        (tmp_path / file).write_text(content)
        assert kinetics400.read_annotations(folder, classes=tmp_path / file) == (
            kinetics400.read_annotations(folder, classes=tmp_path / "names.txt")
        )
        assert kinetics400.read_annotations(folder, classes=tmp_path / file).classes == order


def test_other_lists_are_not_taken_for_kinetics(tmp_path: Path) -> None:
    classes = tuple(c for c in CLASSES if c not in ("yoga", "made up 000"))
    lists = write_lists(tmp_path / "lists", classes)
    with pytest.raises(BadData) as caught:
        kinetics400.read_annotations(lists)
    assert "399 classes instead of 400" in str(caught.value)
    assert "1 classes are not in the training list, first: yoga" in str(caught.value)
    shorter = tuple(c for c in CLASSES if c != "ski jumping")
    with pytest.raises(BadData, match=r"1 of the 64 temporal and static .* first: ski jumping"):
        kinetics400.read_annotations(write_lists(tmp_path / "shorter", shorter))
    (lists / "validate.csv").unlink()
    with pytest.raises(ValueError, match=r"missing: validate\.csv or val\.csv") as missing:
        kinetics400.read_annotations(lists)
    assert not isinstance(missing.value, BadData)
    (lists / "val.csv").write_text("label,youtube_id,start\nyoga,x,1\n")
    with pytest.raises(BadData, match="has no column time_start, time_end"):
        kinetics400.read_annotations(lists)
    (lists / "val.csv").write_text("label,youtube_id,time_start,time_end\nyoga,x,soon,1\n")
    with pytest.raises(BadData, match="the times of 'x' are not seconds"):
        kinetics400.read_annotations(lists)


def test_kinetics_needs_both_splits_that_training_needs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--videos", str(tmp_path), "--annotations", str(tmp_path), "--out", str(tmp_path)]
    assert prepare.main(["kinetics400", *given, "--splits", "test"]) == 2
    assert "it lacks train, val" in capsys.readouterr().err
    assert prepare.main(["kinetics400", *given, "--allow-missing", "-1"]) == 2
    assert "at least 0" in capsys.readouterr().err


# -- Diving48 ---

VOCABULARY = [[take, f"{n:02d}som", "NoTwis", "PIKE"] for take in ("Back", "Forward") for n in range(24)]  # fmt: skip


def write_diving(folder: Path) -> Path:
    folder.mkdir()
    clips = [
        {"vid_name": f"-mmq0PT-u8k_{i:05d}", "label": label, "start_frame": 0, "end_frame": 48}
        for i, label in enumerate((0, 47, 25))
    ]
    (folder / "Diving48_vocab.json").write_text(json.dumps(VOCABULARY))
    (folder / "Diving48_V2_train.json").write_text(json.dumps(clips[:2]))
    (folder / "Diving48_V2_test.json").write_text(json.dumps(clips[2:]))
    return folder


@pytest.mark.parametrize("below", ["", "rgb/"])
def test_diving48_is_converted(tmp_path: Path, below: str) -> None:
    lists = write_diving(tmp_path / "lists")
    for i, grey in enumerate((40, 120, 200)):
        grey_video(tmp_path / f"videos/{below}-mmq0PT-u8k_{i:05d}.mp4", grey, frames=3)
    out = diving48.locate(diving48.Config(), tmp_path)
    arguments = ["diving48", "--videos", str(tmp_path / "videos"), "--annotations", str(lists)]
    assert prepare.main([*arguments, "--out", str(out), "--workers", "1"]) == 0
    train, val = (diving48.open(diving48.Config(), tmp_path, split) for split in diving48.SPLITS)
    names = [train.classes[n] for n in train.labels]
    assert names == ["Back 00som NoTwis PIKE", "Forward 23som NoTwis PIKE"]
    assert val.keys == ("-mmq0PT-u8k_00002",) and val.num_frames(0) == 3
    assert val.classes[val.labels[0]] == "Forward 01som NoTwis PIKE"


def test_other_annotations_are_not_taken_for_diving48(tmp_path: Path) -> None:
    lists = write_diving(tmp_path / "lists")
    (lists / "Diving48_V2_train.json").write_text('[{"vid_name": "a", "label": 48}, 3]')
    with pytest.raises(BadData, match=r"2 items lack `vid_name` or a `label` of 0 \.\. 47"):
        diving48.read_annotations(lists)
    (lists / "Diving48_vocab.json").write_text(json.dumps(VOCABULARY[:40]))
    with pytest.raises(BadData, match="does not name 48 dives by four parts each"):
        diving48.read_annotations(lists)
    (lists / "Diving48_vocab.json").write_text("{")
    with pytest.raises(BadData, match="not valid JSON"):
        diving48.read_annotations(lists)
    (lists / "Diving48_V2_test.json").unlink()
    with pytest.raises(ValueError, match=r"missing: Diving48_V2_test\.json"):
        diving48.read_annotations(lists)
