"""`bench.prepare videos`: labelled videos as shards, and a sweep over them."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from clips import grey_video
from makers import ROOT

from bench import prepare
from bench.data.access import open_data
from bench.data.shards.read import open_split, read_index
from bench.data.sources import videos
from bench.grid.plan import plan
from bench.sweep import command as sweep
from bench.sweep.needs import missing_files


def call(data: Path, out: Path, *more: str) -> int:
    return prepare.main(
        ["videos", "--videos", str(data), "--out", str(out), "--workers", "1", *more]
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of five videos each."""
    root = tmp_path_factory.mktemp("class folders")
    for n in range(10):
        grey_video(root / f"{'ab'[n % 2]} b" / f"{n}, x.mp4", 20 * n, frames=4)
    return root


def frames_in(folder: Path) -> Path:
    folder.mkdir(parents=True)
    for t in range(3):
        cv2.imwrite(str(folder / f"{t:03d}.png"), np.full((16, 16, 3), 50 + t, np.uint8))
    return folder


def test_class_folders_become_shards_with_a_split_held_out(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(folder, tmp_path / "videos", "--hold-out", "0.4") == 0
    assert "videos, train 6, val 4; digest" in capsys.readouterr().out
    train, val = (open_split(tmp_path / "videos", split) for split in ("train", "val"))
    assert train.classes == ("a b", "b b") and not set(train.keys) & set(val.keys)
    assert np.bincount(val.labels).tolist() == [2, 2]
    assert call(folder, tmp_path / "again", "--hold-out", "0.4", "--store", "raw") == 0
    assert open_split(tmp_path / "again", "val").keys == val.keys
    # as they lie: the same keys, labels and frames
    here = open_data(folder).open("all")
    place = {key: i for i, key in enumerate(here.keys)}
    assert place.keys() == {*train.keys, *val.keys}
    for n, key in enumerate(val.keys):
        i = place[key]
        assert here.labels[i] == val.labels[n] and here.num_frames(i) == val.num_frames(n)
        indices = np.array([3, 0])
        np.testing.assert_array_equal(here.frames(i, indices), val.frames(n, indices))
    assert call(tmp_path / "nothing is read", tmp_path / "videos", "--check", "--deep") == 0
    sheet = tmp_path / "sheet.png"
    assert call(folder, tmp_path / "videos", "--check", "--sheet", str(sheet)) == 0
    assert sheet.is_file()


def test_without_splits_there_is_one_that_is_evaluated(folder: Path, tmp_path: Path) -> None:
    assert call(folder, tmp_path / "out", "--store", "jpeg", "--short-side", "8") == 0
    found = open_data(tmp_path / "out")
    assert found.splits == ("all",) and len(found.open("all")) == 10
    problem = videos.missing(videos.Config(folder="out", classes=2), tmp_path)
    assert problem and "the splits all and no train, val" in problem and "--hold-out" in problem


def test_the_test_split_is_validated_on_where_there_is_no_other(
    folder: Path, tmp_path: Path
) -> None:
    names = sorted(path for path in folder.rglob("*.mp4"))
    lines = [f'"{p}",{p.parent.name},{"train" if n % 2 else "test"}' for n, p in enumerate(names)]
    (tmp_path / "list.csv").write_text("\n".join(["path,label,split", *lines]))
    assert call(folder, tmp_path / "out", "--annotations", str(tmp_path / "list.csv")) == 0
    assert list(read_index(tmp_path / "out")["splits"]) == ["train", "val"]
    assert open_data(tmp_path / "list.csv").splits == ("test",)


def test_folders_of_frames_are_stored_as_frames(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frames_in(tmp_path / "in/a/clip")
    grey_video(tmp_path / "in/b/1.mp4", 90, frames=4)
    assert call(tmp_path / "in", tmp_path / "out") == 2
    assert "add --store jpeg or --store raw" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert call(tmp_path / "in", tmp_path / "out", "--store", "raw") == 0
    samples = open_split(tmp_path / "out", "all")
    assert samples.keys == ("a/clip", "b/1") and "image files" in samples.provenance
    frames = samples.frames(0, np.arange(3))
    assert frames[:, 0, 0, 0].tolist() == [50, 51, 52]


def test_listed_videos_that_are_not_there_must_be_allowed(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    there = [f"{p} {p.parent.name[0]}" for p in sorted(folder.rglob("*.mp4"))]
    data = tmp_path / "list.txt"
    data.write_text("\n".join([*there, "gone/1.mp4 a", "gone/2.mp4 b"]))
    assert call(data, tmp_path / "out") == 1
    assert "2 of 12 listed videos are not there (line 11 of list.txt: gone/1.mp4" in (
        capsys.readouterr().err
    )
    assert not (tmp_path / "out").exists()
    assert call(data, tmp_path / "out", "--allow-missing", "2") == 0
    failed = read_index(tmp_path / "out")["failed"]
    assert [f["key"] for f in failed] == ["gone/1", "gone/2"]


@pytest.mark.parametrize(
    ("more", "wanted"),
    [
        (["--hold-out", "1.5"], "must lie between 0 and 1"),
        (["--hold-out", "0.01"], "leaves a split empty"),
        (["--allow-missing", "-1", "--annotations", "nowhere.csv"], "no file nowhere.csv"),
        (["--short-side", "8"], "--short-side is for stored frames"),
    ],
)
def test_wrong_use_is_one_message(
    more: list[str],
    wanted: str,
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    try:
        status = call(folder, tmp_path / "out", *more)
    except SystemExit as error:  # argparse's
        status = int(str(error.code))
    message = capsys.readouterr().err
    assert status == 2 and wanted in message and "Traceback" not in message
    assert "-1" not in more or "--allow-missing must be at least 0" in message
    assert not (tmp_path / "out").exists()


# -- sweeps ---


def test_a_sweep_is_told_what_its_config_must_say(folder: Path, tmp_path: Path) -> None:
    settings = [f"resources.data_dir={tmp_path}", "data.name=videos"]
    cells = plan(ROOT / "sweeps/ablation.yaml", "smoke", settings).cells
    (absent,) = missing_files(cells).values()
    assert "python -m bench.prepare videos --videos DIR --out" in absent
    assert call(folder, tmp_path / "videos", "--hold-out", "0.4") == 0
    (text,) = missing_files(cells).values()
    assert text == f"the shards in {tmp_path}/videos have 2 classes: --set data.classes=2"
    for scale in ("smoke", "mini", "paper"):
        cells = plan(ROOT / "sweeps/ablation.yaml", scale, [*settings, "data.classes=2"]).cells
        assert "videos" not in "".join(missing_files(cells)), scale
        assert {cell.config.data_spec().num_classes for cell in cells} == {2}
    signatures = {
        cell.signature
        for change in ([], ["data.folder=hmdb"], ["data.classes=3"])
        for cell in plan(ROOT / "sweeps/ablation.yaml", "smoke", [*settings, *change]).cells[:1]
    }
    assert len(signatures) == 3, "two data sets are two runs"


@pytest.mark.slow
def test_a_sweep_trains_on_them(folder: Path, tmp_path: Path) -> None:
    assert call(folder, tmp_path / "videos", "--hold-out", "0.4") == 0
    where = ["--runs", str(tmp_path / "runs"), "--launcher", "inline", "--scale", "smoke"]
    settings = [f"resources.data_dir={tmp_path}", "data.name=videos", "data.classes=2"]
    chosen = [part for s in [*settings, "train.batch=4"] for part in ("--set", s)]
    assert sweep.main([str(ROOT / "sweeps/ablation.yaml"), *where, *chosen]) == 0
    assert len(list((tmp_path / "runs").glob("*/result.json"))) == 4
