"""What a run was computed with: commit, versions, device. Goes to env.json, so that numbers can be
traced.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
import subprocess
import time
from pathlib import Path
from typing import Any

import torch

_PACKAGES = ("torch", "timm", "numpy", "opencv-python-headless", "webdataset", "submitit", "optuna")


def describe(device: torch.device, *, threads: int) -> dict[str, Any]:
    """JSON for env.json."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor()
    return {
        "code": code_version(),
        "versions": {"python": platform.python_version(), **package_versions()},
        "device": {"type": device.type, "name": name or platform.machine(), "threads": threads},
        "host": platform.node(),
        "pid": os.getpid(),
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "deterministic": device.type == "cpu",
    }


def package_versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def code_version() -> dict[str, Any]:
    """Commit, and a digest of the uncommitted changes if there are any."""
    root = Path(__file__).resolve().parent.parent
    commit = _git(root, "rev-parse", "HEAD").strip()
    changes = _git(root, "diff", "HEAD") if commit else ""
    dirty = hashlib.sha256(changes.encode()).hexdigest()[:12] if changes else None
    return {"commit": commit or "unknown", "dirty": dirty}


def _git(root: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments],
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""
