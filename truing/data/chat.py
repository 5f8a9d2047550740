"""Conversations to token ids through any chat template, training only what the assistant says."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any

from jinja2 import TemplateError

from truing.errors import DataError, ModelError
from truing.types import Message, Row

_MARKERS = re.compile(r"\{%-?\s*generation\b")


def render_prompt(tokenizer: Any, messages: Sequence[Message]) -> tuple[int, ...]:
    """Return the ids that a completion continues: the messages and the assistant's header.

    A tokenizer without a chat template takes one user message as plain text, with the special
    tokens that it puts before a text.

    Raises:
        ModelError: there is no chat template and the messages are more than one user message.
    """
    if tokenizer.chat_template is None:
        return _plain_prompt(tokenizer, messages)
    return tuple(_encode(tokenizer, _template(tokenizer, messages, prompt=True)))


def render_conversation(
    tokenizer: Any, messages: Sequence[Message], uid: str, *, first: int = 0, where: str = ""
) -> Row:
    """Return the row of a conversation whose trained tokens are the assistant's words and turn ends.

    For each assistant turn the template is rendered up to the turn, with the header that sampling
    would use. That text must begin the whole conversation's text; what follows it, up to and
    including the token that ends the turn, is trained. So the model is trained on exactly what it
    continues when it is sampled. Templates for which this fails are used through their own
    `{% generation %}` markers, if they have them.

    Args:
        tokenizer: with a chat template; without one, a user and an assistant turn become plain
            text, the completion and the EOS.
        messages: a conversation; what follows the last trained turn is dropped.
        uid: the row's id.
        first: only assistant turns from this position on are trained.
        where: names the row in errors, such as `data.jsonl, row 3`.

    Raises:
        DataError: no turn is trained, a turn is empty, or the template alters the assistant's text.
        ModelError: a template is needed and there is none.
    """
    trained = [i for i, m in enumerate(messages) if m.role == "assistant" and i >= first]
    where = where or f"row {uid}"
    if not trained:
        raise DataError(f"{where}: no assistant turn to train on; roles are {[m.role for m in messages]}")
    for i in trained:
        if not messages[i].content.strip():
            raise DataError(f"{where}: assistant turn {i + 1} is empty; drop the row or fill it in")
    if tokenizer.chat_template is None:
        return _plain_row(tokenizer, messages, uid, where)
    text = _template(tokenizer, messages, prompt=False)
    try:
        ids, mask = _by_prefix(tokenizer, messages, trained, text)
    except _AltersText as problem:
        if not _MARKERS.search(tokenizer.chat_template):
            raise DataError(_explain(problem, where, text)) from None
        ids, mask = _by_markers(tokenizer, messages, first, where)
    return _row(uid, ids, mask, where)


def render_observation(
    tokenizer: Any, messages: Sequence[Message], observation: Sequence[Message]
) -> tuple[str, tuple[int, ...]]:
    """Return the token text that ends the last turn, and the ids of what follows it up to the next header.

    The template is rendered with and without the last turn of `messages`, the assistant's. It must keep
    what stands before the turn and the turn itself; then a conversation grows by a suffix, and the ids of
    earlier turns stay what was sampled.

    Raises:
        DataError: the template rewrites what was said before, as those that cut old reasoning do.
        ModelError: there is no chat template.
    """
    if tokenizer.chat_template is None:
        raise ModelError(
            "the tokenizer has no chat template, so a conversation cannot go on after its first turn. "
            "Set tokenizer.chat_template, start from an instruct model, or use environment single_turn."
        )
    turn, said = len(messages) - 1, messages[-1].content.strip()
    header = _template(tokenizer, messages[:turn], prompt=True)
    text = _template(tokenizer, [*messages, *observation], prompt=True)
    try:
        if not text.startswith(header):
            raise _AltersText(f"what it writes before turn {turn + 1} changes when the turn is there")
        ends = _end_tokens(tokenizer)
        stop = _turn_stop(text, said, len(header), len(text), ends, turn)
    except _AltersText as problem:
        raise DataError(
            f"the chat template does not let a conversation grow: {problem}. Several turns need a template "
            f"that keeps earlier turns as they are. It renders {text[-600:]!r}"
        ) from None
    end = next(m for m in ends.finditer(text, len(header), stop) if m.end() == stop)
    return end.group(), tuple(_encode(tokenizer, text[stop:]))


def added_text(tokenizer: Any, row: Row, messages: Sequence[Message], first: int = 0) -> bool:
    """Return whether the row trains text that the template added, such as an empty think block."""
    said = "".join(m.content.strip() for m in messages[first:] if m.role == "assistant")
    ids = [i for i, on in zip(row.tokens, row.mask, strict=True) if on]
    text = _end_tokens(tokenizer).sub("", tokenizer.decode(ids))
    return len("".join(text.split())) > len("".join(_end_tokens(tokenizer).sub("", said).split()))


class _AltersText(Exception):
    """The template does not keep an assistant turn as training needs it."""


def _by_prefix(
    tokenizer: Any, messages: Sequence[Message], trained: Sequence[int], text: str
) -> tuple[list[int], list[bool]]:
    """Return ids and mask of the text up to the last trained turn's end."""
    starts = []
    for i in trained:
        header = _template(tokenizer, messages[:i], prompt=True)
        if not text.startswith(header):
            raise _AltersText(f"what it writes before turn {i + 1} changes when the turn is there")
        starts.append(len(header))
    ends = _end_tokens(tokenizer)
    pieces, done = list[str](), 0
    for i, start, limit in zip(trained, starts, [*starts[1:], len(text)], strict=True):
        stop = _turn_stop(text, messages[i].content, start, limit, ends, i)
        pieces += [text[done:start], text[start:stop]]
        done = stop
    parts = _encode_pieces(tokenizer, pieces)
    return [t for p in parts for t in p], [bool(n % 2) for n, p in enumerate(parts) for _ in p]


