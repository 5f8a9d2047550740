"""Monte-Carlo tree search over steps: go down to the most promising leaf, expand it, back its values up.

Kocsis and Szepesvari 2006 (UCT); Silver et al. 2017, doi:10.1038/nature24270 (PUCT); with the value of a
process reward model as in Hao et al. 2023, arXiv:2305.14992, and Zhang et al. 2024, arXiv:2406.03816.
A node is a path of steps and its children are what the policy drew from it, so P in PUCT is the share of
the draws. Values are in [0, 1], on which the exploration constant depends.

Differs from the papers: every new child is valued once as soon as it is drawn, and a branch in which all
is finished is not entered again, as its value is known; the root then draws more children.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from statistics import fmean
from typing import Literal

from pydantic import Field, model_validator

from truing.config import Strict
from truing.search._records import Choice, Draw, Path, Search, draw, score
from truing.search._tree import Node, add_children, back_up, child_scores, select


class Config(Strict):
    """Options of Monte-Carlo tree search."""

    choose: Choice = Field("best", description="among finished paths: the best one, or a vote")
    width: int = Field(4, gt=0, description="steps drawn when a leaf is expanded")
    num_simulations: int | None = Field(
        None, gt=0, description="expansions of a tree; None: until the budget is spent"
    )
    rule: Literal["puct", "uct"] = Field("puct", description="of selection")
    exploration: float = Field(1.0, ge=0, allow_inf_nan=False, description="c, weight of what is unknown")
    back_up: Literal["mean", "max"] = Field("mean", description="Q: of the values below a node")
    value: Literal["scorer", "rollout"] = Field(
        "scorer", description="of a new node: its own score, or that of completions drawn from it"
    )
    num_rollouts: int = Field(1, gt=0, description='completions for each value, with value = "rollout"')

    @property
    def needs_scorer(self) -> bool:
        """A scorer is needed."""
        return True

    @property
    def scores_prefixes(self) -> bool:
        """The scorer must judge paths that are not finished."""
        return self.value == "scorer"

    @model_validator(mode="after")
    def _every_option_does_something(self) -> Config:
        if self.value == "scorer" and self.num_rollouts != 1:
            raise ValueError('num_rollouts does nothing without value = "rollout": leave it out')
        return self


def search(found: list[Path], config: Config) -> Search:
    """Expand leaves until the simulations are done, or for ever where a budget ends it."""
    root, simulation = Node(Path()), 0
    compared = partial(child_scores, rule=config.rule, exploration=config.exploration, back_up=config.back_up)
    while config.num_simulations is None or simulation < config.num_simulations:
        simulation += 1
        leaf = select(root, compared)
        (drawn,) = yield from draw([Draw(leaf.path, config.width, whole=False)])
        children = add_children(leaf, drawn)
        yield from _value(children, found, config)
    if not found:  # too few simulations to reach an end: the most promising leaf is completed
        (drawn,) = yield from draw([Draw(select(root, compared).path, 1, whole=True)])
        found += yield from score(drawn)


def _value(children: Sequence[Node], found: list[Path], config: Config) -> Search:
    """Give each new node its path's score, or the mean of its roll-outs', and back it up."""
    own = [c for c in children if config.value == "scorer" or c.path.end is not None]
    for node, path in zip(own, (yield from score([c.path for c in own])), strict=True):
        node.path = path
        if path.end is not None:
            found.append(path)
        if path.value is not None:
            back_up(node, path.value)
    if config.value == "rollout":
        yield from _roll_out([c for c in children if c.path.end is None], found, config)


def _roll_out(nodes: Sequence[Node], found: list[Path], config: Config) -> Search:
    drawn = yield from draw([Draw(n.path, config.num_rollouts, whole=True) for n in nodes])
    scored = iter((yield from score([path for paths in drawn for path in paths])))
    for node, paths in zip(nodes, drawn, strict=True):
        ends = [next(scored) for _ in paths]
        found += ends
        values = [path.value for path in ends if path.value is not None]
        if values:
            back_up(node, fmean(values))
