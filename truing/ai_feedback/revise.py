"""Critique and revision by a constitution: the supervised stage of Constitutional AI.

Bai et al. 2022, arXiv:2212.08073, section 3: the model answers a red-team prompt, criticises its answer by a
principle drawn at random, revises it, and does so again with another principle. Every revision becomes
a demonstration for the prompt; demonstrations of helpful answers are mixed in, so that the model does
not learn to evade.

Differs from the paper: no few-shot examples of critiques; the model asked should be an instruct model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from truing.ai_feedback.audit import Audit, prompt_hash, seed_from
from truing.ai_feedback.candidates import Candidate, Sampling, candidates
from truing.ai_feedback.constitution import Loaded, Principle, drawn
from truing.ai_feedback.prompts import filled
from truing.ai_feedback.speaker import Failed, Speaker
from truing.types import Message, Status


@dataclass(frozen=True, slots=True)
class Revising:
    """How completions are criticised and revised.

    Args:
        rounds: critiques and revisions of each completion, each by a principle of its own.
        sampling: of completions, critiques and revisions.
    """

    rounds: int = 4
    sampling: Sampling = field(default_factory=Sampling)


@dataclass(frozen=True, slots=True)
class Revision:
    """What a round made of a completion."""

    round: int
    principle: str
    critique: str
    text: str


@dataclass(frozen=True, slots=True)
class Revised:
    """A prompt, its first completion and its revisions; `status` tells why there are fewer than asked."""

    messages: tuple[Message, ...]
    first: Candidate | None
    revisions: tuple[Revision, ...] = ()
    status: Status = "scored"
    evidence: str = ""


@dataclass(slots=True)
class _Talk:
    """What stays the same while one completion is revised."""

    model: Speaker
    messages: tuple[Message, ...]
    constitution: Loaded
    how: Revising
    audit: Audit
    revisions: list[Revision] = field(default_factory=list)


async def revise(
    model: Speaker, messages: Sequence[Message], constitution: Loaded, how: Revising, audit: Audit
) -> Revised:
    """Return a completion of the prompt with its revisions; each step is in the trail.

    Args:
        model: what answers, criticises and revises.
        messages: the prompt.
        constitution: whose principles are drawn from the seed, the prompt and the round.
        how: rounds and sampling.
        audit: the trail.
    """
    prompt = tuple(messages)
    first = await candidates(model, prompt, 1, how.sampling, audit)
    if not first:
        return Revised(prompt, None, status="failed", evidence="no completion to revise; see the trail")
    talk, text = _Talk(model, prompt, constitution, how, audit), first[0].text
    order = _order(constitution, how, prompt)
    for number, principle in enumerate(order, 1):
        try:
            text = await _round(talk, text, number, principle)
        except Failed as error:
            return Revised(prompt, first[0], tuple(talk.revisions), error.status, str(error))
    return Revised(prompt, first[0], tuple(talk.revisions))


def _order(constitution: Loaded, how: Revising, prompt: Sequence[Message]) -> list[Principle]:
    """Return a principle a round, none twice before all have been drawn."""
    every, order = constitution.revising(), list[Principle]()
    for number in range(how.rounds):
        used = order[len(order) // len(every) * len(every) :]
        left = [p for p in every if p not in used]
        order.append(drawn(left, how.sampling.seed, prompt_hash(prompt), number))
    return order


async def _round(talk: _Talk, text: str, number: int, principle: Principle) -> str:
    assert principle.critique is not None and principle.revision is not None
    said = [*talk.messages, Message("assistant", text)]
    asked = Message("user", filled("critique", critique=principle.critique))
    critique = await _step(talk, "critique", [*said, asked], number, principle, text)
    wanted = Message("user", filled("revise", revision=principle.revision))
    after = [*said, asked, Message("assistant", critique), wanted]
    revision = await _step(talk, "revise", after, number, principle, text)
    talk.revisions.append(Revision(number, principle.name, critique, revision))
    return revision


async def _step(
    talk: _Talk, action: str, messages: Sequence[Message], number: int, principle: Principle, text: str
) -> str:
    """Return what the model says next, and write it to the trail, a failure too."""
    sampling = talk.how.sampling
    seed = seed_from(sampling.seed, prompt_hash(talk.messages), action, number)
    found, status, evidence = "", "scored", ""
    try:
        said = await talk.model.say(
            messages, temperature=sampling.temperature, max_tokens=sampling.max_tokens, seed=seed
        )
        found = said.text.strip()
        if not found:
            raise Failed("unparsable", f"the {action} is blank")
    except Failed as error:
        status, evidence = error.status, str(error)
        raise
    finally:
        talk.audit.write(
            action,
            model=talk.model.name,
            prompt=prompt_hash(talk.messages),
            messages=[[m.role, m.content] for m in talk.messages],
            completion=text,
            constitution=talk.constitution.digest,
            principle=principle.name,
            round=number,
            text=found,
            seed=seed,
            temperature=sampling.temperature,
            status=status,
            evidence=evidence,
        )
    return found


def demonstrations(revised: Sequence[Revised], *, every_round: bool) -> list[dict[str, Any]]:
    """Return rows to train on: the prompt with its last revision, or with that of every round.

    A revision that says what an earlier row of the prompt says is not repeated.
    """
    rows = list[dict[str, Any]]()
    for item in revised:
        seen = set[str]()
        for revision in item.revisions if every_round else item.revisions[-1:]:
            if revision.text in seen:
                continue
            seen.add(revision.text)
            rows.append(
                {
                    "prompt": [{"role": m.role, "content": m.content} for m in item.messages],
                    "completion": revision.text,
                    "provenance": {
                        "by": "revision",
                        "round": revision.round,
                        "principle": revision.principle,
                    },
                }
            )
    return rows
