"""Run folders: numbered, listed with the broken ones, and asked for their model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from truing.errors import ModelError
from truing.runs import is_run, last_model, list_runs, new_folder


def write_run(folder: Path, **record: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    base = {"name": folder.name, "status": "finished", "started": "2026-01-01T00:00:00+00:00", "stages": []}
    (folder / "run.json").write_text(json.dumps({**base, **record}))
    return folder


def test_new_folders_are_numbered(tmp_path: Path) -> None:
    made = [new_folder(tmp_path / "runs", "dpo") for _ in range(3)]
    assert [f.name for f in made] == ["dpo-001", "dpo-002", "dpo-003"] and all(f.is_dir() for f in made)


def test_runs_are_listed_newest_first_with_the_broken_ones(tmp_path: Path) -> None:
    write_run(tmp_path / "old")
    write_run(tmp_path / "new", started="2026-02-01T00:00:00+00:00")
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "run.json").write_text('{"status": ')
    (tmp_path / "listing").mkdir()
    (tmp_path / "listing" / "run.json").write_text('{"stages": [3]}')
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "recipe.toml").write_text("")
    (tmp_path / "unrelated").mkdir()
    (tmp_path / "file.txt").write_text("")
    found = {Path(r["folder"]).name: r for r in list_runs(tmp_path)}
    assert list(found)[:2] == ["new", "old"]
    assert {n for n, r in found.items() if r["status"] == "broken"} == {"damaged", "listing", "begun"}
    assert all(found[n]["problem"] for n in ("damaged", "listing", "begun"))
    assert "unrelated" not in found


def test_no_folder_has_no_runs(tmp_path: Path) -> None:
    assert list_runs(tmp_path / "nowhere") == []


def test_a_run_whose_process_is_gone_is_interrupted(tmp_path: Path) -> None:
    write_run(tmp_path / "dead", status="running", pid=2**22 + 1, process_started=0.0)
    assert list_runs(tmp_path)[0]["status"] == "interrupted"


def test_the_last_model_is_that_of_the_last_finished_stage(tmp_path: Path) -> None:
    run = write_run(tmp_path / "r", stages=[{"name": n, "status": "finished"} for n in ("sft", "grpo")])
    assert is_run(run) and not is_run(tmp_path)
    with pytest.raises(ModelError, match="truing resume"):
        last_model(run)
    (run / "sft" / "model").mkdir(parents=True)
    assert last_model(run) == run / "sft" / "model"
    (run / "grpo" / "model").mkdir(parents=True)
    assert last_model(run) == run / "grpo" / "model"
