"""Verdicts become one scalar: the weighted sum of what was scored."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from truing import plugins
from truing.types import Completion, Prompt, Verdict

Verify = Callable[[str, Any, Any], Verdict]


@dataclass(frozen=True, slots=True)
class RewardTerm:
    """One named verifier with its checked options and its weight."""

    name: str
    weight: float
    verify: Verify
    config: Any

    def verdict(self, prompt: Prompt, completion: Completion) -> Verdict:
        """Return what this term's verifier says of the completion."""
        return self.verify(completion.text, prompt.reference, self.config)


def load_term(name: str, verifier: str, weight: float, options: Mapping[str, Any]) -> RewardTerm:
    """Return the term of a verifier by name, dotted path or file path."""
    module = plugins.load("verifiers", verifier)
    return RewardTerm(name, weight, module.verify, module.Config(**options))


def combine(verdicts: Mapping[str, Verdict], weights: Mapping[str, float]) -> float | None:
    """Return sum_k weight_k value_k, or None when any term could not be scored."""
    total = 0.0
    for name, verdict in verdicts.items():
        if verdict.value is None:
            return None
        total += weights[name] * verdict.value
    return total


def judge_all(
    terms: Sequence[RewardTerm],
    prompts: Sequence[Prompt],
    completions: Sequence[Completion],
    *,
    workers: int = 2,
) -> list[dict[str, Verdict]]:
    """Return the verdicts of every term on every completion, `workers` completions at a time."""

    def judge(pair: tuple[Prompt, Completion]) -> dict[str, Verdict]:
        return {term.name: term.verdict(*pair) for term in terms}

    with ThreadPoolExecutor(max_workers=workers) as pool:
        return list(pool.map(judge, zip(prompts, completions, strict=True)))
