"""Requests of many askers in one pass of the sampler: each with its own limit, seed and stops."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from truing.rollout._decode import Row, new_rows
from truing.rollout.hf import HFSampler
from truing.rollout.sampler import SamplingParams
from truing.types import FinishReason


@dataclass(frozen=True, slots=True)
class Ask:
    """One request.

    Args:
        prompt: token ids.
        params: of its completions; the seed is its own, whatever it is answered beside.
        num_samples: completions of the prompt.
        stop_texts: a completion ends before the first of these.
        num_top: how many of the likeliest tokens to report at each position.
    """

    prompt: tuple[int, ...]
    params: SamplingParams
    num_samples: int = 1
    stop_texts: tuple[str, ...] = ()
    num_top: int = 0


@dataclass(frozen=True, slots=True)
class Answer:
    """A completion without its stop token or stop text, and the likeliest tokens where it was asked for.

    `tokens` are those whose text is part of `text`, at least in part; `num_drawn` counts all.
    """

    text: str
    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    top: tuple[tuple[tuple[int, float], ...], ...]
    finish_reason: FinishReason
    num_drawn: int


def answer_all(sampler: HFSampler, tokenizer: Any, asks: Sequence[Ask]) -> list[list[Answer]]:
    """Return the answers to each request; requests at one temperature, top_p and top_k are decoded together.

    Random numbers depend on a request's seed and the sample's index only. The logits may differ in the
    last bits with what else is in the batch, as those of any batched decoder do.
    """
    found = [list[Answer]() for _ in asks]
    for places in _alike(asks):
        params = asks[places[0]].params
        longest = max(asks[i].params.max_tokens for i in places)
        rows = [_rows(n, asks[i], tokenizer) for n, i in enumerate(places)]
        sampler.grow([asks[i].prompt for i in places], rows, replace(params, max_tokens=longest))
        for i, part in zip(places, rows, strict=True):
            found[i] = [_answer(row, tokenizer, asks[i].stop_texts) for row in part]
    return found


def _alike(asks: Sequence[Ask]) -> list[list[int]]:
    groups: dict[tuple[float, float, int], list[int]] = {}
    for i, ask in enumerate(asks):
        key = (ask.params.temperature, ask.params.top_p, ask.params.top_k)
        groups.setdefault(key, []).append(i)
    return list(groups.values())


def _rows(place: int, ask: Ask, tokenizer: Any) -> list[Row]:
    rows = new_rows(0, ask.num_samples, ask.params)
    for row in rows:
        row.prompt, row.num_top = place, ask.num_top
        row.ends = _Ends(tokenizer, ask.stop_texts) if ask.stop_texts else None
    return rows


@dataclass(frozen=True, slots=True)
class _Ends:
    """Whether the last tokens hold a stop text; only as many are read as it can be spread over."""

    tokenizer: Any
    texts: tuple[str, ...]

    def __call__(self, tokens: Sequence[int]) -> bool:
        width = max(len(t.encode()) for t in self.texts) + 4  # no token is shorter than a byte
        tail = self.tokenizer.decode(tokens[-width:], clean_up_tokenization_spaces=False)
        return any(t in tail for t in self.texts)


def _answer(row: Row, tokenizer: Any, stop_texts: Sequence[str]) -> Answer:
    assert row.finish_reason is not None
    kept = len(row.tokens) - (row.tokens[-1] in row.stops)
    text = _decode(tokenizer, row.tokens[:kept])
    cut = min((at for t in stop_texts if (at := text.find(t)) >= 0), default=None)
    if cut is not None:
        text = text[:cut]
        while kept and len(_decode(tokenizer, row.tokens[: kept - 1])) >= cut:
            kept -= 1
    return Answer(
        text,
        tuple(row.tokens[:kept]),
        tuple(row.logprobs[:kept]),
        tuple(tuple(t) for t in row.top[:kept]),
        row.finish_reason,
        len(row.tokens),
    )


def _decode(tokenizer: Any, tokens: Sequence[int]) -> str:
    return str(tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False))
