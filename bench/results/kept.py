"""What a run kept beside its numbers: predictions and pictures of its evaluations, its objectives.

A file of rows (`rows_file`) knows the objectives and the subsets of its runs, but has no pictures and no
predictions: who asks for those of a run that kept some gets OnlyNumbers.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image
from pyarrow import parquet

from bench.results.rows_file import OnlyNumbers, facts_of
from bench.store.evaluations import EvaluationDir
from bench.store.files import DamagedFile
from bench.store.rundir import RunDir

_REMEDY = "delete the result beside it and run the same again: only this is measured anew"

PREDICTIONS = ("evaluation", "split", "view", "key", "label", "top5", "confidence", "logits")


def predictions(run_dir: str | Path) -> pd.DataFrame:
    """What was predicted for each sample: PREDICTIONS; `top5` are class ids, best first, `logits` of all
    classes in half precision; `attrs` has the `classes`, `subsets` and `reversals` of the data (results of
    before they were kept lack both).

    Empty where nothing was kept. Raises DamagedFile for a file that is not what was kept.
    """
    if (facts := facts_of(run_dir)) and facts.get("predictions"):
        raise _only_numbers(run_dir)
    folder = EvaluationDir(Path(run_dir))
    path = folder.predictions
    if not path.exists():
        return pd.DataFrame(columns=list(PREDICTIONS))
    with _reading(folder, path):
        return pd.read_parquet(path)


def subsets(run_dir: str | Path) -> Mapping[str, tuple[str, ...]]:
    """The names of the classes of each subset of the data, as they are kept beside predictions; empty
    where none are. Raises DamagedFile as `predictions` does.
    """
    if (facts := facts_of(run_dir)) is not None:
        return {name: tuple(classes) for name, classes in facts.get("subsets", {}).items()}
    folder = EvaluationDir(Path(run_dir))
    if not folder.predictions.exists():
        return {}
    with _reading(folder, folder.predictions):
        found = parquet.read_schema(folder.predictions).metadata or {}
    about = json.loads(found.get(b"PANDAS_ATTRS", b"{}"))  # what pandas keeps `attrs` in
    return {
        name: tuple(about["classes"][k] for k in ids)
        for name, ids in about.get("subsets", {}).items()
    }


def objectives(run_dir: str | Path) -> Mapping[str, Mapping[str, Any]]:
    """The losses that a run was trained with, by name, with their options as its config has them; empty
    for models without a run, and where the config is damaged, which the run's own row says.
    """
    path = Path(run_dir)  # of an evaluation, or of a run of before these had folders
    run = RunDir(path.parent.parent if path.parent.name == "evaluations" else path)
    if (facts := facts_of(run.path)) is not None:
        return facts.get("config", {}).get("objectives") or {}
    try:
        return (run.read_config().get("objectives") or {}) if run.config.exists() else {}
    except DamagedFile:
        return {}


def pictures(run_dir: str | Path, evaluation: str) -> tuple[str, ...]:
    """The names of the pictures that an evaluation kept, sorted; as `picture` takes them."""
    if (facts := facts_of(run_dir)) and evaluation in facts.get("pictures", ()):
        raise _only_numbers(run_dir)
    folder = _picture_folder(run_dir, evaluation)
    return tuple(
        sorted(
            path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.png")
        )
    )


def picture(run_dir: str | Path, evaluation: str, name: str) -> np.ndarray | None:
    """uint8 H W 3 (RGB), or None where there is no such picture.

    Raises DamagedFile for a file that is not what was kept.
    """
    if (facts := facts_of(run_dir)) and evaluation in facts.get("pictures", ()):
        raise _only_numbers(run_dir)
    # Not with_suffix: a name may have dots of its own.
    path = _picture_folder(run_dir, evaluation) / f"{name}.png"
    if not path.exists():
        return None
    with _reading(EvaluationDir(Path(run_dir)), path), Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


@contextmanager
def _reading(folder: EvaluationDir, path: Path) -> Iterator[None]:
    """Of a file that an evaluation kept: whatever is wrong with it is a DamagedFile that says what to do."""
    try:
        folder.refuse_damage(path)
        yield
    except DamagedFile as error:
        raise DamagedFile(path, f"{error.why}; {_REMEDY}") from error
    # pyarrow's errors are ValueErrors, some of Pillow's SyntaxErrors
    except (OSError, ValueError, SyntaxError) as error:
        raise DamagedFile(path, f"is not readable ({error}); {_REMEDY}") from error


def _picture_folder(run_dir: str | Path, evaluation: str) -> Path:
    return EvaluationDir(Path(run_dir)).pictures / evaluation


def _only_numbers(run_dir: str | Path) -> OnlyNumbers:
    """Of a run in a file of rows."""
    return OnlyNumbers(next(path for path in Path(run_dir).parents if path.is_file()))
