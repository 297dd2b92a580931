"""The grid language and the identity of its cells: properties, every kind of mistake, and speed at
10,000 cells.
"""

from __future__ import annotations

import itertools
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from makers import ROOT

from bench import find
from bench.config import seeds, signature
from bench.config.mistakes import Mistakes
from bench.config.science import RunConfig, parse
from bench.grid.axes import Layer
from bench.grid.patch import merge, nest, split_path
from bench.grid.plan import Cell, plan, read
from bench.sweep import command as sweep_command

SCALE = {
    "base": {
        "data": {"name": "mini_ssv2", "train": 24, "tune": 12, "test": 18},
        "input": {"frames": 4, "size": 16},
        "model": {"patch": 8, "dim": 16, "depth": 1, "heads": 2},
        "train": {"epochs": 1, "batch": 8},
    }
}
SWEEP: dict[str, Any] = {
    "base": {"model.name": "timesformer", "objectives": {"classify": {}}},
    "axes": {
        "lr": {"low": {"train.lr": 1e-4}, "high": {"train.lr": 1e-3}},
        "epochs": {"one": {"train.epochs": 1}, "two": {"train.epochs": 2}},
    },
}


def write(folder: Path, sweep: dict[str, Any], scale: dict[str, Any] = SCALE) -> Path:
    (folder / "scales").mkdir(exist_ok=True)
    (folder / "scales/tiny.yaml").write_text(json.dumps(scale))
    path = folder / "sweep.yaml"
    path.write_text(json.dumps(sweep))  # YAML includes JSON, and this keeps the order
    return path


def expand(folder: Path, sweep: dict[str, Any], *settings_: str) -> list[dict[str, Any]]:
    cells = plan(write(folder, sweep), "tiny", settings_).cells
    return [{**c.labels, "seed": c.seed} for c in cells]


def mistakes_of(folder: Path, sweep: dict[str, Any], *settings_: str) -> str:
    with pytest.raises(Mistakes) as caught:
        plan(write(folder, sweep), "tiny", settings_)
    return str(caught.value)


def config(**changes: Any) -> RunConfig:
    raw = nest({**SCALE["base"], **SWEEP["base"]})
    merge(raw, nest(changes))
    return parse(raw)


# -- expansion ---


def test_product_and_seeds_are_the_hand_written_list(tmp_path: Path) -> None:
    cells = expand(tmp_path, {**SWEEP, "seeds": [0, 7]})
    by_hand = [
        {"lr": lr, "epochs": epochs, "seed": seed}
        for lr, epochs, seed in itertools.product(("low", "high"), ("one", "two"), (0, 7))
    ]
    assert cells == by_hand


def test_zip_advances_axes_together(tmp_path: Path) -> None:
    cells = expand(tmp_path, {**SWEEP, "zip": [["lr", "epochs"]]})
    assert [(c["lr"], c["epochs"]) for c in cells] == [("low", "one"), ("high", "two")]


def test_exclude_drops_and_when_collapses(tmp_path: Path) -> None:
    cells = expand(tmp_path, {**SWEEP, "exclude": [{"lr": "low", "epochs": ["two"]}]})
    assert ("low", "two") not in [(c["lr"], c["epochs"]) for c in cells] and len(cells) == 3
    cells = expand(tmp_path, {**SWEEP, "when": {"epochs": {"lr": ["high"]}}})
    assert [(c["lr"], c["epochs"]) for c in cells] == [
        ("low", "-"),
        ("high", "one"),
        ("high", "two"),
    ]


def test_an_axis_may_name_a_component_and_another_set_its_options(tmp_path: Path) -> None:
    axes = {
        "method": {"baseline": {}, "+ order": {"objectives": {"video.order": {}}}},
        "weight": {"0.5": {"objectives.video.order.weight": 0.5}, "1": {}},
    }
    sweep = {**SWEEP, "axes": axes, "when": {"weight": {"method": ["+ order"]}}}
    cells = plan(write(tmp_path, sweep), "tiny").cells
    found = [(c.labels["method"], c.labels["weight"], sorted(c.config.objectives)) for c in cells]
    assert found == [
        ("baseline", "-", ["classify"]),
        ("+ order", "0.5", ["classify", "video.order"]),
        ("+ order", "1", ["classify", "video.order"]),
    ]


