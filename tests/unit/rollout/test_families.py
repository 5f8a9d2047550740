"""Every family: the same tokens as its own generate, log-probs as a plain forward says."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from truing.rollout.hf import HFSampler
from truing.rollout.sampler import SamplingParams

FAMILIES = ["llama", "qwen2", "qwen3", "mistral", "gemma2", "gemma3_text", "phi3", "qwen3_moe", "gpt_oss"]
PROMPTS = [[5, 6, 7], [11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21], [3]]


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_equals_generate(family, make_model, numbers):
    model = make_model(family)
    sampler = HFSampler(model, numbers, dtype=torch.float32)
    assert sampler.plain_reason is None
    found = sampler.generate(PROMPTS, SamplingParams(max_tokens=40, stop_token_ids=(), temperature=0.0))
    for prompt, (completion,) in zip(PROMPTS, found, strict=True):
        wanted = model.generate(torch.tensor([prompt]), do_sample=False, max_new_tokens=40)[0, len(prompt) :]
        assert list(completion.tokens) == wanted.tolist()


def plain_logprobs(model, prompts, completions, temperature):
    """Return the log-probs of a plain forward over the right-padded batch, row by row."""
    rows = [[*p, *c.tokens] for p, c in zip(prompts, completions, strict=True)]
    width = max(map(len, rows))
    ids = torch.tensor([r + [0] * (width - len(r)) for r in rows])
    mask = torch.tensor([[1] * len(r) + [0] * (width - len(r)) for r in rows])
    with torch.no_grad():
        logprobs = (model(input_ids=ids, attention_mask=mask).logits / temperature).log_softmax(-1)
    picked = logprobs[:, :-1].gather(-1, ids[:, 1:, None])[..., 0]
    return [picked[i, len(p) - 1 : len(r) - 1] for i, (p, r) in enumerate(zip(prompts, rows, strict=True))]


@pytest.mark.parametrize("temperature", [0.7, 1.3])
@pytest.mark.parametrize("family", FAMILIES)
def test_peer_12_sampler_logprobs_are_of_the_tempered_softmax(family, temperature, make_model, numbers):
    model = make_model(family)
    sampler = HFSampler(model, numbers, dtype=torch.float32)
    params = SamplingParams(max_tokens=24, stop_token_ids=(), temperature=temperature, seed=3)
    first = sampler.generate(PROMPTS, params, num_samples=3)
    stops = (
        first[0][1].tokens[1],
        first[1][2].tokens[4],
        first[2][0].tokens[8],
    )  # so that some rows end early
    groups = sampler.generate(PROMPTS, replace(params, stop_token_ids=stops), num_samples=3)
    prompts = [p for p in PROMPTS for _ in range(3)]
    completions = [c for group in groups for c in group]
    assert len({len(c.tokens) for c in completions}) > 2, "rows should end at different steps"
    for completion, wanted in zip(
        completions, plain_logprobs(model, prompts, completions, temperature), strict=True
    ):
        torch.testing.assert_close(torch.tensor(completion.sampler_logprobs), wanted, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("family", "options", "reason"),
    [
        ("mamba", {"state_size": 8, "time_step_rank": 4}, "AttentionInterface"),
        ("bloom", {"hidden_size": 32, "n_layer": 2, "n_head": 4}, "AttentionInterface"),
        ("lfm2", {"layer_types": ["conv", "full_attention"]}, "only 1 of its layers"),
        ("qwen2_moe", {"num_experts": 4, "moe_intermediate_size": 16, "shared_expert_intermediate_size": 16,
                       "use_sliding_window": True, "sliding_window": 4, "max_window_layers": 0}, "window of [4]"),
    ],
)  # fmt: skip
def test_other_families_use_their_own_cache_and_say_so(family, options, reason, make_model, numbers, caplog):
    model = make_model(family, **options)
    sampler = HFSampler(model, numbers, dtype=torch.float32)
    assert reason in sampler.plain_reason
    assert len(caplog.records) == 1 and reason in caplog.text
    params = SamplingParams(max_tokens=8, stop_token_ids=(4, 9), temperature=0.0)
    for prompt, (completion,) in zip(PROMPTS, sampler.generate(PROMPTS, params), strict=True):
        wanted = model.generate(torch.tensor([prompt]), do_sample=False, max_new_tokens=8)[
            0, len(prompt) :
        ].tolist()
        ends = [i for i, t in enumerate(wanted) if t in (4, 9)]
        assert list(completion.tokens) == wanted[: ends[0] + 1 if ends else None]
    drawn = sampler.generate(
        PROMPTS[:2], SamplingParams(max_tokens=6, stop_token_ids=(), seed=1), num_samples=2
    )
    again = sampler.generate(
        PROMPTS[:2], SamplingParams(max_tokens=6, stop_token_ids=(), seed=1), num_samples=2
    )
    assert drawn == again and drawn[0][0].tokens != drawn[0][1].tokens
