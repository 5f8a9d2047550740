"""Self-play fine-tuning: demonstrations as chosen, the policy's own samples as rejected, DPO's loss.

Chen et al. 2024 (SPIN), arXiv:2401.01335, eq. 4.7: L = -log sigmoid(beta [log p/p_t of the demonstration -
log p/p_t of the sample]), where p_t is the policy that wrote the sample; beta is the paper's lambda. One
step of the training loop is a round: the samples are the policy's of that step, and old_logprobs are
p_t's, so no second model is in memory. A round of the paper's size is a large batch_size with
learner.num_minibatches and num_epochs above 1.

Differs from the paper: each demonstration meets sampler.group_size samples (theirs is 1); samples equal
to their demonstration are dropped and counted; of a conversation the last turn is played and trained;
the optimizer's moments go on from round to round. The fixed point is the distribution of the
demonstrations: there the margin stays at 0, and more rounds teach nothing.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from truing.algorithms._pairs import pair_metrics
from truing.algorithms._sampled_pairs import round_log_ratios, sampling_metrics
from truing.algorithms.dpo import dpo_loss
from truing.config import DataKind, Options
from truing.types import Algorithm, Batch, Outputs, Term


class Config(Options):
    """Options of SPIN."""

    data: ClassVar[DataKind] = "demonstrations"
    learning_rate: ClassVar[tuple[float, float]] = (5e-7, 5e-6)
    self_play: ClassVar[bool] = True
    rewarded: ClassVar[bool] = False

    beta: float = Field(
        0.1, gt=0, allow_inf_nan=False, description="larger stays closer to the policy that began the round"
    )

    def needs(self) -> frozenset[str]:
        return frozenset({"logprobs", "old_logprobs"})


def _loss(outputs: Outputs, batch: Batch, config: Config) -> list[Term]:
    chosen, rejected = round_log_ratios(outputs, batch).chunk(2)
    return [
        Term("loss/dpo", dpo_loss(chosen, rejected, beta=config.beta).sum(), "pair"),
        *pair_metrics(outputs, batch, config.beta * chosen, config.beta * rejected),
        *sampling_metrics(outputs, batch),
    ]


ALGORITHM = Algorithm(source="arXiv:2401.01335 eq. 4.7", config=Config, loss=_loss)