def test_settings_reach_every_cell(tmp_path: Path) -> None:
    sweep = write(tmp_path, SWEEP)
    grid = plan(sweep, "tiny", ["train.batch=4", "seeds=[3]", "resources.threads=2"])
    assert {c.config.train.batch for c in grid.cells} == {4}
    assert {c.seed for c in grid.cells} == {3}
    assert grid.resources.threads == 2
    assert grid.name != plan(sweep, "tiny").name  # another experiment beside the plain one
    assert plan(sweep, "tiny", ["seeds=[3]"]).name == plan(sweep, "tiny").name


def test_a_setting_reaches_only_cells_that_have_the_objective(tmp_path: Path) -> None:
    axes = {"method": {"baseline": {}, "+ order": {"objectives": {"video.order": {}}}}}
    sweep = write(tmp_path, {**SWEEP, "axes": axes})
    baseline, order = plan(sweep, "tiny", ["objectives.video.order.weight=0.5"]).cells
    assert set(baseline.config.objectives) == {"classify"}
    assert order.config.objectives["video.order"].config.weight == 0.5
    with pytest.raises(
        Mistakes, match=r"video\.ordr\.weight: no cell has it; did you mean 'video\.order'"
    ):
        plan(sweep, "tiny", ["objectives.video.ordr.weight=0.5"])
    added = plan(sweep, "tiny", ["objectives.video.debias={}"]).cells
    assert all("video.debias" in cell.config.objectives for cell in added)


def test_component_names_keep_their_dot() -> None:
    assert split_path("objectives.video.order.weight") == ("objectives", "video.order", "weight")
    assert split_path("train.lr") == ("train", "lr")


def test_impossible_cells_stay_in_the_plan_with_a_reason(tmp_path: Path) -> None:
    sweep = {**SWEEP, "axes": {"size": {"16": {}, "20": {"input.size": 20}}}}
    skips = {c.labels["size"]: c.skip for c in plan(write(tmp_path, sweep), "tiny").cells}
    assert skips["16"] is None and "20 pixels" in str(skips["20"])


# -- mistakes ---


def test_every_mistake_is_named_with_its_place_and_the_nearest_name(tmp_path: Path) -> None:
    sweep = {
        "base": {**SWEEP["base"], "train": {"learning_rate": 1e-4}},
        "axes": {
            "lr": {"low": {"train.lr": "fast"}, "high": {"train.lr": True}},
            "method": {"typo": {"objectives": {"video.ordr": {}}}, "bad": {"modle.dim": 3}},
            "nothing": {},
        },
        "zip": [["lr", "metod"]],
        "seds": [1],
    }
    text = mistakes_of(tmp_path, sweep)
    for part in (
        "axes.nothing: empty axis",
        "zip.0: unknown axis 'metod'; did you mean 'method'",
        "seds: unknown key; did you mean 'seeds'",
        "base.train.learning_rate: unknown key",
        "axes.lr.low.train.lr",
        "axes.lr.high.train.lr",
        "unknown objective 'video.ordr'; did you mean 'video.order'",
        "axes.method.bad.modle: unknown key; did you mean 'model'",
    ):
        assert part in text, f"{part}\n\n{text}"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"zip": [["lr", "three"]], "axes": {**SWEEP["axes"], "three": {"a": {}, "b": {}, "c": {}}}}, "unequal length"),
        ({"axes": {"a": {"x": {"train.lr": 1e-4}}, "b": {"y": {"train.lr": 1e-3}}}}, "both write train.lr"),
        ({"axes": {}}, "axes: empty"),
        ({"seeds": []}, "seeds"),
        ({"seeds": [1, 1]}, "distinct"),
        ({"exclude": [{"lr": ["low", "high"]}]}, "the grid is empty"),
        ({"exclude": [{"lr": "lo"}]}, "did you mean 'low'"),
        ({"axes": {"a": {"x": {}, "y": {}}}}, "two cells are the same run"),
        ({"base": {**SWEEP["base"], "model.name": "timesfromer"}}, "did you mean 'timesformer'"),
        ({"axes": {"seed": {"x": {}}}}, "taken by a column"),
        ({"axes": {"a": {"x": {"seed": 1}}}}, "axes.a.x.seed: use `seeds`"),
        ({"base": [1]}, "base: must map config keys to values"),
        ({"resources": {"treads": 2}}, "did you mean 'threads'"),
    ],
)  # fmt: skip
def test_mistakes(tmp_path: Path, change: dict[str, Any], expected: str) -> None:
    assert expected in mistakes_of(tmp_path, {**SWEEP, **change})


