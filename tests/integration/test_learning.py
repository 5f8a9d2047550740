"""Each method learns a toy task through the loop, and the same check fails when a bug is planted.

The task: a prompt is one token p, and good completions repeat the token p + 1. Online methods are paid
the share of the room they fill with it; pairs prefer it; demonstrations come from a known teacher.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from truing import plugins
from truing.train.loop import train
from truing.types import Algorithm, Batch, Outputs, Term, Unit

VOCAB, EOS, WIDTH, PROMPTS = 7, 6, 6, 4


class Network(nn.Module):
    """A GRU over prompt and completion; `head` gives logits, or one number a token."""

    def __init__(self, outputs: int, hidden: int = 32) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCAB, 16)
        self.body = nn.GRU(16, hidden, batch_first=True)
        self.head = nn.Linear(hidden, outputs)

    def forward(self, prompts: Tensor, completions: Tensor) -> Tensor:
        """Return the head's output before each completion token, and after the last: [B, C + 1, outputs]."""
        return self.head(self.body(self.embed(torch.cat([prompts, completions], 1)))[0])


def prompt_ids(batch: Batch) -> Tensor:
    return torch.stack(list(batch.prompts))


@dataclass
class Learner:
    """A policy, a critic and a scorer under one Adam; implements `truing.train.run.Learner`."""

    learning_rate: float
    policy: Network = field(default_factory=lambda: Network(VOCAB))
    critic: Network = field(default_factory=lambda: Network(1))
    scorer: Network = field(default_factory=lambda: Network(1))

    def __post_init__(self) -> None:
        networks = nn.ModuleList([self.policy, self.critic, self.scorer])
        self.parameters = list(networks.parameters())
        self.optimizer = torch.optim.Adam(self.parameters, self.learning_rate)

    def forward(self, batch: Batch, needs: frozenset[str]) -> Outputs:
        prompts, found = prompt_ids(batch), dict[str, Tensor]()
        if needs & {"logprobs", "entropy"}:
            logprobs = self.policy(prompts, batch.completions)[:, :-1].log_softmax(-1)
            found["logprobs"] = logprobs.gather(-1, batch.completions[..., None])[..., 0]
            found["entropy"] = -(logprobs.exp() * logprobs).sum(-1)
        if "values" in needs:
            found["values"] = self.critic(prompts, batch.completions)[:, :-1, 0]
        if "scores" in needs:
            scores = self.scorer(prompts, batch.completions)[..., 0]
            found["scores"] = scores.gather(1, batch.lengths[:, None])[:, 0]
        return Outputs(**{k: v for k, v in found.items() if k in needs})

    def backward(self, loss: Tensor | float) -> None:
        loss.backward()

    def optimizer_step(self) -> None:
        assert torch.isfinite(nn.utils.clip_grad_norm_(self.parameters, 1.0))
        self.optimizer.step()
        self.optimizer.zero_grad()


def make_batch(prompts: Tensor, completions: Tensor, lengths: Tensor, **fields: Any) -> Batch:
    mask = torch.arange(completions.shape[1]) < lengths[:, None]
    return Batch(
        prompts=tuple(prompts[:, None]), completions=torch.where(mask, completions, 0), lengths=lengths,
        mask=mask, **fields,
    )  # fmt: skip


@torch.no_grad()
def rollouts(learner: Learner, num_prompts: int, group_size: int) -> Batch:
    """Sample a group for each prompt, up to EOS, and reward the share of WIDTH that holds p + 1."""
    groups = torch.arange(num_prompts).repeat_interleave(group_size)
    prompts = groups % PROMPTS
    tokens, drawn = torch.zeros(len(prompts), 0, dtype=torch.long), []
    for _ in range(WIDTH):
        logprobs = learner.policy(prompts[:, None], tokens)[:, -1].log_softmax(-1)
        new = torch.multinomial(logprobs.exp(), 1)
        tokens = torch.cat([tokens, new], 1)
        drawn.append(logprobs.gather(1, new))
    ended = tokens == EOS
    lengths = torch.where(ended.any(-1), ended.long().argmax(-1) + 1, WIDTH)
    batch = make_batch(prompts, tokens, lengths, groups=groups, truncated=~ended.any(-1))
    right = (batch.completions == prompts[:, None] + 1) & batch.mask
    return replace(batch, rewards=right.sum(-1) / WIDTH, sampler_logprobs=torch.cat(drawn, 1))


