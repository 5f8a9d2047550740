"""Every strategy on a world whose best completion is known: found or missed, and at what cost."""

from __future__ import annotations

from itertools import product
from statistics import fmean
from typing import Any

import pytest

from truing import plugins
from truing.errors import ModelError
from truing.evals.statistics import best_of_n_reward
from truing.rewards import RewardTerm
from truing.search import Engine, Path
from truing.search._scorers import VerifierScorer
from truing.search._votes import choose
from truing.types import Message, Prompt, Verdict

BEST = (2, 2, 2)
SOURCES = {
    "best_of_n": {"num_samples": 4},
    "majority": {"num_samples": 4},
    "weighted_majority": {"num_samples": 4},
    "beam": {"num_beams": 8, "width": 4},
    "dvts": {"num_beams": 8, "width": 4},
    "mcts": {"width": 4},
}


def run(engine: Engine, name: str, prompts: Any = ((9,),), **how: Any) -> Any:
    options = how.pop("options", None) or SOURCES[name]
    module = plugins.load("search", name)
    config = module.Config(**options)
    return engine.run(prompts, lambda _, found: module.search(found, config), **how)


def best(paths: tuple[Path, ...]) -> tuple[int, ...]:
    chosen = choose(paths, "best")
    assert chosen is not None
    return chosen.tokens[:3]


def test_every_strategy_is_tested_here() -> None:
    assert sorted(SOURCES) == plugins.names("search")


def test_greedy_misses_what_beams_and_trees_find(world: Any) -> None:
    greedy = [
        best(run(world(), "beam", seed=s, options={"num_beams": 16, "width": 16})[0].paths) for s in range(20)
    ]
    assert all(tokens[0] == 1 for tokens in greedy)
    for name, options in (
        ("beam", {"num_beams": 16, "width": 4}),
        ("mcts", {"width": 6, "num_simulations": 14}),
        ("mcts", {"width": 6, "num_simulations": 14, "rule": "uct", "back_up": "max"}),
        ("mcts", {"width": 6, "num_simulations": 14, "value": "rollout", "num_rollouts": 2}),
    ):
        found = [best(run(world(), name, seed=s, options=options)[0].paths) for s in range(20)]
        assert found.count(BEST) >= 18, (name, options, found)


