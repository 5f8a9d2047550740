"""Held-out prompts, sampled by the policy and verified: pass rate with its interval."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from truing.evals.statistics import wilson_interval
from truing.rewards import RewardTerm, judge_all
from truing.rollout.sampler import Sampler, SamplingParams
from truing.train.drift import KlOf, drift
from truing.types import Completion, Prompt, Verdict


@dataclass(frozen=True, slots=True)
class Evaluator:
    """A fixed set of prompts and the verifier that passes or fails a completion (value >= 0.5)."""

    prompts: Sequence[Prompt]
    prompt_tokens: Sequence[tuple[int, ...]]
    term: RewardTerm
    params: SamplingParams
    kl_of: KlOf | None = None  # measures how far the policy is from where the stage began

    def run(self, sampler: Sampler) -> tuple[dict[str, Any], list[tuple[Completion, Verdict]]]:
        """Return the record of one evaluation, and each prompt's completion with its verdict.

        A completion that could not be scored is not a fail: it leaves the rate and is counted by status.
        """
        groups = sampler.generate(self.prompt_tokens, self.params)
        completions = [g[0] for g in groups]
        verdicts = [v[self.term.name] for v in judge_all([self.term], self.prompts, completions)]
        scored = [v.value for v in verdicts if v.value is not None]
        passed = sum(value >= 0.5 for value in scored)
        low, high = wilson_interval(passed, len(scored)) if scored else (0.0, 1.0)
        record = {
            "num_prompts": len(self.prompts),
            "num_scored": len(scored),
            "passed": passed,
            "rate": passed / len(scored) if scored else None,
            "low": low,
            "high": high,
            "mean_tokens": sum(len(c.tokens) for c in completions) / len(completions),
            "truncated": sum(c.finish_reason == "length" for c in completions),
            "statuses": dict(Counter(v.status for v in verdicts)),
            "outcomes": [None if v.value is None else int(v.value >= 0.5) for v in verdicts],
        }
        if self.kl_of is not None:
            found = drift(self.kl_of, self.prompts, self.prompt_tokens, completions)
            record |= {"kl": found.kl, "kl_low": found.low, "kl_high": found.high}
        return record, list(zip(completions, verdicts, strict=True))
