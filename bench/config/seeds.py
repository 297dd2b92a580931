"""Named random seeds: each use of randomness has its own stream."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np


def seed(*names: Any) -> int:
    """A 128-bit seed as a pure function of its names, e.g. seed(run_seed, "order", epoch).

    Naming each use of randomness keeps draws independent of one another: a new use shifts no
    existing one.
    """
    text = "\x1f".join(str(name) for name in names)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], "little")


def rng(*names: Any) -> np.random.Generator:
    """A generator seeded by `seed(*names)`."""
    return np.random.Generator(np.random.Philox(key=seed(*names)))
