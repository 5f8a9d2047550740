"""Keys and values of a decoding batch: each prompt's once, each row's own, and attention over both.

Axes: R rows of the grid (P prompts times S slots, slot fastest), N prompt tokens padded to the
longest, W columns of own tokens, Hq query heads, Hk key heads, D head width, E value width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from truing.rollout._attention import Ask, causal, masked_softmax

_STEP = 32  # own columns are read in multiples: kernels for a new shape cost a millisecond each


@dataclass(slots=True)
class PromptPass:
    """A prefill of packed prompts; keeps each layer's keys and values, padded with zeros to the longest."""

    lengths: Sequence[int]
    layers: dict[int, tuple[Float[Tensor, "P Hk N D"], Float[Tensor, "P Hk N E"]]] = field(
        default_factory=dict
    )

    def attend(
        self,
        layer: int,
        query: Float[Tensor, "1 Hq T D"],
        key: Float[Tensor, "1 Hk T D"],
        value: Float[Tensor, "1 Hk T E"],
        ask: Ask,
    ) -> Float[Tensor, "1 T Hq E"]:
        """Return causal attention inside each prompt."""
        shape = (len(self.lengths), key.shape[1], max(self.lengths))
        keys, values = key.new_zeros(*shape, key.shape[3]), value.new_zeros(*shape, value.shape[3])
        out = query.new_empty(1, query.shape[2], query.shape[1], value.shape[3])
        start = 0
        for i, length in enumerate(self.lengths):
            part = slice(start, start + length)
            keys[i, :, :length], values[i, :, :length] = key[0, :, part], value[0, :, part]
            out[:, part] = causal(query[:, :, part], key[:, :, part], value[:, :, part], ask).transpose(1, 2)
            start += length
        self.layers[layer] = (keys, values)
        return out


@dataclass(slots=True)
class _Layer:
    prompt_keys: Float[Tensor, "P Hk N D"]
    prompt_values: Float[Tensor, "P Hk N E"]
    keys: Float[Tensor, "R Hk W D"]
    values: Float[Tensor, "R Hk W E"]


