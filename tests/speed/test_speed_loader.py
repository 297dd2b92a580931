"""bench.speed loader: every stage sees the frames of the real item, the ceiling decodes what the suite
decodes, the peer does what it stands for, and rows are consistent. No assertion is about time.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from bench.config.seeds import rng
from bench.data import loader, rand_augment
from bench.data.order import Draw
from bench.speed import _clips, _released_loader, _stages, _streams
from bench.speed import command as speed
from bench.speed import loader as benchmark

CLIPS, HEIGHT = 2, 48
RECIPE = _stages.LoadingRecipe(frames=4, size=32)
DRAWS = [Draw(index, epoch) for index in range(CLIPS) for epoch in range(3)]


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("speed") / "videos"
    return _clips.generate(folder, clips=CLIPS, height=HEIGHT, progress=lambda *_: None).folder


@pytest.fixture(scope="module")
def shards(videos: Path) -> tuple[_clips.Shards, ...]:
    folder = _clips.Videos(videos)
    return _clips.pack_all(folder, videos.parent / "shards", clips=CLIPS, height=HEIGHT)


@pytest.fixture(scope="module")
def stages(shards: tuple[_clips.Shards, ...]) -> _stages.Stages:
    return _stages.Stages(shards, CLIPS, RECIPE, batch=3)


def result_of(stages: _stages.Stages, storage: str, name: str, draw: Draw) -> object:
    (stage,) = (s for s in stages.all() if (s.storage, s.name) == (storage, name))
    return stage.ready(draw)()


# -- data ---


def test_the_same_clips_in_every_storage(shards: tuple[_clips.Shards, ...]) -> None:
    assert [part.storage for part in shards] == ["video", "jpeg", "raw"]
    video, jpeg, raw = (part.samples(CLIPS) for part in shards)
    assert video.keys == jpeg.keys == raw.keys and len(video) == CLIPS
    for i in range(CLIPS):
        assert 28 <= video.num_frames(i) == jpeg.num_frames(i) == raw.num_frames(i) <= 36
        frames = video.frames(i, np.arange(28))
        assert frames.shape[1:] == (HEIGHT, 72, 3)
        np.testing.assert_array_equal(raw.frames(i, np.arange(28)), frames)
        difference = np.abs(jpeg.frames(i, np.arange(28)).astype(int) - frames)
        assert 0 < difference.mean() < 10
        assert np.abs(np.diff(frames.astype(int), axis=0)).mean() > 0.5  # it moves


def test_a_cycle_repeats_the_first_clips(shards: tuple[_clips.Shards, ...]) -> None:
    once, cycle = shards[2].samples(CLIPS), shards[2].samples(CLIPS, length=5)
    first = np.zeros(1, np.int64)
    assert len(cycle) == len(cycle.keys) == len(cycle.labels) == 5
    assert cycle.keys[4] == once.keys[0] and cycle.labels[3] == once.labels[1]
    np.testing.assert_array_equal(cycle.frames(3, first), once.frames(1, first))
    assert len(shards[2].samples(1)) == 1


@pytest.mark.parametrize("number", range(3), ids=_clips.STORAGES)
def test_the_bytes_that_the_ceiling_decodes_are_those_of_the_clip(
    shards: tuple[_clips.Shards, ...], videos: Path, number: int
) -> None:
    samples = shards[number].samples(CLIPS)
    stored = _clips.Stored(shards[number], samples.keys)
    indices = np.array([1, 5, 5, 20])
    for i in range(CLIPS):
        files = stored.read(i, indices)
        decoded = _clips.decode_alone(shards[number].storage, files, indices)()
        if number == 0:
            assert files == [(videos / f"{samples.keys[i]}.webm").read_bytes()]
            assert decoded == 21 and stored.size(i) == len(files[0])
            continue
        wanted = samples.frames(i, np.array([1, 5, 20]))
        np.testing.assert_array_equal(np.reshape(decoded, wanted.shape), wanted)
        assert stored.size(i) > sum(map(len, files))


def test_folders_of_one_storage_are_told_apart(
    shards: tuple[_clips.Shards, ...], tmp_path: Path
) -> None:
    video, raw = Path(shards[0].folder), Path(shards[2].folder)
    assert [part.name for part in _clips.existing([video, raw])] == ["video", "raw"]
    (tmp_path / "again").symlink_to(raw)
    assert [p.name for p in _clips.existing([raw, tmp_path / "again"])] == ["raw", "again"]


# -- stages ---


@pytest.mark.parametrize("draw", DRAWS)
def test_stages_make_what_the_whole_item_makes(stages: _stages.Stages, draw: Draw) -> None:
    """Otherwise the rows of the stages would not be parts of the row of the item."""
    first = "video"  # the stages after decoding run on the frames of the first storage
    plain = result_of(stages, first, "training item", draw)
    np.testing.assert_array_equal(plain[0], result_of(stages, "any", _stages.AUGMENT, draw))
    full = result_of(stages, first, "training item + RandAugment + flow", draw)
    np.testing.assert_array_equal(full[0], result_of(stages, "any", _stages.AUGMENT_RA, draw))
    labels = result_of(stages, "any", "flow labels", draw)
    np.testing.assert_array_equal(full[4][_stages.FLOW], labels)
    indices, _ = result_of(stages, "any", "sample indices", draw)
    np.testing.assert_array_equal(
        result_of(stages, first, "frames", draw),
        stages.samples[first].frames(draw.index, indices),
    )


def test_items_are_those_that_their_names_say(stages: _stages.Stages) -> None:
    draw = DRAWS[1]
    for storage in _clips.STORAGES:
        plain = result_of(stages, storage, "training item", draw)
        flow = result_of(stages, storage, "training item + flow", draw)
        augmented = result_of(stages, storage, "training item + RandAugment", draw)
        assert plain[4] == augmented[4] == {} and set(flow[4]) == {_stages.FLOW}
        np.testing.assert_array_equal(plain[0], flow[0])
        assert not np.array_equal(plain[0], augmented[0])
        one = result_of(stages, storage, "evaluation item", draw)
        three = result_of(stages, storage, "evaluation item, 3 crops", draw)
        assert len(three) == 3
        np.testing.assert_array_equal(three[1][0], one[0])


def test_a_collated_batch_has_as_many_clips_as_it_is_divided_by(stages: _stages.Stages) -> None:
    batch = result_of(stages, "any", "collate", DRAWS[0])
    (stage,) = (s for s in stages.all() if s.name == "collate")
    assert isinstance(batch, loader.RawBatch) and len(batch.keys) == stage.clips == 3


def test_rows_hold_every_turn_and_the_share_of_the_ceiling() -> None:
    train, evaluate = _stages.CEILINGS.values()
    seconds = {
        ("raw", train): [0.010, 0.012, 0.011],
        ("raw", evaluate): [0.005] * 3,
        ("raw", "read"): [0.001] * 3,
        ("raw", "training item"): [0.044, 0.040, 0.050],
        ("raw", "evaluation item"): [0.010] * 3,
        ("any", _stages.AUGMENT): [0.002, 0.003, 0.001],
        ("any", _stages.AUGMENT_RA): [0.012, 0.015, 0.010],
        ("released", "training item"): [0.4] * 3,
    }
    found = {(row["storage"], row["stage"]): row for row in _stages.rows(seconds)}
    item = found["raw", "training item"]
    assert item["ms"]["median"] == pytest.approx(44) and item["ms"]["n"] == 3
    assert item["clips_per_s"] == pytest.approx(1 / 0.044)
    assert item["of_ceiling"] == pytest.approx(0.25)
    assert found["raw", "evaluation item"]["of_ceiling"] == pytest.approx(0.5)
    assert found["any", "RandAugment"]["ms"]["median"] == pytest.approx(10)
    with_share = {key for key, row in found.items() if "of_ceiling" in row}
    assert with_share == {("raw", "training item"), ("raw", "evaluation item")}


def test_every_turn_covers_all_clips_and_stages_in_changing_order() -> None:
    seen: list[tuple[str, Draw]] = []

    def stage(name: str) -> _stages.LoadingStage:
        return _stages.LoadingStage("raw", name, lambda draw: lambda: seen.append((name, draw)))

    stages = [stage(name) for name in "abcd"]
    seconds = _stages.take_turns(stages, clips=2, turns=3, tell=lambda _: None)
    assert [name for name, _ in seen[:4]] == list("abcd")  # warm-up
    orders = set()
    for number in range(6):
        part = seen[4 * (number + 1) : 4 * (number + 2)]
        assert {draw for _, draw in part} == {Draw(number % 2, number // 2)}
        assert sorted(name for name, _ in part) == list("abcd")
        orders.add(tuple(name for name, _ in part))
    assert len(orders) > 1
    assert all(len(times) == 3 for times in seconds.values())


# -- the peer ---


def test_the_peer_decodes_every_frame(videos: Path, shards: tuple[_clips.Shards, ...]) -> None:
    samples = shards[0].samples(CLIPS)
    for i, key in enumerate(samples.keys):
        frames = _released_loader.decode_by_pyav((videos / f"{key}.webm").read_bytes())
        assert len(frames) == samples.num_frames(i)
        ours = samples.frames(i, np.arange(len(frames)))
        assert np.abs(frames.astype(int) - ours).mean() < 2  # other conversion to RGB


@pytest.mark.skipif(not _released_loader.has_ffmpeg(), reason="no ffmpeg on the PATH")
def test_ffmpeg_gives_the_same_frames(videos: Path) -> None:
    path = next(videos.glob("*.webm"))
    by_pyav = _released_loader.decode_by_pyav(path.read_bytes())
    by_ffmpeg = _released_loader.decode_by_ffmpeg(path)
    assert by_ffmpeg.shape == by_pyav.shape
    assert np.abs(by_ffmpeg.astype(int) - by_pyav).mean() < 2


def test_the_peers_randaugment_is_ours_on_whole_frames(shards: tuple[_clips.Shards, ...]) -> None:
    frames = shards[0].samples(CLIPS).frames(0, np.array([0, 9, 18]))
    whole = rand_augment.Box(0, 0, *frames.shape[1:3])
    for n in range(8):
        spec = _stages.RAND_AUGMENT
        images = _released_loader.rand_augmented(frames, spec, 32, rng(n))
        drawn = rand_augment.draw(spec, 32, int(rng(n).integers(2**32)))
        ours = rand_augment.augment(frames, drawn, whole)
        np.testing.assert_array_equal(np.stack([np.asarray(i) for i in images]), ours)


def test_the_peers_flow_labels_are_those_of_the_objective(
    shards: tuple[_clips.Shards, ...],
) -> None:
    frames = shards[0].samples(CLIPS).frames(0, np.array([0, 9, 18]))
    config = RECIPE.input()
    images = [_released_loader.Image.fromarray(frame) for frame in frames]
    clip_TCHW = _released_loader.cropped(images, config, rng("crop"))
    assert clip_TCHW.shape == (3, 3, 32, 32) and -1 <= clip_TCHW.min() < clip_TCHW.max() <= 1
    as_bytes = ((clip_TCHW + 1) * 127.5).round().byte()
    again_TCHW = as_bytes.float() / 127.5 - 1
    labels = _released_loader.flow_labels(again_TCHW, _stages.PATCH)
    ours = RECIPE.flow()(as_bytes.permute(0, 2, 3, 1).contiguous().numpy(), rng("flow"))
    assert labels.shape == ours.shape == (2, 4) and len(np.unique(labels)) > 1
    assert (labels == ours).mean() > 0.8  # rounding may move a patch over a border


def test_the_peers_stages_end_in_a_whole_sample(stages: _stages.Stages, tmp_path: Path) -> None:
    *parts, whole = stages.peer(tmp_path)
    clip, labels = whole.ready(DRAWS[1])()
    assert [part.name for part in parts][-3:] == [
        "RandAugment frame by frame", "normalise, resize, crop", "flow labels",
    ]  # fmt: skip
    np.testing.assert_array_equal(parts[-1].ready(DRAWS[1])(), labels)
    assert clip.shape == (4, 3, 32, 32) and labels.shape == (3, 4)


# -- loaders ---


def test_a_stream_counts_its_clips_and_looks_at_its_worker(
    shards: tuple[_clips.Shards, ...],
) -> None:
    items = RECIPE.evaluation(shards[2].samples(CLIPS, length=60), resized=True)
    stream = _streams.Stream(
        lambda: loader.evaluation_batches(items, batch=3, workers=1, pin=False), workers=1
    )
    assert stream.clips == 3  # of the worker's first batch
    window = stream.turn(4)
    assert stream.clips == 3 + 3 * (_streams.PREFETCHED + 4)
    assert min(window.clips_per_s, window.main_ms, window.wait_ms) > 0 <= window.worker_ms
    (worker,) = stream.memory()
    assert 10**7 < worker.anonymous < worker.resident
    (pid,) = stream._pids
    stream.close()
    assert not Path(f"/proc/{pid}").exists() or os.waitpid(pid, os.WNOHANG)[0] == pid


def test_a_memory_row_names_the_largest_worker_and_its_growth() -> None:
    mib = benchmark.MIB
    seen = [
        (clips, [_streams.Memory(300 * mib, own * mib), _streams.Memory(200 * mib, 90 * mib)])
        for clips, own in ((8, 100), (500, 120), (1000, 125), (2000, 128))
    ]
    row = benchmark._memory_row("jpeg", seen)
    assert row["growth_bytes"] == 8 * mib and row["after_clips"] == [8, 500, 1000, 2000]
    assert "300, 300, 300 resident" in row["note"] and "100, 120, 128 not of files" in row["note"]


# -- the command ---


def test_every_mistake_is_in_one_message(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [f"--data={tmp_path / 'absent'}", "--clips=0", "--turns=x", "--memory-clips=-1"]
    assert speed.main(["loader", *arguments, f"--out={tmp_path / 'no' / 'a.json'}"]) == 2
    shown = capsys.readouterr()
    assert "5 mistake(s), nothing was measured" in shown.err and not shown.out
    for word in ("does not exist", "--clips", "--turns", "--memory-clips", "--out"):
        assert word in shown.err, word
    assert speed.main(["loader", "--size=40", "--height=33"]) == 2
    assert "patches of 16" in (err := capsys.readouterr().err) and "--height" in err


def test_the_stages_of_a_measurement(shards: tuple[_clips.Shards, ...]) -> None:
    """In this process: a row for each stage of each storage, and the peer's."""
    options = speed._parser().parse_args(
        ["loader", "--clips=1", "--turns=2", "--frames=4", "--size=64", "--workers=1"]
        + [f"--data={part.folder}" for part in shards]
    )
    plan = benchmark.read(options)
    task = json.loads(json.dumps(benchmark.asdict(plan.shared)))
    answer = benchmark.answer_stages(task, lambda _: None)
    peer = 6 if _released_loader.has_ffmpeg() else 5
    per_storage = {name: 0 for name in (*_clips.STORAGES, "any", "released")}
    for row in answer["rows"]:
        per_storage[row["storage"]] += 1
        assert row["ms"]["n"] == 2
    assert per_storage == {"video": 11, "jpeg": 11, "raw": 11, "any": 5, "released": peer}
    assert cv2.getNumThreads() == 1 and answer["clips"] == 1
    assert 0 < answer["kb_per_clip"]["video"] < answer["kb_per_clip"]["raw"]


