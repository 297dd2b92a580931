"""Image files <-> arrays, by Pillow: exactly the pixels that torchvision's ImageFolder shows a
model.

Used where image data sets are converted (`pack`), read (`shards`, `imagenet9_format`) and made
(`sources/mini_imagenet9`). Errors name the file.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import PIL
from PIL import Image

DECODER = f"Pillow {PIL.__version__}"


def decode_image(data: bytes, *, name: str) -> np.ndarray:
    """uint8 H W 3 (RGB) of an image file; grey, palette and CMYK files are converted.

    ValueError, with the name, for anything that is not a complete image.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            # a copy: arrays made of Pillow's own memory cannot be written to
            return np.array(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        # Pillow's own text holds the address of our buffer
        reason = "not a known image format" if "identify" in str(error) else str(error)
        raise ValueError(f"the image {name} cannot be decoded: {reason}") from error


def encode_jpeg(image_HWC: np.ndarray, *, quality: int = 95) -> bytes:
    """A JPEG file of an uint8 RGB image, without chroma subsampling; the same bytes each time."""
    buffer = io.BytesIO()
    Image.fromarray(image_HWC).save(buffer, "JPEG", quality=quality, subsampling=0)
    return buffer.getvalue()


def image_size(path: Path) -> tuple[int, int]:
    """(height, width) of an image file, from its header; ValueError as `decode_image`."""
    try:
        with Image.open(path) as image:
            return image.height, image.width
    except (OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"the image {path} cannot be read: {error}") from error