def test_another_data_set_leaves_the_options_of_the_scales_behind(tmp_path: Path) -> None:
    path = write(tmp_path, SWEEP)
    real = plan(path, "tiny", ["data.name=ssv2"]).cells[0].config.data
    assert real.name == "ssv2" and real.dump(defaults=False) == {}
    own = plan(path, "tiny", ["data.name=ssv2", "data.short_side=12"]).cells[0].config.data
    assert own.dump(defaults=False) == {"short_side": 12}
    images = ["data.name=mini_imagenet9", "input.frames=1"]  # it has `train` and `test` too
    assert plan(path, "tiny", images).cells[0].config.data.dump(defaults=False) == {
        "train": 24,
        "test": 18,
    }
    same = plan(path, "tiny", ["data.name=mini_ssv2"]).cells[0].config.data
    assert same.dump(defaults=False) == {"train": 24, "tune": 12, "test": 18}


def test_what_a_user_says_of_another_component_is_checked(tmp_path: Path) -> None:
    assert "--set.data.train: unknown key" in mistakes_of(
        tmp_path, SWEEP, "data.name=ssv2", "data.train=5"
    )
    misspelt = {**SWEEP, "base": {**SWEEP["base"], "data.trian": 5}}
    assert "base.data.trian: unknown key" in mistakes_of(tmp_path, misspelt, "data.name=ssv2")
    assert "did you mean 'ssv2'" in mistakes_of(tmp_path, SWEEP, "data.name=sssv2")


def test_a_label_may_name_another_backbone_than_the_base(tmp_path: Path) -> None:
    base = {**SWEEP["base"], "model": {"name": "xvit", "shift_div": 2, "dim": 32}}
    base.pop("model.name")
    axes = {"backbone": {"X-ViT": {}, "TimeSformer": {"model.name": "timesformer"}}}
    xvit, other = plan(write(tmp_path, {**SWEEP, "base": base, "axes": axes}), "tiny").cells
    assert xvit.config.model.config.shift_div == 2
    assert (other.config.model.name, other.config.model.config.dim) == ("timesformer", 32)


@pytest.mark.parametrize("scale", ["smoke", "mini"])
@pytest.mark.parametrize(("sweep", "source"), [("ablation", "ssv2"), ("background", "imagenet9")])
def test_the_real_data_at_the_scales_of_the_built_in_ones(
    scale: str, sweep: str, source: str
) -> None:
    cells = plan(ROOT / f"sweeps/{sweep}.yaml", scale, [f"data.name={source}"]).cells
    assert {cell.config.data.name for cell in cells} == {source}


def test_bad_settings(tmp_path: Path) -> None:
    text = mistakes_of(tmp_path, SWEEP, "train.batc=3", "nonsense")
    assert "--set.train.batc: unknown key; did you mean 'batch'" in text
    assert "write it as key=value" in text
    assert "objectives: must map" in mistakes_of(tmp_path, SWEEP, "objectives=3")
    assert "not valid YAML" in mistakes_of(tmp_path, SWEEP, "train.batch=[")
    assert "is written by axes.lr" in mistakes_of(tmp_path, SWEEP, "train.lr=1e-3")


def test_all_duplicate_keys_are_listed(tmp_path: Path) -> None:
    path = write(tmp_path, SWEEP)
    path.write_text(
        "axes:\n  a:\n    x: {train.lrr: 1}\n    x: {}\n  a:\n    y: {}\nbase: {}\nbase: {}\n"
    )
    with pytest.raises(Mistakes) as caught:
        plan(path, "tiny")
    text = str(caught.value)
    assert "line 4: duplicate key axes.a.x" in text
    assert "line 5: duplicate key axes.a" in text and "line 8: duplicate key base" in text
    assert "did you mean 'lr'" in text  # together with every other mistake


