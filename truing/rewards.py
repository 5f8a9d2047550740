"""Verdicts, scores and lengths become one scalar: gates, bounds, scales and weights.

    reward = sum_k weight_k scale_k(min(ceiling_k, max(floor_k, value_k)))

where every gate's value reaches its threshold; else the reward is what the first gate that is missed gives.
Statistics of a scale are over the completions that pass. A completion of which any term could not say
anything has no reward.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from truing import plugins
from truing.config import Reward
from truing.math.advantages import Scale, group_advantages, standardised
from truing.terms import Written
from truing.types import Completion, Prompt, Verdict

if TYPE_CHECKING:
    from truing.judges.client import Chat

Verify = Callable[[str, Any, Any], Verdict]
Measure = Callable[[Sequence[Written], Any], Sequence[float | Verdict]]
SCORES = "reward_model"  # the name of the term that a stage's reward models are


@dataclass(frozen=True, slots=True)
class Shape:
    """What becomes of a term's value before its weight; the fields are those of `truing.config.Reward`."""

    floor: float | None = None
    ceiling: float | None = None
    scale: Scale = "none"
    gate: bool = False
    threshold: float = 0.5
    failed: float = 0.0


@dataclass(frozen=True, slots=True)
class RewardTerm:
    """One named verifier with its checked options and its weight."""

    name: str
    weight: float
    verify: Verify
    config: Any
    shape: Shape = field(default_factory=Shape)

    def verdict(self, prompt: Prompt, completion: Completion) -> Verdict:
        """Return what this term's verifier says of the completion."""
        return self.verify(completion.text, prompt.reference, self.config)


@dataclass(frozen=True, slots=True)
class BatchTerm:
    """One named function of all completions of a step, such as a length penalty."""

    name: str
    weight: float
    measure: Measure
    config: Any
    shape: Shape = field(default_factory=Shape)


@dataclass(frozen=True, slots=True)
class ScoreTerm:
    """The score of the stage's reward models."""

    name: str = SCORES
    weight: float = 1.0
    shape: Shape = field(default_factory=Shape)


@dataclass(frozen=True, slots=True)
class JudgeTerm:
    """One named judge: a chat model that is asked about all completions of a step at once."""

    name: str
    weight: float
    judge: ModuleType
    chat: Chat
    config: Any
    shape: Shape = field(default_factory=Shape)

    def verdicts(self, prompts: Sequence[Prompt], completions: Sequence[Completion]) -> list[Verdict]:
        """Return what the judge says of each completion."""
        from truing.judges.judging import Item, judge_items

        items = [Item(p, (c.text,)) for p, c in zip(prompts, completions, strict=True)]
        return [judged[0].verdict for judged in judge_items(self.judge, [self.chat], items, self.config)]


AnyTerm = RewardTerm | BatchTerm | JudgeTerm | ScoreTerm


@dataclass(frozen=True, slots=True)
class Composed:
    """The reward of a completion, and where gates and bounds took effect, by metric name (0 or 1)."""

    reward: float | None
    facts: Mapping[str, float] = field(default_factory=dict)


def load_term(name: str, verifier: str, weight: float, options: Mapping[str, Any]) -> RewardTerm:
    """Return the term of a verifier by name, dotted path or file path."""
    module = plugins.load("verifiers", verifier)
    return RewardTerm(name, weight, module.verify, module.Config(**options))


def load_terms(tables: Mapping[str, Reward], *, scored: bool = False) -> list[AnyTerm]:
    """Return the terms of a stage's [rewards.NAME] tables, in their order.

    Args:
        scored: the stage has reward models: without a table of its own their score counts as it is.
    """
    terms = [_load(name, table) for name, table in tables.items()]
    return [*terms, ScoreTerm()] if scored and SCORES not in tables else terms


def _load(name: str, table: Reward) -> AnyTerm:
    shape = Shape(table.floor, table.ceiling, table.scale, table.gate, table.threshold, table.failed)
    if table.verifier is not None:
        module = plugins.load("verifiers", table.verifier)
        return RewardTerm(name, table.weight, module.verify, module.Config(**table.options), shape)
    if table.term is not None:
        module = plugins.load("terms", table.term)
        return BatchTerm(name, table.weight, module.measure, module.Config(**table.options), shape)
    if table.judge is not None and table.endpoint is not None:
        from truing.judges.client import judge_from  # openai, which only judges need

        module = plugins.load("judges", table.judge)
        return JudgeTerm(
            name, table.weight, module, judge_from(table.endpoint), module.Config(**table.options), shape
        )
    return ScoreTerm(name, table.weight, shape)


def compose(
    terms: Sequence[AnyTerm], verdicts: Sequence[Mapping[str, Verdict]], groups: Sequence[int]
) -> list[Composed]:
    """Return the reward of each completion.

    Args:
        terms: every one has a verdict on every completion that all of them could score.
        verdicts: of each completion, by the term's name.
        groups: the number of its prompt.
    """
    scored = [i for i, said in enumerate(verdicts) if all(v.value is not None for v in said.values())]
    values = {
        t.name: torch.tensor([verdicts[i][t.name].value for i in scored], dtype=torch.float64) for t in terms
    }
    total, facts = _compose(terms, values, torch.tensor([groups[i] for i in scored], dtype=torch.long))
    found = [Composed(None) for _ in verdicts]
    for place, (i, reward) in enumerate(zip(scored, total.tolist(), strict=True)):
        found[i] = Composed(reward, {name: row[place] for name, row in facts.items()})
    return found


def _compose(
    terms: Sequence[AnyTerm], values: Mapping[str, Tensor], groups: Tensor
) -> tuple[Tensor, dict[str, list[float]]]:
    """Return the rewards of scored completions, and the facts of each."""
    total = torch.zeros(len(groups), dtype=torch.float64)
    passed = torch.ones(len(groups), dtype=torch.bool)
    for term in terms:
        if term.shape.gate:
            passed &= values[term.name] >= term.shape.threshold
    for term in terms:
        total = total + term.weight * _shaped(values[term.name], passed, groups, term.shape)
    for term in reversed(terms):  # the first gate that is missed has the last word
        if term.shape.gate:
            missed = values[term.name] < term.shape.threshold
            total = torch.where(missed, torch.full_like(total, term.shape.failed), total)
    return total, {name: row for term in terms for name, row in _facts(term, values[term.name]).items()}


def _shaped(values: Tensor, passed: Tensor, groups: Tensor, shape: Shape) -> Tensor:
    bounded = values
    if shape.floor is not None or shape.ceiling is not None:
        bounded = values.clamp(min=shape.floor, max=shape.ceiling)
    if shape.scale == "batch":
        return standardised(bounded, passed)
    if shape.scale == "group":
        return group_advantages(bounded.masked_fill(~passed, torch.nan), groups)
    return bounded


def _facts(term: AnyTerm, values: Tensor) -> dict[str, list[float]]:
    shape, found = term.shape, dict[str, Tensor]()
    if shape.gate:
        found["failed"] = values < shape.threshold
    if shape.ceiling is not None:
        found["ceiling"] = values >= shape.ceiling
    if shape.floor is not None:
        found["floor"] = values <= shape.floor
    return {f"reward/{term.name}_{what}_share": at.double().tolist() for what, at in found.items()}


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
