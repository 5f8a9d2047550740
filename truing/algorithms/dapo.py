"""Decoupled clip and dynamic sampling policy optimization (DAPO): GRPO with four changes and no KL.

Yu et al. 2025, arXiv:2503.14476:
1. clip-higher (eq. 10): the ratio may grow to 1 + 0.28 and shrink to 1 - 0.2;
2. dynamic sampling (eq. 11): prompts whose rewards are all equal are drawn anew. This happens where
   rollouts are collected: `collect` reads dynamic_sampling and max_resamples from the Config, and it
   looks at rewards before the overlong penalty, as the paper's condition is on correctness;
3. token-level loss (eq. 12): every token weighs the same, also in long completions;
4. soft overlong punishment (eq. 13): up to -1 is added to the reward of a completion near the limit.

Differs from the paper: a token is weighted by min(exp(old_logprobs - sampler_logprobs), mismatch_cap)
where the sampler reports log-probs (Yao et al. 2025). Eq. 12 takes the token mean in each group; as in
the authors' code, it is over the tokens of the whole update. max_tokens must be the sampler's limit.

Two options are of later work: high_entropy_share = 0.2 trains only the tokens at which the policy was least
sure (Wang et al. 2025, arXiv:2506.01939), and dual_clip bounds the loss of bad tokens (10 in verl's recipe).
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field, model_validator

from truing.algorithms._policy import policy_terms, scored_only, with_advantages
from truing.config import ClipHigh, ClipLow, DataKind, DualClip, Mismatch, MismatchCap, Options
from truing.math.advantages import group_advantages, high_entropy, soft_overlong_penalty
from truing.math.reduce import masked, token_mean
from truing.types import Algorithm, Batch, Outputs, Term


class Config(Options):
    """Options of DAPO."""

    data: ClassVar[DataKind] = "prompts"
    learning_rate: ClassVar[tuple[float, float]] = (1e-6, 1e-5)
    min_group_size: ClassVar[int] = 2
    only_with: ClassVar[dict[str, str]] = {
        "max_tokens": "overlong_cache",
        "max_resamples": "dynamic_sampling",
        "mismatch": "mismatch_cap",
    }

    clip_low: ClipLow = 0.2
    clip_high: ClipHigh = 0.28
    dual_clip: DualClip = None
    max_tokens: int = Field(
        20480, gt=0, description="completion tokens that cost the whole penalty; the sampler's"
    )
    overlong_cache: int = Field(
        4096, ge=0, description="tokens below max_tokens over which the penalty grows; 0: no penalty"
    )
    dynamic_sampling: bool = Field(
        True,
        description="draw prompts anew until batch_size of them have unequal rewards",
        json_schema_extra={"read_by": "collect"},
    )
    max_resamples: int = Field(
        10, gt=0, description="times to draw anew before going on", json_schema_extra={"read_by": "collect"}
    )
    high_entropy_share: float = Field(
        1.0, gt=0, le=1, description="train only this share of tokens, those of highest entropy; 1: all"
    )
    mismatch: Mismatch = "token_truncate"
    mismatch_cap: MismatchCap = 2.0

    @model_validator(mode="after")
    def _ramp_fits(self) -> Config:
        if self.overlong_cache > self.max_tokens:
            raise ValueError(
                f"overlong_cache {self.overlong_cache} is above max_tokens {self.max_tokens}: a fifth is "
                "common, and 0 is no penalty"
            )
        return self

    def sampler_max_tokens(self) -> int | None:
        """Return what sampler.max_tokens must be, or None where it does not matter."""
        return self.max_tokens if self.overlong_cache else None

    def needs(self) -> frozenset[str]:
        return frozenset(
            {"logprobs", "entropy"} | ({"old_entropy"} if self.high_entropy_share < 1 else set())
        )


def _credit(batch: Batch, config: Config) -> Batch:
    batch = scored_only(batch)
    rewards = batch.require("rewards")
    if config.overlong_cache:
        rewards = rewards + soft_overlong_penalty(
            batch.lengths, max_tokens=config.max_tokens, cache=config.overlong_cache
        )
    batch = with_advantages(batch, group_advantages(rewards, batch.groups))
    if config.high_entropy_share == 1:
        return batch
    kept = high_entropy(batch.require("old_entropy"), batch.mask, share=config.high_entropy_share)
    return with_advantages(batch, masked(batch.require("advantages"), kept))  # every token still counts


def _loss(outputs: Outputs, batch: Batch, config: Config) -> list[Term]:
    return policy_terms(
        outputs,
        batch,
        reduction=token_mean,
        clip_low=config.clip_low,
        clip_high=config.clip_high,
        dual_clip=config.dual_clip,
        mismatch=config.mismatch,
        mismatch_cap=config.mismatch_cap or None,
    )


ALGORITHM = Algorithm(source="arXiv:2503.14476 eq. 8-13", config=Config, loss=_loss, credit=_credit)
