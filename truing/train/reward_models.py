"""Trained reward models that score rollouts: one, or several as an ensemble."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from truing.config import Ensemble
from truing.errors import ConfigError
from truing.math.scores import combine_scores
from truing.model.forward import calibrated_scores
from truing.model.heads import ScalarModel
from truing.model.micro_batches import in_micro_batches
from truing.model.scalar import load_scalar
from truing.types import Batch, Outputs


@dataclass(frozen=True, slots=True)
class RewardModels:
    """The reward models of a stage, and how their scores become one.

    Args:
        networks: one or more.
        max_tokens: packed tokens of one forward pass.
        ensemble: the rule where there are several.
    """

    networks: Sequence[ScalarModel]
    max_tokens: int
    ensemble: Ensemble

    def members(self, batch: Batch) -> Float[Tensor, "M B"]:
        """Return the score that each model gives each row."""
        return torch.stack([self._scores(network, batch) for network in self.networks])

    def combine(self, members: Float[Tensor, "M B"]) -> Float[Tensor, " B"]:
        """Return the score of each row."""
        if len(members) == 1:
            return members[0]
        return combine_scores(members, how=self.ensemble.combine, penalty=self.ensemble.penalty)

    def _scores(self, network: ScalarModel, batch: Batch) -> Float[Tensor, " B"]:
        found = in_micro_batches(
            batch, self.max_tokens, lambda part: Outputs(scores=calibrated_scores(network, part))
        )
        return found.require("scores").float().cpu()


def load_reward_models(
    names: Sequence[str],
    ensemble: Ensemble | None,
    *,
    dtype: torch.dtype,
    device: torch.device,
    max_tokens: int,
) -> RewardModels:
    """Return the frozen reward models of these names.

    Raises:
        ConfigError: of several, one is not calibrated: the scales of two reward models have nothing to do
            with each other, so their mean and their lowest say nothing.
    """
    networks = [load_scalar(name, dtype=dtype, device=device).eval().requires_grad_(False) for name in names]
    raw = [n for n, network in zip(names, networks, strict=True) if network.calibration is None]
    if len(names) > 1 and raw:
        raise ConfigError(
            f"reward_model: '{raw[0]}' is not calibrated, and its scores are compared with those of others; "
            "train it with calibration = { normalise = true }"
        )
    return RewardModels(networks, max_tokens, ensemble or Ensemble())
