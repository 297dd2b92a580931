"""The built-in videos' options: what the defaults always showed, what each option adds, and what none may."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from makers import ROOT, context_of, smoke

from bench import prepare
from bench.config.science import parse
from bench.data.access import open_data
from bench.data.builtin.actions import ACTIONS, PAIRS, render_clip
from bench.data.builtin.cutouts import IN9_CLASSES, all_panoramas
from bench.data.builtin.disturbances import occluder_of, paced, pan
from bench.data.builtin.scenes import Camera, SceneLayer, layer, plate_of, render, sprite_of
from bench.data.builtin.stage import SceneRule, Stage, pool
from bench.data.shards.read import read_index
from bench.data.sources import mini_ssv2
from bench.evaluate.context import run_one
from tasks.video import shuffle_gap

PLAIN = mini_ssv2.Config(height=32).rule
OPTIONS = ("occlusion", "speed", "camera")
BY_TEMPLATE = {action.template: action for action in ACTIONS}
DRAWS = 3000
strengths = st.fixed_dictionaries(
    {"occlusion": st.just(1.0), "speed": st.floats(0.1, 3.0), "camera": st.floats(0.1, 2.0)}
)


def stage_of(rule: SceneRule, number: int = 0, frames: int = 24) -> Stage:
    return Stage(np.random.default_rng([9, number]), frames, rule, training=True)


def clip_of(rule: SceneRule, template: str, number: int) -> np.ndarray:
    rng = np.random.default_rng([9, number])
    scene = all_panoramas()[number % len(all_panoramas())]
    return render_clip(rule, BY_TEMPLATE[template], scene=scene, rng=rng, training=True)


# -- the defaults ---


SHOWN = ROOT / "tests/fixtures/mini_ssv2_defaults.npz"
"""Of eight clips of each split, as they were before there were options: colours of a grid of 6 x 8 blocks
in the first, the middle and the last frame, and a digest of what was drawn by lot.
"""


def seen(split: str, config: mini_ssv2.Config) -> tuple[np.ndarray, str]:
    render_planned, drawn, grids = mini_ssv2.ClipRenderer(config.rule), hashlib.sha256(), []
    for clip in mini_ssv2.clips_of(config, split):
        frames = render_planned(split, clip)
        drawn.update(json.dumps([clip.key, clip.label, clip.meta, len(frames)]).encode())
        chosen = frames[[0, len(frames) // 2, -1]]
        grids.append([cv2.resize(frame, (8, 6), interpolation=cv2.INTER_AREA) for frame in chosen])
    return np.array(grids), drawn.hexdigest()


@pytest.mark.parametrize("split", mini_ssv2.SPLITS)
def test_the_defaults_show_what_they_showed_before_there_were_options(split: str) -> None:
    """Not to the bit: processors and releases of OpenCV differ in the last one of a pixel."""
    grids, drawn = seen(split, mini_ssv2.Config(train=8, tune=8, test=8))
    with np.load(SHOWN) as before:
        assert drawn == str(before[f"{split} drawn"])
        assert np.abs(grids.astype(int) - before[split]).max() <= 1


def test_folders_of_data_without_the_options_keep_their_names(tmp_path: Path) -> None:
    plain = mini_ssv2.locate(mini_ssv2.Config(), tmp_path)
    assert plain == mini_ssv2.locate(
        mini_ssv2.Config(occlusion=0.0, speed=0.0, camera=0.0, test_hard=0, test_seed=0), tmp_path
    )
    changes = (
        {"occlusion": 0.1},
        {"speed": 0.1},
        {"camera": 0.1},
        {"test_hard": 1},
        {"test_seed": 1},
    )
    others = {mini_ssv2.locate(mini_ssv2.Config(**change), tmp_path) for change in changes}
    assert len(others | {plain}) == 1 + len(changes)


def test_an_option_moves_nothing_but_its_own() -> None:
    """So that along an axis clips differ in what the axis says."""
    before = stage_of(PLAIN)
    for option in OPTIONS:
        after = stage_of(replace(PLAIN, **{option: 1.0}))
        same = (before.progress_T == after.progress_T).all()
        assert same == (option != "speed") and before.objects == after.objects
        one, other = stage_of(PLAIN).camera(), after.camera()
        assert (one.x_T == other.x_T).all() == (option != "camera")
        assert (one.zoom_T == other.zoom_T).all()
    everything = replace(PLAIN, occlusion=1.0, speed=1.0, camera=1.0)
    (alone,), (among,) = (
        stage_of(rule).foreground([some_item(24)])
        for rule in (replace(PLAIN, occlusion=1.0), everything)
    )
    assert (alone.x_T == among.x_T).all() and (alone.sprite_HWC == among.sprite_HWC).all()


# -- pairs stay reversals ---


@settings(max_examples=40, deadline=None)
@given(pair=st.sampled_from(PAIRS), number=st.integers(0, 10_000), how=strengths)
def test_with_every_option_a_pair_is_the_same_frames_in_reverse(
    pair: tuple[str, str, object], number: int, how: dict[str, float]
) -> None:
    rule = replace(PLAIN, **how, min_frames=6, max_frames=9)  # type: ignore[arg-type]
    forward, backward = (clip_of(rule, template, number) for template in pair[:2])
    assert (forward == backward[::-1]).all() and (forward != backward).any()


def errors_from_zero(values_NT: np.ndarray) -> np.ndarray:
    """How far the mean over draws is from 0, in its standard errors."""
    return np.abs(values_NT.mean(0)) / (values_NT.std(0) / np.sqrt(len(values_NT)) + 1e-12)


def balanced(values_NT: np.ndarray) -> bool:
    """Is this as large in the first half of a clip as in the second, at mirrored moments?"""
    odd = (values_NT - values_NT[:, ::-1])[:, : values_NT.shape[1] // 2]
    return bool((errors_from_zero(odd) < 4).all())


def some_item(frames: int) -> SceneLayer:
    (cutout, *_) = pool(IN9_CLASSES[0], training=True)
    return layer(sprite_of(cutout, 32), frames, x=0.1, y=0.05, size=0.4)


def test_none_of_the_options_is_likelier_forwards_than_backwards() -> None:
    """Else the class could be read off circumstances: pans that go right, actions that begin slowly,
    things in front that come rather than leave.
    """
    item, rngs = some_item(24), [np.random.default_rng([5, n]) for n in range(DRAWS)]
    done_NT = np.array([paced(rng, np.linspace(0, 1, 25), 1.5) for rng in rngs])
    # an action at this speed, backwards: what is still to do, not what is done
    assert (errors_from_zero((done_NT + done_NT[:, ::-1] - 1)[:, 1:12]) < 4).all()
    steps_NT = np.diff(done_NT, axis=1)
    assert (
        balanced(steps_NT) and balanced(steps_NT**2) and balanced((steps_NT < 1e-9).astype(float))
    )
    across, along = np.array([pan(rng, 24, 1.0) for rng in rngs]).swapaxes(0, 1)
    assert balanced(across) and balanced(along) and balanced(across**2)
    things = [occluder_of(rng, item.sprite_HWC, item) for rng in rngs]
    x_NT, y_NT = (np.array([getattr(thing, name) for thing in things]) for name in ("x_T", "y_T"))
    hidden_NT = (np.hypot(x_NT - item.x_T, y_NT - item.y_T) < 0.25).astype(float)
    assert balanced(x_NT) and balanced(y_NT) and balanced(hidden_NT)


# -- each does what it says ---


def shares_hidden(item: SceneLayer, front: SceneLayer) -> np.ndarray:
    """In each frame, the share of the item's pixels that something before it hides at least half."""
    frames, still = len(item.x_T), np.zeros(len(item.x_T))
    camera = Camera(still, still, still + 1, still)
    black = np.zeros((160, 220, 3), np.uint8)
    alpha = item.sprite_HWC[..., 3:]
    white = replace(item, sprite_HWC=np.dstack([255 * alpha] * 3 + [alpha]))
    shadow = front.sprite_HWC * np.array([0, 0, 0, 1], np.float32)
    seen = [
        (render(black, camera, layers, height=96, width=128)[..., 0] > 127)
        .reshape(frames, -1)
        .sum(1)
        for layers in ([white], [white, replace(front, sprite_HWC=shadow)])
    ]
    return 1 - seen[1] / np.maximum(seen[0], 1)


