"""Preference pairs from prompts: candidates sampled or given, compared by a model, written as rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from truing.ai_feedback.audit import Audit, prompt_hash
from truing.ai_feedback.candidates import Sampling, candidates
from truing.ai_feedback.compare import Comparing, Comparison, compare
from truing.ai_feedback.constitution import Loaded, drawn
from truing.ai_feedback.judged import Plugged, compare_by
from truing.ai_feedback.prompts import filled
from truing.ai_feedback.speaker import Speaker
from truing.data import columns
from truing.data.readers import SourceRow
from truing.errors import DataError
from truing.types import Message


@dataclass(frozen=True, slots=True)
class Task:
    """A prompt, and the completions that its row brings, none where they are to be sampled."""

    messages: tuple[Message, ...]
    completions: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Labelled:
    """A pair and its comparison; `reason` says why there is none."""

    messages: tuple[Message, ...]
    completions: tuple[str, str] | None
    comparison: Comparison | None = None
    principle: str | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Labelling:
    """How prompts become labelled pairs.

    Args:
        policy: what writes the candidates; None where every row brings its own.
        judge: what compares them.
        count: candidates of each prompt, compared two by two: first with second, third with fourth.
        sampling: of the candidates.
        comparing: reasons, clamp, votes and the seed.
        constitution: whose comparing principles are drawn, one a pair; None asks for the better reply.
        plugged: a judge of `truing/judges/` that asks instead, in its own words.
    """

    policy: Speaker | None
    judge: Speaker
    count: int = 2
    sampling: Sampling = field(default_factory=Sampling)
    comparing: Comparing = field(default_factory=Comparing)
    constitution: Loaded | None = None
    plugged: Plugged | None = None


def task_of(row: SourceRow) -> Task:
    """Return the prompt of a row and its completions: a list `completions`, or `chosen` and `rejected`.

    Raises:
        DataError: there is no prompt, or the completions are not at least two texts.
    """
    if row.values.get("completions") is not None:
        given = row.values["completions"]
        if not isinstance(given, list) or len(given) < 2 or not all(isinstance(c, str) for c in given):
            raise DataError(f"{row.where}: 'completions' must be a list of at least two texts")
        return Task(columns.prompt(row), tuple(given))
    if row.values.get("chosen") is not None:
        pair = columns.pair(row)
        sides = (pair.chosen, pair.rejected)
        if any(len(side) != 1 for side in sides):
            raise DataError(f"{row.where}: a side of several turns cannot be compared; give one turn")
        return Task(pair.prompt, tuple(side[0].content for side in sides))
    return Task(columns.prompt(row))


async def label(task: Task, how: Labelling, audit: Audit) -> list[Labelled]:
    """Return the labelled pairs of one prompt; what fails is returned with its reason."""
    texts = task.completions
    if not texts:
        assert how.policy is not None, "the command asks for a policy where rows bring no completions"
        found = await candidates(how.policy, task.messages, how.count, how.sampling, audit)
        texts = tuple(c.text for c in found)
        if len(texts) < how.count:
            return [Labelled(task.messages, None, reason="a candidate failed")]
    pairs = zip(texts[::2], texts[1::2], strict=False)  # an odd one out stays alone
    return [await _label_pair(task, pair, n, how, audit) for n, pair in enumerate(pairs)]


async def _label_pair(
    task: Task, pair: tuple[str, str], number: int, how: Labelling, audit: Audit
) -> Labelled:
    if pair[0] == pair[1]:
        return Labelled(task.messages, pair, reason="the two completions are the same")
    if how.plugged is not None:
        return _labelled(
            task, pair, await compare_by(how.plugged, how.judge, task.messages, pair, audit), None
        )
    question, principle = filled("better"), None
    if how.constitution is not None:
        key = (how.comparing.seed, prompt_hash(task.messages), number)
        found = drawn(how.constitution.comparing(), *key)
        assert found.compare is not None
        question, principle = found.compare, found.name
    said = await compare(how.judge, task.messages, pair, question, how.comparing, audit, principle=principle)
    return _labelled(task, pair, said, principle)


def _labelled(task: Task, pair: tuple[str, str], said: Comparison, principle: str | None) -> Labelled:
    reason = "" if said.status == "scored" else f"{said.status}: {said.evidence}"
    return Labelled(task.messages, pair, said, principle, reason)


def preference_rows(labelled: Sequence[Labelled], how: Labelling, *, hard: bool) -> list[dict[str, Any]]:
    """Return the rows of what was scored, the likelier side as chosen.

    Args:
        labelled: the pairs.
        how: named in each row's provenance.
        hard: leave `preference` out, for methods that take every label for certain; ties are dropped.
    """
    rows = list[dict[str, Any]]()
    for item in labelled:
        if item.comparison is None or item.comparison.preference is None or item.completions is None:
            continue
        p, (one, two) = item.comparison.preference, item.completions
        if hard and p == 0.5:
            continue
        chosen, rejected = (one, two) if p >= 0.5 else (two, one)
        row: dict[str, Any] = {
            "prompt": [{"role": m.role, "content": m.content} for m in item.messages],
            "chosen": chosen,
            "rejected": rejected,
        }
        row |= {} if hard else {"preference": max(p, 1 - p)}
        rows.append({**row, "provenance": _provenance(item, how)})
    return rows


def _provenance(item: Labelled, how: Labelling) -> dict[str, Any]:
    said = item.comparison
    assert said is not None
    return {
        "by": "model",
        "judge": how.judge.name,
        "policy": None if how.policy is None else how.policy.name,
        "label_from": said.by,
        "consistent": said.consistent,
        "principle": item.principle,
        "constitution": None if how.constitution is None else how.constitution.digest,
        "reasons": how.comparing.reason,
        "seed": how.comparing.seed,
    }


def health(labelled: Sequence[Labelled]) -> dict[str, Any]:
    """Return how the labelling went: counts, position consistency, first-slot and length preference."""
    scored = [x for x in labelled if x.comparison is not None and x.comparison.status == "scored"]
    said = [x.comparison for x in scored if x.comparison is not None]
    slots = [p for c in said for p in (c.p_given, c.p_swapped) if p is not None]
    longer = [_longer_wins(x) for x in scored]
    decided = [x for x in longer if x is not None]
    return {
        "pairs": len(labelled),
        "scored": len(scored),
        "not_scored": dict(Counter(x.reason.split(":")[0] for x in labelled if x.reason)),
        "label_from": dict(Counter(c.by for c in said)),
        "position_consistency": _mean([float(bool(c.consistent)) for c in said]),
        "first_slot_preference": _mean(slots),
        "longer_preferred": _mean([float(x) for x in decided]),
        "mean_certainty": _mean([abs(2 * c.preference - 1) for c in said if c.preference is not None]),
    }


def _longer_wins(item: Labelled) -> bool | None:
    assert item.comparison is not None and item.completions is not None
    gap, p = len(item.completions[0]) - len(item.completions[1]), item.comparison.preference
    return None if gap == 0 or p is None or p == 0.5 else (gap > 0) == (p > 0.5)


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
