from __future__ import annotations

import json
from pathlib import Path

import pytest

from truing.ai_feedback.audit import Audit, prompt_hash
from truing.errors import DataError
from truing.types import Message


def test_a_continued_trail_holds_each_record_once(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "audit.jsonl"
    with Audit(path) as audit:
        first = audit.write("compare", model="m", p=0.25)
        assert audit.write("compare", model="m", p=0.75) != first
    path.write_bytes(path.read_bytes() + b'{"id": "cut')
    with Audit(path) as audit:
        assert audit.write("compare", model="m", p=0.25) == first
        audit.write("score", value=3)
    records = [json.loads(line) for line in path.read_text().splitlines()]
    assert [r["action"] for r in records] == ["compare", "compare", "score"]
    assert all(r["time"].startswith("20") for r in records)


def test_another_kind_of_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "x"}\n')
    with pytest.raises(DataError, match="row 1: no 'id'"):
        Audit(path)
    assert path.read_text() == '{"prompt": "x"}\n'


def test_a_prompts_hash_depends_on_roles_and_text() -> None:
    assert prompt_hash([Message("user", "a")]) != prompt_hash([Message("system", "a")])
    assert prompt_hash([Message("user", "a")]) == prompt_hash((Message("user", "a"),))