def test_what_is_in_front_hides_a_part_of_what_acts_for_a_while() -> None:
    rule = replace(PLAIN, occlusion=1.0, height=96)
    hidden = []
    for number in range(60):
        stage = stage_of(rule, number)
        layers = BY_TEMPLATE[PAIRS[number % len(PAIRS)][0]].play(stage)
        (front,) = stage.foreground(layers)
        hidden.append([shares_hidden(item, front) for item in layers])
    most = np.array([max(item.max() for item in clip) for clip in hidden])
    assert (most > 0.1).mean() > 0.9  # something of something, nearly always
    of_all = np.array([np.mean([item.mean() for item in clip]) for clip in hidden])
    assert 0.05 < of_all.mean() < 0.5 and (of_all < 0.9).all()  # and never most of it all the time


@pytest.mark.parametrize("occlusion", [0.0, 0.3, 1.0])
def test_so_many_clips_have_something_in_front(occlusion: float) -> None:
    rule, item = replace(PLAIN, occlusion=occlusion), some_item(24)
    found = [len(stage_of(rule, number).foreground([item])) for number in range(300)]
    assert abs(np.mean(found) - occlusion) < 0.1 and set(found) <= {0, 1}


def test_what_is_in_front_of_training_clips_is_not_held_out() -> None:
    rule = replace(PLAIN, occlusion=1.0)
    sprites = {
        training: {
            Stage(np.random.default_rng(n), 9, rule, training=training)
            .foreground([some_item(9)])[0]
            .sprite_HWC.tobytes()
            for n in range(300)
        }
        for training in (True, False)
    }
    assert not sprites[True] & sprites[False] and len(sprites[False]) > 10


