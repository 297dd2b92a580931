"""How frames lie in the shards: every storage gives back its frames, and damage is an error."""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
import pytest
import webdataset
from makers import ROOT

from bench.data.shards.read import open_split, read_index
from bench.data.shards.write import Clip, DataSetInfo, FrameRule, Packing, pack
from bench.data.video import decode
from tests.clips import HIDDEN, read_number, video

OLD = ROOT / "tests" / "fixtures/old_shards"  # written before there were checksums
INFO = DataSetInfo("made_up", 1, {}, ("a", "b"), {})
KINDS_STORED = (HIDDEN, "h264-b.mp4", "vp9-vfr.webm")
CLIPS = {"train": tuple(Clip(str(i), i % 2, {"kind": k}) for i, k in enumerate(KINDS_STORED))}
RULES = {
    "video": FrameRule("video"),
    "raw": FrameRule("raw"),
    "jpeg": FrameRule("jpeg", quality=95),
}


def read(split: str, clip: Clip) -> bytes:
    return video(str(clip.meta["kind"]))


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    folder = tmp_path_factory.mktemp("stored")
    return {
        name: pack(folder / name, CLIPS, read, INFO, rule, Packing())
        for name, rule in RULES.items()
    }


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(cv2.PSNR(a, b))


@pytest.mark.parametrize("storage", RULES)
def test_frame_k_comes_back_as_frame_k(stored: Mapping[str, Path], storage: str) -> None:
    samples = pickle.loads(pickle.dumps(open_split(stored[storage], "train")))
    wanted = np.array([40, 3, 3, 0, 17])
    for i, kind in enumerate(KINDS_STORED):
        assert samples.num_frames(i) == 43
        frames, decoded = samples.frames(i, wanted), decode(video(kind), wanted)
        assert [read_number(frame) for frame in frames] == wanted.tolist()
        if storage == "jpeg":
            assert min(psnr(a, b) for a, b in zip(frames, decoded, strict=True)) > 38
        else:
            assert np.array_equal(frames, decoded)
    with pytest.raises((IndexError, ValueError)):
        samples.frames(0, np.array([43]))


def test_anybodys_webdataset_reads_the_jpeg_frames(stored: Mapping[str, Path]) -> None:
    samples = open_split(stored["jpeg"], "train")
    tar = str(stored["jpeg"] / "train-000000.tar")
    read_back = list(webdataset.WebDataset(tar, shardshuffle=False))
    assert [sample["__key__"] for sample in read_back] == list(samples.keys)
    for i, sample in enumerate(read_back):
        files = sorted(name for name in sample if name.endswith(".jpg"))
        assert files == [f"{t:05d}.jpg" for t in range(43)]
        image = cv2.imdecode(np.frombuffer(sample["00017.jpg"], np.uint8), cv2.IMREAD_COLOR_RGB)
        assert np.array_equal(image, samples.frames(i, np.array([17]))[0])


def test_jpeg_keeps_the_rule_and_the_same_bytes_each_time(tmp_path: Path) -> None:
    rule = FrameRule("jpeg", short_side=48, quality=80)
    folders = [pack(tmp_path / name, CLIPS, read, INFO, rule, Packing()) for name in "ab"]
    contents = [{p.name: p.read_bytes() for p in folder.iterdir()} for folder in folders]
    assert contents[0] == contents[1]
    frames = read_index(folders[0])["frames"]
    assert frames["quality"] == 80 and frames["short_side"] == 48 and "decoder" not in frames
    samples = open_split(folders[0], "train")
    assert samples.frames(0, np.array([5])).shape == (1, 48, 64, 3)
    for part in ("FFmpeg", "short side 48 px", "INTER_AREA", "quality 80"):
        assert part in samples.provenance
    best = pack(tmp_path / "best", CLIPS, read, INFO, FrameRule("jpeg", 48, quality=95), Packing())
    sizes = [(folder / "train-000000.tar").stat().st_size for folder in (folders[0], best)]
    assert sizes[0] < sizes[1]


@pytest.mark.parametrize("storage", RULES)
def test_flipped_bits_never_give_other_pixels(
    stored: Mapping[str, Path], storage: str, tmp_path: Path
) -> None:
    folder = shutil.copytree(stored[storage], tmp_path / "copy")
    path, rng = folder / "train-000000.tar", np.random.default_rng(0)
    content, wanted = path.read_bytes(), np.array([2, 30])
    whole = [open_split(folder, "train").frames(i, wanted) for i in range(len(KINDS_STORED))]
    refused = 0
    for _ in range(100):
        flipped = bytearray(content)
        flipped[rng.integers(len(content))] ^= 1 << int(rng.integers(8))
        path.write_bytes(flipped)
        samples = open_split(folder, "train")
        for i, frames in enumerate(whole):
            try:
                assert np.array_equal(samples.frames(i, wanted), frames)
            except ValueError as error:
                refused += 1
                for part in (f"'{i}'", str(path), "CRC-32", "python -m bench.prepare"):
                    assert part in str(error)
    assert refused > (70 if storage == "video" else 2)


def test_only_the_requested_frames_are_verified(stored: Mapping[str, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(stored["jpeg"], tmp_path / "copy")
    samples = open_split(folder, "train")
    content = bytearray((folder / "train-000000.tar").read_bytes())
    at = content.index(b"0.00017.jpg") + 512 + 600  # in the file of frame 17 of the first clip
    content[at] ^= 1
    (folder / "train-000000.tar").write_bytes(content)
    assert read_number(samples.frames(0, np.array([16]))[0]) == 16
    with pytest.raises(ValueError, match=r"frame 17 of '0' is damaged"):
        samples.frames(0, np.array([16, 17]))


def test_folders_from_before_the_checksums_are_read_without_them() -> None:
    samples = open_split(OLD, "train")
    for i in range(3):
        assert (samples.frames(i, np.array([1, 0])) == i).all()
    assert read_index(OLD)["frames"].keys() == {"storage", "short_side", "made_by", "rule"}
