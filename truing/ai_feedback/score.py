"""How good one completion is by a model's judgement: the additive score of self-rewarding, 0 to 5.

Yuan et al. 2024, arXiv:2401.10020, section 2.2 and figure 2: a point for each of five qualities, several
judgements averaged. The words are ours. Where a small model cannot hold to the form, `by = "digit"` reads
the expected sum off the log-probs of the digits, in one call.
"""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from truing.ai_feedback.audit import Audit, digest, prompt_hash, seed_from
from truing.ai_feedback.compare import transcript
from truing.ai_feedback.prompts import filled
from truing.ai_feedback.soft import label_logprobs
from truing.ai_feedback.speaker import Failed, Said, Speaker
from truing.types import Message, Status

_SCORE = re.compile(r"score\W{0,6}(\d+(?:\.\d+)?)", re.IGNORECASE)
_DIGITS = tuple("012345")


@dataclass(frozen=True, slots=True)
class Scoring:
    """How a completion is scored.

    Args:
        by: reasons asks for reasons and a last line with the sum, `votes` times; digit reads log-probs.
        votes: judgements to average.
        max_tokens: of a judgement with reasons.
        temperature: of judgements with reasons.
        seed: of what is drawn.
    """

    by: Literal["reasons", "digit"] = "reasons"
    votes: int = 3
    max_tokens: int = 256
    temperature: float = 1.0
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Scored:
    """The mean score and the votes behind it; without one usable vote there is no score."""

    status: Status
    score: float | None = None
    votes: tuple[float, ...] = ()
    evidence: str = ""


async def score(
    judge: Speaker, messages: Sequence[Message], completion: str, how: Scoring, audit: Audit
) -> Scored:
    """Return how good the completion is from 0 to 5, and write each judgement to the trail."""
    talk = _asked(messages, completion, how)
    replies = await _replies(judge, talk, how)
    votes = tuple(v for _, v in replies if v is not None)
    failed = next((r for r, v in replies if v is None), "")
    if votes:
        found = Scored("scored", sum(votes) / len(votes), votes)
    else:
        status: Status = failed.status if isinstance(failed, Failed) else "unparsable"
        found = Scored(status, evidence=str(failed) or "no judgement has a score")
    audit.write(
        "score",
        model=judge.name,
        prompt=prompt_hash(messages),
        messages=[[m.role, m.content] for m in messages],
        completion=completion,
        by=how.by,
        seed=how.seed,
        status=found.status,
        score=found.score,
        votes=votes,
        said=[str(r) for r, _ in replies],
        evidence=found.evidence,
    )
    return found


def sum_of(text: str) -> float | None:
    """Return the score that a judgement gives, or None where it gives none, several, or one out of range."""
    found = {float(x) for x in _SCORE.findall(text)}
    return found.pop() if len(found) == 1 and 0 <= min(found) <= 5 else None


def expected_digit(top: Sequence[tuple[str, float]]) -> float | None:
    """Return the mean of the digits 0 to 5 under a position's log-probs; None where none is listed."""
    listed = [(token, x) for token, x in top if token.strip() in _DIGITS]
    if not listed:
        return None
    found = [label_logprobs(listed, (d,)) for d in _DIGITS]
    weights = [math.exp(x[0]) if x is not None else 0.0 for x in found]
    return sum(w * int(d) for w, d in zip(weights, _DIGITS, strict=True)) / sum(weights)


async def _replies(
    judge: Speaker, talk: Sequence[Message], how: Scoring
) -> list[tuple[str | Failed, float | None]]:
    if how.by == "digit":
        return [await _try(judge, talk, how, 0)]
    return list(await asyncio.gather(*(_try(judge, talk, how, i) for i in range(how.votes))))


async def _try(
    judge: Speaker, talk: Sequence[Message], how: Scoring, number: int
) -> tuple[str | Failed, float | None]:
    seed = seed_from(how.seed, talk[0].content, number)
    try:
        if how.by == "digit":
            said = await judge.say(talk, temperature=0.0, max_tokens=1, seed=seed, top_logprobs=20)
            return said.text, _digit(said)
        said = await judge.say(talk, temperature=how.temperature, max_tokens=how.max_tokens, seed=seed)
        return said.text, sum_of(said.text)
    except Failed as error:
        return error, None


def _digit(said: Said) -> float | None:
    if said.top is None:
        raise Failed("failed", "the endpoint reports no log-probs: score by reasons instead")
    return expected_digit(said.top[0]) if said.top else None


def _asked(messages: Sequence[Message], completion: str, how: Scoring) -> list[Message]:
    nonce = digest([[m.content for m in messages], completion, how.seed])
    ending = filled("sum" if how.by == "reasons" else "digit")
    text = filled("score", nonce=nonce, conversation=transcript(messages), reply=completion, ending=ending)
    return [Message("user", text)]