@settings(max_examples=60, deadline=None)
@given(number=st.integers(0, 10_000), speed=st.floats(0.05, 1000.0))
def test_actions_of_changing_speed_begin_end_and_never_go_back(number: int, speed: float) -> None:
    even, changing = (
        stage_of(replace(PLAIN, speed=strength), number).progress_T for strength in (0.0, speed)
    )
    assert np.isfinite(changing).all() and (np.diff(changing) >= 0).all()
    assert (changing[0], changing[-1]) == (even[0], even[-1]) == (0, 1)
    assert (changing != even).any()


def test_actions_change_their_speed_more_the_stronger_and_pause() -> None:
    linear = np.linspace(0, 1, 65)
    spread, pauses = [], []
    for strength in (0.1, 0.5, 1.0, 2.0):
        steps = [np.diff(paced(np.random.default_rng(n), linear, strength)) for n in range(200)]
        spread.append(np.mean([step.std() for step in steps]))
        pauses.append(np.mean([(step < 1e-9).mean() for step in steps]))
    assert spread == sorted(spread) and spread[-1] > 3 * spread[0]
    assert 0.1 < pauses[2] < 0.2 and pauses[0] < 0.02


def test_a_pan_moves_the_whole_scene_and_more_than_the_drift() -> None:
    (scene, *_), (height, width) = all_panoramas(), (96, 128)
    plate = plate_of(scene, yaw=60, pitch=0, height=height, width=width)
    errors, swings, drifts = [], [], []
    for number in range(12):
        rule = replace(PLAIN, jitter=0.0, camera=0.5)
        camera = stage_of(rule, number).camera()
        first, last = (
            render(plate, replace_all(camera, t), [], height=height, width=width)[0, ..., 1]
            for t in (0, -1)
        )
        window = cv2.createHanningWindow((width, height), cv2.CV_32F)
        moved, _ = cv2.phaseCorrelate(np.float32(first), np.float32(last), window)
        wanted = height * (camera.x_T[0] - camera.x_T[-1])
        errors.append(abs(moved[0] - wanted))
        swings.append(np.ptp(stage_of(replace(PLAIN, camera=1.0), number).camera().x_T))
        drifts.append(np.ptp(stage_of(PLAIN, number).camera().x_T))
    assert np.median(errors) < 1.5
    assert np.mean(swings) > 3 * np.mean(drifts)


def replace_all(camera: Camera, t: int) -> Camera:
    """The camera as it is at one moment."""
    return Camera(*(getattr(camera, f"{name}_T")[[t]] for name in ("x", "y", "zoom", "roll")))


def test_a_pan_goes_with_the_object_as_often_as_against_it() -> None:
    """Something pushed to the right may move to the left on the screen."""
    rule, push = replace(PLAIN, camera=1.0), BY_TEMPLATE[PAIRS[0][0]]
    on_screen, panned = [], []
    for number in range(300):
        stage = stage_of(rule, number)
        item = push.play(stage)[0]
        camera = stage.camera()
        panned.append(camera.x_T[-1] - camera.x_T[0])
        on_screen.append(item.x_T[-1] - item.x_T[0] - panned[-1])
    assert abs(np.mean(np.array(panned) > 0) - 0.5) < 0.1
    assert 0.02 < np.mean(np.array(on_screen) < 0) < 0.3


