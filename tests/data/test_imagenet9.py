"""ImageNet-9: the rules of its variants, its mapping, the built-in data set, trees and shards."""

from __future__ import annotations

import io
import json
import pickle
import shutil
import signal
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import webdataset
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from makers import ROOT
from PIL import Image

from bench import prepare as command
from bench.data import imagenet9
from bench.data.builtin import cutouts, pictures
from bench.data.formats.imagenet9 import SPLITS, read_mask
from bench.data.image import DECODER, decode_image, encode_jpeg
from bench.data.imagenet9 import CLASSES, DERIVED, FG_MASK, FOLDERS, IN9_OF_IMAGENET, VARIANTS
from bench.data.shards.check import check
from bench.data.shards.read import open_split, read_index
from bench.data.sources import imagenet9 as real
from bench.data.sources import mini_imagenet9 as mini

TINY = mini.Config.tiny()
NONE = np.zeros(1, np.int64)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return mini.prepare(TINY, tmp_path_factory.mktemp("tiny"), workers=1)


@pytest.fixture
def trees(tiny: Path, tmp_path: Path) -> tuple[Path, Path]:
    """(training archives, release), to be damaged."""
    for name in ("train", "bg_challenge"):
        shutil.copytree(tiny / name, tmp_path / name)
    return tmp_path / "train", tmp_path / "bg_challenge"


def files_of(folder: Path) -> dict[str, bytes]:
    files = (p for p in folder.rglob("*") if p.is_file())
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in files}


def image_of(samples: object, i: int) -> np.ndarray:
    return samples.frames(i, NONE)[0]  # type: ignore[attr-defined, no-any-return]


# -- the rules of the variants and the mapping ---

sizes = st.tuples(st.integers(1, 12), st.integers(1, 12))


