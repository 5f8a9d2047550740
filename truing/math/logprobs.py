"""Log-probs of given tokens straight from hidden states: the [K, V] logits never exist at once.

The vocabulary is walked in blocks, twice: once forward with an online log-sum-exp, once backward,
where the logits of a block are computed again instead of kept. Exponentials are in base 2: some
vectorised CPU libraries have a slow `exp`, none known has a slow `exp2`, and the factor log2(e)
joins the scale that the logits need anyway.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

_LOG2_E = math.log2(math.e)
_LN_2 = math.log(2.0)


class _Transform(NamedTuple):
    """What happens to hidden @ weight.T + bias before the softmax, and how much of it exists at once."""

    scale: float
    softcap: float | None
    temperature: float
    compute: torch.dtype  # of the matrix products
    block_elements: int

    @property
    def accumulate(self) -> torch.dtype:
        return torch.float64 if self.compute == torch.float64 else torch.float32


def token_logprobs_of(
    hidden: Float[Tensor, "K H"],
    weight: Float[Tensor, "V H"],
    targets: Int[Tensor, " K"],
    *,
    temperature: float = 1.0,
    softcap: float | None = None,
    bias: Float[Tensor, " V"] | None = None,
    scale: float = 1.0,
    entropy: bool = False,
    block_elements: int | None = None,
) -> tuple[Float[Tensor, " K"], Float[Tensor, " K"] | None]:
    """Return log softmax(cap(scale * (hidden @ weight.T + bias)) / temperature)[targets], and the entropy.

    Both are float32 (float64 for float64 input), in nats, and differentiable in hidden, weight and
    bias. Inside autocast the matrix products run in the autocast type, and the softmax does not.

    Args:
        hidden: the states that predict.
        weight: the LM head; a tied embedding receives this gradient beside its own.
        targets: ids in [0, V).
        temperature: divides the logits, after the cap [> 0].
        softcap: cap(x) = softcap * tanh(x / softcap) (Gemma 2); None for no cap.
        bias: of the LM head.
        scale: multiplies the logits, before the cap (Cohere's logit_scale, 1 / Granite's logits_scaling).
        entropy: also return -sum p log p of each row's distribution, at the same temperature.
        block_elements: the most logits that exist at once; None: 2^20 on a CPU, 2^26 on a GPU.

    Raises:
        ValueError: temperature or softcap is not positive.
    """
    if temperature <= 0 or (softcap is not None and softcap <= 0):
        raise ValueError(f"temperature and softcap must be positive, not {temperature} and {softcap}")
    device = hidden.device.type
    compute = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
    elements = block_elements or (2**20 if device == "cpu" else 2**26)
    transform = _Transform(scale, softcap, temperature, compute, elements)
    outputs: tuple[Tensor, Tensor]
    outputs = _TokenLogprobs.apply(hidden, weight, bias, targets, transform, entropy)  # type: ignore[no-untyped-call]
    return outputs[0], outputs[1] if entropy else None


class _TokenLogprobs(torch.autograd.Function):
    """Forward: online log-sum-exp over vocabulary blocks. Backward: softmax minus one-hot, block by block."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        transform: _Transform,
        entropy: bool,
    ) -> tuple[Tensor, Tensor]:
        num_rows = len(targets)
        states = hidden.to(transform.compute)
        top = states.new_full((num_rows,), -math.inf, dtype=transform.accumulate)
        total, moment, chosen = torch.zeros_like(top), torch.zeros_like(top), torch.zeros_like(top)
        with torch.autocast(hidden.device.type, enabled=False):
            for vocabulary, rows, logits in _blocks(states, weight, bias, transform):
                _pick(chosen[rows], logits, targets[rows], vocabulary)
                new_top = torch.maximum(top[rows], logits.amax(1))
                shrink = torch.exp2(top[rows] - new_top)
                shifted = logits.sub_(new_top[:, None])
                if entropy:  # sum of 2^x x, kept relative to the running maximum x = logit - top
                    drift = torch.where(shrink > 0, top[rows] - new_top, 0.0)
                    moment[rows] = shrink * (moment[rows] + drift * total[rows])
                    powers = torch.exp2(shifted)
                    moment[rows] += torch.linalg.vecdot(powers, shifted)
                else:
                    powers = shifted.exp2_()
                total[rows] = total[rows] * shrink + powers.sum(1)
                top[rows] = new_top
        log_total = top + total.log2()
        entropies = (total.log2() - moment / total) * _LN_2
        ctx.save_for_backward(hidden, weight, bias, targets, log_total, entropies)
        ctx.transform, ctx.entropy = transform, entropy
        ctx.set_materialize_grads(False)  # an entropy that is only logged sends no gradient
        if not entropy:
            ctx.mark_non_differentiable(entropies)
        return (chosen - log_total) * _LN_2, entropies

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor | None, grad_entropy: Tensor | None) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, targets, log_total, entropies = ctx.saved_tensors
        if grad is None:
            grad = torch.zeros_like(log_total)
        transform: _Transform = ctx.transform
        states = hidden.to(transform.compute)
        grad_hidden = (
            torch.zeros_like(states, dtype=transform.accumulate) if ctx.needs_input_grad[0] else None
        )
        new = torch.empty_like if len(states) else torch.zeros_like  # every block is written, if there is one
        grad_weight = new(weight) if ctx.needs_input_grad[1] else None
        grad_bias = torch.zeros_like(bias) if bias is not None and ctx.needs_input_grad[2] else None
        sums = _BlockSums(grad_weight, transform.accumulate)
        with torch.autocast(hidden.device.type, enabled=False):
            for vocabulary, rows, logits in _blocks(states, weight, bias, transform):
                slope = _slope(logits, transform)
                logits.sub_(log_total[rows, None])
                factor = -grad[rows, None]
                if ctx.entropy and grad_entropy is not None:  # dH/dz = -p (log p + H)
                    pull = torch.add(entropies[rows, None], logits, alpha=_LN_2)
                    factor = factor - grad_entropy[rows, None] * pull
                delta = logits.exp2_().mul_(factor)
                _add_at(delta, grad[rows], targets[rows], vocabulary)
                delta = delta.mul_(transform.scale / transform.temperature if slope is None else slope)
                if grad_bias is not None:
                    grad_bias[vocabulary] += delta.sum(0).to(grad_bias.dtype)
                delta = delta.to(transform.compute)
                if grad_hidden is not None:
                    _add_product(grad_hidden[rows], delta, weight[vocabulary].to(transform.compute))
                sums.add(vocabulary, delta, states[rows])
            sums.flush()
        grad_hidden = None if grad_hidden is None else grad_hidden.to(hidden.dtype)
        return grad_hidden, grad_weight, grad_bias, None, None, None


