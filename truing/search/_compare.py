"""Strategies side by side: the same prompts, the same sampler, the same number of tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path as File
from statistics import fmean
from types import ModuleType
from typing import Any

from truing import plugins
from truing.errors import ConfigError
from truing.evals.statistics import (
    Difference,
    best_of_n_kl_bound,
    best_of_n_reward,
    bootstrap_mean_interval,
    paired_difference,
    pass_at_k,
    wilson_interval,
)
from truing.search import best_of_n
from truing.search._budget import Spent
from truing.search._engine import Engine, Found
from truing.search._plan import Plan, load_plan, plugin_options
from truing.search._records import Path, Search
from truing.search._scorers import values_of
from truing.search._setup import Setting, scorer_of, set_up
from truing.search._votes import Reader, answer_classes, choose, reader_of


@dataclass(frozen=True, slots=True)
class Strategy:
    """A module of truing/search/ with its options, by the name that a plan gives it."""

    name: str
    module: ModuleType
    config: Any


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a strategy chose for every prompt.

    Args:
        name: of the strategy.
        outcomes: 1 where the chosen completion is right, 0 where it is wrong or none was chosen, None
            where the verifier could not say.
        chosen: the completions; None where none was chosen.
        spent: tokens of each prompt.
        num_found: finished completions of each prompt.
    """

    name: str
    outcomes: tuple[int | None, ...]
    chosen: tuple[str | None, ...]
    spent: tuple[Spent, ...]
    num_found: tuple[int, ...]

    def rate(self) -> tuple[float, float, float]:
        """Return the share that is right, and its interval."""
        scored = [o for o in self.outcomes if o is not None]
        if not scored:
            return float("nan"), 0.0, 1.0
        return (sum(scored) / len(scored), *wilson_interval(sum(scored), len(scored)))


@dataclass(frozen=True, slots=True)
class Point:
    """Best-of-n by the scorer at one n: means over prompts with their intervals.

    Args:
        n: completions that one is picked of.
        kl_bound: at most this far is best-of-n from the policy [nats].
        gold: share that the verifier accepts.
        proxy: score of what is picked.
        pass_at_n: share of prompts with a right one among n.
    """

    n: int
    kl_bound: float
    gold: float
    gold_low: float
    gold_high: float
    proxy: float
    proxy_low: float
    proxy_high: float
    pass_at_n: float


@dataclass(frozen=True, slots=True)
class SearchComparison:
    """Outcomes on the same prompts; differences are from the first strategy."""

    plan: Plan
    outcomes: tuple[Outcome, ...]
    differences: tuple[Difference | None, ...]
    curve: tuple[Point, ...] = ()


def compare(
    plan: Plan | str | File, *overrides: str, say: Callable[[str], None] = lambda text: None
) -> SearchComparison:
    """Return every strategy of a plan on its prompts.

    Args:
        plan: checked, or the path of a TOML file.
        overrides: `key=value`, laid over the file: "budget=4096", "strategy.beam.options.width=2".
        say: told what is done next.

    Raises:
        ConfigError: the plan is wrong, or a strategy does not fit the scorer, the verifier or the budget.
    """
    if not isinstance(plan, Plan):
        plan = load_plan(plan, overrides)
    elif overrides:
        raise ConfigError("a checked Plan takes no overrides: give them to load_plan")
    strategies = [_strategy(plan, name) for name in plan.strategy]
    say(f"loading {plan.model}")
    setting = set_up(plan)
    reader = _reader(plan, setting, strategies)
    scorer = scorer_of(plan.scorer, setting, plan) if plan.scorer is not None else None
    for strategy in strategies:
        if strategy.config.scores_prefixes and scorer is not None and not scorer.prefixes:
            raise ConfigError(
                f"strategy.{strategy.name}: it scores unfinished completions, which a verifier cannot; use a "
                'reward model, or mcts with value = "rollout"'
            )
    aggregate = plan.scorer.aggregate if plan.scorer is not None else "last"
    engine = setting.engine(plan, scorer, aggregate=aggregate)
    outcomes = list[Outcome]()
    for strategy in strategies:
        say(f"{strategy.name} on {len(setting.prompts)} prompts")
        outcomes.append(run_strategy(strategy, engine, setting, plan, reader))
    curve: tuple[Point, ...] = ()
    if plan.curve_samples:
        say(f"best-of-n of {plan.curve_samples} completions")
        curve = over_n(_samples(engine, setting, plan))
    return SearchComparison(plan, tuple(outcomes), differences(outcomes), curve)


