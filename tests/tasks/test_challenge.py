"""image.background_challenge: the original's verdicts with a fraction of its forward passes."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from makers import ROOT
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

from bench.data.imagenet9 import CLASSES, FG_MASK, FOLDERS, IN9_OF_IMAGENET, MEAN, STD, VARIANTS
from bench.evaluate import command as bench_evaluate
from bench.task import DataSpec, Images, ModelSpec, Row
from tasks.image import _challenge_state
from tasks.image import background_challenge as challenge
from tasks.image._challenge_search import BackgroundSearch
from tasks.image._challenge_state import FOOLED, RIGHT

FIXTURES = ROOT / "tests" / "fixtures/backgrounds"
ORIGINAL = json.loads((FIXTURES / "original.json").read_text())
SIZE = 8
HALF = (0.5, 0.5, 0.5)
ORIGINAL_BATCH = 32  # of the released evaluator, which stops after a batch with a failure


@dataclass
class ArraySamples:
    """A split in memory."""

    keys: Sequence[str]
    labels: np.ndarray
    images: list[np.ndarray]
    masks: dict[int, np.ndarray] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.keys)

    def with_layer(self, name: str) -> np.ndarray:
        return np.array(sorted(self.masks) if name == FG_MASK else [], dtype=np.int64)

    def frames(self, i: int, indices: np.ndarray) -> np.ndarray:
        return self.images[i][None][indices]

    def layer(self, i: int, name: str) -> np.ndarray:
        assert name == FG_MASK
        return self.masks[i]


@dataclass
class ArrayContext:
    """`bench.task.Context` over arrays, without files: the model is a real one."""

    net: nn.Module
    by_split: dict[str, ArraySamples]
    classes: tuple[str, ...] = CLASSES
    mean: tuple[float, float, float] = HALF
    std: tuple[float, float, float] = HALF
    seed: int = 0
    scratch: Path | None = None
    passes: int = 0
    largest: int = 0
    progressed: list[tuple[int, int, str]] = field(default_factory=list)
    pictures: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def spec(self) -> DataSpec:
        splits = ("train", *self.by_split)
        return DataSpec(
            "arrays", "image", self.classes, {}, splits, layers={"original": (FG_MASK,)}
        )

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(self.by_split)

    def record(self, *_: Any) -> None:
        pass

    def model(self, clip_BTCHW: Tensor) -> Tensor:
        self.passes += len(clip_BTCHW)
        self.largest = max(self.largest, len(clip_BTCHW))
        return self.net(clip_BTCHW[:, 0])

    def count(self, split: str) -> int:
        return len(self.by_split[split])

    def samples(self, split: str) -> Any:
        return self.by_split[split]

    def images(self, split: str) -> Iterator[Images]:
        held = self.by_split[split]
        begin = 0
        while begin < len(held):  # batches of one size each
            end = begin + 1
            while end < min(begin + 7, len(held)) and (
                held.images[end].shape == held.images[begin].shape
            ):
                end += 1
            images = torch.from_numpy(np.stack(held.images[begin:end]))
            labels = torch.from_numpy(held.labels[begin:end])
            yield Images(images, labels, tuple(held.keys[begin:end]))
            begin = end

    def to_clip(self, images_BHWC: Tensor) -> Tensor:
        clip = images_BHWC.permute(0, 3, 1, 2).float() / 255
        mean, std = (torch.tensor(v)[:, None, None] for v in (self.mean, self.std))
        return ((clip - mean) / std).unsqueeze(1)

    def keep_picture(self, name: str, image_HWC: np.ndarray) -> None:
        self.pictures[name] = image_HWC

    def progress(self, done: int, total: int, text: str = "") -> None:
        self.progressed.append((done, total, text))


def evaluate(context: ArrayContext, **options: Any) -> list[Row]:
    with torch.no_grad():
        return challenge.run(challenge.Config(**options), context)  # type: ignore[arg-type]


def value_of(rows: list[Row], metric: str, subset: str = "all") -> float:
    [row] = [r for r in rows if (r["metric"], r["subset"]) == (metric, subset)]
    return row["value"]


# -- a small world whose models are vulnerable as much as one likes ---


class Rule(nn.Module):
    """Answers the foreground's class, which its pixels spell out, unless the background is loud.

    Red of pixel (0, 0) holds the class, its green how much the foreground stands; blue of the last
    pixel, always background, is how loud the background is; green of it the class it shouts for.
    """

    def __init__(self, outputs: int = 9) -> None:
        super().__init__()
        self.outputs = outputs

    def forward(self, images_NCHW: Tensor) -> Tensor:
        pixels = (images_NCHW * 0.5 + 0.5) * 255
        pixels = pixels.round().long()
        own, stands = pixels[:, 0, 0, 0], pixels[:, 1, 0, 0]
        shouts, loud = pixels[:, 1, -1, -1], pixels[:, 2, -1, -1]
        answer = torch.where(loud > stands, shouts, own)
        return nn.functional.one_hot(answer, self.outputs).float()


def world(
    stands: np.ndarray, loud: np.ndarray, *, seed: int = 0, net: nn.Module | None = None
) -> ArrayContext:
    """F foregrounds and B backgrounds, classes in turn in stored (sorted) order."""
    rng = np.random.default_rng(seed)

    def split(strength: np.ndarray, *, shout: bool) -> ArraySamples:
        labels = np.sort(np.arange(len(strength)) % len(CLASSES)).astype(np.int64)
        images = rng.integers(0, 256, (len(strength), SIZE, SIZE, 3), dtype=np.uint8)
        if shout:
            images[:, -1, -1, 1], images[:, -1, -1, 2] = labels, strength
        else:
            images[:, 0, 0, 0], images[:, 0, 0, 1] = labels, strength
        keys = [f"{FOLDERS[k]}/{i:05d}" for i, k in enumerate(labels)]
        return ArraySamples(keys, labels, list(images))

    foregrounds, backgrounds = split(stands, shout=False), split(loud, shout=True)
    for i in range(len(stands)):
        mask = rng.integers(0, 2, (SIZE, SIZE), dtype=np.uint8)
        mask[0, 0], mask[-1, -1] = 1, 0
        foregrounds.masks[i] = mask
    return ArrayContext(net or Rule(), {"original": foregrounds, "only_bg_t": backgrounds})


def by_hand(context: ArrayContext) -> np.ndarray:
    """fooled_FB, one composite after the other, as the definition reads."""
    f, b = context.by_split["original"], context.by_split["only_bg_t"]
    fooled = []
    for i in f.with_layer(FG_MASK):
        mask = f.masks[i][..., None].astype(np.float32)
        mixed = [bg / 255 * (1 - mask) + mask * (f.images[i] / 255) for bg in b.images]
        images = torch.from_numpy(np.stack(mixed)).float().permute(0, 3, 1, 2)
        mean, std = (torch.tensor(v)[:, None, None] for v in (context.mean, context.std))
        with torch.no_grad():
            logits = context.net((images - mean) / std)
        top = logits.argmax(-1).numpy()
        top = IN9_OF_IMAGENET[top] if logits.shape[-1] == 1000 else top
        fooled.append(top != f.labels[i])
    return np.stack(fooled)


def original_passes(fooled_FB: np.ndarray) -> int:
    """Forward passes of the released evaluator: batches of 32 in file order, up to a failure."""
    count_B = fooled_FB.shape[1]
    first = np.where(fooled_FB.any(1), fooled_FB.argmax(1), count_B - 1)
    return int(np.minimum((first // ORIGINAL_BATCH + 1) * ORIGINAL_BATCH, count_B).sum())


strengths = st.lists(st.integers(0, 9), min_size=1, max_size=30).map(np.array)


@settings(max_examples=60, deadline=None)
@given(strengths, strengths, st.integers(1, 70), st.integers(0, 3), st.floats(0.01, 1.0))
def test_verdicts_are_those_of_the_definition(
    stands: np.ndarray, loud: np.ndarray, batch: int, strongest: int, rated: float
) -> None:
    context = world(stands, loud)
    rows = evaluate(context, batch=batch, strongest=strongest, rated=rated)
    fooled_FB = by_hand(context)
    robust_F = ~fooled_FB.any(1)
    labels = context.by_split["original"].labels
    assert value_of(rows, "top1") == robust_F.mean()
    for k, name in enumerate(CLASSES):
        if (labels == k).any():
            assert value_of(rows, "top1", f"class: {name}") == robust_F[labels == k].mean()
    pairs = fooled_FB.size
    passes = round(value_of(rows, "passes") * pairs)
    rating = round(value_of(rows, "rating_passes") * pairs)
    assert passes + rating == context.passes <= pairs and context.largest <= batch
    assert passes >= robust_F.sum() * fooled_FB.shape[1] + (~robust_F).sum()
    assert rating == 0 or strongest > 0
    done, total, _ = [p for p in context.progressed if p[2] == "verdicts"][-1]
    assert done == total == pairs


# -- forward passes ---


@pytest.mark.parametrize("kind", ["half", "few strong", "graded", "every"])
@pytest.mark.parametrize("batch", [64, 256])
def test_a_fifth_of_the_originals_passes_where_most_are_vulnerable(kind: str, batch: int) -> None:
    """Of the whole evaluation as it comes, the rating included."""
    rng = np.random.default_rng(1)
    stands = rng.integers(0, 190, 270) if kind == "graded" else np.full(270, 5)
    loud = {
        "half": rng.integers(0, 11, 270),
        "few strong": np.where(rng.random(270) < 0.02, 9, 1),
        "graded": rng.integers(0, 200, 270),
        "every": np.full(270, 9),
    }[kind]
    context = world(stands, loud)
    labels = context.by_split["original"].labels
    fooled_FB = (loud > stands[:, None]) & (labels != labels[:, None])
    assert fooled_FB.any(1).mean() > 0.99
    evaluate(context, batch=batch)
    assert context.passes <= original_passes(fooled_FB) / 5


def test_a_robust_model_costs_no_more_than_all_pairs() -> None:
    context = world(np.full(40, 200), np.full(50, 100))
    rows = evaluate(context)
    assert value_of(rows, "top1") == 1.0 and context.passes == 40 * 50
    assert value_of(rows, "passes") == 1.0 and value_of(rows, "rating_passes") == 0.0


def test_the_first_wave_is_not_one_background_for_all() -> None:
    labels = np.repeat(np.arange(9), 5)
    codes = np.zeros((45, 45), dtype=np.int8)
    search = BackgroundSearch(codes, labels, labels, seed=0)
    first = search.next_pairs(45)
    assert sorted(first.f_N) == list(range(45)) and len(set(first.b_N)) > 30
    assert (
        labels[first.f_N] != labels[first.b_N]
    ).all()  # their own class is unlikely to fool them


def test_what_fooled_the_same_class_goes_first_then_what_fooled_the_most() -> None:
    labels = np.repeat(np.arange(3), 4)
    codes = np.zeros((12, 12), dtype=np.int8)
    codes[0, 7] = FOOLED  # one of class 0
    codes[[4, 5, 8], 10] = FOOLED  # three of other classes
    codes[[6, 9], 2] = FOOLED
    search = BackgroundSearch(codes, labels, labels, seed=0)
    assert search._best(np.array([1]), 3).tolist() == [[7, 10, 2]]
    assert search._best(np.array([1]), 1).tolist() == [[7]]
    codes[1, 7] = RIGHT  # never again
    search = BackgroundSearch(codes, labels, labels, seed=0)
    assert search._best(np.array([1]), 2).tolist() == [[10, 2]]


# -- the strongest backgrounds ---


def test_with_all_foregrounds_rated_the_shares_are_exact() -> None:
    rng = np.random.default_rng(3)
    context = world(rng.integers(0, 99, 45), rng.integers(0, 99, 36))
    rows = [r for r in evaluate(context, rated=1.0, strongest=4) if r["metric"] == "fooled"]
    fooled_FB = by_hand(context)
    f, b = context.by_split["original"], context.by_split["only_bg_t"]
    assert len(rows) == 36 and len({r["view"] for r in rows}) == 36
    for row in rows:
        i = list(b.keys).index(row["view"].removeprefix("only_bg_t/"))
        others = f.labels != b.labels[i]
        assert row["value"] == fooled_FB[others, i].mean() and row["n"] == others.sum() == 40
        assert row["subset"] == f"class: {CLASSES[b.labels[i]]}" and row["split"] == "test"
    assert rows == sorted(rows, key=lambda r: (-r["value"], r["view"]))


def test_finalists_are_the_loudest_and_pictures_show_them_in_order() -> None:
    rng = np.random.default_rng(4)
    loud = rng.permutation(90) + 10
    context = world(rng.integers(0, 60, 90), loud)
    rows = evaluate(context, strongest=2, batch=8)
    rated = [r for r in rows if r["metric"] == "fooled"]
    assert len(rated) == 18 == len(context.pictures)
    assert all(r["n"] == 8 for r in rated)  # one of ten in each of eight classes
    b = context.by_split["only_bg_t"]
    for name in CLASSES:
        of_class = [r for r in rated if r["subset"] == f"class: {name}"]
        for rank, row in enumerate(of_class, start=1):
            i = list(b.keys).index(row["view"].removeprefix("only_bg_t/"))
            assert (context.pictures[f"strongest/{name}-{rank}"] == b.images[i]).all()


def test_without_the_rating_nothing_is_rated_and_verdicts_are_the_same() -> None:
    rng = np.random.default_rng(5)
    with_rating = world(rng.permutation(60), rng.permutation(60))
    without = replace(with_rating, passes=0, pictures={})
    one, other = evaluate(with_rating), evaluate(without, strongest=0)
    assert value_of(other, "rating_passes") == 0.0 < value_of(one, "rating_passes")
    assert [r for r in one if r["metric"] in ("top1", "passes")] == other[:-1]
    assert not without.pictures and not [r for r in other if r["metric"] == "fooled"]


# -- after a kill ---


class Killed(BaseException):
    pass


def die_after(context: ArrayContext, passes: int) -> None:
    def dying(clip_BTCHW: Tensor) -> Tensor:
        if context.passes >= passes:
            raise Killed
        return ArrayContext.model(context, clip_BTCHW)

    context.model = dying  # type: ignore[method-assign]


@settings(max_examples=15, deadline=None)
@given(after=st.integers(1, 300), seed=st.integers(0, 3))
def test_after_a_kill_it_goes_on_as_if_nothing_had_happened(
    after: int, seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("kill")
    rng = np.random.default_rng(seed)
    stands, loud = rng.integers(20, 90, 24), rng.integers(0, 80, 18)
    straight = world(stands, loud)
    wanted = evaluate(straight, batch=8, rated=0.5)
    first, second = (world(stands, loud) for _ in range(2))
    first.scratch = second.scratch = folder / "state.npz"
    die_after(first, after)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_challenge_state, "SAVE_S", 0.0)
        try:
            evaluate(first, batch=8, rated=0.5)
        except Killed:
            assert first.passes >= after
        assert evaluate(second, batch=8, rated=0.5) == wanted
    assert first.passes + second.passes == straight.passes
    assert second.pictures.keys() == straight.pictures.keys()
    assert list(folder.iterdir()) == [folder / "state.npz"]


def test_verdicts_can_be_read_once_the_search_is_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = world(np.arange(30), np.arange(30)[::-1].copy())
    context.scratch = tmp_path / "state.npz"
    evaluate(context)
    fooled_FB = by_hand(context)
    f, b = context.by_split["original"], context.by_split["only_bg_t"]
    found = challenge.verdicts(context.scratch)
    assert list(found) == list(f.keys)
    for i, by in enumerate(found.values()):
        assert fooled_FB[i, list(b.keys).index(by)] if by else not fooled_FB[i].any()
    context.scratch.unlink()
    monkeypatch.setattr(_challenge_state, "SAVE_S", 0.0)
    die_after(context, context.passes + 20)
    with pytest.raises(Killed):
        evaluate(context, batch=4)
    with pytest.raises(ValueError, match="did not end"):
        challenge.verdicts(context.scratch)


@pytest.mark.parametrize("written", [0, 1, 100, 400])
def test_a_kill_while_saving_leaves_the_previous_state(
    written: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = world(np.arange(20), np.arange(20))
    context.scratch = tmp_path / "state.npz"
    evaluate(context)
    before, passes = context.scratch.read_bytes(), context.passes

    def cut_short(handle: Any, **_: Any) -> None:
        handle.write(before[:written])
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(np, "savez", cut_short)
        evaluate(context)
    assert context.scratch.read_bytes() == before
    evaluate(context)
    assert context.passes == passes  # all was known


def test_a_state_of_other_data_or_a_broken_one_is_not_used(tmp_path: Path) -> None:
    context, other = world(np.full(18, 5), np.full(18, 9)), world(np.full(18, 5), np.full(18, 1))
    context.scratch = other.scratch = tmp_path / "state.npz"
    other.by_split["only_bg_t"].keys = [f"{key}x" for key in other.by_split["only_bg_t"].keys]
    wanted = evaluate(world(np.full(18, 5), np.full(18, 9)))
    evaluate(other)
    assert evaluate(context) == wanted
    stored = context.scratch.read_bytes()
    for broken in (b"", stored[: len(stored) // 2], b"something else", stored[:-3]):
        context.scratch.write_bytes(broken)
        assert evaluate(context) == wanted


# -- one clear message ---


def test_sizes_that_do_not_go_together_are_named() -> None:
    context = world(np.arange(18), np.arange(18))
    context.by_split["only_bg_t"].images[3] = np.zeros((SIZE, SIZE + 1, 3), np.uint8)
    context.by_split["original"].images[4] = np.zeros((SIZE - 1, SIZE, 3), np.uint8)
    with pytest.raises(
        ValueError, match=r"original/02_wheeled vehicle/00004 \(7 x 8\); only_bg_t/"
    ) as e:
        evaluate(context)
    assert "8 x 9" in str(e.value) and context.passes == 0


def test_unfit_masks_are_all_named() -> None:
    context = world(np.arange(18), np.arange(18))
    masks = context.by_split["original"].masks
    masks[2], masks[5] = masks[2][:, :-1], masks[5][..., None]
    with pytest.raises(ValueError, match="01_bird/00002: 8 x 7, its image 8 x 8") as e:
        evaluate(context)
    assert "02_wheeled vehicle/00005: 8 x 8 x 1" in str(e.value)


def test_a_split_without_masks_and_one_cut_short() -> None:
    context = world(np.arange(18), np.arange(18))
    context.count = lambda split: 19  # type: ignore[method-assign]
    with pytest.raises(ValueError, match="declares 19 images and gave 18"):
        evaluate(context)
    context = world(np.arange(18), np.arange(18))
    context.by_split["original"].masks.clear()
    with pytest.raises(ValueError, match="backgrounds_challenge_data"):
        evaluate(context)


def test_images_without_a_mask_are_no_foregrounds() -> None:
    context = world(np.full(20, 5), np.full(20, 1))
    del context.by_split["original"].masks[7]
    [row] = [r for r in evaluate(context) if (r["metric"], r["subset"]) == ("top1", "all")]
    assert row["n"] == 19 and row["value"] == 1.0


@pytest.mark.parametrize(
    ("changes", "outputs", "words"),
    [
        ({"media": "video"}, 9, "no images"),
        ({"splits": ("train", "original")}, 9, "lacks only_bg_t: unpack backgrounds_challenge"),
        ({"splits": ("train",), "layers": {}}, 9, "lacks original, only_bg_t, fg_mask"),
        ({}, 10, "10 outputs"),
        ({}, 9, None),
        ({}, 1000, None),
    ],
)
def test_skip_says_what_is_missing(
    changes: dict[str, Any], outputs: int, words: str | None
) -> None:
    spec = replace(world(np.arange(9), np.arange(9)).spec, **changes)
    model = ModelSpec(1, SIZE, 4, 8, outputs, HALF, HALF)
    reason = challenge.skip(challenge.Config(), model, spec)
    assert reason is None if words is None else words in (reason or "")


# -- the released evaluator ---


@pytest.fixture(scope="session")
def original_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A test tree in the released layout that this project did not make (fixtures/backgrounds)."""
    folder = tmp_path_factory.mktemp("released")
    with tarfile.open(FIXTURES / "bg_challenge.tar.xz") as tar:
        tar.extractall(folder, filter="data")
    return folder / "bg_challenge"


