"""Packing that is interrupted, repeated, or meets bad clips: the bytes are those of one clean run."""

from __future__ import annotations

import csv
import logging
import os
import random
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from makers import ROOT

from bench.data.progress import time_left
from bench.data.shards.check import check
from bench.data.shards.read import BadData, open_split, read_index
from bench.data.shards.write import Clip, DataSetInfo, FrameRule, Packing, pack
from tests.clips import read_number, video

OLD = ROOT / "tests" / "fixtures/old_shards"
INFO = DataSetInfo("made_up", 1, {}, ("a", "b"), {})
RULE = FrameRule("jpeg", short_side=48)
CLIPS = {"train": [Clip(str(i), i % 2) for i in range(10)]}


@dataclass(frozen=True)
class Folder:
    """Reads `<key>.webm`."""

    folder: Path

    def __call__(self, split: str, clip: Clip) -> bytes:
        return (self.folder / f"{clip.key}.webm").read_bytes()


@dataclass(frozen=True)
class Slow(Folder):
    """From a disk that takes its time; tells when it is asked."""

    def __call__(self, split: str, clip: Clip) -> bytes:
        (self.folder / "reading").touch()
        time.sleep(0.2)
        return super().__call__(split, clip)


@pytest.fixture
def videos(tmp_path: Path) -> Folder:
    folder = tmp_path / "videos"
    folder.mkdir()
    for i in range(10):
        (folder / f"{i}.webm").write_bytes(video("vp9.webm", 12 + i))
    return Folder(folder)


def packed(out: Path, videos: Folder, **options: object) -> Path:
    packing = Packing(**{"shard_clips": 3, "workers": 1, **options})  # type: ignore[arg-type]
    return pack(out, CLIPS, videos, INFO, RULE, packing)


def state_of(folder: Path) -> dict[str, tuple[bytes, int]]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(p.relative_to(folder)): (p.read_bytes(), p.stat().st_mtime_ns) for p in files}


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {name: content for name, (content, _) in state_of(folder).items()}


def test_a_complete_folder_is_verified_and_nothing_written(
    tmp_path: Path, videos: Folder, caplog: pytest.LogCaptureFixture
) -> None:
    out = packed(tmp_path / "out", videos)
    before = state_of(out)
    caplog.set_level(logging.INFO)
    packed(out, videos)
    assert state_of(out) == before
    assert "verified 4 shards with 10 videos, nothing to write" in caplog.text


def test_only_damaged_shards_are_written_again(tmp_path: Path, videos: Folder) -> None:
    out = packed(tmp_path / "out", videos)
    before = state_of(out)
    content = bytearray(before["train-000001.tar"][0])
    content[3000] ^= 1
    (out / "train-000001.tar").write_bytes(content)
    (out / "train-000003.tar").unlink()
    packed(out, videos)
    after = state_of(out)
    assert bytes_of(out) == {name: content for name, (content, _) in before.items()}
    kept = ("train-000000.tar", "train-000002.tar")
    assert all(after[name] == before[name] for name in kept)
    (out / "samples.parquet").write_bytes(b"")
    packed(out, videos)
    assert bytes_of(out) == {name: content for name, (content, _) in before.items()}


def test_a_folder_from_before_plans_were_kept_is_recognised(tmp_path: Path) -> None:
    out = shutil.copytree(OLD, tmp_path / "out")
    clips = {"train": [Clip(str(i), i % 2) for i in range(3)]}
    before = state_of(out)

    def read(split: str, clip: Clip) -> np.ndarray:
        return np.full((2, 8, 8, 3), int(clip.key), np.uint8)

    pack(out, clips, read, INFO, FrameRule("raw"), Packing(workers=1))
    assert state_of(out) == before
    pack(
        out, clips, read, INFO, FrameRule("jpeg"), Packing(workers=1)
    )  # another rule: written anew
    assert read_index(check_of(out))["frames"]["storage"] == "jpeg"


def check_of(out: Path) -> Path:
    check(out)
    return out


def test_a_lost_end_of_tar_or_journal_costs_clips_but_no_correctness(
    tmp_path: Path, videos: Folder
) -> None:
    whole = bytes_of(packed(tmp_path / "whole", videos, shard_clips=10))

    class Stop(Exception):
        pass

    def stopping(split: str, clip: Clip) -> bytes:
        if clip.key == "7":
            raise Stop
        return videos(split, clip)

    interrupted = tmp_path / "interrupted"
    with pytest.raises(Stop):
        pack(interrupted, CLIPS, stopping, INFO, RULE, Packing(shard_clips=10, workers=1))
    rng = random.Random(0)
    for n in range(12):
        out = shutil.copytree(interrupted, tmp_path / f"out{n}")
        name = f"train-000000.tar.{rng.choice(('part', 'journal'))}"
        content = bytearray((out / ".receipts" / name).read_bytes())
        if n % 2:
            del content[rng.randrange(len(content)) :]
        else:
            content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        (out / ".receipts" / name).write_bytes(content)
        packed(out, videos, shard_clips=10)
        assert bytes_of(out) == whole


def test_two_processes_at_once_make_one_data_set(tmp_path: Path, videos: Folder) -> None:
    fresh = packed(tmp_path / "fresh", videos)
    with ThreadPoolExecutor(2) as pool:
        found = [pool.submit(packed, tmp_path / "out", videos) for _ in range(2)]
        assert {future.result() for future in found} == {tmp_path / "out"}
    assert bytes_of(tmp_path / "out") == bytes_of(fresh)