@st.composite
def masked(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    size = draw(sizes)
    image = draw(hnp.arrays(np.uint8, (*size, 3)))
    return image, draw(hnp.arrays(np.uint8, size, elements=st.integers(0, 1)))


@settings(deadline=None)
@given(masked(), st.sampled_from([np.uint8, bool, np.float32, np.int64]))
def test_variants_of_an_image_and_its_mask(pair: tuple[np.ndarray, np.ndarray], kind: type) -> None:
    image, mask = pair[0], pair[1].astype(kind)
    before, inside = image.copy(), pair[1].astype(bool)
    made = {name: make(image, mask) for name, make in DERIVED.items()}
    assert (image == before).all()
    assert all(m.dtype == np.uint8 and m.shape == image.shape for m in made.values())
    assert (made["only_fg"] + made["no_fg"] == image).all()
    assert (made["only_fg"][~inside] == 0).all() and (made["no_fg"][inside] == 0).all()
    top, left, bottom, right = imagenet9.bounding_box(mask)
    box = np.zeros(mask.shape, bool)
    box[top:bottom, left:right] = True
    assert box[inside].all() and box.any() == inside.any()
    if inside.any():  # and no smaller box would do
        assert inside[top].any() and inside[bottom - 1].any()
        assert inside[:, left].any() and inside[:, right - 1].any()
    for name in ("only_bg_b", "only_bg_t"):
        assert (made[name][~box] == image[~box]).all()
    assert (made["only_bg_b"][box] == 0).all()
    mixed = imagenet9.mix(image, mask, made["only_bg_t"])
    assert (mixed[inside] == image[inside]).all()
    assert (mixed[~inside] == made["only_bg_t"][~inside]).all()


@settings(deadline=None)
@given(masked())
def test_tiles_are_the_largest_strip(pair: tuple[np.ndarray, np.ndarray]) -> None:
    image, mask = pair
    height, width = mask.shape
    top, left, bottom, right = imagenet9.bounding_box(mask)
    areas = [left * height, (width - right) * height, top * width, (height - bottom) * width]
    tiled = imagenet9.tile_background(image, mask)
    if not mask.any():
        assert (tiled == image).all()
    elif max(areas) == 0:
        assert (tiled == 0).all()
    elif areas.count(max(areas)) == 1:
        strips = [image[:, :left], image[:, right:], image[:top], image[bottom:]]
        strip = strips[areas.index(max(areas))]
        laid = np.tile(strip, (height, width, 1))[:height, :width]
        assert (tiled[top:bottom, left:right] == laid[top:bottom, left:right]).all()


def test_mapping_is_the_official_one() -> None:
    counts = np.bincount(IN9_OF_IMAGENET + 1, minlength=10)
    assert counts.tolist() == [630, 116, 52, 42, 36, 35, 27, 26, 20, 16]
    known = {0: 8, 6: 8, 7: 1, 24: 1, 33: 3, 68: 3, 151: 0, 171: -1, 172: -1, 268: 0, 269: 4}
    known |= {300: 5, 326: 5, 388: 4, 389: 8, 397: 8, 401: 6, 407: 2, 880: 2, 889: 6, 384: 7}
    known |= {999: -1, 398: -1, 127: 1, 146: 1, 147: -1}
    known |= {8: 1, 362: 4, 365: 7}
    assert {i: int(IN9_OF_IMAGENET[i]) for i in known} == known
    assert IN9_OF_IMAGENET.dtype == np.int64 and not IN9_OF_IMAGENET.flags.writeable
    assert FOLDERS[2] == "02_wheeled vehicle" and cutouts.IN9_CLASSES == CLASSES


# -- the built-in data set ---


def test_tiny_lies_on_disk_as_released(tiny: Path) -> None:
    for variant in (*VARIANTS, FG_MASK):
        folders = sorted(p.name for p in (tiny / "bg_challenge" / variant / "val").iterdir())
        assert folders == list(FOLDERS)
    for variant in ("original", "only_bg_t", "only_bg_b", "no_fg", "only_fg", "clean_bg"):
        for split, count in (("train", TINY.train), ("val", TINY.val)):
            files = sorted((tiny / "train" / variant / split).rglob("*.JPEG"))
            assert len(files) == count
            stems = {f.stem for f in (tiny / "train" / FG_MASK / split).rglob("*.npy")}
            assert {f.stem for f in files} == stems
    for path in (tiny / "bg_challenge/original/val/02_wheeled vehicle").iterdir():
        assert path.name.startswith("n04576211_") and path.suffix == ".JPEG"
        with Image.open(path) as image:
            assert image.format == "JPEG" and image.size == (TINY.size, TINY.size)
        mask = np.load(tiny / "bg_challenge/fg_mask/val/02_wheeled vehicle" / f"{path.stem}.npy")
        assert mask.shape == (TINY.size, TINY.size) and set(np.unique(mask)) == {0, 1}


@pytest.mark.parametrize("variant", ["mixed_same", "mixed_rand", "mixed_next"])
def test_mixed_images_name_their_parts_and_show_them(tiny: Path, variant: str) -> None:
    originals = mini.open(TINY, tiny.parent, "original")
    backgrounds = mini.open(TINY, tiny.parent, "only_bg_t")
    mixed = mini.open(TINY, tiny.parent, variant)
    at = {key.split("/")[1]: i for i, key in enumerate(originals.keys)}
    for k, key in enumerate(mixed.keys):
        foreground, _, background = key.split("/")[1].removeprefix("fg_").partition("_bg_")
        i, j = at[foreground], at[background]
        label, other = int(originals.labels[i]), int(originals.labels[j])
        assert i != j and label == mixed.labels[k]
        if variant != "mixed_rand":
            assert other == (label + (variant == "mixed_next")) % 9
        mask = originals.layer(i, FG_MASK)
        expected = imagenet9.mix(image_of(originals, i), mask, image_of(backgrounds, j))
        # the parts went through JPEG on their own: equal up to its error
        assert np.abs(image_of(mixed, k).astype(int) - expected).mean() < 10
    assert sorted(key.split("_bg_")[0][:2] for key in mixed.keys) == sorted(
        key[:2] for key in originals.keys
    )


def test_test_images_show_unseen_objects_and_views_and_the_bias_is_as_asked() -> None:
    for kind in CLASSES:
        seen, unseen = (set(pictures.drawings(kind, training=t)) for t in (True, False))
        assert len(unseen) >= 4 and len(seen) > 2 * len(unseen) and not seen & unseen
    homes = [scene for pair in pictures.HOMES.values() for scene in pair]
    assert sorted(homes) == sorted(cutouts.all_panoramas())
    rule = mini.Config().rule
    for split in pictures.SPLITS:
        at_home = [
            pictures.scene_of(rule, split, n) in pictures.HOMES[CLASSES[pictures.label_of(n)]]
            for n in range(1800)
        ]
        assert abs(np.mean(at_home) - (0.7 + 0.3 * 2 / 18)) < 0.05


def test_no_background_pixel_is_seen_in_training_and_in_test(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ranges: dict[str, list[float]] = {}
    split = "train"

    def looking(image: np.ndarray, map_x: np.ndarray, map_y: np.ndarray, *_: object, **__: object):
        azimuths = map_x * 360 / image.shape[1]
        ranges.setdefault(split, []).extend([float(azimuths.min()), float(azimuths.max())])
        return np.zeros((*map_x.shape, 3), np.uint8)

    monkeypatch.setattr("bench.data.builtin.scenes.cv2.remap", looking)
    for split in ("train", "test"):
        for n in range(500):
            pictures.draw(mini.Config().rule, split, n)
    assert min(ranges["train"]) >= 0 and max(ranges["train"]) <= 240
    assert min(ranges["test"]) >= 240 and max(ranges["test"]) <= 360


@pytest.mark.parametrize("size", [16, 48, 128])
def test_objects_are_visible_and_masks_fit(size: int) -> None:
    rule = pictures.PictureRule(seed=3, size=size, rho=0.7)
    shares = []
    for n in range(90):
        image, mask, background = pictures.draw(rule, "test" if n % 2 else "train", n)
        assert mask.any() and mask.dtype == np.uint8
        top, left, bottom, right = imagenet9.bounding_box(mask)
        assert (bottom - top) * (right - left) < 0.9 * size * size  # as the release filters
        changed = np.abs(image.astype(int) - background).sum(-1) > 0
        shares.append(changed[mask > 0].mean())
    assert np.mean(shares) > 0.95


def test_bytes_depend_on_the_configuration_alone(tiny: Path, tmp_path: Path) -> None:
    assert files_of(mini.prepare(TINY, tmp_path, workers=2)) == files_of(tiny)
    changed = TINY.model_copy(update={"seed": 1})
    assert mini.locate(changed, tmp_path) != mini.locate(TINY, tmp_path)


def test_killed_generation_continues_to_the_same_bytes(tiny: Path, tmp_path: Path) -> None:
    script = f"""
        import os, signal
        from pathlib import Path
        from bench.data.builtin import pictures
        from bench.data.sources import mini_imagenet9 as mini
        written = pictures._write_bytes
        count = 0
        def dying(path, content):
            global count
            count += 1
            if count == 60:
                Path(path).write_bytes(content[:20])
                os.kill(os.getpid(), signal.SIGKILL)
            written(path, content)
        pictures._write_bytes = dying
        mini.prepare(mini.Config.tiny(), Path({str(tmp_path)!r}), workers=1)
    """
    killed = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], cwd=ROOT)
    assert killed.returncode == -signal.SIGKILL
    folder = mini.locate(TINY, tmp_path)
    with pytest.raises(ValueError, match=r"python -m bench\.prepare mini-imagenet9"):
        mini.open(TINY, tmp_path, "train")
    first = next((folder / "train/original/train/00_dog").glob("*.JPEG"))
    before = first.stat().st_mtime_ns
    with ThreadPoolExecutor(2) as together:  # two processes at once are serialised by the lock
        for made in [together.submit(mini.prepare, TINY, tmp_path, workers=1) for _ in range(2)]:
            assert made.result() == folder
    assert files_of(folder) == files_of(tiny) and first.stat().st_mtime_ns == before