def noisy(prompts: Tensor, share: float) -> Tensor:
    """Return completions whose tokens are p + 1 with this probability, and any token otherwise."""
    right = torch.rand(len(prompts), WIDTH) < share
    return torch.where(right, prompts[:, None] + 1, torch.randint(0, VOCAB, (len(prompts), WIDTH)))


def pairs(num: int) -> Batch:
    prompts = torch.randint(0, PROMPTS, (num,)).repeat(2)
    tokens = torch.cat([noisy(prompts[:num], 0.85), noisy(prompts[:num], 0.0)])
    lengths = torch.randint(4, WIDTH + 1, (2 * num,))
    return make_batch(prompts, tokens, lengths, groups=torch.arange(num).repeat(2), paired=True)


TEACHER = 0.8  # probability of p + 1 instead of any token, so the entropy is known
ENTROPY = float(torch.special.entr(torch.tensor([TEACHER + 0.2 / VOCAB] + [0.2 / VOCAB] * 6)).sum())


def demonstrations(num: int) -> Batch:
    prompts = torch.randint(0, PROMPTS, (num,))
    lengths = torch.randint(2, WIDTH + 1, (num,))
    return make_batch(prompts, noisy(prompts, TEACHER), lengths, groups=torch.arange(num))


@dataclass
class ToyRun:
    """Implements `truing.train.run.Run` in memory."""

    algorithm: Algorithm
    config: Any
    learner: Learner
    num_steps: int
    seed: int
    num_minibatches: int = 1
    first_step: int = 0
    micro_batch_tokens: int = 200

    def __post_init__(self) -> None:
        self.reference = copy.deepcopy(self.learner)
        self._sums, self._updates, self.history = dict[str, Tensor](), 0, list[Mapping[str, float]]()

    def collect(self, step: int) -> Batch:
        torch.manual_seed(10_000 * self.seed + step)
        if self.config.data == "prompts":
            return rollouts(self.learner, num_prompts=8, group_size=8)
        return pairs(32) if self.config.data == "pairs" else demonstrations(64)

    @torch.no_grad()
    def annotate(self, batch: Batch, needs: frozenset[str]) -> Batch:
        if self.config.data == "prompts":
            old = self.learner.forward(batch, needs | {"logprobs"})
            batch = replace(batch, old_logprobs=old.logprobs, old_values=old.values)
        if "ref_logprobs" in needs:
            ref = self.reference.forward(batch, frozenset({"logprobs"}))
            batch = replace(batch, ref_logprobs=ref.logprobs)
        return batch

    def minibatches(self, batch: Batch) -> Iterator[Batch]:
        units = batch.units()
        for part in torch.randperm(len(units)).chunk(self.num_minibatches):
            yield batch.rows(torch.tensor(sorted(r for i in part.tolist() for r in units[i])))

    def sum_over_ranks(self, count: dict[Unit, Tensor]) -> dict[Unit, Tensor]:
        self._updates += 1
        return count

    def tally(self, terms: Sequence[Term], count: Mapping[Unit, Tensor]) -> None:
        for term in terms:
            value = term.total.detach() / count[term.unit].clamp(min=1)
            self._sums[term.name] = self._sums.get(term.name, torch.zeros(())) + value

    def metrics(self) -> Mapping[str, float]:
        found = {name: float(total) / self._updates for name, total in self._sums.items()}
        self._sums, self._updates = {}, 0
        return found

    def publish(self, step: int) -> None:
        """The sampler reads the learner's weights."""

    def observe(self, step: int, batch: Batch, metrics: Mapping[str, float]) -> None:
        self.history.append(metrics)


OPTIONS = {"ppo": {"kl_coef": 0.01}}  # at 0.05 the best policy of this task earns 0.82, not 1