def tree_split(tree: Path, variant: str) -> ArraySamples:
    paths = sorted((tree / variant / "val").glob("*/*.JPEG"))
    keys = [f"{path.parent.name}/{path.stem}" for path in paths]
    labels = np.array([FOLDERS.index(path.parent.name) for path in paths])
    split = ArraySamples(keys, labels, [np.asarray(Image.open(path)) for path in paths])
    for path in (tree / "fg_mask/val").glob("*/*.npy") if variant == "original" else ():
        i = keys.index(f"{path.parent.name}/{path.stem}")
        split.masks[i] = np.load(path).astype(np.uint8)
    return split


def original_context(tree: Path, outputs: int) -> ArrayContext:
    """The fixture's model on the fixture's tree, normalised as the released code does."""
    net = timm.create_model("test_convnext", num_classes=outputs).eval()
    weights = load_file(FIXTURES / f"test_convnext_{outputs}.safetensors")
    net.load_state_dict({name: value.float() for name, value in weights.items()})
    imagenet = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    mean, std = (MEAN, STD) if outputs == 9 else imagenet
    splits = {variant: tree_split(tree, variant) for variant in VARIANTS}
    return ArrayContext(net, splits, mean=mean, std=std)


@pytest.mark.parametrize("outputs", [9, 1000])
def test_every_verdict_is_the_released_evaluators(
    outputs: int, original_tree: Path, tmp_path: Path
) -> None:
    context = original_context(original_tree, outputs)
    context.scratch = tmp_path / "state.npz"
    rows = evaluate(context, batch=32)
    expected = ORIGINAL[str(outputs)]["vulnerable"]
    found = challenge.verdicts(context.scratch)
    assert {key: by is not None for key, by in found.items()} == expected
    assert 10 < sum(expected.values()) < 25 and len(expected) == 35
    [row] = [r for r in rows if (r["metric"], r["subset"]) == ("top1", "all")]
    assert round(row["value"] * row["n"]) == 35 - sum(expected.values())