# -- shards and trees ---


def test_every_split_opens_with_its_layers(tiny: Path) -> None:
    index = read_index(tiny)
    assert index["media"] == "image" and tuple(index["splits"]) == SPLITS
    assert index["layers"] == {
        "train": sorted(mini.LAYERS),
        "val": sorted(mini.LAYERS),
        "original": [FG_MASK],
    }
    spec = mini.spec(TINY)
    assert (
        spec.splits == SPLITS and spec.classes == CLASSES and spec.mean == (0.4717, 0.4499, 0.3837)
    )
    for split in SPLITS:
        samples = mini.open(TINY, tiny.parent, split)
        expected = {"train": TINY.train, "val": TINY.val}.get(split, TINY.test)
        assert len(samples) == expected and set(samples.labels) == set(range(9))
        assert samples.provenance == f"{DECODER}; original files"
        for i in (0, len(samples) - 1):
            assert samples.keys[i].startswith(FOLDERS[samples.labels[i]] + "/")
            assert samples.num_frames(i) == 1 and image_of(samples, i).shape == (24, 24, 3)
        for name in (*mini.LAYERS, "no_such"):
            has = samples.with_layer(name)
            assert has.dtype == np.int64
            assert len(has) == (expected if name in index["layers"].get(split, []) else 0)


