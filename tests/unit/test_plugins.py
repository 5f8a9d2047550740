"""The look-up by module name: found, refused with the nearest name, and configured without torch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from truing import plugins
from truing.errors import PluginError

MINE = '''
"""A method of one's own."""
from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field, model_validator

from truing.config import DataKind, Options


class Config(Options):
    data: ClassVar[DataKind] = "pairs"
    learning_rate: ClassVar[tuple[float, float]] = (1e-6, 1e-5)
    beta: float = Field(0.1, gt=0)
    kind: Literal["a", "b"] = "a"

    @model_validator(mode="after")
    def _check(self) -> Config:
        if self.kind == "b" and self.beta > 1:
            raise ValueError("b needs a beta of 1 or less")
        return self

    def needs(self) -> frozenset[str]:
        return frozenset({"logprobs", "ref_logprobs"})


MARK = torch.ones(1)
'''


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(MINE)
    return path


def test_the_names_are_the_module_names() -> None:
    found = plugins.names("algorithms")
    assert {"sft", "dpo", "grpo"} <= set(found) and found == sorted(found)
    assert not [n for n in found if n.startswith("_")]


def test_a_name_a_dotted_path_and_a_file_are_found(mine: Path) -> None:
    assert plugins.find("algorithms", "dpo") == plugins.find("algorithms", "truing.algorithms.dpo")
    assert plugins.find("algorithms", str(mine)) == ("truing_user.algorithms.mine", mine)
    assert plugins.load("algorithms", str(mine)).MARK.item() == 1
    assert plugins.load("algorithms", str(mine)) is plugins.load("algorithms", str(mine))


def test_two_files_of_one_name_are_two_plugins(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "same.py").write_text(f"NAME = '{folder}'\n")
    loaded = [plugins.load("verifiers", str(tmp_path / f / "same.py")).NAME for f in ("a", "b", "a")]
    assert loaded == ["a", "b", "a"]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("dpoo", "Did you mean 'dpo'"),
        ("", "Known: "),
        ("_pairs", "unknown name"),
        ("a/b", "unknown name"),
        ("a\x00b", "unknown name"),
        ("no_package.no_module", "cannot import"),
        ("truing.algorithms.none", "no such module"),
        (".relative", "cannot import"),
        ("..", "cannot import"),
        ("../model/load", "cannot import"),
        ("missing.py", "no such file"),
    ],
)
def test_what_is_not_there_is_a_plugin_error(name: str, says: str) -> None:
    with pytest.raises(PluginError, match=says):
        plugins.find("algorithms", name)


@pytest.mark.parametrize(
    ("text", "says"),
    [("x = 1\n", "no Config class"), ("def :\n", "cannot read"), ("Config = 3\n", "no Config")],
)
def test_a_file_that_is_no_plugin(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "odd.py").write_text(text)
    with pytest.raises(PluginError, match=says):
        plugins.config_class("algorithms", str(tmp_path / "odd.py"))


def test_a_config_with_deferred_annotations_checks_its_options(mine: Path) -> None:
    config = plugins.config_class("algorithms", str(mine))
    assert config(beta=0.5, kind="b").needs() == {"logprobs", "ref_logprobs"}
    with pytest.raises(ValueError, match="beta of 1 or less"):
        config(beta=2.0, kind="b")
    with pytest.raises(ValueError, match="Extra inputs"):
        config(gamma=1)


def test_a_config_that_uses_the_module_is_taken_from_the_module(tmp_path: Path) -> None:
    path = tmp_path / "leaning.py"
    path.write_text(
        "from truing.config import Strict\nLIMIT = 3\nclass Config(Strict):\n    n: int = LIMIT\n"
    )
    config = plugins.config_class("verifiers", str(path))
    assert config().n == 3 and config is plugins.load("verifiers", str(path)).Config


@pytest.mark.parametrize("folder", ["algorithms", "verifiers"])
def test_every_built_in_config_is_read_without_torch(folder: str) -> None:
    script = (
        "import sys\nfrom truing import plugins\n"
        f"found = {{n: plugins.config_class({folder!r}, n) for n in plugins.names({folder!r})}}\n"
        "assert found and all(c.__pydantic_complete__ for c in found.values())\n"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=dict(os.environ)
    )
    assert done.returncode == 0, done.stderr
