"""Drafts become stages, or a list of everything that is wrong with them."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from pathlib import Path

from truing import plugins
from truing.config import Stage
from truing.errors import PluginError, Problem
from truing.recipe.checks import contradictions, link_problems, unused
from truing.recipe.draft import Document, Draft, at, table_part
from truing.recipe.method import Complaint, Method
from truing.recipe.paths import resolve_paths
from truing.recipe.plugged import plugin_complaint, plugin_problems, said
from truing.recipe.positions import KeyPath
from truing.recipe.rewards import reward_complaints
from truing.recipe.sampling import SAMPLING, sampling_complaints
from truing.recipe.validation import located_problems


def check_stages(
    document: Document, parts: list[Draft], folder: Path | None
) -> tuple[list[Stage], list[Problem]]:
    """Return the stages of the drafts, and everything that is wrong (then some stages are missing)."""
    problems, missing = list[Problem](), [list(resolve_paths(draft, folder)) for draft in parts]
    methods = list[Method | None]()
    for draft in parts:
        method, found = _method(draft)
        methods.append(method)
        problems += found
    problems += _drop_defaults(document, parts, methods)
    stages = list[Stage]()
    for draft, method, absent in zip(parts, methods, missing, strict=True):
        stage, found = _stage(draft, method)
        problems += found + said(draft, absent) + plugin_problems(draft)
        stages += [stage] if stage is not None else []
    names = [str(d.values.get("name", "train")) for d in parts]
    links = link_problems(names, [d.values for d in parts], methods)
    linked = [p for index, complaint in links for p in said(parts[index], [complaint])]
    keys = {p.key for p in linked}
    return stages, [p for p in problems if not (p.what == "is missing" and p.key in keys)] + linked


def _method(draft: Draft) -> tuple[Method | None, list[Problem]]:
    """Return what the recipe must know of the draft's algorithm, and what is wrong with its options."""
    name, options = draft.values.get("algorithm"), draft.values.get("options", {})
    if "sample" in draft.values:
        return SAMPLING, []
    if not isinstance(name, str) or not isinstance(options, dict):
        return None, []  # the schema says what is wrong
    try:
        config = plugins.config_class("algorithms", name)
    except PluginError as error:
        return None, said(draft, [plugin_complaint(("algorithm",), error)])
    if not hasattr(config, "model_fields") or getattr(config, "data", None) is None:
        right = "derive it from truing.config.Options, and set data and learning_rate"
        return None, said(draft, [Complaint(("algorithm",), f"the Config of {name} is no Options", right)])
    found = located_problems(config, options, draft, ("options",), config.model_fields)
    made = None if found else config(**options)
    needs = None if made is None else made.needs()
    limit = None if made is None else made.sampler_max_tokens()
    method = Method(
        name, config.data, needs, config.min_group_size, limit, config.self_play, config.rewarded,
        config.reference_required,
    )  # fmt: skip
    return method, [problem for problem, _ in found]


def _drop_defaults(document: Document, parts: list[Draft], methods: list[Method | None]) -> list[Problem]:
    """Remove from each stage the recipe's defaults that its method has no use for.

    A default that no stage at all uses is a problem, like any other key that would be ignored.
    """
    idle = dict[KeyPath, list[tuple[Draft, Complaint]]]()
    for draft, method in zip(parts, methods, strict=True):
        for complaint in unused(draft.values, method) if method is not None else ():
            if complaint.path in draft.defaults:
                idle.setdefault(complaint.path, []).append((draft, complaint))
                del at(draft.values, complaint.path[:-1])[complaint.path[-1]]
    found = list[Problem]()
    for path, dropped in idle.items():
        if not any(at(draft.values, path) is not None for draft in parts):
            found += said(dropped[0][0], [dropped[0][1]])
    return found


def _stage(draft: Draft, method: Method | None) -> tuple[Stage | None, list[Problem]]:
    trains = method is not None and not method.samples
    options = plugins.config_class("algorithms", method.algorithm).model_fields if trains else ()
    located = located_problems(Stage, draft.values, draft, (), options)
    problems, wrong = [p for p, _ in located], {path for _, path in located}
    if not draft.values.keys() & {"algorithm", "sample"}:
        right = Stage.model_fields["algorithm"].description or ""
        problems.append(Problem(draft.where(("algorithm",)), draft.key(("algorithm",)), "is missing", right))
    stage = Stage.model_validate(draft.values) if not wrong else _sound_part(draft, wrong)
    if method is not None:
        complaints = [*unused(draft.values, method), *contradictions(draft.values, stage, method)]
        complaints += reward_complaints(draft.values, stage, method)
        complaints += sampling_complaints(draft.values, stage) if method.samples else []
        problems += said(draft, [c for c in complaints if not c.path or c.path not in wrong])
    if wrong or stage is None:
        return None, problems
    sound = not problems and method is not None and method.needs is not None
    return _spelt_out(stage) if sound else stage, problems


def _spelt_out(stage: Stage) -> Stage:
    """Return the stage with the defaults of its algorithm: every option, and the learning rate."""
    if stage.algorithm is None:
        return stage
    config = plugins.config_class("algorithms", stage.algorithm)
    options = config(**stage.options).model_dump(mode="json", exclude_none=True)
    rate = stage.learner.learning_rate or config.start_rate(lora=stage.learner.lora is not None)
    learner = stage.learner.model_copy(update={"learning_rate": rate})
    return stage.model_copy(update={"options": options, "learner": learner})


def _sound_part(draft: Draft, wrong: Iterable[KeyPath]) -> Stage | None:
    """Return the stage without its wrong keys, for the checks that remain; None where that is none."""
    values = copy.deepcopy(draft.values)
    for path in map(table_part, wrong):
        table = at(values, path[:-1])
        if isinstance(table, dict):
            table.pop(path[-1], None)
    if located_problems(Stage, values, draft, (), ()):
        return None
    return Stage.model_validate(values)
