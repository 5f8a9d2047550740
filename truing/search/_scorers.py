"""What scores paths: a process reward model (each step), a reward model (the end), a verifier."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from truing.model.forward import calibrated_scores, token_scores
from truing.model.heads import ScalarModel
from truing.model.micro_batches import in_micro_batches
from truing.rewards import RewardTerm, judge_all
from truing.search._budget import distinct_tokens
from truing.search._records import Path
from truing.search._steps import Grammar, step_ends
from truing.train.batches import batch_of_rows
from truing.types import Batch, Completion, Outputs, Prompt, Row


@dataclass(frozen=True, slots=True)
class ProcessScorer:
    """P(step is right) after each step, by a process reward model; a prefix is read as far as it goes.

    Args:
        network: trained by `process_reward`, whose label of a step is on its last token.
        prompts: ids of every problem.
        grammar: where steps end.
        max_tokens: packed tokens of one forward pass.
    """

    network: ScalarModel
    prompts: Sequence[tuple[int, ...]]
    grammar: Grammar
    max_tokens: int
    prefixes: bool = True

    def cost(self, problem: int, paths: Sequence[Path]) -> int:
        """Return the tokens of the prompt and of all steps, what paths share counted once."""
        rows = [self._steps(path) for path in paths]
        return distinct_tokens([self.prompts[problem] + row for row in rows if row])

    def score(self, asks: Sequence[tuple[int, Path]]) -> list[tuple[float, ...]]:
        """Return sigmoid of the logit read at the end of each step."""
        ends = [step_ends(path.tokens, self.grammar) for _, path in asks]
        read = [i for i, places in enumerate(ends) if places]
        if not read:
            return [() for _ in asks]
        batch = _batch([(asks[i][0], self.prompts[asks[i][0]], self._steps(asks[i][1])) for i in read])
        found = in_micro_batches(
            batch, self.max_tokens, lambda part: Outputs(token_scores=token_scores(self.network, part))
        )
        probabilities = torch.sigmoid(found.require("token_scores").double()).cpu()
        scores: list[tuple[float, ...]] = [() for _ in asks]
        for row, i in enumerate(read):
            scores[i] = tuple(probabilities[row, [end - 1 for end in ends[i]]].tolist())
        return scores

    def _steps(self, path: Path) -> tuple[int, ...]:
        ends = step_ends(path.tokens, self.grammar)
        return path.tokens[: ends[-1]] if ends else ()


@dataclass(frozen=True, slots=True)
class OutcomeScorer:
    """One score of a whole completion: sigmoid of what a reward model reads at its last token.

    Of a prefix it is what the model expects of it; train it with `outcome_reward` for that.
    """

    network: ScalarModel
    prompts: Sequence[tuple[int, ...]]
    max_tokens: int
    prefixes: bool = True

    def cost(self, problem: int, paths: Sequence[Path]) -> int:
        """Return the tokens of the prompt and the paths, what they share counted once."""
        return distinct_tokens([self.prompts[problem] + path.tokens for path in paths])

    def score(self, asks: Sequence[tuple[int, Path]]) -> list[tuple[float, ...]]:
        """Return the score of each path, as if it were one step."""
        batch = _batch([(problem, self.prompts[problem], path.tokens) for problem, path in asks])
        found = in_micro_batches(
            batch, self.max_tokens, lambda part: Outputs(scores=calibrated_scores(self.network, part))
        )
        return [(s,) for s in torch.sigmoid(found.require("scores").double()).tolist()]


@dataclass(frozen=True, slots=True)
class VerifierScorer:
    """A verifier's value of a finished completion: of tests or rules that are there when it is used.

    It reads no tokens. A completion that it could not score has no score, which is not a 0.
    """

    term: RewardTerm
    prompts: Sequence[Prompt]
    grammar: Grammar
    prefixes: bool = False

    def cost(self, problem: int, paths: Sequence[Path]) -> int:
        """Return 0: no model reads anything."""
        return 0

    def score(self, asks: Sequence[tuple[int, Path]]) -> list[tuple[float, ...]]:
        """Return the value of each verdict."""
        prompts = [self.prompts[problem] for problem, _ in asks]
        values = values_of(self.term, prompts, [path for _, path in asks], self.grammar)
        return [() if value is None else (value,) for value in values]


def values_of(
    term: RewardTerm, prompts: Sequence[Prompt], paths: Sequence[Path], grammar: Grammar
) -> list[float | None]:
    """Return what a verifier says of each path as a completion of its prompt; None where it is no score."""
    completions = [Completion(p.tokens, grammar.text(p.tokens), (), p.end or "length") for p in paths]
    return [said[term.name].value for said in judge_all([term], prompts, completions)]


def _batch(rows: Sequence[tuple[int, tuple[int, ...], tuple[int, ...]]]) -> Batch:
    """Return the rows as a batch whose groups are the problems, so that they share their prompts."""
    batch = batch_of_rows([Row(str(n), p, tokens, (True,) * len(tokens)) for n, p, tokens in rows])
    return replace(batch, groups=torch.tensor([n for n, _, _ in rows]))
