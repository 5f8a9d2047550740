"""REINFORCE leave-one-out: each completion's baseline is the mean reward of the others of its prompt.

Ahmadian et al. 2024, "Back to Basics", arXiv:2402.14740, section 3.2, after Kool et al. 2019: A_i = r_i -
mean of the other rewards, times the log-prob of the whole completion, averaged over completions. r_i is the
score less kl_coef times the sum of k1 over the completion. The baseline does not depend on the completion
it belongs to, so the estimate of the gradient is unbiased; nothing is divided by a standard deviation.

Differs from the paper: the ratio of a token is clipped at 1 +- 0.2, which changes nothing on the first update
of a batch, and several updates become possible. ratio_level = "product" is TRL's: the ratio of the whole
completion, exp of the SUM of log-ratios, which leaves the clip range after a tiny drift of each token; use
it with one update of a batch. A token is weighted by min(exp(old_logprobs - sampler_logprobs), mismatch_cap)
where the sampler reports log-probs (Yao et al. 2025). kl_coef is 0.05 as in TRL; the paper's is 0.03.
A row that could not be scored leaves the sum and the count of its group.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar, Literal

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
from truing.math.advantages import leave_one_out, standardised
from truing.math.reduce import seq_mean_token_mean, seq_mean_token_sum
from truing.types import Algorithm, Batch, Outputs, Term


class Config(Options):
    """Options of RLOO."""

    data: ClassVar[DataKind] = "prompts"
    learning_rate: ClassVar[tuple[float, float]] = (1e-6, 1e-5)
    min_group_size: ClassVar[int] = 2
    only_with: ClassVar[dict[str, str]] = {"mismatch": "mismatch_cap"}

    kl_coef: KlRewardCoef = 0.05
    normalize: bool = Field(
        False, description="advantages get mean 0 and standard deviation 1 over the batch"
    )
    ratio_level: Literal["token", "product"] = Field(
        "token", description="what is clipped: the ratio of a token, or the product over a completion (TRL)"
    )
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
    rewards = batch.require("rewards") - config.kl_coef * reference_kl(batch, config.kl_coef).sum(-1)
    advantages = leave_one_out(rewards, batch.groups)
    if config.normalize:
        advantages = standardised(advantages, ~rewards.isnan())
    return with_advantages(replace(batch, rewards=rewards), advantages)


def _loss(outputs: Outputs, batch: Batch, config: Config) -> list[Term]:
    """The product is the row's own loss on each of its tokens, so the mean over them gives it back."""
    terms = policy_terms(
        outputs,
        batch,
        reduction=seq_mean_token_sum if config.ratio_level == "token" else seq_mean_token_mean,
        clip_low=config.clip_low,
        clip_high=config.clip_high,
        ratio_level=config.ratio_level,
        mismatch=config.mismatch,
        mismatch_cap=config.mismatch_cap or None,
        entropy_coef=config.entropy_coef,
    )
    return [*terms, reference_kl_term(outputs, batch)] if config.kl_coef else terms


ALGORITHM = Algorithm(source="arXiv:2402.14740 section 3.2", config=Config, loss=_loss, credit=_credit)
