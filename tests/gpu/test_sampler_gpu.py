"""The embedded sampler on a GPU: the same tokens as generate, and log-probs near the learner's in bfloat16."""

from __future__ import annotations

import pytest
import torch

from truing.model.load import load_model
from truing.rollout.hf import HFSampler
from truing.rollout.sampler import SamplingParams

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
PROMPTS = [[1, 30, 40, 50], [1, 60], [1, 9, 8, 7, 6, 12, 13]]


def test_greedy_equals_generate_on_the_gpu(tiny_model):
    loaded = load_model(str(tiny_model), device="cuda")
    sampler = HFSampler(loaded.model, loaded.tokenizer, dtype=torch.float32)
    params = SamplingParams(max_tokens=40, stop_token_ids=(), temperature=0.0)
    for prompt, (completion,) in zip(PROMPTS, sampler.generate(PROMPTS, params), strict=True):
        ids = torch.tensor([prompt], device="cuda")
        wanted = loaded.model.generate(ids, do_sample=False, max_new_tokens=40, eos_token_id=None)
        assert list(completion.tokens) == wanted[0, len(prompt) :].tolist()


@pytest.mark.parametrize("temperature", [0.7, 1.3])
def test_peer_12_bfloat16_logprobs_stay_near_the_learners(tiny_model, temperature):
    loaded = load_model(str(tiny_model), device="cuda")
    sampler = HFSampler(loaded.model, loaded.tokenizer)
    params = SamplingParams(max_tokens=64, stop_token_ids=(2,), temperature=temperature)
    gaps = []
    for prompt, group in zip(PROMPTS, sampler.generate(PROMPTS, params, num_samples=8), strict=True):
        for completion in group:
            ids = torch.tensor([[*prompt, *completion.tokens]], device="cuda")
            logits = loaded.model(input_ids=ids).logits.detach()[0, len(prompt) - 1 : -1]
            wanted = (
                (logits / temperature).log_softmax(-1).gather(-1, ids[0, len(prompt) :, None])[:, 0].cpu()
            )
            gaps.append((torch.tensor(completion.sampler_logprobs) - wanted).abs())
    assert torch.cat(gaps).mean() < 0.02