def _turn_stop(text: str, content: str, start: int, limit: int, ends: re.Pattern[str], turn: int) -> int:
    """Return where the turn's end token stops in the text."""
    found = text.find(content, start, limit)
    said = content if found >= 0 else content.strip()
    found = found if found >= 0 else text.find(said, start, limit)
    if found < 0:
        raise _AltersText(f"it does not write the text of turn {turn + 1} as it is")
    if ends.search(text, start, found):
        raise _AltersText(f"turn {turn + 1} ends before its own text")
    end = ends.search(text, found + len(said), limit)
    if end is None:
        raise _AltersText(f"no special token ends turn {turn + 1}, so nothing could learn to stop there")
    return end.end()


def _end_tokens(tokenizer: Any) -> re.Pattern[str]:
    """Return the pattern of the special tokens, any of which can end a turn."""
    special = {str(t) for t in tokenizer.added_tokens_decoder.values() if t.special}
    return _any_of(frozenset(special | {tokenizer.eos_token}))


@lru_cache(maxsize=16)
def _any_of(texts: frozenset[str]) -> re.Pattern[str]:
    return re.compile("|".join(re.escape(t) for t in sorted(texts, key=len, reverse=True)))


def _encode_pieces(tokenizer: Any, pieces: Sequence[str]) -> list[list[int]]:
    """Return the ids of each piece, cut from the ids of the whole text where they cut cleanly.

    Where a token would straddle a boundary (a newline of the header with one of the text), the
    pieces are encoded apart: the sampler continues the ids of the header, so training must too.
    """
    whole = _encode(tokenizer, "".join(pieces))
    cuts = [0]
    for n in range(1, len(pieces) + 1):
        prefix = whole if n == len(pieces) else _encode(tokenizer, "".join(pieces[:n]))
        if whole[: len(prefix)] != prefix:
            return [_encode(tokenizer, p) for p in pieces]
        cuts.append(len(prefix))
    return [whole[a:b] for a, b in pairwise(cuts)]


