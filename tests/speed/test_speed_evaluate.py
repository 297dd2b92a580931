"""bench.speed evaluate: its passes are those that evaluations ask for, and its mistakes come at once. No
assertion is about time.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.speed import command as speed

MODEL = [f"--model={option}" for option in ("patch=8", "dim=16", "depth=2", "heads=2")]
TINY = [
    "--frames=4",
    "--size=16",
    "--clips=12",
    "--batch=8",
    "--seconds=0.01",
    "--threads=1",
    *MODEL,
]


def test_two_probes_share_their_passes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "speed.json"
    assert speed.main(["evaluate", "--device=cpu", *TINY, f"--out={out}"]) == 0
    written = json.loads(out.read_text())
    one, two = written["calls"].values()
    assert one["passes"] == 2 * (12 + 12)  # both directions of what is learned and what is judged
    assert two["passes"] == one["passes"] + 12  # and what is judged, shuffled
    for call in (one, two):
        assert 0 < call["passes_s"] < call["wall_s"]
    assert written["plain_per_s"] == max(written["plain_per_s_all"]) > 0
    shown = capsys.readouterr().out
    assert "video.arrow_of_time + video.frozen_probe" in shown and "ceiling" in shown


def test_mistakes_come_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    wrong = [
        "--evaluations=video.arow_of_time",
        "--clips=0",
        "--seconds=x",
        "--out=/no/where/x.json",
    ]
    assert speed.main(["evaluate", "--device=cpu", *wrong]) == 2
    error = capsys.readouterr().err
    assert "4 mistake(s)" in error and "did you mean 'video.arrow_of_time'" in error
    assert speed.main(["evaluate", "--device=cpu", "--size=20", *MODEL]) == 2
    assert "20" in capsys.readouterr().err
    assert speed.main(["evaluate", "--device=cpu", "--evaluations=video.chiral", *TINY]) == 2
    assert "video.chiral: random clips names no classes" in capsys.readouterr().err
    assert speed.main(["evaluate", "--device=cpu", "--model=dimm=3"]) == 2
    assert "did you mean 'dim'" in capsys.readouterr().err
