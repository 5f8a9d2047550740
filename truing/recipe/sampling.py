"""Stages that sample instead of training: the keys they have no use for, and who reads their rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from truing.config import DataKind, Stage
from truing.recipe.draft import at
from truing.recipe.method import Complaint, Method
from truing.recipe.positions import KeyPath

SAMPLING = Method("sample", "prompts", frozenset(), samples=True)
_USED = (
    *("name", "sample", "model", "reward_model", "ensemble", "dtype", "device", "seed"),
    *("batch_size", "data", "sampler", "rewards"),
)
_INNER: tuple[KeyPath, ...] = (
    ("data", "shuffle"),
    ("data", "max_completion_tokens"),
    ("data", "steps"),
    ("sampler", "mismatch_threshold"),
)


def unused_by_sampling(values: Mapping[str, Any]) -> Iterator[Complaint]:
    """Yield the keys that are set and that a stage which samples would ignore."""
    for key in list(values):
        if key in Stage.model_fields and key not in _USED:
            yield Complaint((key,), "a stage that samples trains nothing", "remove it")
    for path in _INNER:
        if at(values, path) is not None:
            yield Complaint(path, "a stage that samples has no use for it", "remove it")
    if "ensemble" in values and not isinstance(values.get("reward_model"), list):
        what = "there is no list of reward models to combine"
        yield Complaint(("ensemble",), what, "remove it, or list them in reward_model")


def sampling_complaints(values: Mapping[str, Any], stage: Stage | None) -> Iterator[Complaint]:
    """Yield what is missing or impossible in a stage that samples."""
    if "algorithm" in values:
        what = "a stage trains with an algorithm or samples, not both"
        yield Complaint(("sample",), what, "remove one of them, or make two stages")
    if stage is None or stage.sample is None:
        return
    kind, scored = stage.sample.kind, bool(stage.rewards) or stage.reward_model is not None
    if kind != "completions" and not scored:
        right = 'add one, for example rewards.answer.verifier = "math_answer", or set reward_model'
        yield Complaint(
            ("rewards",), f"nothing says which completions are better, and kind is '{kind}'", right
        )
    if kind in ("pairs", "rankings") and stage.sampler is not None and stage.sampler.group_size < 2:
        what = f"{stage.sampler.group_size} is too few: kind = '{kind}' compares the completions of a prompt"
        yield Complaint(("sampler", "group_size"), what, "at least 2; 4 to 8 is common")


def data_links(values: Mapping[str, Any], method: Method | None) -> Iterator[tuple[KeyPath, str, str | None]]:
    """Yield (path, stage, wanted kind of rows) of every `stage:NAME` that stands for rows."""
    own = None if method is None else method.data
    if method is not None and method.samples:
        own = None  # prompts are in rows of every kind
    wanted: tuple[tuple[KeyPath, DataKind | str | None], ...] = (
        (("data", "train"), own),
        (("replay", "data", "train"), "demonstrations"),
        (("calibration", "data"), "demonstrations"),
        (("sample", "old_rows"), at(values, ("sample", "kind")) or "pairs"),
    )
    for path, kind in wanted:
        target = at(values, path)
        if isinstance(target, str) and target.startswith("stage:"):
            yield path, target.removeprefix("stage:"), kind


def bad_data_link(
    path: KeyPath,
    target: str,
    kind: str | None,
    index: int,
    names: Sequence[str],
    stages: Sequence[Mapping[str, Any]],
) -> Complaint | None:
    """Return what is wrong with reading the rows of a stage; None where nothing is."""
    earlier = {n: s for n, s in zip(names[:index], stages[:index], strict=True) if "sample" in s}
    if target not in earlier:
        why = (
            "makes no rows" if target in names[:index] else "comes later" if target in names else "is unknown"
        )
        near = f"an earlier stage that samples: {', '.join(f'stage:{n}' for n in earlier)}"
        right = near if earlier else "a file, a generator, or a stage before with a [sample] table"
        return Complaint(path, f"stage '{target}' {why}", right)
    made = at(earlier[target], ("sample", "kind")) or "pairs"
    if kind in (None, "prompts", made):
        return None
    return Complaint(
        path, f"stage '{target}' makes {made}, and {kind} are read here", f'sample.kind = "{kind}"'
    )
