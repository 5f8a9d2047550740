"""The tree of a Monte-Carlo search: selection and back-up, apart from everything that calls a model."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from truing.search._records import Path

Rule = Literal["puct", "uct"]
BackUp = Literal["mean", "max"]


@dataclass(slots=True, eq=False)
class Node:
    """A path, and what is known of what lies below it.

    Args:
        path: from the prompt to here.
        parent: None at the root.
        num_drawn: how often the sampler drew it from its parent.
        visits: N, how many values were backed up through it.
        total: their sum.
        highest: the greatest of them.
        closed: nothing is left to expand below it.
    """

    path: Path
    parent: Node | None = None
    num_drawn: int = 1
    children: list[Node] = field(default_factory=list)
    visits: int = 0
    total: float = 0.0
    highest: float = -math.inf
    closed: bool = False

    def quality(self, how: BackUp) -> float:
        """Return Q, the mean or the greatest of the values backed up; 0 before the first."""
        if not self.visits:
            return 0.0
        return self.highest if how == "max" else self.total / self.visits


def puct(
    quality: Sequence[float], visits: Sequence[int], prior: Sequence[float], *, exploration: float
) -> list[float]:
    """Return Q + c P sqrt(sum N) / (1 + N) of each child (Silver et al. 2017, doi:10.1038/nature24270).

    Args:
        quality: Q, in [0, 1]; what exploration is worth depends on this range.
        visits: N.
        prior: P, of the policy, which sums to 1.
        exploration: c.
    """
    root = math.sqrt(sum(visits))
    return [q + exploration * p * root / (1 + n) for q, n, p in zip(quality, visits, prior, strict=True)]


def uct(quality: Sequence[float], visits: Sequence[int], *, exploration: float) -> list[float]:
    """Return Q + c sqrt(log(sum N) / N) of each child, infinite unvisited (Kocsis and Szepesvari 2006)."""
    log = math.log(max(sum(visits), 1))
    return [
        q + exploration * math.sqrt(log / n) if n else math.inf for q, n in zip(quality, visits, strict=True)
    ]


def priors(children: Sequence[Node]) -> list[float]:
    """Return the share of draws that each child had: an estimate of the policy's own probability."""
    total = sum(child.num_drawn for child in children)
    return [child.num_drawn / total for child in children]


def child_scores(children: Sequence[Node], *, rule: Rule, exploration: float, back_up: BackUp) -> list[float]:
    """Return what selection compares."""
    quality = [child.quality(back_up) for child in children]
    visits = [child.visits for child in children]
    if rule == "uct":
        return uct(quality, visits, exploration=exploration)
    return puct(quality, visits, priors(children), exploration=exploration)


def select(root: Node, score: Callable[[Sequence[Node]], Sequence[float]]) -> Node:
    """Return the leaf to expand: from the root always the child of the highest score that is not closed.

    Where everything below the root is closed, it is the root, which more children can be drawn from.
    """
    node = root
    while node.children and not all(child.closed for child in node.children):
        ranked = zip(score(node.children), node.children, strict=True)
        node = max(((s, child) for s, child in ranked if not child.closed), key=lambda pair: pair[0])[1]
    return node


def add_children(node: Node, paths: Sequence[Path]) -> list[Node]:
    """Add drawn paths below a node and return the new children; one drawn again counts to its prior."""
    known = {child.path.tokens: child for child in node.children}
    new = list[Node]()
    for path in paths:
        if path.tokens in known:
            known[path.tokens].num_drawn += 1
            continue
        child = Node(path, node, closed=path.end is not None)
        known[path.tokens] = child
        new.append(child)
    node.children += new
    for above in lineage(node):
        above.closed = bool(above.children) and all(child.closed for child in above.children)
    return new


def back_up(node: Node, value: float) -> None:
    """Count one value at the node and at each node above it, once each."""
    for above in lineage(node):
        above.visits += 1
        above.total += value
        above.highest = max(above.highest, value)


def lineage(node: Node) -> Iterator[Node]:
    """Yield the node and those above it up to the root."""
    above: Node | None = node
    while above is not None:
        yield above
        above = above.parent
