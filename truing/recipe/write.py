"""A checked recipe as TOML, every default spelt out."""

from __future__ import annotations

from typing import Any

import tomli_w

from truing import plugins
from truing.config import Recipe, Stage
from truing.recipe.checks import unused
from truing.recipe.draft import at
from truing.recipe.method import Method
from truing.recipe.sampling import SAMPLING


def resolved(recipe: Recipe) -> str:
    """Return the recipe as TOML with every key that applies; loading it gives an equal recipe."""
    head = {"name": recipe.name, "output": recipe.output}
    stages = [_stage(stage) for stage in recipe.stages]
    if len(stages) == 1 and stages[0]["name"] == "train":
        del stages[0]["name"]
        return tomli_w.dumps(head | stages[0])
    return tomli_w.dumps({**head, "stage": stages})


def _stage(stage: Stage) -> dict[str, Any]:
    values = stage.model_dump(exclude_none=True)
    for complaint in list(unused(values, _method(stage))):
        del at(values, complaint.path[:-1])[complaint.path[-1]]
    return values


def _method(stage: Stage) -> Method:
    if stage.algorithm is None:
        return SAMPLING
    config = plugins.config_class("algorithms", stage.algorithm)
    needs = config(**stage.options).needs()
    return Method(stage.algorithm, config.data, needs, self_play=config.self_play, rewarded=config.rewarded)
