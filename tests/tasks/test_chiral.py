"""Classes that are each other's reversal, on clips of which the truth is known."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from makers import context_of, smoke
from moving import BLIND, QUICK, SEEING, SPEC, Sees, covers_chance, moving_context, numbers
from torch import Tensor, nn

from bench import task
from bench.evaluate.context import run_one
from tasks.video import arrow_of_time, chiral


def test_chiral_pairs_need_order() -> None:
    blind = numbers("video.chiral", chiral.Config(**QUICK), moving_context(BLIND))
    seeing = numbers("video.chiral", chiral.Config(**QUICK), moving_context(SEEING))
    for subset in ("all", "moving right | moving left", "moving up | moving down"):
        assert covers_chance(blind, "both", subset) and blind["both", subset, "accuracy"] == 0.5
        for view in ("original", "reversed", "both"):
            assert seeing[view, subset, "accuracy"] > 0.9 and seeing[view, subset, "ci_low"] > 0.5


def test_what_gives_a_class_away_in_every_frame_is_seen_in_the_reversed_clip() -> None:
    blind = numbers("video.chiral", chiral.Config(**QUICK), moving_context(BLIND, tinted=True))
    assert blind["original", "all", "accuracy"] == 1.0
    assert blind["reversed", "all", "accuracy"] == 0.0
    assert blind["both", "all", "accuracy"] == 0.5 and covers_chance(blind, "both", "all")


HEAD = "verb_forward,verb_reverse,noun_abstract,triplet_id,id_forward,id_reverse,split\n"


def test_pairs_of_a_table(tmp_path: Path) -> None:
    table = tmp_path / "pairs.csv"
    table.write_text(
        f"{HEAD}Moving [up],moving down,thing,0,1,2,train\nMoving up,Moving down,thing,0,1,2,val\n"
    )
    options = chiral.Config(pairs=str(table), **QUICK)
    spec = replace(SPEC, reversals=())
    context = moving_context(SEEING, spec=spec)
    assert chiral.skip(options, context.model_spec, spec) is None
    found = numbers("video.chiral", options, context)
    assert {subset for _, subset, _ in found} == {"moving up | moving down", "all"}
    assert found["both", "all", "accuracy"] > 0.9
    assert "reversal" in (chiral.skip(chiral.Config(), context.model_spec, spec) or "")


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (None, ["cannot be read"]),
        ("verb_forward,other\na,b\n", ["lacks the columns verb_reverse", "verb_forward, other"]),
        (HEAD, ["names no pair"]),
        (f"{HEAD}Moving up,Moving [up]\nMoving up\n", ["line 2: 'Moving up' and", "line 3:"]),
    ],
)
def test_a_wrong_table_is_refused_before_any_work(
    text: str | None, wanted: list[str], tmp_path: Path
) -> None:
    table = tmp_path / "pairs.csv"
    if text is not None:
        table.write_text(text)
    context = moving_context(SEEING)
    reason = chiral.skip(chiral.Config(pairs=str(table)), context.model_spec, SPEC) or ""
    assert str(table) in reason and all(part in reason for part in wanted)


def test_classes_that_the_data_do_not_have_are_all_named(tmp_path: Path) -> None:
    table = tmp_path / "pairs.csv"
    table.write_text(f"{HEAD}Moving up,Moving aside\nMoving left,Lying about\n")
    with pytest.raises(ValueError, match=r"(?s)line 2.*'Moving aside'.*line 3.*'Lying about'"):
        chiral.run(chiral.Config(pairs=str(table)), moving_context(SEEING))


class EachFrameAlone(nn.Module):
    """A `task.Model` of random features of single frames, averaged over time."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, 32, kernel_size=4, stride=4)

    @property
    def backbone(self) -> Any:
        return self

    def stages(self, clip_BTCHW: Tensor) -> Generator[Tensor, None, task.Features]:
        features = self.embed(clip_BTCHW.flatten(0, 1)).relu().flatten(2).mT
        tokens_BTND = features.unflatten(0, clip_BTCHW.shape[:2])
        yield tokens_BTND
        return task.Features(tokens_BTND.mean(dim=(1, 2)), tokens_BTND)


def test_on_the_built_in_data_a_model_of_single_frames_is_at_chance(data_dir: Path) -> None:
    """Whatever scene a class has at home."""
    context = replace(context_of(smoke(), data_dir), model=EachFrameAlone().eval())
    for name, view in (("video.arrow_of_time", "direction"), ("video.chiral", "both")):
        module = arrow_of_time if view == "direction" else chiral
        found = [
            row for row in run_one(name, module.Config(**QUICK), context) if row["view"] == view
        ]
        assert {row["split"] for row in found} == {"tune", "test", "test_unbiased"}
        for row in found:
            if row["metric"] == "accuracy":
                assert row["value"] == 0.5, row
            assert row["metric"] != "ci_low" or row["value"] <= 0.5
            assert row["metric"] != "ci_high" or row["value"] >= 0.5


def test_features_are_shared_by_all_probes() -> None:
    shown: list[int] = []

    class Counting(Sees):
        def stages(self, clip_BTCHW: Tensor) -> Generator[Tensor, None, task.Features]:
            shown.append(len(clip_BTCHW))
            return super().stages(clip_BTCHW)

    context = moving_context(Counting(order=True))
    numbers("video.arrow_of_time", arrow_of_time.Config(**QUICK), context)
    used = sum(shown)
    assert used == 2 * (100 + 60) * 3 // 5  # both orders of the classes that are asked
    numbers("video.chiral", chiral.Config(**QUICK), context)
    assert sum(shown) == used + (40 + 2 * 24)  # of the other classes, training clips as filmed
    before = sum(shown)
    numbers("video.chiral", chiral.Config(**QUICK), context)
    assert sum(shown) == before


def test_without_an_order_it_is_skipped() -> None:
    context, images = moving_context(SEEING), replace(SPEC, media="image")
    single = replace(context.model_spec, frames=1)
    for model, spec in ((context.model_spec, images), (single, SPEC)):
        assert "no frames" in (chiral.skip(chiral.Config(), model, spec) or "")
    assert chiral.skip(chiral.Config(), context.model_spec, SPEC) is None


def test_another_table_is_another_measurement(tmp_path: Path) -> None:
    table = tmp_path / "pairs.csv"
    table.write_text("verb_forward,verb_reverse\na,b\n")
    asked = chiral.Config(pairs=str(table))
    table.write_text("verb_forward,verb_reverse\na,c\n")
    assert chiral.Config(pairs=str(table)).pairs_sha256 != asked.pairs_sha256 != ""
    with pytest.raises(ValueError, match="not the table that was asked for"):
        chiral.Config(**asked.model_dump())
    assert chiral.Config().model_dump()["pairs_sha256"] == ""
