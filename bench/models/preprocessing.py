"""How frames must look, from the JSON that transformers' `save_pretrained` writes beside weights.

    folder -> `read_processor` (which file counts, as transformers itself decides) -> `understood`

Used by the adapter `hf`, and by `released.py` for mean and std. Only what the file says counts: the
defaults of transformers' classes are others than the checkpoints were trained with. What this suite
cannot show as the file asks is refused, or stands in `Preprocessing.record` as a departure.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

NESTED = "processor_config.json"  # holds what the others hold under `video_processor`
FILES = ("video_preprocessor_config.json", "preprocessor_config.json")
# The processors whose files are understood; `FeatureExtractor` is what version 4 called them first.
FAMILIES = ("VideoMAE", "Timesformer", "Vivit", "VJEPA2", "LlavaOnevision")
SUFFIXES = ("VideoProcessor", "ImageProcessor", "ImageProcessorFast", "FeatureExtractor")
FILTERS = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}
PIXEL = 1 / 255


@dataclass(frozen=True)
class Preprocessing:
    """What a checkpoint's own file asks for, in this suite's words."""

    mean: tuple[float, float, float]  # of the RGB channels in [0, 1]
    std: tuple[float, float, float]
    size: int  # side of the square crop, pixels
    scale: float  # short side, as a multiple of `size`
    record: dict[str, Any]  # file, processor, short side, filter, and what is shown otherwise


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file. ValueError naming the file when there is none in it."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON ({error}); copy it again") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} holds no JSON object; copy it again")
    return found


def read_processor(folder: Path) -> tuple[str, dict[str, Any]] | None:
    """(name of the file, what it says) of the file that counts; None when there is none."""
    nested = folder / NESTED
    if nested.is_file() and isinstance(found := read_json(nested).get("video_processor"), dict):
        return NESTED, found
    for name in FILES:
        if (folder / name).is_file():
            return name, read_json(folder / name)
    return None


def understood(file: Path, settings: Mapping[str, Any]) -> Preprocessing:
    """What the settings ask for. ValueError lists everything that this suite cannot do or guess."""
    wrong: list[str] = []
    departures: list[str] = []
    kind = _kind(settings, wrong)
    mean, std = _normalisation(settings, kind, wrong)
    short_side, size = _geometry(settings, kind, wrong, departures)
    if settings.get("do_sample_frames"):
        departures.append("the file samples frames by time; here they are as --stride says")
    if wrong:
        listed = "".join(f"\n  {mistake}" for mistake in wrong)
        raise ValueError(f"{file} asks for what cannot be done here:{listed}")
    resample = settings.get("resample")
    return Preprocessing(
        mean=mean,
        std=std,
        size=size,
        scale=short_side / size,
        record={
            "file": file.name,
            "processor": kind,
            "short_side": short_side,
            "filter": FILTERS.get(resample, str(resample)) if resample is not None else None,
            "departures": departures,
        },
    )


def _kind(settings: Mapping[str, Any], wrong: list[str]) -> str:
    names = ("video_processor_type", "image_processor_type", "feature_extractor_type")
    kind = str(next((settings[name] for name in names if settings.get(name)), ""))
    if settings.get("auto_map"):
        wrong.append(f"auto_map {settings['auto_map']}: code of its own, which is never run here")
    elif kind not in {family + suffix for family in FAMILIES for suffix in SUFFIXES}:
        wrong.append(
            f"processor {kind or 'without a name'}: what it does is not known here (known: those of "
            f"{', '.join(FAMILIES)})"
        )
    return kind


Channels = tuple[float, float, float]


def _normalisation(
    settings: Mapping[str, Any], kind: str, wrong: list[str]
) -> tuple[Channels, Channels]:
    """Mean and std of pixels in [0, 1] that do what the file does to pixels in [0, 255]:
    (factor * x - offset - image_mean) / image_std.
    """
    vivit = kind.startswith("Vivit")
    factor = settings.get("rescale_factor", 2 * PIXEL if vivit else PIXEL)
    offset = 1.0 if vivit and settings.get("offset", True) else 0.0
    if not settings.get("do_rescale", True):
        wrong.append("do_rescale false: pixels in [0, 255] as they are")
    if not isinstance(factor, int | float) or factor <= 0:
        wrong.append(f"rescale_factor {factor!r}: not a positive number")
        factor = PIXEL
    mean, std = (0.0,) * 3, (1.0,) * 3
    if settings.get("do_normalize", True):
        mean = _channels(settings, "image_mean", wrong)
        std = _channels(settings, "image_std", wrong)
        if min(std) <= 0:
            wrong.append(f"image_std {list(std)}: not positive")
    unit = 255 * factor  # exactly 1 for x / 255, so that mean and std stay what the file says
    unit = 1.0 if abs(unit - 1) < 1e-9 else unit
    r, g, b = ((m + offset) / unit for m in mean)
    sr, sg, sb = (s / unit for s in std)
    return (r, g, b), (sr, sg, sb)


def _channels(settings: Mapping[str, Any], key: str, wrong: list[str]) -> Channels:
    given = settings.get(key)
    values = given if isinstance(given, list) else [given] * 3
    if len(values) == 3 and all(isinstance(value, int | float) for value in values):
        r, g, b = map(float, values)
        return r, g, b
    said = "is missing" if given is None else f"{given!r}: three numbers are needed"
    wrong.append(f"{key} {said}; it is that of the frames that the model was trained on")
    return 1.0, 1.0, 1.0


def _geometry(
    settings: Mapping[str, Any], kind: str, wrong: list[str], departures: list[str]
) -> tuple[int, int]:
    """(short side, side of the crop) in pixels; (1, 1) where that is a mistake."""
    crops = settings.get("do_center_crop", settings.get("crop_size") is not None)
    crop = _square(settings.get("crop_size"), "height", "width") if crops else None
    edge = _square(settings.get("size"), "shortest_edge")
    whole = _square(settings.get("size"), "height", "width") if edge is None else None
    if kind == "VJEPA2VideoProcessor" and crop:
        edge = int(crop * 256 / 224)  # whatever the file says of `size`, transformers does this
    if not settings.get("do_resize", True):
        wrong.append("do_resize false: frames as large as they are stored")
    elif (edge or whole) is None or (crops and crop is None):
        asked = f"size {settings.get('size')}, crop_size {settings.get('crop_size')}"
        wrong.append(f"{asked}: a short side and a square crop are needed")
        return 1, 1
    if whole:
        departures.append(
            f"the file makes whole frames {whole} x {whole} pixels, whatever their shape; here their "
            "shape is kept and the centre shown"
        )
    elif not crops:
        departures.append("the file crops nothing; here the centre square is shown")
    short_side = edge or whole or 1
    crop = crop or short_side
    if short_side < crop:
        wrong.append(f"a crop of {crop} pixels of frames with a short side of {short_side}")
        return 1, 1
    return short_side, crop


def _square(given: Any, *keys: str) -> int | None:
    """A number, or those of a mapping with exactly these keys when they are one; else None."""
    if isinstance(given, Mapping):
        numbers = {given.get(key) for key in keys}
        given = numbers.pop() if len(numbers) == 1 and given.keys() == set(keys) else None
    valid = isinstance(given, int) and not isinstance(given, bool) and given > 0
    return given if valid else None
