"""Completions of a model behind a chat endpoint: the candidates that feedback is about."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from truing.ai_feedback.audit import Audit, prompt_hash, seed_from
from truing.ai_feedback.speaker import Failed, Speaker
from truing.types import FinishReason, Message


@dataclass(frozen=True, slots=True)
class Sampling:
    """How candidates are drawn; a candidate's own seed follows from the seed, the prompt and its number."""

    temperature: float = 1.0
    max_tokens: int = 256
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Candidate:
    """One completion, the seed that it was drawn from, and whether the length limit cut it."""

    text: str
    seed: int
    finish_reason: FinishReason
    num_tokens: int


async def candidates(
    policy: Speaker, messages: Sequence[Message], count: int, how: Sampling, audit: Audit
) -> list[Candidate]:
    """Return `count` completions of a conversation, without those that failed or are blank.

    The trail holds all of them, and why one is missing.
    """

    async def one(seed: int) -> Candidate | None:
        found, status, evidence = None, "scored", ""
        try:
            said = await policy.say(
                messages, temperature=how.temperature, max_tokens=how.max_tokens, seed=seed
            )
        except Failed as error:
            status, evidence = error.status, str(error)
        else:
            if said.text.strip():
                found = Candidate(said.text.strip(), seed, said.finish_reason, said.num_tokens)
            else:
                status, evidence = "unparsable", "the completion is blank"
        audit.write(
            "sample",
            model=policy.name,
            prompt=prompt_hash(messages),
            messages=[[m.role, m.content] for m in messages],
            completion=found.text if found else None,
            temperature=how.temperature,
            max_tokens=how.max_tokens,
            seed=seed,
            status=status,
            evidence=evidence,
        )
        return found

    key = (how.seed, prompt_hash(messages))
    drawn = await asyncio.gather(*(one(seed_from(*key, i)) for i in range(count)))
    return [c for c in drawn if c is not None]
