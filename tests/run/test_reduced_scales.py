"""The shipped scales of built-in data with every option that they name, but less data and one epoch: from the
image model to the report.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml
from makers import ROOT

from bench import results
from bench.sweep.command import main
from reports import build

VIDEOS = {"train": 24, "tune": 12, "test": 20, "height": 48}
IMAGES = {"train": 18, "val": 9, "test": 18}


def reduced(scale: Path, to: Path) -> None:
    """The scale with fewer samples and one epoch; nothing else of it changes."""
    document = yaml.safe_load(scale.read_text())
    for part in (document, {"base": document.get("cells", {}).get("image ViT")}):
        if base := part["base"]:
            base["data"] |= VIDEOS if base["data"]["name"] == "mini_ssv2" else IMAGES
            base["train"] |= {"epochs": 1, "batch": 8, "warmup_epochs": 0}
    document["seeds"] = [0]
    to.parent.mkdir(parents=True, exist_ok=True)
    to.write_text(yaml.safe_dump(document, sort_keys=False))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sweep", "scale"),
    [("backbones", "mini"), ("backbones", "study"), ("background", "image/mini")],
)
def test_a_shipped_scale_runs(sweep: str, scale: str, tmp_path: Path) -> None:
    path = Path(shutil.copy(ROOT / f"sweeps/{sweep}.yaml", tmp_path))
    reduced(ROOT / f"sweeps/scales/{scale}.yaml", tmp_path / f"scales/{scale}.yaml")
    runs, name = tmp_path / "runs", scale.rpartition("/")[2]
    where = ["--runs", str(runs), "--launcher", "inline", "--scale", name]
    assert main([str(path), *where, "--set", f"resources.data_dir={tmp_path}/data"]) == 0
    frame = results.load(runs)
    assert set(frame["state"]) == {"DONE"} and frame["value"].notna().all()
    methods = {"baseline", "+ TIME"} | (
        {"baseline, equal compute"} if sweep == "backbones" else set()
    )
    assert methods <= set(frame["method"])
    assert build.main(["--runs", str(runs), "--out", str(tmp_path / "out")]) == 0
