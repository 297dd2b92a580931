"""Lists of videos with labels: which file belongs to which entry, and what is said when one does not."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from clips import grey_video

from bench.data.formats.video_list import (
    FAILED,
    Entry,
    VideoList,
    convert,
    find_videos,
    read_paths,
    safe_key,
    with_classes,
)
from bench.data.shards.read import INDEX, BadData, ShardSamples, open_split, read_index
from bench.data.shards.write import DataSetInfo, FrameRule, Packing

GREY = {"a": 40, "b": 120, "c": 200}


def entry(key: str, file: str, *, label: str = "x", split: str = "train") -> Entry:
    return Entry(key, file, label, split, "list.csv")


def packed(
    videos: VideoList, roots: list[Path], out: Path, *, allow_missing: int = 0
) -> ShardSamples:
    info = DataSetInfo("made_up", 1, {}, videos.classes, {})
    rule = FrameRule("video")
    convert(videos, roots, out, info, rule, Packing(workers=1, allow_missing=allow_missing))
    return open_split(out, "train")


def greys(samples: ShardSamples) -> dict[str, int]:
    """Key -> the grey of its first frame, which tells which file it was made of."""
    frames = (samples.frames(i, np.array([0])) for i in range(len(samples)))
    return {k: round(float(f.mean()), -1) for k, f in zip(samples.keys, frames, strict=True)}  # type: ignore[misc]


def grey_list(*files: str) -> VideoList:
    return VideoList(("x",), tuple(entry(f"k{i}", file) for i, file in enumerate(files)))


def test_files_are_found_in_any_container_below_several_roots(tmp_path: Path) -> None:
    grey_video(tmp_path / "one/a.webm", 40)
    grey_video(tmp_path / "one/deep/er/b.mp4", 120)
    grey_video(tmp_path / "two/c.avi", 200)
    grey_video(tmp_path / "two/d.MKV", 80)
    (tmp_path / "one/loop").symlink_to(tmp_path / "one")
    roots = [tmp_path / "one", tmp_path / "two"]
    samples = packed(grey_list("a", "b", "c", "d"), roots, tmp_path / "out")
    assert greys(samples) == {"k0": 40, "k1": 120, "k2": 200, "k3": 80}
    assert sum(map(len, find_videos(roots).videos.values())) == 4  # the loop was walked once


def test_the_content_decides_not_the_extension(tmp_path: Path) -> None:
    grey_video(tmp_path / "in/a.webm", 120).rename(tmp_path / "in/a.mp4")
    samples = packed(grey_list("a"), [tmp_path / "in"], tmp_path / "out")
    assert greys(samples) == {"k0": 120}


def test_folders_decide_between_files_of_one_name(tmp_path: Path) -> None:
    grey_video(tmp_path / "in/replacement/a.mp4", 40)
    grey_video(tmp_path / "in/val/a.mp4", 120)
    samples = packed(grey_list("val/a"), [tmp_path / "in"], tmp_path / "out")
    assert greys(samples) == {"k0": 120}


def test_a_list_made_elsewhere_leads_to_the_files_by_the_end_of_its_paths(tmp_path: Path) -> None:
    for name, grey in (("one/001", 40), ("two/001", 200)):
        grey_video(tmp_path / f"in/{name}.webm", grey)
    files = [f"/elsewhere/k400/{name}/001.mp4" for name in ("two", "one")]
    samples = packed(grey_list(*files), [tmp_path / "in"], tmp_path / "out")
    assert greys(samples) == {"k0": 200, "k1": 40}
    with pytest.raises(BadData, match=r"three/001\.mp4 is not there"):
        packed(grey_list("/elsewhere/three/001.mp4"), [tmp_path / "in"], tmp_path / "other")


def test_one_file_is_never_two_samples(tmp_path: Path) -> None:
    grey_video(tmp_path / "in/001.mp4", 40)
    with pytest.raises(BadData, match=r"k0 and k1 are both listed, and both would be .*001\.mp4"):
        packed(grey_list("one/001.mp4", "two/001.mp4"), [tmp_path / "in"], tmp_path / "out")


def test_everything_missing_is_listed_before_any_work(tmp_path: Path) -> None:
    names = [f"v{i}" for i in range(7)]
    grey_video(tmp_path / "in/v0 (1).webm", 40)
    (tmp_path / "in/v1.webm.part").write_bytes(b"")
    grey_video(tmp_path / "in/v6.webm", 40)
    with pytest.raises(BadData) as caught:
        packed(grey_list(*names), [tmp_path / "in"], tmp_path / "out")
    message = str(caught.value)
    assert "6 of 7 listed videos are not in" in message and "--allow-missing 6" in message
    assert (
        "v0{.webm,.mp4,.avi,.mkv,.mov} is not there; did you mean v0 (1).webm, which is" in message
    )
    assert "did you mean v1.webm.part, which is there and not listed?" in message
    assert "k4" in message and "k5" not in message and str(tmp_path / "out" / FAILED) in message
    with (tmp_path / "out" / FAILED).open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["split"], row["key"]) for row in rows] == [("train", f"k{i}") for i in range(6)]
    assert rows[5]["reason"].startswith("v5{")
    assert not list((tmp_path / "out").glob("*.tar")) and not (tmp_path / "out" / INDEX).exists()


def test_missing_videos_are_left_out_up_to_the_allowed_number(tmp_path: Path) -> None:
    for name, grey in GREY.items():
        grey_video(tmp_path / f"in/{name}.webm", grey)
    videos = grey_list("a", "gone", "c", "away")
    with pytest.raises(BadData, match="2 of 4 listed videos"):
        packed(videos, [tmp_path / "in"], tmp_path / "out", allow_missing=1)
    samples = packed(videos, [tmp_path / "in"], tmp_path / "out", allow_missing=2)
    assert greys(samples) == {"k0": 40, "k2": 200}
    failed = read_index(tmp_path / "out")["failed"]
    assert [(f["key"], f["reason"]) for f in failed] == [
        ("k1", "the file is not there"),
        ("k3", "the file is not there"),
    ]


def test_a_video_that_turns_up_after_a_failed_attempt_is_taken(tmp_path: Path) -> None:
    grey_video(tmp_path / "in/a.webm", 40)
    (tmp_path / "in/b.webm").write_bytes(b"broken")
    videos = grey_list("a", "b", "late")
    with pytest.raises(BadData):
        packed(videos, [tmp_path / "in"], tmp_path / "out", allow_missing=1)
    grey_video(tmp_path / "in/late.webm", 200)
    samples = packed(videos, [tmp_path / "in"], tmp_path / "out", allow_missing=1)
    assert greys(samples) == {"k0": 40, "k2": 200}


def test_a_missing_folder_is_wrong_use(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no folder .*nowhere \(--videos\)") as caught:
        packed(grey_list("a"), [tmp_path / "nowhere"], tmp_path / "out")
    assert not isinstance(caught.value, BadData)


def test_all_contradictions_of_a_list_come_at_once() -> None:
    twice = (entry("7", "7"), Entry("7", "7", "x", "val", "val.csv"))
    with pytest.raises(BadData) as caught:
        VideoList(("x",), (*twice, entry("8", "8", label="y"), entry("a.b", "a.b")))
    message = str(caught.value)
    assert "list.csv: 1 videos of unknown classes: y" in message
    assert "7 is listed twice, in list.csv and val.csv" in message
    assert "the id 'a.b' is not a plain file name" in message


def test_keys_are_safe_in_a_tar_and_differ() -> None:
    paths = ["a b.mp4", "a_b.mp4", "a.b.mp4", "../a.mp4", "/a.mp4", "x/a.mp4", "a~20~b", "ä.webm"]
    keys = [safe_key(path) for path in paths]
    assert len(set(keys)) == len(keys)
    assert keys[5] == "x/a" and keys[4] == "a"
    assert not any("." in key or key.startswith("/") for key in keys)
    VideoList(("x",), tuple(entry(key, key) for key in keys))


def test_lists_of_paths_in_all_their_forms(tmp_path: Path) -> None:
    text = (
        "path,label\n# made by hand\na b/1.mp4 3\nc,d/2.mp4 4\n\ne/3.mp4,riding camel\nf/4.mp4, 5\n"
    )
    (tmp_path / "train.csv").write_text(text, encoding="utf-8-sig")
    found = read_paths(tmp_path / "train.csv", "train")
    assert [(e.file, e.label) for e in found] == [
        ("a b/1.mp4", "3"),
        ("c,d/2.mp4", "4"),
        ("e/3.mp4", "riding camel"),
        ("f/4.mp4", "5"),
    ]
    (tmp_path / "train.csv").write_text("a/1.mp4 0\nnothing\n,3\n")
    with pytest.raises(BadData, match=r"(?s)line 2: 'nothing' is not `path label`.*line 3"):
        read_paths(tmp_path / "train.csv", "train")


def test_numbers_become_names() -> None:
    listed = [entry("1", "zoo/1.mp4", label="0"), entry("2", "ant/2.mp4", label="1")]
    assert with_classes(listed).classes == ("zoo", "ant")  # in the order of the numbers
    named = with_classes(listed, ["first", "second", "third"])
    assert [e.label for e in named.entries] == ["first", "second"] and len(named.classes) == 3
    with pytest.raises(BadData, match="label 1 is not among the 1 named classes"):
        with_classes(listed, ["first"])
    for other in ("zoo/2.mp4", "2.mp4"):
        with pytest.raises(BadData, match="give them with --classes FILE"):
            with_classes([listed[0], entry("2", other, label="1")])
    words = with_classes([entry("1", "1", label="b"), entry("2", "2", label="a")])
    assert words.classes == ("a", "b")