def test_failures_are_all_listed_and_a_few_can_be_allowed(tmp_path: Path, videos: Folder) -> None:
    sound = {i: (videos.folder / f"{i}.webm").read_bytes() for i in range(7)}
    for i in sound:
        (videos.folder / f"{i}.webm").write_bytes(sound[i][: len(sound[i]) // 2])
    out = tmp_path / "out"
    with pytest.raises(BadData, match=r"(?s)7 of 10 videos cannot be decoded, 6 are allowed") as e:
        packed(out, videos, allow_missing=6)
    assert str(e.value).count("declared frames") == 5 and "failed.csv" in str(e.value)
    with (out / "failed.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["split"], row["key"]) for row in rows] == [("train", str(i)) for i in range(7)]
    assert all("of 12" in row["reason"] or "declared" in row["reason"] for row in rows)
    packed(out, videos, allow_missing=7)
    assert open_split(out, "train").keys == ("7", "8", "9")
    assert len(read_index(out)["failed"]) == 7
    before = state_of(out)
    packed(out, videos, allow_failed=True)
    with pytest.raises(BadData, match="7 of 10"):  # of a complete folder too
        packed(out, videos)
    assert state_of(out) == before
    for i, content in sound.items():  # the files are replaced
        (videos.folder / f"{i}.webm").write_bytes(content)
    packed(out, videos)
    assert bytes_of(out) == bytes_of(packed(tmp_path / "fresh", videos))
    assert "failed.csv" not in bytes_of(out)


def test_progress_counts_clips(tmp_path: Path, videos: Folder) -> None:
    told: list[tuple[int, int]] = []
    packed(tmp_path / "out", videos, progress=lambda done, total: told.append((done, total)))
    counts = [done for done, _ in told]
    assert counts == sorted(counts) and {*range(11)} == {*counts}
    assert {total for _, total in told} == {10}


def test_progress_from_worker_processes_counts_clips_too(tmp_path: Path, videos: Folder) -> None:
    told: list[tuple[int, int]] = []
    packed(
        tmp_path / "out",
        Slow(videos.folder),
        shard_clips=5,
        workers=2,
        progress=lambda done, total: told.append((done, total)),
    )
    counts = [done for done, _ in told]
    assert counts == sorted(counts) and counts[-1] == 10 and {total for _, total in told} == {10}
    assert {*counts} - {0, 5, 10}, "only whole shards were counted"


@pytest.mark.parametrize(
    ("seconds", "done", "to_do", "text"),
    [(10, 5, 20, ", about 0:00:40 left"), (3600, 10, 20, ", about 2:00:00 left"), (9, 0, 5, "")],
)
def test_time_left_follows_the_speed_so_far(
    seconds: float, done: int, to_do: int, text: str
) -> None:
    assert time_left(seconds, done, to_do) == text


def test_a_disk_that_is_too_small_is_refused_with_both_numbers(tmp_path: Path) -> None:
    frames = np.zeros((2, 1080, 1920, 3), np.uint8)
    count = shutil.disk_usage(tmp_path).free // frames.nbytes + 100
    clips = {"train": [Clip(str(i), 0) for i in range(count)]}
    with pytest.raises(
        ValueError, match=r"need about [\d,.]+ [MG]B, but only [\d,.]+ [MG]B are free"
    ):
        pack(tmp_path / "out", clips, lambda split, clip: frames, INFO, FrameRule("raw"), Packing())
    assert not list((tmp_path / "out").glob("*.tar"))


KILLED = """
    import sys
    from pathlib import Path

    sys.path[:0] = ["tests", "tests/data"]
    from test_prepare_resumes import Slow, packed

    if __name__ == "__main__":
        packed(Path(sys.argv[1]), Slow(Path(sys.argv[2])), workers=2)
        print("done")
"""


@pytest.mark.slow
def test_ten_kills_at_random_moments_leave_the_same_bits(tmp_path: Path, videos: Folder) -> None:
    script = tmp_path / "killed.py"
    script.write_text(textwrap.dedent(KILLED))
    out, rng = tmp_path / "out", random.Random(0)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    arguments = [sys.executable, str(script), str(out), str(videos.folder)]
    reading = videos.folder / "reading"
    kills = 0
    while kills < 10:
        reading.unlink(missing_ok=True)
        with subprocess.Popen(
            arguments, env=environment, stdout=subprocess.PIPE, text=True
        ) as process:
            while process.poll() is None and not reading.exists():
                time.sleep(0.01)
            time.sleep(rng.uniform(0, 0.4) + rng.choice((0, 1, 2)))
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
                kills += 1
            else:
                assert process.returncode == 0 and kills
                shutil.rmtree(out)  # done before its tenth kill: once more
    done = subprocess.run(arguments, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "done\n"
    assert bytes_of(out) == bytes_of(packed(tmp_path / "fresh", videos))
    before = state_of(out)
    subprocess.run(arguments, env=environment, capture_output=True, check=True)
    assert state_of(out) == before
    assert [read_number(f) for f in open_split(out, "train").frames(9, np.arange(3))] == [0, 1, 2]
