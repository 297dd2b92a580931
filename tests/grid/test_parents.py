"""`model.init: {cell: ...}`: the plan knows what a cell starts from, and its signature says so."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.config.mistakes import Mistakes
from bench.grid.plan import Plan, plan

SWEEP = """title: From other cells
cells:
  image ViT:
    data: {{name: mini_imagenet9, train: 18, val: 9, test: 18, size: 24}}
    input: {{frames: 1, size: 24}}
    model: {{name: vit{vit}}}
    objectives: {{classify: {{}}}}
    train: {{epochs: 1, batch: 9}}{more}
base:
  objectives: {{classify: {{}}}}
axes:
  backbone:
    TimeSformer: {{model.name: timesformer}}
    X-ViT: {{model.name: xvit}}
  start:
    random: {{}}
    image: {{model.init: {{cell: {named}}}}}
    longer: {{model.init: {{cell: {{start: random}}}}}}
seeds: [0, 1]
"""


def planned(
    folder: Path, *settings: str, vit: str = "", more: str = "", named: str = "image ViT"
) -> Plan:
    path = folder / "parents.yaml"
    path.write_text(SWEEP.format(vit=vit, more=more, named=named))
    return plan(path, "smoke", settings)


def test_a_named_cell_is_shared_and_one_of_the_sweep_is_of_the_same_seed(tmp_path: Path) -> None:
    grid = planned(tmp_path)
    [image] = grid.parents
    assert image.config.data.name == "mini_imagenet9" and image.labels["backbone"] == "image ViT"
    cells = {(*c.labels.values(), c.seed): c for c in grid.cells}
    for backbone in ("TimeSformer", "X-ViT"):
        for seed in (0, 1):
            random, started = (cells[backbone, s, seed] for s in ("random", "longer"))
            assert random.parent is None and random.config.parent is None
            assert started.parent is not None and started.config.parent == random.signature
            assert cells[backbone, "image", seed].parents() == [image]
            assert cells[backbone, "image", seed].config.parent == image.signature
    assert len({c.signature for c in grid.cells}) == len(grid.cells) == 12


def test_the_signature_of_the_parent_is_in_that_of_what_starts_from_it(tmp_path: Path) -> None:
    before = planned(tmp_path)
    after = planned(tmp_path, vit=", init_std: 0.1")
    same = {c.signature for c in before.cells} & {c.signature for c in after.cells}
    assert same == {c.signature for c in before.cells if c.labels["start"] != "image"}


def test_a_parent_has_the_sizes_of_what_starts_from_it(tmp_path: Path) -> None:
    [image] = planned(tmp_path, "model.dim=32").parents
    assert image.config.model.config.dim == 32 and image.config.model.config.patch == 8
    with pytest.raises(Mistakes, match=r"model\.dim is 16, and 24 in the cell that it starts from"):
        planned(tmp_path, vit=", dim: 24")


def test_resources_are_those_of_the_sweep(tmp_path: Path) -> None:
    [image] = planned(tmp_path, "resources.threads=3", more="\n    resources: {workers: 2}").parents
    assert (image.resources.threads, image.resources.workers) == (3, 2)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"named": "image VT"}, r"unknown cell 'image VT'.*image ViT"),
        ({"named": "{start: rndom}"}, "no such label of the sweep: start: rndom"),
        ({"named": "{start: image}"}, "start: image starts from itself"),
        ({"named": "3"}, "must be a name from `cells`"),
        ({"vit": ", dimm: 3"}, r"cells.image ViT.model.dimm.*dim"),
        ({"vit": ", init: {cell: image ViT}"}, "image ViT starts from itself"),
        ({"more": "\n    nonsense: 1"}, r"nonsense: unknown key"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, changes: dict[str, str], said: str) -> None:
    with pytest.raises(Mistakes, match=said):
        planned(tmp_path, **changes)


def test_what_cannot_start_from_another_is_a_mistake(tmp_path: Path) -> None:
    text = SWEEP.format(vit="", more="", named="image ViT")
    path = tmp_path / "kinds.yaml"
    path.write_text(text.replace("{start: random}", "{backbone: TimeSformer, start: random}"))
    with pytest.raises(
        Mistakes, match="only a timesformer can start from a timesformer, not a xvit"
    ):
        plan(path, "smoke")


@pytest.mark.parametrize("init", ["run:12", "run:", "run:0123456789abcdeg"])
def test_a_signature_is_16_hex_digits(tmp_path: Path, init: str) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(
        "base: {objectives: {classify: {}}, model: {name: timesformer}}\n"
        f"axes: {{start: {{one: {{model.init: '{init}'}}}}}}\n"
    )
    with pytest.raises(Mistakes, match="16 hex digits"):
        plan(path, "smoke")
