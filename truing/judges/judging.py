"""What is judged, what a judge says of it, and how a chat model's replies become that."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

from truing.config import JudgeOptions
from truing.errors import JudgeError
from truing.judges._background import run
from truing.judges._labels import Labels, expected, read
from truing.judges.client import Chat, Reply
from truing.types import Message, Prompt, Verdict

_NUM_TOP = 20  # what most endpoints give at most


@dataclass(frozen=True, slots=True)
class Item:
    """A prompt and the completions of it that are judged side by side: one, or two."""

    prompt: Prompt
    completions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Vote:
    """One reply as a verdict.

    Args:
        verdict: of a pair, how good the completion in the first slot is.
        swapped: whether the second completion stood in the first slot.
        text: the reply, word for word.
    """

    verdict: Verdict
    swapped: bool = False
    text: str = ""


@dataclass(frozen=True, slots=True)
class Judged:
    """What a judge says of an item, in [0, 1]; of a pair, how good the first completion is: 0.5 is a tie."""

    verdict: Verdict
    votes: tuple[Vote, ...]


def judge_items(
    module: ModuleType, chats: Sequence[Chat], items: Sequence[Item], config: JudgeOptions
) -> list[list[Judged]]:
    """Return what each chat model says of each item, all asked at once: a list of judges a item."""

    async def every() -> list[list[Judged]]:
        asked = [asyncio.gather(*(module.judge(chat, item, config) for chat in chats)) for item in items]
        return [list(found) for found in await asyncio.gather(*asked)]

    return run(every())


async def vote(
    chat: Chat,
    messages: Sequence[Message],
    tags: Mapping[str, Labels],
    config: JudgeOptions,
    *,
    number: int = 0,
    swapped: bool = False,
    reminder: str,
    weights: Mapping[str, float] | None = None,
) -> Vote:
    """Return one vote: the weighted mean of the labels that the reply gives in its verdict tags.

    Args:
        chat: who is asked.
        messages: the whole request.
        tags: what each tag of the reply may hold, and what that is worth.
        config: how it is asked.
        number: of the vote; it moves the seed.
        swapped: kept in the vote.
        reminder: what follows a reply without a verdict.
        weights: of the tags; all the same when None.
    """
    start, said, problem = time.perf_counter(), list(messages), ""
    reply = Reply("")
    for _ in range(config.reminders + 1):
        try:
            reply = await chat.chat(
                said,
                temperature=config.temperature,
                max_tokens=config.max_tokens,
                seed=config.seed + number if config.temperature > 0 else None,
                top_logprobs=_NUM_TOP if config.use_logprobs else 0,
            )
        except JudgeError as error:
            return Vote(Verdict(error.status, None, str(error), time.perf_counter() - start), swapped)
        if reply.refusal or reply.finish_reason == "content_filter":
            why = f"it refuses: {reply.refusal or reply.text or reply.finish_reason!r:.200}"
            return Vote(Verdict("refused", None, why, time.perf_counter() - start), swapped, reply.text)
        verdict = _verdict(reply, tags, config, weights)
        if verdict.status != "unparsable":
            return Vote(replace(verdict, time_s=time.perf_counter() - start), swapped, reply.text)
        problem = verdict.evidence
        said += [Message("assistant", reply.text), Message("user", reminder)]
    return Vote(Verdict("unparsable", None, problem, time.perf_counter() - start), swapped, reply.text)


def _verdict(
    reply: Reply, tags: Mapping[str, Labels], config: JudgeOptions, weights: Mapping[str, float] | None
) -> Verdict:
    if reply.finish_reason == "length" and config.reasons:
        return Verdict("unparsable", evidence=f"the reply is cut at {config.max_tokens} tokens")
    if config.use_logprobs and reply.logprobs is None:
        return Verdict("failed", evidence="the endpoint gives no log-probs: use_logprobs = false")
    total, share, words = 0.0, 0.0, list[str]()
    for tag, labels in tags.items():
        name = tag if config.reasons else None
        value, evidence = expected(reply, name, labels) if config.use_logprobs else read(reply, name, labels)
        if value is None:
            return Verdict("unparsable", evidence=evidence)
        weight = 1.0 if weights is None else weights[tag]
        total, share = total + weight * value, share + weight
        words.append(evidence)
    return Verdict("scored", total / share, "; ".join(words))


def combine_votes(votes: Sequence[Vote]) -> Verdict:
    """Return the mean of the votes; a failure where at most half of them were scored."""
    values = [v.verdict.value for v in votes if v.verdict.value is not None]
    time_s = sum(v.verdict.time_s for v in votes)
    if 2 * len(values) > len(votes):
        first = next(v.verdict.evidence for v in votes if v.verdict.value is not None)
        more = f" (mean of {len(values)} of {len(votes)} votes)" if len(votes) > 1 else ""
        return Verdict("scored", sum(values) / len(values), first + more, time_s)
    failed = [v.verdict for v in votes if v.verdict.value is None]
    status = Counter(v.status for v in failed).most_common(1)[0][0]
    evidence = next(v.evidence for v in failed if v.status == status)
    more = f" ({len(failed)} of {len(votes)} votes have no verdict)" if len(votes) > 1 else ""
    return Verdict(status, None, evidence + more, time_s)


async def single(
    chat: Chat,
    messages: Sequence[Message],
    tags: Mapping[str, Labels],
    config: Any,
    *,
    reminder: str,
    weights: Mapping[str, float] | None = None,
) -> Judged:
    """Return what `config.votes` replies to one request say together."""
    asked = (
        vote(chat, messages, tags, config, number=k, reminder=reminder, weights=weights)
        for k in range(config.votes)
    )
    votes = tuple(await asyncio.gather(*asked))
    return Judged(combine_votes(votes), votes)
