"""The data side: assets, videos, shards, the real SSv2's conversion and the built-in Mini-SSv2."""

from __future__ import annotations

import argparse
import json
import pickle
import signal
import subprocess
import sys
import textwrap
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import webdataset
from makers import ROOT

from bench import prepare as command
from bench.data.builtin import cutouts, scenes, stage
from bench.data.builtin.actions import ACTIONS, PAIRS, home_scene, render_clip
from bench.data.formats.ssv2 import VIDEO_FOLDER
from bench.data.shards.check import check
from bench.data.shards.read import INDEX, open_split, read_index
from bench.data.shards.write import Clip, DataSetInfo, FrameRule, Packing, pack
from bench.data.sources import mini_ssv2, ssv2
from bench.data.video import count_frames, decode, encode_vp9

TINY = mini_ssv2.Config.tiny()
PLAIN = mini_ssv2.Config(
    train=22, tune=6, test=6, height=48, min_frames=6, max_frames=8, short_side=32
)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Mini-SSv2 through WebM files and JSON, as the real data set."""
    return mini_ssv2.prepare(TINY, tmp_path_factory.mktemp("tiny"), workers=1)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Mini-SSv2 rendered straight into the shards."""
    return mini_ssv2.prepare(PLAIN, tmp_path_factory.mktemp("plain"), workers=1)


def files_of(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}


# -- assets and videos ---


def test_assets_hold_nine_classes_panoramas_and_their_licences() -> None:
    kinds = [c.kind for c in cutouts.all_cutouts()]
    assert set(kinds) == {*cutouts.IN9_CLASSES, cutouts.PROP}
    assert sum(kind != cutouts.PROP for kind in kinds) >= 450
    assert len(cutouts.all_panoramas()) == 18
    assert cutouts.load_panorama("park").shape == (256, 512, 3)
    assert cutouts.load_cutout(cutouts.all_cutouts()[0]).shape[2] == 4
    assert cutouts.ASSETS.stat().st_size < 3_000_000
    names = set(zipfile.ZipFile(cutouts.ASSETS).namelist())
    texts = {f"licenses/{name}.txt" for name in ("Apache-2.0", "CC0-1.0", "MIT-fluent-emoji")}
    assert {"LICENSES.md", *texts} <= names


def test_decoder_agrees_with_pyav_and_random_access_with_a_full_decode(tiny: Path) -> None:
    path = sorted((tiny / VIDEO_FOLDER).glob("*.webm"))[0]
    frames = decode(path)
    with av.open(str(path)) as container:
        others = np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])
    assert frames.shape == others.shape and count_frames(path) == len(frames)
    assert np.abs(frames.astype(int) - others).mean() < 2  # the two convert YUV differently
    wanted = [5, 0, 5, 2]
    assert (decode(path.read_bytes(), wanted) == frames[wanted]).all()


