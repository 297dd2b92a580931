"""Every decoder gives frame k for frame k, or says what is missing to use it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from damaging import rewrite_index
from makers import ROOT

from bench import find
from bench.data import decoders
from bench.data.shards.read import open_split, read_index
from bench.data.shards.write import Clip, DataSetInfo, FrameRule, Packing, pack
from bench.data.video import DECODER, count_frames, decode
from tests.clips import ALL, HIDDEN, SPLIT, read_number, video, with_duration

INFO = DataSetInfo("made_up", 1, {}, ("a",), {})


@pytest.fixture(params=find.names("decoder"))
def decoder(request: pytest.FixtureRequest) -> str:
    name = str(request.param)
    try:
        decoders.load(name).version()
    except ValueError as error:
        assert name == "torchcodec", "the other decoders are required packages"
        pytest.skip(str(error))
    return name


@pytest.mark.parametrize("kind", ALL)
def test_frame_k_is_frame_k(decoder: str, kind: str) -> None:
    media = video(kind)
    frames = decode(media, decoder=decoder)
    assert [read_number(frame) for frame in frames] == list(range(43))
    assert count_frames(media, decoder=decoder) == 43
    wanted = [40, 3, 3, 17, 0]
    assert np.array_equal(decode(media, wanted, decoder=decoder), frames[wanted])


def test_decoders_agree_on_what_a_frame_shows(decoder: str, tmp_path: Path) -> None:
    (tmp_path / "clip.webm").write_bytes(video(HIDDEN))
    from_file = decode(tmp_path / "clip.webm", decoder=decoder)
    assert np.array_equal(from_file, decode(video(HIDDEN), decoder=decoder))
    assert np.abs(from_file.astype(int) - decode(video(HIDDEN))).mean() < 3


def test_a_header_that_lies_is_not_believed(decoder: str) -> None:
    for media in (with_duration(video("vp9.webm"), 2), video(SPLIT)):
        assert count_frames(media, decoder=decoder) == 43
        with pytest.raises(ValueError, match=r"'7' has 43 decodable frames, frame 43"):
            decode(media, [2, 43], key="7", decoder=decoder)


@pytest.mark.parametrize("content", [b"", b"no video at all" * 50])
def test_broken_files_are_errors_naming_the_key(decoder: str, content: bytes) -> None:
    with pytest.raises(ValueError, match="'78687'"):
        decode(content, key="78687", decoder=decoder)


def read(split: str, clip: Clip) -> bytes:
    return video(HIDDEN)


@pytest.mark.parametrize("storage", ["video", "raw", "jpeg"])
def test_a_folder_remembers_its_decoder(decoder: str, storage: str, tmp_path: Path) -> None:
    rule = FrameRule(storage, decoder=decoder)  # type: ignore[arg-type]
    out = pack(tmp_path / "out", {"train": [Clip("7", 0)]}, read, INFO, rule, Packing())
    samples = open_split(out, "train")
    wanted = np.array([42, 5])
    frames, decoded = samples.frames(0, wanted), decode(video(HIDDEN), wanted, decoder=decoder)
    assert [read_number(frame) for frame in frames] == wanted.tolist()
    if storage != "jpeg":
        assert np.array_equal(frames, decoded)
    name = decoders.load(decoder).version()
    assert samples.provenance.startswith(name)
    assert read_index(out)["frames"].get("decoder", "opencv") == decoder
    assert (name == DECODER) == (decoder == "opencv")


@pytest.mark.parametrize(("name", "package"), [("pyav", "av"), ("torchcodec", "torchcodec")])
def test_an_absent_decoder_names_its_package(
    name: str, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = pack(
        tmp_path / "out", {"train": [Clip("7", 0)]}, read, INFO, FrameRule("video"), Packing()
    )
    index = read_index(out)
    index["frames"]["decoder"] = name
    rewrite_index(out, index)
    monkeypatch.setitem(sys.modules, package, None)  # as if it were not installed
    with pytest.raises(ValueError, match=f"pip install {package}"):
        decode(video(HIDDEN), decoder=name)
    with pytest.raises(ValueError, match=f"pip install {package}"):
        pack(
            tmp_path / "other",
            {"train": [Clip("7", 0)]},
            read,
            INFO,
            FrameRule("raw", decoder=name),
            Packing(),
        )
    with pytest.raises(ValueError, match=rf"(?s){out} were prepared.*pip install {package}"):
        open_split(out, "train")


def test_an_unknown_decoder_lists_those_that_exist() -> None:
    with pytest.raises(ValueError, match=r"unknown decoder 'opncv'.*opencv.*pyav, torchcodec"):
        decode(video(HIDDEN), decoder="opncv")


def test_reading_shards_imports_only_the_default_decoder() -> None:
    code = "import bench.data.shards.read, sys; print({'av', 'torchcodec', 'torch'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "set()", done.stderr


MEMORY = """
import sys
from bench.data.video import decode
from tests.clips import HIDDEN, video

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096

media = video(HIDDEN)
for n in range(2000):
    decode(media, [3, 11], decoder=sys.argv[1])
    if n == 100:
        before = resident()
print(resident() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads /proc")
def test_memory_does_not_grow_over_2000_decodes(decoder: str) -> None:
    arguments = [sys.executable, "-c", MEMORY, decoder]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        arguments, cwd=ROOT, capture_output=True, text=True, env=environment, check=True
    )
    assert int(done.stdout) < 50e6
