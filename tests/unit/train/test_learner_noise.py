"""NEFTune in the learner: only in training passes, with an adapter and activation checkpointing too."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from truing.config import LearnerConfig
from truing.model.adapters import add_lora
from truing.train.learner import TorchLearner
from truing.types import Batch

LOGPROBS = frozenset({"logprobs"})


def learner(alpha: float, *, lora: bool = False, activation_checkpointing: bool = False) -> TorchLearner:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2
    )
    model = LlamaForCausalLM(config)
    policy = (
        add_lora(model, rank=2, alpha=4.0, dropout=0.0, target_modules="all-linear", seed=0)
        if lora
        else model
    )
    return TorchLearner(
        policy=policy, critic=None, scorer=None,
        config=LearnerConfig(activation_checkpointing=activation_checkpointing), learning_rate=1e-2,
        num_updates=3, compute_dtype=torch.float32, neftune_alpha=alpha,
    )  # fmt: skip


def batch() -> Batch:
    mask = torch.arange(5) < torch.tensor([3, 5])[:, None]
    return Batch(
        prompts=(torch.tensor([1, 2]), torch.tensor([1, 3])),
        completions=torch.arange(10, 20).view(2, 5) * mask,
        lengths=torch.tensor([3, 5]),
        mask=mask,
        groups=torch.arange(2),
    )


def gradients(made: TorchLearner) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    outputs = made.forward(batch(), LOGPROBS)
    made.backward(-outputs.require("logprobs").sum())
    return {n: m.grad.clone() for n, m in made._optimizer.masters["policy"].items() if m.grad is not None}


@pytest.mark.parametrize("lora", [False, True])
def test_noise_is_in_training_passes_only(lora):
    noisy, plain = learner(5.0, lora=lora), learner(0.0, lora=lora)
    with torch.no_grad():
        still = noisy.forward(batch(), LOGPROBS).require("logprobs")
        assert torch.equal(still, plain.forward(batch(), LOGPROBS).require("logprobs"))
    assert not torch.equal(noisy.forward(batch(), LOGPROBS).require("logprobs"), still)


@pytest.mark.parametrize("lora", [False, True])
def test_recomputed_layers_see_the_same_noise(lora):
    kept = gradients(learner(5.0, lora=lora))
    again = gradients(learner(5.0, lora=lora, activation_checkpointing=True))
    assert kept.keys() == again.keys() and kept
    for name, gradient in kept.items():
        torch.testing.assert_close(again[name], gradient)
