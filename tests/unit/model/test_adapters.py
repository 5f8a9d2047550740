from __future__ import annotations

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from truing.errors import ConfigError, ModelError
from truing.model.adapters import add_lora, disabled_adapter, is_adapted, merged

IDS = torch.arange(12).reshape(2, 6)


def tiny():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2
    )
    return LlamaForCausalLM(config).eval()


def logits(model):
    with torch.no_grad():
        return model(input_ids=IDS).logits


def trained(seed=1, **options):
    model = add_lora(tiny(), rank=4, alpha=8.0, **options)
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.2)
    return model.eval()


def test_a_new_adapter_changes_nothing_and_is_all_that_is_trained():
    before = logits(tiny())
    model = add_lora(tiny(), rank=4, alpha=8.0)
    assert torch.equal(logits(model.eval()), before)
    names = [n for n, p in model.named_parameters() if p.requires_grad]
    assert names
    assert all("lora_" in n for n in names)
    assert not any("lm_head" in n for n in names)


def test_the_draw_follows_the_seed_and_leaves_the_global_random_state():
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    models = [add_lora(tiny_keeping_state(), rank=4, alpha=8.0, seed=s) for s in (0, 0, 1)]
    assert torch.equal(torch.rand(1), expected)
    a, b, c = (next(p for n, p in m.named_parameters() if "lora_A" in n) for m in models)
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


def tiny_keeping_state():
    with torch.random.fork_rng(devices=[]):
        return tiny()


def test_disabled_adapter_is_the_base_inside_and_the_adapted_model_after():
    model = trained()
    adapted, base = logits(model), logits(tiny())
    with disabled_adapter(model):
        assert torch.equal(logits(model), base)
    assert torch.equal(logits(model), adapted)
    assert not torch.allclose(adapted, base)
    assert all(p.requires_grad == ("lora_" in n) for n, p in model.named_parameters())


def test_disabled_adapter_comes_back_after_an_exception():
    model = trained()
    adapted = logits(model)
    with pytest.raises(RuntimeError, match="inside"), disabled_adapter(model):
        raise RuntimeError("inside")
    assert torch.equal(logits(model), adapted)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_merged_equals_the_adapted_model_and_leaves_it_alone(dtype):
    model = trained().to(dtype)
    adapted = logits(model)
    plain = merged(model)
    assert not is_adapted(plain)
    assert {p.dtype for p in plain.parameters()} == {dtype}
    tolerance = 1e-5 if dtype == torch.float32 else 0.1
    assert torch.allclose(logits(plain), adapted, atol=tolerance)
    assert torch.equal(logits(model), adapted)
    assert set(plain.state_dict()) == set(tiny().state_dict())


def test_merged_of_a_plain_model_is_itself():
    model = tiny()
    assert merged(model) is model


def test_wrong_targets_are_an_error_that_lists_the_right_ones():
    with pytest.raises(ConfigError, match=r"c_attn.*q_proj"):
        add_lora(tiny(), rank=4, alpha=8.0, target_modules=["c_attn"])


def test_a_second_adapter_and_a_missing_one_are_errors():
    with pytest.raises(ModelError, match="merge it first"):
        add_lora(trained(), rank=4, alpha=8.0)
    with pytest.raises(ModelError, match="no adapter"), disabled_adapter(tiny()):
        pass
