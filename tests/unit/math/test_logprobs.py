from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from truing.math.logprobs import token_logprobs_of

OPTIONS = [
    {},
    {"temperature": 0.7},
    {"temperature": 1.3, "softcap": 3.0},
    {"scale": 0.25, "softcap": 2.0, "temperature": 0.5},
]


def inputs(k=13, v=101, h=8, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    hidden, weight, bias = (
        torch.randn(shape, generator=generator, dtype=dtype).requires_grad_()
        for shape in [(k, h), (v, h), (v,)]
    )
    return hidden, weight, bias, torch.randint(v, (k,), generator=generator)


def plain(hidden, weight, targets, *, temperature=1.0, softcap=None, bias=None, scale=1.0):
    logits = hidden @ weight.T
    logits = (logits if bias is None else logits + bias) * scale
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    log_p = (logits / temperature).log_softmax(-1)
    return log_p.gather(1, targets[:, None])[:, 0], -(log_p.exp() * log_p).sum(1)


def gradients(outputs, parameters, seed=1):
    generator = torch.Generator().manual_seed(seed)
    loss = sum((o * torch.randn(o.shape, generator=generator, dtype=o.dtype)).sum() for o in outputs)
    return torch.autograd.grad(loss, parameters)


def assert_near(found: Tensor, wanted: Tensor, relative: float) -> None:
    assert (found - wanted).norm() <= relative * wanted.norm()


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("block_elements", [None, 40, 7])
@pytest.mark.parametrize("entropy", [False, True])
def test_equals_log_softmax_with_gradients(options, block_elements, entropy):
    hidden, weight, bias, targets = inputs()
    found = token_logprobs_of(
        hidden, weight, targets, bias=bias, entropy=entropy, block_elements=block_elements, **options
    )
    wanted = plain(hidden, weight, targets, bias=bias, **options)
    outputs = 2 if entropy else 1
    assert (found[1] is not None) == entropy
    parameters = (hidden, weight, bias)
    for a, b in zip(found[:outputs], wanted[:outputs], strict=True):
        assert a.dtype == torch.float64
        assert_near(a, b, 1e-12)
    pairs = zip(gradients(found[:outputs], parameters), gradients(wanted[:outputs], parameters), strict=True)
    for a, b in pairs:
        assert_near(a, b, 1e-12)


def test_only_entropy_is_differentiated():
    hidden, weight, _, targets = inputs()
    _, entropy = token_logprobs_of(hidden, weight, targets, entropy=True, block_elements=64)
    _, wanted = plain(hidden, weight, targets)
    for a, b in zip(
        gradients([entropy], [hidden, weight]), gradients([wanted], [hidden, weight]), strict=True
    ):
        assert_near(a, b, 1e-12)


def test_frozen_weight_gets_no_gradient_and_hidden_does():
    hidden, weight, _, targets = inputs()
    logprobs, _ = token_logprobs_of(hidden, weight.detach(), targets)
    wanted, _ = plain(hidden, weight.detach(), targets)
    assert_near(gradients([logprobs], [hidden])[0], gradients([wanted], [hidden])[0], 1e-12)


@pytest.mark.parametrize("dtype, relative", [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_low_precision_gives_float32_near_the_exact_numbers(dtype, relative):
    hidden, weight, _, targets = inputs(k=64, v=500, h=32)
    low = [x.detach().to(dtype).requires_grad_() for x in (hidden, weight)]
    exact = [x.detach().double().requires_grad_() for x in low]
    logprobs, _ = token_logprobs_of(*low, targets, block_elements=3000)
    wanted, _ = plain(*exact, targets)
    assert logprobs.dtype == torch.float32
    assert_near(logprobs.double(), wanted, relative)
    for a, b in zip(gradients([logprobs.double()], low), gradients([wanted], exact), strict=True):
        assert a.dtype == dtype
        assert_near(a.double(), b, relative)


def test_autocast_multiplies_in_bfloat16_and_keeps_gradient_types():
    hidden, weight, _, targets = inputs(dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        logprobs, _ = token_logprobs_of(hidden, weight, targets)
    rounded, _ = token_logprobs_of(hidden.bfloat16(), weight.bfloat16(), targets)
    assert torch.equal(logprobs, rounded)
    assert [g.dtype for g in gradients([logprobs], [hidden, weight])] == [torch.float32] * 2


def test_extreme_logits_stay_finite_and_exact():
    hidden = torch.tensor([[1e4], [-1e4], [0.0]], dtype=torch.float32, requires_grad=True)
    weight = torch.tensor([[1.0], [0.0], [-1.0]], requires_grad=True)
    logprobs, entropy = token_logprobs_of(
        hidden, weight, torch.tensor([0, 0, 0]), entropy=True, block_elements=1
    )
    torch.testing.assert_close(logprobs, torch.tensor([0.0, -2e4, -1.0986123]))
    torch.testing.assert_close(entropy, torch.tensor([0.0, 0.0, 1.0986123]))
    assert all(g.isfinite().all() for g in gradients([logprobs, entropy], [hidden, weight]))


class LargestTensor(TorchDispatchMode):
    """Remember the most elements of any tensor that an operation returns, forward or backward."""

    largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else [out]:
            if isinstance(tensor, Tensor):
                self.largest = max(self.largest, tensor.numel())
        return out


@pytest.mark.parametrize("entropy", [False, True])
def test_all_logits_never_exist_at_once(entropy):
    hidden, weight, _, targets = inputs(k=96, v=2000, h=4, dtype=torch.float32)
    with LargestTensor() as seen:
        logprobs, _ = token_logprobs_of(hidden, weight, targets, entropy=entropy, block_elements=9600)
        gradients([logprobs], [hidden, weight])
    assert seen.largest <= max(9600, weight.numel())
    with LargestTensor() as seen:
        gradients([plain(hidden, weight, targets)[0]], [hidden, weight])
    assert seen.largest == 96 * 2000  # the plain form does make them, so the measure works


@pytest.mark.parametrize("bad", [{"temperature": 0.0}, {"softcap": -1.0}])
def test_impossible_options_are_refused(bad):
    hidden, weight, _, targets = inputs()
    with pytest.raises(ValueError, match="must be positive"):
        token_logprobs_of(hidden, weight, targets, **bad)


def test_no_rows_give_no_logprobs():
    hidden, weight, _, targets = inputs(k=0)
    logprobs, _ = token_logprobs_of(hidden, weight, targets)
    assert logprobs.shape == (0,)
    assert gradients([logprobs], [weight])[0].abs().sum() == 0
