"""The pictures that the built-in data sets are composed of: cut-outs with alpha and panoramas,
from assets/assets.zip.

`assets/make_assets.py` made the file, `assets/LICENSES.md` says from what. Everything is read
lazily and cached for the life of the process (about 30 MB if all of it is used).
"""

from __future__ import annotations

import functools
import json
import zipfile
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from bench.data.imagenet9 import CLASSES

ASSETS = Path(__file__).parents[1] / "assets" / "assets.zip"
IN9_CLASSES = CLASSES
"""The kinds of the objects: the classes of ImageNet-9, in its order."""
PROP = "prop"
"""Kind of the objects that belong to none of them: hands, books, boxes, a framed picture."""


class Cutout(NamedTuple):
    """One drawing: what it shows (`concept`, of a `kind`: an ImageNet-9 class or PROP) in whose
    hand (`style`).
    """

    kind: str
    style: str
    concept: str


@functools.cache
def _archive() -> zipfile.ZipFile:
    return zipfile.ZipFile(ASSETS)


@functools.cache
def _index() -> dict[str, list[dict[str, str]]]:
    index: dict[str, list[dict[str, str]]] = json.loads(_archive().read("index.json"))
    return index


def _image(name: str) -> np.ndarray:
    data = np.frombuffer(_archive().read(name), np.uint8)
    image = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
    assert image is not None, name
    return image


@functools.cache
def all_cutouts() -> tuple[Cutout, ...]:
    """Every cut-out, in the order of the asset file."""
    return tuple(Cutout(c["class"], c["style"], c["concept"]) for c in _index()["cutouts"])


@functools.cache
def all_panoramas() -> tuple[str, ...]:
    """The names of the 18 panoramas, sorted."""
    return tuple(sorted(p["name"] for p in _index()["panoramas"]))


@functools.cache
def load_cutout(cutout: Cutout) -> np.ndarray:
    """uint8 H W 4 (RGBA, not premultiplied), cropped to the drawing, long side 128."""
    image = _image(f"cutouts/{cutout.kind}/{cutout.style}/{cutout.concept}.webp")
    if image.shape[2] == 3:  # WebP drops a fully opaque alpha channel
        image = cv2.cvtColor(image, cv2.COLOR_BGR2BGRA)
    rgba = cv2.cvtColor(image, cv2.COLOR_BGRA2RGBA)
    rgba.flags.writeable = False
    return rgba


@functools.cache
def load_panorama(name: str) -> np.ndarray:
    """uint8 256 512 3 (RGB), equirectangular: columns are the azimuth, rows run from the zenith
    to the nadir.
    """
    rgb = cv2.cvtColor(_image(f"panoramas/{name}.jpg"), cv2.COLOR_BGR2RGB)
    rgb.flags.writeable = False
    return rgb
