"""A term of the reward: how probably a judge prefers a completion to the others of its prompt, in [0, 1].

    [rewards.judge]
    term = "truing.ai_feedback.preferred"
    options = { endpoint = { model = "judge", url = "http://127.0.0.1:8000/v1" } }

With online_dpo and group_size = 2 the better one of two is the chosen one: OAIF, Guo et al. 2024,
arXiv:2402.04792. A completion is compared with every other of its group, in both orders; equal texts are a
tie without being asked about. Where a comparison fails, neither completion is scored.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import nullcontext
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from truing.config import Endpoint, TermOptions
from truing.terms import Written
from truing.types import Verdict


class Config(TermOptions):
    """Who judges, and by what."""

    batch_wide: ClassVar[bool] = True

    endpoint: Endpoint = Field(description="the judge: model, and url or else in this process")
    question: str | None = Field(
        None, min_length=1, description="by what to compare; None asks for the better reply"
    )
    constitution: str | None = Field(None, description="file whose comparing principles are drawn instead")
    reason: bool = Field(False, description="reasons before the label")
    votes: int = Field(4, gt=0, description="for each order, where the endpoint reports no log-probs")
    combine: Literal["mean", "log_odds"] = Field(
        "mean", description="of both orders; log_odds needs log-probs"
    )
    seed: int = Field(0, ge=0, description="of reasons, votes and principles")
    audit: str | None = Field(None, description="file of the audit trail; None: no trail")

    @model_validator(mode="after")
    def _asks_one_thing(self) -> Config:
        if self.question is not None and self.constitution is not None:
            raise ValueError("question and constitution are both set: keep one of them")
        return self


def measure(written: Sequence[Written], config: Config) -> list[float | Verdict]:
    """Return each completion's mean probability of being preferred; a Verdict where that is not known."""
    from truing.ai_feedback.audit import Audit

    pairs = [(i, j) for i, j in combinations(range(len(written)), 2) if written[i].group == written[j].group]
    opened: Any = nullcontext() if config.audit is None else Audit(Path(config.audit))
    with opened as audit:
        said = asyncio.run(_compared(written, pairs, config, audit))
    values: list[list[float | Verdict]] = [[] for _ in written]
    for (i, j), found in zip(pairs, said, strict=True):
        values[i].append(found)
        values[j].append(found if isinstance(found, Verdict) else 1 - found)
    return [_mean(v) for v in values]


def _mean(values: Sequence[float | Verdict]) -> float | Verdict:
    failed = next((v for v in values if isinstance(v, Verdict)), None)
    if failed is not None:
        return failed
    if not values:
        return Verdict("failed", evidence="no other completion of its prompt was there to compare with")
    return sum(v for v in values if not isinstance(v, Verdict)) / len(values)


async def _compared(
    written: Sequence[Written], pairs: Sequence[tuple[int, int]], config: Config, audit: Any
) -> list[float | Verdict]:
    return await asyncio.gather(*(_one(written[i], written[j], config, audit) for i, j in pairs))


async def _one(one: Written, two: Written, config: Config, audit: Any) -> float | Verdict:
    from truing.ai_feedback.compare import Comparing, compare
    from truing.ai_feedback.soft import COT_CLAMP

    assert one.prompt is not None, "the scorer gives every completion its prompt"
    texts = (one.completion.text, two.completion.text)
    if texts[0] == texts[1]:
        return 0.5
    question, principle = _question(config, one)
    how = Comparing(
        config.seed, config.reason, clamp=COT_CLAMP if config.reason else None, votes=config.votes,
        combine=config.combine,
    )  # fmt: skip
    said = await compare(
        _judge(config.endpoint.model_dump_json()), one.prompt.messages, texts, question, how, audit,
        principle=principle,
    )  # fmt: skip
    if said.preference is None:
        return Verdict(said.status, evidence=said.evidence)
    return said.preference


def _question(config: Config, written: Written) -> tuple[str, str | None]:
    from truing.ai_feedback.audit import prompt_hash
    from truing.ai_feedback.constitution import drawn
    from truing.ai_feedback.prompts import filled

    if config.constitution is None:
        return config.question or filled("better"), None
    assert written.prompt is not None
    key = (config.seed, prompt_hash(written.prompt.messages))
    principle = drawn(_constitution(config.constitution).comparing(), *key)
    assert principle.compare is not None
    return principle.compare, principle.name


@cache
def _constitution(path: str) -> Any:
    from truing.ai_feedback.constitution import load_constitution

    return load_constitution(path)


@cache
def _judge(endpoint: str) -> Any:
    """Return the speaker of an endpoint's table as JSON: one for a whole run."""
    from truing.ai_feedback.speaker import Speaker
    from truing.judges.client import judge_from

    table = Endpoint.model_validate_json(endpoint)
    return Speaker(table.model, judge_from(table))
