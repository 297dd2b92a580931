"""What a result must hold, as pydantic models: of a run's training, of an evaluation of it, of a model
without a run. `bench.store.result_files` asks them; they know no file.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class ResultShape(BaseModel):
    """What any result must hold. Values are checked, not converted."""

    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=True)


class ModelRowShape(ResultShape):
    """One measured number; of a model without a run, whose evaluation is said once, beside the rows."""

    split: str
    view: str
    subset: str
    metric: str
    value: float | None
    n: int
    n_failed: int = 0


class RowShape(ModelRowShape):
    """A number of a run."""

    evaluation: str


class TrainingShape(ResultShape):
    """`result.json` of a run; with `rows` where it was made when training and evaluations had one."""

    data_digest: str
    rows: list[RowShape] = []


class EvaluationShape(ResultShape):
    """`evaluations/<name>-<digest>/result.json` of a run."""

    evaluation: str
    data: str
    data_digest: str
    provenance: str
    rows: list[RowShape]


class ModelShape(ResultShape):
    """`evaluated/<slug>.json`: of a model without a run."""

    model: str
    official: bool
    made_by: dict[str, object]
    evaluation: str
    data: str
    data_digest: str
    provenance: str
    rows: list[ModelRowShape]


class ManifestCellShape(ResultShape):
    """A cell of a sweep. One of before there were two identities does not say its evaluations."""

    labels: dict[str, str]
    seed: int
    signature: str
    evaluations: dict[str, str] | None = None
    skip: str | None
    left_out: dict[str, str] = {}
    stale: str | None = None
    data: str


class ManifestShape(ResultShape):
    """`sweeps/<sweep>.json`: which labels belong to which directories."""

    sweep: str
    scale: str
    overrides: dict[str, object]
    cells: list[ManifestCellShape]


class TrialShape(ResultShape):
    """One trial of a search."""

    number: int
    state: str
    params: dict[str, object]
    value: float | None
    intermediate: dict[str, float]


class SearchShape(ResultShape):
    """`tune/<study>/trials.json`"""

    study: str
    scale: str
    overrides: dict[str, object]
    metric: str
    direction: str
    best: int | None
    importances: dict[str, float]
    trials: list[TrialShape]
