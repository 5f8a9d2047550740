"""What a batch's completions look like to a network: log-probs, values and scores, as [B, C] or [B].

Rows run as a forest where the family can, padded where it cannot. Only the tokens up to the last
position that is read are computed, and each LM-head row is computed once, however many rows of the
batch share it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from truing.errors import DataError
from truing.math.logprobs import token_logprobs_of
from truing.model.forest import plant
from truing.model.heads import ScalarModel, backbone_of, lm_head_of
from truing.model.interface import ForestPass, forest_states
from truing.model.padded import padded_states
from truing.model.support import Path, runs_as_forest
from truing.types import Batch


class _Reads(NamedTuple):
    """K places that are read: completion token `column` of `row`, by the state at `position` of the row."""

    row: Int[Tensor, " K"]
    column: Int[Tensor, " K"]
    position: Int[Tensor, " K"]


def policy_outputs(
    model: nn.Module,
    batch: Batch,
    *,
    temperature: float = 1.0,
    entropy: bool = False,
    path: Path = "auto",
) -> tuple[Float[Tensor, "B C"], Float[Tensor, "B C"] | None]:
    """Return log pi(token | what precedes it) of the trained tokens, and the entropy of each choice.

    Both are in nats, aligned with `batch.completions`, and 0 where `batch.mask` is False.

    Args:
        model: a transformers causal model, or a peft model around one.
        batch: the rows.
        temperature: divides the logits; the sampler's, for online methods.
        entropy: also return the entropy.
        path: "auto" runs a forest where the family can; "forest" insists; "padded" is the reference.

    Raises:
        DataError: a trained token has nothing before it, as its prompt is empty.
        ModelError: path is "forest" and the family cannot run as one.
    """
    reads = _predictors(batch, batch.mask)
    if not len(reads.row):
        return _zeros(batch), _zeros(batch) if entropy else None
    head = lm_head_of(model)
    states, source = _states(backbone_of(model), batch, reads, path)
    targets = batch.completions.cpu()[reads.row, reads.column]
    choices, inverse = torch.stack([source, targets]).unique(dim=1, return_inverse=True)
    device = states.device
    logprobs, entropies = token_logprobs_of(
        states[choices[0].to(device)],
        head.weight,
        choices[1].to(device),
        temperature=temperature,
        softcap=head.softcap,
        bias=head.bias,
        scale=head.scale,
        entropy=entropy,
    )
    inverse = inverse.to(device)
    aligned = _align(batch, reads, logprobs[inverse])
    return aligned, None if entropies is None else _align(batch, reads, entropies[inverse])


def token_values(network: ScalarModel, batch: Batch, path: Path = "auto") -> Float[Tensor, "B C"]:
    """Return V before each completion token, read where that token is predicted; 0 past a row's end.

    values[i, 0] is read at the prompt's last token.

    Raises:
        DataError: a prompt is empty.
        ModelError: path is "forest" and the family cannot run as one.
    """
    columns = torch.arange(batch.completions.shape[1], device=batch.lengths.device)
    reads = _predictors(batch, columns < batch.lengths[:, None])
    if not len(reads.row):
        return _zeros(batch)
    states, source = _states(backbone_of(network), batch, reads, path)
    return _align(batch, reads, network(states[source.to(states.device)]))


def token_scores(network: ScalarModel, batch: Batch, path: Path = "auto") -> Float[Tensor, "B C"]:
    """Return the number read AT each completion token, once it is known; 0 past a row's end.

    The last of a row is its `sequence_scores`.

    Raises:
        ModelError: path is "forest" and the family cannot run as one.
    """
    columns = torch.arange(batch.completions.shape[1], device=batch.lengths.device)
    row, column = (columns < batch.lengths[:, None]).cpu().nonzero(as_tuple=True)
    if not len(row):
        return _zeros(batch)
    reads = _Reads(row, column, _prompt_lengths(batch)[row] + column)
    states, source = _states(backbone_of(network), batch, reads, path)
    return _align(batch, reads, network(states[source.to(states.device)]))


def sequence_scores(network: ScalarModel, batch: Batch, path: Path = "auto") -> Float[Tensor, " B"]:
    """Return the number read at each row's last completion token, found by its length.

    A row without a completion is read at its prompt's last token.

    Raises:
        DataError: a row has no token at all.
        ModelError: path is "forest" and the family cannot run as one.
    """
    scores: Tensor = network(_last_states(network, batch, path))
    return scores


def both_scores(
    network: ScalarModel, batch: Batch, path: Path = "auto"
) -> tuple[Float[Tensor, " B"], Float[Tensor, " B"]]:
    """Return what `sequence_scores` returns, and what the length head reads there, of one forward pass.

    Raises:
        DataError: a row has no token at all.
        ModelError: there is no length head, or path is "forest" and the family cannot run as one.
    """
    states = _last_states(network, batch, path)
    return network(states), network.length_scores(states)


def calibrated_scores(network: ScalarModel, batch: Batch, path: Path = "auto") -> Float[Tensor, " B"]:
    """Return `sequence_scores` through the network's calibration, where it has one."""
    scores = sequence_scores(network, batch, path)
    return scores if network.calibration is None else network.calibration(scores, batch.lengths.to(scores))


