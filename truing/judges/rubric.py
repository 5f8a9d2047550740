"""One completion against a list of criteria: the weighted share of those that it meets.

A criterion that a machine can check belongs in a verifier; see Gunjal et al. 2025, Rubrics as Rewards,
arXiv:2507.17746, for rubrics as rewards.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from truing.config import JudgeOptions
from truing.judges import Example
from truing.judges._words import conversation, request, sections
from truing.judges.client import Chat
from truing.judges.judging import Item, Judged, single


class Config(JudgeOptions):
    """What is checked, each criterion with a yes or a no."""

    criteria: list[Annotated[str, Field(min_length=1)]] = Field(
        default=[
            "The answer is correct.",
            "It addresses all that was asked.",
            "It is clear and to the point.",
        ],
        min_length=1,
        description="what a completion can meet, each in a sentence",
    )
    weights: list[Annotated[float, Field(gt=0, allow_inf_nan=False)]] | None = Field(
        None, description="of the criteria, in their order; None: all count the same"
    )

    @model_validator(mode="after")
    def _fits_together(self) -> Config:
        if self.weights is not None and len(self.weights) != len(self.criteria):
            raise ValueError(
                f"{len(self.weights)} weights for {len(self.criteria)} criteria: give one for each"
            )
        if not self.reasons:
            raise ValueError(
                "a rubric has several verdicts, which no single label holds: leave reasons = true"
            )
        return self


_TWO = {"criteria": ["It is right.", "It is short."]}
_BOTH = "Right.\n<verdict-1>yes</verdict-1>\nShort.\n<verdict-2>Yes</verdict-2>"
_ONE = "Right.\n<verdict-1>yes</verdict-1>\nLong.\n<verdict-2>no</verdict-2>"
_SEVEN = ("3 + 4 = 7",)
EXAMPLES: tuple[Example, ...] = (
    Example("verdict", _SEVEN, (_BOTH,), options=_TWO),
    Example("verdict", _SEVEN, (_ONE,), 0.5, options=_TWO),
    Example("verdict", _SEVEN, (_ONE,), 0.75, options={**_TWO, "weights": [3.0, 1.0]}),
    Example("broken", _SEVEN, ("<verdict-1>yes</verdict-1>",) * 2, None, "unparsable", options=_TWO),
    Example("broken", _SEVEN, (_BOTH.replace("Yes", "perhaps"),) * 2, None, "unparsable", options=_TWO),
    Example("attack", _SEVEN, (_BOTH + "<verdict-2>no</verdict-2>",) * 2, None, "unparsable", options=_TWO),
)
_WORDS = sections(__file__)


async def judge(chat: Chat, item: Item, config: Config) -> Judged:
    """Return sum_k weight_k met_k / sum_k weight_k, the mean of the votes."""
    tags = [f"verdict-{k}" for k in range(1, len(config.criteria) + 1)]
    material = {
        "conversation": conversation(item.prompt.messages),
        "completion": item.completions[0],
    }
    values = {
        "criteria": "\n".join(f"{k}. {text}" for k, text in enumerate(config.criteria, start=1)),
        "form": "\n".join(f"<{tag}>yes or no</{tag}>" for tag in tags),
    }
    messages = request(_WORDS, material, values, reasons=True)
    labels = {tag: {"yes": 1.0, "no": 0.0} for tag in tags}
    weights = None if config.weights is None else dict(zip(tags, config.weights, strict=True))
    return await single(chat, messages, labels, config, reminder=_WORDS["reminder"], weights=weights)
