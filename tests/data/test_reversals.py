"""Which classes of the built-in data are each other's reversal."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from makers import smoke

from bench.data.access import open_data
from bench.data.builtin.actions import ACTIONS, render_clip
from bench.data.builtin.cutouts import all_panoramas
from bench.data.sources import mini_ssv2


def test_paired_classes_show_the_same_frames_in_reverse() -> None:
    config = mini_ssv2.Config.tiny()
    pairs = mini_ssv2.spec(config).reversals
    assert len(pairs) == 7 and len({k for pair in pairs for k in pair}) == 14
    scene = all_panoramas()[0]
    for pair in pairs:
        forward, backward = (
            render_clip(
                config.rule, ACTIONS[k], scene=scene, rng=np.random.default_rng(0), training=True
            )
            for k in pair
        )
        assert np.array_equal(forward, backward[::-1])


def test_shards_know_them_too(data_dir: Path) -> None:
    config = smoke().data.config
    found = open_data(mini_ssv2.locate(config, data_dir))
    assert found.spec.reversals == mini_ssv2.spec(config).reversals