def run_strategy(
    strategy: Strategy, engine: Engine, setting: Setting, plan: Plan, reader: Reader | None
) -> Outcome:
    """Return what a strategy chooses for each prompt, and whether it is right."""
    start = partial(_start, strategy)
    found = engine.run(setting.prompt_tokens, start, budget=plan.budget, seed=plan.seed)
    chosen = [_chosen(strategy, f, engine, reader) for f in found]
    return Outcome(
        strategy.name,
        _outcomes(setting, chosen),
        tuple(None if c is None else engine.grammar.text(c.tokens) for c in chosen),
        tuple(f.spent for f in found),
        tuple(len(f.paths) for f in found),
    )


def differences(outcomes: Sequence[Outcome]) -> tuple[Difference | None, ...]:
    """Return the paired difference of each strategy from the first; None for the first itself."""
    first = outcomes[0].outcomes
    found = list[Difference | None]()
    for one in outcomes:
        both = any(a is not None and b is not None for a, b in zip(first, one.outcomes, strict=True))
        found.append(paired_difference(first, one.outcomes) if both and one is not outcomes[0] else None)
    return tuple(found)


def over_n(samples: Sequence[Sequence[tuple[float, float]]]) -> tuple[Point, ...]:
    """Return best-of-n at powers of two, estimated without bias from each prompt's samples.

    Args:
        samples: (proxy, gold) of each scored completion of each prompt; a prompt with fewer than two is
            left out, and n goes up to the fewest that another has.
    """
    kept = [list(zip(*rows, strict=True)) for rows in samples if len(rows) > 1]
    if len(kept) < 2:
        return ()
    most = min(len(proxy) for proxy, _ in kept)
    return tuple(_point(kept, 2**i) for i in range(most.bit_length()) if 2**i <= most)


def _point(kept: Sequence[Sequence[Sequence[float]]], n: int) -> Point:
    gold = [best_of_n_reward(proxy, right, n) for proxy, right in kept]
    picked = [best_of_n_reward(proxy, proxy, n) for proxy, _ in kept]
    passed = [pass_at_k(len(right), sum(r >= 0.5 for r in right), n) for _, right in kept]
    gold_low, gold_high = bootstrap_mean_interval(gold)
    proxy_low, proxy_high = bootstrap_mean_interval(picked)
    return Point(
        n, best_of_n_kl_bound(n), fmean(gold), gold_low, gold_high, fmean(picked), proxy_low, proxy_high,
        fmean(passed),
    )  # fmt: skip


def _samples(engine: Engine, setting: Setting, plan: Plan) -> list[list[tuple[float, float]]]:
    config = best_of_n.Config(num_samples=plan.curve_samples)
    start = partial(_start, Strategy("curve", best_of_n, config))
    return [
        [
            (path.value, gold)
            for path, gold in zip(
                found.paths, _golds(setting, [i] * len(found.paths), found.paths), strict=True
            )
            if path.value is not None and gold is not None
        ]
        for i, found in enumerate(engine.run(setting.prompt_tokens, start, seed=plan.seed))
    ]


def _strategy(plan: Plan, name: str) -> Strategy:
    options = plan.strategy[name]
    method = options.method or name
    config = plugin_options("search", method, options.options, f"strategy.{name}.options")
    if config.needs_scorer and plan.scorer is None:
        raise ConfigError(f"strategy.{name}: {method} needs a [scorer]")
    if plan.budget is None and getattr(config, "num_simulations", 1) is None:
        raise ConfigError(f"strategy.{name}: without a budget, num_simulations says when {method} ends")
    return Strategy(name, plugins.load("search", method), config)


def _reader(plan: Plan, setting: Setting, strategies: Sequence[Strategy]) -> Reader | None:
    if all(strategy.config.choose == "best" for strategy in strategies):
        return None
    return reader_of(plugins.load("verifiers", plan.verifier), setting.verifier.config)


def _start(strategy: Strategy, problem: int, found: list[Path]) -> Search:
    search: Search = strategy.module.search(found, strategy.config)
    return search


def _chosen(strategy: Strategy, found: Found, engine: Engine, reader: Reader | None) -> Path | None:
    choice = strategy.config.choose
    if choice == "best" or reader is None:
        return choose(found.paths, choice)
    texts = [engine.grammar.text(path.tokens) for path in found.paths]
    return choose(found.paths, choice, answer_classes(texts, reader))


def _outcomes(setting: Setting, chosen: Sequence[Path | None]) -> tuple[int | None, ...]:
    given = [(i, path) for i, path in enumerate(chosen) if path is not None]
    outcomes: list[int | None] = [0] * len(chosen)
    for (i, _), gold in zip(given, _golds(setting, *zip(*given, strict=True)) if given else (), strict=True):
        outcomes[i] = None if gold is None else int(gold >= 0.5)
    return tuple(outcomes)


def _golds(setting: Setting, problems: Sequence[int], paths: Sequence[Path]) -> list[float | None]:
    prompts = [setting.prompts[i] for i in problems]
    return values_of(setting.verifier, prompts, paths, setting.grammar)
