"""Makes `assets.zip`, the cut-outs and panoramas of the built-in data sets, from five icon sets
and one set of HDRIs.

Not part of the suite at run time: only its result is committed. Run it to add a concept or to
verify the file:

    pip install resvg-py OpenEXR opencv-python-headless numpy
    npm pack @iconify-json/noto@1.2.9 @iconify-json/noto-v1@1.2.5 @iconify-json/fxemoji@1.2.2 \
        @iconify-json/fluent-emoji-flat@1.2.6 @lobehub/fluent-emoji-3d@1.1.0 @pmndrs/assets@1.7.0
    python bench/data/assets/make_assets.py FOLDER_WITH_TARBALLS

Members of the zip: `cutouts/<class>/<style>/<concept>.webp` (RGBA, cropped to the drawing, long
side 128 px), `panoramas/<name>.jpg` (equirectangular sRGB, 512 x 256), `index.json` (the list of
both), LICENSES.md and licenses/.
"""

from __future__ import annotations

import argparse
import base64
import json
import re
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import OpenEXR
import resvg_py

HERE = Path(__file__).parent
SIZE = 128  # long side of a cut-out, pixels
PROP = "prop"  # objects that are no ImageNet-9 class: hands, covers, a frame

CONCEPTS = {  # the nine ImageNet-9 classes, with the names of Noto (CLDR short names)
    "dog": "dog guide-dog service-dog poodle dog-face",
    "bird": (
        "turkey chicken rooster hatching-chick baby-chick front-facing-baby-chick bird "
        "penguin dove eagle duck swan owl dodo flamingo peacock parrot black-bird goose"
    ),
    "wheeled vehicle": (
        "police-car oncoming-police-car ambulance fire-engine taxi oncoming-taxi automobile "
        "oncoming-automobile sport-utility-vehicle pickup-truck delivery-truck "
        "articulated-lorry tractor racing-car motorcycle motor-scooter auto-rickshaw bicycle "
        "bus oncoming-bus trolleybus minibus locomotive tram-car light-rail kick-scooter "
        "manual-wheelchair"
    ),
    "reptile": "crocodile turtle lizard snake sauropod t-rex",
    "carnivore": (
        "wolf fox raccoon cat black-cat cat-face lion tiger tiger-face leopard bear "
        "polar-bear panda skunk badger otter"
    ),
    "insect": "butterfly bug ant honeybee beetle lady-beetle cricket cockroach mosquito fly",
    "musical instrument": (
        "saxophone accordion guitar musical-keyboard trumpet violin banjo drum long-drum "
        "maracas flute harp trombone postal-horn"
    ),
    "primate": (
        "monkey-face monkey gorilla orangutan see-no-evil-monkey hear-no-evil-monkey "
        "speak-no-evil-monkey"
    ),
    "fish": "fish tropical-fish blowfish shark",
    PROP: (
        "raised-hand backhand-index-pointing-left pinching-hand framed-picture package basket "
        "bucket file-folder scroll newspaper closed-book blue-book t-shirt jeans briefcase "
        "door"
    ),
}
FXEMOJI = {  # the concepts whose name there is not the name above without hyphens
    "dog-face": "dog",
    "dog": "dogside",
    "front-facing-baby-chick": "frontfacingchick",
    "dove": "doveofpeace",
    "racing-car": "racecar",
    "locomotive": "steamlocomotive",
    "sport-utility-vehicle": "recreationalvehicle",
    "cat": "catside",
    "cat-face": "cat",
    "tiger": "tigerside",
    "tiger-face": "tiger",
    "leopard": "leopardside",
    "panda": "pandaface",
    "wolf": "wolfface",
    "see-no-evil-monkey": "monkeysee",
    "hear-no-evil-monkey": "monkeyhear",
    "speak-no-evil-monkey": "monkeyspeak",
    "framed-picture": "framewithpicture",
}
FLUENT = {"black-bird": "blackbird"}
SKIPPED = {("fxemoji", "tram-car")}  # a black silhouette


