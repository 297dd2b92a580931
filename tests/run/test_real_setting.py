"""The paper's setting from the download on: 300 files as Something-Something-v2 has them, some of them
bad, through `bench.prepare`, the sweep at paper scale (smaller only in size, epochs and device) and
`bench.evaluate`.

The videos are written by PyAV and know nothing of this suite: VP9 and H.264, with B-frames, at
variable frame rate, under other extensions.
"""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from makers import ROOT

from bench import results
from bench.data.sources import ssv2

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

TRAIN, VAL = 240, 60
SHRUNK = [
    "input.size=64",  # flow is not learned from smaller frames
    "model.init=null",
    "model.patch=16",
    "model.dim=32",
    "model.depth=2",
    "model.heads=2",
    "train.epochs=1",
    "train.batch=32",
    "seeds=[0]",
    "resources.device=cpu",
    "resources.threads=1",
    "resources.workers=4",
    "resources.micro_batch=16",
]


def encode(path: Path, frames: np.ndarray, *, h264: bool, variable: bool) -> None:
    """Constant or variable frame rate; H.264 with B-frames."""
    codec, options = ("libx264", {"bf": "2"}) if h264 else ("libvpx-vp9", {"cpu-used": "8"})
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=12, options={**options, "crf": "30"})
        stream.width, stream.height, stream.pix_fmt = frames.shape[2], frames.shape[1], "yuv420p"
        stream.codec_context.time_base = Fraction(1, 24)
        at = 0
        for t, frame in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            picture.pts, picture.time_base = at, Fraction(1, 24)
            at += 3 if variable and t % 3 == 0 else 2
            container.mux(stream.encode(picture))
        container.mux(stream.encode())


def moving(number: int) -> np.ndarray:
    """16 to 27 frames of a textured square over a texture, 48 x 72."""
    rng = np.random.default_rng(number)
    frames = np.repeat(rng.integers(60, 120, (1, 12, 18, 3), np.uint8), 16 + number % 12, axis=0)
    frames = frames.repeat(4, axis=1).repeat(4, axis=2)
    square = rng.integers(0, 256, (5, 5, 3), np.uint8).repeat(3, axis=0).repeat(3, axis=1)
    for t, frame in enumerate(frames):
        left = 2 * t if number % 2 else 54 - 2 * t
        frame[16:31, max(0, left) : max(0, left) + 15] = square[:, : 72 - max(0, left)][:, :15]
    return frames


@pytest.fixture(scope="module")
def download(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """The folder, and the ids of the bad files with a word of the reason that must be given."""
    folder = tmp_path_factory.mktemp("ssv2")
    videos = folder / "20bn-something-something-v2"
    videos.mkdir()
    known = ssv2.TEMPORAL | ssv2.STATIC
    classes = [known.get(i, f"Doing number {i} with something") for i in range(174)]
    labels = {name: str(i) for i, name in enumerate(classes)}
    (folder / "labels.json").write_text(json.dumps(labels))
    template = {i: name.replace("something", "[something]") for i, name in enumerate(classes)}
    items = [
        {"id": str(n), "label": "", "template": template[n % 174], "placeholders": []}
        for n in range(TRAIN + VAL)
    ]
    for name, part in (("train", items[:TRAIN]), ("validation", items[TRAIN:])):
        (folder / f"{name}.json").write_text(json.dumps(part))
    for n in range(TRAIN + VAL):
        h264, variable = n % 5 == 0, n % 7 == 0
        suffix = {0: ".mp4", 5: ".mkv"}.get(n % 10, ".webm") if h264 else ".webm"
        encode(videos / f"{n}{suffix}", moving(n), h264=h264, variable=variable)
    return folder, _break(videos)


def _break(videos: Path) -> dict[str, str]:
    cut = videos / "11.webm"
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size * 2 // 3])
    half = videos / "250.mp4"
    half.write_bytes(half.read_bytes()[: half.stat().st_size // 2])
    (videos / "12.webm").write_bytes(b"")
    (videos / "13.webm").write_text("<!DOCTYPE html><html>404 Not Found</html>")
    flipped = bytearray((videos / "14.webm").read_bytes())
    middle = len(flipped) // 2
    flipped[middle : middle + 40] = bytes(b ^ 0xFF for b in flipped[middle : middle + 40])
    (videos / "14.webm").write_bytes(flipped)
    (videos / "16.webm").rename(videos / "video_16.webm")
    return {"11": "frames", "250": "", "12": "empty", "13": "", "14": "", "16": ""}


def command(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *words], cwd=ROOT, capture_output=True, text=True, check=False
    )


def test_from_the_download_to_the_evaluation(
    download: tuple[Path, dict[str, str]], tmp_path: Path
) -> None:
    folder, bad = download
    shards = tmp_path / "data/ssv2"
    where = ["--videos", str(folder / "20bn-something-something-v2"), "--annotations", str(folder)]
    prepare = ["bench.prepare", "ssv2", *where, "--store", "jpeg", "--out", str(shards)]

    refused = command(*prepare)
    assert refused.returncode in (1, 2) and not (shards / "index.json").exists()

    allowed = command(*prepare, "--allow-missing", str(len(bad)))
    assert allowed.returncode == 0, allowed.stderr
    with (shards / "failed.csv").open(newline="") as file:
        reasons = {row["key"]: row["reason"] for row in csv.DictReader(file)}
    assert reasons.keys() == bad.keys(), reasons
    for key, word in bad.items():
        assert word in reasons[key] and len(reasons[key]) > 15
    before = {path: path.stat().st_mtime_ns for path in shards.rglob("*")}
    again = command(*prepare, "--allow-missing", str(len(bad)))
    assert again.returncode == 0 and "verified" in again.stdout + again.stderr
    assert {path: path.stat().st_mtime_ns for path in shards.rglob("*")} == before

    runs = tmp_path / "runs"
    settings = [*SHRUNK, f"resources.data_dir={tmp_path / 'data'}"]
    changes = [word for setting in settings for word in ("--set", setting)]
    sweep = ["bench.sweep", "sweeps/ablation.yaml", "--scale", "paper", "--launcher", "local"]
    told = command(*sweep, "--runs", str(runs), *changes)
    assert told.returncode == 0, told.stdout[-3000:] + told.stderr[-3000:]
    frame = results.load(runs)
    assert set(frame["state"]) == {"DONE"} and frame["method"].nunique() == 5
    whole = frame[(frame["subset"] == "all") & (frame["metric"] == "top1")]
    in_val = sum(int(key) >= TRAIN for key in bad)
    assert set(whole["n"]) == {VAL - in_val} and set(whole["n_failed"]) == {0}
    measured = frame[frame["evaluation"] != results.TRAINING]
    assert measured["provenance"].str.contains("1 temporal view x 3 crops").all()

    run = str(runs / frame["signature"].iloc[0])
    evaluated = command(
        "bench.evaluate", "video.shuffle_gap", "--model", run, "--data", str(shards),
        "--runs", str(runs), "--views", "2", "--workers", "1", "--threads", "1",
    )  # fmt: skip
    assert evaluated.returncode == 0, evaluated.stderr
    (kept,) = (runs / "evaluated").glob("*.json")
    assert "2 temporal views x 3 crops" in json.loads(kept.read_text())["provenance"]
