"""What README and the examples claim is run: a claim that does not hold fails here."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from truing import plugins
from truing.recipe import load_recipe

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def run_python(*arguments: str, folder: Path) -> str:
    found = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, cwd=folder, timeout=900, env=os.environ
    )
    assert found.returncode == 0, found.stderr
    return found.stdout


@pytest.mark.slow
@pytest.mark.parametrize("name", ["grpo_from_scratch", "dpo_from_scratch"])
def test_an_example_learns_what_it_says(name: str, tmp_path: Path) -> None:
    printed = run_python(str(ROOT / "examples" / f"{name}.py"), folder=tmp_path)
    before, after = (
        float(x) for x in re.findall(r"^pass rate after .*?([\d.]+)% \+-", printed, re.MULTILINE)
    )
    assert before < 65 and after > 90, printed


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.py")), ids=lambda p: p.stem)
def test_an_example_is_flat_and_short(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 250
    modules = [n.module or "" for n in ast.walk(ast.parse(text)) if isinstance(n, ast.ImportFrom)]
    assert not any(m.startswith("truing") for m in modules)


RECIPES = sorted(p for p in (ROOT / "recipes").rglob("*.toml") if p.parent.name != "search")


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_a_recipe_is_valid(path: Path) -> None:
    assert load_recipe(path).stages


def test_what_the_documents_say_of_the_methods_is_what_the_code_says() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "docs" / "generate.py"), "--check"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    listed = re.findall(r"^\| \[`(\w+)`\]", README, re.MULTILINE)
    assert sorted(listed) == plugins.names("algorithms")


@pytest.mark.slow
def test_the_python_of_the_readme_runs(tmp_path: Path) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    script = tmp_path / "readme.py"
    script.write_text(block, encoding="utf-8")
    loss = float(run_python(str(script), folder=tmp_path).split()[0])
    assert 0 < loss < 0.75  # it starts at ln 2


def test_the_loop_is_under_sixty_lines() -> None:
    assert len((ROOT / "truing" / "train" / "loop.py").read_text(encoding="utf-8").splitlines()) < 60


def test_links_in_the_documents_lead_somewhere() -> None:
    for document in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")):
        for target in re.findall(r"\]\(([^)#:]+)\)", document.read_text(encoding="utf-8")):
            assert (document.parent / target).exists(), f"{document.name}: {target}"
