"""What docs/judges.md says holds."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from truing import judges
from truing.recipe import recipe_from_dict

DOC = (Path(__file__).parents[3] / "docs" / "judges.md").read_text(encoding="utf-8")


def test_every_judge_is_listed():
    assert sorted(re.findall(r"^\| `(\w+)` \| (?:one|two)", DOC, re.MULTILINE)) == judges.names()


def test_the_recipe_is_valid(tmp_path):
    (text,) = re.findall(r"```toml\n(.*?)```", DOC, re.DOTALL)
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "hi"}\n')
    table = tomllib.loads(text) | {"data": {"train": str(tmp_path / "prompts.jsonl")}}
    assert recipe_from_dict(table, source="docs/judges.md").stages[0].rewards["quality"].judge == "pointwise"


def test_the_python_runs(endpoint):
    (text,) = re.findall(r"```python\n(.*?)```", DOC, re.DOTALL)
    found: dict[str, object] = {}
    exec(text.replace("http://127.0.0.1:8000/v1", endpoint.url), found)
    assert found["replies"][0].text == endpoint.answer  # type: ignore[index]


def test_the_number_of_attacks_is_the_tests():
    source = (Path(__file__).parent / "test_injection.py").read_text(encoding="utf-8")
    attacks = source.partition("ATTACKS = {")[2].partition("\n}")[0]
    count = len(re.findall(r'^    "', attacks, re.MULTILINE))
    assert f"hold {count} attacks" in DOC