def _last_states(network: ScalarModel, batch: Batch, path: Path) -> Float[Tensor, "B H"]:
    lengths = batch.lengths.cpu()
    position = _prompt_lengths(batch) + lengths - 1
    if (position < 0).any():
        raise DataError(f"row {int((position < 0).nonzero()[0])} of the batch has no tokens to score")
    rows = torch.arange(len(batch))
    states, source = _states(backbone_of(network), batch, _Reads(rows, lengths - 1, position), path)
    return states[source.to(states.device)]


def _prompt_lengths(batch: Batch) -> Int[Tensor, " B"]:
    return torch.tensor([len(prompt) for prompt in batch.prompts])


def _predictors(batch: Batch, selected: Tensor) -> _Reads:
    """Return where each selected completion token is predicted: one position before its own."""
    row, column = selected.cpu().nonzero(as_tuple=True)
    position = _prompt_lengths(batch)[row] + column - 1
    if (position < 0).any():
        bad = int(row[position < 0][0])
        raise DataError(f"row {bad} has an empty prompt, so nothing predicts its first token")
    return _Reads(row, column, position)


def _states(
    backbone: Any, batch: Batch, reads: _Reads, path: Path
) -> tuple[Float[Tensor, "T H"], Int[Tensor, " K"]]:
    """Return the hidden states of the batch and which of them each read is."""
    device = backbone.get_input_embeddings().weight.device
    needed = torch.zeros(len(batch), dtype=torch.long).scatter_reduce(
        0, reads.row, reads.position + 1, reduce="amax"
    )
    rows = _token_rows(batch, needed.tolist())
    if runs_as_forest(backbone, path):
        forest = plant(rows, device)
        states, places = forest_states(backbone, ForestPass(forest)), list(forest.paths)
    else:
        states, places = padded_states(backbone, rows, device)
    starts = torch.tensor([0, *(len(place) for place in places)]).cumsum(0)
    return states, torch.cat(places)[starts[reads.row] + reads.position]


def _token_rows(batch: Batch, needed: Sequence[int]) -> list[list[int]]:
    """Return prompt and completion ids of each row, up to the last token that is needed."""
    completions, lengths = batch.completions.tolist(), batch.lengths.tolist()
    rows = zip(batch.prompts, completions, lengths, needed, strict=True)
    return [[*prompt.tolist(), *tokens[:length]][:keep] for prompt, tokens, length, keep in rows]


def _align(batch: Batch, reads: _Reads, numbers: Float[Tensor, " K"]) -> Float[Tensor, "B C"]:
    """Return the numbers at their completion tokens, 0 elsewhere."""
    index = (reads.row.to(numbers.device), reads.column.to(numbers.device))
    return numbers.new_zeros(batch.completions.shape).index_put(index, numbers)


def _zeros(batch: Batch) -> Float[Tensor, "B C"]:
    """Return what a batch without anything to read gives; it may be backpropagated, to no effect."""
    return torch.zeros(
        batch.completions.shape, device=batch.mask.device, requires_grad=torch.is_grad_enabled()
    )
