"""Every module of truing/rollout/ that exposes SAMPLER keeps the promises of the Sampler protocol."""

from __future__ import annotations

import inspect

import pytest
import torch

from truing import plugins
from truing.errors import ModelError
from truing.model.load import load_model
from truing.rollout.sampler import SamplingParams

NAMES = [
    n for n in plugins.names("rollout") if n != "sampler" and hasattr(plugins.load("rollout", n), "SAMPLER")
]
PARAMS = SamplingParams(max_tokens=10, stop_token_ids=(5, 70, 71, 72, 73), seed=2)
PROMPTS = [[1, 30, 40, 50], [1, 60], [1, 9, 8, 7, 6, 12, 13]]


@pytest.fixture
def loaded(tiny_model):
    return load_model(str(tiny_model))


@pytest.fixture(params=NAMES)
def sampler(request, loaded):
    return plugins.load("rollout", request.param).SAMPLER(loaded.model, loaded.tokenizer, dtype=torch.float32)


def test_the_embedded_sampler_is_among_them():
    assert "hf" in NAMES


def test_shapes_and_finish_reasons(sampler):
    found = sampler.generate(PROMPTS, PARAMS, num_samples=3)
    assert [len(group) for group in found] == [3, 3, 3]
    for completion in (c for group in found for c in group):
        stopped = completion.tokens[-1] in PARAMS.stop_token_ids
        assert completion.finish_reason == ("stop" if stopped else "length")
        assert not set(completion.tokens[:-1]) & set(PARAMS.stop_token_ids)
        assert len(completion.tokens) == PARAMS.max_tokens or stopped
        assert len(completion.sampler_logprobs) == len(completion.tokens)
        assert all(x <= 0 for x in completion.sampler_logprobs)


def test_the_seed_decides(sampler):
    assert sampler.generate(PROMPTS, PARAMS) == sampler.generate(PROMPTS, PARAMS)


def test_versions_are_stamped(sampler):
    sampler.publish(4)
    assert {c.policy_version for (c,) in sampler.generate(PROMPTS, PARAMS)} == {4}


def test_logprobs_are_the_learners(sampler, loaded):
    for prompt, (completion,) in zip(PROMPTS, sampler.generate(PROMPTS, PARAMS), strict=True):
        ids = torch.tensor([[*prompt, *completion.tokens]])
        logprobs = loaded.model(input_ids=ids).logits.detach().log_softmax(-1)[0, len(prompt) - 1 : -1]
        wanted = logprobs.gather(-1, ids[0, len(prompt) :, None])[:, 0]
        torch.testing.assert_close(torch.tensor(completion.sampler_logprobs), wanted, atol=1e-3, rtol=1e-3)


def test_an_empty_prompt_is_an_error(sampler):
    with pytest.raises(ModelError, match="empty"):
        sampler.generate([[1], []], PARAMS)


def test_the_signature_is_the_protocols(sampler):
    assert list(inspect.signature(sampler.generate).parameters) == ["prompts", "params", "num_samples"]
