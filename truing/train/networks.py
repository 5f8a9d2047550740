"""The networks of a stage, made from its start model by what the algorithm needs."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from truing.config import Stage
from truing.errors import ModelError
from truing.model.adapters import add_lora
from truing.model.heads import ScalarModel
from truing.model.load import Loaded, save_model
from truing.model.scalar import save_scalar


@dataclass(frozen=True, slots=True)
class Networks:
    """The networks of a stage; `start` is the model they came from, `causal` what is saved at the end.

    A scorer reads the body of `causal`; a policy is `causal` itself.
    """

    start: Loaded
    causal: nn.Module
    critic: ScalarModel | None
    scorer: ScalarModel | None
    process: nn.Module | None = None  # the implicit process reward model, a causal model of its own

    @property
    def policy(self) -> nn.Module | None:
        """Return the policy, or None where a reward model is trained."""
        return None if self.scorer is not None else self.causal

    def writer(self) -> nn.Module:
        """Return the policy.

        Raises:
            ModelError: the stage trains a reward model.
        """
        if self.scorer is not None:
            raise ModelError("this stage trains a reward model: it scores completions and cannot write them")
        return self.causal

    def save(self, folder: Path) -> None:
        """Write what was trained, adapters merged, to a folder that loads by its path."""
        if self.scorer is None:
            save_model(self.causal, self.start.tokenizer, folder)
        else:
            save_scalar(self.scorer, self.causal, self.start.tokenizer, folder)


def make_networks(
    stage: Stage, start: Loaded, needs: frozenset[str], numbers: Mapping[str, float] | None = None
) -> Networks:
    """Return the policy, the critic or the scorer, with adapters where the stage asks for them.

    Args:
        numbers: names and start values of what the scorer learns beside its heads.
    """
    critic = None
    if "values" in needs:
        critic = ScalarModel.from_causal(_adapted(copy.deepcopy(start.model), stage))
    process = None
    if "process_logprobs" in needs:
        process = _adapted(copy.deepcopy(start.model), stage)
    causal = _adapted(start.model, stage)
    scorer = None
    if needs & {"scores", "token_scores"}:
        numbers = numbers if "parameters" in needs else None
        scorer = ScalarModel.from_causal(causal, length_head="length_scores" in needs, numbers=numbers)
    return Networks(start, causal, critic, scorer, process)


def _adapted(model: nn.Module, stage: Stage) -> nn.Module:
    lora = stage.learner.lora
    if lora is None:
        return model
    return add_lora(
        model, rank=lora.rank, alpha=lora.alpha, dropout=lora.dropout, target_modules=lora.target_modules,
        seed=stage.seed,
    )  # fmt: skip