def test_vp9_file_is_reproducible_and_close_to_its_frames(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    frames = np.kron(rng.integers(0, 255, (5, 4, 6, 3)), np.ones((1, 8, 8, 1))).astype(np.uint8)
    for name in "ab":
        encode_vp9(tmp_path / f"{name}.webm", frames, 12)
    assert (tmp_path / "a.webm").read_bytes() == (tmp_path / "b.webm").read_bytes()
    assert np.abs(decode(tmp_path / "a.webm").astype(int) - frames).mean() < 12
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.webm", "b.webm"]


@pytest.mark.parametrize("content", [b"", b"no video at all" * 50])
def test_broken_video_is_an_error_naming_the_key(content: bytes) -> None:
    with pytest.raises(ValueError, match="'78687'"):
        decode(content, key="78687")


# -- Mini-SSv2 ---


def test_tiny_lies_on_disk_as_something_something_v2(tiny: Path) -> None:
    labels = json.loads((tiny / "labels/labels.json").read_text())
    assert list(labels) == sorted(labels) and list(labels.values()) == [str(i) for i in range(20)]
    items = json.loads((tiny / "labels/train.json").read_text())
    assert len(items) == TINY.train
    assert {"id", "label", "template", "placeholders"} <= items[0].keys()
    for item in items:
        assert item["template"].replace("[", "").replace("]", "") in labels
        assert item["template"].count("[something]") == len(item["placeholders"])
        assert "[" not in item["label"]
    path = tiny / VIDEO_FOLDER / f"{items[0]['id']}.webm"
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "vp9" and stream.average_rate == 12
        assert (stream.height, stream.width) == (TINY.height, TINY.height * 4 // 3)


def test_tiny_opens_with_every_split_and_the_stored_frames_are_the_decoded_ones(tiny: Path) -> None:
    rule = FrameRule("raw", TINY.short_side)
    for split in mini_ssv2.SPLITS:
        samples = mini_ssv2.open(TINY, tiny.parent, split)
        assert len(samples) == TINY.size(split) == len(samples.labels)
        for i in (0, len(samples) - 1):
            frames = rule.apply(decode(tiny / VIDEO_FOLDER / f"{samples.keys[i]}.webm"))
            assert samples.num_frames(i) == len(frames)
            wanted = np.array([3, 1, 1])
            assert (samples.frames(i, wanted) == frames[wanted]).all()


def test_stored_videos_give_the_same_frames_as_the_files(tiny: Path, tmp_path: Path) -> None:
    config = TINY.model_copy(update={"frames": "video", "train": 3, "tune": 2, "test": 2})
    folder = mini_ssv2.prepare(config, tmp_path, workers=1)
    samples = mini_ssv2.open(config, tmp_path, "train")
    frames = decode(folder / VIDEO_FOLDER / f"{samples.keys[1]}.webm")
    copy = pickle.loads(pickle.dumps(samples))
    assert (copy.frames(1, np.array([4, 0])) == frames[[4, 0]]).all()
    assert copy.num_frames(1) == len(frames) and copy.digest == samples.digest


def test_bytes_do_not_depend_on_the_number_of_workers(plain: Path, tmp_path: Path) -> None:
    other = mini_ssv2.prepare(PLAIN, tmp_path, workers=2)
    assert files_of(other) == files_of(plain)
    assert check(other)["splits"]["train"]["samples"] == PLAIN.train
    changed = PLAIN.model_copy(update={"seed": 1})
    assert mini_ssv2.locate(changed, tmp_path) != other


def test_simultaneous_preparation_makes_one_data_set(tmp_path: Path) -> None:
    config = PLAIN.model_copy(update={"train": 4, "tune": 2, "test": 2})
    with ThreadPoolExecutor(2) as pool:
        found = [pool.submit(mini_ssv2.prepare, config, tmp_path, workers=1) for _ in range(2)]
        assert found[0].result() == found[1].result()
    check(found[0].result())


def test_validation_shows_unseen_objects_and_views() -> None:
    for kind in (*cutouts.IN9_CLASSES, cutouts.PROP):
        sides = [{c.concept for c in stage.pool(kind, training=t)} for t in (True, False)]
        assert all(sides) and not sides[0] & sides[1]
    half = scenes.PLATE_DEGREES / 2
    (a, b), (c, d) = scenes.TRAIN_YAWS, scenes.VALID_YAWS
    assert a - half >= 0 and b + half <= c - half and d + half <= 360


def test_scene_bias_has_the_asked_for_frequency_and_pairs_live_apart() -> None:
    config = mini_ssv2.Config(train=1500, test=1500)
    for split, rho in (("train", 0.6), ("test", 0.6), ("test_unbiased", 0.0)):
        clips = mini_ssv2.clips_of(config, split)
        home = np.mean([clip.meta["scene"] == home_scene(clip.label) for clip in clips])
        assert abs(home - (rho + (1 - rho) / 18)) < 0.05
    homes = {action.template: home_scene(i) for i, action in enumerate(ACTIONS)}
    assert all(homes[first] != homes[second] for first, second, _ in PAIRS)
    assert set(homes.values()) == set(cutouts.all_panoramas())


def test_test_unbiased_shows_the_motions_of_test() -> None:
    test, unbiased = (mini_ssv2.clips_of(TINY, split) for split in ("test", "test_unbiased"))
    for a, b in zip(test, unbiased, strict=True):
        assert a.label == b.label and a.meta["placeholders"] == b.meta["placeholders"]
        assert a.key != b.key
    assert [c.meta["scene"] for c in test] != [c.meta["scene"] for c in unbiased]


@pytest.mark.parametrize(("first", "second", "_play"), PAIRS)
def test_pairs_are_the_same_frames_in_another_order(first: str, second: str, _play: object) -> None:
    by_template = {action.template: action for action in ACTIONS}
    for number in range(3):
        clips = [
            render_clip(
                PLAIN.rule,
                by_template[template],
                scene="park",
                rng=np.random.default_rng(number),
                training=True,
            )
            for template in (first, second)
        ]
        a, b = (sorted(frame.tobytes() for frame in clip) for clip in clips)
        assert a == b and (clips[0] != clips[1]).any()
        assert (clips[0] == clips[1][::-1]).all()


def test_inconsistent_options_are_refused() -> None:
    with pytest.raises(ValueError, match="max_frames"):
        mini_ssv2.Config(min_frames=9, max_frames=8)


# -- shards ---


def test_plain_webdataset_reads_the_shards(plain: Path) -> None:
    samples = mini_ssv2.open(PLAIN, plain.parent, "test")
    tar = str(plain / "test-000000.tar")
    for i, sample in enumerate(webdataset.WebDataset(tar, shardshuffle=False).decode()):
        assert sample["__key__"] == samples.keys[i]
        assert sample["json"]["label"] == samples.labels[i]
        assert (sample["npy"] == samples.frames(i, np.arange(samples.num_frames(i)))).all()
    assert i == len(samples) - 1


def test_index_says_what_the_data_are(plain: Path) -> None:
    index = read_index(plain)
    added = set(mini_ssv2.LATER)  # not in indices of old, nor in new ones that leave them alone
    assert index["source"] == "mini_ssv2" and index["config"] == PLAIN.model_dump(exclude=added)
    assert index["classes"] == list(mini_ssv2.CLASSES)
    assert set(index["subsets"]) == {"temporal", "static"}
    assert "FFmpeg" in index["frames"]["made_by"] and index["failed"] == []


def test_check_finds_damage_and_lists_all_of_it(plain: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for name, content in files_of(plain).items():
        (copy / name).write_bytes(content)
    content = bytearray((copy / "train-000000.tar").read_bytes())
    content[5000] ^= 1
    (copy / "train-000000.tar").write_bytes(content)
    (copy / "test-000000.tar").write_bytes(content[:2000])
    with pytest.raises(ValueError, match=r"(?s)train-000000.*SHA-256.*test-000000.*2000 bytes"):
        check(copy)
    with pytest.raises(ValueError, match="truncated"):
        open_split(copy, "test").frames(5, np.array([0]))
    with pytest.raises(ValueError, match="no split 'val'; it has train, tune"):
        open_split(copy, "val")
    (copy / INDEX).unlink()
    with pytest.raises(ValueError, match=r"incomplete.*python -m bench\.prepare"):
        read_index(copy)
    with pytest.raises(ValueError, match=r"does not exist.*python -m bench\.prepare"):
        read_index(tmp_path / "nowhere")


KILLED = """
    import sys, time
    from pathlib import Path
    import numpy as np

    sys.path[:0] = ["tests", "tests/data"]
    from test_data import INFO, clips_to_pack

    from bench.data.shards.write import FrameRule, Packing, pack

    def read(split, clip):
        if int(clip.key) >= 8:  # two shards and two clips of the third are done
            print("ready", flush=True)
            time.sleep(60)
        return np.full((2, 8, 8, 3), int(clip.key), np.uint8)

    packing = Packing(shard_clips=3, workers=1)
    pack(Path(sys.argv[1]), clips_to_pack(), read, INFO, FrameRule("raw"), packing)
"""
INFO = DataSetInfo("made_up", 1, {}, ("a", "b"), {})


def clips_to_pack() -> dict[str, list[Clip]]:
    return {"train": [Clip(str(i), i % 2) for i in range(10)]}


def constant_frames(split: str, clip: Clip) -> np.ndarray:
    return np.full((2, 8, 8, 3), int(clip.key), np.uint8)


def test_killed_writer_leaves_complete_shards_and_the_next_run_continues(tmp_path: Path) -> None:
    out, fresh = tmp_path / "out", tmp_path / "fresh"
    arguments = [sys.executable, "-c", textwrap.dedent(KILLED), str(out)]
    with subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGKILL)
    assert sorted(p.name for p in out.glob("*.tar")) == ["train-000000.tar", "train-000001.tar"]
    with pytest.raises(ValueError, match="incomplete"):
        read_index(out)
    written = {p.name: p.stat().st_mtime_ns for p in out.glob("*.tar")}
    asked: dict[Path, list[str]] = {out: [], fresh: []}
    for folder in (out, fresh):

        def read(split: str, clip: Clip, keys: list[str] = asked[folder]) -> np.ndarray:
            keys.append(clip.key)
            return constant_frames(split, clip)

        pack(
            folder,
            clips_to_pack(),
            read,
            INFO,
            FrameRule("raw"),
            Packing(shard_clips=3, workers=1),
        )
        check(folder)
    assert {name: (out / name).stat().st_mtime_ns for name in written} == written
    assert "7" not in asked[out] and asked[out][-2:] == ["8", "9"] and "7" in asked[fresh]
    assert files_of(out) == files_of(fresh)


def test_folder_of_another_data_set_is_left_alone(plain: Path) -> None:
    before = files_of(plain)
    with pytest.raises(ValueError, match="Choose an empty folder"):
        pack(plain, clips_to_pack(), constant_frames, INFO, FrameRule("raw"), Packing(workers=1))
    assert files_of(plain) == before


# -- the real Something-Something-v2, on generated files ---


def write_ssv2(folder: Path, scheme: str, *, videos: int = 4) -> argparse.Namespace:
    """A miniature of the download: all 174 labels, a handful of videos."""
    classes = ssv2.spec(ssv2.Config()).classes
    labels = {name: str(i) for i, name in enumerate(classes)}
    template = "Moving [something] towards the camera"
    items = [{"id": str(100 + i), "label": "x", "template": template} for i in range(videos)]
    items[-1]["template"] = "Squeezing [something]"
    folder.mkdir()
    for name, content in (("labels", labels), ("train", items[:-1]), ("validation", items[-1:])):
        (folder / scheme.format(name)).write_text(json.dumps(content))
    (folder / "videos").mkdir()
    for item in items:
        frames = np.full((4, 24, 32, 3), int(item["id"]), np.uint8)
        encode_vp9(folder / "videos" / f"{item['id']}.webm", frames, 12)
    return argparse.Namespace(annotations=folder, videos=[folder / "videos"])


@pytest.mark.parametrize("scheme", ["something-something-v2-{}.json", "{}.json"])
def test_ssv2_is_converted_from_both_annotation_schemes(tmp_path: Path, scheme: str) -> None:
    given = write_ssv2(tmp_path / "given", scheme)
    config = ssv2.Config()
    assert "python -m bench.prepare ssv2 --videos DIR" in (ssv2.missing(config, tmp_path) or "")
    out = ssv2.locate(config, tmp_path)
    arguments = [
        "ssv2",
        "--videos",
        *given.videos,
        "--annotations",
        given.annotations,
        "--out",
        out,
    ]
    assert command.main([str(a) for a in [*arguments, "--workers", 1]]) == 0
    assert ssv2.missing(config, tmp_path) is None
    train, val = (ssv2.open(config, tmp_path, split) for split in ssv2.SPLITS)
    assert train.keys == ("100", "101", "102") and train.labels.tolist() == [44, 44, 44]
    assert val.labels.tolist() == [143] and val.num_frames(0) == 4
    assert train.frames(1, np.array([2])).shape == (1, 24, 32, 3)
    raw = ssv2.Config(frames="raw", short_side=12)
    with pytest.raises(ValueError, match=r"frames is 'video' there and 'raw' here"):
        ssv2.open(raw, tmp_path, "val")
    with pytest.raises(ValueError, match="the run asks for 00ff"):
        ssv2.open(ssv2.Config(digest="00ff"), tmp_path, "val")
    folder = ssv2.convert(raw, **vars(given), out=tmp_path / "raw", packing=Packing())
    assert open_split(folder, "val").frames(0, np.array([0])).shape == (1, 12, 16, 3)


def test_ssv2_reports_all_missing_files_broken_videos_and_foreign_labels(tmp_path: Path) -> None:
    given = write_ssv2(tmp_path / "given", "{}.json")
    (given.videos[0] / "101.webm").write_bytes(b"broken")
    out = tmp_path / "out"
    convert = {**vars(given), "out": out, "packing": Packing(workers=1)}
    with pytest.raises(ValueError, match=r"(?s)1 of 4 videos.*train/101.*--allow-failed"):
        ssv2.convert(ssv2.Config(), **convert)
    assert not (out / INDEX).exists()
    lenient = Packing(workers=1, allow_failed=True)
    ssv2.convert(ssv2.Config(), **convert | {"packing": lenient})
    index = check(out)
    assert [f["key"] for f in index["failed"]] == ["101"]
    assert index["splits"]["train"]["samples"] == 2
    for name in ("100", "102"):
        (given.videos[0] / f"{name}.webm").unlink()
    with pytest.raises(ValueError, match=r"(?s)2 of 4 listed videos.*train/100.*train/102"):
        ssv2.convert(ssv2.Config(), **convert)
    labels = json.loads((given.annotations / "labels.json").read_text())
    labels["Folding something"], labels["class 001"] = "1", "14"
    (given.annotations / "labels.json").write_text(json.dumps(labels))
    with pytest.raises(ValueError, match=r"14 is 'class 001', expected 'Folding something'"):
        ssv2.convert(ssv2.Config(), **convert)
    (given.annotations / "train.json").unlink()
    with pytest.raises(ValueError, match=r"missing: something-something-v2-train\.json or train"):
        ssv2.convert(ssv2.Config(), **convert)


def test_ssv2_subsets_are_the_published_lists() -> None:
    spec = ssv2.spec(ssv2.Config())
    assert len(spec.subsets["temporal"]) == 18 and len(spec.subsets["static"]) == 16
    assert not set(spec.subsets["temporal"]) & set(spec.subsets["static"])
    assert spec.num_classes == 174 and spec.classes[164] == "Turning something upside down"


# -- the command ---


def test_command_lists_the_sources_it_finds_and_explains_mistakes(
    tmp_path: Path, plain: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert {"ssv2", "mini-ssv2"} <= set(command.preparable_sources())
    assert command.main(["mini-ssv2", "--out", str(plain), "--check"]) == 0
    assert "test_unbiased 6" in capsys.readouterr().out
    assert command.main(["ssv2", "--out", str(plain), "--check"]) == 2
    assert "holds 'mini_ssv2', not 'ssv2'" in capsys.readouterr().err
    assert command.main(["ssv2", "--out", str(tmp_path / "new")]) == 2
    assert "needs --videos and --annotations" in capsys.readouterr().err
    assert command.main(["mini-ssv2", "--out", str(tmp_path / "new"), "--rho", "1.5"]) == 2
    assert "less than or equal to 1" in capsys.readouterr().err
    with pytest.raises(SystemExit) as exit_:
        command.main(["imagenet"])
    assert exit_.value.code == 2 and not (tmp_path / "new").exists()


def test_sheet_shows_one_clip_of_each_class(tiny: Path, tmp_path: Path) -> None:
    out = tmp_path / "sheet.png"
    arguments = ["mini-ssv2", "--out", str(tiny), "--check", "--sheet", str(out)]
    assert command.main(arguments) == 0
    picture = cv2.imread(str(out))
    classes = len(set(open_split(tiny, "train").labels))
    assert picture is not None and picture.shape[0] == round(0.62 * classes * 90)
    assert picture.std() > 20
