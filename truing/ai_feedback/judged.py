"""Comparisons by a judge of `truing/judges/`, in the shape of `compare`: one label and one record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from pydantic import ValidationError

from truing import plugins
from truing.ai_feedback.audit import Audit, prompt_hash
from truing.ai_feedback.compare import Comparison
from truing.ai_feedback.speaker import Speaker
from truing.errors import ConfigError
from truing.judges.judging import Item, Judged
from truing.types import Message, Prompt


@dataclass(frozen=True, slots=True)
class Plugged:
    """A judge by name with its checked options."""

    name: str
    module: ModuleType
    config: Any


def plugged(name: str, options: Mapping[str, Any]) -> Plugged:
    """Return the judge of two completions by name, dotted path or file.

    Where it has `combine` and the options leave it out, the mean of both orders is the label.

    Raises:
        PluginError: there is no such judge.
        ConfigError: an option is wrong, or it looks at one completion only.
    """
    module = plugins.load("judges", name)
    if not hasattr(module, "Config"):
        raise ConfigError(f"'{name}' is no judge: it has no Config; try pairwise")
    known = module.Config.model_fields
    if getattr(module.Config, "completions", 1) != 2:
        raise ConfigError(
            f"'{name}' looks at one completion; labels come from a judge of two, such as pairwise"
        )
    given = {**({"combine": "average"} if "combine" in known else {}), **options}
    try:
        return Plugged(name, module, module.Config(**given))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "options"
        raise ConfigError(f"{name}: {where}: {first['msg']}; its options: {', '.join(known)}") from error


async def compare_by(
    judge: Plugged, speaker: Speaker, messages: Sequence[Message], pair: tuple[str, str], audit: Audit
) -> Comparison:
    """Return what the judge says of two completions, and write it to the trail.

    Args:
        judge: what asks and reads the replies.
        speaker: the model that is asked.
        messages: what the completions answer.
        pair: the completions.
        audit: the trail.
    """
    item = Item(Prompt(prompt_hash(messages), tuple(messages)), pair)
    said: Judged = await judge.module.judge(speaker.chat, item, judge.config)
    value = said.verdict.value
    found = Comparison(
        said.verdict.status, value, _slot(said, False), _slot(said, True), judge.name, said.verdict.evidence
    )
    audit.write(
        "compare",
        model=speaker.name,
        prompt=prompt_hash(messages),
        messages=[[m.role, m.content] for m in messages],
        completions=list(pair),
        judge=judge.name,
        options=judge.config.model_dump(mode="json"),
        status=found.status,
        preference=value,
        votes=[
            {"swapped": v.swapped, "status": v.verdict.status, "value": v.verdict.value, "text": v.text}
            for v in said.votes
        ],
        evidence=found.evidence,
    )
    return found


def _slot(said: Judged, swapped: bool) -> float | None:
    """Return how good the completion in the first slot is by the votes of one order."""
    values = [v.verdict.value for v in said.votes if v.swapped == swapped and v.verdict.value is not None]
    return sum(values) / len(values) if values else None
