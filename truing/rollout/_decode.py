"""The decode loop: prompts in, rows of tokens out, with one forward pass of the model's own a step."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from truing.rollout._attention import Pass, attending
from truing.rollout._draw import Drawer
from truing.rollout._kv import Grid, PromptPass
from truing.rollout.sampler import SamplingParams
from truing.types import FinishReason

_PREFILL_TOKENS = 4096  # packed prompt tokens of one forward pass
_SHRINK = 0.75  # the grid is rebuilt when it can be this much smaller


@dataclass(slots=True)
class Row:
    """One completion while it grows; `random` gives its uniforms and nobody else's.

    Args:
        num_top: how many of the likeliest tokens are kept at each position, in `top`.
        ends: whether the tokens so far end it, besides the stop tokens; None: nothing else does.
    """

    prompt: int
    random: np.random.Generator
    max_tokens: int
    stops: frozenset[int]
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    num_top: int = 0
    top: list[list[tuple[int, float]]] = field(default_factory=list)
    ends: Callable[[Sequence[int]], bool] | None = None

    def append(self, token: int, logprob: float) -> None:
        """Add a drawn token and finish at a stop token or at the limit."""
        self.tokens.append(token)
        self.logprobs.append(logprob)
        if token in self.stops or (self.ends is not None and self.ends(self.tokens)):
            self.finish_reason = "stop"
        elif len(self.tokens) == self.max_tokens:
            self.finish_reason = "length"


def new_rows(prompt: int, num_samples: int, params: SamplingParams) -> list[Row]:
    """Return empty rows whose random numbers depend on the seed, the prompt's index and their own only."""
    stops = frozenset(params.stop_token_ids)
    seeds = [np.random.SeedSequence((params.seed, prompt, sample)) for sample in range(num_samples)]
    return [Row(prompt, np.random.Generator(np.random.Philox(s)), params.max_tokens, stops) for s in seeds]


def draw(drawer: Drawer, logits: Float[Tensor, "R V"], rows: Sequence[Row | None]) -> list[int]:
    """Draw a token for every row and add it to those that are alive; return all tokens.

    Args:
        drawer: at the rows' temperature.
        logits: for the next token of each row.
        rows: None and finished rows are drawn for too, and forget what was drawn.
    """
    alive = [row if row is not None and row.finish_reason is None else None for row in rows]
    uniforms = [row.random.random() if row is not None else 0.5 for row in alive]
    drawn, logprobs = drawer(logits, torch.tensor(uniforms, dtype=torch.float64, device=logits.device))
    tokens: list[int] = drawn.tolist()
    for place, row in enumerate(alive):
        if row is not None and row.num_top:
            row.top.append(drawer.likeliest(place, row.num_top))
    for row, token, logprob in zip(alive, tokens, logprobs.tolist(), strict=True):
        if row is not None:
            row.append(token, logprob)
    return tokens


def forward(
    model: Any,
    state: Pass,
    tokens: Int[Tensor, " T"],
    positions: Int[Tensor, " T"],
    keep: Int[Tensor, " K"] | None = None,
) -> Float[Tensor, "K V"]:
    """Return the logits of packed tokens, or of the kept ones, from one forward pass with this state."""
    with attending(state):
        output = model(
            input_ids=tokens[None],
            position_ids=positions[None],
            use_cache=False,
            logits_to_keep=0 if keep is None else keep,
        )
    logits: Tensor = output.logits[0]
    return logits


class Decoding:
    """One call of `generate`: groups of rows wait, enter the grid, grow, finish and make room."""

    def __init__(self, model: Any, prompts: Sequence[Sequence[int]], params: SamplingParams) -> None:
        """Decode with this model, whose attention is the grid's."""
        self._model, self._prompts, self._params = model, prompts, params
        self._drawer = Drawer(temperature=params.temperature, top_p=params.top_p, top_k=params.top_k)
        self._cells: list[Row | None] = []  # the grid's rows; None where a group has fewer than the slots
        self._last: list[int] = []  # the token that each cell reads next

    def run(self, groups: Sequence[Sequence[Row]], max_rows: int) -> None:
        """Grow every row until it is finished; a group's rows share a prompt, which is read once.

        Args:
            groups: each of at most max_rows rows.
            max_rows: cells of the grid; groups that do not fit wait until others have finished.
        """
        waiting = deque(sorted(groups, key=lambda rows: -len(self._prompts[rows[0].prompt])))
        self._slots = max(map(len, groups))
        self._grid = self._new_grid()
        room = max(1, max_rows // self._slots)
        while waiting or self._cells:
            free = room - len(self._cells) // self._slots
            if waiting and (free >= max(1, room // 4) or not self._cells):
                self._admit([waiting.popleft() for _ in range(min(free, len(waiting)))])
            elif self._cells:
                self._step()
            self._compact(slots_stay=bool(waiting))

    def _new_grid(self) -> Grid:
        return Grid(self._slots, self._params.max_tokens, self._model.device)

    def _admit(self, groups: Sequence[Sequence[Row]]) -> None:
        """Read the groups' prompts, as many packed into a pass as its budget holds, and draw first tokens."""
        start, size = 0, 0
        for i, rows in enumerate(groups):
            length = len(self._prompts[rows[0].prompt])
            if i > start and size + length > _PREFILL_TOKENS:
                self._read(groups[start:i])
                start, size = i, 0
            size += length
        self._read(groups[start:])

    def _read(self, groups: Sequence[Sequence[Row]]) -> None:
        prompts = [self._prompts[rows[0].prompt] for rows in groups]
        device, lengths = self._model.device, [len(p) for p in prompts]
        tokens = torch.tensor([t for p in prompts for t in p], device=device)
        positions = torch.cat([torch.arange(n, device=device) for n in lengths])
        state = PromptPass(lengths)
        ends = torch.tensor(lengths, device=device).cumsum(0) - 1
        logits = forward(self._model, state, tokens, positions, keep=ends)
        cells = [row for rows in groups for row in [*rows, *[None] * (self._slots - len(rows))]]
        self._last += draw(self._drawer, logits.repeat_interleave(self._slots, 0), cells)
        self._grid.admit(state)
        self._cells += cells

    def _step(self) -> None:
        positions = self._grid.advance()
        tokens = torch.tensor(self._last, device=positions.device)
        logits = forward(self._model, self._grid, tokens, positions)
        self._last = draw(self._drawer, logits, self._cells)

    def _compact(self, *, slots_stay: bool) -> None:
        """Leave finished rows behind once the grid gets so much smaller that it pays for the copy."""
        num_slots = self._slots
        groups = [self._cells[i : i + num_slots] for i in range(0, len(self._cells), num_slots)]
        alive = [
            [s for s, r in enumerate(rows) if r is not None and r.finish_reason is None] for rows in groups
        ]
        kept = [p for p, slots in enumerate(alive) if slots]
        if not kept:
            self._cells, self._last, self._grid = [], [], self._new_grid()
            return
        width = num_slots if slots_stay else max(map(len, alive))
        if len(kept) * width > _SHRINK * len(self._cells):
            return
        slots = [(alive[p] + [s for s in range(num_slots) if s not in alive[p]])[:width] for p in kept]
        cells = [p * num_slots + s for p, chosen in zip(kept, slots, strict=True) for s in chosen]
        self._grid.select(kept, slots)
        self._cells, self._last = [self._cells[c] for c in cells], [self._last[c] for c in cells]
        self._slots = width