@pytest.mark.parametrize("frames", ["file", "raw"])
def test_layers_are_the_files_of_the_same_stem(tiny: Path, tmp_path: Path, frames: str) -> None:
    config = TINY.model_copy(update={"frames": frames})
    folder = tiny if frames == "raw" else mini.prepare(config, tmp_path, workers=1)
    samples = pickle.loads(pickle.dumps(open_split(folder, "train")))
    for i in range(0, len(samples), 5):
        for name in ("original", *mini.LAYERS):
            path = tiny / "train" / name / "train" / samples.keys[i]
            if name == FG_MASK:
                found, stored = np.load(f"{path}.npy"), samples.layer(i, name)
            else:
                found = np.asarray(Image.open(f"{path}.JPEG").convert("RGB"))
                stored = image_of(samples, i) if name == "original" else samples.layer(i, name)
            assert stored.dtype == np.uint8 and stored.flags.writeable and (stored == found).all()
    with pytest.raises(ValueError, match=r"has no layer 'depth'; it has .*only_bg_t"):
        samples.layer(0, "depth")


def test_a_released_tree_and_shards_of_it_show_the_same(tiny: Path, tmp_path: Path) -> None:
    shards = convert((tiny / "train", tiny), tmp_path / "shards")
    for folder in (tiny, tiny / "bg_challenge"):
        released = real.as_released(folder)
        assert released is not None and released.splits == VARIANTS == released.spec.splits
        assert (
            released.spec.layers == {"original": (FG_MASK,)} and released.spec.name == "imagenet9"
        )
        for split in VARIANTS:
            tree, stored = (
                pickle.loads(pickle.dumps(released.open(split))),
                open_split(shards, split),
            )
            assert tree.keys == stored.keys and tree.classes == stored.classes
            assert (tree.labels == stored.labels).all()
            assert tree.provenance == stored.provenance
            for i in range(len(tree)):
                assert (image_of(tree, i) == image_of(stored, i)).all()
            assert (tree.with_layer(FG_MASK) == stored.with_layer(FG_MASK)).all()
            for i in tree.with_layer(FG_MASK):
                assert (tree.layer(i, FG_MASK) == stored.layer(i, FG_MASK)).all()
    assert real.as_released(tmp_path) is None


def test_digest_of_a_tree_changes_with_its_files(trees: tuple[Path, Path]) -> None:
    def digest() -> str:
        released = real.as_released(trees[1])
        assert released is not None
        return released.open("original").digest

    before = digest()
    assert before == digest()
    next((trees[1] / "mixed_next/val/08_fish").iterdir()).unlink()
    assert digest() != before