@pytest.mark.slow
def test_the_whole_command(
    shards: tuple[_clips.Shards, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "loader.json"
    arguments = ["--clips=2", "--turns=2", "--frames=4", "--size=64", "--workers=1"]
    arguments += [f"--data={shards[2].folder}", "--memory-clips=64", f"--out={out}"]
    assert speed.main(["loader", *arguments]) == 0
    saved = json.loads(out.read_text())
    rows = {(row["storage"], row["stage"]): row for row in saved["rows"]}
    assert {row["status"] for row in saved["rows"]} == {"ok"}
    assert not any(storage in ("video", "released") for storage, _ in rows)
    training = rows["raw", "training loader"]
    ceiling = rows["raw", _stages.CEILINGS["training"]]["clips_per_s"]
    assert training["of_ceiling"] == pytest.approx(training["clips_per_s"]["median"] / ceiling)
    assert training["clips_per_s"]["n"] == benchmark.LOADER_TURNS
    for kind in ("evaluation loader", benchmark.WITHOUT_FLOW):
        assert rows["raw", kind]["of_ceiling"] > 0, kind
    memory = rows["raw", "worker memory"]
    assert memory["after_clips"][-1] >= 64 and len(memory["workers_bytes"]) == 5
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("raw ") for line in lines) == 15
    assert saved["workers"] == 1 and {"code", "versions"} <= set(saved["environment"])


def test_loaders_that_do_not_fit_into_memory_are_refused(
    shards: tuple[_clips.Shards, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benchmark, "free_memory", lambda: 4 * benchmark.GIB)
    assert benchmark._too_little_memory(2, 3) is None
    assert "about 4.7 GiB, 4.0 are free" in (benchmark._too_little_memory(8, 1) or "")