class _BlockSums:
    """The weight's gradient: each vocabulary block is summed over all rows, then written once."""

    def __init__(self, out: Tensor | None, accumulate: torch.dtype):
        self.out, self.accumulate = out, accumulate
        self.block: slice | None = None
        self.sum: Tensor | None = None

    def add(self, block: slice, delta: Tensor, states: Tensor) -> None:
        if self.out is None:
            return
        if block == self.block and self.sum is not None:
            self.sum = self.sum.to(self.accumulate)
            _add_product(self.sum, delta.T, states)
            return
        self.flush()
        self.block, self.sum = block, torch.mm(delta.T, states)

    def flush(self) -> None:
        if self.out is not None and self.sum is not None:
            self.out[self.block] = self.sum
        self.sum = None


def _blocks(
    states: Tensor, weight: Tensor, bias: Tensor | None, transform: _Transform
) -> Iterator[tuple[slice, slice, Tensor]]:
    """Yield (vocabulary slice, row slice, base-2 logits); the logits live in one buffer that is reused."""
    num_rows, num_words = len(states), len(weight)
    height = max(1, min(num_rows, 1024, transform.block_elements))
    width = min(num_words, max(1, transform.block_elements // height))
    buffer = states.new_empty(height * width)
    wide = buffer.to(transform.accumulate)  # the same memory where the types agree
    for first_word in range(0, num_words, width):
        vocabulary = slice(first_word, min(first_word + width, num_words))
        words = weight[vocabulary].to(transform.compute).T
        for first_row in range(0, num_rows, height):
            rows = slice(first_row, min(first_row + height, num_rows))
            shape = (rows.stop - rows.start, vocabulary.stop - vocabulary.start)
            product = buffer[: shape[0] * shape[1]].view(shape)
            torch.mm(states[rows], words, out=product)
            logits = wide[: shape[0] * shape[1]].view(shape)
            if wide is not buffer:
                logits.copy_(product)
            if bias is not None:
                logits += bias[vocabulary]
            if transform.softcap is not None:
                logits.mul_(transform.scale / transform.softcap).tanh_()
                logits.mul_(transform.softcap * _LOG2_E / transform.temperature)
            else:
                logits.mul_(transform.scale * _LOG2_E / transform.temperature)
            yield vocabulary, rows, logits


def _slope(logits: Tensor, transform: _Transform) -> Tensor | None:
    """Return d(logit)/d(hidden @ weight.T) of capped base-2 logits; None where it is a constant."""
    if transform.softcap is None:
        return None
    capped = logits * (transform.temperature * _LN_2 / transform.softcap)
    return capped.square_().neg_().add_(1.0).mul_(transform.scale / transform.temperature)


def _pick(chosen: Tensor, logits: Tensor, targets: Tensor, vocabulary: slice) -> None:
    """Write the target's logit of each row whose target lies in this block."""
    inside = (targets >= vocabulary.start) & (targets < vocabulary.stop)
    column = (targets - vocabulary.start).clamp(0, logits.shape[1] - 1)
    chosen.copy_(torch.where(inside, logits.gather(1, column[:, None])[:, 0], chosen))


def _add_at(delta: Tensor, amount: Tensor, targets: Tensor, vocabulary: slice) -> None:
    """Add `amount` at each row's target where it lies in this block."""
    inside = (targets >= vocabulary.start) & (targets < vocabulary.stop)
    column = (targets - vocabulary.start).clamp(0, delta.shape[1] - 1)
    delta.scatter_add_(1, column[:, None], (amount * inside).to(delta.dtype)[:, None])


def _add_product(out: Tensor, a: Tensor, b: Tensor) -> None:
    """Add a @ b to `out` in place, which may be of a wider type."""
    if out.dtype == a.dtype:
        out.addmm_(a, b)
    else:
        out += a @ b
