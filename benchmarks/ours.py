"""Truing's side: the library's own loop over a run that takes its steps when the gate opens."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from benchmarks.gate import Gate, Stop
from benchmarks.work import BETA, LEARNING_RATE, MAX_GRAD_NORM, MODEL, Work
from benchmarks.worker import dimensions
from truing import plugins
from truing.config import LearnerConfig
from truing.model.load import Loaded, load_model
from truing.model.micro_batches import in_micro_batches
from truing.rollout.hf import HFSampler
from truing.rollout.sampler import SamplingParams
from truing.train.batches import batch_of_pairs, batch_of_rollouts, batch_of_rows
from truing.train.learner import TorchLearner
from truing.train.loop import train
from truing.types import Algorithm, Batch, Completion, Pair, Prompt, Rollout, Row, Term, Unit, Verdict

_ENDLESS = 100_000


def run(gate: Gate, work: Work, dtype: torch.dtype) -> None:
    """Train, or generate, at the gate's pace until it stops."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    loaded = load_model(MODEL, device=device)
    gate.ready(dimensions(loaded.model.config))
    if work.kind == "sampling":
        return _generate(gate, work, loaded, dtype)
    method = {"sft": "sft", "dpo": "dpo"}.get(work.kind, "grpo")
    algorithm: Algorithm = plugins.load("algorithms", method).ALGORITHM
    config = algorithm.config(beta=BETA) if method == "dpo" else algorithm.config()
    sampler = HFSampler(loaded.model, loaded.tokenizer, dtype=dtype) if work.kind == "iteration" else None
    learner_config = LearnerConfig(schedule="constant", warmup=0.0, max_grad_norm=MAX_GRAD_NORM)
    learner = TorchLearner(
        policy=loaded.model, critic=None, scorer=None, config=learner_config,
        learning_rate=LEARNING_RATE, num_updates=_ENDLESS, compute_dtype=dtype,
    )  # fmt: skip
    batch = None if sampler else _with_reference(_batch(work, loaded.tokenizer), learner, config.needs())
    try:
        train(_GatedRun(gate, work, loaded.tokenizer, algorithm, config, learner, batch, sampler))
    except Stop:
        return


@dataclass(slots=True)
class _GatedRun:
    """Implements `truing.train.run.Run`; like a stage's run, without files, scores and evaluations."""

    gate: Gate
    work: Work
    tokenizer: Any
    algorithm: Algorithm
    config: Any
    learner: TorchLearner
    batch: Batch | None  # None: sampled at each step
    sampler: HFSampler | None
    first_step: int = 0
    num_steps: int = _ENDLESS
    micro_batch_tokens: int = LearnerConfig().micro_batch_tokens
    sums: dict[str, Tensor] = field(default_factory=dict)
    loss: Tensor | float = 0.0

    def collect(self, step: int) -> Batch:
        """Return the batch that is given, or one drawn with the sampler."""
        self.gate.wait()
        if self.batch is not None:
            return self.batch
        assert self.sampler is not None
        return batch_of_rollouts(_rollouts(self.work, self.tokenizer, self.sampler, step))

    def annotate(self, batch: Batch, needs: frozenset[str]) -> Batch:
        """Return the batch: the reference is cached, and one update needs no old log-probs."""
        return batch

    def minibatches(self, batch: Batch) -> Iterator[Batch]:
        """Yield the batch: one update."""
        yield batch

    def sum_over_ranks(self, count: dict[Unit, Tensor]) -> dict[Unit, Tensor]:
        """Return the counts: there is one rank."""
        return count

    def tally(self, terms: Sequence[Term], count: Mapping[Unit, Tensor]) -> None:
        """Add each term to the metrics, and the weighted ones to the loss."""
        for term in terms:
            value = term.total.detach() / count[term.unit].clamp(min=1)
            self.sums[term.name] = self.sums.get(term.name, 0.0) + value
            self.loss = self.loss + term.weight * value

    def metrics(self) -> Mapping[str, float]:
        """Return the step's metrics."""
        found = {name: float(value) for name, value in (self.sums | self.learner.metrics()).items()}
        found["loss"] = float(self.loss)
        self.sums, self.loss = {}, 0.0
        return found

    def publish(self, step: int) -> None:
        """Give the sampler the new weights, where there is one."""
        if self.sampler is not None:
            self.sampler.publish(step + 1)

    def observe(self, step: int, batch: Batch, metrics: Mapping[str, float]) -> None:
        """Report the step."""
        self.gate.done(loss=metrics["loss"], grad_norm=metrics["train/grad_norm"])


def _batch(work: Work, tokenizer: Any) -> Batch:
    """Return the work's rows as a batch, tokenized exactly as TRL tokenizes them."""
    rows = [_rows(i, prompt, texts, work.eos, tokenizer) for i, (prompt, texts) in enumerate(work.texts())]
    if work.kind == "sft":
        return batch_of_rows([row for [row] in rows])
    if work.kind == "dpo":
        return batch_of_pairs([Pair(c.uid, c, r) for c, r in rows])
    flat = [(group, row) for group, members in enumerate(rows) for row in members]
    batch = batch_of_rows([row for _, row in flat])
    groups = torch.tensor([group for group, _ in flat])
    return replace(batch, groups=groups, rewards=torch.tensor(work.rewards()))


def _rows(index: int, prompt: str, texts: list[str], eos: bool, tokenizer: Any) -> list[Row]:
    ids = tuple(tokenizer(prompt)["input_ids"])
    end = (tokenizer.eos_token_id,) if eos else ()
    completions = [(*tokenizer(text)["input_ids"], *end) for text in texts]
    return [Row(str(index), ids, tokens, (True,) * len(tokens)) for tokens in completions]


def _with_reference(batch: Batch, learner: TorchLearner, needs: frozenset[str]) -> Batch:
    """Fill ref_logprobs with the log-probs of the policy before its first update, where they are needed."""
    if "ref_logprobs" not in needs:
        return batch
    with torch.no_grad():
        outputs = in_micro_batches(batch, 8192, lambda b: learner.forward(b, frozenset({"logprobs"})))
    return replace(batch, ref_logprobs=outputs.logprobs)


def _sampled(work: Work, tokenizer: Any, sampler: HFSampler, seed: int) -> list[list[Completion]]:
    """Return completions that nothing stops before their full length."""
    params = SamplingParams(max_tokens=work.trees[0].completions[0], stop_token_ids=(), seed=seed)
    prompts = [tokenizer(prompt)["input_ids"] for prompt, _ in work.texts()]
    return sampler.generate(prompts, params, num_samples=len(work.trees[0].completions))


def _rollouts(work: Work, tokenizer: Any, sampler: HFSampler, step: int) -> list[Rollout]:
    """Return rollouts; the reward is the number of different characters, as on the other side."""
    found = []
    texts = work.texts()
    for group, completions in enumerate(_sampled(work, tokenizer, sampler, step)):
        ids = tuple(tokenizer(texts[group][0])["input_ids"])
        for completion in completions:
            value = float(len(set(completion.text)))
            verdicts = {"variety": Verdict("scored", value)}
            found.append(Rollout(Prompt(str(group), ()), ids, completion, group, verdicts, value))
    return found


def _generate(gate: Gate, work: Work, loaded: Loaded, dtype: torch.dtype) -> None:
    sampler = HFSampler(loaded.model, loaded.tokenizer, dtype=dtype)
    step = 0
    while True:
        try:
            gate.wait()
        except Stop:
            return
        completions = _sampled(work, loaded.tokenizer, sampler, step)
        gate.done(num_tokens=sum(len(c.tokens) for group in completions for c in group))
        step += 1
