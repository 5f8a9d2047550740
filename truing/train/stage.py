"""One stage of training: the Run that the loop asks for batches and hands results to."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from truing.config import Stage
from truing.errors import MismatchError
from truing.log import Progress, StageLog, Tracker
from truing.model.micro_batches import in_micro_batches
from truing.model.reference import Reference
from truing.rollout.sampler import Sampler
from truing.train import checkpoint
from truing.train.collect import Collected, Collector, Offline
from truing.train.evaluate import Evaluator
from truing.train.flops import drawn_tokens, forward_flops, packed_tokens, step_flops
from truing.train.learner import TorchLearner
from truing.train.networks import Networks
from truing.train.order import seed_of
from truing.train.reference_point import reference_point
from truing.train.replay import mixed, replayed_rows
from truing.types import Algorithm, Batch, Term, Unit


@dataclass(slots=True)
class StageRun:
    """Implements `truing.train.run.Run` on one machine, in one process."""

    stage: Stage
    algorithm: Algorithm
    config: Any
    learner: TorchLearner
    collector: Collector
    reference: Reference | None
    sampler: Sampler | None  # None: an offline stage without an evaluation
    evaluator: Evaluator | None
    log: StageLog
    progress: Progress
    tracker: Tracker
    folder: Path
    num_steps: int
    networks: Networks
    calibrate: Callable[[], None] | None = None  # fits the trained scorer's calibration
    first_step: int = 0
    policy_version: int = 0
    _collected: Collected | None = None
    _sums: dict[str, Tensor] = field(default_factory=dict)
    _updates: int = 0
    _clock: dict[str, float] = field(default_factory=dict)
    _started: float = 0.0

    @property
    def micro_batch_tokens(self) -> int:
        """Return the packed tokens that one forward pass may hold."""
        return self.stage.learner.micro_batch_tokens

    def collect(self, step: int) -> Batch:
        """Return the step's rows or scored rollouts."""
        self._started = time.monotonic()
        self.progress.phase("collect")
        self._collected = self.collector(step)
        self._lap("time/collect_s", self._started)
        self.progress.phase("train")
        return self._collected.batch

    def annotate(self, batch: Batch, needs: frozenset[str]) -> Batch:
        """Fill what needs a forward pass before the update.

        old_logprobs are left out where the batch is used for exactly one update and no credit needs
        them: the loss then takes them from its own forward pass, which has the same weights.
        """
        if batch.replay is not None:
            return mixed(self.annotate(batch.main(), needs), replayed_rows(batch))
        start = time.monotonic()
        several = self.stage.learner.num_minibatches * self.stage.learner.num_epochs > 1
        online = batch.sampler_logprobs is not None
        wanted = needs & {"values", "process_logprobs"}
        if "old_logprobs" in needs or (online and several):
            wanted |= {"logprobs"}
        if "old_entropy" in needs:
            wanted |= {"entropy"}
        wanted |= {n.removeprefix("old_") for n in ("old_scores", "old_length_scores") if n in needs}
        if wanted:
            outputs = in_micro_batches(
                batch, self.micro_batch_tokens, lambda b: self.learner.forward(b, wanted)
            )
            batch = replace(
                batch,
                old_logprobs=outputs.logprobs,
                old_values=outputs.values,
                old_entropy=outputs.entropy,
                old_process_logprobs=outputs.process_logprobs,
                old_scores=outputs.scores if "old_scores" in needs else None,
                old_length_scores=outputs.length_scores if "old_length_scores" in needs else None,
            )
        if "ref_logprobs" in needs:
            assert self.reference is not None
            batch = replace(batch, ref_logprobs=self.reference.logprobs(batch))
        if "reference_point" in needs:
            assert self.reference is not None
            point = reference_point(batch, self._policy_logprobs, self.reference.logprobs)
            batch = replace(batch, reference_point=point)
        self._lap("time/annotate_s", start)
        return batch

    def _policy_logprobs(self, batch: Batch) -> Tensor:
        needs = frozenset({"logprobs"})
        outputs = in_micro_batches(batch, self.micro_batch_tokens, lambda b: self.learner.forward(b, needs))
        return outputs.require("logprobs")

    def minibatches(self, batch: Batch) -> Iterator[Batch]:
        """Yield each pass's minibatches, shuffled by the stage's seed; groups and pairs stay whole."""
        number, epochs = self.stage.learner.num_minibatches, self.stage.learner.num_epochs
        replayed = set[int]() if batch.replay is None else set(batch.replay.nonzero()[:, 0].tolist())
        units = [u for u in batch.units() if u[0] not in replayed]
        extra = [[row] for row in sorted(replayed)]
        for epoch in range(epochs):
            if number == 1:
                yield batch
                continue
            generator = torch.Generator().manual_seed(
                seed_of(self.stage.seed, "minibatch", self.policy_version, epoch)
            )
            order = torch.randperm(len(units), generator=generator)
            parts = [[units[i] for i in part.tolist()] for part in order.chunk(number)]
            for place, i in enumerate(torch.randperm(len(extra), generator=generator).tolist()):
                parts[place % len(parts)].append(extra[i])  # every minibatch keeps the mix
            for part in parts:
                yield batch.rows(torch.tensor(sorted(r for unit in part for r in unit)))

    def sum_over_ranks(self, count: dict[Unit, Tensor]) -> dict[Unit, Tensor]:
        """Return the counts: there is one rank."""
        self._updates += 1
        return count

    def tally(self, terms: Sequence[Term], count: Mapping[Unit, Tensor]) -> None:
        """Add each term to the step's metrics under its name."""
        for term in terms:
            name = term.name if "/" in term.name else f"loss/{term.name}"
            value = term.total.detach() / count[term.unit].clamp(min=1)
            self._sums[name] = self._sums[name] + value if name in self._sums else value

    def metrics(self) -> Mapping[str, float]:
        """Return the step's metrics, each term averaged over the updates of the step."""
        assert self._collected is not None
        tensors = {name: total.float() / max(self._updates, 1) for name, total in self._sums.items()}
        tensors |= {name: torch.as_tensor(value).float() for name, value in self.learner.metrics().items()}
        values = torch.stack([t.detach().to(self.learner.device) for t in tensors.values()]).tolist()
        found = dict(zip(tensors, values, strict=True))
        self._sums, self._updates = {}, 0
        return found | self._collected.metrics

    def publish(self, step: int) -> None:
        """Count the new policy and give it to the sampler, where the stage samples."""
        self.policy_version += 1
        if self.stage.sampler is not None and self.sampler is not None:
            self.sampler.publish(self.policy_version)

    def observe(self, step: int, batch: Batch, metrics: Mapping[str, float]) -> None:
        """Log the step, stop on stale or mismatched weights, evaluate and save when it is time."""
        elapsed = time.monotonic() - self._started
        tokens = int(batch.lengths.sum())
        self._clock |= {"time/step_s": elapsed, "time/tokens_per_second": tokens / elapsed}
        metrics = {
            **metrics,
            "train/completion_tokens": float(tokens),
            **self._compute(step, batch),
            **self._clock,
        }
        self._clock = {}
        self.log.metrics(step, metrics)
        self.tracker.log(step, metrics)
        self.progress.step(step, metrics, tokens)
        self._check_mismatch(step, metrics)
        if step % self.stage.log.samples_every == 0:
            self._save_samples(step)
        done = step + 1
        every = self.stage.evaluation.every if self.stage.evaluation else None
        if every and done % every == 0 and done < self.num_steps:
            self.evaluate("step", done)
        if done == self.num_steps or (
            self.stage.checkpoint.every and done % self.stage.checkpoint.every == 0
        ):
            self.save(done)

    def _compute(self, step: int, batch: Batch) -> dict[str, float]:
        """Return what the step cost in operations and, where it sampled, in drawn tokens."""
        assert self._collected is not None
        networks, rollouts = self.learner.networks, self._collected.rollouts
        cached = self.reference is not None and self.reference.kind == "cache"
        flops = step_flops(
            networks, batch, rollouts, num_epochs=self.stage.learner.num_epochs, live_reference=not cached,
            reward_model=self.stage.reward_model is not None,
        )  # fmt: skip
        if cached and step == 0 and isinstance(self.collector, Offline):
            flops += forward_flops(self.networks.causal) * packed_tokens(self.collector.every_row())
        found = {"train/flops": flops}
        return found | ({"rollout/drawn_tokens": float(drawn_tokens(rollouts))} if rollouts else {})

    def evaluate(self, when: str, step: int) -> None:
        """Sample and verify the held-out prompts, and write the record and some completions."""
        if self.evaluator is None or self.sampler is None:
            return
        self.progress.phase("evaluate")
        self.sampler.publish(self.policy_version)
        start = time.monotonic()
        record, found = self.evaluator.run(self.sampler)
        self.log.evaluation({"when": when, "step": step, "seconds": time.monotonic() - start, **record})
        self.progress.note(
            f"{self.stage.name}, {when} training: {record['passed']} of {record['num_scored']} pass "
            f"(95% interval {record['low']:.1%} to {record['high']:.1%})"
        )
        for prompt, (completion, verdict) in list(zip(self.evaluator.prompts, found, strict=True))[
            : self.stage.log.samples
        ]:
            self.log.sample(
                step,
                prompt=prompt.messages[-1].content,
                completion=completion.text,
                reference=prompt.reference,
                reward=verdict.value,
                verdicts={self.evaluator.term.name: {"status": verdict.status, "evidence": verdict.evidence}},
                finish_reason=completion.finish_reason,
                split="evaluation",
            )

    def save(self, done: int) -> None:
        """Write a checkpoint of the state after `done` steps."""
        learner = self.learner.state_dict()
        rng_tensors, rng_state = checkpoint.rng_state()
        state = {
            "learner": learner["json"],
            "order": self.collector.order.state(),
            "config": self.config.model_dump(mode="json"),
            "policy_version": self.policy_version,
            "rng": rng_state,
        }
        tensors = {f"learner.{k}": v for k, v in learner["tensors"].items()}
        tensors |= {f"rng.{k}": v for k, v in rng_tensors.items()}
        checkpoint.save(
            self.folder / "checkpoints", done, tensors=tensors, state=state, keep=self.stage.checkpoint.keep
        )

    def restore(self) -> bool:
        """Continue from the newest sound checkpoint; say so and return True when there is one."""
        found = checkpoint.load_latest(self.folder / "checkpoints")
        if found is None:
            return False
        for message in found.skipped:
            self.log.event("checkpoint_refused", message)
        part = {k.removeprefix("learner."): v for k, v in found.tensors.items() if k.startswith("learner.")}
        self.learner.load_state_dict({"tensors": part, "json": found.state["learner"]})
        self.collector.order.restore(found.state["order"])
        self.config = type(self.config)(**found.state["config"])
        self.policy_version = found.state["policy_version"]
        rng = {k.removeprefix("rng."): v for k, v in found.tensors.items() if k.startswith("rng.")}
        checkpoint.set_rng_state(rng, found.state["rng"])
        if self.sampler is not None:
            self.sampler.publish(self.policy_version)
        self.first_step = found.step
        self.log.rewind(found.step)
        self.log.event("resumed", f"continues at step {found.step} of {self.num_steps}", step=found.step)
        return True

    def _lap(self, name: str, start: float) -> None:
        self._clock[name] = time.monotonic() - start

    def _check_mismatch(self, step: int, metrics: Mapping[str, float]) -> None:
        gap = metrics.get("mismatch/logprob_gap_mean")
        if self.stage.sampler is None or gap is None or gap <= self.stage.sampler.mismatch_threshold:
            return
        message = (
            f"step {step}: sampler and learner log-probs differ by {gap:.3f} nats on average, over the "
            f"threshold of {self.stage.sampler.mismatch_threshold}. The sampler holds other weights than the "
            "learner, or another temperature or template. If the gap is only low precision, raise "
            "sampler.mismatch_threshold."
        )
        self.log.event("mismatch", message, gap=gap)
        raise MismatchError(message)

    def _save_samples(self, step: int) -> None:
        assert self._collected is not None
        for r in self._collected.rollouts[: self.stage.log.samples]:
            self.log.sample(
                step,
                prompt=r.prompt.messages[-1].content,
                completion=r.completion.text,
                reference=r.prompt.reference,
                reward=r.reward,
                verdicts={n: {"status": v.status, "evidence": v.evidence} for n, v in r.verdicts.items()},
                finish_reason=r.completion.finish_reason,
            )
