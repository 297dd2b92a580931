"""`bench.prepare --check`: every kind of damage is found, all of it at once, and said in words."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import webdataset
from clips import grey_video
from damaging import rewrite_index

from bench import prepare
from bench.data.formats.video_list import Entry, VideoList, convert
from bench.data.shards.check import Damaged, check
from bench.data.shards.read import INDEX, SAMPLES, BadData, read_index
from bench.data.shards.write import DataSetInfo, FrameRule, Packing
from bench.data.sources import mini_ssv2
from bench.store.files import sha256_of

MINI = mini_ssv2.Config(
    train=21, tune=6, test=6, height=48, min_frames=6, max_frames=8, short_side=16
)


@pytest.fixture(scope="module")
def mini(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return mini_ssv2.prepare(MINI, tmp_path_factory.mktemp("mini"), workers=1)


@pytest.fixture
def copy(mini: Path, tmp_path: Path) -> Path:
    """Of what is packed, to be damaged."""
    files = [path for path in mini.iterdir() if path.is_file()]
    (tmp_path / "copy").mkdir()
    for path in files:
        shutil.copy(path, tmp_path / "copy")
    return tmp_path / "copy"


def edit(folder: Path, change: Callable[[Any], Any]) -> None:
    index = json.loads((folder / INDEX).read_text())
    change(index)
    rewrite_index(folder, index)


def problems_of(folder: Path, **how: Any) -> tuple[str, ...]:
    with pytest.raises(Damaged) as caught:
        check(folder, **how)
    return caught.value.problems


def test_an_intact_folder_passes_also_deep(copy: Path) -> None:
    assert check(copy) == read_index(copy)
    assert check(copy, deep=True, workers=1) == read_index(copy)


def test_a_renamed_class_is_found(copy: Path) -> None:
    name = mini_ssv2.CLASSES[3]
    edit(copy, lambda index: index["classes"].__setitem__(3, "Doing something else"))
    (problem,) = problems_of(copy)
    assert problem == f"class 3 is 'Doing something else' in index.json, {name!r} in its samples"


def test_a_renamed_class_without_a_sample_is_found_through_the_source(tmp_path: Path) -> None:
    config = MINI.model_copy(update={"train": 2, "tune": 1, "test": 1})
    folder = mini_ssv2.prepare(config, tmp_path, workers=1)
    empty = set(range(20)) - set(pq.read_table(folder / SAMPLES)["label"].to_pylist())
    label = min(empty)
    edit(folder, lambda index: index["classes"].__setitem__(label, "x"))
    (problem,) = problems_of(folder)
    assert (
        problem == f"class {label} is 'x' in index.json, {mini_ssv2.CLASSES[label]!r} in mini_ssv2"
    )
    edit(folder, lambda index: index["classes"].append("y"))
    assert problems_of(folder) == ("index.json: 21 classes, mini_ssv2 has 20",)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda i: i.pop("failed"), "index.json lacks failed"),
        (lambda i: i["splits"]["test"].pop("shards"), "index.json lacks splits.test.shards"),
        (lambda i: i["frames"].pop("storage"), "index.json lacks frames.storage"),
        (lambda i: i.update(classes="abc"), 'classes: input should be a valid list, not "abc"'),
        (
            lambda i: i["splits"]["test"].update(samples="6"),
            'splits.test.samples: input should be a valid integer, not "6"',
        ),
        (lambda i: i["subsets"].update(static=[99]), "'static' holds class 99, which does not"),
        (lambda i: i["subsets"].update(static=[0]), "subset 'static' is not that of mini_ssv2"),
        (lambda i: i["classes"].__setitem__(1, i["classes"][0]), "2 classes are called"),
        (lambda i: i["splits"]["test"].update(samples=7), "'test' has 6 samples instead of 7"),
        (
            lambda i: i["shards"]["test-000000.tar"].update(count=5),
            "test-000000.tar has 6 samples instead of 5",
        ),
        (
            lambda i: i["splits"]["test"]["shards"].append("train-000000.tar"),
            "train-000000.tar belongs to 'train' and 'test'",
        ),
        (
            lambda i: i["splits"]["test"]["shards"].append("test-000009.tar"),
            "test-000009.tar belongs to 'test', but is not among the shards",
        ),
    ],
)
def test_a_wrong_index_is_explained(
    copy: Path, change: Callable[[Any], Any], expected: str
) -> None:
    edit(copy, change)
    assert any(expected in problem for problem in problems_of(copy))


def test_an_index_with_nothing_in_it_lists_every_missing_key(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "shards"
    folder.mkdir()
    (folder / INDEX).write_text('{"schema": 1}')
    assert prepare.main(["ssv2", "--out", str(folder), "--check"]) == 1
    message = capsys.readouterr().err
    assert "index.json lacks source\n" in message and "... and 5 more" in message
    lines = (tmp_path / "shards.failures.txt").read_text().splitlines()
    assert len(lines) == 10 and "index.json lacks samples_sha256" in lines


def test_all_damage_of_the_files_is_found_at_once(
    copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = bytearray((copy / "train-000000.tar").read_bytes())
    content[5000] ^= 1
    (copy / "train-000000.tar").write_bytes(content)
    (copy / "test-000000.tar").write_bytes(content[:2000])
    (copy / "test_unbiased-000000.tar").rename(copy / "spare.tar")
    (copy / SAMPLES).unlink()
    where = tmp_path / "all.txt"
    arguments = ["mini-ssv2", "--out", str(copy), "--check", "--failures", str(where)]
    assert prepare.main(arguments) == 1
    message = capsys.readouterr().err
    for problem in (
        "spare.tar is not in index.json",
        "train-000000.tar has another SHA-256 than when it was written",
        "test-000000.tar has 2000 bytes instead of",
        "test_unbiased-000000.tar is missing",
        "samples.parquet is missing",
        "python -m bench.prepare mini-ssv2 ... --out",
    ):
        assert problem in message
    assert not where.exists()  # five fit on the screen
    (copy / "more.tar").write_bytes(b"")
    assert prepare.main(arguments) == 1
    assert "more.tar is not in index.json" in where.read_text()
    assert str(where) in capsys.readouterr().err


def rewrite_table(folder: Path, change: Callable[[list[dict[str, Any]]], Any]) -> None:
    """Change samples.parquet, and let the index agree: what a careless script would do."""
    rows = pq.read_table(folder / SAMPLES).to_pylist()
    change(rows)
    pq.write_table(pa.Table.from_pylist(rows), folder / SAMPLES)
    edit(folder, lambda index: index.update(samples_sha256=sha256_of(folder / SAMPLES)))


def test_samples_listed_twice_or_otherwise_than_in_their_tar_are_named(copy: Path) -> None:
    keys = pq.read_table(copy / SAMPLES)["key"].to_pylist()
    rewrite_table(copy, lambda rows: rows[1].update(key=rows[0]["key"]))
    problems = problems_of(copy)
    assert f"train/{keys[0]} is listed 2 times in samples.parquet" in problems
    assert f"train/{keys[1]} is only in train-000000.tar" in problems


def test_labels_and_lengths_are_those_of_the_samples(copy: Path) -> None:
    key = pq.read_table(copy / SAMPLES)["key"].to_pylist()[0]
    rewrite_table(copy, lambda rows: rows[0].update(label=77, num_frames=99))
    problems = problems_of(copy)
    assert "1 samples are of class 77, which does not exist" in problems
    assert any(p.startswith(f"train/{key} has label 77 in samples.parquet, ") for p in problems)
    assert any(p.startswith(f"train/{key} has num_frames 99 in samples.par") for p in problems)


def test_a_member_that_is_twice_in_a_tar_is_named(copy: Path) -> None:
    path = copy / "test-000000.tar"
    with tarfile.open(path) as tar:
        first = next(iter(tar))
        data = tar.extractfile(first)
        assert data is not None
        content = data.read()
    with tarfile.open(path, "a") as tar:
        tar.addfile(first, io.BytesIO(content))
    entry = {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
    edit(copy, lambda index: index["shards"]["test-000000.tar"].update(entry))
    assert f"test-000000.tar holds {first.name} twice" in problems_of(copy)


def test_deep_finds_what_does_not_decode_as_the_index_says(tmp_path: Path) -> None:
    names = ("whole", "short", "long", "broken")
    for name in names:
        grey_video(tmp_path / f"in/{name}.webm", 90, frames=4)
    entries = tuple(Entry(name, name, "x", "train", "list") for name in names)
    out = tmp_path / "out"
    info = DataSetInfo("made_up", 1, {}, ("x",), {})
    convert(
        VideoList(("x",), entries),
        [tmp_path / "in"],
        out,
        info,
        FrameRule("video"),
        Packing(workers=1),
    )
    rewrite_table(out, lambda rows: [rows[n].update(num_frames=f) for n, f in ((1, 5), (2, 3))])
    tar = out / "train-000000.tar"
    row = pq.read_table(out / SAMPLES).to_pylist()[3]
    content = bytearray(tar.read_bytes())
    content[row["offset"] : row["offset"] + row["size"]] = bytes(row["size"])
    tar.write_bytes(content)
    edit(out, lambda index: index["shards"][tar.name].update(sha256=sha256_of(tar)))
    problems = problems_of(out, deep=True, workers=1)
    about = {name: [p for p in problems if p.startswith(f"train/{name}")] for name in names}
    assert not about["whole"]
    assert any("4 decodable frames" in p for p in about["short"])
    assert any("more than the 3 frames of index.json decode" in p for p in about["long"])
    assert any("broken" in p for p in about["broken"])
    samples = [s["__key__"] for s in webdataset.WebDataset(str(tar), shardshuffle=False)]
    assert samples == list(names)  # the tar itself is in order


def test_what_is_left_out_and_the_counts_per_class_are_shown(
    copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lost = [{"split": "train", "key": str(n), "reason": "the file is not there"} for n in range(7)]
    edit(copy, lambda index: index.update(failed=lost))
    arguments = ["mini-ssv2", "--out", str(copy), "--check", "--deep", "--workers", "1"]
    assert prepare.main(arguments) == 0
    shown = capsys.readouterr().out
    assert "train 21, tune 6, test 6, test_unbiased 6, all decoded; digest" in shown
    assert "7 videos left out (train 7)" in shown and "train/4: the file is not there" in shown
    assert "train/5" not in shown and "... and 2 more" in shown
    table = [line for line in shown.splitlines() if line.startswith(mini_ssv2.CLASSES[0])]
    numbers = [int(word) for word in table[0].split()[-3:]]
    assert len(numbers) == 3 and numbers[0] >= 1


def test_exit_status_tells_failing_data_from_wrong_use(
    copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert prepare.main(["mini-ssv2", "--out", str(tmp_path / "nowhere"), "--check"]) == 2
    assert "does not exist" in capsys.readouterr().err
    assert prepare.main(["mini-ssv2", "--out", str(copy), "--deep"]) == 2
    assert "--deep goes with --check" in capsys.readouterr().err
    (copy / INDEX).unlink()
    assert prepare.main(["mini-ssv2", "--out", str(copy), "--check"]) == 1
    assert "incomplete" in capsys.readouterr().err
    (copy / INDEX).write_text("{")
    with pytest.raises(BadData, match="is corrupt"):
        check(copy)
