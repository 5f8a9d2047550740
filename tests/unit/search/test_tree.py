"""Selection and back-up: what is counted, what is entered, and what a planted bug would change."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from truing.search import _tree
from truing.search._records import Path
from truing.search._tree import Node, add_children, back_up, child_scores, lineage, priors, puct, select, uct


def grow(seed: int, num_simulations: int, how: str = "mean") -> Node:
    """Return a tree of depth 3 that was searched with values in [0, 1]."""
    random, root = np.random.default_rng(seed), Node(Path())
    score = partial(child_scores, rule="uct", exploration=1.0, back_up=how)
    for _ in range(num_simulations):
        leaf = select(root, score)
        drawn = [(*leaf.path.tokens, int(t)) for t in random.integers(0, 3, 3)]
        for child in add_children(leaf, [Path(t, "stop" if len(t) == 3 else None) for t in drawn]):
            back_up(child, float(random.random()))
    return root


def nodes(root: Node) -> list[Node]:
    return [root, *(n for child in root.children for n in nodes(child))]


def adds_up(root: Node) -> bool:
    """Return whether every node counts its own value and those below it, once each."""
    return root.visits == len(nodes(root)) - 1 and all(
        node.visits == (node is not root) + sum(child.visits for child in node.children)
        and -1e-9 <= node.total - sum(child.total for child in node.children) <= 1 + 1e-9
        for node in nodes(root)
    )


@given(seed=st.integers(0, 999), num=st.integers(1, 30))
@settings(max_examples=25, deadline=None)
def test_every_value_is_counted_once_at_every_node_above_it(seed: int, num: int) -> None:
    assert adds_up(grow(seed, num))


@pytest.mark.parametrize("wrong", ["twice", "not at the root"])
def test_a_back_up_that_counts_wrongly_is_seen(monkeypatch: pytest.MonkeyPatch, wrong: str) -> None:
    def planted(node: Node) -> Iterator[Node]:
        above = list(lineage(node))
        yield from [*above, above[-1]] if wrong == "twice" else above[:-1]

    monkeypatch.setattr(_tree, "lineage", planted)
    assert not adds_up(grow(0, 5))


@given(seed=st.integers(0, 999))
@settings(max_examples=25, deadline=None)
def test_a_closed_branch_is_not_entered_and_closing_climbs(seed: int) -> None:
    root = grow(seed, 20)
    for node in nodes(root):
        if node.children:
            assert node.closed == all(child.closed for child in node.children)
    chosen = select(root, partial(child_scores, rule="puct", exploration=1.0, back_up="mean"))
    assert chosen is root or not any(above.closed for above in lineage(chosen))


def test_selection_takes_the_highest_and_the_first_of_equals() -> None:
    root = Node(Path())
    first, second, third = add_children(root, [Path((t,)) for t in (1, 2, 3)])
    scores = {1: 0.2, 2: 0.9, 3: 0.9}
    assert select(root, lambda nodes: [scores[n.path.tokens[0]] for n in nodes]) is second
    second.closed = True
    assert select(root, lambda nodes: [scores[n.path.tokens[0]] for n in nodes]) is third
    assert select(root, lambda nodes: [1.0 for n in nodes]) is first


def test_a_path_drawn_again_is_the_same_child_with_a_greater_prior() -> None:
    root = Node(Path())
    assert len(add_children(root, [Path((1,)), Path((2,)), Path((1,))])) == 2
    assert add_children(root, [Path((1,))]) == []
    assert priors(root.children) == [3 / 4, 1 / 4]


def test_max_keeps_the_best_value_that_mean_forgets() -> None:
    node = Node(Path())
    for value in (0.9, 0.1, 0.2):
        back_up(node, value)
    assert node.quality("max") == 0.9 and node.quality("mean") == pytest.approx(0.4)
    assert Node(Path()).quality("max") == 0.0


def test_exploration_visits_what_is_unknown_and_no_exploration_never_does() -> None:
    assert uct([0.9, 0.0], [10, 0], exploration=0.5)[1] == math.inf
    quality, visits, prior = [0.6, 0.0], [10, 0], [0.5, 0.5]
    greedy = puct(quality, visits, prior, exploration=0.0)
    curious = puct(quality, visits, prior, exploration=2.0)
    assert greedy[0] > greedy[1] and curious[0] < curious[1]


@pytest.mark.parametrize("rule", ["uct", "puct"])
def test_the_better_of_two_arms_gets_most_visits(rule: str) -> None:
    random, root = np.random.default_rng(0), Node(Path())
    arms = add_children(root, [Path((0,)), Path((1,))])
    for arm in arms:
        back_up(arm, float(random.random() < 0.3))
    for _ in range(400):
        scores = child_scores(root.children, rule=rule, exploration=0.5, back_up="mean")  # type: ignore[arg-type]
        arm = int(np.argmax(scores))
        back_up(arms[arm], float(random.random() < (0.3, 0.7)[arm]))
    assert arms[1].visits > 4 * arms[0].visits
    assert root.visits == arms[0].visits + arms[1].visits == 402
