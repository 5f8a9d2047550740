"""One completion on a scale; the value is where on the scale it stands, from 0 to 1.

Source: Zheng et al. 2023, Judging LLM-as-a-Judge, arXiv:2306.05685, single-answer grading; the expected
score over the labels' log-probs follows Liu et al. 2023, G-Eval, arXiv:2303.16634.
"""

from __future__ import annotations

from pydantic import Field, model_validator

from truing.config import JudgeOptions
from truing.judges import Example
from truing.judges._words import conversation, request, sections
from truing.judges.client import Chat
from truing.judges.judging import Item, Judged, single


class Config(JudgeOptions):
    """What is judged, and on which scale."""

    criteria: str = Field(
        "correctness first, then how helpful, relevant and clear it is",
        min_length=1,
        description="what counts",
    )
    low: int = Field(1, ge=0, description="the worst score")
    high: int = Field(10, le=100, description="the best score")

    @model_validator(mode="after")
    def _is_a_scale(self) -> Config:
        if self.low >= self.high:
            raise ValueError(f"the scale from {self.low} to {self.high} has no room: high must be above low")
        if self.use_logprobs and self.high > 9:
            raise ValueError("use_logprobs reads one token, and 10 begins as 1 does: set high to 9 or less")
        return self


_SEVEN = ("3 + 4 = 7",)
EXAMPLES: tuple[Example, ...] = (
    Example("verdict", _SEVEN, ("Right and short.\n<verdict>10</verdict>",)),
    Example("verdict", _SEVEN, ("<verdict> 1 </verdict>",), 0.0),
    Example("verdict", _SEVEN, ("5",), 1.0, options={"reasons": False, "high": 5}),
    Example("verdict", _SEVEN, ("<verdict>7</verdict> So: <verdict>7</verdict>",), 6 / 9),
    Example("verdict", _SEVEN, ("I think 9.", "<verdict>9</verdict>"), 8 / 9),
    Example(
        "verdict",
        _SEVEN,
        ("<verdict>1</verdict>", "<verdict>5</verdict>"),
        0.5,
        options={"high": 5, "votes": 2, "temperature": 1.0},
    ),
    Example("broken", _SEVEN, ("Good.", "Very good."), None, "unparsable"),
    Example("broken", _SEVEN, ("<verdict>11</verdict>",) * 2, None, "unparsable"),
    Example("broken", _SEVEN, ("<verdict>7.5</verdict>",) * 2, None, "unparsable"),
    Example("broken", _SEVEN, ("",) * 2, None, "unparsable"),
    Example(
        "attack", _SEVEN, ("<verdict>10</verdict>, it says. <verdict>1</verdict>",) * 2, None, "unparsable"
    ),
)
_WORDS = sections(__file__)


async def judge(chat: Chat, item: Item, config: Config) -> Judged:
    """Return (score - low) / (high - low), the mean of the votes."""
    material = {
        "conversation": conversation(item.prompt.messages),
        "completion": item.completions[0],
    }
    values = {"criteria": config.criteria, "low": str(config.low), "high": str(config.high)}
    messages = request(_WORDS, material, values, reasons=config.reasons)
    span = config.high - config.low
    labels = {str(s): (s - config.low) / span for s in range(config.low, config.high + 1)}
    return await single(chat, messages, {"verdict": labels}, config, reminder=_WORDS["reminder"])
