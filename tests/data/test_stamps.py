"""Shards are verified once on a machine before a cell reads them; each sample again when it is read."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from damaging import damage, rewrite_index
from makers import ROOT, make_run, smoke_config

from bench.config.science import Input
from bench.data import loader
from bench.data.access import open_data
from bench.data.order import Draw
from bench.data.shards import stamps
from bench.data.shards.read import BadData, open_split, read_index
from bench.data.shards.stamps import Verify, verify
from bench.data.sources import mini_imagenet9
from bench.run.cell import run_cell
from bench.store.failure import Failure
from bench.store.rundir import RunDir, State
from bench.task import Picture
from tests.data.test_storage import CLIPS, INFO, OLD, RULES, Packing, pack, read

TRAIN, VAL = "train-000000.tar", "tune-000000.tar"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of this test alone."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return stamps.cache_folder()


def zeros(path: Path) -> None:
    """In the middle of the file, whose size stays."""
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 3)
        file.write(bytes(20_000))


def cell(folder: Path, shards: Path, **resources: object) -> RunDir:
    return make_run(folder, smoke_config(**{"data.frames": "video"}), shards.parent, **resources)


def verified(folder: Path, when: Verify = "first", split: str = "train") -> int:
    """How many shards were read for it."""
    seen: list[Path] = []
    whole = stamps.wrong_with

    def counting(path: Path, entry: Mapping[str, object]) -> str | None:
        seen.append(path)
        return whole(path, entry)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stamps, "wrong_with", counting)
        verify(folder, (split,), when)
    return len(seen)


@pytest.mark.parametrize("skip", ["stop", "skip"])
def test_zeros_in_a_training_shard_fail_the_cell_with_its_name(
    tmp_path: Path, data: Path, skip: str
) -> None:
    zeros(data / TRAIN)
    config = smoke_config(**{"data.frames": "video", "train.on_bad_sample": skip})
    run = make_run(tmp_path / "runs", config, data.parent)
    assert run_cell(run.path) == State.FAILED
    ended = run.read_outcome()
    assert ended["kind"] == Failure.DATA and ended["step"] is None
    for part in (TRAIN, str(data), "another SHA-256", "bench.prepare mini-ssv2"):
        assert part in run.error_line()
    assert not run.metrics.exists()


def test_a_cell_verifies_what_it_reads_once(tmp_path: Path, data: Path, cache: Path) -> None:
    first, second = (cell(tmp_path / name, data) for name in ("a", "b"))
    assert run_cell(first.path) == State.DONE
    splits = read_index(data)["splits"]
    assert first.log.read_text().count(f"verifying 1 shard of {data}, 0.") == len(splits)
    (kept,) = cache.glob("*.json")
    known = json.loads(kept.read_text())
    assert (
        known["folder"] == str(data) and known["shards"].keys() == read_index(data)["shards"].keys()
    )
    assert run_cell(second.path) == State.DONE
    assert "verifying" not in second.log.read_text()
    assert json.loads(kept.read_text()) == known


def test_what_has_changed_is_verified_again(data: Path) -> None:
    assert [verified(data), verified(data)] == [1, 0]
    os.utime(data / TRAIN, ns=(1, 1))
    assert [verified(data), verified(data)] == [1, 0]
    other = Path(shutil.copyfile(data / TRAIN, data / "other"))
    os.utime(other, ns=(1, 1))
    other.replace(data / TRAIN)  # another file of the same bytes and time
    assert [verified(data), verified(data)] == [1, 0]
    zeros(data / TRAIN)
    for _ in range(2):  # what is damaged gets no stamp
        with pytest.raises(BadData, match=TRAIN):
            verify(data, ("train",), "first")


def test_always_and_never(data: Path) -> None:
    assert [verified(data, "always"), verified(data, "always"), verified(data)] == [1, 1, 0]
    zeros(data / TRAIN)
    assert verified(data, "never") == 0


def test_a_digest_that_is_now_expected_is_another_stamp(data: Path) -> None:
    assert verified(data) == 1
    index = read_index(data)
    index["shards"][TRAIN]["sha256"] = "0" * 64
    rewrite_index(data, index)
    with pytest.raises(BadData, match=f"{TRAIN} has another SHA-256"):
        verify(data, ("train",), "first")


def test_every_damaged_shard_is_named_at_once(data: Path) -> None:
    (data / TRAIN).unlink()
    (data / VAL).write_bytes((data / VAL).read_bytes()[:-512])
    with pytest.raises(BadData) as told:
        verify(data, ("train", "tune"), "first")
    assert f"{TRAIN} is missing; {VAL} has " in str(told.value)
    with pytest.raises(BadData, match=f"{VAL} has .* bytes instead of"):
        open_data(data)  # what evaluations read
    (data / "more.tar").write_bytes(b"of no split, so nobody reads it")
    verify(data, ("test_unbiased",), "first")


def test_a_cache_that_cannot_be_used_is_done_without(
    data: Path, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache.parent.mkdir(parents=True)
    cache.write_text("a file in the place of the folder")
    assert [verified(data), verified(data)] == [1, 1]
    (said,) = {m for m in caplog.messages if "XDG_CACHE_HOME" in m}
    assert str(cache) in said
    zeros(data / TRAIN)
    with pytest.raises(BadData):
        verify(data, ("train",), "first")


@pytest.mark.parametrize("kind", ["truncated", "empty", "zeros", "directory"])
def test_damaged_stamps_are_none(data: Path, cache: Path, kind: str) -> None:
    assert verified(data) == 1
    (kept,) = cache.glob("*.json")
    damage(kept, kind)
    assert verified(data) == 1


def test_processes_verify_once_together(data: Path) -> None:
    code = (
        "import logging, sys; from pathlib import Path; from bench.data.shards.stamps import verify;"
        "logging.basicConfig(level='INFO', format='%(message)s');"
        "sys.stdin.readline(); verify(Path(sys.argv[1]), ('train', 'tune'), 'first')"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(data)],
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        for _ in range(3)
    ]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    said = "".join(process.communicate()[1] for process in processes)
    assert [process.returncode for process in processes] == [0, 0, 0], said
    assert said.count("verifying 2 shards") == 1


def test_shards_from_before_the_checksums_have_nothing_to_verify(tmp_path: Path) -> None:
    folder = shutil.copytree(OLD, tmp_path / "old")
    index = read_index(folder)
    del index["shards"][TRAIN]["sha256"]
    rewrite_index(folder, index)
    zeros(folder / TRAIN)
    assert verified(folder) == 0


# -- sample by sample ---


@pytest.mark.parametrize("storage", RULES)
def test_a_flipped_byte_is_found_when_its_clip_is_read(tmp_path: Path, storage: str) -> None:
    folder = pack(tmp_path / "shards", CLIPS, read, INFO, RULES[storage], Packing())
    samples = open_split(folder, "train")
    content = bytearray((folder / TRAIN).read_bytes())
    content[samples._rows[1, 0] + 300] ^= 1  # the first frame, where there are frames
    (folder / TRAIN).write_bytes(content)
    verify(folder, ("train",), "never")
    config = smoke_config().input
    clips = loader.Clips(open_split(folder, "train"), config, run_seed=0)
    everything = np.arange(samples.num_frames(1))
    with pytest.raises(loader.BadSample, match=r"'1' is damaged.*train-000000\.tar"):
        clips._frames(1, everything)
    assert clips[Draw(0, 0)].key == "0"
    shown = loader.Clips(_AllFrames(open_split(folder, "train")), config)[Draw(1, 0)]
    assert list(shown.failed) == ["1"] and not shown.clip_THWC.any()


def test_a_damaged_layer_is_a_bad_sample(tmp_path: Path) -> None:
    folder = mini_imagenet9.prepare(mini_imagenet9.Config.tiny(), tmp_path, workers=1)
    sound = open_split(folder, "train")
    i = int(sound.with_layer("only_bg_t")[0])
    offset, size = sound._layers["only_bg_t"][i, :2].tolist()
    path = folder / read_index(folder)["splits"]["train"]["shards"][int(sound.shards[i])]
    content = bytearray(path.read_bytes())
    content[offset + size // 2] ^= 1
    path.write_bytes(content)

    def background(picture: Picture, _: np.random.Generator) -> np.ndarray:
        return picture.layer("only_bg_t")

    how = {"run_seed": 0, "companions": {"background": background}}
    config, samples = Input(frames=1, size=16), open_split(folder, "train")
    with pytest.raises(loader.BadSample, match=f"only_bg_t of '{sound.keys[i]}' is damaged"):
        loader.Clips(samples, config, **how)[Draw(i, 0)]
    item = loader.Clips(samples, config, skip_bad=True, **how)[Draw(i, 0)]
    assert list(item.failed) == [sound.keys[i]] and item.key != sound.keys[i]


class _AllFrames:
    """Reads a whole clip whichever frames are wanted, so that the damaged one is among them."""

    def __init__(self, samples: object) -> None:
        self._samples = samples

    def __getattr__(self, name: str) -> object:
        return getattr(self._samples, name)

    def __len__(self) -> int:
        return len(self._samples)  # type: ignore[arg-type]

    def frames(self, i: int, indices: np.ndarray) -> np.ndarray:
        everything = np.arange(self._samples.num_frames(i))  # type: ignore[attr-defined]
        return self._samples.frames(i, everything)[indices]  # type: ignore[attr-defined]
