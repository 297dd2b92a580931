"""The results cut into settings: what may stand in one table. Between `bench.results` and `reports.made`."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass

import pandas as pd

from bench import results
from bench.results.long_frame import categorical
from reports import stats
from reports.index import distinct


@dataclass(frozen=True)
class Setting:
    """The results that may stand in one table: one scale, one set of overrides."""

    scale: str
    overrides: str
    frame: pd.DataFrame

    @property
    def changes(self) -> str:
        """The overrides as they are typed: `--set` key=value pairs, or as stored if not JSON."""
        try:
            pairs = json.loads(self.overrides or "{}").items()
        except (ValueError, AttributeError):
            return self.overrides
        return ", ".join(
            f"{key}={value if isinstance(value, str) else json.dumps(value)}"
            for key, value in pairs
        )

    @property
    def has_sweeps(self) -> bool:
        """Whether any of it was planned; else it is models that were evaluated without a run."""
        return bool((self.frame["sweep"] != results.EVALUATED).any())

    @property
    def title(self) -> str:
        size = f"scale {self.scale}" if self.has_sweeps else "evaluated models"
        return size + (f", {self.changes}" if self.changes else "")

    @property
    def folder(self) -> str:
        """A folder name that is safe everywhere and different for different settings."""
        full = self.scale + (f"__{self.changes}".replace(", ", "__") if self.changes else "")
        safe = re.sub(r"[^A-Za-z0-9._=+-]+", "_", full).strip("._")[:80]
        if safe == full:
            return safe
        return f"{safe}-{hashlib.sha256(full.encode()).hexdigest()[:8]}"


def settings(frame: pd.DataFrame) -> list[Setting]:
    """The frame cut by scale and overrides, sorted; a scale without overrides comes first.

    Models without a run join every setting that measured their data set. Those of a data set that
    no sweep has measured are a setting of their own, after the others.
    """
    models = frame[frame["sweep"] == results.EVALUATED]
    sweeps = frame[frame["sweep"] != results.EVALUATED]
    found: list[Setting] = []
    joined: set[str] = set()
    cut = distinct(sweeps, ["scale", "overrides"]).itertuples(index=False)
    for scale, overrides in sorted(tuple(map(str, names)) for names in cut):
        part = sweeps[(sweeps["scale"] == scale) & (sweeps["overrides"] == overrides)]
        here = models[models["data"].isin(stats.data_sets(part))]
        joined |= set(here["data"].unique())
        here = here.assign(scale=scale, overrides=overrides)
        both = categorical(pd.concat([part, here], ignore_index=True)) if len(here) else part
        found.append(Setting(scale, overrides, both))
    for data, part in models[~models["data"].isin(joined)].groupby("data", sort=True):
        found.append(Setting(results.EVALUATED, json.dumps({"data": data}), part))
    return found
