"""Which logit of a model is which class of the data: by name, never by position where there are names.

    class names of the model (its own files, or --labels FILE) + classes of the data
        -> `match`: order of the logits, and how it was found -> `labelled`: the model in the data's order

Names are compared without case, accents, brackets, underscores and other signs ("Pushing [something]
from left to right", "pushing_something_from_left_to_right"), then without numbers in front of them
("00_dog") and through a few known aliases. What agrees as a set is permuted before anything is
recorded; what does not is refused with the names.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bench import task
from bench.config.signature import digest
from bench.models.named import NamedModel

BY_POSITION = "by position, unverified"
SHOWN = 6  # names of a message
# Other spellings of one class, without signs: ImageNet-9's short names, Kinetics' "barbequing".
ALIASES = {
    "vehicle": "wheeledvehicle",
    "instrument": "musicalinstrument",
    "barbecuing": "barbequing",
}


class Relabelled(nn.Module):
    """A `bench.task.Model` whose logits are put into the order of the data's classes."""

    def __init__(self, model: nn.Module, order: Sequence[int]) -> None:
        super().__init__()
        self.model: Any = model
        self.order: Tensor
        self.register_buffer("order", torch.tensor(order), persistent=False)

    @property
    def backbone(self) -> Any:
        return self.model.backbone

    def encode(self, clip_BTCHW: Tensor, *, positions: bool = True) -> task.Features:
        return self.model.encode(clip_BTCHW, positions=positions)

    def classify(self, features: task.Features) -> Tensor:
        return self.model.classify(features)[..., self.order]

    def forward(self, clip_BTCHW: Tensor) -> Tensor:
        return self.model(clip_BTCHW)[..., self.order]


def labelled(
    named: NamedModel, spec: task.DataSpec, *, mapped: Sequence[int] = (), file: Path | None = None
) -> NamedModel:
    """The model with its logits in the order of the data's classes; `made_by` says how they were
    matched.

    `mapped` are numbers of outputs that the evaluation maps to the data's classes itself; `file` has
    the names of the model's classes and counts before its own. Raises ValueError with the names that
    do not match; without any names the number of classes alone is left to the caller to compare.
    """
    if named.num_classes in mapped and named.num_classes != spec.num_classes:
        if file:
            raise ValueError(
                f"--labels {file}: the evaluation maps a model's {named.num_classes} outputs itself; "
                "leave it out"
            )
        return _noted(named, "by the evaluation's own mapping")
    names = read_names(file, named.num_classes) if file else named.class_names
    if names is None:
        return _noted(named, BY_POSITION)
    try:
        order, how = match(names, spec.classes)
    except ValueError as error:
        whose = f"--labels {file}" if file else "the model's class names"
        raise ValueError(f"{whose} and those of the data ({spec.name}): {error}") from error
    found = _noted(named, f"{how}{f', from {file.name}' if file else ''}")
    if order == tuple(range(len(order))):
        return found
    return replace(found, model=Relabelled(named.model, order).eval())


def _noted(named: NamedModel, how: str) -> NamedModel:
    return replace(named, made_by={**named.made_by, "labels": how})


def match(model: Sequence[str], data: Sequence[str]) -> tuple[tuple[int, ...], str]:
    """(for each class of the data its place among the model's, how they were matched). ValueError
    with the names when they do not agree as sets, or two of one side are the same.
    """
    if tuple(model) == tuple(data):
        return tuple(range(len(data))), "by name: the same, in the same order"
    for read, aside in (
        (_plain, "signs and case aside"),
        (_canonical, "numbers and aliases aside"),
    ):
        ours, theirs = [read(name) for name in data], [read(name) for name in model]
        if len(set(ours)) == len(ours) and sorted(ours) == sorted(theirs):
            order = tuple(theirs.index(name) for name in ours)
            moved = sum(place != number for number, place in enumerate(order))
            where = f"{moved} of {len(order)} logits moved (order {digest(list(order))[:8]})"
            return order, f"by name ({aside}): {where if moved else 'in the same order'}"
    raise ValueError(_difference(model, data))


def _plain(name: str) -> str:
    """Letters and digits alone, without case and accents."""
    letters = unicodedata.normalize("NFKD", name).casefold()
    return "".join(letter for letter in letters if letter.isalnum())


def _canonical(name: str) -> str:
    plain = _plain(re.sub(r"^\s*\d+[\s_.:-]+", "", name))
    return ALIASES.get(plain, plain)


def _difference(model: Sequence[str], data: Sequence[str]) -> str:
    """Everything that keeps two lists of names from being matched, and the remedy."""
    theirs, ours = ({_canonical(name): name for name in names} for names in (model, data))
    only_model = [name for key, name in theirs.items() if key not in ours]
    only_data = [name for key, name in ours.items() if key not in theirs]
    said = [f"{len(model)} and {len(data)} classes"] if len(model) != len(data) else []
    said += [f"only the model has {_listed(only_model)}"] if only_model else []
    said += [f"only the data have {_listed(only_data)}"] if only_data else []
    for whose, names in (("the model", model), ("the data", data)):
        counts = Counter(map(_canonical, names))
        if twice := [name for name in names if counts[_canonical(name)] > 1]:
            said.append(f"{whose} has more than one class called {_listed(twice)}")
    return (
        f"{'; '.join(said)}. Take the data that the model was trained for; if only the names differ, "
        "give them as the data have them, in the order of the model's logits, with --labels FILE"
    )


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{', '.join(map(repr, names[:SHOWN]))}{more}"


# --labels FILE ---


def read_names(file: Path, count: int) -> tuple[str, ...]:
    """The names of `count` classes in the order of the logits: a line each, or JSON: a list,
    {"0": name}, {name: 0}, or a config.json with id2label. ValueError with all that is wrong.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"--labels {file} cannot be read: {error}") from error
    if text.lstrip().startswith(("{", "[")):
        try:
            names = _from_json(json.loads(text))
        except ValueError as error:
            raise ValueError(f"--labels {file}: {error}") from error
    else:
        names = [line.strip() for line in text.splitlines() if line.strip()]
    if len(names) != count:
        raise ValueError(f"--labels {file} names {len(names)} classes, the model has {count}")
    return tuple(names)


def _from_json(loaded: Any) -> list[str]:
    if isinstance(loaded, Mapping) and isinstance(loaded.get("id2label"), Mapping):
        loaded = loaded["id2label"]
    if isinstance(loaded, Mapping):
        pairs = [(str(key), str(value)) for key, value in loaded.items()]
        if not all(key.isdecimal() for key, _ in pairs):
            pairs = [(value, key) for key, value in pairs]
        numbered = {int(key): name for key, name in pairs if key.isdecimal()}
        if numbered.keys() == set(range(len(pairs))):
            return [numbered[number] for number in range(len(pairs))]
    elif isinstance(loaded, list) and all(isinstance(name, str) for name in loaded):
        return loaded
    raise ValueError(
        "wanted a list of names, or names with the numbers 0, 1, ... of their classes, each once"
    )
