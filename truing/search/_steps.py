"""Where steps end in token ids. Ids travel from the sampler to the scorer; text is never tokenised again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from truing.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Grammar:
    """What the ids of a vocabulary mean for a search.

    Args:
        stops: ids that end a completion.
        separators: ids that end a step: their text ends with the separator.
        blanks: ids whose text is only space; a step of nothing else is none.
        decode: text of ids.
    """

    stops: frozenset[int]
    separators: frozenset[int]
    blanks: frozenset[int]
    decode: Callable[[Sequence[int]], str]

    def text(self, tokens: Sequence[int]) -> str:
        """Return what the tokens say, without the stop token."""
        return self.decode(tokens[:-1] if tokens and tokens[-1] in self.stops else tokens)


def grammar_of(tokenizer: Any, stops: Sequence[int], separator: str) -> Grammar:
    """Return the grammar of a tokenizer's vocabulary.

    A separator that the model spells with several tokens ends no step: only an id whose own text ends with
    the whole separator does.

    Raises:
        ConfigError: no id of the vocabulary ends with the separator.
    """

    def decode(tokens: Sequence[int]) -> str:
        return str(
            tokenizer.decode(list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        )

    ids = sorted(set(tokenizer.get_vocab().values()))
    texts = tokenizer.batch_decode([[i] for i in ids], clean_up_tokenization_spaces=False)
    separators = frozenset(i for i, text in zip(ids, texts, strict=True) if text.endswith(separator))
    if not separators - set(stops):
        raise ConfigError(
            f"separator {separator!r}: no token of the vocabulary ends with it, so no step would ever end; "
            "name text that the tokenizer keeps in one token, such as '\\n'"
        )
    blanks = frozenset(i for i, text in zip(ids, texts, strict=True) if not text.strip())
    return Grammar(frozenset(stops), separators - set(stops), blanks - set(stops), decode)


def step_ends(tokens: Sequence[int], grammar: Grammar) -> tuple[int, ...]:
    """Return the number of tokens up to the end of each step, the separator included.

    The last step ends where the completion does, before its stop token; a step without text is none.
    """
    ends, blank = list[int](), True
    last = len(tokens) - (1 if tokens and tokens[-1] in grammar.stops else 0)
    for number, token in enumerate(tokens[:last], 1):
        blank = blank and token in grammar.blanks
        if token in grammar.separators or number == last:
            ends += [] if blank else [number]
            blank = True
    return tuple(ends)


def step_texts(tokens: Sequence[int], grammar: Grammar) -> list[str]:
    """Return the text of each step without the space around it."""
    ends = step_ends(tokens, grammar)
    return [grammar.text(tokens[a:b]).strip() for a, b in zip((0, *ends), ends, strict=False)]