# -- splits beside the four ---

EXTRA = mini_ssv2.Config(
    train=20, tune=20, test=20, test_hard=20, test_seed=20, height=32, min_frames=8, max_frames=9
)


def test_extra_splits_are_there_where_they_are_asked_for() -> None:
    spec = mini_ssv2.spec
    assert spec(mini_ssv2.Config()).splits == mini_ssv2.SPLITS
    assert spec(mini_ssv2.Config(test_seed=3)).splits == (*mini_ssv2.SPLITS, "test_seed")
    assert spec(EXTRA).splits == (*mini_ssv2.SPLITS, "test_hard", "test_seed")
    keys = [clip.key for split in EXTRA.splits for clip in mini_ssv2.clips_of(EXTRA, split)]
    assert len(set(keys)) == len(keys) == 120


def test_test_hard_shows_the_clips_of_test_made_harder() -> None:
    test, hard = (mini_ssv2.clips_of(EXTRA, split) for split in ("test", "test_hard"))
    without_id = [{k: v for k, v in c.meta.items() if k != "id"} for c in (*test, *hard)]
    assert without_id[:20] == without_id[20:]
    assert [c.label for c in test] == [c.label for c in hard]
    rule = mini_ssv2.rule_of(EXTRA.rule, "test_hard")
    assert {name: getattr(rule, name) for name in mini_ssv2.HARD} == mini_ssv2.HARD
    harder = EXTRA.model_copy(update={"camera": 1.5, "distractors": 9})
    rule = mini_ssv2.rule_of(harder.rule, "test_hard")
    assert (rule.camera, rule.distractors, rule.occlusion) == (1.5, 9, mini_ssv2.HARD["occlusion"])
    show = mini_ssv2.ClipRenderer(EXTRA.rule)
    shown = [
        show("test", a).tobytes() != show("test_hard", b).tobytes()
        for a, b in zip(test, hard, strict=True)
    ]
    assert all(shown)


def test_test_seed_shows_the_same_whatever_the_seed_and_nothing_of_test() -> None:
    of_0, of_3 = (seen("test_seed", EXTRA.model_copy(update={"seed": seed})) for seed in (0, 3))
    assert of_0[1] == of_3[1] and np.array_equal(of_0[0], of_3[0])
    same_seed = EXTRA.model_copy(update={"seed": mini_ssv2.HELD_OUT_SEED})
    planned = {split: mini_ssv2.clips_of(same_seed, split) for split in EXTRA.splits}
    shown = {
        split: [(clip.label, *clip.meta["placeholders"]) for clip in clips]
        for split, clips in planned.items()
    }
    assert all(shown[split] != shown["test_seed"] for split in EXTRA.splits[:-1])


def test_the_command_makes_them_checks_them_and_they_are_evaluated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = EXTRA.model_dump(exclude={"frames", "decoder", "quality", "seed", "short_side"})
    options = [x for k, v in asked.items() for x in (f"--{k.replace('_', '-')}", str(v))]
    folder = mini_ssv2.locate(EXTRA, tmp_path)
    command = ["mini-ssv2", "--out", str(folder), "--workers", "1", *options, "--occlusion", "0.0"]
    assert prepare.main(command) == 0
    assert prepare.main([*command, "--check", "--deep"]) == 0
    assert "test_unbiased 20, test_hard 20, test_seed 20, all decoded" in capsys.readouterr().out
    assert read_index(folder)["config"]["test_hard"] == 20
    assert open_data(folder).spec.splits == EXTRA.splits

    raw = smoke().dump()
    raw["data"] = {"name": "mini_ssv2", **EXTRA.model_dump()}
    context = context_of(parse(raw), tmp_path)
    rows = run_one("video.shuffle_gap", shuffle_gap.Config(), context)
    assert {row["split"] for row in rows} == set(EXTRA.splits[1:])


def test_help_says_what_the_options_are(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        prepare.main(["mini-ssv2", "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    for option in (*OPTIONS, "test-hard", "test-seed"):
        assert f"--{option} N" in shown
    assert (
        "something in front" in shown and "occlusion 0.8, speed 1, camera 1, distractors 3" in shown
    )
