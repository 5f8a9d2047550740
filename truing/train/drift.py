"""How far a policy has moved from where its stage began, measured on what it writes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean, stdev

from jaxtyping import Float
from torch import Tensor

from truing.math.ratios import log_ratio
from truing.model.micro_batches import in_micro_batches
from truing.model.reference import Reference
from truing.train.batches import batch_of_rollouts
from truing.train.learner import TorchLearner
from truing.types import Batch, Completion, Prompt, Rollout

KlOf = Callable[[Batch], Float[Tensor, " B"]]


@dataclass(frozen=True, slots=True)
class Drift:
    """KL of the policy from the start policy [nats per completion] and its 95% interval over prompts."""

    kl: float
    low: float
    high: float


def kl_from(reference: Reference, learner: TorchLearner, max_tokens: int) -> KlOf:
    """Return what gives k1 summed over each row's tokens: log pi - log pi_ref of what pi has drawn."""

    def kl(batch: Batch) -> Float[Tensor, " B"]:
        outputs = in_micro_batches(batch, max_tokens, lambda b: learner.forward(b, frozenset({"logprobs"})))
        return log_ratio(outputs.require("logprobs"), reference.logprobs(batch), batch.mask).sum(-1)

    return kl


def drift(
    kl_of: KlOf, prompts: Sequence[Prompt], prompt_tokens: Sequence[tuple[int, ...]],
    completions: Sequence[Completion],
) -> Drift:  # fmt: skip
    """Return the mean KL over the prompts, of one completion each, drawn at temperature 1."""
    rollouts = [
        Rollout(prompt, tuple(ids), completion, group, {}, reward=0.0)
        for group, (prompt, ids, completion) in enumerate(
            zip(prompts, prompt_tokens, completions, strict=True)
        )
    ]
    values = kl_of(batch_of_rollouts(rollouts)).tolist()
    mean = fmean(values)
    half = NormalDist().inv_cdf(0.975) * stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0
    return Drift(mean, mean - half, mean + half)