def learn(
    name: str,
    *,
    seed: int = 0,
    learning_rate: float = 2e-2,
    num_steps: int = 50,
    bug: Callable[[Algorithm], Algorithm] | None = None,
) -> ToyRun:
    algorithm = plugins.load("algorithms", name).ALGORITHM
    torch.manual_seed(seed)
    learner, config = Learner(learning_rate), algorithm.config(**OPTIONS.get(name, {}))
    num_minibatches = 2 if config.data == "prompts" else 1
    run = ToyRun(
        bug(algorithm) if bug else algorithm, config, learner,
        num_steps=num_steps, seed=seed, num_minibatches=num_minibatches,
    )  # fmt: skip
    train(run)
    return run


@torch.no_grad()
def achieved(name: str, run: ToyRun) -> float:
    """Return what was learned, from fresh data and without the algorithm's own functions; 1 is best."""
    torch.manual_seed(999)
    learner = run.learner
    if run.config.data == "prompts":
        return rollouts(learner, num_prompts=64, group_size=4).rewards.mean().item()
    if name == "sft":
        batch = demonstrations(8000)
        logprobs = learner.forward(batch, frozenset({"logprobs"})).logprobs[batch.mask]
        return ENTROPY / -logprobs.mean().item()
    batch, needs = pairs(1000), frozenset({"logprobs"} if name == "dpo" else {"scores"})
    if name == "dpo":
        gap = learner.forward(batch, needs).logprobs - run.reference.forward(batch, needs).logprobs
        chosen, rejected = (gap * batch.mask).sum(-1).chunk(2)
    else:
        chosen, rejected = learner.forward(batch, needs).scores.chunk(2)
    return (chosen > rejected).float().mean().item()


ENOUGH = {"sft": 0.95, "reward_model": 0.95, "dpo": 0.95, "ppo": 0.9, "grpo": 0.9, "dapo": 0.9}
ONLINE = ["dapo", "grpo", "ppo"]


def flipped_sign(algorithm: Algorithm) -> Algorithm:
    def loss(outputs: Outputs, batch: Batch, config: Any) -> list[Term]:
        return [replace(t, weight=-t.weight) for t in algorithm.loss(outputs, batch, config)]

    return replace(algorithm, loss=loss)


def swapped_pairs(algorithm: Algorithm) -> Algorithm:
    def credit(batch: Batch, config: Any) -> Batch:
        num_pairs = len(batch) // 2
        return batch.rows(torch.arange(2 * num_pairs).roll(num_pairs))

    return replace(algorithm, credit=credit)


def advantages_of_other_rows(algorithm: Algorithm) -> Algorithm:
    def credit(batch: Batch, config: Any) -> Batch:
        return algorithm.credit(replace(batch, rewards=batch.rewards.roll(1)), config)

    return replace(algorithm, credit=credit)


def test_every_method_has_a_learning_test():
    assert sorted(ENOUGH) == plugins.names("algorithms")


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("name", sorted(ENOUGH))
def test_it_learns(name, seed):
    assert achieved(name, learn(name, seed=seed)) >= ENOUGH[name]


@pytest.mark.parametrize("name", sorted(ENOUGH))
def test_the_check_sees_a_learning_rate_of_zero(name):
    assert achieved(name, learn(name, learning_rate=0.0, num_steps=2)) < ENOUGH[name] - 0.1


BUGS = [(n, flipped_sign) for n in sorted(ENOUGH)]
BUGS += [(n, swapped_pairs) for n in ("dpo", "reward_model")]
BUGS += [(n, advantages_of_other_rows) for n in ONLINE]


@pytest.mark.parametrize(("name", "bug"), BUGS, ids=[f"{n}-{b.__name__}" for n, b in BUGS])
def test_the_check_sees_a_planted_bug(name, bug):
    assert achieved(name, learn(name, bug=bug)) < ENOUGH[name] - 0.1


@pytest.mark.parametrize("name", ONLINE)
def test_peer_13_sampler_and_learner_agree_while_no_weight_moves(name):
    run = learn(name, learning_rate=0.0, num_steps=2)
    for metrics in run.history:
        assert abs(metrics["policy/ratio_gap_mean"]) < 1e-5
        assert metrics["mismatch/logprob_gap_mean"] < 1e-5
