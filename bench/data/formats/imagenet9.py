"""ImageNet-9 as it lies on disk: folders of images by class, masks beside them.

    TEST/<variant>/val/<NN_class>/*.JPEG, TEST/fg_mask/val/<NN_class>/*.npy    the release
    TRAIN/<variant>/{train,val}/<NN_class>/*.JPEG                              the training archives

Files of several variants belong together by class and stem. Shared by the real data set
(`sources/imagenet9.py`) and the built-in one (`sources/mini_imagenet9.py`), which thereby runs
through the same conversion; `ReleasedTree` reads a release where it lies.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from bench.data.image import DECODER, decode_image, image_size
from bench.data.imagenet9 import CLASSES, FG_MASK, FOLDERS, VARIANTS
from bench.data.shards.write import SHOWN, Clip, DataSetInfo, FrameRule, Packing, pack

TEST_FOLDER = "bg_challenge"
"""What the archive of the release unpacks to."""
TRAIN_SPLITS = ("train", "val")
SPLITS = (*TRAIN_SPLITS, *VARIANTS)
PROVENANCE = f"{DECODER}; original files"
RELEASE = (
    "The test images are in backgrounds_challenge_data.tar.gz, on the release page of "
    "github.com/MadryLab/backgrounds_challenge; its README lists the training archives (Dropbox "
    "links, which were reported dead: see the issues there)"
)
_IMAGES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
_MASKS = (".npy",)
_NUMBERS = {folder[:2]: label for label, folder in enumerate(FOLDERS)}


class File(NamedTuple):
    """One image or mask."""

    key: str  # <class folder>/<stem>, the folder named as released
    label: int
    path: Path
    size: int  # bytes


def list_files(folder: Path, mistakes: list[str], *, masks: bool = False) -> dict[str, File]:
    """The files below the class folders of `folder`, by key, in the order of the original's
    ImageFolder: class folders sorted, folders below them sorted, names sorted.

    What is wrong is appended to `mistakes`: no such folder, absent or empty or unknown class
    folders, two files of one stem.
    """
    if not folder.is_dir():
        mistakes.append(f"there is no folder {folder}")
        return {}
    classes = _class_folders(folder, mistakes)
    files: dict[str, File] = {}
    for name, label in sorted(classes.items()):
        before = len(files)
        for path, size in _walk(folder / name, _MASKS if masks else _IMAGES):
            key = f"{FOLDERS[label]}/{path.stem}"
            if key in files:
                mistakes.append(f"{files[key].path} and {path} have the same stem")
            files[key] = File(key, label, path, size)
        if len(files) == before:
            mistakes.append(f"there is no {'mask (.npy)' if masks else 'image'} in {folder / name}")
    return files


def _class_folders(folder: Path, mistakes: list[str]) -> dict[str, int]:
    """Name -> class, by the number that it begins with."""
    names = sorted(
        entry.name
        for entry in os.scandir(folder)
        if entry.is_dir() and not entry.name.startswith((".", "__"))
    )
    if unknown := [n for n in names if n.partition("_")[0] not in _NUMBERS]:
        mistakes.append(
            f"{folder} holds folders that are none of the nine classes: "
            f"{', '.join(map(repr, unknown[:SHOWN]))} (they are called {', '.join(FOLDERS)})"
        )
    classes = {n: _NUMBERS[n[:2]] for n in names if n not in unknown}
    if absent := [FOLDERS[label] for label in range(len(CLASSES)) if label not in classes.values()]:
        mistakes.append(f"{folder} lacks the class folders {', '.join(map(repr, absent))}")
    if len(set(classes.values())) < len(classes):
        mistakes.append(f"{folder} holds two folders of one class: {', '.join(map(repr, classes))}")
    return classes


def _walk(folder: Path, extensions: tuple[str, ...]) -> Iterator[tuple[Path, int]]:
    """(file, bytes); hidden files, such as those that macOS adds to archives, are left out."""
    for root, _, names in sorted(os.walk(folder)):
        for name in sorted(names):
            if name.lower().endswith(extensions) and not name.startswith("."):
                path = Path(root, name)
                yield path, path.stat().st_size


def read_mask(path: Path) -> np.ndarray:
    """uint8 H W of zeros and ones; ValueError, naming the file, for anything else."""
    try:
        mask = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"the mask {path} cannot be read: {error}") from error
    if not isinstance(mask, np.ndarray) or mask.ndim != 2:
        shape = getattr(mask, "shape", "no array")
        raise ValueError(f"the mask {path} is not two-dimensional, its shape is {shape}")
    if not np.isin(mask, (0, 1)).all():
        raise ValueError(f"the mask {path} holds other values than 0 and 1")
    return mask.astype(np.uint8)


# Reading a release where it lies ------------------------------------------------------------------


class TreeSamples:
    """One variant of a released tree: the `Samples` protocol of bench.task. Pickles; opens a file
    when it is asked for.
    """

    classes = CLASSES
    provenance = PROVENANCE
    subsets: Mapping[str, tuple[int, ...]] = MappingProxyType({})

    def __init__(
        self, split: str, files: Sequence[File], masks: Mapping[str, Path], digest: str
    ) -> None:
        self.split = split
        self.digest = digest
        self.keys = tuple(file.key for file in files)
        self.labels = np.array([file.label for file in files], np.int64)
        self._paths = tuple(file.path for file in files)
        self._masks = dict(masks)

    def __len__(self) -> int:
        return len(self.keys)

    def num_frames(self, i: int) -> int:
        return 1

    def frames(self, i: int, indices: np.ndarray) -> np.ndarray:
        """uint8 T H W 3 (RGB): the image, as often as asked for."""
        path = self._paths[i]
        return np.take(decode_image(path.read_bytes(), name=str(path))[None], indices, axis=0)

    def with_layer(self, name: str) -> np.ndarray:
        """int64, sorted: the images that have a mask, for "fg_mask"; there is no other layer."""
        found = [i for i, key in enumerate(self.keys) if name == FG_MASK and key in self._masks]
        return np.array(found, np.int64)

    def layer(self, i: int, name: str) -> np.ndarray:
        """The mask of image i, uint8 H W of zeros and ones; ValueError if it has none, or a broken
        one, or one of another size.
        """
        if name != FG_MASK or self.keys[i] not in self._masks:
            raise ValueError(f"image {self._paths[i]} has no {name}")
        path = self._masks[self.keys[i]]
        mask, size = read_mask(path), image_size(self._paths[i])
        if mask.shape != size:
            raise ValueError(_other_size(path, mask.shape, size))
        return mask


def _other_size(path: Path, found: tuple[int, ...], size: tuple[int, int]) -> str:
    return f"the mask {path} is {found[1]} x {found[0]} pixels, its image {size[1]} x {size[0]}"


@dataclass(frozen=True)
class ReleasedTree:
    """A folder in the layout of the release: its files, by variant."""

    root: Path
    files: Mapping[str, Mapping[str, File]]
    masks: Mapping[str, File]

    @property
    def splits(self) -> tuple[str, ...]:
        """The variants that are there."""
        return tuple(self.files)

    @cached_property
    def digest(self) -> str:
        """SHA-256 over the relative path and the size of every file: changes with any download
        that differs, and costs no reading.
        """
        listed = [file for files in (*self.files.values(), self.masks) for file in files.values()]
        content = hashlib.sha256()
        for name, size in sorted(
            (f.path.relative_to(self.root).as_posix(), f.size) for f in listed
        ):
            content.update(f"{name}\0{size}\n".encode())
        return content.hexdigest()

    def open(self, split: str) -> TreeSamples:
        """One variant; `original` has the masks."""
        if split not in self.files:
            raise ValueError(f"{self.root} has no variant {split!r}; it has {self.splits}")
        masks = {key: f.path for key, f in self.masks.items()} if split == "original" else {}
        return TreeSamples(split, list(self.files[split].values()), masks, self.digest)


def test_root(folder: Path) -> Path | None:
    """The folder of the variants: `folder` itself or its bg_challenge; None if it is neither."""
    for root in (folder, folder / TEST_FOLDER):
        if any((root / variant / "val").is_dir() for variant in VARIANTS):
            return root
    return None


def released_tree(folder: Path) -> ReleasedTree | None:
    """The release as it lies in `folder`; None if it is not there. Of an incomplete one the
    variants that are there, but ValueError for a variant that lacks classes and the like.
    """
    root = test_root(folder)
    if root is None:
        return None
    _refuse(_archives_for_release(root))
    mistakes: list[str] = []
    there = [variant for variant in VARIANTS if (root / variant).is_dir()]
    files = {variant: list_files(root / variant / "val", mistakes) for variant in there}
    masks: dict[str, File] = {}
    if (root / FG_MASK).is_dir():
        masks = list_files(root / FG_MASK / "val", mistakes, masks=True)
        mistakes += _masks_without_image(masks, files.get("original", {}), root / "original")
    _refuse(mistakes)
    return ReleasedTree(root, files, masks)


def _masks_without_image(
    masks: Mapping[str, File], images: Mapping[str, File], folder: Path
) -> list[str]:
    if not (lonely := [file for key, file in masks.items() if key not in images]):
        return []
    return [f"{len(lonely)} masks have no image in {folder}, first: {lonely[0].path}"]


def _archives_for_release(root: Path) -> list[str]:
    """Their `val` folders look like the test set, but nobody has cleaned them."""
    trained = [variant for variant in VARIANTS if (root / variant / "train").is_dir()]
    if not trained:
        return []
    return [f"{root} holds training archives ({trained[0]}/train), not the release"]


def _refuse(mistakes: Sequence[str]) -> None:
    if mistakes:
        listed = "\n  ".join(mistakes)
        raise ValueError(f"ImageNet-9 is not as released:\n  {listed}\n{RELEASE}.")


# Conversion to shards -----------------------------------------------------------------------------


@dataclass(frozen=True)
class TreeReader:
    """Reads images and layers for `pack`; pickles into its workers."""

    roots: Mapping[str, Path]  # by split

    def __call__(self, split: str, clip: Clip) -> bytes:
        return (self.roots[split] / clip.meta["file"]).read_bytes()

    def layer(self, split: str, clip: Clip, name: str) -> bytes | np.ndarray:
        path = self.roots[split] / clip.layers[name]
        return read_mask(path) if name == FG_MASK else path.read_bytes()


@dataclass
class ImagePlan:
    """What a conversion will write: the images of each split with their layers, and all mistakes
    found on the way.
    """

    train: Path
    test: Path
    clips: dict[str, tuple[Clip, ...]] = field(default_factory=dict)
    mistakes: list[str] = field(default_factory=list)

    def add(
        self, split: str, root: Path, images: Mapping[str, File], layers: Mapping[str, dict]
    ) -> None:
        """The images of a split, each with those of the layers (name -> files) that it has."""
        self.clips[split] = tuple(
            Clip(
                key,
                file.label,
                {"file": file.path.relative_to(root).as_posix(), "class": CLASSES[file.label]},
                {
                    name: files[key].path.relative_to(root).as_posix()
                    for name, files in layers.items()
                    if key in files
                },
            )
            for key, file in images.items()
        )
        if dotted := [file.path for file in images.values() if "." in file.path.stem]:
            self.mistakes.append(
                f"{len(dotted)} names hold a dot, which would end the key in a WebDataset shard, "
                f"first: {dotted[0]}"
            )


def plan_of(
    train: Path, test: Path, *, train_set: str, layers: Sequence[str], unpaired: str
) -> ImagePlan:
    """Every image that a conversion of these two folders will write.

    ValueError with all mistakes at once: absent folders, variants and classes, masks without an
    image, and images of the training set or of its layers that have no partner, unless `unpaired`
    is "keep" (it is "refuse" or "keep").
    """
    root = test_root(test) or test
    plan = ImagePlan(train, root)
    if not train.is_dir():
        plan.mistakes.append(f"there is no folder {train} (--train)")
    else:
        for split in TRAIN_SPLITS:
            _plan_training(plan, split, train_set, layers, unpaired=unpaired)
    if test_root(test) is None:
        plan.mistakes.append(
            f"there is neither original/val nor {TEST_FOLDER}/original/val in {test} (--test)"
        )
    elif found := _archives_for_release(root):
        plan.mistakes += found
    else:
        masks = list_files(root / FG_MASK / "val", plan.mistakes, masks=True)
        for variant in VARIANTS:
            images = list_files(root / variant / "val", plan.mistakes)
            plan.add(variant, root, images, {FG_MASK: masks} if variant == "original" else {})
            if variant == "original":
                plan.mistakes += _masks_without_image(masks, images, root / variant)
    _refuse(plan.mistakes)
    return plan


def _plan_training(
    plan: ImagePlan, split: str, train_set: str, layers: Sequence[str], *, unpaired: str
) -> None:
    images = list_files(plan.train / train_set / split, plan.mistakes)
    found = {}
    for name in layers:
        folder = plan.train / name / split
        files = list_files(folder, plan.mistakes, masks=name == FG_MASK)
        if not images or not files:
            continue  # said already
        found[name] = files
        without = [f.path for key, f in images.items() if key not in files]
        alone = [f.path for key, f in files.items() if key not in images]
        where = f"{name} and {train_set} ({split})"
        if len(without) == len(images):
            plan.mistakes.append(f"no stem is both in {where}, e.g. {alone[0]}")
        elif (without or alone) and unpaired == "refuse":
            plan.mistakes.append(
                f"{where} do not pair: {len(without)} of {len(images)} images have no {name}, "
                f"{len(alone)} of {len(files)} the other way round, first: {[*without, *alone][0]} "
                "(--allow-unpaired leaves the layer out where it is missing)"
            )
    plan.add(split, plan.train, images, found)


def convert(
    plan: ImagePlan, out: Path, info: DataSetInfo, rule: FrameRule, packing: Packing
) -> Path:
    """The planned images -> shards. Files that do not decode and unfit masks are reported all
    together, at the end.
    """
    reader = TreeReader({s: plan.train if s in TRAIN_SPLITS else plan.test for s in plan.clips})
    return pack(out, plan.clips, reader, info, rule, packing, read_layer=reader.layer)
