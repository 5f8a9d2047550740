"""ReMax: REINFORCE whose baseline is the reward of the prompt's greedy completion.

Li et al. 2023, arXiv:2310.10505, algorithm 1: A = r(y) - r(y_greedy), the same for every token, times the
log-prob of the completion, averaged over completions. The greedy completion is drawn and scored beside each
prompt, with the same limit and the same verifiers; it is not trained. One completion of a prompt is enough,
and there is no critic. A completion that equals the greedy one teaches nothing. Where the greedy completion
cannot be scored the prompt has no baseline, and its completions count as unscored.

Differs from the paper: with kl_coef > 0 the reward of a token holds -kl_coef k1 of this token AND those after
it (verl's form); the authors' code takes this token's alone, discounts by 0.99 and clips the difference to
+-5. A token is weighted by min(exp(old_logprobs - sampler_logprobs), mismatch_cap) where the sampler reports
log-probs (Yao et al. 2025). The loss has no ratio and no clip: a batch is meant for one update.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from truing.algorithms._policy import (
    Objective,
    objective_terms,
    reference_kl,
    reference_kl_term,
    reinforce_loss,
    scored_only,
    token_advantages,
    with_advantages,
)
from truing.config import DataKind, EntropyCoef, KlRewardCoef, Mismatch, MismatchCap, Options
from truing.math.advantages import returns_to_go, token_rewards
from truing.math.reduce import masked, seq_mean_token_mean, seq_mean_token_sum
from truing.types import Algorithm, Batch, Outputs, Term


class Config(Options):
    """Options of ReMax."""

    data: ClassVar[DataKind] = "prompts"
    learning_rate: ClassVar[tuple[float, float]] = (1e-6, 1e-5)
    only_with: ClassVar[dict[str, str]] = {"mismatch": "mismatch_cap"}

    kl_coef: KlRewardCoef = 0.05
    entropy_coef: EntropyCoef = 0.0
    mismatch: Mismatch = "token_truncate"
    mismatch_cap: MismatchCap = 2.0

    def needs(self) -> frozenset[str]:
        for_kl = {"old_logprobs", "ref_logprobs"} if self.kl_coef else set()
        return frozenset({"logprobs", "entropy", "baselines"} | for_kl)


def _credit(batch: Batch, config: Config) -> Batch:
    batch = scored_only(batch)
    kl = reference_kl(batch, config.kl_coef)
    rewards = token_rewards(batch.require("rewards"), kl, batch.mask, kl_coef=config.kl_coef)
    returns = returns_to_go(rewards, batch.mask)
    advantages = returns - batch.require("baselines")[:, None]
    return with_advantages(replace(batch, returns=returns), advantages)


def _loss(outputs: Outputs, batch: Batch, config: Config) -> list[Term]:
    losses = reinforce_loss(outputs.require("logprobs"), token_advantages(batch), batch.mask)
    terms = objective_terms(
        outputs,
        batch,
        Objective(losses),
        reduction=seq_mean_token_sum,
        mismatch=config.mismatch,
        mismatch_cap=config.mismatch_cap or None,
        entropy_coef=config.entropy_coef,
    )
    greedy = masked(batch.require("baselines")[:, None].expand(batch.mask.shape), batch.mask)
    terms.append(Term("policy/greedy_reward_mean", *seq_mean_token_mean(greedy, batch.mask), 0.0))
    return [*terms, reference_kl_term(outputs, batch)] if config.kl_coef else terms


ALGORITHM = Algorithm(source="arXiv:2310.10505 algorithm 1", config=Config, loss=_loss, credit=_credit)
