from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.models.gemma2.modeling_gemma2 import Gemma2RMSNorm
from transformers.models.llama.modeling_llama import LlamaMLP, LlamaRMSNorm
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm

from truing.model import fused as module
from truing.model.fused import fused

BF16 = torch.bfloat16


def small_config(**options):
    return LlamaConfig(
        vocab_size=50,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=2,
        **options,
    )


def modules():
    torch.manual_seed(0)
    norm, mlp, linear = LlamaRMSNorm(64, 1e-3), LlamaMLP(small_config()), nn.Linear(64, 80)
    nn.init.normal_(norm.weight, mean=1.0, std=0.3)
    return {"norm": norm, "heads_norm": Qwen3RMSNorm(16, 1e-5), "mlp": mlp, "linear": linear}


def inputs(name, dtype):
    shape = (1, 37, 4, 16) if name == "heads_norm" else (1, 37, 64)
    return (torch.randn(shape, generator=torch.Generator().manual_seed(1)) * 2 + 0.5).to(dtype)


def value_and_gradients(net, x):
    x = x.detach().clone().requires_grad_()
    out = net(x)
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(2)) + 0.2
    net.zero_grad()
    out.backward(weights.to(out.dtype))
    return [out.detach(), x.grad, *(p.grad for p in net.parameters())]


def replaced(net):
    with fused(net):
        return [name for name, m in net.named_modules() if "forward" in vars(m)]


@pytest.mark.parametrize("name", modules())
@pytest.mark.parametrize("dtype", [torch.float32, BF16])
def test_fused_is_as_near_to_the_truth_as_the_module_itself(name, dtype):
    x = inputs(name, dtype)
    made = modules()[name].to(dtype)
    exact = value_and_gradients(modules()[name].to(dtype).float(), x.float())
    plain = value_and_gradients(made, x)
    with fused(made):
        assert "forward" in vars(made) or (name, dtype) == ("linear", torch.float32)
        found = value_and_gradients(made, x)
    for f, p, e in zip(found, plain, exact, strict=True):
        assert f.dtype == p.dtype and f.shape == p.shape
        allowed = 1e-6 if dtype == torch.float32 else 1.3 * float((p.float() - e).norm() / e.norm())
        assert (f.float() - e).norm() <= allowed * e.norm()


@pytest.mark.parametrize("dtype", [torch.float32, BF16])
def test_what_is_fused_in_a_model_and_that_nothing_stays(dtype):
    model = LlamaForCausalLM(small_config()).to(dtype).model
    names = replaced(model)
    assert [n for n in names if "norm" in n] == [n for n, _ in model.named_modules() if "norm" in n]
    assert len([n for n in names if n.endswith("mlp")]) == 2
    assert len([n for n in names if n.endswith(("q_proj", "o_proj"))]) == (4 if dtype == BF16 else 0)
    assert not [m for m in model.modules() if "forward" in vars(m)]


def test_an_error_inside_leaves_nothing_behind():
    norm = LlamaRMSNorm(8)
    with pytest.raises(RuntimeError, match="broken"), fused(norm):
        raise RuntimeError("broken")
    assert "forward" not in vars(norm)


def test_what_is_not_exactly_known_runs_as_it_is():
    class Loud(LlamaRMSNorm):
        def forward(self, hidden_states):
            return 2 * super().forward(hidden_states)

    hooked = LlamaMLP(small_config())
    hooked.up_proj.register_forward_hook(lambda *_: None)
    gelu = LlamaMLP(small_config(hidden_act="gelu"))
    biased = LlamaMLP(small_config(mlp_bias=True))
    for other in (Loud(8), Gemma2RMSNorm(8), hooked, gelu, biased, LlamaRMSNorm(8).double()):
        assert replaced(other) == []
    with torch.autocast("cpu", BF16):
        assert replaced(LlamaRMSNorm(8)) == []


def test_a_forward_of_the_users_own_is_kept():
    norm = LlamaRMSNorm(8)
    norm.forward = lambda hidden: hidden
    with fused(norm):
        assert norm(torch.ones(2, 8)).sum() == 16
    assert "forward" in vars(norm)


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")  # peft reads the old name
def test_frozen_layers_below_an_adapter_are_left_alone():
    model = get_peft_model(LlamaForCausalLM(small_config()), LoraConfig(r=2, target_modules="all-linear"))
    names = replaced(model.to(BF16))
    assert names and all("norm" in name or "lora_" in name for name in names)


def test_a_frozen_norm_passes_the_gradient_on():
    norm = LlamaRMSNorm(64).requires_grad_(False)
    x = inputs("norm", torch.float32).requires_grad_()
    wanted = torch.autograd.grad(norm(x).square().sum(), x)[0]
    with fused(norm):
        found = torch.autograd.grad(norm(x).square().sum(), x)[0]
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_without_gradient():
    mlp, x = LlamaMLP(small_config()), inputs("mlp", torch.float32)
    wanted = mlp(x)
    with fused(mlp):
        assert torch.equal(mlp(x), wanted)


@pytest.mark.parametrize("amx", [False, True])
@pytest.mark.parametrize(
    "shape", [(50, 160, 130), (50, 130, 160), (1100, 160, 130), (1100, 130, 160), (50, 4, 160)]
)
def test_each_way_to_the_weights_gradient_is_the_same_product(amx, shape, monkeypatch):
    monkeypatch.setattr(module, "_has_amx", lambda: amx)
    num_rows, num_out, num_in = shape
    grads, rows = torch.randn(num_rows, num_out).to(BF16), torch.randn(num_rows, num_in).to(BF16)
    wanted = grads.double().T @ rows.double()
    found = module._outer(grads, rows)
    assert found.is_contiguous() and found.shape == wanted.shape
    assert (found - wanted).norm() <= 4e-3 * wanted.norm()
