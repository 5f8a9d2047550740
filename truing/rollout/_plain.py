"""Decoding with the model's own cache, for families that the decode grid does not fit (recurrent ones)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteriaList

from truing.rollout._decode import Row, draw
from truing.rollout._draw import Drawer
from truing.rollout.sampler import SamplingParams

Reader = Callable[[Tensor], Tensor]  # token ids so far [R, T] -> logits of the next token [R, V]


def generate_plain(
    model: Any,
    prompts: Sequence[Sequence[int]],
    groups: Sequence[Sequence[Row]],
    params: SamplingParams,
    *,
    second: Callable[[], Reader] | None = None,
    share: float = 0.0,
) -> None:
    """Grow every row until it is finished with `model.generate`, one group of rows at a time.

    Rows of a group have one prompt, so nothing is padded. The tokens are drawn as on the grid, from
    the same random numbers: `model.generate` only ever sees the drawn token as the likeliest.

    Args:
        model: the first policy.
        prompts: token ids.
        groups: rows of one prompt each.
        params: how tokens are drawn.
        second: makes a reader of a second policy's logits for a group of rows; None: there is none.
        share: c of the geometric mixture pi^(1-c) pi_second^c, whose logits are the weighted mean of both.
    """
    drawer = Drawer(temperature=params.temperature, top_p=params.top_p, top_k=params.top_k)
    config = GenerationConfig(
        max_new_tokens=params.max_tokens, do_sample=False, pad_token_id=0, eos_token_id=None, use_cache=True
    )
    for rows in groups:
        tokens = torch.tensor([list(prompts[rows[0].prompt])] * len(rows), device=model.device)
        model.generate(
            tokens,
            attention_mask=torch.ones_like(tokens),
            generation_config=config,
            logits_processor=LogitsProcessorList([_drawn(rows, drawer, second() if second else None, share)]),
            stopping_criteria=StoppingCriteriaList([_finished(rows)]),
        )


def _drawn(rows: Sequence[Row], drawer: Drawer, second: Reader | None, share: float) -> Any:
    def process(input_ids: Int[Tensor, "R T"], scores: Float[Tensor, "R V"]) -> Float[Tensor, "R V"]:
        if second is not None:
            scores = torch.lerp(scores.float(), second(input_ids).float(), share)
        tokens = torch.tensor(draw(drawer, scores, rows), device=scores.device)
        return torch.full_like(scores, -torch.inf).scatter_(1, tokens[:, None], 0.0)

    return process


def _finished(rows: Sequence[Row]) -> Any:
    def finished(input_ids: Int[Tensor, "R T"], scores: Any, **others: Any) -> Bool[Tensor, " R"]:
        return torch.tensor([row.finish_reason is not None for row in rows], device=input_ids.device)

    return finished
