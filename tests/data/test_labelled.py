"""What class folders and lists say of videos: labels, splits, subsets, and all that can be wrong with them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from bench.data.formats.labelled import LabelledVideos, frame_files
from bench.data.formats.where_they_lie import read_videos


def touch(root: Path, *names: str) -> Path:
    """Files whose content does not matter: nothing here decodes."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return root


def said(videos: LabelledVideos | None) -> dict[str, dict[str, str]]:
    """Split -> key -> class."""
    assert videos is not None
    return {
        split: {file.key: videos.classes[file.label] for file in files}
        for split, files in videos.files.items()
    }


def mistakes(data: Path) -> str:
    with pytest.raises(ValueError, match=r"the labelled videos of .* are refused") as caught:
        read_videos(data)
    return str(caught.value)


# -- folders ---


def test_class_folders_are_the_labels(tmp_path: Path) -> None:
    touch(tmp_path, "Basketball/v_g01_c01.avi", "Basketball/v_g01_c02.AVI", "YoYo/sub/v.mov")
    touch(tmp_path, "YoYo/notes.txt", ".git/x.mp4", "__MACOSX/y.mp4", "overview.png", "empty/x.txt")
    videos = read_videos(tmp_path)
    assert said(videos) == {
        "all": {
            "Basketball/v_g01_c01": "Basketball",
            "Basketball/v_g01_c02": "Basketball",
            "YoYo/sub/v": "YoYo",
        }
    }
    assert videos is not None and videos.held_out == ("all",)
    assert videos.name == f"videos/{tmp_path.name}"


def test_the_only_folder_in_a_folder_is_looked_into(tmp_path: Path) -> None:
    touch(tmp_path / "UCF-101", "a/1.avi", "b/2.avi")
    assert said(read_videos(tmp_path)) == {"all": {"a/1": "a", "b/2": "b"}}


def test_splits_lie_above_the_classes(tmp_path: Path) -> None:
    touch(tmp_path, "train/a/1.mp4", "validation/b/1.mp4", "test/a/1.mp4", "meta/readme.txt")
    touch(tmp_path, "train/b/2.mp4")
    videos = read_videos(tmp_path)
    assert said(videos) == {
        "train": {"train/a/1": "a", "train/b/2": "b"},
        "val": {"validation/b/1": "b"},
        "test": {"test/a/1": "a"},
    }
    assert videos is not None and videos.held_out == ("val", "test")


def test_a_folder_of_numbered_pictures_is_a_video(tmp_path: Path) -> None:
    touch(tmp_path, "a/clip 1/img_00001.jpg", "a/clip 1/img_00002.jpg", "b/x.mp4", "b/y/1.png")
    assert said(read_videos(tmp_path)) == {"all": {"a/clip~20~1": "a", "b/x": "b", "b/y": "b"}}


@pytest.mark.parametrize(
    ("names", "wanted"),
    [
        (("a/1.mp4", "b/2.mp4", "c.mp4"), "1 videos without a class folder, first: c.mp4"),
        (("x/1.mp4", "x/2.mp4"), "all videos are of one class, 'x'"),
        (("train/a/1.mp4", "val/b/2.mp4", "dogs/1.mp4"), "folders that are none (dogs)"),
        (("a/cat.jpg", "a/dog.jpg", "b/cow.jpg"), "class folders of pictures, where videos"),
    ],
)
def test_folders_that_do_not_say_what_is_a_class(
    tmp_path: Path, names: tuple[str, ...], wanted: str
) -> None:
    assert wanted in mistakes(touch(tmp_path, *names))


def test_what_holds_no_video_is_somebody_elses(tmp_path: Path) -> None:
    assert read_videos(touch(tmp_path / "a", "x/readme.txt", "weights.pth")) is None
    assert read_videos(touch(tmp_path / "b", "train-000000.tar", "20bn/1.webm")) is None
    assert read_videos(touch(tmp_path / "c", "clip.mp4") / "clip.mp4") is None


