"""The library's front door: `truing.run`, `truing.train`, `truing.resume`, `truing.sample`."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from truing.config import NAME, Recipe
from truing.errors import ConfigError, DataError
from truing.recipe import load_recipe, recipe_from_dict
from truing.recipe.build import default_name
from truing.runs import is_run, last_model, new_folder

if TYPE_CHECKING:
    from truing.train.pipeline import RunResult

Rows = Iterable[Mapping[str, Any]]


def run(
    recipe: str | Path | Recipe, *overrides: str, folder: str | Path | None = None, **keys: Any
) -> RunResult:
    """Run a recipe and return its folder, metrics and policy.

    Args:
        recipe: the path of a TOML file, or a checked recipe.
        overrides: `key=value`, as on the command line: "stages.grpo.steps=10".
        folder: the run folder; left out, a new one below the recipe's `output`.
        keys: the same as Python values: steps=10, learner={"learning_rate": 1e-6}; tables are merged,
            None removes a key.

    Raises:
        ConfigError: the recipe is wrong; nothing was loaded yet.
    """
    if isinstance(recipe, Recipe):
        if overrides or keys:
            raise ConfigError("a checked Recipe takes no overrides: give them to load_recipe")
    else:
        recipe = load_recipe(recipe, overrides, keys=keys)
    return start(recipe, _folder(folder) or new_folder(recipe.output, recipe.name))


def train(
    algorithm: str,
    *,
    model: str | Path,
    data: str | Path | Rows | Mapping[str, Any],
    name: str | None = None,
    output: str | Path = "runs",
    folder: str | Path | None = None,
    **keys: Any,
) -> RunResult:
    """Train one stage and return its folder, metrics and policy.

        run = truing.train("dpo", model="smollm2-135m-instruct", data=pairs, epochs=1)
        print(run.policy.generate("What is 3 + 4?"))

    Args:
        algorithm: a name in truing/algorithms/, a dotted path or a path to a .py file.
        model: a folder, a hub id or a built-in alias.
        data: a file, a list of rows (kept in the run folder), a generator's table, or the whole
            [data] table. The same goes for `evaluation["data"]`, of course without the last.
        name: of the run; the algorithm's when left out.
        keys: any other key of a stage: steps, options, learner, sampler, rewards, evaluation, ...

    Raises:
        ConfigError: a key is wrong; nothing was loaded yet.
        DataError: a row cannot be written as JSON.
    """
    label = name if name is not None and re.fullmatch(NAME, name) else default_name(algorithm)
    place = _folder(folder) or new_folder(output, label)
    is_new = not place.is_dir() or not any(place.iterdir())
    recipe = {"name": name, "output": str(output), "algorithm": algorithm, "model": str(model), **keys}
    try:
        recipe["data"] = _data(data, place / "data.jsonl")
        held_out = keys.get("evaluation")
        if isinstance(held_out, Mapping) and "data" in held_out:
            source = _source(held_out["data"], place / "evaluation.jsonl")
            recipe["evaluation"] = {**held_out, "data": source}
        checked = recipe_from_dict(recipe, source="truing.train")
    except (ConfigError, DataError):
        if is_new:
            shutil.rmtree(place, ignore_errors=True)
        raise
    return start(checked, place)


def resume(folder: str | Path, *, quiet: bool = False) -> RunResult:
    """Continue a run at its newest sound checkpoint, and return it when it is finished."""
    from truing.train import pipeline

    return pipeline.resume(Path(folder), quiet=quiet)


def sample(
    model: str | Path,
    *,
    data: str | Path | Mapping[str, Any],
    out: str | Path,
    verifier: str | None = None,
    kind: str = "completions",
    group_size: int = 4,
    max_tokens: int = 256,
    temperature: float = 1.0,
    say: Callable[[str], None] | None = None,
    keys: Mapping[str, Any] | None = None,
    **options: Any,
) -> list[dict[str, Any]]:
    """Sample a policy on prompts, score what it says, write rows to a .jsonl file and return them.

        truing.sample("runs/grpo-001", data="prompts.jsonl", verifier="math_answer", kind="pairs",
                      out="fresh.jsonl", old_rows="feedback.jsonl")

    Each row bears its source: model, seed, temperature, what scored it, date; and the rewards.

    Args:
        model: a run folder (its last model), a folder, a hub id or a built-in alias.
        data: a file of prompts, or a generator's table.
        out: the file to write; what it held is replaced.
        verifier: what scores completions; more terms, or a reward model, are given in `keys`.
        kind: "completions", "demonstrations", "pairs", "unpaired" or "rankings".
        group_size: completions of each prompt.
        max_tokens: of a completion.
        temperature: of the sampling.
        say: told how far it is, and what became of the completions.
        keys: other keys of the stage: seed, dtype, batch_size, rewards, reward_model, data, ...
        options: of the rows: pairs, min_gap, threshold, old_rows.

    Raises:
        ConfigError: a key is wrong; nothing was loaded yet.
        DataError: no prompt gave a row.
    """
    from truing.train.sample import drawing, provenance, sample_once

    folder = Path(model).expanduser()
    name = str(last_model(folder)) if is_run(folder) else str(model)
    stage: dict[str, Any] = {
        "model": name,
        "data": {"train": data if isinstance(data, Mapping) else str(data)},
        "sample": {"kind": kind, **options},
        "sampler": {"group_size": group_size, "max_tokens": max_tokens, "temperature": temperature},
        "rewards": {} if verifier is None else {"verifier": {"verifier": verifier}},
    }
    (checked,) = recipe_from_dict(stage, source="truing.sample", keys=keys or {}).stages
    drawn = drawing(checked, model=checked.model, reward_model=checked.reward_model)
    return sample_once(drawn, Path(out), provenance(checked, checked.model), say or (lambda text: None))


def start(
    recipe: Recipe, folder: Path, *, argv: Sequence[str] | None = None, quiet: bool = False
) -> RunResult:
    """Run a checked recipe in a folder. This is where torch is imported."""
    from truing.train import pipeline

    return pipeline.run(recipe, folder=folder, argv=argv, quiet=quiet)


def _folder(folder: str | Path | None) -> Path | None:
    return None if folder is None else Path(folder)


def _data(data: Any, path: Path) -> dict[str, Any]:
    if isinstance(data, Mapping) and "generator" not in data:
        return {**data, "train": _source(data["train"], path)} if "train" in data else dict(data)
    return {"train": _source(data, path)}


def _source(data: Any, path: Path) -> Any:
    """Return what a recipe can name: a path, or a generator's table. Rows are written to `path` first."""
    if isinstance(data, str | Path):
        return str(data)
    if isinstance(data, Mapping) or not isinstance(data, Iterable):
        return data
    lines = list[str]()
    for number, row in enumerate(data, start=1):
        try:
            lines.append(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")
        except (TypeError, ValueError) as error:
            raise DataError(f"data, row {number}: cannot be written as JSON: {error}") from error
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(lines), encoding="utf-8")
    return str(path.absolute())
