"""What each objective has come to: its logged numbers, averaged over the last epoch of a run.

Between the losses of each step (metrics_log.py) and the run's result. An accuracy says nothing without
that of always guessing the commonest label, so both are taken over the same samples. With a_s the
accuracy of step s, p_s the shares of the labels in its batch, and k the commonest label of the epoch,

    accuracy = mean_s a_s,   majority = mean_s p_s[k],   standard_error = std_s(a_s - p_s[k]) / sqrt(S)

(std with ddof = 1). Sums alone are kept, so a run that was interrupted goes on from its checkpoint.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

SHARES = "/shares"


def majority(losses: Mapping[str, Any]) -> dict[str, float]:
    """The losses of a step as they are written: of `shares` their largest, as `majority`."""
    return {
        f"{name.removesuffix(SHARES)}/majority" if name.endswith(SHARES) else name: (
            max(value) if name.endswith(SHARES) else value
        )
        for name, value in losses.items()
    }


class Learned:
    """Sums over the steps from number `since` on. Each step is taken once, in their order."""

    def __init__(self, since: int) -> None:
        self._next, self._steps = since, 0
        self._sums: dict[str, float] = {}
        # a - p of every label, and its square: which label is the commonest is known in the end
        self._ahead: dict[str, list[float]] = {}
        self._squares: dict[str, list[float]] = {}

    def add(self, step: int, losses: Mapping[str, Any]) -> None:
        """The losses of a step over all ranks, `shares` as lists."""
        if step < self._next:
            return
        self._next, self._steps = step + 1, self._steps + 1
        for name, value in losses.items():
            if not name.endswith(SHARES):
                self._sums[name] = self._sums.get(name, 0.0) + value
                continue
            objective = name.removesuffix(SHARES)
            ahead = [losses[f"{objective}/accuracy"] - share for share in value]
            _add(self._ahead, objective, ahead)
            _add(self._squares, objective, [each * each for each in ahead])

    def facts(self) -> dict[str, dict[str, float]]:
        """objective -> {loss, what it logs, majority and standard_error beside an accuracy, steps};
        empty where no step was taken.
        """
        found: dict[str, dict[str, float]] = {}
        for name, total in self._sums.items():
            objective, _, what = name.rpartition("/")
            if objective == "loss":
                objective, what = what, "loss"
            if objective:  # not the total
                found.setdefault(objective, {})[what] = total / self._steps
        for objective, ahead in self._ahead.items():
            mean, error = _least(ahead, self._squares[objective], self._steps)
            found[objective]["majority"] = found[objective]["accuracy"] - mean
            found[objective]["standard_error"] = error
        return {name: {**found[name], "steps": self._steps} for name in sorted(found)}

    # -- checkpoints ---

    def state(self) -> dict[str, Any]:
        return {
            "next": self._next,
            "steps": self._steps,
            "sums": dict(self._sums),
            "ahead": {name: list(values) for name, values in self._ahead.items()},
            "squares": {name: list(values) for name, values in self._squares.items()},
        }

    def resume(self, state: Mapping[str, Any] | None) -> None:
        """None: of a checkpoint that did not have it. The steps before it are then not counted."""
        if state is None:
            return
        self._next, self._steps = state["next"], state["steps"]
        self._sums = dict(state["sums"])
        self._ahead = {name: list(values) for name, values in state["ahead"].items()}
        self._squares = {name: list(values) for name, values in state["squares"].items()}


def _add(sums: dict[str, list[float]], name: str, values: list[float]) -> None:
    before = sums.get(name, [0.0] * len(values))
    sums[name] = [a + b for a, b in zip(before, values, strict=True)]


def _least(sums: list[float], squares: list[float], steps: int) -> tuple[float, float]:
    """The least of the means, which is that of the commonest label, and its standard error."""
    total, square = min(zip(sums, squares, strict=True))
    mean = total / steps
    if steps < 2:
        return mean, 0.0
    variance = max(0.0, square - steps * mean * mean) / (steps - 1)
    return mean, math.sqrt(variance / steps)