def test_order_and_names_are_those_of_the_originals_image_folder(trees: tuple[Path, Path]) -> None:
    """Any extension in any case, nested folders, hidden files left out; torchvision agrees."""
    torchvision = pytest.importorskip("torchvision")
    root = trees[1] / "original/val"
    (root / "03_reptile/.hidden.JPEG").write_bytes(b"")
    (root / "03_reptile/notes.txt").write_text("")
    white = np.full((9, 7, 3), 255, np.uint8)
    for name in ("Z.png", "a.PNG", "b.BMP", "c.jpg", "d.Ppm", "sub/0.jpeg"):
        (root / "03_reptile/sub").mkdir(exist_ok=True)
        Image.fromarray(white).save(root / "03_reptile" / name)
    released = real.as_released(trees[1])
    assert released is not None
    samples = released.open("original")
    (root / "03_reptile/.hidden.JPEG").unlink()
    official = torchvision.datasets.ImageFolder(str(root))
    assert samples.labels.tolist() == official.targets
    assert [k.split("/")[1] for k in samples.keys] == [Path(p).stem for p, _ in official.samples]
    for i, (path, _) in enumerate(official.samples):
        assert (image_of(samples, i) == np.asarray(official.loader(path))).all()


def convert(given: tuple[Path, Path], out: Path, *options: str) -> Path:
    train, test = map(str, given)
    arguments = ["imagenet9", "--train", train, "--test", test, "--out", str(out), "--workers", "1"]
    assert command.main([*arguments, *options]) == 0
    return out


