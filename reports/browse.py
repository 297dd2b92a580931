"""What the page can be asked about the runs behind its numbers, as one JSON document in the page.

Between `bench.results.facts` and `templates/page.js`. Each run is there once, with what of its config differs
between the runs of its setting; what all share is there once.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from bench import results
from bench.results import RunFacts
from bench.shown.inert import printable
from reports.index import distinct

AT_LENGTH = 300
"""With more runs their curves and logs stay where they are: a page is no archive."""
MOST = 3_000
"""With more, nothing is told of single runs."""


def runs(frame: pd.DataFrame) -> dict[str, Any]:
    """By signature what is known of each finished run of a setting."""
    done = distinct(frame, ["sweep", "scale", "seed", "signature", "run_dir", "state", "overrides"])
    done = done[(done["state"] == "DONE") & (done["sweep"] != results.EVALUATED)]
    done = done[done["run_dir"].astype(str) != ""]
    done = done.assign(run=done["run_dir"].map(lambda path: str(results.run_of(str(path)))))
    done = done.drop_duplicates("signature").sort_values("signature")
    if done.empty or len(done) > MOST:
        return {}
    at_length = len(done) <= AT_LENGTH
    known = {
        str(path): results.run_facts(str(path), at_length=at_length)
        for path in done["run"].unique()
    }
    config = _differing([found.config for found in known.values()])
    return {
        str(run["signature"]): _told(run, known[str(run["run"])], config)
        for run in done.to_dict("records")
    }


def _differing(configs: Sequence[Mapping[str, str]]) -> frozenset[str]:
    """The keys whose values are not the same in all runs; a seed is said anyway."""
    keys = {key for config in configs for key in config}
    return frozenset(k for k in keys if len({config.get(k) for config in configs}) > 1) - {"seed"}


def _told(run: Mapping[Any, Any], found: RunFacts, keys: frozenset[str]) -> dict[str, Any]:
    about = found.about
    code, device = about.get("code") or {}, about.get("device") or {}
    commit = str(code.get("commit") or "unknown")[:12]
    told = {
        "seed": int(run["seed"]),
        "sweep": str(run["sweep"]),
        "config": {key: found.config[key] for key in sorted(keys) if key in found.config},
        "code": commit + (", with changes" if code.get("dirty") else ""),
        "device": f"{device.get('name', 'unknown')} ({device.get('type', '?')})",
        "started": str(about.get("started", "")),
        "seconds": round(float((about.get("seconds") or {}).get("train", 0))),
        "again": f"python -m bench.sweep sweeps/{run['sweep']}.yaml --scale {run['scale']}{_set(run['overrides'])}",
        "loss": found.loss,
        "validation": found.validation,
        "log": [printable(line) for line in found.log],
    }
    return {key: value for key, value in told.items() if value not in ((), [], "", {})}


def _set(overrides: object) -> str:
    try:
        pairs = json.loads(str(overrides) or "{}").items()
    except ValueError:
        return ""
    return "".join(f" --set '{k}={v if isinstance(v, str) else json.dumps(v)}'" for k, v in pairs)


def made(told: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Of `runs`: what made these numbers, when and in which time."""
    found = told.values()
    days = sorted(run["started"][:10] for run in found if run.get("started"))
    hours = sum(run.get("seconds", 0) for run in found) / 3600
    lines = [
        ("Code", ", ".join(sorted({run["code"] for run in found}))),
        ("Device", ", ".join(sorted({run["device"] for run in found}))),
        ("Trained", " to ".join(dict.fromkeys((days[0], days[-1]))) if days else ""),
        ("In", f"{hours:.1f} hours of training in all" if hours else ""),
        ("Again", "; ".join(sorted({run["again"] for run in found}))),
    ]
    return [(name, text) for name, text in lines if text]


def embedded(told: Mapping[str, Any]) -> str:
    """The document; nothing in it ends a script or is markup."""
    text = json.dumps(told, ensure_ascii=True, separators=(",", ":"), sort_keys=True)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
