"""Pictures on which a video model may be pretrained: none shows what mini_ssv2 holds out."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest
from makers import ROOT

from bench.data.builtin import cutouts, pictures, stage
from bench.data.shards.read import read_index
from bench.data.sources import mini_imagenet9, mini_ssv2
from bench.grid.plan import plan

FOR_VIDEO = mini_imagenet9.Config(train=9, val=9, test=18, size=16, exclude="mini_ssv2")
KINDS = (*cutouts.IN9_CLASSES, cutouts.PROP)


def concepts_shown(
    config: mini_imagenet9.Config, split: str, count: int, monkeypatch: pytest.MonkeyPatch
) -> set[str]:
    """What is really drawn."""
    shown, sprite_of = set(), pictures.sprite_of

    def noting(cutout: cutouts.Cutout, pixels: float, *, mirrored: bool) -> object:
        shown.add(cutout.concept)
        return sprite_of(cutout, pixels, mirrored=mirrored)

    with monkeypatch.context() as patched:
        patched.setattr(pictures, "sprite_of", noting)
        for number in range(count):
            pictures.draw(config.rule, split, number)
    return shown


def held_out_of_videos() -> set[str]:
    """The concepts of all that clips of `tune` and `test` can show, and their captions do name."""
    found = {c.concept for kind in KINDS for c in stage.pool(kind, training=False)}
    named = {
        name
        for split in ("tune", "test", "test_unbiased")
        for clip in mini_ssv2.clips_of(mini_ssv2.Config(tune=100, test=100), split)
        for name in clip.meta["placeholders"]
    }
    assert named - {"cloth", "support"} <= {concept.replace("-", " ") for concept in found}
    return found


def test_no_picture_shows_what_videos_are_tested_on(monkeypatch: pytest.MonkeyPatch) -> None:
    held_out = held_out_of_videos()
    for split, count in (("train", 450), ("val", 150)):
        shown = concepts_shown(FOR_VIDEO, split, count, monkeypatch)
        assert len(shown) > 40 and not shown & held_out
    plain = FOR_VIDEO.model_copy(update={"exclude": None})
    assert concepts_shown(plain, "train", 450, monkeypatch) & held_out


def test_every_class_keeps_concepts_to_learn_from() -> None:
    for kind in cutouts.IN9_CLASSES:
        left = pictures.drawings(kind, training=True, exclude="mini_ssv2")
        assert len({c.concept for c in left}) >= 3
        assert set(left) < set(pictures.drawings(kind, training=True))
        tested = pictures.drawings(kind, training=False, exclude="mini_ssv2")
        assert tested == pictures.drawings(kind, training=False)


def test_the_option_is_neutral_and_another_data_set(tmp_path: Path) -> None:
    def signed(*settings: str) -> str:
        return plan(ROOT / "sweeps/background.yaml", "smoke", settings).cells[0].signature

    assert signed() == signed("data.exclude=null") != signed("data.exclude=mini_ssv2")
    plain = FOR_VIDEO.model_copy(update={"exclude": None})
    folder = mini_imagenet9.build(plain, tmp_path / "plain", workers=1)
    assert "exclude" not in read_index(folder)["config"]
    with pytest.raises(ValueError, match="exclude is None there and 'mini_ssv2' here"):
        mini_imagenet9.build(FOR_VIDEO, folder)
    parser = argparse.ArgumentParser()
    mini_imagenet9.add_arguments(parser)
    assert parser.parse_args(["--exclude", "mini_ssv2"]).exclude == "mini_ssv2"
    assert parser.parse_args([]).exclude is None
    assert "--exclude mini_ssv2" in mini_imagenet9.remedy(FOR_VIDEO, folder)
