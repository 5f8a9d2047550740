"""The implicit process reward model: a language model whose log-ratio to its start is each token's reward.

Yuan et al. 2024, arXiv:2412.01981: r_t = beta (log pi_phi - log pi_ref) of token t. Its sum over a completion
is trained to tell right from wrong outcomes, and then the parts of the sum are rewards of the steps.
"""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from truing.math.ratios import log_ratio


def implicit_rewards(
    process_logprobs: Float[Tensor, "B C"],
    ref_logprobs: Float[Tensor, "B C"],
    mask: Bool[Tensor, "B C"],
    *,
    beta: float,
) -> Float[Tensor, "B C"]:
    """Return beta (process_logprobs - ref_logprobs) on trained tokens, and 0 elsewhere.

    Args:
        process_logprobs: of the implicit process reward model [nats].
        ref_logprobs: of the frozen model it started from [nats].
        mask: True on trained tokens.
        beta: reward of a nat, > 0.
    """
    return beta * log_ratio(process_logprobs, ref_logprobs, mask)


def outcome_cross_entropy(
    token_rewards: Float[Tensor, "B C"], outcomes: Float[Tensor, " B"]
) -> Float[Tensor, " B"]:
    """Return -o log sigmoid(s) - (1 - o) log sigmoid(-s) of each row, s = the SUM of its token rewards.

    Args:
        token_rewards: implicit rewards, 0 on untrained tokens.
        outcomes: o, how probably the completion is right, in [0, 1].
    """
    return F.binary_cross_entropy_with_logits(token_rewards.sum(-1), outcomes, reduction="none")
