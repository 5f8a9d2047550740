"""The runs of a comparison: recipes over seeds, at one budget; what is finished is not run again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from truing import api
from truing.compare.budget import Budget, affordable_steps, pilot, with_steps
from truing.compare.trials import Trial, read_trial
from truing.config import Recipe
from truing.errors import ConfigError, MismatchError, NonFiniteError, VerifierError
from truing.log import read_run
from truing.recipe import load_recipe, resolved
from truing.runs import is_run

_EVALUATIONS = 4  # along the last stage, where the recipe does not say
_DIVERGED = (NonFiniteError, MismatchError, VerifierError)


@dataclass(frozen=True, slots=True)
class Failure:
    """A run that broke while it trained: a finding about its method, beside the runs that did not."""

    name: str
    seed: int
    folder: Path
    message: str


def trials_of_recipe(
    recipe: Recipe, folder: Path, *, seeds: int, budget: Budget | None, say: Callable[[str], None],
    argv: Sequence[str], quiet: bool,
) -> tuple[list[Trial], list[Failure]]:  # fmt: skip
    """Return the trials of a recipe, one a seed, run where they are not finished yet.

    Args:
        recipe: its last stage has an evaluation.
        folder: holds `seed-N` for each seed and, with a budget, `pilot`.
        seeds: how many; they are added to the recipe's own.
        budget: None runs the recipe for as long as it says.
        say: told what is done next.
        argv: the command, for the runs' records.
        quiet: no progress on the terminal.

    Raises:
        ConfigError: the folder holds runs of another recipe, or the budget does not pay for a step.
    """
    measured = _measured(recipe, folder)
    if budget is not None:
        trying = pilot(measured)
        say(f"{recipe.name}: a pilot of {trying.stages[-1].steps} steps, for what a step costs")
        _finish(trying, folder / "pilot", argv, quiet)
        steps = affordable_steps(trying, folder / "pilot", budget)
        measured = _paced(measured, steps)
        say(f"{recipe.name}: {budget} pay for {steps} steps")
    trials, failures = list[Trial](), list[Failure]()
    for seed in range(seeds):
        place = folder / f"seed-{seed}"
        say(f"{recipe.name}: seed {seed + 1} of {seeds}")
        try:
            _finish(_seeded(measured, seed), place, argv, quiet)
        except _DIVERGED as error:
            failures.append(Failure(recipe.name, seed, place, f"{type(error).__name__}: {error}"))
        else:
            trials.append(read_trial(place))
    return trials, failures


def load(path: Path) -> Recipe:
    """Return the recipe of a file, refused where nothing would measure what it trains.

    Raises:
        ConfigError: the recipe is wrong, or its last stage has no evaluation.
    """
    recipe = load_recipe(path)
    if recipe.stages[-1].evaluation is None:
        raise ConfigError(
            f"{path}: stage '{recipe.stages[-1].name}' has no [evaluation], so there is nothing to compare: "
            "add one, the same in every recipe"
        )
    return recipe


def _measured(recipe: Recipe, folder: Path) -> Recipe:
    """Return the recipe with what a comparison needs: points along the way and, at temperature 1, the KL."""
    last = recipe.stages[-1]
    evaluation = last.evaluation
    assert evaluation is not None
    sampled = evaluation.temperature == 1 and (last.sampler is None or last.sampler.temperature == 1)
    changes: dict[str, Any] = {"kl": evaluation.kl or sampled}
    stage = last.model_copy(update={"evaluation": evaluation.model_copy(update=changes)})
    stages = [*recipe.stages[:-1], stage]
    whole = recipe.model_copy(update={"output": str(folder), "stages": stages})
    return _paced(whole, last.steps) if last.steps is not None else whole


def _paced(recipe: Recipe, steps: int) -> Recipe:
    """Return the recipe with so many steps in its last stage, and evaluations spread over them."""
    last = with_steps(recipe.stages[-1], steps)
    evaluation = last.evaluation
    if evaluation is not None and (evaluation.every is None or evaluation.every >= steps):
        every = max(1, round(steps / _EVALUATIONS))
        last = last.model_copy(update={"evaluation": evaluation.model_copy(update={"every": every})})
    return recipe.model_copy(update={"stages": [*recipe.stages[:-1], last]})


def _seeded(recipe: Recipe, seed: int) -> Recipe:
    stages = [s.model_copy(update={"seed": s.seed + seed}) for s in recipe.stages]
    return recipe.model_copy(update={"stages": stages})


def _finish(recipe: Recipe, folder: Path, argv: Sequence[str], quiet: bool) -> None:
    """Run the recipe in the folder, continue what was interrupted there, or leave what is finished."""
    if not is_run(folder):
        api.start(recipe, folder, argv=argv, quiet=quiet)
        return
    if (folder / "recipe.toml").read_text(encoding="utf-8") != resolved(recipe):
        raise ConfigError(
            f"{folder} holds a run of another recipe, budget or option than this comparison's: "
            "choose another --output, or remove the folder"
        )
    if read_run(folder)["status"] != "finished":
        api.resume(folder, quiet=quiet)
