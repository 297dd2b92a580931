"""Videos and folders of frames, read where they lie: the frames that shards would give, and what fails."""

from __future__ import annotations

import pickle
from pathlib import Path

import cv2
import numpy as np
import pytest
from clips import ALL, numbered_frames, read_number, video

from bench.data.formats.file_samples import FileSamples
from bench.data.formats.labelled import LabelledVideos, VideoFile


def samples_of(*paths: Path, decoder: str = "opencv") -> FileSamples:
    files = tuple(VideoFile(path.stem, i % 2, path) for i, path in enumerate(paths))
    videos = LabelledVideos("videos/x", paths[0].parent, ("a", "b"), {}, {"all": files})
    return FileSamples(videos, "all", decoder=decoder)


def frames_in(folder: Path, count: int = 5, height: int = 96) -> Path:
    """The numbered frames as PNG files, whose names do not sort as their numbers do."""
    folder.mkdir()
    for t, frame in enumerate(numbered_frames(count, height)):
        cv2.imwrite(str(folder / f"frame_{t + 7}.png"), cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
    return folder


@pytest.mark.parametrize("decoder", ["opencv", "pyav"])
def test_frames_are_counted_and_given_as_they_show(tmp_path: Path, decoder: str) -> None:
    paths = []
    for kind in ALL:
        (path := tmp_path / kind).write_bytes(video(kind))
        paths.append(path)
    samples = pickle.loads(pickle.dumps(samples_of(*paths, decoder=decoder)))
    assert [samples.num_frames(i) for i in range(len(samples))] == [43] * len(ALL)
    wanted = np.array([42, 0, 17, 17])
    for i in range(len(samples)):
        frames = samples.frames(i, wanted)
        assert frames.shape == (4, 96, 128, 3)
        assert [read_number(frame) for frame in frames] == wanted.tolist(), paths[i]
    assert samples.labels.tolist() == [i % 2 for i in range(len(ALL))]


def test_a_folder_of_frames_gives_its_pictures(tmp_path: Path) -> None:
    samples = samples_of(frames_in(tmp_path / "clip"))
    assert samples.num_frames(0) == 5
    wanted = np.array([4, 0, 2, 2])
    np.testing.assert_array_equal(samples.frames(0, wanted), numbered_frames(5)[wanted])
    assert samples.provenance.startswith("opencv-python-headless")
    assert "image files; original files, read where they lie" in samples.provenance
    assert samples.with_layer("fg_mask").size == 0


def test_provenance_names_every_reader(tmp_path: Path) -> None:
    (tmp_path / "a.webm").write_bytes(video("vp9.webm"))
    both = samples_of(tmp_path / "a.webm", frames_in(tmp_path / "clip"), decoder="pyav")
    assert both.provenance.startswith("PyAV ") and "image files" in both.provenance
    alone = samples_of(tmp_path / "a.webm")
    assert "FFmpeg backend" in alone.provenance and "image files" not in alone.provenance


WHOLE = video("h264-start.mp4")
BROKEN = {
    "empty.mp4": (b"", "is empty"),
    "page.mp4": (b"\n <!DOCTYPE html>", "is an HTML or XML page"),
    "cut.mp4": (WHOLE[: len(WHOLE) // 2], "truncated"),
    "cut.webm": (video("vp9.webm")[:-1], "truncated"),
    "cut.avi": (video("mpeg4.avi")[:-100], "truncated"),
    "noise.mp4": (bytes(range(256)) * 8, "cannot be opened"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_named(tmp_path: Path, name: str) -> None:
    content, reason = BROKEN[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf"{name}.* {reason}"):
        samples_of(tmp_path / name).num_frames(0)


def test_what_has_gone_or_differs_is_named(tmp_path: Path) -> None:
    clip = frames_in(tmp_path / "clip")
    samples = samples_of(tmp_path / "gone.mp4", clip)
    with pytest.raises(ValueError, match=r"gone\.mp4' cannot be read: No such file"):
        samples.num_frames(0)
    cv2.imwrite(str(clip / "frame_8.png"), np.zeros((4, 6, 3), np.uint8))
    with pytest.raises(ValueError, match=r"differ in size: 128 x 96 and 6 x 4 \(frame_8\.png\)"):
        samples.frames(1, np.array([0, 1]))
    (clip / "frame_8.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"frame_8\.png is empty"):
        samples.frames(1, np.array([1]))
    (clip / "frame_8.png").write_bytes(b"not a picture")
    with pytest.raises(ValueError, match=r"frame_8\.png"):
        samples.frames(1, np.array([1]))
    with pytest.raises(ValueError, match="has 5 frames, frame 5 was asked for"):
        samples.frames(1, np.array([5]))
    with pytest.raises(ValueError, match="has no layer"):
        samples.layer(1, "fg_mask")
