"""Something-Something-v2 and Kinetics-400 where they lie: told from any other labelled videos, with their subsets."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.data.access import open_data
from bench.data.sources import kinetics400, ssv2

SSV2 = tuple((ssv2.TEMPORAL | ssv2.STATIC).get(i, f"Doing something {i:03d}") for i in range(174))
K400 = tuple(sorted({*kinetics400.TEMPORAL, *kinetics400.STATIC, *(f"x {i}" for i in range(336))}))


def something(root: Path, scheme: str, annotations: str, classes: tuple[str, ...] = SSV2) -> Path:
    """One video of every class; nothing here decodes."""
    videos, labels = root / "20bn-something-something-v2", root / annotations
    videos.mkdir(parents=True)
    labels.mkdir(exist_ok=True)
    items = [{"id": str(i), "label": "x", "template": name} for i, name in enumerate(classes)]
    for item in items:
        (videos / f"{item['id']}.webm").write_bytes(b"x")
    ids = {name: str(i) for i, name in enumerate(classes)}
    (labels / scheme.format("labels")).write_text(json.dumps(ids))
    (labels / scheme.format("validation")).write_text(json.dumps(items))
    return labels / scheme.format("validation")


@pytest.mark.parametrize("scheme", ["{}.json", "something-something-v2-{}.json"])
@pytest.mark.parametrize("annotations", ["labels", "."])
def test_something_something_brings_its_subsets(
    tmp_path: Path, scheme: str, annotations: str
) -> None:
    path = something(tmp_path, scheme, annotations)
    for data in (path, tmp_path):
        found = open_data(data)
        assert (found.spec.name, found.splits) == ("ssv2", ("val",))
        assert found.spec.classes == SSV2 and found.spec.subsets == ssv2.SUBSETS
        samples = found.open("val")
        assert set(samples.keys) == {str(i) for i in range(174)}
        assert [samples.keys[i] for i in range(174)] == [str(label) for label in samples.labels]


def test_annotations_of_other_classes_are_any_videos(tmp_path: Path) -> None:
    path = something(tmp_path, "{}.json", "labels", SSV2[:20])
    found = open_data(path)
    assert found.spec.name == "videos/labels/validation.json" and found.spec.subsets == {}
    assert found.spec.classes == SSV2[:20]


@pytest.mark.parametrize("split", [".", "val"])
def test_kinetics_brings_its_subsets(tmp_path: Path, split: str) -> None:
    for name in K400:
        folder = tmp_path / split / name.replace(" ", "_")
        folder.mkdir(parents=True)
        (folder / "clip_000001_000011.mp4").write_bytes(b"x")
    found = open_data(tmp_path)
    assert found.spec.name == "kinetics400" and found.spec.classes == K400
    assert [K400[i] for i in found.spec.subsets["static"]] == sorted(kinetics400.STATIC)
    (tmp_path / split / "yoga/clip_000001_000011.mp4").unlink()
    (tmp_path / split / "yoga").rmdir()
    assert open_data(tmp_path).spec.name == f"videos/{tmp_path.name}"