def _by_markers(
    tokenizer: Any, messages: Sequence[Message], first: int, where: str
) -> tuple[list[int], list[bool]]:
    """Return ids and mask by the template's own generation markers, each turn's end token included."""
    encoded = tokenizer.apply_chat_template(
        _dicts(messages), tokenize=True, return_dict=True, return_assistant_tokens_mask=True
    )
    ids, mask = list(encoded["input_ids"]), [bool(m) for m in encoded["assistant_masks"]]
    if first:
        before = sum(m.role == "assistant" for m in messages[:first])
        for start, stop in _runs(mask)[:before]:
            mask[start:stop] = [False] * (stop - start)
    ends = {*tokenizer.added_tokens_decoder, tokenizer.eos_token_id}
    for _, stop in _runs(mask):
        if not any(i in ends for i in ids[stop - 1 : stop]) and stop < len(ids) and ids[stop] in ends:
            mask[stop] = True
    if not any(mask):
        raise DataError(f"{where}: the chat template's generation markers select no token of this row")
    return ids, mask


def _runs(mask: Sequence[bool]) -> list[tuple[int, int]]:
    """Return (start, stop) of each stretch of True."""
    edges = [i for i in range(len(mask) + 1) if (i > 0 and mask[i - 1]) != (i < len(mask) and mask[i])]
    return list(zip(edges[::2], edges[1::2], strict=True))


def _row(uid: str, ids: Sequence[int], mask: Sequence[bool], where: str) -> Row:
    start = next(i for i, on in enumerate(mask) if on)
    stop = len(mask) - next(i for i, on in enumerate(reversed(mask)) if on)
    if start == 0:
        raise DataError(f"{where}: nothing comes before the first trained token; the prompt is empty")
    return Row(uid, tuple(ids[:start]), tuple(ids[start:stop]), tuple(mask[start:stop]))


def _plain_prompt(tokenizer: Any, messages: Sequence[Message]) -> tuple[int, ...]:
    if [m.role for m in messages] != ["user"]:
        raise ModelError(
            f"the tokenizer has no chat template, so it cannot render roles {[m.role for m in messages]}. "
            "Set tokenizer.chat_template (or put chat_template.jinja in the model's folder), start from "
            "an instruct model, or give rows with a plain text prompt, which need no template."
        )
    ids = list(tokenizer.encode(messages[0].content))
    if ids and ids[-1] == tokenizer.eos_token_id:  # some tokenizers close every text
        ids.pop()
    if len(ids) > 1 and ids[0] == ids[1] == tokenizer.bos_token_id:  # the text brings its own BOS
        ids.pop(0)
    return tuple(ids)


def _plain_row(tokenizer: Any, messages: Sequence[Message], uid: str, where: str) -> Row:
    if messages[-1].role != "assistant":
        raise DataError(f"{where}: the last turn is '{messages[-1].role}'; it must be the assistant's")
    prompt = _plain_prompt(tokenizer, messages[:-1])
    if not prompt:
        raise DataError(f"{where}: the prompt is empty; a completion must continue at least one token")
    tokens = (*_encode(tokenizer, messages[-1].content), tokenizer.eos_token_id)
    return Row(uid, prompt, tokens, (True,) * len(tokens))


def _template(tokenizer: Any, messages: Sequence[Message], *, prompt: bool) -> str:
    """Return the text of the messages.

    Raises:
        DataError: the template refuses them, for instance because roles must alternate.
    """
    try:
        text = tokenizer.apply_chat_template(_dicts(messages), tokenize=False, add_generation_prompt=prompt)
    except TemplateError as error:
        roles = [m.role for m in messages]
        raise DataError(f"the chat template refuses a conversation with roles {roles}: {error}") from error
    return str(text)


def _dicts(messages: Sequence[Message]) -> list[dict[str, str]]:
    return [{"role": m.role, "content": m.content} for m in messages]


def _encode(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer.encode(text, add_special_tokens=False))


def _explain(problem: Exception, where: str, text: str) -> str:
    shown = text if len(text) <= 600 else f"{text[:300]} ... {text[-300:]}"
    return (
        f"{where}: the chat template does not allow a mask of the assistant's words: {problem}. "
        "What would be right: one row for each assistant turn, text without the blocks that the template "
        f"strips, or a template with {{% generation %}} markers. It renders the row as {shown!r}"
    )
