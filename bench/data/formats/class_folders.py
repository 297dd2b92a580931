"""Videos in folders that are called as their classes are.

    ROOT/<class>/**/<video>.mp4             UCF101, HMDB51, Kinetics
    ROOT/<class>/<video>/<frame>.jpg        folders of numbered frames
    ROOT/{train,val,test}/<class>/...       the same, by split

ROOT may also be the only folder in the one that is given. Names with a dot or two underscores in
front are no classes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from bench.data.formats.labelled import ALL, LabelledItem, Mistaken, is_image, split_of
from bench.data.formats.video_list import EXTENSIONS

LAYOUT = (
    "<class>/<video> or {train,val,test}/<class>/<video>, a video being a file "
    f"({', '.join(EXTENSIONS)}) or a folder of numbered frames"
)


@dataclass
class _Folder:
    """What lies in a folder and below it."""

    path: Path
    videos: list[Path] = field(default_factory=list)  # files
    images: int = 0
    folders: dict[str, _Folder] = field(default_factory=dict)  # those that hold anything

    @property
    def is_clip(self) -> bool:
        """Whether it is a video itself: pictures and nothing else."""
        return self.images > 0 and not self.videos and not self.folders

    def clips(self) -> Iterator[Path]:
        """Every video in it and below, sorted."""
        yield from self.videos
        for folder in self.folders.values():
            if folder.is_clip:
                yield folder.path
            else:
                yield from folder.clips()


def read_folder(folder: Path, wrong: Mistaken) -> tuple[Path, list[LabelledItem]] | None:
    """The folder of the classes (or splits), and the videos; None if there is none anywhere. What is
    wrong is added to `wrong`.
    """
    root = _look(folder.absolute(), set())
    if not any(root.clips()):
        return None
    while not root.videos and len(root.folders) == 1:
        (only,) = root.folders.values()
        if only.is_clip or only.videos or all(f.is_clip for f in only.folders.values()):
            break
        root = only
    _refuse_loose(root, wrong)
    splits = {name: found for name in root.folders if (found := split_of(name))}
    others = [name for name in root.folders if name not in splits]
    if not splits:
        return root.path, list(_items(root, ALL, wrong))
    if others:
        wrong.add(
            f"{root.path} holds splits ({', '.join(splits)}) and folders that are none "
            f"({', '.join(others[:5])}): which are the classes? A list can say it"
        )
    items = []
    for name, split in splits.items():
        _refuse_loose(root.folders[name], wrong)
        items += list(_items(root.folders[name], split, wrong))
    return root.path, items


def _look(path: Path, seen: set[tuple[int, int]]) -> _Folder:
    """Links to folders are followed, once."""
    found = _Folder(path)
    place = path.stat()
    if (place.st_dev, place.st_ino) in seen:
        return found
    seen.add((place.st_dev, place.st_ino))
    below = []
    for entry in sorted(os.scandir(path), key=lambda entry: entry.name):
        if entry.name.startswith((".", "__")):
            continue
        if entry.is_dir():
            below.append(entry.name)
        elif entry.name.lower().endswith(EXTENSIONS):
            found.videos.append(Path(entry.path))
        elif is_image(entry.name):
            found.images += 1
    looked = {name: _look(path / name, seen) for name in below}
    found.folders = {n: f for n, f in looked.items() if f.videos or f.images or f.folders}
    return found


def _refuse_loose(root: _Folder, wrong: Mistaken) -> None:
    """Videos whose folder is not a class."""
    if root.videos:
        first = root.videos[0].name
        wrong.add(
            f"{root.path} holds {len(root.videos)} videos without a class folder, first: {first}"
        )
    elif root.is_clip:
        wrong.add(f"{root.path} holds pictures and no class folders")


def _items(root: _Folder, split: str, wrong: Mistaken) -> Iterator[LabelledItem]:
    pictures = [str(folder.path) for folder in root.folders.values() if folder.is_clip]
    if pictures:
        wrong.add(
            "class folders of pictures, where videos or folders of frames are wanted", pictures
        )
    for name, folder in root.folders.items():
        if not folder.is_clip:
            yield from (LabelledItem(path, name, split, str(path)) for path in folder.clips())
