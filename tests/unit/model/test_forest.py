from __future__ import annotations

import random
from itertools import pairwise

import pytest
import torch

from truing.model.forest import plant


def random_rows(seed, count=12, alphabet=3):
    """Rows over a small alphabet, so that beginnings are shared at many depths."""
    draw = random.Random(seed)
    return [[draw.randrange(alphabet) for _ in range(draw.randrange(9))] for _ in range(count)]


def beginnings(rows):
    return {tuple(row[:end]) for row in rows for end in range(1, len(row) + 1)}


@pytest.mark.parametrize("seed", range(20))
def test_every_beginning_is_one_token(seed):
    rows = random_rows(seed)
    forest = plant(rows)
    assert forest.num_tokens == len(beginnings(rows))
    assert len(forest.positions) == len(forest.stops) == forest.num_tokens
    for row, path in zip(rows, forest.paths, strict=True):
        assert forest.tokens[path].tolist() == row
        assert forest.positions[path].tolist() == list(range(len(row)))


@pytest.mark.parametrize("seed", range(20))
def test_the_interval_test_is_the_ancestor_relation(seed):
    rows = random_rows(seed)
    forest = plant(rows)
    count = forest.num_tokens
    ancestors = torch.zeros(count, count, dtype=torch.bool)
    for path in forest.paths:
        for i, token in enumerate(path):
            ancestors[token, path[: i + 1]] = True
    token = torch.arange(count)
    visible = (token[None] <= token[:, None]) & (token[:, None] < forest.stops[None])
    assert torch.equal(visible, ancestors)
    assert forest.num_attention_pairs == int(ancestors.sum())


@pytest.mark.parametrize("seed", range(10))
def test_nodes_are_whole_segments_in_order(seed):
    forest = plant(random_rows(seed))
    end = 0
    for index, node in enumerate(forest.nodes):
        assert node.start == end and node.start < node.end <= node.stop
        end = node.end
        line = forest.lineage(node)
        assert [n.position for n in line] == [sum(len(m) for m in line[:i]) for i in range(len(line))]
        assert line[-1] is node and (node.parent is None or node.parent < index)
    assert end == forest.num_tokens
    children = [n.parent for n in forest.nodes if n.parent is not None]
    rows_end = {int(path[-1]) + 1 for path in forest.paths if len(path)}
    for index, node in enumerate(forest.nodes):  # compressed: an only child starts where a row ends
        assert children.count(index) != 1 or node.end in rows_end


@pytest.mark.parametrize("seed", range(10))
def test_families_hold_each_node_once_and_are_ranges(seed):
    forest = plant(random_rows(seed))
    assert sorted(n.start for family in forest.families for n in family) == [n.start for n in forest.nodes]
    seen = {None}
    for family in forest.families:
        assert {n.parent for n in family} <= seen and len({n.parent for n in family}) == 1
        assert all(a.stop == b.start for a, b in pairwise(family))
        seen |= {forest.nodes.index(n) for n in family}


def test_a_group_is_one_prompt_and_its_completions():
    prompt, completions = list(range(100, 356)), [[i] * 64 for i in range(8)]
    forest = plant([prompt + completion for completion in completions])
    assert len(forest.nodes) == 9 and forest.nodes[0].stop == forest.num_tokens
    assert (forest.num_tokens, forest.num_padded_tokens) == (256 + 8 * 64, 8 * 320)
    assert forest.num_attention_pairs == 256 * 257 // 2 + 8 * (64 * 256 + 64 * 65 // 2)
    assert forest.max_length == 320


def test_flops_count_weights_and_attention():
    forest = plant([[1, 2, 3], [1, 2, 4]])
    flops = forest.forward_flops(num_parameters=10, num_layers=2, num_heads=3, head_dim=5)
    assert flops == 2 * 10 * 4 + 4 * (3 + 2 * 3) * 3 * 5 * 2


@pytest.mark.parametrize("rows", [[], [[]], [[], []]])
def test_nothing_grows_from_nothing(rows):
    forest = plant(rows)
    assert (forest.num_tokens, forest.nodes, forest.max_length) == (0, (), 0)
    assert [len(path) for path in forest.paths] == [0] * len(rows)


def test_equal_rows_and_beginnings_of_rows_cost_nothing():
    forest = plant([[1, 2, 3], [1, 2], [1, 2, 3], [1]])
    assert forest.tokens.tolist() == [1, 2, 3]
    assert [path.tolist() for path in forest.paths] == [[0, 1, 2], [0, 1], [0, 1, 2], [0]]


def test_a_deep_chain_needs_no_recursion():
    forest = plant([list(range(length)) for length in range(1, 4800, 4)])
    assert len(forest.nodes) == 1200 and len(forest.lineage(forest.nodes[-1])) == 1200