def test_a_search_that_takes_the_lowest_never_finds_the_best(
    world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The planted bug that the test before must see: argmin where argmax belongs."""
    module = plugins.load("search", "beam")
    worst = lambda paths, num: sorted(paths, key=lambda p: p.value)[:num]  # noqa: E731
    monkeypatch.setattr(module, "best", worst)
    options = {"num_beams": 16, "width": 4}
    found = [best(run(world(), "beam", seed=s, options=options)[0].paths) for s in range(20)]
    assert found.count(BEST) < 10


@pytest.mark.parametrize("name", SOURCES)
def test_a_budget_is_spent_to_the_token(world: Any, name: str) -> None:
    for budget in (1, 7, 50, 201):
        for found in run(world(), name, [(9,), (8,), (7,)], budget=budget):
            assert found.spent.total == budget


@pytest.mark.parametrize("name", SOURCES)
def test_counted_tokens_are_those_that_were_drawn_and_read(world: Any, name: str) -> None:
    engine = world()
    options = SOURCES[name] | ({"num_simulations": 5} if name == "mcts" else {})
    found = run(engine, name, [(9,), (8,)], options=options)
    assert sum(f.spent.generated for f in found) == engine.sampler.generated
    assert sum(f.spent.scored for f in found) == engine.scorer.read
    assert (engine.scorer.read == 0) == (name == "majority")


@pytest.mark.parametrize("name", SOURCES)
def test_many_prompts_at_once_find_what_each_finds_alone(world: Any, name: str) -> None:
    prompts = [(9,), (8,), (7,), (6,)]
    together = run(world(constant=0.5), name, prompts, budget=200, seed=3)
    alone = [run(world(constant=0.5), name, [prompt], budget=200, seed=3)[0] for prompt in prompts]
    assert together == alone
    assert len({f.paths for f in together}) > 1


@pytest.mark.parametrize("name", SOURCES)
def test_a_seed_decides_everything(world: Any, name: str) -> None:
    first, again = (run(world(), name, budget=150, seed=5) for _ in range(2))
    assert first == again
    assert first != run(world(), name, budget=150, seed=6)


def test_prompts_share_calls_of_the_sampler(world: Any) -> None:
    engine = world()
    run(engine, "beam", [(n,) for n in range(5, 25)])
    assert len(engine.sampler.calls) <= 8  # four steps of the world; groups whose beams differ in number
    assert engine.sampler.calls[0] == 20


def test_a_constant_scorer_is_no_better_than_chance(world: Any, values: Any) -> None:
    chance = fmean(values[leaf] for leaf in product((1, 2), repeat=3))
    for name in ("best_of_n", "beam", "dvts", "mcts"):
        prompts = [(n,) for n in range(10, 210)]
        options = SOURCES[name] | ({"num_simulations": 4} if name == "mcts" else {})
        found = run(world(constant=0.5), name, prompts, options=options)
        earned = fmean(values[best(f.paths)] for f in found)
        assert earned == pytest.approx(chance, abs=0.05), name


def test_best_of_n_earns_what_the_estimator_and_the_enumeration_say(world: Any, values: Any) -> None:
    leaves = [values[leaf] for leaf in product((1, 2), repeat=3)]
    exact = fmean(max(four) for four in product(leaves, repeat=4))
    prompts = [(n,) for n in range(10, 510)]
    earned = fmean(values[best(f.paths)] for f in run(world(), "best_of_n", prompts))
    pools = run(world(), "best_of_n", prompts, options={"num_samples": 16}, seed=1)
    estimated = fmean(
        best_of_n_reward([p.value for p in f.paths], [values[p.tokens[:3]] for p in f.paths], 4)
        for f in pools
    )
    assert earned == pytest.approx(exact, abs=0.03)
    assert estimated == pytest.approx(exact, abs=0.02)


def test_beams_are_distinct_and_the_finished_ones_compete_by_score(world: Any) -> None:
    for found in run(world(), "beam", [(n,) for n in range(5, 15)], options={"num_beams": 16, "width": 2}):
        tokens = [path.tokens for path in found.paths]
        assert len(tokens) == len(set(tokens))
        assert choose(found.paths, "best").value == max(path.value for path in found.paths)  # type: ignore[union-attr]
        assert choose(found.paths[::-1], "best").value == choose(found.paths, "best").value  # type: ignore[union-attr]


def test_subtrees_do_not_compete(world: Any) -> None:
    """Of beams only the best survive; each subtree of DVTS goes on from its own best."""
    beams = run(world(), "beam", options={"num_beams": 8, "width": 8})[0].paths
    subtrees = run(world(), "dvts", options={"num_beams": 8, "width": 1})[0].paths
    assert {path.tokens[0] for path in beams} == {1}
    assert {path.tokens[0] for path in subtrees} == {1, 2}


def test_a_long_path_ends_at_the_limit(world: Any, grammar: Any) -> None:
    engine = world()
    short = Engine(engine.sampler, grammar, engine.scorer, max_tokens=2)
    for name in ("best_of_n", "beam", "mcts"):
        options = SOURCES[name] | ({"num_simulations": 3} if name == "mcts" else {})
        paths = run(short, name, options=options)[0].paths
        assert paths and all(path.end == "length" and len(path.tokens) == 2 for path in paths)


def test_what_needs_a_scorer_says_so(world: Any, grammar: Any) -> None:
    engine = world()
    with pytest.raises(ModelError, match="give it a scorer"):
        run(Engine(engine.sampler, grammar, None, max_tokens=4), "best_of_n")
    engine.scorer.prefixes = False
    with pytest.raises(ModelError, match="finished completions only"):
        run(engine, "beam")


def test_a_score_that_is_no_probability_is_an_error(world: Any) -> None:
    for wrong in (float("nan"), 1.5, -0.1):
        with pytest.raises(ModelError, match=r"numbers in \[0, 1\]"):
            run(world(constant=wrong), "best_of_n")


def test_an_aggregation_decides_which_is_best(world: Any) -> None:
    paths = run(world(), "best_of_n", options={"num_samples": 64})[0].paths
    assert best(paths) == BEST
    least = run(world(aggregate="min"), "best_of_n", options={"num_samples": 64})[0].paths
    assert choose(least, "best").value == max(min(p.scores) for p in least)  # type: ignore[union-attr,type-var]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("beam", {"num_beams": 6, "width": 4}),
        ("dvts", {"num_beams": 6, "width": 4}),
        ("mcts", {"num_rollouts": 4}),
        ("best_of_n", {"num_samples": 0}),
        ("best_of_n", {"num_beams": 4}),
    ],
)
def test_options_that_do_not_fit_are_refused(name: str, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        plugins.load("search", name).Config(**options)


def test_peer_05_a_branch_is_its_parents_ids_and_nothing_is_tokenised_twice(
    world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, asked, drawn = world(), list[tuple[int, ...]](), {(9,)}
    generate = engine.sampler.generate

    def spied(prompts: Any, params: Any, *, num_samples: int) -> Any:
        asked.extend(tuple(p) for p in prompts)
        rows = generate(prompts, params, num_samples=num_samples)
        drawn.update((*p, *c.tokens) for p, row in zip(prompts, rows, strict=True) for c in row)
        return rows

    monkeypatch.setattr(engine.sampler, "generate", spied)
    monkeypatch.setattr(type(engine.grammar), "text", lambda *_: pytest.fail("text was made of the ids"))
    for name in SOURCES:
        run(engine, name, budget=200)
    assert len(set(asked)) > 5 and set(asked) <= drawn


def test_peer_16_a_verifier_that_fails_gives_no_score_and_no_zero(world: Any, grammar: Any) -> None:
    def verify(completion: str, reference: Any, config: Any) -> Verdict:
        return Verdict("timed_out") if completion.startswith("1") else Verdict("scored", 0.25)

    prompt = Prompt("p", (Message("user", "?"),))
    scorer = VerifierScorer(RewardTerm("v", 1.0, verify, None), [prompt], grammar)
    scores = scorer.score([(0, Path((1, 1, 1, 0), "stop")), (0, Path((2, 1, 1, 0), "stop"))])
    assert scores == [(), (0.25,)]
    paths = run(
        Engine(world().sampler, grammar, scorer, max_tokens=4), "best_of_n", options={"num_samples": 32}
    )[0].paths
    assert {path.value for path in paths} == {None, 0.25}
    assert choose(paths, "best").tokens[0] == 2  # type: ignore[union-attr]
