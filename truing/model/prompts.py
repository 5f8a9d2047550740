"""Log-probs of the prompts beside those of the completions, from one forward pass."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from truing.model.forward import policy_outputs
from truing.types import Batch


def prompt_outputs(
    model: nn.Module, batch: Batch, *, temperature: float = 1.0
) -> tuple[Float[Tensor, "B C"], Float[Tensor, " B"]]:
    """Return the log-probs of the trained tokens, and the sum over each prompt's tokens after its first.

    Args:
        model: as for `truing.model.forward.policy_outputs`.
        batch: the rows.
        temperature: divides the logits.

    Raises:
        DataError: a prompt is empty.
    """
    before = torch.tensor([max(len(p) - 1, 0) for p in batch.prompts], device=batch.mask.device)
    wide = _from_the_second_token(batch, before)
    logprobs, _ = policy_outputs(model, wide, temperature=temperature)
    columns = torch.arange(wide.mask.shape[1], device=batch.mask.device)
    prompts = torch.where(columns < before[:, None], logprobs, torch.zeros_like(logprobs)).sum(-1)
    index = before[:, None] + torch.arange(batch.mask.shape[1], device=batch.mask.device)
    completions = logprobs.gather(1, index.clamp(max=wide.mask.shape[1] - 1))
    return torch.where(batch.mask, completions, torch.zeros_like(completions)), prompts


def _from_the_second_token(batch: Batch, before: Int[Tensor, " B"]) -> Batch:
    """Return the batch with every token of a row after its first as completion, the prompt's trained."""
    lengths = batch.lengths + before
    shape = (len(batch), int(lengths.max()))
    completions = batch.completions.new_zeros(shape)
    mask = batch.mask.new_zeros(shape)
    for i, (prompt, length) in enumerate(zip(batch.prompts, batch.lengths.tolist(), strict=True)):
        start = max(len(prompt) - 1, 0)
        completions[i, :start], mask[i, :start] = prompt[1:], True
        completions[i, start : start + length] = batch.completions[i, :length]
        mask[i, start : start + length] = batch.mask[i, :length]
    return Batch(
        prompts=tuple(p[:1] for p in batch.prompts), completions=completions, lengths=lengths, mask=mask,
        groups=batch.groups,
    )  # fmt: skip
