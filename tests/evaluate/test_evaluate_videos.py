"""`python -m bench.evaluate --data` on labelled videos where they lie: class folders, lists, annotation files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import cv2
import pytest
from clips import grey_video, video
from makers import released_checkpoint

from bench import results
from bench.data.sources import mini_ssv2
from bench.data.video import decode
from bench.evaluate import command
from reports import stats

MINI = mini_ssv2.Config(
    train=20,
    tune=20,
    test=20,
    frames="video",
    short_side=None,
    height=48,
    min_frames=8,
    max_frames=10,
)
NAMES = ("jump, high", "größer", "sit down")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {
        n: released_checkpoint(folder / f"{n}.pyth", n)
        for n in (len(NAMES), len(mini_ssv2.CLASSES))
    }


def evaluate(
    model: Path, data: Path, runs: Path, *more: str, name: str = "video.shuffle_gap"
) -> int:
    arguments = [name, "--model", str(model), "--data", str(data)]
    arguments += ["--runs", str(runs), "--device", "cpu", "--threads", "1", "--heads", "2"]
    return command.main([*arguments, "--out", str(runs / "rows.json"), *more])


def kept(runs: Path) -> dict[str, Any]:
    (path,) = (runs / "evaluated").glob("*.json")
    return dict(json.loads(path.read_text()))


def rows(runs: Path, **wanted: str) -> list[dict[str, Any]]:
    found = json.loads((runs / "rows.json").read_text())["rows"]
    return [row for row in found if all(row[k] == v for k, v in wanted.items())]


def class_folders(folder: Path) -> Path:
    """Three classes; every container, and a folder of frames."""
    grey_video(folder / NAMES[0] / "v_g01 (1).mp4", 10, frames=9)
    grey_video(folder / NAMES[0] / "v_g02.webm", 60, frames=8)
    (folder / NAMES[1]).mkdir(parents=True)
    (folder / NAMES[1] / "x.avi").write_bytes(video("mpeg4.avi", 12, 32, 32))
    grey_video(folder / NAMES[1] / "deeper" / "y.mov", 110, frames=11)
    grey_video(folder / NAMES[2] / "z.mkv", 160, frames=8)
    clip = folder / NAMES[2] / "clip 7"
    clip.mkdir()
    for t in range(9):
        cv2.imwrite(str(clip / f"img_{t:05d}.png"), decode(folder / NAMES[2] / "z.mkv", [t % 8])[0])
    return folder


# -- the same numbers as from shards ---


def test_videos_where_they_lie_give_the_numbers_of_their_shards(
    models: dict[int, Path], tmp_path: Path
) -> None:
    shards = mini_ssv2.build(MINI, tmp_path / "shards", workers=1)
    model = models[len(mini_ssv2.CLASSES)]
    assert evaluate(model, shards, tmp_path / "runs") == 0
    from_shards = rows(tmp_path / "runs", split="tune")
    annotations = shards / "labels/validation.json"
    assert evaluate(model, annotations, tmp_path / "here") == 0
    subsets = ("all", *(f"class: {name}" for name in mini_ssv2.CLASSES))
    # validation.json is called `val` where it lies
    expected = [{**row, "split": "val"} for row in from_shards if row["subset"] in subsets]
    assert rows(tmp_path / "here") == expected and expected
    found = kept(tmp_path / "here")
    assert found["provenance"].startswith("opencv-python-headless")
    assert "original files, read where they lie" in found["provenance"]
    assert found["data"] == "videos/labels/validation.json"


# -- everything that --data may be ---


@pytest.mark.parametrize("how", ["folders", "csv", "lines"])
def test_no_config_is_needed(how: str, models: dict[int, Path], tmp_path: Path) -> None:
    data = folder = class_folders(tmp_path / "videos")
    files = sorted(p for p in folder.rglob("*.*") if p.suffix != ".png")
    names = [str(p.relative_to(folder)) for p in [*files, folder / NAMES[2] / "clip 7"]]
    labels = [name.partition("/")[0] for name in names]
    if how == "csv":
        data = folder / "some list.csv"
        lines = [f'"{n}","{c}",temporal' for n, c in zip(names, labels, strict=True)]
        data.write_text("\n".join(["file,class,subset", *lines]))
    if how == "lines":
        data = folder / "val.txt"
        lines = [f"{n} {sorted(NAMES).index(c)}" for n, c in zip(names, labels, strict=True)]
        data.write_text("\n".join(lines))
    assert evaluate(models[3], data, tmp_path / "runs") == 0
    split = "val" if how == "lines" else "all"
    (top1,) = rows(tmp_path / "runs", view="original", subset="all", metric="top1")
    assert (top1["split"], top1["n"], top1["n_failed"]) == (split, 6, 0)
    temporal = rows(tmp_path / "runs", view="original", subset="temporal", metric="top1")
    assert [row["n"] for row in temporal] == ([6] if how == "csv" else [])


def test_what_failed_is_said_by_every_evaluation_that_shares_the_features(
    models: dict[int, Path], tmp_path: Path
) -> None:
    folder = class_folders(tmp_path / "videos")
    (folder / NAMES[2] / "z.mkv").write_bytes(b"")
    names = "video.frozen_probe,video.arrow_of_time"
    assert evaluate(models[3], folder, tmp_path / "runs", name=names) == 0
    frame = results.load(tmp_path / "runs")
    assert frame.groupby("evaluation")["n_failed"].unique().map(list).to_dict() == {
        name: [1] for name in names.split(",")
    }


def test_a_broken_video_is_wrong_and_many_are_no_measurement(
    models: dict[int, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = class_folders(tmp_path / "videos")
    whole = (folder / NAMES[2] / "z.mkv").read_bytes()
    (folder / NAMES[2] / "z.mkv").write_bytes(whole[: len(whole) // 2])
    assert evaluate(models[3], folder, tmp_path / "runs") == 0
    assert {row["n_failed"] for row in rows(tmp_path / "runs")} == {1}
    assert {row["n"] for row in rows(tmp_path / "runs", subset="all")} == {6}
    (reason,) = kept(tmp_path / "runs")["failed"]["all"].values()
    assert "z.mkv" in reason and "truncated" in reason
    (folder / NAMES[0] / "v_g02.webm").write_bytes(b"")
    shutil.rmtree(tmp_path / "runs")
    assert evaluate(models[3], folder, tmp_path / "runs") == 2
    assert "2 of 6 samples of split all cannot be decoded" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("make", "wanted"),
    [
        (lambda folder: folder / "nowhere", "does not exist"),
        (lambda folder: folder, "imagenet9 (the unpacked release"),
        (lambda folder: grey_video(folder / "a.mp4", 0), "is a file, and no list of videos"),
        (lambda folder: grey_video(folder / "a/1.mp4", 0).parents[1], "of one class, 'a'"),
    ],
)
def test_data_that_are_not_recognised_get_one_message(
    make: Any,
    wanted: str,
    models: dict[int, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "data").mkdir()
    assert evaluate(models[3], make(tmp_path / "data"), tmp_path / "runs") == 2
    error = capsys.readouterr().err
    assert wanted in error and "Traceback" not in error and not (tmp_path / "runs").exists()


# -- a part of each class ---


def test_a_limited_evaluation_says_so_and_is_kept_apart(
    models: dict[int, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, runs = class_folders(tmp_path / "videos"), tmp_path / "runs"
    assert evaluate(models[3], folder, runs, "--limit", "1") == 0
    assert {row["n"] for row in rows(runs, subset="all")} == {3}
    found = kept(runs)
    assert found["limit"] == 1 and "limit 1 per class, seed 0" in found["provenance"]
    assert found["data_digest"].endswith("limit 1 per class, seed 0")
    assert json.loads((runs / "rows.json").read_text())["limit"] == 1
    assert evaluate(models[3], folder, runs) == 0
    frame = results.load(runs)
    assert frame.groupby("limit")["n"].max().to_dict() == {0: 6, 1: 3}
    full = stats.evaluated(frame, "video.shuffle_gap")
    assert set(full["limit"]) == {0} and len(full)
    assert stats.limited(frame, "video.shuffle_gap") == ("3.pyth (--limit 1)",)
    with pytest.raises(SystemExit):
        evaluate(models[3], folder, runs, "--limit", "0")
    assert "at least 1, got '0'" in capsys.readouterr().err


@pytest.mark.slow
def test_loader_workers_read_them_too(models: dict[int, Path], tmp_path: Path) -> None:
    """Everything that the loader sends to its workers pickles, and a broken video stays one sample."""
    folder = class_folders(tmp_path / "videos")
    (folder / NAMES[0] / "v_g02.webm").write_bytes(b"")
    assert evaluate(models[3], folder, tmp_path / "alone", "--limit", "2") == 0
    assert evaluate(models[3], folder, tmp_path / "two", "--limit", "2", "--workers", "2") == 0
    assert rows(tmp_path / "two") == rows(tmp_path / "alone")
    assert kept(tmp_path / "two")["failed"] == kept(tmp_path / "alone")["failed"] != {}
