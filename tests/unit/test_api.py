"""`truing.run` and `truing.train`: what they check, what they write, and what they hand to the pipeline."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import truing
from truing.config import Recipe
from truing.errors import ConfigError, DataError
from truing.recipe import load_recipe

PAIRS = [{"prompt": "1+1?", "chosen": "2", "rejected": "3"}, {"prompt": "é?", "chosen": "e", "rejected": "a"}]


@pytest.fixture
def started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[Recipe, Path]]]:
    calls: list[tuple[Recipe, Path]] = []

    def start(recipe: Recipe, folder: Path, **_: Any) -> str:
        calls.append((recipe, folder))
        return "the result"

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("truing.api.start", start)
    yield calls


def test_train_writes_rows_into_the_run_folder(started: list[tuple[Recipe, Path]], tmp_path: Path) -> None:
    held_out = [{"prompt": "2+2?", "answer": "4"}]
    result = truing.train(
        "dpo",
        model="a/b",
        data=(row for row in PAIRS),
        epochs=1,
        options={"beta": 0.2},
        evaluation={"data": held_out, "verifier": "math_answer"},
    )
    ((recipe, folder),) = started
    assert result == "the result" and folder == Path("runs/dpo-001")
    (stage,) = recipe.stages
    assert stage.options["beta"] == 0.2 and stage.data.train == str(tmp_path / folder / "data.jsonl")
    written = (folder / "data.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in written] == PAIRS
    assert stage.evaluation is not None and Path(str(stage.evaluation.data)).read_text().count("\n") == 1


@pytest.mark.parametrize(
    "data",
    [
        "pairs.jsonl",
        Path("pairs.jsonl"),
        {"train": "pairs.jsonl", "limit": 3},
        {"train": PAIRS, "limit": 3},
        {"generator": "word_problems", "count": 3},
    ],
)
def test_data_is_a_file_rows_a_table_or_a_generator(started: list[tuple[Recipe, Path]], data: Any) -> None:
    Path("pairs.jsonl").write_text("{}\n")
    truing.train("dpo", model="a/b", data=data, steps=1)
    kept = started[0][0].stages[0].data
    assert kept.limit == (3 if isinstance(data, dict) and "limit" in data else None)


def test_a_wrong_key_leaves_no_folder(started: list[tuple[Recipe, Path]]) -> None:
    with pytest.raises(ConfigError, match=r"did you mean options\.beta") as caught:
        truing.train("dpo", model="a/b", data=PAIRS, epochs=1, beta=0.2)
    assert caught.value.problems[0].where == "truing.train"
    with pytest.raises(ConfigError, match=r"'\.\./x'"):
        truing.train("dpo", model="a/b", data=PAIRS, epochs=1, name="../x")
    assert not started and not list(Path("runs").iterdir()) and not Path("x-001").exists()


def test_a_row_that_is_no_json_is_named(started: list[tuple[Recipe, Path]]) -> None:
    with pytest.raises(DataError, match="row 2"):
        truing.train("dpo", model="a/b", data=[PAIRS[0], {"prompt": object()}], epochs=1)


def test_a_folder_that_held_files_keeps_them(started: list[tuple[Recipe, Path]], tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "note.txt").write_text("keep")
    with pytest.raises(ConfigError):
        truing.train("dpo", model="a/b", data=PAIRS, folder=tmp_path / "mine")
    assert (tmp_path / "mine" / "note.txt").read_text() == "keep"


def test_run_takes_a_file_with_overrides_or_a_checked_recipe(started: list[tuple[Recipe, Path]]) -> None:
    Path("rows.jsonl").write_text("{}\n")
    Path("r.toml").write_text('algorithm = "sft"\nmodel = "a/b"\nepochs = 1\ndata.train = "rows.jsonl"\n')
    truing.run("r.toml", "seed=3", learner={"learning_rate": 1e-4})
    truing.run(load_recipe("r.toml"), folder="here")
    (first, place), (second, here) = started
    assert (first.stages[0].seed, first.stages[0].learner.learning_rate) == (3, 1e-4)
    assert (second.stages[0].seed, place, here) == (0, Path("runs/r-001"), Path("here"))
    with pytest.raises(ConfigError, match="load_recipe"):
        truing.run(second, "seed=3")


def test_importing_truing_is_light() -> None:
    script = (
        "import sys, truing\nfrom truing import run, resume, load_recipe, __version__\n"
        "assert callable(truing.train) and 'torch' not in sys.modules and 'train' in dir(truing)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_train_is_callable_after_its_modules_are_imported() -> None:
    import truing.train.loop

    assert callable(truing.train) and callable(truing.train.loop.train)


def test_what_truing_does_not_have() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nope'"):
        truing.nope  # type: ignore[attr-defined]  # noqa: B018
