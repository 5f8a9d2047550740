"""The machine: what it is, in words that name no host, and how fast it multiplies matrices."""

from __future__ import annotations

import os
import platform
import time
from importlib.metadata import version
from pathlib import Path

import psutil
import torch

from benchmarks.gate import Gate, Stop
from benchmarks.work import Dimensions

# (m, k, n): a large square one, and the widest products of SmolLM2-135M's layers and head
_SHAPES = ((2048, 2048, 2048), (2048, 576, 1536), (2048, 1536, 576), (1024, 576, 8192))
_SECONDS = 0.25  # for each shape


def run(gate: Gate, dtype: torch.dtype) -> None:
    """Serve steps that measure the matmul rate: the best of the shapes [FLOP/s]."""
    gate.ready(Dimensions(1, 1, 1, 1, 1, 1, 1))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    while True:
        try:
            gate.wait()
        except Stop:
            return
        gate.done(rate=max(_rate(*shape, dtype, device) for shape in _SHAPES))


def _rate(m: int, k: int, n: int, dtype: torch.dtype, device: str) -> float:
    left, right = torch.randn(m, k, device=device).to(dtype), torch.randn(k, n, device=device).to(dtype)
    out = left @ right
    started, times = time.perf_counter(), []
    while time.perf_counter() - started < _SECONDS:
        before = time.perf_counter()
        torch.mm(left, right, out=out)
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - before)
    times.sort()
    return 2 * m * k * n / times[len(times) // 2]


def facts() -> dict[str, str]:
    """Return what a reader needs to place the numbers."""
    model = "unknown CPU"
    info = Path("/proc/cpuinfo")
    if info.is_file():
        lines = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        model = lines[0].split(":")[1].strip() if lines else model
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    found = {
        "CPU": f"{model}, {os.cpu_count()} cores, {torch.backends.cpu.get_cpu_capability()}"
        + (", AMX bfloat16" if torch.cpu._is_amx_tile_supported() else ""),
        "GPU": gpu,
        "memory": f"{psutil.virtual_memory().total / 2**30:.0f} GiB",
        "system": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
    }
    return found | {name: version(name) for name in ("torch", "transformers", "trl", "truing")}
