"""The adapter `py`: a module of the user's own, found by its name, tried and described."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from bench.config.mistakes import Mistakes
from bench.models.adapters import py
from bench.models.named import Asked

SOURCE = """
import torch
from torch import nn
SHOWN = {"frames": 4, "size": 8, "mean": (0.1, 0.2, 0.3), "std": [0.4, 0.5, 0.6]}

class Net(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.axis, self.head = channels, nn.Linear(12, 5)
    def forward(self, clip):
        return self.head(clip.movedim(self.axis, -1).mean((2, 3)).flatten(1))

def frames_first():
    torch.manual_seed(0)
    return Net(2), {**SHOWN, "classes": list("abcde")}
def channels_first():
    torch.manual_seed(0)
    return Net(1), {**SHOWN, "axes": "BCTHW"}
def no_pair(): return Net(2)
def says_little(): return Net(2), {"frames": 0, "sise": 8}
def no_logits(): return nn.Identity(), SHOWN
def too_many_names(): return Net(2), {**SHOWN, "classes": list("abcdef")}
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    name = f"own_models_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path)
    yield name
    sys.modules.pop(name, None)


@torch.no_grad()
def test_logits_are_the_modules_whatever_its_axes(module: str) -> None:
    made = [py.load(f"{module}:{f}", Asked()) for f in ("frames_first", "channels_first")]
    clip = torch.randn(2, 4, 3, 8, 8)
    own, _ = sys.modules[module].frames_first()
    assert torch.equal(made[0].model(clip), own(clip))
    torch.testing.assert_close(made[0].model(clip), made[1].model(clip))
    assert made[0].mean == (0.1, 0.2, 0.3) and made[0].input.frames == 4
    assert made[0].class_names == tuple("abcde") and made[1].class_names is None
    assert made[0].made_by["weights_sha256"] == made[1].made_by["weights_sha256"]
    with pytest.raises(ValueError, match=r"yours has no encode, classify and backbone\.stages"):
        made[0].model.encode(clip)


def test_what_is_wrong_is_said_at_once(module: str) -> None:
    for name, message in {
        "no_such_module:f": "no module 'no_such_module'",
        module: "py:<module>:<function>",
        f"{module}:nothing": "has no function 'nothing'",
        f"{module}:no_pair": "returned Net; wanted",
        f"{module}:no_logits": r"wanted logits \(B, K\) of a clip",
        f"{module}:too_many_names": "6 classes are named, there are 5 logits",
    }.items():
        with pytest.raises(ValueError, match=message):
            py.load(name, Asked())
    with pytest.raises(Mistakes) as caught:
        py.load(f"{module}:says_little", Asked())
    said = str(caught.value)
    assert all(word in said for word in ("frames", "sise", "size", "mean", "std"))