def test_hostile_names_become_plain_keys(tmp_path: Path) -> None:
    names = ["a/v, 1.mp4", "a/größe.mp4", "a/x.y.mp4", "b/v.mp4", "b/v.avi", "b/quote'\".mp4"]
    videos = read_videos(touch(tmp_path, *names))
    (keys,) = said(videos).values()
    assert len(keys) == len(names)
    assert {"b/v~2e~mp4", "b/v~2e~avi", "a/x~2e~y"} <= set(keys)
    assert all(c.isascii() and (c.isalnum() or c in "_-~/") for key in keys for c in key)


# -- lists ---


def listed(tmp_path: Path, text: str, name: str = "list.csv", **beside: str) -> Path:
    """A list of videos that are there: every word that ends like one."""
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    for file, content in beside.items():
        (tmp_path / file.replace("_", ".")).write_text(content)
    return path


VIDEOMAE = "b/1.mp4 1\na/x y.mp4 0\n\n# a comment\na/2.webm 0\n"


def test_lines_of_a_path_and_a_number(tmp_path: Path) -> None:
    touch(tmp_path, "b/1.mp4", "a/x y.mp4", "a/2.webm")
    found = {"b/1": "1", "a/x~20~y": "0", "a/2": "0"}
    assert said(read_videos(listed(tmp_path, VIDEOMAE))) == {"all": found}
    assert said(read_videos(listed(tmp_path, VIDEOMAE, "val.csv"))) == {"val": found}
    absolute = VIDEOMAE.replace("a/", f"{tmp_path}/a/").replace("b/", f"{tmp_path}/b/")
    assert said(read_videos(listed(tmp_path, absolute))) == {"all": found}
    (tmp_path / "classes.txt").write_text("running\njumping\nnever seen\n")
    videos = read_videos(listed(tmp_path, VIDEOMAE))
    assert videos is not None and videos.classes == ("running", "jumping", "never seen")
    assert said(videos)["all"]["b/1"] == "jumping"


def test_a_table_may_have_splits_and_subsets(tmp_path: Path) -> None:
    touch(tmp_path, "v/a, b.mp4", "v/2.mp4", "v/3.mp4", "v/4.mp4")
    text = (
        "id,Path,Label,split,subset\n"
        '1,"v/a, b.mp4",to jump,training,temporal\n'
        "2,v/2.mp4,to sit,train,static\n3,v/3.mp4,to jump,valid,\n4,v/4.mp4,to eat,val,\n"
    )
    videos = read_videos(listed(tmp_path, text))
    assert said(videos) == {
        "train": {"a~2c~~20~b": "to jump", "2": "to sit"},
        "val": {"3": "to jump", "4": "to eat"},
    }
    assert videos is not None and videos.classes == ("to eat", "to jump", "to sit")
    assert videos.subsets == {"static": (2,), "temporal": (1,)}


@pytest.mark.parametrize(
    ("file", "line", "label"),
    [
        ("v/1.mp4", "v/1.mp4 riding a bike", "riding a bike"),
        ("v/a b, c.mp4", "v/a b, c.mp4, riding a bike", "riding a bike"),
        ("v/a, b.mp4", '"v/a, b.mp4" riding', "riding"),
        ("v/1.mp4", "v/1.mp4\triding", "riding"),
        ("1/1.jpg", "1;Swiping Left", "Swiping Left"),
        ("v/5.webm", "v/5,riding", "riding"),
        ("my clip/1.jpg", "my clip 37 4", "4"),
        ("my clip/1.jpg", "my clip 4", "4"),
    ],
)
def test_lines_as_others_write_them(tmp_path: Path, file: str, line: str, label: str) -> None:
    touch(tmp_path, file, "other.mp4")
    other = "other.mp4,7" if label.isdecimal() else "other.mp4,other"
    videos = read_videos(listed(tmp_path, f"{line}\n{other}\n", "list.txt"))
    assert videos is not None and not videos.missing
    (files,) = videos.files.values()
    assert videos.classes[files[0].label] == label
    assert files[0].path in (tmp_path / file, (tmp_path / file).parent)