def test_yaml_is_version_1_2(tmp_path: Path) -> None:
    path = write(tmp_path, SWEEP)
    path.write_text(
        "base: {model.name: timesformer, objectives: {classify: {}}}\n"
        "axes: {switch: {on: {train.lr: 1e-4}, 10:30: {train.lr: 2e-4}}}\n"
    )
    cells = plan(path, "tiny").cells
    assert [c.labels["switch"] for c in cells] == ["on", "10:30"]
    assert [c.config.train.lr for c in cells] == [1e-4, 2e-4]


def test_the_command_line_exits_with_2_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path, {**SWEEP, "axes": {"a": {"x": {"train.lrr": 1}}}})
    runs = tmp_path / "runs"
    command = [
        sys.executable,
        "-m",
        "bench.sweep",
        str(path),
        "--scale",
        "tiny",
        "--runs",
        str(runs),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "did you mean 'lr'" in done.stderr
    assert not runs.exists() and "Traceback" not in done.stderr
    assert sweep_command.main([str(path), "--scale", "tny", "--runs", str(runs)]) == 2
    assert "did you mean 'tiny'" in capsys.readouterr().err and not runs.exists()


# -- identity ---


@given(st.permutations(["data", "input", "model", "objectives", "train"]), st.randoms())
@settings(max_examples=30, deadline=None)
def test_signature_ignores_the_order_of_keys(sections: list[str], random: Any) -> None:
    raw = config().dump()

    def shuffle(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        items = list(value.items())
        random.shuffle(items)
        return {k: shuffle(v) for k, v in items}

    shuffled = {**{s: shuffle(raw[s]) for s in sections}, "seed": 0}
    assert signature.signature(parse(shuffled)) == signature.signature(config())


@given(
    st.dictionaries(
        st.sampled_from(["train.lr", "train.weight_decay", "train.gamma", "input.eval_scale"]),
        st.floats(1.0, 1.9).map(lambda x: round(x, 3)),
        min_size=1,
    )
)
@settings(max_examples=50, deadline=None)
def test_different_science_has_different_signatures(changes: dict[str, float]) -> None:
    plain, changed = config(), config(**changes)
    same = plain.dump() == changed.dump()
    assert (signature.signature(plain) == signature.signature(changed)) == same


def test_an_explicit_default_is_the_same_run_and_presence_counts() -> None:
    assert signature.signature(config(**{"train.lr": 1e-4})) == signature.signature(config())
    assert signature.signature(config(**{"train.clip_grad": 1})) == signature.signature(
        config(**{"train.clip_grad": 1.0})
    )
    with_order = config(**{"objectives": {"classify": {}, "video.order": {}}})
    assert signature.signature(with_order) != signature.signature(config())
    assert signature.signature(config(seed=1)) != signature.signature(config())


def test_golden_signatures() -> None:
    """A change here means that every run of every user would be computed again: bump a VERSION on
    purpose only.
    """
    grid = plan(ROOT / "sweeps/ablation.yaml", "paper", ["seeds=[0]"])
    found = {cell.labels["method"]: cell.signature for cell in grid.cells}
    golden = json.loads((ROOT / "tests/fixtures/signatures.json").read_text())
    assert found == golden


def test_a_changed_default_is_drift_and_an_added_field_is_not() -> None:
    stored = config().dump()
    assert signature.drift(stored, config()) == []
    stored["train"]["gamma"] = 0.5
    assert signature.drift(stored, config()) == ["train.gamma was 0.5, is now 0.1"]
    del stored["train"]["gamma"]
    assert signature.drift(stored, config()) == []


def test_versions_above_one_are_in_the_signature(monkeypatch: pytest.MonkeyPatch) -> None:
    before = signature.signature(config())
    monkeypatch.setattr(find.load("objective", "classify"), "VERSION", 2)
    assert signature.signature(config()) != before


def test_named_seeds_are_independent() -> None:
    draws = [seeds.rng(0, name, i).integers(2**62) for name in ("a", "b") for i in range(3)]
    assert len(set(draws)) == 6
    assert seeds.rng(0, "a", 0).integers(2**62) == draws[0]


# -- size ---


def test_ten_thousand_cells_expand(tmp_path: Path) -> None:
    axes = {
        "lr": {f"lr{i}": {"train.lr": 1e-4 * (i + 1)} for i in range(100)},
        "wd": {f"wd{i}": {"train.weight_decay": 0.01 * i} for i in range(10)},
    }
    grid = plan(write(tmp_path, {**SWEEP, "axes": axes, "seeds": list(range(10))}), "tiny")
    assert len({c.signature for c in grid.cells}) == 10_000


def test_the_sweeps_in_the_readme_are_valid(tmp_path: Path) -> None:
    readme = (ROOT / "README.md").read_text()
    first, second, third = re.findall(r"```yaml\n(.*?)```", readme, re.DOTALL)
    path = write(tmp_path, SWEEP)
    path.write_text(second)
    cells = plan(path, "tiny").cells
    assert len(cells) == 9 and {c.labels["weight"] for c in cells} == {"-", "0.5", "1"}
    ablation = {c.signature for c in plan(ROOT / "sweeps/ablation.yaml", "smoke").cells}
    path = tmp_path / "own" / "order.yaml"  # without scales of its own
    path.parent.mkdir()
    path.write_text(first)
    assert {c.signature for c in plan(path, "smoke").cells} < ablation
    path.write_text(third)
    started = plan(path, "smoke")
    assert len(started.parents) == 1 and {len(c.parents()) for c in started.cells} == {1, 2}


# -- what a scale does for one backbone, and the sweeps of this repository ---


def test_a_scale_adds_to_the_cells_of_one_backbone(tmp_path: Path) -> None:
    scale = {**SCALE, "backbones": {"xvit": {"train.dropout": 0.5, "train.epochs": 7}}}
    base = {"objectives": {"classify": {}}, "train.epochs": 2}
    axes = {"backbone": {n: {"model.name": n} for n in ("timesformer", "xvit")}}
    path = write(tmp_path, {"base": base, "axes": axes}, scale)
    plain, patched = (cell.config.train for cell in plan(path, "tiny").cells)
    assert (plain.dropout, patched.dropout) == (0.0, 0.5)
    assert patched.epochs == 2  # what is compared wins over how big
    over = plan(path, "tiny", ["train.dropout=0.1"]).cells
    assert {cell.config.train.dropout for cell in over} == {0.1}
    everywhere = {"base": {**base, "model.name": "timesformer"}, "axes": {"a": {"x": {}}}}
    moved = plan(write(tmp_path, everywhere, scale), "tiny", ["model.name=xvit"]).cells
    assert [cell.config.train.dropout for cell in moved] == [0.5]


def test_mistakes_in_what_a_scale_adds(tmp_path: Path) -> None:
    scale = {**SCALE, "backbones": {"xvti": {}, "timesformer": {"train.dropuot": 1}, "xvit": [1]}}
    with pytest.raises(Mistakes) as caught:
        plan(write(tmp_path, SWEEP, scale), "tiny")
    text = str(caught.value)
    assert "backbones: unknown backbone 'xvti'; did you mean 'xvit'" in text
    assert "backbones.timesformer.train.dropuot: unknown key; did you mean 'dropout'" in text
    assert "xvit: must map config keys to values" in text


def test_a_sweep_over_images_has_scales_of_its_own(tmp_path: Path) -> None:
    path = write(tmp_path, {**SWEEP, "scales": "image"})
    with pytest.raises(Mistakes, match=r"scales: no such folder .*'image'"):
        plan(path, "tiny")
    (path.parent / "scales/image").mkdir()
    with pytest.raises(Mistakes, match="unknown scale 'tiny'"):
        plan(path, "tiny")
    (path.parent / "scales/tiny.yaml").rename(path.parent / "scales/image/tiny.yaml")
    assert plan(path, "tiny").scale == "tiny"
    with pytest.raises(Mistakes, match="no such folder"):
        plan(write(tmp_path, {**SWEEP, "scales": "../secrets"}), "tiny")


@pytest.mark.parametrize("scale", ["smoke", "mini", "paper"])
def test_the_background_sweeps_can_run_and_differ_in_their_objectives_only(scale: str) -> None:
    cells = cells_of("background", scale) + cells_of("background_options", scale)
    baseline, *others = ({**cell.config.dump(), "objectives": None} for cell in cells)
    assert len(others) == 9 and all(other == baseline for other in others)
    # The training archives have no masks and no empty scenes: these stay in the plan with a reason.
    skipped = [cell.labels["method"] for cell in cells if cell.skip]
    unknown = ["object blacked", "box tiled here", "scene without object"]
    assert skipped == ([f"debias: {name}" for name in unknown] if scale == "paper" else [])


def cells_of(sweep: str, scale: str) -> list[Cell]:
    return list(plan(ROOT / f"sweeps/{sweep}.yaml", scale, ["seeds=[0]"]).cells)


@pytest.mark.parametrize("scale", ["smoke", "mini", "study", "paper"])
def test_backbones_shares_its_timesformers_with_the_ablation(scale: str) -> None:
    ablation = {cell.signature for cell in cells_of("ablation", scale)}
    cells = cells_of("backbones", scale)
    assert [cell.skip for cell in cells] == [None] * 9
    shared = [cell.labels["backbone"] for cell in cells if cell.signature in ablation]
    assert shared == ["TimeSformer"] * 2
    assert [c.config for c in cells_of("compute", scale)] == [c.config for c in cells[:3]]


def test_backbones_follow_the_released_recipe_at_the_paper_scale() -> None:
    """Fact sheet, 1.3: everything is equal but the stochastic depth and X-ViT's dropout."""
    found = {}
    for cell in cells_of("backbones", "paper"):
        if cell.labels["method"] == "baseline, equal compute":
            assert (cell.config.train.epochs, cell.config.train.milestones) == (70, (40, 60))
            continue
        train, clip = cell.config.train, cell.config.input
        found[cell.labels["backbone"]] = (cell.config.model.config.drop_path, train.dropout)
        assert (train.lr, train.weight_decay, train.batch, train.epochs) == (1e-4, 0.05, 64, 35)
        assert (train.schedule, train.milestones, train.gamma) == ("step", (20, 30), 0.1)
        assert (train.amsgrad, train.warmup_epochs, train.clip_grad) == (True, 0.0, None)
        assert (clip.frames, clip.size, clip.eval_crops, clip.eval_scale) == (8, 224, 3, 1.0)
        assert [224 * edge for edge in clip.jitter] == pytest.approx([256, 320])
        assert clip.rand_augment == "rand-m20-mstd0.5-inc1"
        assert all(part.config.weight == 1 for part in cell.config.objectives.values())
    assert found == {"TimeSformer": (0.1, 0.0), "Motionformer": (0.2, 0.0), "X-ViT": (0.0, 0.5)}


@pytest.mark.parametrize("scale", ["smoke", "mini", "paper"])
@pytest.mark.parametrize(("demo", "whole"), [("demo", "ablation"), ("demo_images", "background")])
def test_the_demo_is_the_ends_of_an_ablation(demo: str, whole: str, scale: str) -> None:
    def asked(sweep: str) -> dict[str, tuple[str, tuple[str, ...]]]:
        return {
            cell.labels["method"]: (cell.signature, signature.asked_of(cell.config))
            for cell in cells_of(sweep, scale)
        }

    ends = asked(demo)
    assert list(ends) == ["baseline", "+ TIME"]
    assert ends == {method: asked(whole)[method] for method in ends}


def test_study_starts_from_the_image_model_of_mini() -> None:
    parents = [plan(ROOT / "sweeps/demo.yaml", scale).parents for scale in ("mini", "study")]
    assert [[parent.signature for parent in found] for found in parents] == [
        [parents[0][0].signature]
    ] * 2


@pytest.mark.parametrize("scale", ["smoke", "mini", "paper"])
def test_sensitivity_changes_one_thing_at_a_time(scale: str) -> None:
    cells = cells_of("sensitivity", scale)
    skipped = {cell.labels["variant"] for cell in cells if cell.skip}
    small = scale != "paper"  # flow is left out there, and its weight is of nothing
    assert len(cells) == 15 and skipped == (
        {f"flow weight: {w}" for w in (0.3, 3)} if small else set()
    )
    cells = [cell for cell in cells if not cell.skip]
    (released,) = (cell for cell in cells if cell.labels["variant"] == "as released")
    for cell in cells:
        changes = signature.drift(released.config.dump(), cell.config)
        expected = 0 if cell is released or cell.labels["method"] == "baseline" else 1
        if (cell.labels["method"], cell.labels["frames"]) != ("baseline", "8"):
            assert len(changes) == max(expected, cell.labels["frames"] != "8"), cell.labels
    if scale != "smoke":  # there clips have 4 frames
        ablation = {cell.signature for cell in cells_of("ablation", scale)}
        assert sum(cell.signature in ablation for cell in cells) == 2


# -- resources of each cell ---


RESOURCES: dict[str, Any] = {
    "base": {"objectives": {"classify": {}}, "resources.slurm.qos": "base"},
    "resources": {"devices": 2},
    "axes": {
        "backbone": {
            "small": {"model.name": "timesformer"},
            "large": {"model.name": "xvit", "resources": {"devices": 4, "slurm.time": 60}},
        }
    },
}
RESOURCE_SCALE = {
    **SCALE,
    "resources": {"threads": 3, "devices": 1, "slurm": {"time": 600, "partition": "gpu"}},
    "backbones": {"xvit": {"resources.threads": 5}},
}


def test_each_cell_has_its_own_resources(tmp_path: Path) -> None:
    path = write(tmp_path, RESOURCES, RESOURCE_SCALE)
    small, large = plan(path, "tiny").cells
    found = [
        (c.resources.threads, c.resources.devices, c.resources.slurm.time) for c in (small, large)
    ]
    assert found == [(3, 2, 600), (5, 4, 60)]
    assert {(c.resources.slurm.partition, c.resources.slurm.qos) for c in (small, large)} == {
        ("gpu", "base")
    }
    over = plan(path, "tiny", ["resources.threads=7", "resources.slurm.time=9"])
    assert {(c.resources.threads, c.resources.slurm.time) for c in over.cells} == {(7, 9)}
    assert [c.signature for c in over.cells] == [small.signature, large.signature]
    assert over.name == plan(path, "tiny").name


def test_mistakes_in_resources_are_located(tmp_path: Path) -> None:
    axes = {
        "backbone": {"small": {"model.name": "timesformer", "resources.devces": 2}},
        "a": {"x": {"resources": {"nodes": 2}}, "y": {"resources.pack": "two"}},
        "b": {"z": {"resources.nodes": 3}},
    }
    sweep = {**RESOURCES, "axes": axes, "resources": {"treads": 1}}
    scale = {**RESOURCE_SCALE, "backbones": {"timesformer": {"resources.slurm.tim": 1}}}
    with pytest.raises(Mistakes) as caught:
        plan(write(tmp_path, sweep, scale), "tiny")
    text = str(caught.value)
    for part in (
        "axes.backbone.small.resources.devces: unknown key; did you mean 'devices'",
        "axes.a and axes.b both write resources.nodes",
        "sweep.yaml: resources.treads: unknown key; did you mean 'threads'",
        "backbones.timesformer.resources.slurm.tim: unknown key",
        "axes.a.y.resources.pack: Input should be a valid integer",
    ):
        assert part in text, f"{part}\n\n{text}"


def test_a_sweep_elsewhere_takes_the_scales_of_the_suite(tmp_path: Path) -> None:
    path = tmp_path / "winner.yaml"
    path.write_text((ROOT / "sweeps/ablation.yaml").read_text())
    assert plan(path, "smoke").cells == plan(ROOT / "sweeps/ablation.yaml", "smoke").cells
    path.write_text((ROOT / "sweeps/background.yaml").read_text())
    assert plan(path, "smoke").cells == plan(ROOT / "sweeps/background.yaml", "smoke").cells


def test_a_search_is_no_sweep_but_gives_single_cells(tmp_path: Path) -> None:
    document = {"base": SWEEP["base"], "search": {"trials": 3}, "seeds": [4, 5]}
    with pytest.raises(Mistakes, match=r"this is a search: python -m bench\.tune .*sweep\.yaml"):
        plan(write(tmp_path, document), "tiny")
    set_ = ["train.epochs=3", "resources.threads=2"]
    recipe = read(write(tmp_path, document), "tiny", set_, [])
    assert recipe.document["search"] == {"trials": 3} and recipe.seeds == (4, 5)
    point = Layer("trial 7", {"train": {"lr": 1e-2}})
    cell = recipe.cell({"trial": "7"}, [point])
    assert (cell.config.train.lr, cell.config.train.epochs, cell.seed) == (1e-2, 3, 4)
    assert cell.resources.threads == 2 and cell.labels == {"trial": "7"}
    by_axes = {**SWEEP, "axes": {"lr": {"x": {"train.lr": 1e-2}}}, "seeds": [4]}
    (same,) = plan(write(tmp_path, by_axes), "tiny", ["train.epochs=3"]).cells
    assert same.signature == cell.signature
    assert recipe.cell({}, [point], seed=5).signature != cell.signature
    with pytest.raises(Mistakes, match=r"trial 8\.train\.lr: .*greater than 0"):
        recipe.cell({}, [Layer("trial 8", {"train": {"lr": -1.0}})])
    with pytest.raises(Mistakes, match=r"--set train\.epochs: is written by trial 9"):
        recipe.cell({}, [Layer("trial 9", {"train": {"epochs": 1}})])


def test_sweeps_of_the_suite_have_names_in_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cells = plan(ROOT / "sweeps/ablation.yaml", "smoke").cells
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ablation").mkdir()  # a folder is no sweep
    for name in ("ablation", "ablation.yaml", "sweeps/ablation.yaml"):
        named = plan(Path(name), "smoke")
        assert (named.cells, named.sweep) == (cells, "ablation")
    for name in ("ablatoin", "sweeps/ablatoin.yaml"):
        with pytest.raises(Mistakes, match=r"no such file, .* did you mean 'ablation'"):
            plan(Path(name), "smoke")
    with pytest.raises(Mistakes, match=r"elsewhere/ablation.yaml: cannot be read"):
        plan(Path("elsewhere/ablation.yaml"), "smoke")
    (tmp_path / "ablation.yaml").write_text((ROOT / "sweeps/backbones.yaml").read_text())
    assert plan(Path("ablation.yaml"), "smoke").cells != cells


def test_own_folders_have_sweeps_and_scales(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their sweeps take the suite's scales, and the suite's sweeps take theirs."""
    (tmp_path / "sweeps/scales/image").mkdir(parents=True)
    (tmp_path / "sweeps/mine.yaml").write_text((ROOT / "sweeps/background.yaml").read_text())
    scale = (ROOT / "sweeps/scales/image/smoke.yaml").read_text()
    (tmp_path / "sweeps/scales/image/tiny.yaml").write_text(scale)
    monkeypatch.setenv("BENCH_COMPONENTS", str(tmp_path))
    cells = plan(ROOT / "sweeps/background.yaml", "smoke").cells
    for sweep in ("mine", "background", tmp_path / "sweeps/mine.yaml"):
        for name in ("smoke", "tiny"):
            assert plan(Path(sweep), name).cells == cells
    with pytest.raises(Mistakes, match=r"unknown scale 'tiny'.*mini, paper, smoke, study"):
        plan(Path("ablation"), "tiny")
    for twice in ("ablation.yaml", "scales/image/paper.yaml"):
        (tmp_path / "sweeps" / twice).write_text(scale)
    found = rf"exists twice, rename one: {ROOT}/sweeps/\S+ and {tmp_path}/sweeps/"
    for sweep, name in (("ablation", "smoke"), ("background", "paper")):
        with pytest.raises(Mistakes, match=found):
            plan(Path(sweep), name)


def test_the_paper_scale_of_images_has_deits_smoothing_and_optimiser() -> None:
    for cell in cells_of("background", "paper"):
        assert cell.config.objectives["classify"].config.smoothing == 0.1
        assert not cell.config.train.amsgrad
    assert all(cell.config.train.amsgrad for cell in cells_of("ablation", "paper"))
