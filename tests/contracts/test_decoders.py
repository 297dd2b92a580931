"""The rules of a decoder (`bench.data.decoders.DecoderModule`); tests/data/test_decoders.py has more."""

from __future__ import annotations

import numpy as np
import pytest
from clips import read_number, video

from bench import find
from bench.data.decoders import DecoderModule

NAMES = find.names("decoder")


def usable(name: str) -> DecoderModule:
    decoder: DecoderModule = find.load("decoder", name)
    try:
        version = decoder.version()
    except ValueError as error:
        assert "install" in str(error), "version says how to install what is missing"
        pytest.skip(str(error))
    assert version, "version names the library and its version"
    return decoder


@pytest.mark.parametrize("name", NAMES)
def test_it_yields_every_frame_in_order(name: str) -> None:
    frames = [convert() for convert in usable(name).frames(video("vp9.webm"), "7")]
    assert all(f.dtype == np.uint8 and f.shape[-1] == 3 for f in frames), "frames: uint8 H W 3"
    assert [read_number(frame) for frame in frames] == list(range(43)), "frame k is frame k"


@pytest.mark.parametrize("name", NAMES)
def test_a_file_that_is_no_video_is_an_error_with_its_key(name: str) -> None:
    decoder = usable(name)
    with pytest.raises(ValueError, match="'7'"):
        list(decoder.frames(b"no video at all" * 50, "7"))
