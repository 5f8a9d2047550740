"""One round of self-rewarding: candidates, the policy's own scores, pairs, and what an outsider says.

The policy judges itself, so nothing inside the loop notices when its taste and its words drift together. A
fixed outsider does: a verifier where the rows have a reference, or a judge that is not trained. Its score
and how often it agrees with the policy's pairs are reported each round, and train nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from truing.ai_feedback.audit import Audit, prompt_hash
from truing.ai_feedback.candidates import Candidate, Sampling, candidates
from truing.ai_feedback.score import Scored, Scoring, score
from truing.ai_feedback.speaker import Speaker
from truing.rewards import RewardTerm
from truing.types import Completion, Message, Prompt


@dataclass(frozen=True, slots=True)
class Outsider:
    """What watches and is never trained: a verifier, a fixed judge, or neither."""

    term: RewardTerm | None = None
    judge: Speaker | None = None


@dataclass(frozen=True, slots=True)
class Judged:
    """A candidate, the policy's own score of it, and the outsider's (0 to 1, or a judge's 0 to 5)."""

    candidate: Candidate
    own: Scored
    outside: float | None


@dataclass(frozen=True, slots=True)
class Group:
    """The judged candidates of one prompt."""

    messages: tuple[Message, ...]
    judged: tuple[Judged, ...]

    def pair(self) -> tuple[Judged, Judged] | None:
        """Return the candidates of highest and of lowest score; None for a tie or fewer than two scores."""
        scored = [j for j in self.judged if j.own.score is not None]
        if len(scored) < 2:
            return None
        best, worst = max(scored, key=_score), min(scored, key=_score)
        same = best.candidate.text == worst.candidate.text
        return None if _score(best) == _score(worst) or same else (best, worst)


def _score(judged: Judged) -> float:
    assert judged.own.score is not None
    return judged.own.score


@dataclass(frozen=True, slots=True)
class Round:
    """How a round goes.

    Args:
        count: candidates of each prompt.
        sampling: of the candidates.
        scoring: of each by the policy.
        outsider: what watches.
    """

    count: int
    sampling: Sampling
    scoring: Scoring
    outsider: Outsider


async def judged_group(policy: Speaker, prompt: Prompt, how: Round, audit: Audit) -> Group:
    """Return one prompt's candidates with what the policy and the outsider say of them."""
    drawn = await candidates(policy, prompt.messages, how.count, how.sampling, audit)

    async def one(candidate: Candidate) -> Judged:
        own = await score(policy, prompt.messages, candidate.text, how.scoring, audit)
        outside = await _outside(how, prompt, candidate, audit)
        return Judged(candidate, own, outside)

    return Group(prompt.messages, tuple(await asyncio.gather(*(one(c) for c in drawn))))


async def _outside(how: Round, prompt: Prompt, candidate: Candidate, audit: Audit) -> float | None:
    term, judge = how.outsider.term, how.outsider.judge
    if judge is not None:
        return (await score(judge, prompt.messages, candidate.text, how.scoring, audit)).score
    if term is None:
        return None
    completion = Completion((), candidate.text, (), candidate.finish_reason)
    verdict = await asyncio.to_thread(term.verdict, prompt, completion)
    audit.write(
        "check",
        model=term.name,
        prompt=prompt_hash(prompt.messages),
        completion=candidate.text,
        status=verdict.status,
        score=verdict.value,
        evidence=verdict.evidence,
    )
    return verdict.value


def pair_rows(groups: Sequence[Group], *, model: str, number: int) -> list[dict[str, Any]]:
    """Return the preference rows of a round: each prompt's best against its worst, ties left out."""
    rows = list[dict[str, Any]]()
    for group in groups:
        pair = group.pair()
        if pair is None:
            continue
        best, worst = pair
        rows.append(
            {
                "prompt": [{"role": m.role, "content": m.content} for m in group.messages],
                "chosen": best.candidate.text,
                "rejected": worst.candidate.text,
                "provenance": {
                    "by": "self", "model": model, "round": number, "scores": [_score(best), _score(worst)],
                    "seeds": [best.candidate.seed, worst.candidate.seed],
                },
            }
        )  # fmt: skip
    return rows


def report(groups: Sequence[Group]) -> dict[str, Any]:
    """Return what a round showed, by name; None where there was nothing to measure.

    own_score, own_score_std: of the policy's scores of all candidates. vote_spread: mean range of the votes
    on one candidate. outside_score: the outsider's mean. agreement: how often the outsider ranks a pair
    as the policy does, among pairs that it does not find equal. mean_tokens: of the candidates;
    chosen_tokens and rejected_tokens of the pairs.
    """
    every = [j for g in groups for j in g.judged]
    own = [j.own.score for j in every if j.own.score is not None]
    pairs = [p for g in groups if (p := g.pair()) is not None]
    spread = [max(j.own.votes) - min(j.own.votes) for j in every if len(j.own.votes) > 1]
    sides = [(a.outside, b.outside) for a, b in pairs if a.outside is not None and b.outside is not None]
    decided = [a > b for a, b in sides if a != b]
    return {
        "prompts": len(groups),
        "candidates": len(every),
        "not_scored": len(every) - len(own),
        "pairs": len(pairs),
        "tied_prompts": len(groups) - len(pairs),
        "own_score": _mean(own),
        "own_score_std": _std(own),
        "pair_gap": _mean([_score(a) - _score(b) for a, b in pairs]),
        "vote_spread": _mean(spread),
        "outside_score": _mean([j.outside for j in every if j.outside is not None]),
        "outside_decided": len(decided),
        "agreement": _mean([float(x) for x in decided]),
        "mean_tokens": _mean([j.candidate.num_tokens for j in every]),
        "chosen_tokens": _mean([a.candidate.num_tokens for a, _ in pairs]),
        "rejected_tokens": _mean([b.candidate.num_tokens for _, b in pairs]),
    }


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _std(values: Sequence[float]) -> float | None:
    mean = _mean(values)
    return None if mean is None else (sum((x - mean) ** 2 for x in values) / len(values)) ** 0.5
