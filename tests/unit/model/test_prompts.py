"""Log-probs of prompts: one pass gives what two would."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from truing.errors import DataError
from truing.model.forward import policy_outputs
from truing.model.prompts import prompt_outputs
from truing.types import Batch


@pytest.fixture
def model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2
    )
    return LlamaForCausalLM(config).eval()


def rows(prompts: list[list[int]]) -> Batch:
    lengths = torch.tensor([3, 5, 2][: len(prompts)])
    mask = torch.arange(5) < lengths[:, None]
    tokens = torch.arange(20, 20 + 5 * len(prompts)).view(-1, 5) * mask
    trained = mask.clone()
    trained[0, 1] = False
    groups = torch.arange(len(prompts))
    return Batch(tuple(torch.tensor(p, dtype=torch.long) for p in prompts), tokens, lengths, trained, groups)


def test_completions_as_ever_and_prompts_as_the_model_says(model):
    batch = rows([[1, 2, 3], [7], [4, 5, 6, 8, 9, 10, 11, 12]])
    found, prompts = prompt_outputs(model, batch)
    torch.testing.assert_close(found, policy_outputs(model, batch)[0])
    for prompt, total in zip(batch.prompts, prompts, strict=True):
        logprobs = model(input_ids=prompt[None]).logits[0].log_softmax(-1)
        expected = logprobs[:-1].gather(-1, prompt[1:, None]).sum()
        torch.testing.assert_close(total, expected, rtol=1e-4, atol=1e-5)


def test_gradients_reach_the_model_from_both(model):
    found, prompts = prompt_outputs(model, rows([[1, 2, 3], [7, 8]]))
    (found.sum() + prompts.sum()).backward()
    assert model.get_input_embeddings().weight.grad[1].abs().max() > 0


def test_an_empty_prompt_is_an_error(model):
    with pytest.raises(DataError, match="empty prompt"):
        prompt_outputs(model, rows([[1, 2], []]))