@pytest.mark.parametrize("outputs", [9, 1000])
def test_the_command_line_counts_as_the_original_to_the_image(
    outputs: int, original_tree: Path, tmp_path: Path
) -> None:
    model = f"timm:test_convnext@{FIXTURES / f'test_convnext_{outputs}.safetensors'}"
    out, rows = tmp_path / "rows.json", []
    for name in ("image.background_shift", "image.background_challenge"):
        arguments = [name, "--model", model, "--data", str(original_tree), "--official"]
        where = ["--runs", str(tmp_path), "--out", str(out), "--device", "cpu", "--threads", "1"]
        assert bench_evaluate.main([*arguments, *where]) == 0
        rows += json.loads(out.read_text())["rows"]
    found = {
        row["view"]: {"correct": round(row["value"] * row["n"]), "n": row["n"]}
        for row in rows
        if (row["metric"], row["subset"]) == ("top1", "all")
    }
    expected = ORIGINAL[str(outputs)]
    vulnerable = expected["vulnerable"]
    robust = len(vulnerable) - sum(vulnerable.values())
    assert found.pop("challenge") == {"correct": robust, "n": len(vulnerable)}
    gap = next(r["value"] for r in rows if (r["view"], r["subset"]) == ("bg_gap", "all"))
    share = {view: c["correct"] / c["n"] for view, c in expected["variants"].items()}
    assert gap == pytest.approx(share["mixed_same"] - share["mixed_rand"])
    assert found.pop("only_fg_mean")["n"] == len(
        vulnerable
    )  # those with a mask; nothing to compare
    del found["bg_gap"]
    assert found == expected["variants"]
