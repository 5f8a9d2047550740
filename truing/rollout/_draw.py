"""From logits to tokens: exact draws by the inverse of the cumulative distribution."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from truing.errors import NonFiniteError

_BLOCK = 256  # ids that are summed together before a token is looked up


class Drawer:
    """Draws one token a row; keeps its buffers of one float32 row of the vocabulary a row between steps."""

    def __init__(self, *, temperature: float, top_p: float = 1.0, top_k: int = 0) -> None:
        """Draw from softmax(logits / temperature), cut to top_k and top_p; temperature 0 is greedy."""
        self._temperature, self._top_p, self._top_k = temperature, top_p, top_k
        self._logits = torch.empty(0, 0)
        self._probs = torch.empty(0, 0)

    def __call__(
        self, logits: Float[Tensor, "B V"], uniforms: Float[Tensor, " B"]
    ) -> tuple[Int[Tensor, " B"], Float[Tensor, " B"]]:
        """Return the drawn ids and their log-probs under the softmax before top_k and top_p [nats].

        Args:
            logits: of any floating dtype; the arithmetic is float32, the look-up float64.
            uniforms: a number in [0, 1) for each row, float64; unused when greedy.

        Raises:
            NonFiniteError: a row has NaN or infinite logits.
        """
        num_rows, vocabulary = logits.shape
        scaled = self._scaled(logits)
        if self._temperature not in (0.0, 1.0):
            scaled.mul_(1 / self._temperature)
        probs = torch.softmax(scaled, -1, out=self._probs[:num_rows])
        drawn_from = _cut(probs, self._top_p, self._top_k)
        blocks = drawn_from.view(num_rows, -1, _BLOCK).sum(-1)
        if not bool(blocks.sum().isfinite()):
            bad = (~blocks.sum(-1).isfinite()).nonzero().flatten().tolist()
            raise NonFiniteError(
                f"sampler: the logits of batch rows {bad} are not finite; check the learner's weights"
            )
        if self._temperature == 0:
            tokens = scaled[:, :vocabulary].argmax(-1)
        else:
            tokens = _inverse_cdf(drawn_from, blocks, uniforms)
        return tokens, probs.gather(1, tokens[:, None])[:, 0].log()

    def likeliest(self, row: int, count: int) -> list[tuple[int, float]]:
        """Return the likeliest ids of a row of the last draw with their log-probs [nats], likeliest first."""
        probs, ids = self._probs[row].topk(count)
        return list(zip(ids.tolist(), probs.log().tolist(), strict=True))

    def _scaled(self, logits: Float[Tensor, "B V"]) -> Float[Tensor, "B W"]:
        """Return the logits in the float32 buffer, padded with -inf to whole blocks."""
        num_rows, vocabulary = logits.shape
        width = -(-vocabulary // _BLOCK) * _BLOCK
        if self._logits.shape[0] < num_rows or self._logits.shape[1] != width:
            self._logits = torch.full((num_rows, width), -torch.inf, device=logits.device)
            self._probs = torch.empty_like(self._logits)
        self._logits[:num_rows, :vocabulary] = logits
        return self._logits[:num_rows]


def _cut(probs: Float[Tensor, "B W"], top_p: float, top_k: int) -> Float[Tensor, "B W"]:
    """Return the probabilities with all but the top_k, then the top_p likeliest at 0; not renormalised."""
    if 0 < top_k < probs.shape[1]:
        smallest = probs.topk(top_k, -1).values[:, -1:]
        probs = probs.where(probs >= smallest, 0.0)
    if top_p < 1:
        ordered, order = probs.sort(-1, descending=True)
        before = ordered.cumsum(-1) - ordered  # the mass of likelier tokens; the likeliest always stays
        dropped = before >= top_p * ordered.sum(-1, keepdim=True)
        probs = torch.zeros_like(probs).scatter_(1, order, ordered.masked_fill(dropped, 0.0))
    return probs


def _inverse_cdf(
    weights: Float[Tensor, "B W"], blocks: Float[Tensor, "B K"], uniforms: Float[Tensor, " B"]
) -> Int[Tensor, " B"]:
    """Return the first id whose cumulative weight exceeds uniform * total, found block first, then id.

    Two levels read the vocabulary once, and keep float64's exactness without a float64 copy of it.
    """
    ends = blocks.double().cumsum(-1)
    target = uniforms[:, None] * ends[:, -1:]
    block = torch.searchsorted(ends, target, right=True).clamp_(max=ends.shape[1] - 1)
    inside = target - (ends.gather(1, block) - blocks.double().gather(1, block))
    members = block * _BLOCK + torch.arange(_BLOCK, device=block.device)
    steps = weights.gather(1, members).double().cumsum(-1)
    below = torch.nextafter(
        steps[:, -1:], torch.zeros_like(steps[:, -1:])
    )  # rounding never passes the last id
    return (block * _BLOCK + torch.searchsorted(steps, inside.clamp(min=0).minimum(below), right=True))[:, 0]
