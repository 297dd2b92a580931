"""What turns a video file into frames. A decoder is a file here; its path is its name.

All of them decode from the first frame on and count by decoding: headers over-report, packets may
show nothing, and seeking is not exact in every format. So frame k is the k-th frame that shows,
whoever decodes. The pixels differ a little from decoder to decoder, which is why the name and
version are kept with the data.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import numpy as np

from bench import find

Convert = Callable[[], np.ndarray]
"""Colour conversion of the frame just decoded: uint8 H W 3 (RGB). Only wanted frames pay for it."""


class DecoderModule(Protocol):
    """What turns a video file into frames: `bench/data/decoders/<name>.py`."""

    @abstractmethod
    def version(self) -> str:
        """Name and version of the library and what it decodes with. ValueError with the command
        that installs it if it is not here.
        """

    @abstractmethod
    def frames(self, source: bytes | Path, key: str) -> Iterator[Convert]:
        """Every frame that shows, in order; valid until the next one. ValueError naming `key` if the
        video cannot be opened or, where the library tells, decoded.
        """


def load(name: str) -> DecoderModule:
    """The decoder of this name; ValueError lists those that exist. Its library is imported by the
    first call.
    """
    decoder: DecoderModule = find.load("decoder", name)
    return decoder
