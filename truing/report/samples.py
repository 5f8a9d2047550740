"""Sample completions over time: one prompt a row, its completions from early to late side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from xml.etree.ElementTree import Element

from truing.report.elements import el, number

_MAX_PROMPTS, _MAX_CARDS = 12, 6
_PASS = 0.5  # the value at which an evaluation counts a completion as passed

Sample = Mapping[str, Any]


def samples_section(samples: Sequence[Sample], num_steps: int) -> Element | None:
    """Return the evaluated completions, then the training rollouts; None where there are no samples."""
    if not samples:
        return None
    held_out = [s for s in samples if s.get("split") == "evaluation"]
    drawn = [s for s in samples if s.get("split") != "evaluation"]
    return el(
        "div",
        _rows("Held-out prompts, from before training to after", held_out, num_steps, opened=True),
        _rows("Rollouts drawn in training", drawn, num_steps, opened=not held_out),
        class_="samples",
    )


def _rows(title: str, samples: Sequence[Sample], num_steps: int, *, opened: bool) -> Element | None:
    if not samples:
        return None
    by_prompt: dict[str, list[Sample]] = {}
    for sample in samples:
        by_prompt.setdefault(str(sample.get("prompt", "")), []).append(sample)
    often = [group for group in by_prompt.values() if len(group) > 1]
    often.sort(key=lambda group: -len({s["step"] for s in group}))  # stable: else in the order of appearance
    once = [group[0] for group in by_prompt.values() if len(group) == 1]
    rows = [_prompt_row(_spread(group, _MAX_CARDS), num_steps) for group in often[:_MAX_PROMPTS]]
    single = [_card(sample, num_steps, with_prompt=True) for sample in _spread(once, _MAX_PROMPTS)]
    hidden = len(samples) - len(single) - sum(min(len(group), _MAX_CARDS) for group in often[:_MAX_PROMPTS])
    count = el("span", f" {len(samples)} completions of {len(by_prompt)} prompts", class_="muted")
    details = el(
        "details",
        el("summary", title, count),
        *rows,
        el("div", *single, class_="cards wrapped") if single else None,
        el("p", f"{hidden} more are in samples.jsonl.", class_="muted") if hidden else None,
    )
    if opened:
        details.set("open", "open")
    return details


def _prompt_row(group: Sequence[Sample], num_steps: int) -> Element:
    cards = [_card(sample, num_steps, with_prompt=False) for sample in group]
    return el("article", *_question(group[0]), el("div", *cards, class_="cards"))


def _question(sample: Sample) -> list[Element]:
    asked, reference = el("div", str(sample.get("prompt", "")), class_="prompt"), sample.get("reference")
    if reference is None:
        return [asked]
    return [asked, el("p", el("b", "Reference "), str(reference), class_="reference")]


def _card(sample: Sample, num_steps: int, *, with_prompt: bool) -> Element:
    reward, held_out = sample.get("reward"), sample.get("split") == "evaluation"
    kind, mark = _mark(reward) if held_out else ("plain", "")
    said = "not scored" if reward is None else number(float(reward))
    cut = el("span", "cut off", class_="chip warn") if sample.get("finish_reason") == "length" else None
    head = el("header", el("b", _when(sample, num_steps)), cut, el("span", f"{mark} {said}", class_="reward"))
    verdicts = [_verdict(name, v) for name, v in dict(sample.get("verdicts") or {}).items()]
    answer = el("div", str(sample.get("completion", "")), class_="completion")
    asked = _question(sample) if with_prompt else []
    return el("section", head, *asked, answer, *verdicts, class_=f"card {kind}")


def _mark(reward: float | None) -> tuple[str, str]:
    if reward is None:
        return "unscored", "?"
    return ("passed", "✓") if float(reward) >= _PASS else ("failed", "✗")


def _verdict(name: str, verdict: Any) -> Element:
    facts = verdict if isinstance(verdict, Mapping) else {"status": str(verdict)}
    told = ", ".join(str(facts[k]) for k in ("status", "value", "evidence") if facts.get(k) not in (None, ""))
    return el("p", el("b", f"{name} "), told, class_="verdict")


def _when(sample: Sample, num_steps: int) -> str:
    step = int(sample["step"])
    if sample.get("split") != "evaluation":
        return f"step {step}"
    return "before" if step == 0 else f"after {step} steps" if step < num_steps else "after"


def _spread(items: Sequence[Any], most: int) -> list[Any]:
    """Return at most `most` items, evenly spaced, the first and the last among them."""
    if len(items) <= most:
        return list(items)
    return [items[round(i * (len(items) - 1) / (most - 1))] for i in range(most)]
