"""Damaged and truncated videos are refused before they are stored; healthy ones never are."""

from __future__ import annotations

import io
import random
from fractions import Fraction

import av
import numpy as np
import pytest

from bench.data.damage import examine
from bench.data.video import decode
from tests.clips import ALL, HIDDEN, KINDS, numbered_frames, read_number, video, with_duration


def reason(media: bytes) -> str | None:
    try:
        examine(media, key="78687")
    except ValueError as error:
        return str(error)
    return None


@pytest.mark.parametrize("kind", ALL)
def test_healthy_files_are_accepted(kind: str) -> None:
    media = video(kind)
    assert reason(media) is None
    assert [read_number(frame) for frame in decode(media)] == list(range(43))


@pytest.mark.parametrize("kind", [*KINDS, HIDDEN])
def test_a_truncated_file_is_refused_wherever_it_ends(kind: str) -> None:
    media = video(kind)
    ends = [len(media) * i // 20 for i in range(20)] + [len(media) - n for n in (1, 9, 40)]
    assert [end for end in ends if reason(media[:end]) is None] == []


def test_the_message_has_both_numbers() -> None:
    media = video("vp9.webm")
    text = reason(media[: len(media) // 2]) or ""
    frames = len(decode(media[: len(media) // 2]))
    assert 5 < frames < 40
    wanted = f"decodes to {frames} of 43 declared frames (3.58 s at 12 fps): truncated or damaged"
    assert text == f"video '78687' {wanted}"
    tail = f"ends after {len(media) - 1:,} of {len(media):,} declared bytes"
    assert tail in (reason(media[:-1]) or "")


def test_a_header_may_be_off_by_one_frame_but_not_by_many() -> None:
    media = video("vp9.webm")
    for frames in (42, 43, 44):
        assert reason(with_duration(media, frames / 43)) is None
    text = reason(with_duration(media, 2)) or ""
    assert "decodes to 43 of 86 declared frames (7.17 s at 12 fps)" in text


def test_sound_that_goes_on_after_the_pictures_is_no_damage() -> None:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="matroska") as file:
        pictures = file.add_stream("libx264", rate=12)
        pictures.height, pictures.width, pictures.pix_fmt = 96, 128, "yuv420p"
        sound = file.add_stream("pcm_s16le", rate=8000, layout="mono")
        for array in numbered_frames(12):
            file.mux(pictures.encode(av.VideoFrame.from_ndarray(array, format="rgb24")))
        file.mux(pictures.encode())
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 24000), np.int16), "s16", "mono")
        silence.sample_rate, silence.time_base, silence.pts = 8000, Fraction(1, 8000), 0
        file.mux(sound.encode(silence))
    assert reason(buffer.getvalue()) is None


@pytest.mark.parametrize(
    ("media", "expected"),
    [
        (b"", "is empty (0 bytes)"),
        (b"\n<!DOCTYPE html><html>404</html>", "is an HTML or XML page of 32 bytes, not a video"),
        (b"no video at all" * 50, "cannot be opened: it is broken or not a video"),
    ],
)
def test_what_is_no_video_is_called_so(media: bytes, expected: str) -> None:
    assert expected in (reason(media) or "")


def flip(media: bytes, rng: random.Random) -> bytes:
    changed = bytearray(media)
    changed[rng.randrange(len(media))] ^= 1 << rng.randrange(8)
    return bytes(changed)


@pytest.mark.parametrize(
    ("kind", "at_least"), [("vp9.webm", 0.9), (HIDDEN, 0.9), ("h264-b.mp4", 0.5)]
)
def test_most_flipped_bits_that_change_a_pixel_are_found(kind: str, at_least: float) -> None:
    """Not all: a bit that turns a valid stream into another valid stream cannot be seen."""
    media, rng = video(kind), random.Random(0)
    frames = decode(media)
    found = []
    for _ in range(100):
        damaged = flip(media, rng)
        try:
            same = np.array_equal(decode(damaged), frames)
        except ValueError:
            same = False
        if not same:
            found.append(reason(damaged) is not None)
    assert len(found) > 50 and np.mean(found) >= at_least


def test_one_broken_file_does_not_silence_the_next() -> None:
    media = video("vp9-live.webm")
    texts = {reason(media[: len(media) // 2]) for _ in range(3)}
    assert len(texts) == 1 and None not in texts
    assert reason(media) is None
