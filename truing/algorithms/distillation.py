"""On-policy distillation: the student writes, the teacher marks every token.

Agarwal et al. 2024 (GKD), arXiv:2306.13649, with reverse KL on the student's own completions; Gu et al.
2024 (MiniLLM), arXiv:2306.08543, for discount 1. The advantage of a token is log pi_teacher - log
pi_student at the token drawn: minus one sample of the reverse KL. There is no reward and no verifier: the
recipe's `reference` names the TEACHER, which must have the student's vocabulary.

discount = 0, the default, is GKD's objective: a token answers for its own divergence, and no gradient goes
through how earlier tokens chose the state. discount = 1 is the full gradient of the KL of whole completions,
with far more variance. Both are checked by enumeration.

Differs from the paper: GKD sums the divergence over the vocabulary at each token; this takes the sampled
token's, which is the same in expectation and needs no teacher logits. Tokens are summed over a completion
where GKD divides by its length, for a length that the student chose would bias that estimate. PPO's clip
bounds the ratio once a batch is used for several updates. A token is weighted by min(exp(old_logprobs -
sampler_logprobs), mismatch_cap) where the sampler reports log-probs (Yao et al. 2025).
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from truing.algorithms._policy import old_logprobs, policy_terms, with_advantages
from truing.config import ClipHigh, ClipLow, DataKind, EntropyCoef, Mismatch, MismatchCap, Options
from truing.math.advantages import returns_to_go
from truing.math.kl import k1
from truing.math.ratios import log_ratio
from truing.math.reduce import seq_mean_token_sum, token_mean
from truing.types import Algorithm, Batch, Outputs, Term


class Config(Options):
    """Options of on-policy distillation."""

    data: ClassVar[DataKind] = "prompts"
    learning_rate: ClassVar[tuple[float, float]] = (1e-6, 1e-5)
    rewarded: ClassVar[bool] = False
    reference_required: ClassVar[bool] = True
    only_with: ClassVar[dict[str, str]] = {"mismatch": "mismatch_cap"}

    discount: float = Field(
        0.0, ge=0, le=1, description="of later tokens' divergence; 0: each its own, 1: of the whole rest"
    )
    clip_low: ClipLow = 0.2
    clip_high: ClipHigh = 0.2
    entropy_coef: EntropyCoef = 0.0
    mismatch: Mismatch = "token_truncate"
    mismatch_cap: MismatchCap = 2.0

    def needs(self) -> frozenset[str]:
        return frozenset({"logprobs", "entropy", "old_logprobs", "ref_logprobs"})


def _credit(batch: Batch, config: Config) -> Batch:
    divergence = k1(log_ratio(batch.require("old_logprobs"), batch.require("ref_logprobs"), batch.mask))
    return with_advantages(batch, returns_to_go(-divergence, batch.mask, discount=config.discount))


def _loss(outputs: Outputs, batch: Batch, config: Config) -> list[Term]:
    terms = policy_terms(
        outputs,
        batch,
        reduction=seq_mean_token_sum,
        clip_low=config.clip_low,
        clip_high=config.clip_high,
        mismatch=config.mismatch,
        mismatch_cap=config.mismatch_cap or None,
        entropy_coef=config.entropy_coef,
    )
    divergence = log_ratio(old_logprobs(outputs, batch), batch.require("ref_logprobs"), batch.mask)
    return [*terms, Term("kl/teacher_mean", *token_mean(divergence, batch.mask), 0.0)]


ALGORITHM = Algorithm(source="arXiv:2306.13649; arXiv:2306.08543", config=Config, loss=_loss, credit=_credit)
