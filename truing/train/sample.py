"""Completions of the policy as it is now, scored and written as rows: fresh feedback from a verifier."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from torch import nn

from truing import plugins
from truing.config import Stage
from truing.data.readers import read_rows
from truing.data.records import prompt_tokens, prompts
from truing.errors import DataError
from truing.log import Progress, StageLog, read_jsonl
from truing.log.jsonl import append, encode, keep_lines, replace_file
from truing.model.load import load_model
from truing.rewards import load_terms
from truing.rollout.sampler import Sampler, SamplingParams
from truing.train.build import pick_device, pick_dtype, stop_token_ids
from truing.train.flops import drawn_tokens, forward_flops, sampled_tokens
from truing.train.order import seed_of
from truing.train.reward_models import load_reward_models
from truing.train.sampled_rows import Record, group_record, rows_of
from truing.train.scoring import Scorer, rollout_metrics
from truing.types import Prompt, Rollout

ROWS, DRAWN = "rows.jsonl", "drawn.jsonl"


@dataclass(frozen=True, slots=True)
class Drawing:
    """What draws and scores the completions of a stage, `batch_size` prompts a step."""

    stage: Stage
    network: nn.Module
    prompts: Sequence[Prompt]
    prompt_tokens: Sequence[tuple[int, ...]]
    sampler: Sampler
    params: SamplingParams
    group_size: int
    scorer: Scorer

    @property
    def num_steps(self) -> int:
        """Return how many steps there are."""
        return math.ceil(len(self.prompts) / self.stage.batch_size)

    def __call__(self, step: int) -> list[list[Rollout]]:
        """Return the scored completions of the step's prompts; each step's are a function of the seed."""
        index = range(len(self.prompts))[step * self.stage.batch_size :][: self.stage.batch_size]
        places = [i for i in index for _ in range(self.group_size)]
        params = SamplingParams(
            max_tokens=self.params.max_tokens,
            temperature=self.params.temperature,
            stop_token_ids=self.params.stop_token_ids,
            seed=seed_of(self.stage.seed, "sample", step),
        )
        drawn = self.sampler.generate(
            [self.prompt_tokens[i] for i in index], params, num_samples=self.group_size
        )
        rollouts = self.scorer(
            [self.prompts[i] for i in places],
            [self.prompt_tokens[i] for i in places],
            [completion for group in drawn for completion in group],
            places,
        )
        return [rollouts[i : i + self.group_size] for i in range(0, len(rollouts), self.group_size)]

    def metrics(self, groups: Sequence[Sequence[Rollout]]) -> dict[str, float]:
        """Return rewards, lengths and cost of a step."""
        rollouts = [r for group in groups for r in group]
        found = rollout_metrics(rollouts, self.params.max_tokens)
        if not self.scorer.terms:  # nobody says how good they are
            found = {name: x for name, x in found.items() if not name.startswith("reward/")}
        passes = 1 + (self.scorer.score is not None)
        flops = passes * sampled_tokens(rollouts) * forward_flops(self.network)
        drawn = float(drawn_tokens(rollouts))
        return found | {
            "rollout/drawn_tokens": drawn, "train/completion_tokens": 0.0, "train/flops": flops
        }  # fmt: skip


def drawing(stage: Stage, *, model: str, reward_model: str | list[str] | None) -> Drawing:
    """Return the stage ready to draw. Model names are resolved: no `stage:` is left in them.

    Raises:
        DataError: there are no prompts.
    """
    assert stage.sampler is not None
    device = pick_device(stage.device)
    dtype = pick_dtype(stage.dtype, device)
    start = load_model(model, device=device)
    source = read_rows(stage.data.train, limit=stage.data.limit)
    asked, report = prompts(source, start.tokenizer, stage.data)
    if not asked:
        raise DataError(f"{stage.data.train}: no row is left of {len(source)}: {report}")
    score = None
    if reward_model is not None:
        names = [reward_model] if isinstance(reward_model, str) else reward_model
        score = load_reward_models(
            names, stage.ensemble, dtype=dtype, device=device, max_tokens=stage.learner.micro_batch_tokens
        )
    engine = plugins.load("rollout", stage.sampler.engine)
    params = SamplingParams(
        max_tokens=stage.sampler.max_tokens,
        temperature=stage.sampler.temperature,
        stop_token_ids=stop_token_ids(start.tokenizer, start.model, stage.sampler.stop),
    )
    return Drawing(
        stage=stage,
        network=start.model,
        prompts=asked,
        prompt_tokens=[prompt_tokens(start.tokenizer, p) for p in asked],
        sampler=engine.SAMPLER(start.model, start.tokenizer, dtype=dtype),
        params=params,
        group_size=stage.sampler.group_size,
        scorer=Scorer(load_terms(stage.rewards, scored=score is not None), score),
    )


def run_sampling(
    drawn: Drawing, folder: Path, source: Mapping[str, Any], log: StageLog, progress: Progress
) -> None:
    """Draw what is not drawn yet, and write `rows.jsonl`; what a crash interrupted is continued.

    Args:
        folder: the stage's: `drawn.jsonl` holds every completion with its verdicts.
        source: see `provenance`.
    """
    size, path = drawn.stage.batch_size, folder / DRAWN
    keep_lines(path, lambda _: True)
    first = len(read_jsonl(path)) // size
    lines = iter(range(first * size))
    keep_lines(path, lambda _: next(lines, None) is not None)  # a step that was cut short is drawn anew
    log.rewind(first)
    for step in range(first, drawn.num_steps):
        start = time.monotonic()
        progress.phase("collect")
        groups = drawn(step)
        for group in groups:
            append(path, group_record(group))
        metrics = {**drawn.metrics(groups), "time/step_s": time.monotonic() - start}
        log.metrics(step, metrics)
        progress.step(step, metrics, int(metrics["rollout/drawn_tokens"]))
        if step % drawn.stage.log.samples_every == 0:
            _save_samples(log, step, groups[0][: drawn.stage.log.samples])
    finish(drawn.stage, read_jsonl(path), folder / ROWS, source, lambda text: log.event("rows", text))


def sample_once(
    drawn: Drawing, path: Path, source: Mapping[str, Any], say: Callable[[str], None]
) -> list[Record]:
    """Draw everything and write the rows to one file; nothing is left behind where that fails."""
    groups = list[Record]()
    for step in range(drawn.num_steps):
        groups += [group_record(group) for group in drawn(step)]
        say(f"{len(groups)} of {len(drawn.prompts)} prompts")
    return finish(drawn.stage, groups, path, source, say)


def finish(
    stage: Stage, groups: Sequence[Record], path: Path, source: Mapping[str, Any], say: Callable[[str], None]
) -> list[Record]:
    """Write the rows of what was drawn, after the old ones, and return them."""
    assert stage.sample is not None
    old = [] if stage.sample.old_rows is None else [r.values for r in read_rows(stage.sample.old_rows)]
    rows, count = rows_of(groups, stage.sample, source, old)
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(encode(row) + "\n" for row in rows)
    replace_file(path, text.encode("utf-8", errors="backslashreplace"))
    say(
        f"{count['rows']} {stage.sample.kind} after {len(old)} old rows, from {count['completions']} "
        f"completions of {len(groups)} prompts ({count['unscored']} not scored, "
        f"{count['duplicates']} rows twice, {count['prompts_without_rows']} prompts without a row): {path}"
    )
    return rows


def provenance(stage: Stage, model: str) -> Record:
    """Return where rows are from: the model, how it was sampled, what scored it, and when."""
    assert stage.sampler is not None
    by = {name: r.verifier or r.term or r.judge or "reward_model" for name, r in stage.rewards.items()}
    if stage.reward_model is not None:
        by["reward_model"] = str(stage.reward_model)
    return {
        "model": model,
        "seed": stage.seed,
        "temperature": stage.sampler.temperature,
        "max_tokens": stage.sampler.max_tokens,
        "group_size": stage.sampler.group_size,
        "rewards": by,
        "date": datetime.now(UTC).date().isoformat(),
    }


def _save_samples(log: StageLog, step: int, rollouts: Sequence[Rollout]) -> None:
    for r in rollouts:
        log.sample(
            step,
            prompt=r.prompt.messages[-1].content,
            completion=r.completion.text,
            reference=r.prompt.reference,
            reward=r.reward,
            verdicts={n: {"status": v.status, "evidence": v.evidence} for n, v in r.verdicts.items()},
            finish_reason=r.completion.finish_reason,
        )