def test_something_something_is_read_by_its_annotation_file(tmp_path: Path) -> None:
    touch(tmp_path / "20bn-something-something-v2", "1.webm", "2.webm")
    labels = {"Pushing something": "1", "Holding something": "0"}
    rows = [
        {"id": "1", "label": "pushing a cup", "template": "Pushing [something]"},
        {"id": 2, "label": "holding a hat", "template": "Holding [something]"},
    ]
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels/labels.json").write_text(json.dumps(labels))
    (tmp_path / "labels/validation.json").write_text(json.dumps(rows))
    videos = read_videos(tmp_path / "labels/validation.json")
    assert said(videos) == {"val": {"1": "Pushing something", "2": "Holding something"}}
    assert videos is not None and videos.classes == ("Holding something", "Pushing something")


def test_a_list_without_labels_names_the_folders_of_the_classes(tmp_path: Path) -> None:
    touch(tmp_path / "UCF-101", "Apply Make/v_1.avi", "YoYo/v_1.avi", "YoYo/v_2.avi")
    path = tmp_path / "ucfTrainTestlist/testlist01.txt"
    path.parent.mkdir()
    path.write_text("Apply Make/v_1.avi\nYoYo/v_2.avi\n")
    found = {"Apply~20~Make/v_1": "Apply Make", "YoYo/v_2": "YoYo"}
    assert said(read_videos(path)) == {"all": found}
    path.write_text("Apply Make/v_1.avi\nYoYo/v_2.avi YoYo\n")
    assert "no path or no label (line 1 of testlist01.txt)" in mistakes(path)


def test_lists_in_a_folder_are_its_splits(tmp_path: Path) -> None:
    touch(tmp_path, "videos/1.mp4", "videos/2.mp4", "videos/3.mp4")
    (tmp_path / "train.csv").write_text("videos/1.mp4 0\nvideos/2.mp4 1\n")
    (tmp_path / "test.csv").write_text("videos/3.mp4 1\n")
    assert said(read_videos(tmp_path)) == {"train": {"1": "0", "2": "1"}, "test": {"3": "1"}}


SUBSETS: Mapping[str, str] = {
    "subsets.csv": "class,subset\nto jump,temporal\n1,static\n",
    "subsets.json": '{"to jump": "temporal", "to sit": "static"}',
}


@pytest.mark.parametrize("name", SUBSETS)
def test_subsets_of_a_file(tmp_path: Path, name: str) -> None:
    touch(tmp_path, "to jump/1.mp4", "to sit/2.mp4")
    (tmp_path / name).write_text(SUBSETS[name])
    videos = read_videos(tmp_path)
    assert videos is not None and videos.subsets == {"static": (1,), "temporal": (0,)}
    (tmp_path / name).unlink()
    (tmp_path / "subsets.json").write_text('{"temporal": ["to jump"], "static": ["to sit"]}')
    again = read_videos(tmp_path)
    assert again is not None and again.subsets == videos.subsets


def test_all_mistakes_of_a_list_come_at_once(tmp_path: Path) -> None:
    touch(tmp_path, "1.mp4", "2.mp4", "3.mp4")
    text = (
        "path,label,subset\n1.mp4,jump,temporal\n2.mp4,,\n3.mp4,jump,static\n"
        "1.mp4,sit\n1.mp4,sit,\n2.mp4,4,\n"
    )
    message = mistakes(listed(tmp_path, text))
    assert "no path or no label (line 3 of list.csv)" in message
    assert "not 3 columns as in the header (quote what has commas) (line 5 of list.csv)" in message
    assert "is listed twice: line 2 of list.csv and line 6 of list.csv" in message
    assert (
        "some labels are numbers and some names; numbers are ('4', line 7 of list.csv)" in message
    )
    message = mistakes(listed(tmp_path, "path,label,subset\n1.mp4,a,x\n2.mp4,a,y\n3.mp4,b,x\n"))
    assert "class 'a' is in two subsets: 'x' (line 2 of list.csv) and 'y' (line 3" in message


