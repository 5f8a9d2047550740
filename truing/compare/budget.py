"""A budget of compute, and how many steps of a recipe it pays for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from truing.compare.trials import UNITS, Unit, unit_text, usage
from truing.config import Recipe, Stage
from truing.errors import ConfigError, DataError
from truing.log import read_metrics

PILOT_STEPS = 4


@dataclass(frozen=True, slots=True)
class Budget:
    """How much of one unit each run may use, from its first stage on."""

    unit: Unit
    amount: float

    def __str__(self) -> str:
        return f"{self.amount:,.4g} {unit_text(self.unit)}"


def parse_budget(text: str) -> Budget:
    """Return the budget of `tokens=2e5`, `flops=1e15` or `seconds=3600`.

    Raises:
        ConfigError: the text is none of these.
    """
    unit, _, amount = text.partition("=")
    try:
        value = float(amount)
    except ValueError:
        value = float("nan")
    if unit not in UNITS or not 0 < value < float("inf"):
        right = ", ".join(f"{u}=NUMBER" for u in UNITS)
        raise ConfigError(f"--budget {text!r} is no budget: write one of {right}")
    return Budget(unit, value)


def pilot(recipe: Recipe) -> Recipe:
    """Return the recipe that finds out what a step costs: earlier stages in full, a few steps of the last."""
    stages = [s.model_copy(update={"evaluation": None}) for s in recipe.stages]
    return recipe.model_copy(update={"stages": [*stages[:-1], with_steps(stages[-1], PILOT_STEPS)]})


def with_steps(stage: Stage, steps: int) -> Stage:
    """Return the stage that trains for so many steps; a checkpoint interval stays."""
    return stage.model_copy(update={"steps": steps, "epochs": None})


def affordable_steps(recipe: Recipe, folder: Path, budget: Budget) -> int:
    """Return how many steps of the last stage the budget pays for, by the pilot run in the folder.

    Raises:
        ConfigError: the stages before it alone use up the budget, or not one step is affordable.
        DataError: the pilot did not record the unit.
    """
    *earlier, last = (list(read_metrics(folder / s.name / "metrics.jsonl")) for s in recipe.stages)
    spent = _used([m for rows in earlier for m in rows], budget.unit, folder)
    first, others = last[:1], last[1:]  # step 0 also pays for what is done once, such as a cached reference
    a_step = _used(others, budget.unit, folder) / len(others)
    once = max(_used(first, budget.unit, folder) - a_step, 0.0)
    steps = round((budget.amount - spent - once) / a_step)
    if steps < 1:
        what = f"'{recipe.name}' needs {spent + once:.4g} before its last stage's first step of {a_step:.4g}"
        raise ConfigError(f"the budget of {budget} does not pay for one step: {what}; raise it")
    return steps


def _used(metrics: Sequence[Mapping[str, float]], unit: Unit, folder: Path) -> float:
    found = usage(metrics)
    if metrics and unit not in found:
        raise DataError(f"{folder}: its steps did not record {unit_text(unit)}")
    return found.get(unit, 0.0)
