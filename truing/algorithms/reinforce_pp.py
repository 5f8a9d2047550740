"""REINFORCE++: one completion of a prompt, KL in the reward, advantages normalised over the whole batch.

Hu 2025, arXiv:2501.03262: the return of a token is the score less kl_coef times the k1 of this token and
those after it; advantages are (G - mean) / std over ALL trained tokens of the batch; PPO's clipped surrogate.
There is no critic, and no group is needed, so every prompt of the budget can be another one. Statistics
need a large batch: 256 completions or more.

Differs from the paper: a token is weighted by min(exp(old_logprobs - sampler_logprobs), mismatch_cap)
where the sampler reports log-probs (Yao et al. 2025). The variance is the population's, as in OpenRLHF; verl
takes Bessel's correction. Both weigh by token, so long completions count for more in the statistics.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from pydantic import Field

from truing.algorithms._policy import (
    policy_terms,
    reference_kl,
    reference_kl_term,
    scored_only,
    with_advantages,
)
from truing.config import (
    ClipHigh,
    ClipLow,
    DataKind,
    EntropyCoef,
    KlRewardCoef,
    Mismatch,
    MismatchCap,
    Options,
)
from truing.math.advantages import returns_to_go, token_rewards, whiten
from truing.math.reduce import token_mean
from truing.types import Algorithm, Batch, Outputs, Term


class Config(Options):
    """Options of REINFORCE++."""

    data: ClassVar[DataKind] = "prompts"
    learning_rate: ClassVar[tuple[float, float]] = (5e-7, 5e-6)
    only_with: ClassVar[dict[str, str]] = {"mismatch": "mismatch_cap"}

    kl_coef: KlRewardCoef = 0.01
    discount: float = Field(1.0, ge=0, le=1, description="per token")
    clip_low: ClipLow = 0.2
    clip_high: ClipHigh = 0.2
    entropy_coef: EntropyCoef = 0.0
    mismatch: Mismatch = "token_truncate"
    mismatch_cap: MismatchCap = 2.0

    def needs(self) -> frozenset[str]:
        for_kl = {"old_logprobs", "ref_logprobs"} if self.kl_coef else set()
        return frozenset({"logprobs", "entropy"} | for_kl)


def _credit(batch: Batch, config: Config) -> Batch:
    batch = scored_only(batch)
    kl = reference_kl(batch, config.kl_coef)
    rewards = token_rewards(batch.require("rewards"), kl, batch.mask, kl_coef=config.kl_coef)
    returns = returns_to_go(rewards, batch.mask, discount=config.discount)
    return with_advantages(replace(batch, returns=returns), whiten(returns, batch.mask, correction=0))


def _loss(outputs: Outputs, batch: Batch, config: Config) -> list[Term]:
    terms = policy_terms(
        outputs,
        batch,
        reduction=token_mean,
        clip_low=config.clip_low,
        clip_high=config.clip_high,
        mismatch=config.mismatch,
        mismatch_cap=config.mismatch_cap or None,
        entropy_coef=config.entropy_coef,
    )
    return [*terms, reference_kl_term(outputs, batch)] if config.kl_coef else terms


ALGORITHM = Algorithm(source="arXiv:2501.03262", config=Config, loss=_loss, credit=_credit)
