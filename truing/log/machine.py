"""The versions and the machine that a run's figures belong to; nothing that names the host or its user."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import psutil

_PACKAGES = (
    "truing",
    "torch",
    "transformers",
    "peft",
    "datasets",
    "safetensors",
    "tokenizers",
    "math-verify",
)


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that can change a result."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def machine() -> dict[str, Any]:
    """Return platform, usable CPU cores, memory [bytes] and the names of the accelerators."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "platform": f"{platform.system()} {platform.machine()}",
        "cpu_cores": usable,
        "memory_bytes": psutil.virtual_memory().total,
        "accelerators": _accelerators(),
    }


def process_started(pid: int) -> float | None:
    """Return when a process of this machine started [s since 1970], or None where there is none.

    With the pid it tells a run's process from a later one that was given the same number.
    """
    try:
        started: float = psutil.Process(pid).create_time()
    except psutil.NoSuchProcess:
        return None
    return started


def _accelerators() -> list[str]:
    import torch  # takes seconds to import, and reading a run folder does not need it

    return [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
