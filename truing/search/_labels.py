"""Labels of steps without people: how often continuations from after a step reach the right answer.

Wang et al. 2023 (Math-Shepherd), arXiv:2312.08935, section 3.3; the bisection is Luo et al. 2024 (OmegaPRM),
arXiv:2406.06592. Labels are relative to who continues, so its name and how it continued are on every row.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path as File
from typing import Any

from truing.data.step_labels import from_rollouts
from truing.errors import ConfigError, DataError
from truing.model.load import Loaded, fingerprint, load_model
from truing.search._plan import LabelPlan, load_label_plan
from truing.search._records import Draw, Path, Search, distinct, draw, score
from truing.search._scorers import VerifierScorer
from truing.search._setup import Setting, require_same_tokens, sampler_of, set_up
from truing.search._steps import step_ends, step_texts
from truing.train.build import pick_device
from truing.train.order import seed_of
from truing.types import Prompt


@dataclass(frozen=True, slots=True)
class LabelReport:
    """What was written, and what was not.

    Args:
        rows: labelled solutions.
        labelled_steps: steps with a label.
        right: solutions whose own answer is right.
        unfinished: solutions that the length limit cut; they are dropped.
        unlabelled: solutions dropped because the verifier could score none of their continuations, or they
            hold the separator inside a step.
        generated: tokens drawn, of solutions and continuations.
    """

    rows: int
    labelled_steps: int
    right: int
    unfinished: int
    unlabelled: int
    generated: int


@dataclass(slots=True)
class Measured:
    """A solution, and the outcomes (1 or 0) of the continuations after its steps, by the step's number."""

    problem: int
    path: Path
    ends: tuple[int, ...]
    outcomes: dict[int, list[int]] = field(default_factory=dict)

    def labels(self, plan: LabelPlan) -> list[float | None]:
        """Return the label of each step; None where nothing was measured."""
        num_steps = len(self.ends)
        if plan.find == "every":
            known = {step: found for step, found in self.outcomes.items() if found}
            values = dict(zip(known, from_rollouts(list(known.values()), how=plan.labels), strict=True))
            return [values.get(step) for step in range(num_steps)]
        reached = max((s for s, found in self.outcomes.items() if any(found)), default=-1)
        failed = min((s for s, found in self.outcomes.items() if found and not any(found)), default=None)
        labels = [1.0 if step <= reached else None for step in range(num_steps)]
        if failed is not None and failed > reached:
            labels[failed] = 0.0
        return labels


def label_steps(
    plan: LabelPlan | str | File,
    output: str | File,
    *overrides: str,
    say: Callable[[str], None] = lambda text: None,
) -> LabelReport:
    """Draw solutions, label their steps by roll-outs, and write them as rows of the data kind "steps".

    A row has prompt, completions (the steps) and labels, null where nothing was measured; num_right and
    num_rollouts beside them say what was measured, and `labelled_by` by whom and how.

    Args:
        plan: checked, or the path of a TOML file.
        output: a .jsonl file that does not exist yet.
        overrides: `key=value`, laid over the file.
        say: told what is done next.

    Raises:
        ConfigError: the plan is wrong, or the output exists.
        DataError: no solution could be labelled.
    """
    if not isinstance(plan, LabelPlan):
        plan = load_label_plan(plan, overrides)
    elif overrides:
        raise ConfigError("a checked LabelPlan takes no overrides: give them to load_label_plan")
    output = File(output)
    if output.suffix != ".jsonl" or output.exists():
        raise ConfigError(f"{output}: the output must be a new file that ends in .jsonl")
    say(f"loading {plan.model}")
    setting = set_up(plan)
    completer = _completer(plan, setting)
    say(f"{plan.num_solutions} solutions of {len(setting.prompts)} prompts")
    solutions, unfinished, drawn = _solutions(plan, setting)
    say(f"labels of {sum(len(s.ends) for s in solutions)} steps")
    drawn += _measure(plan, replace(setting, sampler=sampler_of(completer, plan)), solutions)
    by = _identity(plan, completer)
    rows = [row for s in solutions if (row := _row(plan, setting, s, by)) is not None]
    if not rows:
        raise DataError(f"{plan.model}: none of {len(solutions) + unfinished} solutions could be labelled")
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    output.write_text(text, encoding="utf-8")
    labelled = sum(label is not None for row in rows for label in row["labels"])
    right = sum(bool(row["labels"][-1]) for row in rows)
    return LabelReport(len(rows), labelled, right, unfinished, len(solutions) - len(rows), drawn)


def _completer(plan: LabelPlan, setting: Setting) -> Loaded:
    if plan.completer is None:
        return setting.policy
    require_same_tokens(setting.policy, plan.completer)
    return load_model(plan.completer, device=pick_device(plan.device))