def test_command_converts_verifies_counts_and_draws(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "imagenet9"
    sheet = tmp_path / "sheet.png"
    options = ["--layers", "only_bg_t", "fg_mask", "--sheet", str(sheet)]
    convert((tiny / "train", tiny / "bg_challenge"), out, *options)
    assert sheet.read_bytes()[:4] == b"\x89PNG"
    assert command.main(["imagenet9", "--out", str(out), "--check"]) == 0
    printed = capsys.readouterr().out
    assert "train 18, val 9, original 18" in printed
    assert any(
        line.split()[:4] == ["wheeled", "vehicle", "2", "1"] for line in printed.splitlines()
    )
    config = real.Config(layers=("only_bg_t",))
    assert real.missing(config, tmp_path) is None
    samples = real.open(config, tmp_path, "train")
    assert len(samples.with_layer("fg_mask")) == 18
    wanted = real.Config(layers=("no_fg",))
    with pytest.raises(
        ValueError, match=r"have no no_fg \(they have fg_mask, only_bg_t\).*--layers"
    ):
        real.open(wanted, tmp_path, "train")
    pinned = config.model_copy(update={"digest": "0" * 64})
    with pytest.raises(ValueError, match="the run asks for 000"):
        real.open(pinned, tmp_path, "train")
    assert "github.com/MadryLab" in (real.missing(real.Config(train_set="in9l"), tmp_path) or "")


@pytest.mark.parametrize("frames", ["file", "raw"])
def test_plain_webdataset_reads_the_shards(tiny: Path, tmp_path: Path, frames: str) -> None:
    layers = ["--layers", "only_bg_t", "fg_mask"]
    folder = convert((tiny / "train", tiny), tmp_path, "--frames", frames, *layers)
    samples = open_split(folder, "train")
    tar = str(folder / "train-000000.tar")
    for i, sample in enumerate(webdataset.WebDataset(tar, shardshuffle=False)):
        assert sample["__key__"] == samples.keys[i]
        assert json.loads(sample["json"])["label"] == samples.labels[i]
        if frames == "file":
            pixels = [decode_image(sample[e], name="") for e in ("jpg", "only_bg_t.jpg")]
        else:
            pixels = [np.load(io.BytesIO(sample[e])) for e in ("npy", "only_bg_t.npy")]
            pixels[0] = pixels[0][0]
        assert (pixels[0] == image_of(samples, i)).all()
        assert (pixels[1] == samples.layer(i, "only_bg_t")).all()
        mask = np.load(io.BytesIO(sample["fg_mask.npy"]))
        assert (mask == samples.layer(i, FG_MASK)).all()
    assert i == len(samples) - 1


def test_images_without_a_partner_are_kept_only_if_asked(
    trees: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gone = sorted((trees[0] / "only_bg_t/train/05_insect").iterdir())[0]
    gone.unlink()
    train, test = map(str, trees)
    arguments = ["imagenet9", "--train", train, "--test", test, "--out", str(tmp_path / "out")]
    assert command.main(arguments) == 2
    message = capsys.readouterr().err
    assert "1 of 18 images have no only_bg_t, 0 of 17 the other way round" in message
    assert gone.name in message and "--allow-unpaired" in message
    assert command.main([*arguments, "--allow-unpaired", "--workers", "1"]) == 0
    samples = open_split(tmp_path / "out", "train")
    without = samples.keys.index(f"05_insect/{gone.stem}")
    assert without not in samples.with_layer("only_bg_t")
    assert len(samples.with_layer("only_bg_t")) == 17
    with pytest.raises(
        ValueError, match=rf"{gone.stem} of 'train'.*no layer 'only_bg_t'; it has none"
    ):
        samples.layer(without, "only_bg_t")
    assert image_of(samples, without).shape == (24, 24, 3)


def test_all_mistakes_of_the_layout_come_in_one_message(
    trees: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train, test = trees
    shutil.rmtree(test / "mixed_rand")
    shutil.rmtree(test / "only_fg/val/04_carnivore")
    shutil.rmtree(test / "no_fg/val/02_wheeled vehicle")
    (test / "no_fg/val/02_wheeled vehicle").mkdir()
    (test / "only_bg_b/val/wolves").mkdir()
    (test / "only_bg_t/val/00_hounds").mkdir()
    Image.new("RGB", (24, 24)).save(test / "only_bg_t/val/00_hounds/x.png")
    lonely = next((test / "original/val/01_bird").iterdir())
    lonely.unlink()
    double = next((train / "original/val/08_fish").iterdir())
    shutil.copy(double, double.with_suffix(".jpg"))
    shutil.rmtree(train / "only_bg_t/train")
    (train / "only_bg_t/val/08_fish" / double.name).rename(train / "only_bg_t/val/08_fish/o.JPEG")
    shutil.copy(
        train / "original/train/00_dog/n02084071_1.JPEG", train / "original/train/00_dog/a.b.JPEG"
    )
    given = ["--train", str(train), "--test", str(test), "--out", str(tmp_path / "out")]
    assert command.main(["imagenet9", *given]) == 2
    message = capsys.readouterr().err
    for part in (
        f"there is no folder {test}/mixed_rand/val",
        f"{test}/only_fg/val lacks the class folders '04_carnivore'",
        f"there is no image in {test}/no_fg/val/02_wheeled vehicle",
        "none of the nine classes: 'wolves'",
        "two folders of one class: '00_dog', '00_hounds'",
        "1 masks have no image",
        f"{lonely.stem}.npy",
        "have the same stem",
        f"there is no folder {train}/only_bg_t/train",
        "1 of 9 images have no only_bg_t, 1 of 9 the other way round",
        "1 names hold a dot",
        "github.com/MadryLab/backgrounds_challenge",
    ):
        assert part in message, part
    assert not (tmp_path / "out").exists()


def test_wrong_folders_say_what_belongs_there(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for options, parts in {
        (): ["needs --train", "and --test", "github.com/MadryLab"],
        ("--test", str(tiny)): ["needs --train", f"--data {tiny}", "bench.evaluate"],
        ("--train", str(tiny / "train")): ["needs --test"],
        ("--train", "nowhere", "--test", str(tmp_path)): ["no folder nowhere", "(--test)"],
        ("--train", str(tiny / "train"), "--test", str(tiny / "train")): ["not the release"],
    }.items():
        assert command.main(["imagenet9", "--out", str(tmp_path / "out"), *options]) == 2
        message = capsys.readouterr().err
        assert all(part in message for part in parts), message
    with pytest.raises(ValueError, match="training archives"):
        real.as_released(tiny / "train")


def test_broken_images_and_masks_are_listed_and_left_out_only_if_asked(
    trees: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train, test = trees
    cut = sorted((train / "original/train/00_dog").iterdir())[0]
    cut.write_bytes(cut.read_bytes()[:300])
    masks = sorted((test / "fg_mask/val").rglob("*.npy"))
    np.save(masks[0], np.zeros((24, 24, 3), np.uint8))
    np.save(masks[1], np.full((24, 24), 255, np.uint8))
    np.save(masks[2], np.ones((20, 24), np.uint8))
    masks[3].write_bytes(b"not an array")
    arguments = ["imagenet9", "--train", str(train), "--test", str(test), "--out"]
    arguments += [str(tmp_path / "out"), "--workers", "1"]
    assert command.main(arguments) == 1
    message = capsys.readouterr().err
    assert "5 of 171 images cannot be decoded" in message and "--allow-failed" in message
    for part in (cut.name, "not two-dimensional", "other values than 0 and 1", "cannot be read"):
        assert part in message
    assert "24 x 20 pixels, its image 24 x 24" in message
    released = real.as_released(test)
    assert released is not None
    samples = released.open("original")
    for i, text in enumerate(["two-dim", "other values", "24 x 20 pixels", "cannot be read"]):
        at = samples.keys.index("/".join(masks[i].with_suffix("").parts[-2:]))
        with pytest.raises(ValueError, match=text):
            samples.layer(at, FG_MASK)
    assert command.main([*arguments, "--allow-failed"]) == 0
    assert "5 images left out" in capsys.readouterr().out
    index = check(tmp_path / "out")
    assert (
        index["splits"]["train"]["samples"] == 17 and index["splits"]["original"]["samples"] == 14
    )


def test_missing_variant_is_not_among_the_splits_of_a_tree(trees: tuple[Path, Path]) -> None:
    shutil.rmtree(trees[1] / "mixed_same")
    shutil.rmtree(trees[1] / FG_MASK)
    released = real.as_released(trees[1].parent)
    assert released is not None and "mixed_same" not in released.splits == released.spec.splits
    assert released.spec.layers == {}
    with pytest.raises(ValueError, match="no variant 'mixed_same'"):
        released.open("mixed_same")
    shutil.rmtree(trees[1] / "original/val/07_primate")
    with pytest.raises(ValueError, match="lacks the class folders '07_primate'"):
        real.as_released(trees[1])


@pytest.mark.parametrize("kind", [bool, np.float64, np.int64])
def test_masks_of_any_type_are_read(tmp_path: Path, kind: type) -> None:
    mask = np.eye(4, dtype=np.uint8)
    np.save(tmp_path / "m.npy", mask.astype(kind))
    assert read_mask(tmp_path / "m.npy").dtype == np.uint8
    assert (read_mask(tmp_path / "m.npy") == mask).all()


@pytest.mark.parametrize(
    "damage", [b"", b"no image", encode_jpeg(np.zeros((32, 32, 3), np.uint8))[:-99]]
)
def test_broken_image_is_an_error_naming_the_file(damage: bytes) -> None:
    with pytest.raises(ValueError, match=r"the image some/dog\.JPEG cannot be decoded"):
        decode_image(damage, name="some/dog.JPEG")


def test_grey_and_palette_images_become_rgb() -> None:
    for mode in ("L", "P", "CMYK", "RGBA", "1"):
        data = io.BytesIO()
        Image.new(mode, (5, 3)).save(data, "TIFF" if mode == "CMYK" else "PNG")
        assert decode_image(data.getvalue(), name=mode).shape == (3, 5, 3)