def test_names_and_subsets_must_fit(tmp_path: Path) -> None:
    touch(tmp_path, "1.mp4", "2.mp4")
    (tmp_path / "classes.txt").write_text("a\nb\n")
    (tmp_path / "subsets.csv").write_text("a,static\nc,temporal\n")
    message = mistakes(listed(tmp_path, "1.mp4 5\n2.mp4 b\n"))
    assert "labels beyond the 2 named classes ('5', line 1 of list.csv)" in message
    assert "the file of subsets names 'c', which is no class" in message
    assert "not among the named classes ('x', line 1" in mistakes(
        listed(tmp_path, "1.mp4 x\n2.mp4 b\n")
    )


@pytest.mark.parametrize(
    ("text", "name", "wanted"),
    [
        ("", "list.csv", "lists no video"),
        ("path,label\n", "list.csv", "lists no video"),
        ("{", "list.json", "is not valid JSON"),
        ('{"a": 1}', "list.json", "not a list of mappings"),
        ("a.mp4\nb.mp4\n", "list.txt", "no path or no label (line 1 of list.txt; line 2"),
    ],
)
def test_what_is_no_list(tmp_path: Path, text: str, name: str, wanted: str) -> None:
    assert wanted in mistakes(listed(tmp_path, text, name))


def test_listed_videos_that_are_not_there_are_named_with_their_lines(tmp_path: Path) -> None:
    touch(tmp_path, "1.mp4", "2.mp4")
    path = listed(tmp_path, "1.mp4 0\nnowhere.mp4 1\n2.mp4 1\nalso/not.mp4 0\n")
    videos = read_videos(path)
    assert videos is not None and len(videos.files["all"]) == 2
    with pytest.raises(ValueError, match="2 of 4 listed videos are not there") as caught:
        videos.require_all(path)
    assert "line 2 of list.csv: nowhere.mp4; line 4 of list.csv: also/not.mp4" in str(caught.value)
    videos.require_all(path, allowed=2)


# -- identity ---


def test_the_digest_is_of_paths_labels_and_sizes(tmp_path: Path) -> None:
    def digest(folder: Path) -> str:
        videos = read_videos(folder)
        assert videos is not None
        return videos.digest

    names = ("a/1.mp4", "b/2.mp4", "b/clip/1.jpg", "b/clip/2.jpg")
    one, two = touch(tmp_path / "one", *names), touch(tmp_path / "elsewhere/two", *names)
    assert digest(one) == digest(two)
    (two / "b/clip/2.jpg").write_bytes(b"longer than before")
    assert digest(one) != digest(two)
    (one / "list.txt").write_text("a/1.mp4 a\nb/2.mp4 b\nb/clip b\n")
    assert digest(one / "list.txt") == digest(touch(tmp_path / "three", *names))
    (one / "list.txt").write_text("a/1.mp4 b\nb/2.mp4 b\nb/clip a\n")
    assert digest(one / "list.txt") != digest(tmp_path / "three")


def test_frames_are_sorted_by_their_number(tmp_path: Path) -> None:
    touch(tmp_path / "a", "1.png", "10.png", "9.png", ".2.png", "notes.txt")
    assert [p.name for p in frame_files(tmp_path / "a")] == ["1.png", "9.png", "10.png"]
    touch(tmp_path / "b", "img_00002.jpg", "img_00001.jpg", "flow_x_00001.jpg", "flow_y_00001.jpg")
    assert [p.name for p in frame_files(tmp_path / "b")] == ["img_00001.jpg", "img_00002.jpg"]
    for names, wanted in (
        (("1.jpg", "01.jpg"), "two frames 1"),
        (("cover.jpg",), "is not numbered"),
        (("x_1.jpg", "y_1.jpg"), "pictures of 2 kinds"),
        (("notes.txt",), "has no frames"),
    ):
        folder = touch(tmp_path / wanted, *names)
        with pytest.raises(ValueError, match=wanted):
            frame_files(folder)
