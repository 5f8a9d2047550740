"""`truing compare`: recipes and finished runs become trials, trials a comparison, and that a page."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from pathlib import Path

from truing.compare.budget import Budget, parse_budget
from truing.compare.comparison import Comparison
from truing.compare.comparison import compare as compare_trials
from truing.compare.execute import Failure, load, trials_of_recipe
from truing.compare.page import write_pages
from truing.compare.trials import Trial, Unit, read_trial
from truing.config import Recipe
from truing.errors import ConfigError
from truing.runs import is_run


def compare(
    sources: Sequence[str | Path], *, output: str | Path = "comparison", budget: str | None = None,
    seeds: int = 3, unit: Unit | None = None, argv: Sequence[str] = (), quiet: bool = False,
    say: Callable[[str], None] = lambda text: None,
) -> Comparison:  # fmt: skip
    """Return the comparison of recipes and runs, and write its page into the output folder.

    Args:
        sources: recipes, each run over the seeds, and folders of finished runs; runs of one name are
            seeds of one method. Differences are from the first.
        output: holds a folder for each recipe, and the page. What is finished there is not run again.
        budget: `tokens=N`, `flops=N` or `seconds=N` for each run; None runs recipes as they are.
        seeds: runs of each recipe.
        unit: of compute; None takes the budget's, else flops.
        argv: the command, for the records.
        quiet: no progress on the terminal.
        say: told what is done next.

    Raises:
        ConfigError: a source is neither, two recipes share a name, or the budget does not fit.
        DataError: a run is not finished or was not evaluated.
    """
    amount = None if budget is None else parse_budget(budget)
    output = Path(output)
    loaded = [read_trial(Path(s)) if is_run(Path(s)) else _recipe(Path(s)) for s in sources]
    recipes = [r for r in loaded if isinstance(r, Recipe)]
    _distinct([r.name for r in recipes], [t.name for t in loaded if isinstance(t, Trial)])
    if budget is not None and not recipes:
        raise ConfigError(
            "--budget sets the steps of recipes, and only finished runs were given: leave it out"
        )
    trials, failures = list[Trial](), list[Failure]()
    for source in loaded:
        if isinstance(source, Trial):
            trials.append(source)
            continue
        done, broken = trials_of_recipe(
            source, output / source.name, seeds=seeds, budget=amount, say=say, argv=argv, quiet=quiet
        )
        trials += done
        failures += broken
    found = compare_trials(trials, unit=unit or _unit(amount), budget=amount, failures=failures)
    output.mkdir(parents=True, exist_ok=True)
    write_pages(found, output, shlex.join(argv) if argv else "truing.compare.run.compare(...)")
    return found


def _unit(budget: Budget | None) -> Unit:
    return "flops" if budget is None else budget.unit


def _recipe(path: Path) -> Recipe:
    if path.is_dir():
        raise ConfigError(f"{path} is neither a recipe nor the folder of a run: it has no run.json")
    return load(path)


def _distinct(recipes: Sequence[str], runs: Sequence[str]) -> None:
    twice = sorted({n for n in recipes if recipes.count(n) > 1 or n in runs})
    if twice:
        raise ConfigError(
            f"more than one source is named '{twice[0]}', and a method is known by its name: "
            'give each recipe its own name = "..."'
        )
