"""What a run was computed with: commit, versions, device. Goes to env.json, so that numbers can be
traced.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import sysconfig
import time
from pathlib import Path
from typing import Any

import torch

from bench.store.snapshot import code_version

_PACKAGES = ("torch", "timm", "numpy", "opencv-python-headless", "webdataset", "submitit", "optuna")


def describe(
    device: torch.device, *, threads: int, compiled: bool = False, world: int = 1
) -> dict[str, Any]:
    """JSON for env.json. `compiled`: whether torch.compile was used in training; `world`: processes
    that trained together, each on a device like this one.
    """
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    return {
        "code": code_version(),
        "versions": {"python": platform.python_version(), **package_versions()},
        "device": {
            "type": device.type,
            "name": name,
            "threads": threads,
            "compiled": compiled,
            "world": world,
        },
        "host": platform.node(),
        "pid": os.getpid(),
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "deterministic": device.type == "cpu",
    }


def compile_problem(device: torch.device) -> str | None:
    """Why torch.compile cannot work here and what to do about it, or None."""
    variable, default = ("CC", "gcc") if device.type == "cuda" else ("CXX", "g++")
    compiler = (os.environ.get(variable) or default).split()[0]
    if shutil.which(compiler) is None:
        return (
            f"torch.compile needs a C++ compiler and there is no {compiler!r} on this machine; "
            f"install one, name it in {variable}, or train without compiling"
        )
    if not (Path(sysconfig.get_path("include")) / "Python.h").is_file():
        return (
            "torch.compile needs Python's headers and there is no Python.h on this machine; "
            "install them (python3-dev, python3-devel), or train without compiling"
        )
    if device.type == "cuda" and importlib.util.find_spec("triton") is None:
        return "torch.compile needs triton on a GPU; install it, or train without compiling"
    return None


def _processor() -> str:
    """The CPU's name, e.g. AMD EPYC 9654."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return (names and names[0]) or platform.processor() or platform.machine()


def package_versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
