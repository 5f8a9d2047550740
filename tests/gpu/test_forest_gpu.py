"""The compiled FlexAttention kernel on a GPU against the plain kernel, node by node."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from truing.model.attention import attend, node_attention
from truing.model.forest import plant
from truing.model.forward import policy_outputs
from truing.types import Batch

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.filterwarnings("ignore"),  # of the compiler, about the machine
]


def make_rows(seed=0):
    generator = torch.Generator().manual_seed(seed)

    def ids(count):
        return torch.randint(3, 96, (count,), generator=generator).tolist()

    first, turn = ids(150), ids(40)
    return [
        (first, turn + ids(60)),
        (first, turn + ids(33)),
        (first, ids(90)),
        (ids(20), ids(130)),
        (ids(1), ids(5)),
    ]


@pytest.mark.parametrize("options", [{}, {"window": 50}, {"softcap": 0.8}, {"window": 50, "softcap": 0.8}])
def test_flex_equals_nodes(options):
    forest = plant([prompt + completion for prompt, completion in make_rows()], "cuda")
    generator = torch.Generator("cuda").manual_seed(0)
    inputs = [
        torch.randn(1, heads, forest.num_tokens, 32, generator=generator, device="cuda").requires_grad_()
        for heads in (4, 2, 2)
    ]
    results = []
    for out in (
        attend(*inputs, forest, scale=0.2, **options),
        node_attention(*inputs, forest, scale=0.2, **options),
    ):
        direction = torch.linspace(-1, 1, out.numel(), device="cuda").view(out.shape)
        results.append([out, *torch.autograd.grad(out, inputs, direction)])
    for found, wanted in zip(*results, strict=True):
        assert (found - wanted).norm() <= 5e-3 * wanted.norm()  # the kernel multiplies in TF32


@pytest.mark.parametrize("family", ["llama", "mistral", "gemma2"])
def test_a_model_gives_what_the_padded_path_gives(family):
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        family,
        vocab_size=96,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        sliding_window=50 if family != "llama" else None,
    )
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).cuda()
    rows = make_rows()
    lengths = torch.tensor([len(c) for _, c in rows])
    completions = torch.zeros(len(rows), int(lengths.max()), dtype=torch.long)
    for i, (_, completion) in enumerate(rows):
        completions[i, : len(completion)] = torch.tensor(completion)
    batch = Batch(
        prompts=tuple(torch.tensor(p).cuda() for p, _ in rows),
        completions=completions.cuda(),
        lengths=lengths.cuda(),
        mask=(torch.arange(completions.shape[1]) < lengths[:, None]).cuda(),
        groups=torch.zeros(len(rows), dtype=torch.long).cuda(),
    )
    results = []
    for path in ("forest", "padded"):
        model.zero_grad(set_to_none=True)
        logprobs, _ = policy_outputs(model, batch, path=path)
        logprobs.sum().backward()
        results.append([logprobs, *(p.grad for p in model.parameters())])
    for found, wanted in zip(*results, strict=True):
        assert (found - wanted).norm() <= 1e-2 * wanted.norm()
