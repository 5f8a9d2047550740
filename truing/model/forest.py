"""A batch as a forest of token segments: rows that begin alike share what they begin with.

`plant` builds the prefix trie of all rows by token ids and lays it out depth first, so a node's
descendants are exactly the tokens that follow it up to its `stop`. One interval test then says who
may attend to whom, at any depth: token i attends to token j when j <= i < stops[j].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Int
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Node:
    """A segment of tokens without a branch: tokens [start, end), whose descendants are [end, stop)."""

    start: int
    end: int
    stop: int
    parent: int | None  # index in Forest.nodes
    position: int  # of its first token in its rows

    def __len__(self) -> int:
        return self.end - self.start


Families = tuple[tuple[Node, ...], ...]


@dataclass(frozen=True, slots=True)
class Forest:
    """Rows packed depth first, each shared prefix once, with nothing padded.

    Args:
        tokens: ids.
        positions: of each token in its rows; they restart at each branch and each root.
        stops: token j is attended to by exactly the tokens in [j, stops[j]).
        nodes: in the order of the tokens, so parents come first.
        families: the same nodes by parent, parents first; each family's tokens and descendants are one range.
        paths: of each row, where its tokens lie.
        num_padded_tokens: tokens of the same rows as one padded batch.
    """

    tokens: Int[Tensor, " T"]
    positions: Int[Tensor, " T"]
    stops: Int[Tensor, " T"]
    nodes: tuple[Node, ...]
    families: Families
    paths: tuple[Int[Tensor, " _"], ...]
    num_padded_tokens: int

    @property
    def num_tokens(self) -> int:
        """T: tokens that are computed."""
        return len(self.tokens)

    @property
    def max_length(self) -> int:
        """Tokens of the longest row."""
        return max((node.position + len(node) for node in self.nodes), default=0)

    @property
    def num_attention_pairs(self) -> int:
        """Query-key pairs of one head of one full-attention layer."""
        return sum(len(n) * (len(n) + 1) // 2 + len(n) * (n.stop - n.end) for n in self.nodes)

    def lineage(self, node: Node) -> list[Node]:
        """Return the node's ancestors from the root down, and the node itself."""
        line = [node]
        while line[-1].parent is not None:
            line.append(self.nodes[line[-1].parent])
        return line[::-1]

    def forward_flops(self, *, num_parameters: int, num_layers: int, num_heads: int, head_dim: int) -> int:
        """Return the matrix FLOPs of a forward pass through the body; forward and backward cost 3 times it.

        Args:
            num_parameters: of the weight matrices a token passes through, without embedding and LM head.
            num_layers: with attention.
            num_heads: query heads.
            head_dim: of a head.
        """
        attention = 4 * self.num_attention_pairs * num_heads * head_dim * num_layers
        return 2 * num_parameters * self.num_tokens + attention


def plant(rows: Sequence[Sequence[int]], device: torch.device | str = "cpu") -> Forest:
    """Return the forest of these rows of token ids; a row is all its tokens, prompt and completion.

    Rows may be equal, empty or beginnings of one another. What two rows share is decided by the
    ids alone: a token's hidden state depends on nothing but the tokens before it.
    """
    rows = [list(row) for row in rows]
    order = sorted((r for r in range(len(rows)) if rows[r]), key=lambda r: rows[r])
    shared = [_common_length(rows[a], rows[b]) for a, b in pairwise(order)]
    tokens, nodes, last_node = _grow([rows[r] for r in order], shared)
    nodes = _with_stops(nodes)
    paths = [torch.empty(0, dtype=torch.long)] * len(rows)
    for r, index in zip(order, last_node, strict=True):
        paths[r] = _path(nodes, index)
    lengths = [len(row) for row in rows]
    positions = [torch.arange(n.position, n.position + len(n)) for n in nodes]
    stops = [torch.full((len(n),), n.stop) for n in nodes]
    empty = [torch.empty(0, dtype=torch.long)]
    return Forest(
        tokens=torch.tensor(tokens, dtype=torch.long, device=device),
        positions=torch.cat(positions or empty).to(device),
        stops=torch.cat(stops or empty).to(device),
        nodes=tuple(nodes),
        families=_families(nodes),
        paths=tuple(paths),
        num_padded_tokens=len(rows) * max(lengths, default=0),
    )


def _common_length(a: Sequence[int], b: Sequence[int]) -> int:
    """Return how many tokens a and b share at their beginning, by bisection over slices."""
    low, high = 0, min(len(a), len(b))
    while low < high:
        middle = (low + high + 1) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _grow(rows: list[Sequence[int]], shared: list[int]) -> tuple[list[int], list[Node], list[int]]:
    """Return tokens, nodes and each row's last node, from sorted rows and what neighbours share."""
    tokens: list[int] = []
    nodes: list[Node] = []
    last_node = [0] * len(rows)
    pending: list[tuple[int, int, int, int | None]] = [(0, len(rows), 0, None)] if rows else []
    while pending:
        first, last, depth, parent = pending.pop()  # rows[first:last] agree on their first `depth` tokens
        common = min(shared[first : last - 1], default=len(rows[first]))
        if common > depth:
            start = len(tokens)
            tokens.extend(rows[first][depth:common])
            nodes.append(Node(start, len(tokens), len(tokens), parent, depth))
            parent = len(nodes) - 1
        while first < last and len(rows[first]) == common:  # shorter rows are sorted first
            assert parent is not None
            last_node[first] = parent
            first += 1
        cuts = [first, *(i + 1 for i in range(first, last - 1) if shared[i] == common), last]
        groups = [(a, b, common, parent) for a, b in pairwise(cuts) if a < b]
        pending.extend(reversed(groups))
    return tokens, nodes, last_node


def _with_stops(nodes: list[Node]) -> list[Node]:
    """Return the nodes with `stop` at the end of their last descendant."""
    stops = [node.end for node in nodes]
    for index in range(len(nodes) - 1, -1, -1):
        parent = nodes[index].parent
        if parent is not None:
            stops[parent] = max(stops[parent], stops[index])
    return [Node(n.start, n.end, stop, n.parent, n.position) for n, stop in zip(nodes, stops, strict=True)]


def _families(nodes: list[Node]) -> Families:
    """Return the nodes grouped by parent, in the order in which parents come."""
    children: dict[int, list[Node]] = {}
    for node in nodes:
        children.setdefault(-1 if node.parent is None else node.parent, []).append(node)
    return tuple(tuple(children[parent]) for parent in sorted(children))


def _path(nodes: list[Node], index: int | None) -> Int[Tensor, " _"]:
    """Return where the tokens of a row lie that ends with node `index`."""
    line: list[Node] = []
    while index is not None:
        line.append(nodes[index])
        index = nodes[index].parent
    return torch.tensor([i for node in reversed(line) for i in range(node.start, node.end)])
