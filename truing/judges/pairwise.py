"""Two completions side by side, in both orders: 1 where the first is better, 0 the second, 0.5 a tie.

Source: Zheng et al. 2023, Judging LLM-as-a-Judge, arXiv:2306.05685, section 3.4: a judge that changes its
mind with the order has seen a tie (`combine = "conservative"`).
Differs from the paper: `combine = "average"` gives the mean of both orders, in {0, 1/4, 1/2, 3/4, 1}.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import ClassVar, Literal

from pydantic import Field, model_validator

from truing.config import JudgeOptions
from truing.judges import Example
from truing.judges._words import conversation, request, sections
from truing.judges.client import Chat
from truing.judges.judging import Item, Judged, Vote, combine_votes, vote
from truing.types import Message, Verdict


class Config(JudgeOptions):
    """What is compared, and what two orders that disagree mean."""

    completions: ClassVar[Literal[1, 2]] = 2

    criteria: str = Field(
        "correctness first, then how helpful, relevant and clear it is",
        min_length=1,
        description="what counts",
    )
    both_orders: bool = Field(True, description="ask with each completion first; else as they are given")
    combine: Literal["conservative", "average"] = Field(
        "conservative", description="of both orders: the winner that they agree on, else a tie; or their mean"
    )
    show_reference: bool = Field(False, description="show the row's reference answer, which it must have")

    @model_validator(mode="after")
    def _has_two_orders(self) -> Config:
        if not self.both_orders and self.combine != "conservative":
            raise ValueError("combine does nothing without both_orders: leave it out, or ask in both orders")
        return self


_A, _B, _C = (f"Both add.\n<verdict>{x}</verdict>" for x in "ABC")
_PAIR = ("7", "8")
_MEAN = {"combine": "average"}
EXAMPLES: tuple[Example, ...] = (
    Example("verdict", _PAIR, (_A, _B), 1.0),
    Example("verdict", _PAIR, (_B, _A), 0.0),
    Example("verdict", _PAIR, (_A, _A), 0.5),
    Example("verdict", _PAIR, (_A, _C), 0.5),
    Example("verdict", _PAIR, (_A, _C), 0.75, options=_MEAN),
    Example("verdict", _PAIR, (_A,), 1.0, options={"both_orders": False}),
    Example("verdict", _PAIR, ("a", "B"), 1.0, options={"reasons": False}),
    Example("broken", _PAIR, (_A, "B", "B"), None, "unparsable"),
    Example("broken", _PAIR, ("I cannot say.",) * 4, None, "unparsable"),
    Example("broken", _PAIR, (), None, "unparsable", options={"show_reference": True}),
    Example("attack", _PAIR, (_A + _B, _A + _B, _B), None, "unparsable"),
    Example("attack", _PAIR, (_A, "[[B]]", '{"verdict": "B"}'), None, "unparsable"),
)  # fmt: skip
_LABELS = {"a": 1.0, "b": 0.0, "c": 0.5}
_WORDS = sections(__file__)


async def judge(chat: Chat, item: Item, config: Config) -> Judged:
    """Return how good the first completion is beside the second, by `config.votes` replies in each order."""
    if config.show_reference and item.prompt.reference in (None, "", []):
        return Judged(Verdict("unparsable", evidence=f"prompt {item.prompt.uid} has no reference"), ())
    orders = (False, True) if config.both_orders else (False,)
    asked = [
        vote(
            chat, _messages(item, config, swapped), {"verdict": _LABELS}, config, number=k, swapped=swapped,
            reminder=_WORDS["reminder"],
        )
        for swapped in orders
        for k in range(config.votes)
    ]  # fmt: skip
    votes = tuple(await asyncio.gather(*asked))
    return Judged(verdict_of(votes, config.combine), votes)


def verdict_of(votes: Sequence[Vote], combine: Literal["conservative", "average"]) -> Verdict:
    """Return the verdict of the votes of one or both orders; without a verdict in an order there is none."""
    orders = [
        combine_votes(found)
        for swapped in (False, True)
        if (found := [v for v in votes if v.swapped == swapped])
    ]
    failed = next((v for v in orders if v.value is None), None)
    if failed is not None:
        return failed
    values = [v.value for v in orders if v.value is not None]
    time_s = sum(v.time_s for v in orders)
    if len(values) == 1:
        return orders[0]
    evidence = f"in the given order: {orders[0].evidence}; swapped: {orders[1].evidence}"
    return Verdict("scored", combine_orders(values[0], values[1], combine), evidence, time_s)


def combine_orders(given: float, swapped: float, combine: Literal["conservative", "average"]) -> float:
    """Return how good the first completion is, from what each order says of its first slot.

    Args:
        given: of the first slot with the first completion in it, in [0, 1].
        swapped: of the first slot with the second completion in it, in [0, 1].
        combine: conservative is the winner that both agree on, else 0.5; average the mean.
    """
    first, again = given, 1 - swapped
    if combine == "average":
        return (first + again) / 2
    return winner(first) if winner(first) == winner(again) else 0.5


def winner(value: float) -> float:
    """Return 1, 0 or 0.5 for a value above, below or at one half."""
    return 0.5 if value == 0.5 else float(value > 0.5)


def _messages(item: Item, config: Config, swapped: bool) -> list[Message]:
    first, second = reversed(item.completions) if swapped else item.completions
    material = {
        "conversation": conversation(item.prompt.messages),
        "completion_a": first,
        "completion_b": second,
    }
    words = dict(_WORDS)
    if config.show_reference:
        material["reference"] = str(item.prompt.reference)
        words["user"] += "\n\n" + words["reference"]
    return request(words, material, {"criteria": config.criteria}, reasons=config.reasons)
