"""Group Relative Policy Optimization: a group's rewards are its own baseline; there is no critic.

Shao et al. 2024 (DeepSeekMath), arXiv:2402.03300, eq. 3-4 and section 4.1.2: A_i = (r_i - mean) / std over
the completions of one prompt, PPO's clipped surrogate, averaged over the tokens of each completion and
then over completions (seq_mean_token_mean), plus kl_coef times k3 of policy and reference.

Differs from the paper: kl_coef is 0 by default (theirs is 0.04), as in most later work with verifiable
rewards; with kl_coef > 0 the term is theirs. A token is weighted by min(exp(old_logprobs -
sampler_logprobs), mismatch_cap) where the sampler reports log-probs (Yao et al. 2025). The standard
deviation has Bessel's correction.

A loss near 0 is normal, since advantages of a group sum to 0. Groups whose rewards are all equal teach
nothing: watch policy/dead_group_share.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar, Literal

from pydantic import Field, model_validator

from truing.algorithms._policy import policy_terms, reference_kl_term, scored_only, token_log_ratios
from truing.config import DataKind, Options
from truing.math.advantages import group_advantages
from truing.math.kl import kl_loss
from truing.math.ratios import log_ratio, token_ratio
from truing.math.reduce import masked, seq_mean_token_mean
from truing.types import Algorithm, Batch, Outputs, Term


class Config(Options):
    """Options of GRPO."""

    data: ClassVar[DataKind] = "prompts"
    learning_rate: ClassVar[tuple[float, float]] = (1e-6, 1e-5)
    min_group_size: ClassVar[int] = 2

    clip_low: float = Field(0.2, gt=0, lt=1, description="the ratio counts down to 1 - clip_low")
    clip_high: float = Field(
        0.2, gt=0, allow_inf_nan=False, description="the ratio counts up to 1 + clip_high"
    )
    dual_clip: float | None = Field(None, gt=1, description="bound on ratio where the advantage is negative")
    scale_rewards: Literal["group", "batch", "none"] = Field(
        "group", description="what advantages are divided by: the std of the group, of the batch, or nothing"
    )
    kl_coef: float = Field(
        0.0, ge=0, allow_inf_nan=False, description="weight of the KL term; the paper's: 0.04"
    )
    kl_estimator: Literal["k2", "k3", "k3_ratio"] = Field(
        "k3", description="k3: the paper's, of forward-KL gradient; k2 and k3_ratio: of reverse-KL gradient"
    )
    entropy_coef: float = Field(0.0, ge=0, allow_inf_nan=False, description="weight of the entropy bonus")
    mismatch_cap: float = Field(
        2.0, ge=0, description="cap of the weight that corrects sampler log-probs; 0: no correction"
    )

    @model_validator(mode="after")
    def _kl_estimator_has_use(self) -> Config:
        if self.kl_coef == 0 and self.kl_estimator != "k3":
            raise ValueError("kl_estimator does nothing while kl_coef is 0: set kl_coef, or leave it out")
        return self

    def needs(self) -> frozenset[str]:
        return frozenset({"logprobs", "entropy"} | ({"ref_logprobs"} if self.kl_coef else set()))


def _credit(batch: Batch, config: Config) -> Batch:
    batch = scored_only(batch)
    advantages = group_advantages(batch.require("rewards"), batch.groups, scale=config.scale_rewards)
    return replace(batch, advantages=masked(advantages[:, None].expand(batch.mask.shape), batch.mask))


def _loss(outputs: Outputs, batch: Batch, config: Config) -> list[Term]:
    terms = policy_terms(
        outputs,
        batch,
        reduction=seq_mean_token_mean,
        clip_low=config.clip_low,
        clip_high=config.clip_high,
        dual_clip=config.dual_clip,
        mismatch_cap=config.mismatch_cap or None,
        entropy_coef=config.entropy_coef,
    )
    return terms + _kl_terms(outputs, batch, config) if config.kl_coef else terms


def _kl_terms(outputs: Outputs, batch: Batch, config: Config) -> list[Term]:
    from_reference = log_ratio(outputs.require("logprobs"), batch.require("ref_logprobs"), batch.mask)
    ratio = token_ratio(token_log_ratios(outputs, batch))
    losses = kl_loss(from_reference, estimator=config.kl_estimator, ratio=ratio)
    term = Term("loss/kl", *seq_mean_token_mean(losses, batch.mask), config.kl_coef)
    return [term, reference_kl_term(outputs, batch)]


ALGORITHM = Algorithm(source="arXiv:2402.03300 eq. 3-4", config=Config, loss=_loss, credit=_credit)
