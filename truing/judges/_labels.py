"""From a reply to a verdict: the label in its tag, or the expected label by the log-probs of the tokens.

Only the judge's own words are read. Where they leave a doubt there is no verdict: no tag, a label that was
not offered, or two different ones.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from truing.judges.client import Reply

Labels = Mapping[str, float]  # what each label is worth, by the label in lower case

_LEAST_MASS = 0.05  # the labels' probability below which the model did not mean to give one
_THOUGHT = "</think>"


def read(reply: Reply, tag: str | None, labels: Labels) -> tuple[float | None, str]:
    """Return what the label of a reply is worth and the label; None and the reason where it has none.

    Args:
        reply: of the judge.
        tag: its name, as `verdict` in <verdict>A</verdict>; None where the reply is the label alone.
        labels: what may stand there.
    """
    text = _answer(reply.text)
    found = [text.strip(" \t\r\n.*`'\"()[]")] if tag is None else _contents(text, tag)
    if not found or found == [""]:
        return None, f"no {tag or 'label'} in {reply.text[-80:]!r}"
    different = {" ".join(f.split()).casefold() for f in found}
    if len(different) > 1:
        return None, f"{len(different)} different verdicts: {sorted(different)!r:.100}"
    label = different.pop()
    if label not in labels:
        return None, f"{label!r:.60} is none of {', '.join(labels)}"
    return labels[label], label if tag in (None, "verdict") else f"{tag}: {label}"


def expected(reply: Reply, tag: str | None, labels: Labels) -> tuple[float | None, str]:
    """Return sum_l p(l) worth(l) / sum_l p(l), over the tokens at the label's place, and the p's in words.

    Args:
        reply: with the likeliest tokens at each place.
        tag: as for `read`; the reply must hold one verdict there.
        labels: their first tokens must tell them apart.
    """
    if tag is not None:
        value, problem = read(reply, tag, labels)
        if value is None:
            return None, problem
    place = _place(reply, tag)
    if place is None:
        return None, f"no token is a label in {reply.text[-80:]!r}"
    assert reply.logprobs is not None
    mass = dict.fromkeys(labels, 0.0)
    for token, logprob in reply.logprobs[place].top:
        label = _label_of(token, labels)
        if label is not None:
            mass[label] += math.exp(logprob)
    total = sum(mass.values())
    if total < _LEAST_MASS:
        return None, f"the labels have probability {total:.3f} at their place, under {_LEAST_MASS}"
    words = ", ".join(f"p({label}) = {p / total:.3f}" for label, p in mass.items() if p > 0)
    return sum(p * labels[label] for label, p in mass.items()) / total, words


def _answer(text: str) -> str:
    """Return a reply without the thoughts before it, where the model writes them into its reply."""
    return text.rpartition(_THOUGHT)[2] if text.lstrip().startswith("<think>") else text


def _contents(text: str, tag: str) -> list[str]:
    return [m.strip() for m in re.findall(rf"<{tag}>([^<>]*)</{tag}>", text, re.IGNORECASE)]


def _place(reply: Reply, tag: str | None) -> int | None:
    """Return the index of the token in which the label begins."""
    tokens = [t.token for t in reply.logprobs or ()]
    text = "".join(tokens)
    start = 0
    if tag is not None:
        tags = list(re.finditer(rf"<{tag}>(?=[^<>]*</{tag}>)", text, re.IGNORECASE))
        if not tags:
            return None
        start = tags[-1].end()
    elif text.lstrip().startswith("<think>"):
        start = text.rfind(_THOUGHT) + len(_THOUGHT)
    letter = re.compile(r"[^\W_]").search(text, start)
    if letter is None:
        return None
    end = 0
    for index, token in enumerate(tokens):
        end += len(token)
        if end > letter.start():
            return index
    return None


def _label_of(token: str, labels: Labels) -> str | None:
    """Return the only label that this token begins."""
    word = re.sub(r"^\W+|\W+$", "", token).casefold()
    begun = [label for label in labels if word and label.startswith(word)]
    return begun[0] if len(begun) == 1 else None