class Grid:
    """Rows that grow together: `slots` rows of each prompt, all writing the same column in a step.

    Columns are a ring of max_tokens: a row lives at most that long, so a column is free again before
    it is needed. Which columns a row sees follows from when it started, so rows may join at any step.
    """

    def __init__(self, slots: int, max_tokens: int, device: torch.device) -> None:
        """Start empty; memory is taken as prompts are admitted and rows grow."""
        self.slots = slots
        self._capacity = -(-max_tokens // _STEP) * _STEP
        self._step = -1
        self._layers: dict[int, _Layer] = {}
        self._lengths = torch.empty(0, dtype=torch.long, device=device)  # [P] prompt tokens
        self._starts = torch.empty(0, dtype=torch.long, device=device)  # [R] step of the first own token
        self._column_steps = torch.full((min(2 * _STEP, self._capacity),), -1, device=device)  # [W]
        self._masks: dict[int | None, Tensor] = {}

    @property
    def num_layers(self) -> int:
        """Return how many layers keep keys and values."""
        return len(self._layers)

    def admit(self, prompts: PromptPass) -> None:
        """Add prompts that were read, each with `slots` rows that have no tokens of their own yet."""
        num_prompts, width = len(prompts.lengths), len(self._column_steps)
        for index, (keys, values) in prompts.layers.items():
            own = (num_prompts * self.slots, keys.shape[1], width)
            fresh = _Layer(
                keys, values, keys.new_zeros(*own, keys.shape[3]), values.new_zeros(*own, values.shape[3])
            )
            self._layers[index] = _joined(self._layers[index], fresh) if index in self._layers else fresh
        lengths = torch.tensor(prompts.lengths, device=self._lengths.device)
        self._lengths = torch.cat([self._lengths, lengths])
        starts = torch.full((num_prompts * self.slots,), self._step + 1, device=self._starts.device)
        self._starts = torch.cat([self._starts, starts])

    def select(self, prompts: Sequence[int], slots: Sequence[Sequence[int]]) -> None:
        """Keep these prompts, and of each prompt these slots; every prompt keeps as many."""
        device, kept = self._lengths.device, len(slots[0])
        picked = torch.tensor(prompts, device=device)
        rows = torch.tensor(
            [p * self.slots + s for p, chosen in zip(prompts, slots, strict=True) for s in chosen]
        )
        rows = rows.to(device)
        self._lengths, self._starts, self.slots = self._lengths[picked], self._starts[rows], kept
        longest = int(self._lengths.max())
        for layer in self._layers.values():
            layer.keys, layer.values = layer.keys.index_select(0, rows), layer.values.index_select(0, rows)
            if len(picked) < len(layer.prompt_keys):
                layer.prompt_keys = layer.prompt_keys[:, :, :longest].index_select(0, picked)
                layer.prompt_values = layer.prompt_values[:, :, :longest].index_select(0, picked)

    def advance(self) -> Int[Tensor, " R"]:
        """Open the next column and return the position of each row's token in it."""
        self._step += 1
        self._masks.clear()
        column = self._step % self._capacity
        if column >= len(self._column_steps):
            self._widen(min(2 * len(self._column_steps), self._capacity))
        self._column_steps[column] = self._step
        return self._lengths.repeat_interleave(self.slots) + (self._step - self._starts)

    def attend(
        self,
        layer: int,
        query: Float[Tensor, "1 Hq R D"],
        key: Float[Tensor, "1 Hk R D"],
        value: Float[Tensor, "1 Hk R E"],
        ask: Ask,
    ) -> Float[Tensor, "1 R Hq E"]:
        """Return attention of each row's token to its prompt and to the row's own tokens.

        Scores with a prompt are one matrix product for all rows of the prompt; keys are never repeated,
        neither over the rows of a prompt nor over the query heads of a key head.
        """
        kv, column, used = self._layers[layer], self._step % self._capacity, self._used()
        kv.keys[:, :, column] = key[0].transpose(0, 1)
        kv.values[:, :, column] = value[0].transpose(0, 1)
        num_prompts, num_heads, length, _ = kv.prompt_keys.shape
        # [Hk, rep, P, S, D]; a matrix product needs the heads of a prompt, or of a row, side by side
        grouped = query[0].unflatten(1, (num_prompts, self.slots)).unflatten(0, (num_heads, -1))
        repeats, width = grouped.shape[1], value.shape[3]
        by_prompt = grouped.permute(2, 0, 3, 1, 4).reshape(num_prompts * num_heads, self.slots * repeats, -1)
        by_row = grouped.permute(2, 3, 0, 1, 4).reshape(-1, repeats, query.shape[3])
        shared = torch.bmm(by_prompt, kv.prompt_keys.flatten(0, 1).mT)
        own = torch.bmm(by_row, kv.keys.flatten(0, 1)[:, :used].mT)
        shape = (num_prompts, num_heads, self.slots, repeats)
        own = own.view(num_prompts, self.slots, num_heads, repeats, used).transpose(1, 2)
        scores = torch.cat([shared.view(*shape, length), own], -1)
        probs = masked_softmax(scores, self._mask(ask.window, length, scores.dtype), ask, head_axes=(1, 3))
        from_prompt = torch.bmm(
            probs.flatten(2, 3).flatten(0, 1)[..., :length], kv.prompt_values.flatten(0, 1)
        )
        own_probs = probs[..., length:].transpose(1, 2).reshape(-1, repeats, used)
        out = torch.bmm(own_probs, kv.values.flatten(0, 1)[:, :used])
        out = out.view(num_prompts, self.slots, num_heads, repeats, width)
        out = out + from_prompt.view(*shape, width).transpose(1, 2)
        return out.view(1, num_prompts * self.slots, num_heads * repeats, width)

    def _used(self) -> int:
        """Return how many columns have been written, rounded up."""
        return min(-(-(self._step + 1) // _STEP) * _STEP, len(self._column_steps))

    def _mask(self, window: int | None, length: int, dtype: torch.dtype) -> Float[Tensor, "P 1 S 1 K"]:
        """Return 0 for the prompt and own columns that a row sees and -inf for others; once a step."""
        if window not in self._masks:
            seen = self._seen(window, length)
            mask = torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill_(~seen, -torch.inf)
            self._masks[window] = mask[:, None, :, None]
        return self._masks[window]

    def _seen(self, window: int | None, length: int) -> Bool[Tensor, "P S K"]:
        shape = (len(self._lengths), self.slots, -1)
        places, steps = torch.arange(length, device=self._lengths.device), self._column_steps[: self._used()]
        prompt = (places < self._lengths[:, None])[:, None].expand(*shape[:2], length)
        own = (steps >= self._starts[:, None]).view(shape)
        if window is not None:
            here = self._lengths[:, None] + (self._step - self._starts).view(shape[:2])
            prompt = prompt & (places > here[..., None] - window)
            own = own & (steps > self._step - window)
        return torch.cat([prompt, own], -1)

    def _widen(self, width: int) -> None:
        more = width - len(self._column_steps)
        for layer in self._layers.values():
            layer.keys, layer.values = (
                F.pad(layer.keys, (0, 0, 0, more)),
                F.pad(layer.values, (0, 0, 0, more)),
            )
        self._column_steps = F.pad(self._column_steps, (0, more), value=-1)


def _joined(old: _Layer, new: _Layer) -> _Layer:
    longest = max(old.prompt_keys.shape[2], new.prompt_keys.shape[2])
    return _Layer(
        torch.cat([_padded(old.prompt_keys, longest), _padded(new.prompt_keys, longest)]),
        torch.cat([_padded(old.prompt_values, longest), _padded(new.prompt_values, longest)]),
        torch.cat([old.keys, new.keys]),
        torch.cat([old.values, new.values]),
    )


def _padded(x: Float[Tensor, "P Hk N D"], length: int) -> Float[Tensor, "P Hk M D"]:
    return F.pad(x, (0, 0, 0, length - x.shape[2]))