def _identity(plan: LabelPlan, completer: Loaded) -> dict[str, Any]:
    return {
        "completer": completer.name,
        "fingerprint": fingerprint(completer.model),
        "num_rollouts": plan.num_rollouts,
        "labels": plan.labels,
        "find": plan.find,
        "temperature": plan.temperature,
        "max_tokens": plan.max_tokens,
        "verifier": plan.verifier,
        "separator": plan.separator,
        "seed": plan.seed,
    }


def _solutions(plan: LabelPlan, setting: Setting) -> tuple[list[Measured], int, int]:
    """Return distinct finished solutions with their own outcome, how many were cut, and tokens drawn."""

    def search(problem: int, found: list[Path]) -> Search:
        for drawn in (yield from draw([Draw(Path(), plan.num_solutions, whole=True)])):
            found += yield from score(distinct(drawn))

    scorer = VerifierScorer(setting.verifier, setting.prompts, setting.grammar)
    results = setting.engine(plan, scorer).run(setting.prompt_tokens, search, seed=plan.seed)
    paths = [(i, path) for i, result in enumerate(results) for path in result.paths]
    whole = [(i, path, step_ends(path.tokens, setting.grammar)) for i, path in paths if path.end == "stop"]
    solutions = [Measured(i, path, ends) for i, path, ends in whole if ends]
    for one in solutions:
        one.outcomes[len(one.ends) - 1] = _right([one.path])
    return solutions, len(paths) - len(solutions), sum(r.spent.generated for r in results)


def _measure(plan: LabelPlan, setting: Setting, solutions: Sequence[Measured]) -> int:
    """Fill the outcomes of the solutions' prefixes and return how many tokens that drew."""
    how = _every_step if plan.find == "every" else _first_error
    prompts = [setting.prompts[one.problem] for one in solutions]
    engine = setting.engine(plan, VerifierScorer(setting.verifier, prompts, setting.grammar))
    results = engine.run(
        [setting.prompt_tokens[one.problem] for one in solutions],
        lambda number, found: how(solutions[number], plan.num_rollouts),
        seed=seed_of(plan.seed, "labels"),
    )
    return sum(result.spent.generated for result in results)


def _every_step(one: Measured, num_rollouts: int) -> Search:
    """Continue after every step but the last, whose label is the solution's own outcome."""
    steps = range(len(one.ends) - 1)
    drawn = yield from draw([_after(one, step, num_rollouts) for step in steps])
    scored = iter((yield from score([path for paths in drawn for path in paths])))
    for step, paths in zip(steps, drawn, strict=True):
        one.outcomes[step] = _right([next(scored) for _ in paths])


def _first_error(one: Measured, num_rollouts: int) -> Search:
    """Bisect for the first step after which no continuation is right; a right solution has none."""
    last = len(one.ends) - 1
    reached, failed = -1, last
    if one.outcomes[last] != [0]:
        return
    while failed - reached > 1:
        step = (reached + failed) // 2
        (drawn,) = yield from draw([_after(one, step, num_rollouts)])
        one.outcomes[step] = _right((yield from score(drawn)))
        if not one.outcomes[step]:
            return
        reached, failed = (step, failed) if any(one.outcomes[step]) else (reached, step)


def _after(one: Measured, step: int, num_rollouts: int) -> Draw:
    return Draw(Path(one.path.tokens[: one.ends[step]]), num_rollouts, whole=True)


def _right(paths: Sequence[Path]) -> list[int]:
    """Return 1 or 0 for each path that the verifier could score."""
    return [int(path.value >= 0.5) for path in paths if path.value is not None]


def _row(plan: LabelPlan, setting: Setting, one: Measured, by: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the row of a solution; None where no step is labelled or one holds the separator."""
    prompt, labels = setting.prompts[one.problem], one.labels(plan)
    steps = step_texts(one.path.tokens, setting.grammar)
    if all(label is None for label in labels) or any(plan.separator in step for step in steps):
        return None
    measured = [one.outcomes.get(step, []) for step in range(len(labels))]
    return {
        "prompt": _prompt_column(prompt),
        "completions": steps,
        "labels": [bool(v) if plan.labels == "hard" and v is not None else v for v in labels],
        "num_right": [sum(found) for found in measured],
        "num_rollouts": [len(found) for found in measured],
        "labelled_by": dict(by),
    }


def _prompt_column(prompt: Prompt) -> Any:
    if len(prompt.messages) == 1:
        return prompt.messages[0].content
    return [{"role": m.role, "content": m.content} for m in prompt.messages]
