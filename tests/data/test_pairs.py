"""No unordered set of the frames that a model is shown tells the classes of a temporal pair apart."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from bench.config.science import Input
from bench.data.builtin.actions import ACTIONS, PAIRS, Action, render_clip
from bench.data.builtin.stage import SceneRule
from bench.data.sources import mini_ssv2
from bench.data.transforms import eval_indices, mirrored_classes

RULES = {
    "default": mini_ssv2.Config(height=32).rule,
    "everything": replace(mini_ssv2.Config(height=32).rule, occlusion=1.0, speed=2.0, camera=1.0),
}
BY_TEMPLATE = {action.template: action for action in ACTIONS}
SHOWN = Input(frames=8)
CLIPS = 30
# Of the area under the curve of two samples alike (Mann and Whitney), three times.
WITHIN_CHANCE = 3 * np.sqrt((2 * CLIPS + 1) / (12 * CLIPS**2))

Arrange = Callable[[np.ndarray], np.ndarray]


def as_it_is(clip_THWC: np.ndarray) -> np.ndarray:
    return clip_THWC


def there_and_back(clip_THWC: np.ndarray) -> np.ndarray:
    """What "Pretending to turn something upside down" was: half of the frames are shown twice."""
    return np.concatenate([clip_THWC[::2], clip_THWC[1::2][::-1]])


def statistic(clip_THWC: np.ndarray) -> float:
    """Of 8 evenly spaced frames: mean distance of a frame to its nearest other one, by the median of all
    distances. The order of the frames does not change it.
    """
    shown = clip_THWC[eval_indices(len(clip_THWC), SHOWN)[0]].reshape(8, -1).astype(np.float32)
    distance = np.linalg.norm(shown[:, None] - shown[None], axis=-1)
    others = distance[~np.eye(8, dtype=bool)].reshape(8, 7)
    return float(others.min(1).mean() / np.median(others))


def statistics(
    action: Action, arrange: Arrange, first: int, rule: SceneRule = RULES["default"]
) -> np.ndarray:
    """Of clips with random numbers and scenes of their own."""
    found = []
    for number in range(first, first + CLIPS):
        rng = np.random.default_rng([7, number])
        clip = render_clip(rule, action, scene="park", rng=rng, training=True)
        found.append(statistic(arrange(clip)))
    return np.array(found)


def separation(forward: np.ndarray, backward: np.ndarray) -> float:
    """How far the area under the curve is from one half."""
    larger = (forward[:, None] > backward).mean() + (forward[:, None] == backward).mean() / 2
    return abs(float(larger) - 0.5)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(("first", "second", "_play"), PAIRS)
def test_the_frames_without_their_order_do_not_tell_a_pair_apart(
    first: str, second: str, _play: object, rule: str
) -> None:
    forward = statistics(BY_TEMPLATE[first], as_it_is, 0, RULES[rule])
    backward = statistics(BY_TEMPLATE[second], as_it_is, CLIPS, RULES[rule])
    assert separation(forward, backward) < WITHIN_CHANCE


def test_the_statistic_sees_a_class_that_shows_frames_twice() -> None:
    turned = BY_TEMPLATE["Turning [something] upside down"]
    pretended = statistics(turned, there_and_back, CLIPS)
    assert separation(statistics(turned, as_it_is, 0), pretended) > WITHIN_CHANCE


def test_no_class_names_a_side_that_no_other_one_names() -> None:
    """Else training with `input.hflip` would be refused."""
    ids = mirrored_classes(mini_ssv2.CLASSES)
    assert sorted(ids) == list(range(20)) and list(ids) != sorted(ids)
