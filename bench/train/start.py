"""A model that starts from the weights of another run: `model.init: run:<signature>`.

In the flow: bench.grid puts the signature of the parent into the config, so that it is part of this run's
own; the launcher has the parent trained first; here its backbone's weights go into the new model, once,
before the first step. A checkpoint of this run remembers whose they were (`record`), and so does its
result: a parent that was trained again since is never mixed with what started from it before.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from bench import find
from bench.config.science import FROM_RUN, RunConfig
from bench.models.weights import digest_of_tensors, load_fitted
from bench.store.files import DamagedFile
from bench.store.rundir import RunDir
from bench.train import checkpoint

CLASSIFIER, BACKBONE = "classifier.", "backbone."


def start_from(parent: RunDir, config: RunConfig, backbone: nn.Module) -> dict[str, str]:
    """Load the trained backbone of `parent` into this one; of the same kind as it is, of an image
    model as its `load_image_weights` inflates it. Returns the record: name, file, sha256 of the
    parent's model.

    Raises ValueError where the parent is not trained, kept no weights or does not fit, and DamagedFile
    where its weights are not those of its result.
    """
    result = parent.read_result()
    if result is None:
        raise ValueError(
            f"{parent.path} is not trained, and model.init starts this run from it; `python -m "
            "bench.sweep` of a sweep that has it trains it first"
        )
    try:
        state = checkpoint.read(parent.last)["learner"]
    except FileNotFoundError as error:
        raise ValueError(
            f"{parent.last} is gone (resources.keep), and this run starts from it: `bench.sweep "
            "--retrain` trains it again"
        ) from error
    except (checkpoint.DamagedCheckpoint, KeyError) as error:
        problem = getattr(error, "problem", "it holds no model")
        raise DamagedFile(
            parent.last,
            f"cannot be read: {problem}, and this run starts from it; put a copy of it back, or move {parent.path} "
            "away, and the sweep trains it again",
        ) from error
    model = _under(CLASSIFIER, state)
    digest = digest_of_tensors(model)
    if result.get("weights") not in (None, digest):
        raise DamagedFile(
            parent.last,
            f"does not hold the weights that were trained there; move {parent.path} away, and the sweep trains "
            "it again",
        )
    _load(parent, config, backbone, _under(BACKBONE, model))
    return {"name": f"{FROM_RUN}{parent.signature}", "file": parent.last.name, "sha256": digest}


def _load(parent: RunDir, config: RunConfig, backbone: nn.Module, state: dict[str, Tensor]) -> None:
    of = parent.read_config()["model"]["name"]
    if of == config.model.name:
        load_fitted(backbone, state)
        return
    as_image_weights = find.optional("backbone", of, "as_image_weights")
    inflate = find.optional("backbone", config.model.name, "load_image_weights")
    if as_image_weights is None or inflate is None:
        raise ValueError(f"a {config.model.name} cannot start from the weights of a {of}")
    inflate(backbone, as_image_weights(state))


def _under(prefix: str, state: dict[str, Any]) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): state[key] for key in state if key.startswith(prefix)}
