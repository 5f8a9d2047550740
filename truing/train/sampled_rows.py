"""Scored completions of prompts become rows that readers of data read: pairs, rankings, labels."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

from truing.config import Sample
from truing.errors import DataError
from truing.types import Message, Rollout

Record = dict[str, Any]


def group_record(group: Sequence[Rollout]) -> Record:
    """Return what was drawn for one prompt: the prompt, and each completion with its reward and verdicts."""
    prompt = group[0].prompt
    said = [
        {
            "text": r.completion.text,
            "num_tokens": len(r.completion.tokens),
            "finish_reason": r.completion.finish_reason,
            "reward": r.reward,
            "verdicts": {n: {"status": v.status, "value": v.value} for n, v in r.verdicts.items()},
        }
        for r in group
    ]
    return {"prompt": _plain(prompt.messages), "reference": prompt.reference, "completions": said}


def rows_of(
    groups: Sequence[Mapping[str, Any]], sample: Sample, source: Mapping[str, Any], old: Sequence[Record] = ()
) -> tuple[list[Record], Counter[str]]:
    """Return the old rows and then the new ones, and counts of what became of the completions.

    A row's id is a hash of its texts: what two prompts or two rounds have in common is one row.

    Args:
        groups: records of `group_record`.
        sample: which rows are wanted.
        source: where they are from, kept in each row: model, seed, date, what scored them.
        old: earlier rows, kept as they are.

    Raises:
        DataError: no completion could be scored, or no prompt gave a row.
    """
    count, rows, known = Counter[str](), list[Record](old), {str(r.get("uid")) for r in old}
    for group in groups:
        scored = [c for c in group["completions"] if _is_usable(c, sample)]
        count["completions"] += len(group["completions"])
        count["unscored"] += len(group["completions"]) - len(scored)
        made = list(_MAKE[sample.kind](scored, sample))
        count["prompts_without_rows"] += not made
        for columns in made:
            row = {"prompt": group["prompt"], "reference": group["reference"], **columns}
            row = {k: v for k, v in row.items() if v is not None}
            uid = _uid(row)
            if uid in known:
                count["duplicates"] += 1
                continue
            known.add(uid)
            rows.append({"uid": uid, **row, "source": dict(source)})
    count["rows"] = len(rows) - len(old)
    if not count["rows"]:
        raise DataError(
            f"sampling gave no {sample.kind}: of {count['completions']} completions of {len(groups)} prompts "
            f"{count['unscored']} could not be scored, and the rest do not differ enough or pass: "
            "more prompts, a larger sampler.group_size or a higher temperature help"
        )
    return rows, count


def _is_usable(completion: Mapping[str, Any], sample: Sample) -> bool:
    return sample.kind == "completions" or completion["reward"] is not None


def _completions(said: Sequence[Mapping[str, Any]], sample: Sample) -> Iterator[Record]:
    for c in said:
        yield {
            "completion": c["text"], "reward": c["reward"], "verdicts": c["verdicts"],
            "finish_reason": c["finish_reason"],
        }  # fmt: skip


def _demonstrations(said: Sequence[Mapping[str, Any]], sample: Sample) -> Iterator[Record]:
    best = max(said, key=lambda c: c["reward"], default=None)
    if best is not None and best["reward"] >= sample.threshold:
        yield {"completion": best["text"], "reward": best["reward"]}


def _unpaired(said: Sequence[Mapping[str, Any]], sample: Sample) -> Iterator[Record]:
    for c in said:
        yield {"completion": c["text"], "label": c["reward"] >= sample.threshold, "reward": c["reward"]}


def _pairs(said: Sequence[Mapping[str, Any]], sample: Sample) -> Iterator[Record]:
    ranked = sorted(said, key=lambda c: -c["reward"])
    couples = (
        combinations(ranked, 2) if sample.pairs == "all" else [(ranked[0], ranked[-1])] if ranked else []
    )
    for better, worse in couples:
        if better["reward"] - worse["reward"] > sample.min_gap and better["text"] != worse["text"]:
            rewards = {"chosen": better["reward"], "rejected": worse["reward"]}
            yield {"chosen": better["text"], "rejected": worse["text"], "rewards": rewards}


def _rankings(said: Sequence[Mapping[str, Any]], sample: Sample) -> Iterator[Record]:
    rewards = [c["reward"] for c in said]
    if len(set(rewards)) > 1:
        ranks = [1 + sum(other > own for other in rewards) for own in rewards]
        yield {"completions": [c["text"] for c in said], "ranks": ranks, "rewards": rewards}


_MAKE = {
    "completions": _completions,
    "demonstrations": _demonstrations,
    "pairs": _pairs,
    "unpaired": _unpaired,
    "rankings": _rankings,
}


def _plain(messages: Sequence[Message]) -> str | list[dict[str, str]]:
    """Return a prompt as a row holds it: the text of a single question, or its turns."""
    if len(messages) == 1 and messages[0].role == "user":
        return messages[0].content
    return [{"role": m.role, "content": m.content} for m in messages]


def _uid(row: Mapping[str, Any]) -> str:
    texts = [row[k] for k in ("prompt", "completion", "completions", "chosen", "rejected") if k in row]
    content = json.dumps(texts, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()[:16]
