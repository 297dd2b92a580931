"""Sources of videos: which shards a run takes, and how data sets are read as they lie on disk."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from bench import prepare
from bench.config import signature
from bench.config.science import RunConfig, parse
from bench.data.formats.video_source import frame_rule
from bench.data.shards.write import Clip, DataSetInfo, FrameRule, Packing, pack
from bench.data.sources import mini_imagenet9, mini_ssv2, ssv2


def run_config(**data: object) -> RunConfig:
    return parse(
        {"data": data, "model": {"name": "timesformer"}, "objectives": {"classify": {}}, "seed": 0}
    )


def shards_of(folder: Path, source: str, config: dict[str, object], version: int = 1) -> Path:
    """A folder of two clips that says it is `source` with these options."""
    clips = {split: [Clip(f"{split}1", 0)] for split in ("train", "val")}
    info = DataSetInfo(source, version, config, ("a", "b"), {})
    return pack(folder, clips, _grey, info, FrameRule("raw"), Packing(workers=1))


def _grey(split: str, clip: Clip) -> np.ndarray:
    return np.full((2, 8, 8, 3), 128, np.uint8)


# -- which shards a run takes ---


def test_built_in_data_keep_the_folders_they_had(tmp_path: Path) -> None:
    for module, config, name in (
        (mini_ssv2, mini_ssv2.Config(), "mini-ssv2-d69a71a48014"),
        (mini_ssv2, mini_ssv2.Config.tiny(), "mini-ssv2-f417ee184aaa"),
        (mini_imagenet9, mini_imagenet9.Config(), "mini-imagenet9-a76080e23898"),
    ):
        assert module.locate(config, tmp_path).name == name
    assert mini_ssv2.locate(mini_ssv2.Config(quality=80), tmp_path).name not in (
        "mini-ssv2-d69a71a48014",
        mini_ssv2.locate(mini_ssv2.Config(decoder="pyav"), tmp_path).name,
    )


def test_an_index_without_a_later_option_means_its_default(tmp_path: Path) -> None:
    of_old = mini_ssv2.Config(train=1, tune=1, test=1).model_dump(exclude=set(mini_ssv2.LATER))
    folder = mini_ssv2.locate(mini_ssv2.Config(train=1, tune=1, test=1), tmp_path)
    shards_of(folder, "mini_ssv2", of_old, mini_ssv2.VERSION)
    assert len(mini_ssv2.open(mini_ssv2.Config(train=1, tune=1, test=1), tmp_path, "train")) == 1
    assert mini_ssv2.build(mini_ssv2.Config(train=1, tune=1, test=1), folder) == folder
    with pytest.raises(ValueError, match="quality is 90 there and 80 here"):
        mini_ssv2.build(mini_ssv2.Config(train=1, tune=1, test=1, quality=80), folder)


@pytest.mark.parametrize(
    "stored",
    [
        {"frames": "video", "short_side": None},
        {"frames": "raw", "short_side": 256},
        {"frames": "jpeg", "short_side": None, "quality": 75},
    ],
)
def test_a_run_takes_the_shards_as_they_were_prepared(
    tmp_path: Path, stored: dict[str, object]
) -> None:
    folder = shards_of(tmp_path / "ssv2", "ssv2", stored)
    assert ssv2.missing(ssv2.Config(), tmp_path) is None
    asked = ssv2.Config(**stored)  # type: ignore[arg-type]
    assert len(ssv2.open(asked, tmp_path, "val")) == 1
    problem = ssv2.missing(ssv2.Config(decoder="pyav"), tmp_path)
    assert problem is not None and "decoder is 'opencv' there and 'pyav' here" in problem
    assert problem.endswith("--annotations DIR --out " + str(folder) + " --decoder pyav`")
    other = ssv2.missing(ssv2.Config(quality=50), tmp_path)
    assert other is not None and "and 50 here" in other


def test_shards_of_a_later_version_with_unknown_options_are_refused(tmp_path: Path) -> None:
    shards_of(tmp_path / "ssv2", "ssv2", {"frames": "video", "rotated": True})
    assert "rotated is True there and None here" in (ssv2.missing(ssv2.Config(), tmp_path) or "")


def test_leaving_storage_open_changes_no_signature_and_is_no_drift() -> None:
    plain = run_config(name="ssv2")
    assert plain.dump(defaults=False)["data"] == {"name": "ssv2"}
    assert signature.signature(run_config(name="ssv2", frames="video")) == signature.signature(
        plain
    )
    assert signature.signature(run_config(name="ssv2", frames="raw")) != signature.signature(plain)
    before = plain.dump()
    before["data"] |= {"frames": "video", "short_side": None, "digest": None}  # as stored of old
    assert signature.drift(before, plain) == []
    kept = json.loads(json.dumps(run_config(name="ssv2", frames="video", short_side=9).dump()))
    assert parse(kept).data.config == ssv2.Config(frames="video", short_side=9)


def test_options_of_frames_need_stored_frames() -> None:
    assert frame_rule(ssv2.Config()).storage == "video"
    assert frame_rule(ssv2.Config(frames="raw", short_side=32)).short_side == 32
    with pytest.raises(ValueError, match="add --store jpeg or --store raw"):
        frame_rule(ssv2.Config(short_side=32))
    with pytest.raises(ValueError, match="--quality is of JPEG files"):
        frame_rule(ssv2.Config(frames="raw", quality=80))
    for wrong in ({"quality": 0}, {"short_side": 0}):
        with pytest.raises(ValueError, match="greater than or equal to 1"):
            ssv2.Config(**wrong)  # type: ignore[arg-type]


def test_the_old_name_of_store_still_works(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parser = prepare.parser_for(prepare.preparable_sources())
    for source, word in (("ssv2", "raw"), ("mini-ssv2", "video"), ("imagenet9", "raw")):
        for option in ("--store", "--frames"):
            args = parser.parse_args([source, "--out", str(tmp_path), option, word])
            assert args.frames == word
        with pytest.raises(SystemExit):
            parser.parse_args([source, "--help"])
        shown = capsys.readouterr().out
        assert "--store" in shown and "--frames" not in shown
