"""Video frames <-> JPEG files, by OpenCV (libjpeg-turbo): what `jpeg` storage holds.

Image data sets go through `photo`, which shows the pixels that torchvision would.
"""

from __future__ import annotations

import cv2
import numpy as np


def encode_frame(frame_HWC: np.ndarray, quality: int) -> bytes:
    """A JPEG file of an uint8 RGB frame; the same bytes each time."""
    options = [cv2.IMWRITE_JPEG_QUALITY, quality]
    done, encoded = cv2.imencode(".jpg", cv2.cvtColor(frame_HWC, cv2.COLOR_RGB2BGR), options)
    assert done
    return encoded.tobytes()


def decode_frame(encoded: np.ndarray) -> np.ndarray:
    """uint8 H W 3 (RGB) of a JPEG file given as an uint8 array, e.g. a view of a memory map.

    ValueError if it is not one.
    """
    frame = cv2.imdecode(encoded, cv2.IMREAD_COLOR_RGB)
    if frame is None:
        raise ValueError(f"{len(encoded)} bytes are not a JPEG file")
    return frame
