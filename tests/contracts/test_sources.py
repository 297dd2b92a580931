"""The rules of a data set (`bench.task.SourceModule`)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bench import find
from bench.task import DataSpec, Samples

NAMES = find.names("source")


@pytest.mark.parametrize("name", NAMES)
def test_spec_is_consistent(name: str) -> None:
    module = find.load("source", name)
    spec = module.spec(module.Config.tiny())
    assert isinstance(spec, DataSpec), "spec returns a DataSpec"
    assert spec.media in ("video", "image"), "a data set holds videos or images"
    assert len(set(spec.classes)) == spec.num_classes > 1, "at least two classes, none twice"
    assert len(spec.splits) >= 2, "the training split, then at least one that can be evaluated"
    for subset, classes in spec.subsets.items():
        ids = set(classes)
        assert ids <= set(range(spec.num_classes)), f"subset {subset} holds ids of the classes"
        assert len(ids) == len(classes), f"subset {subset} holds no class twice"


@pytest.mark.parametrize("name", NAMES)
def test_what_is_asked_before_a_sweep_touches_no_disk(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    module = find.load("source", name)
    module.spec(module.Config.tiny())
    if missing := find.optional("source", name, "missing"):
        text = missing(module.Config.tiny(), tmp_path)
        assert text is None or "python -m bench.prepare" in text, (
            "missing names the command that gets the data"
        )
    assert list(tmp_path.iterdir()) == [], "spec and missing write nothing"


@pytest.mark.parametrize("name", [n for n in NAMES if find.optional("source", n, "missing")])
def test_data_that_are_missing_are_refused_with_the_remedy(name: str, tmp_path: Path) -> None:
    module = find.load("source", name)
    config = module.Config.tiny()
    if module.missing(config, tmp_path) is None:
        pytest.skip("it makes its data")
    with pytest.raises(ValueError, match=r"python -m bench\.prepare"):
        module.open(config, tmp_path, module.spec(config).splits[0])


@pytest.mark.parametrize("name", [n for n in NAMES if find.optional("source", n, "prepare")])
def test_data_that_prepare_makes_can_be_opened(name: str, tmp_path: Path) -> None:
    module = find.load("source", name)
    config = module.Config.tiny()
    needed = find.optional("source", name, "needed")
    estimate = needed(config, tmp_path) if needed else 0
    module.prepare(config, tmp_path)
    if needed:
        size = sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())
        assert size / 1.5 < estimate < size * 1.5, "needed is about what prepare writes"
        assert needed(config, tmp_path) == 0, "what is there needs no more"
    spec = module.spec(config)
    for split in spec.splits:
        samples = module.open(config, tmp_path, split)
        assert len(samples) == len(samples.keys) == len(samples.labels), "one key and label each"
        assert len(samples) == len(set(samples.keys)), "no key twice"
        assert samples.labels.min() >= 0, "labels are class ids"
        assert samples.labels.max() < spec.num_classes, "labels are class ids"
        check_pixels(samples, spec.layers.get(split, ()))


def check_pixels(samples: Samples, layers: tuple[str, ...]) -> None:
    frames = samples.frames(0, np.array([0, samples.num_frames(0) - 1]))
    assert frames.dtype == np.uint8, "frames are uint8"
    assert frames.shape[0] == 2 and frames.shape[-1] == 3, (
        "as many RGB frames as asked for: T H W 3"
    )
    shape = frames.shape[1:]
    for layer in layers:
        every = list(range(len(samples)))
        assert samples.with_layer(layer).tolist() == every, f"every sample has the layer {layer}"
        picture = samples.layer(0, layer)
        assert picture.dtype == np.uint8, f"{layer} is uint8"
        assert picture.shape in (shape, shape[:2]), (
            f"{layer} is H W 3 or H W, as large as the frame"
        )
