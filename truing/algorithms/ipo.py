"""Identity Preference Optimization: L = (d - 1/(2 tau))^2 for each pair.

Azar et al. 2023, arXiv:2310.12036, eq. 17, where d = log pi/pi_ref of the chosen completion minus that of
the rejected one, each summed over the completion's tokens. The margin is pulled to a finite target, so
labels that are always the same do not push it to infinity as in DPO.

With use_labels it is the expectation of the paper's sampled loss over a label that is right with
probability p: p (d - 1/(2 tau))^2 + (1 - p) (d + 1/(2 tau))^2, whose optimum is (2p - 1) / (2 tau).

Libraries disagree on d. The sum is the paper's; TRL's DPO trainer divides each log-ratio by its number of
tokens, which is reduction = "token_mean" here. The same tau then asks for 1/(2 tau) nats a TOKEN instead
of a sequence, so tau does not carry over from one to the other.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from truing.algorithms._pairs import mean_log_ratios, pair_metrics, preferences, sequence_log_ratios
from truing.config import DataKind, Options
from truing.types import Algorithm, Batch, Outputs, Term


class Config(Options):
    """Options of IPO."""

    data: ClassVar[DataKind] = "pairs"
    learning_rate: ClassVar[tuple[float, float]] = (5e-7, 5e-6)

    tau: float = Field(0.1, gt=0, allow_inf_nan=False, description="the margin's target is 1/(2 tau) nats")
    reduction: Literal["sum", "token_mean"] = Field(
        "sum", description="of each log-ratio over its tokens: the paper's sum, or TRL's mean"
    )
    use_labels: bool = Field(
        False, description="read each pair's `preference`, the probability that the chosen side is better"
    )

    def needs(self) -> frozenset[str]:
        return frozenset({"logprobs", "ref_logprobs"} | ({"labels"} if self.use_labels else set()))


def ipo_loss(
    chosen: Float[Tensor, " N"],
    rejected: Float[Tensor, " N"],
    *,
    tau: float,
    preference: Float[Tensor, " N"] | float = 1.0,
) -> Float[Tensor, " N"]:
    """Return p (d - 1/(2 tau))^2 + (1 - p) (d + 1/(2 tau))^2 for each pair, d = chosen - rejected.

    Args:
        chosen: log pi(y|x) - log pi_ref(y|x), summed over completion tokens [nats].
        rejected: the same for the rejected completion [nats].
        tau: strength of the KL constraint, > 0.
        preference: p, the probability that the chosen completion is better, in [0, 1].
    """
    margin, target = chosen - rejected, 1 / (2 * tau)
    return preference * (margin - target).square() + (1 - preference) * (margin + target).square()


def _loss(outputs: Outputs, batch: Batch, config: Config) -> list[Term]:
    log_ratios = sequence_log_ratios if config.reduction == "sum" else mean_log_ratios
    chosen, rejected = log_ratios(outputs, batch)
    preference = preferences(batch) if config.use_labels else 1.0
    losses = ipo_loss(chosen, rejected, tau=config.tau, preference=preference)
    residual = (chosen - rejected).detach() - (2 * preference - 1) / (2 * config.tau)
    return [
        Term("loss/ipo", losses.sum(), "pair"),
        Term("rewards/residual", residual.sum(), "pair", 0.0),
        *pair_metrics(outputs, batch, config.tau * chosen, config.tau * rejected),
    ]


ALGORITHM = Algorithm(source="arXiv:2310.12036 eq. 17", config=Config, loss=_loss)