def read_package(folder: Path, name: str) -> tarfile.TarFile:
    """Open the one tarball of a package, whatever its version."""
    found = sorted(folder.glob(f"{name}-[0-9]*.tgz"))
    if len(found) != 1:
        raise SystemExit(f"expected one {name}-<version>.tgz in {folder}, found {len(found)}")
    return tarfile.open(found[0])


def read_member(package: tarfile.TarFile, name: str) -> bytes:
    member = package.extractfile(f"package/{name}")
    assert member is not None
    return member.read()


def rasterise(icons: dict[str, Any], name: str) -> np.ndarray | None:
    """One Iconify icon as BGRA, four times the final size, so that crops are scaled down."""
    icon = icons["icons"].get(name)
    if icon is None:
        return None
    width, height = (icon.get(k, icons.get(k, 16)) for k in ("width", "height"))
    head = '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
    svg = f'{head} viewBox="0 0 {width} {height}">'
    png = resvg_py.svg_to_bytes(
        svg_string=f"{svg}{icon['body']}</svg>", width=4 * SIZE, height=4 * SIZE
    )
    return cv2.imdecode(np.frombuffer(bytes(png), np.uint8), cv2.IMREAD_UNCHANGED)


def crop(image_HWC: np.ndarray) -> np.ndarray:
    """Cut to the drawing and scale the long side to SIZE, premultiplied: no fringe at the edge."""
    assert image_HWC.shape[2] == 4
    rows, columns = (np.flatnonzero((image_HWC[..., 3] > 8).any(axis)) for axis in (1, 0))
    cut: np.ndarray = (
        image_HWC[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].astype(np.float32) / 255
    )
    cut[..., :3] *= cut[..., 3:]
    scale = SIZE / max(cut.shape[:2])
    size = [max(8, round(n * scale)) for n in (cut.shape[1], cut.shape[0])]
    cut = cv2.resize(cut, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    cut[..., :3] = cut[..., :3] / np.maximum(cut[..., 3:], 1e-3)
    rounded: np.ndarray = (np.clip(cut, 0, 1) * 255 + 0.5).astype(np.uint8)
    return rounded


def cutouts(folder: Path) -> Iterator[tuple[str, str, str, np.ndarray]]:
    """(class, style, concept, BGRA image) of every drawing that a set has."""
    iconify: Mapping[str, tuple[str, dict[str, str]]] = {
        "noto": ("iconify-json-noto", {}),
        "noto-v1": ("iconify-json-noto-v1", {}),
        "fxemoji": ("iconify-json-fxemoji", FXEMOJI),
        "fluent-flat": ("iconify-json-fluent-emoji-flat", FLUENT),
    }
    wanted = [(kind, concept) for kind, names in CONCEPTS.items() for concept in names.split()]
    for style, (name_of_package, names) in iconify.items():
        icons = json.loads(read_member(read_package(folder, name_of_package), "icons.json"))
        for kind, concept in wanted:
            plain = concept.replace("-", "") if style == "fxemoji" else concept
            image = rasterise(icons, names.get(concept, plain))
            if image is not None and (style, concept) not in SKIPPED:
                yield kind, style, concept, crop(image)
    # The 3D set names its files by code point; Noto's table translates.
    points = json.loads(read_member(read_package(folder, "iconify-json-noto"), "chars.json"))
    point_of = {name: point for point, name in reversed(points.items())}
    package = read_package(folder, "lobehub-fluent-emoji-3d")
    members = set(package.getnames())
    for kind, concept in wanted:
        for name in (point_of[concept], point_of[concept] + "-fe0f"):
            if f"package/assets/{name}.webp" in members:
                data = np.frombuffer(read_member(package, f"assets/{name}.webp"), np.uint8)
                image = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
                assert image is not None
                yield kind, "fluent-3d", concept, crop(image)
                break


def tone_map(linear_HWC: np.ndarray) -> np.ndarray:
    """Scene-linear radiance -> 8-bit sRGB, exposed so that the median luminance is a mid grey."""
    broken = (linear_HWC < 1e-4).any(axis=-1)
    linear = np.maximum(linear_HWC, 0)
    luminance = linear @ np.array([0.2126, 0.7152, 0.0722], np.float32)
    exposed = linear * (0.16 / np.median(luminance))
    mapped = exposed * (1 + exposed / 16) / (1 + exposed)  # extended Reinhard, white at 4
    srgb = np.where(
        mapped <= 0.0031308, 12.92 * mapped, 1.055 * np.maximum(mapped, 1e-6) ** (1 / 2.4) - 0.055
    )
    # The lossy DWAB files hold negative or vanishing channels around very bright lights: black
    # and blue specks there.
    bright = (luminance * (0.16 / np.median(luminance)) > 2).astype(np.uint8)
    highlight = cv2.dilate(bright, np.ones((9, 9), np.uint8)) > 0
    srgb[broken & highlight] = 1.0
    rounded: np.ndarray = (np.clip(srgb, 0, 1) * 255 + 0.5).astype(np.uint8)
    return rounded


def panoramas(folder: Path) -> Iterator[tuple[str, np.ndarray]]:
    """(name, RGB image) of every panorama; the package holds EXR files as base64 in JavaScript
    modules.
    """
    package = read_package(folder, "pmndrs-assets")
    for name in sorted(
        n for n in package.getnames() if re.fullmatch(r"package/hdri/\w+\.exr\.js", n)
    ):
        text = read_member(package, name.removeprefix("package/")).decode()
        with tempfile.NamedTemporaryFile(suffix=".exr") as file:
            file.write(base64.b64decode(text.partition("base64,")[2].partition("'")[0]))
            file.flush()
            channels = OpenEXR.File(file.name).channels()
        linear = (
            channels["RGB"].pixels
            if "RGB" in channels
            else np.stack([channels[c].pixels for c in "RGB"], -1)
        )
        yield Path(name).name.removesuffix(".exr.js"), tone_map(np.asarray(linear, np.float32))


def add(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    """One member with a fixed date, so that the same inputs give the same bytes."""
    info = zipfile.ZipInfo(name, date_time=(2020, 1, 1, 0, 0, 0))
    info.compress_type = (
        zipfile.ZIP_STORED if name.endswith((".webp", ".jpg")) else zipfile.ZIP_DEFLATED
    )
    archive.writestr(info, data)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="where `npm pack` left the tarballs")
    parser.add_argument("--out", type=Path, default=HERE / "assets.zip")
    args = parser.parse_args()
    index: dict[str, list[dict[str, str]]] = {"cutouts": [], "panoramas": []}
    with zipfile.ZipFile(args.out, "w") as archive:
        for kind, style, concept, image in cutouts(args.folder):
            name = f"cutouts/{kind}/{style}/{concept}.webp"
            add(
                archive,
                name,
                cv2.imencode(".webp", image, [cv2.IMWRITE_WEBP_QUALITY, 90])[1].tobytes(),
            )
            index["cutouts"].append(
                {"class": kind, "style": style, "concept": concept, "file": name}
            )
        for name, image in panoramas(args.folder):
            file = f"panoramas/{name}.jpg"
            quality = [cv2.IMWRITE_JPEG_QUALITY, 93]
            add(
                archive,
                file,
                cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), quality)[1].tobytes(),
            )
            index["panoramas"].append({"name": name, "file": file})
        add(archive, "index.json", json.dumps(index, indent=0).encode())
        for path in [HERE / "LICENSES.md", *sorted((HERE / "licenses").glob("*.txt"))]:
            add(archive, path.relative_to(HERE).as_posix(), path.read_bytes())
    counts = f"{len(index['cutouts'])} cut-outs, {len(index['panoramas'])} panoramas"
    print(f"{args.out}: {counts}, {args.out.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
