"""The embedded sampler: seeds, stops, slots, publish, adapters, errors."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from peft import LoraConfig, get_peft_model

from truing.errors import ConfigError, ModelError
from truing.rollout.hf import HFSampler
from truing.rollout.sampler import SamplingParams

PROMPTS = [[5, 6, 7], [11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21], [3], [40, 41]]
PARAMS = SamplingParams(max_tokens=12, stop_token_ids=(), seed=7)


@pytest.fixture
def sampler(make_model, numbers):
    return HFSampler(make_model(), numbers, dtype=torch.float32)


def tokens(groups):
    return [[c.tokens for c in group] for group in groups]


def test_a_seed_gives_the_same_and_samples_differ(sampler):
    found = sampler.generate(PROMPTS, PARAMS, num_samples=4)
    assert found == sampler.generate(PROMPTS, PARAMS, num_samples=4)
    assert len({c.tokens for c in found[0]}) == 4
    twice = tokens(sampler.generate([PROMPTS[0], PROMPTS[0]], PARAMS, num_samples=4))
    assert not set(twice[0]) & set(twice[1]), "equal prompts draw their own completions"
    assert tokens(found) != tokens(sampler.generate(PROMPTS, replace(PARAMS, seed=8), num_samples=4))


def test_a_row_depends_on_its_prompt_and_indices_only(sampler, make_model, numbers):
    found = tokens(sampler.generate(PROMPTS, PARAMS, num_samples=4))
    assert tokens(sampler.generate(PROMPTS[:2], PARAMS, num_samples=2)) == [g[:2] for g in found[:2]]
    longer = tokens(sampler.generate(PROMPTS, replace(PARAMS, max_tokens=20), num_samples=4))
    assert [[row[:12] for row in g] for g in longer] == found
    for max_rows in (1, 3, 5, 8):
        narrow = HFSampler(make_model(), numbers, dtype=torch.float32, max_rows=max_rows)
        assert tokens(narrow.generate(PROMPTS, PARAMS, num_samples=4)) == found, max_rows


def test_slots_are_refilled_while_other_rows_grow(make_model, numbers):
    """More prompts than rows, rows of many lengths, and more steps than the ring of columns is wide."""
    prompts = [[i + 1, *range(2, 2 + i % 5)] for i in range(24)]
    params = SamplingParams(max_tokens=40, stop_token_ids=tuple(range(0, 97, 30)), seed=1)
    for family in ("llama", "mistral"):
        wide = HFSampler(make_model(family), numbers, dtype=torch.float32)
        narrow = HFSampler(make_model(family), numbers, dtype=torch.float32, max_rows=8)
        found = wide.generate(prompts, params, num_samples=2)
        assert len({len(c.tokens) for g in found for c in g}) > 6
        assert max(len(c.tokens) for g in found for c in g) == 40
        again = narrow.generate(prompts, params, num_samples=2)
        assert tokens(again) == tokens(found)
        pairs = [(a, b) for x, y in zip(found, again, strict=True) for a, b in zip(x, y, strict=True)]
        for a, b in pairs:
            assert a.sampler_logprobs == pytest.approx(b.sampler_logprobs, abs=1e-4)


def test_each_stop_token_stops_and_is_included(sampler):
    free = sampler.generate(PROMPTS, PARAMS, num_samples=2)
    stops = (free[0][0].tokens[3], free[1][1].tokens[5])
    found = sampler.generate(PROMPTS, replace(PARAMS, stop_token_ids=stops), num_samples=2)
    seen = set()
    for group, whole in zip(found, free, strict=True):
        for completion, all_of_it in zip(group, whole, strict=True):
            ends = [i for i, t in enumerate(all_of_it.tokens) if t in stops]
            wanted = all_of_it.tokens[: ends[0] + 1] if ends else all_of_it.tokens
            assert completion.tokens == wanted
            assert completion.finish_reason == ("stop" if ends else "length")
            assert len(completion.sampler_logprobs) == len(completion.tokens)
            spoken = wanted[:-1] if ends else wanted
            assert completion.text == " ".join(map(str, spoken))
            seen |= {completion.tokens[-1]} & set(stops)
    assert seen == set(stops)


def test_a_stop_token_at_the_limit_is_a_stop(sampler):
    (free,), *_ = sampler.generate(PROMPTS[:1], PARAMS)
    first = free.tokens.index(free.tokens[4]) + 1
    params = replace(PARAMS, max_tokens=first, stop_token_ids=(free.tokens[4],))
    assert sampler.generate(PROMPTS[:1], params)[0][0].finish_reason == "stop"


def test_peer_11_completions_are_of_the_published_weights(make_model, numbers):
    model, other = make_model(seed=0), make_model(seed=1)
    sampler = HFSampler(model, numbers, dtype=torch.float32)
    before = sampler.generate(PROMPTS, PARAMS)
    model.load_state_dict(other.state_dict())
    stale = sampler.generate(PROMPTS, PARAMS)
    assert tokens(stale) == tokens(before) and stale[0][0].policy_version == 0
    sampler.publish(5)
    fresh = sampler.generate(PROMPTS, PARAMS)
    assert {c.policy_version for g in fresh for c in g} == {5}
    assert tokens(fresh) == tokens(HFSampler(other, numbers, dtype=torch.float32).generate(PROMPTS, PARAMS))
    assert tokens(fresh) != tokens(before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_peer_11_publish_takes_data_that_was_replaced(dtype, make_model, numbers):
    """A learner may give a parameter other storage, or write through .data; both must arrive."""
    model = make_model()
    sampler = HFSampler(model, numbers, dtype=dtype)
    for parameter in model.parameters():
        parameter.data = torch.zeros_like(parameter)
    sampler.publish(1)
    logprobs = sampler.generate(PROMPTS, PARAMS)[0][0].sampler_logprobs
    assert logprobs == pytest.approx([-4.5747] * 12, abs=1e-3)  # log(1 / 97)


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")  # peft reads the old name
@pytest.mark.parametrize("options", [{}, {"use_dora": True}, {"modules_to_save": ["lm_head"]}])
def test_adapters_are_merged_and_the_learner_is_untouched(options, make_model, numbers):
    learner = get_peft_model(make_model(), LoraConfig(r=4, target_modules="all-linear", **options))
    base = HFSampler(learner, numbers, dtype=torch.float32)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in learner.parameters():
            if parameter.requires_grad:
                parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    state = {k: v.clone() for k, v in learner.state_dict().items()}
    before = tokens(base.generate(PROMPTS, PARAMS))
    base.publish(1)
    after = base.generate(PROMPTS, PARAMS)
    assert tokens(after) != before
    for key, value in learner.state_dict().items():
        assert torch.equal(value, state[key]), key
    ids = torch.tensor([[*PROMPTS[0], *after[0][0].tokens]])
    logprobs = learner(input_ids=ids).logits.log_softmax(-1)[0, len(PROMPTS[0]) - 1 : -1]
    wanted = logprobs.gather(-1, ids[0, len(PROMPTS[0]) :, None])[:, 0].detach()
    torch.testing.assert_close(torch.tensor(after[0][0].sampler_logprobs), wanted, atol=1e-3, rtol=1e-3)


def test_the_learner_is_left_as_it_was(make_model, numbers):
    learner = make_model()
    learner.train()
    implementation, ids = learner.config._attn_implementation, torch.tensor([[1, 2, 3]])
    before = learner(input_ids=ids).logits
    sampler = HFSampler(learner, numbers, dtype=torch.float32)
    sampler.generate(PROMPTS, PARAMS)
    sampler.publish(1)
    assert learner.config._attn_implementation == implementation
    assert learner.training and all(p.requires_grad for p in learner.parameters())
    after = learner(input_ids=ids).logits
    assert torch.equal(before, after)
    after.sum().backward()


def test_low_precision_stays_close_to_the_learner(make_model, numbers):
    model = make_model(initializer_range=0.1)
    sampler = HFSampler(model, numbers, dtype=torch.bfloat16)
    params = replace(PARAMS, max_tokens=40)
    gaps = []
    for prompt, (completion,) in zip(PROMPTS, sampler.generate(PROMPTS, params), strict=True):
        ids = torch.tensor([[*prompt, *completion.tokens]])
        logprobs = model(input_ids=ids).logits.detach().log_softmax(-1)[0, len(prompt) - 1 : -1]
        wanted = logprobs.gather(-1, ids[0, len(prompt) :, None])[:, 0]
        gaps.append((torch.tensor(completion.sampler_logprobs) - wanted).abs())
    assert torch.cat(gaps).mean() < 0.02


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ([[1, 2], []], "prompt 1 is empty"),
        ([list(range(1, 90)), list(range(1, 30)) * 4 + [1]], r"prompt 1 has 117 tokens .* 128 positions"),
        ([[1, 97]], "the model knows 97"),
        ([[1, -1]], "ids from -1"),
    ],
)
def test_prompts_that_cannot_be_read_are_clear_errors(sampler, prompts, message):
    with pytest.raises(ModelError, match=message):
        sampler.generate(prompts, PARAMS)


def test_no_prompts_give_no_completions(sampler):
    assert sampler.generate([], PARAMS) == []


def test_wrong_arguments_are_clear_errors(sampler, make_model, numbers):
    with pytest.raises(ConfigError, match="num_samples is 0"):
        sampler.generate(PROMPTS, PARAMS, num_samples=0)
    with pytest.raises(ConfigError, match="max_rows is 0"):
        HFSampler(make_model(), numbers, max_rows=0)
    for wrong in ({"max_tokens": 0}, {"temperature": -1.0}, {"top_p": 0.0}, {"top_k": -1}, {"seed": -1}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            replace(PARAMS, **wrong)


def test_positions_end_where_rotary_frequencies_would_change(make_model, numbers):
    rope = {
        "rope_type": "dynamic",
        "factor": 4.0,
        "rope_theta": 10_000.0,
        "original_max_position_embeddings": 16,
    }
    sampler = HFSampler(make_model(rope_parameters=rope), numbers, dtype=torch.float32)
    with pytest.raises(ModelError, match="16 positions"):
        sampler.generate([[1] * 5], PARAMS)
