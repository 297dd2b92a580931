"""The rules of an adapter (`bench.models.named.AdapterModule`); tests/models/adapters has more."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch

from bench import find
from bench.models.named import FLAGS, AdapterModule, Asked, NamedModel

NAMES = find.names("adapter")
WITH_EXAMPLE = [name for name in NAMES if find.optional("adapter", name, "example")]


@cache
def example(name: str) -> NamedModel:
    adapter: AdapterModule = find.load("adapter", name)
    torch.manual_seed(0)
    with TemporaryDirectory() as folder:
        try:
            written = adapter.example(Path(folder))
        except ValueError as error:
            assert "pip install" in str(error), "example fails only where a library is missing"
            pytest.skip(str(error))
        return adapter.load(written, Asked())


def clip_for(made: NamedModel) -> torch.Tensor:
    torch.manual_seed(1)
    return torch.randn(2, made.input.frames, 3, made.input.size, made.input.size)


@pytest.mark.parametrize("name", NAMES)
def test_the_help_can_say_what_it_takes(name: str) -> None:
    adapter: AdapterModule = find.load("adapter", name)
    assert adapter.FORM and "\n" not in adapter.FORM, "FORM is one line"
    options = find.optional("adapter", name, "OPTIONS")
    assert set(options) <= FLAGS.keys(), f"OPTIONS are of {', '.join(FLAGS)}"


@pytest.mark.parametrize("name", NAMES)
def test_what_is_not_there_is_refused_and_nothing_written(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="no_such_model"):
        find.load("adapter", name).load("no_such_model", Asked(weights=tmp_path))
    assert list(tmp_path.iterdir()) == [], "load writes nothing"


@pytest.mark.parametrize("name", WITH_EXAMPLE)
@torch.no_grad()
def test_its_example_classifies_clips(name: str) -> None:
    made = example(name)
    logits_BK = made.model(clip_for(made))
    assert not made.model.training, "load returns a model in eval mode"
    assert logits_BK.shape == (2, made.num_classes), "the model gives logits_BK of clips B T C H W"
    assert logits_BK.isfinite().all(), "logits are numbers"
    assert torch.equal(made.model(clip_for(made)), logits_BK), "the same clip, the same logits"
    assert not torch.equal(logits_BK[0], logits_BK[1]), "other clips, other logits"
    assert made.class_names is None or len(set(made.class_names)) == made.num_classes, (
        "class_names are as many as logits, none twice"
    )
    assert json.loads(json.dumps(made.made_by)), "made_by says where the model comes from, in JSON"


@pytest.mark.parametrize("name", WITH_EXAMPLE)
@torch.no_grad()
def test_features_are_those_of_its_logits_or_refused_with_the_reason(name: str) -> None:
    made = example(name)
    clip = clip_for(made)
    try:
        features = made.model.encode(clip)
    except ValueError as error:
        assert len(str(error)) > 20, "encode says why there are no features"
        return
    torch.testing.assert_close(made.model.classify(features), made.model(clip))
    times = made.input.frames // getattr(made.model.backbone, "tubelet", 1)
    assert features.tokens_BTND.shape[:2] == (2, times), "tokens_BTND: frames / tubelet"
    stages = list(made.model.backbone.stages(clip))
    assert stages and all(stage.ndim == 4 for stage in stages), "stages yields tokens_BTND"
    assert all(stage.shape[:2] == (2, times) for stage in stages), "stages: frames / tubelet"
