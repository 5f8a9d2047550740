"""Which of two completions is better by a model's judgement: a probability, from both orders.

Where the endpoint reports log-probs, the answer is their softmax over "A" and "B" (Bai et al. 2022,
arXiv:2212.08073, section 4.1); elsewhere it is the share of votes. With reasons first, the label is
clamped to 0.4-0.6 by default, as there. An answer that is neither A nor B is a failure, never a tie.

Differs from the paper: both orders are asked and averaged, where theirs draws one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from truing.ai_feedback.audit import Audit, digest, prompt_hash, seed_from
from truing.ai_feedback.prompts import filled
from truing.ai_feedback.soft import both_orders, both_orders_log_odds, label_logprobs, soft_label, vote_share
from truing.ai_feedback.speaker import Failed, Speaker
from truing.types import Message, Status

_TOP = 20


@dataclass(frozen=True, slots=True)
class Comparing:
    """How two completions are compared.

    Args:
        seed: of what is drawn: reasons and votes.
        reason: whether the judge writes its reasons before the label.
        reason_tokens: most tokens of the reasons.
        clamp: least and greatest label; None for none.
        votes: answers to draw for each order where the endpoint reports no log-probs.
        combine: of both orders: the mean of the probabilities, or of their log-odds, which takes a constant
            preference for a slot off exactly and needs log-probs.
    """

    seed: int = 0
    reason: bool = False
    reason_tokens: int = 256
    clamp: tuple[float, float] | None = None
    votes: int = 4
    combine: Literal["mean", "log_odds"] = "mean"


@dataclass(frozen=True, slots=True)
class Comparison:
    """P(the first completion is better), with P(A) of the order as given and of the other one.

    Only status "scored" has a preference. `by` is what it comes from.
    """

    status: Status
    preference: float | None = None
    p_given: float | None = None
    p_swapped: float | None = None
    by: str = ""
    evidence: str = ""

    @property
    def consistent(self) -> bool | None:
        """Whether both orders favour the same completion; None where it was not scored."""
        if self.p_given is None or self.p_swapped is None:
            return None
        return (self.p_given - 0.5) * (0.5 - self.p_swapped) > 0


async def compare(
    judge: Speaker,
    messages: Sequence[Message],
    completions: tuple[str, str],
    question: str,
    how: Comparing,
    audit: Audit | None,
    *,
    principle: str | None = None,
) -> Comparison:
    """Return what the judge says of two completions, asked in both orders, and write it to the trail.

    Args:
        judge: who is asked.
        messages: what the completions answer.
        completions: the first and the second.
        question: by what to compare.
        how: reasons, clamp and votes.
        audit: the trail; None for none.
        principle: name of the constitution's principle behind the question.
    """
    one, two = completions
    asked = ((one, two), (two, one))
    try:
        found = await asyncio.gather(*(_one_order(judge, messages, o, question, how) for o in asked))
    except Failed as error:
        found, result = [], Comparison(error.status, evidence=str(error))
    else:
        p_given, p_swapped = found[0].p, found[1].p
        by = "/".join(sorted({f.by for f in found}))
        combined = both_orders_log_odds if how.combine == "log_odds" else both_orders
        p = _clamped(combined(p_given, p_swapped), how)
        result = Comparison("scored", p, p_given, p_swapped, by)
    if audit is None:
        return result
    audit.write(
        "compare",
        model=judge.name,
        prompt=prompt_hash(messages),
        messages=[[m.role, m.content] for m in messages],
        completions=[one, two],
        principle=principle,
        question=question,
        seed=how.seed,
        combine=how.combine,
        clamp=how.clamp,
        status=result.status,
        preference=result.preference,
        orders=[f.record() for f in found],
        evidence=result.evidence,
    )
    return result


@dataclass(frozen=True, slots=True)
class _Said:
    """P(A) of one order and what it comes from."""

    p: float
    by: str
    logprobs: tuple[float, ...] = ()
    votes: tuple[str, ...] = ()
    reasons: str = ""

    def record(self) -> dict[str, object]:
        return {"p": self.p, "by": self.by, "logprobs": self.logprobs, "votes": self.votes,
                "reasons": self.reasons}  # fmt: skip


async def _one_order(
    judge: Speaker, messages: Sequence[Message], order: tuple[str, str], question: str, how: Comparing
) -> _Said:
    talk, reasons = _asked(messages, order, question, how), ""
    if how.reason:
        reply = await judge.say(talk, temperature=1.0, max_tokens=how.reason_tokens, seed=_seed(how, order))
        reasons = reply.text
        talk = [*talk, Message("assistant", reasons), Message("user", filled("answer"))]
    reply = await judge.say(talk, temperature=0.0, max_tokens=1, seed=how.seed, top_logprobs=_TOP)
    if reply.top is not None:
        found = label_logprobs(reply.top[0]) if reply.top else None
        if found is None:
            likely = [token for token, _ in reply.top[0][:5]] if reply.top else []
            raise Failed("unparsable", f"neither A nor B is among its likeliest answers: {likely}")
        return _Said(
            soft_label(*found, clamp=None if how.combine == "log_odds" else how.clamp),
            "logprobs",
            found,
            reasons=reasons,
        )
    if how.combine == "log_odds":
        raise Failed("failed", "the endpoint reports no log-probs, and log-odds of votes can be infinite")
    return await _by_votes(judge, talk, how, reasons)


def _seed(how: Comparing, order: tuple[str, str]) -> int:
    return seed_from(how.seed, order)


async def _by_votes(judge: Speaker, talk: Sequence[Message], how: Comparing, reasons: str) -> _Said:
    seeds = [seed_from(how.seed, [m.content for m in talk], i) for i in range(how.votes)]
    replies = await asyncio.gather(*(judge.say(talk, temperature=1.0, max_tokens=4, seed=s) for s in seeds))
    votes = [v for r in replies if (v := letter(r.text)) is not None]
    share = vote_share([float(v == "A") for v in votes])
    if share is None:
        raise Failed("unparsable", f"none of its votes is A or B: {[r.text for r in replies][:4]}")
    return _Said(_clamped(share, how), "votes", votes=tuple(votes), reasons=reasons)


def _clamped(p: float, how: Comparing) -> float:
    return p if how.clamp is None else min(max(p, how.clamp[0]), how.clamp[1])


def letter(text: str) -> str | None:
    """Return A or B where the whole answer is that letter; anything else says nothing."""
    said = text.strip(" \t\n()[]{}*_'\"`.:,;").upper()
    return said if said in ("A", "B") else None


def _asked(
    messages: Sequence[Message], order: tuple[str, str], question: str, how: Comparing
) -> list[Message]:
    # The code stands in no text it delimits: it is a hash over them. It is the same for the same
    # request, so a continued run finds its answers in the cache.
    nonce = digest([[m.content for m in messages], order, question, how.seed])
    asked = filled(
        "compare", nonce=nonce, conversation=transcript(messages), first=order[0], second=order[1],
        question=question,
    )  # fmt: skip
    return [Message("user", f"{asked}\n\n{filled('reason' if how.reason else 'answer')}")]


def transcript(messages: Sequence[Message]) -> str:
    """Return a conversation as a judge reads it."""
    return "\n\n".join(f"{m.role}: {m.content}" for m in messages)
