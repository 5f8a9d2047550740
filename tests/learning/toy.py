"""A toy task that every method learns through the real loop in seconds, and bugs to plant in a method.

The task: a prompt is one token p, and good completions repeat the token p + 1. Online methods are paid
the share of the room they fill with it; pairs prefer it; demonstrations come from a known teacher.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from truing import plugins
from truing.train.loop import train
from truing.train.reference_point import reference_point
from truing.types import Algorithm, Batch, Outputs, Term, Unit

VOCAB, EOS, WIDTH, PROMPTS = 7, 6, 6, 4
NextLogprobs = Callable[[Tensor, Tensor], Tensor]  # (prompts, tokens so far) -> log-probs [B, VOCAB]


class Network(nn.Module):
    """A GRU over prompt and completion; `head` gives logits, or one number a token."""

    def __init__(self, outputs: int, hidden: int = 32) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCAB, 16)
        self.body = nn.GRU(16, hidden, batch_first=True)
        self.head = nn.Linear(hidden, outputs)

    def forward(self, prompts: Tensor, completions: Tensor) -> Tensor:
        """Return the head's output before each completion token, and after the last: [B, C + 1, outputs]."""
        return self.head(self.states(prompts, completions))

    def states(self, prompts: Tensor, completions: Tensor) -> Tensor:
        return self.body(self.embed(torch.cat([prompts, completions], 1)))[0]


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
        self.process = copy.deepcopy(self.policy)  # of methods with an implicit process reward model
        networks = nn.ModuleList([self.policy, self.critic, self.scorer, self.process])
        self.length_head = nn.Linear(self.scorer.head.in_features, 1)  # beside the scorer's own
        self.numbers = nn.ParameterDict({"tie": torch.zeros(())})
        self.parameters = [*networks.parameters(), *self.length_head.parameters(), *self.numbers.values()]
        self.optimizer = torch.optim.Adam(self.parameters, self.learning_rate)

    def forward(self, batch: Batch, needs: frozenset[str]) -> Outputs:
        prompts, found = prompt_ids(batch), dict[str, Tensor]()
        if needs & {"logprobs", "entropy"}:
            logprobs = self.policy(prompts, batch.completions)[:, :-1].log_softmax(-1)
            found["logprobs"] = logprobs.gather(-1, batch.completions[..., None])[..., 0]
            found["entropy"] = -(logprobs.exp() * logprobs).sum(-1)
        if "sharp_logprobs" in needs:
            sharp = (2 * logprobs.detach()).log_softmax(-1)
            found["sharp_logprobs"] = sharp.gather(-1, batch.completions[..., None])[..., 0]
        if "process_logprobs" in needs:
            process = self.process(prompts, batch.completions)[:, :-1].log_softmax(-1)
            found["process_logprobs"] = process.gather(-1, batch.completions[..., None])[..., 0]
        if "values" in needs:
            found["values"] = self.critic(prompts, batch.completions)[:, :-1, 0]
        if needs & {"scores", "token_scores"}:
            scores = self.scorer(prompts, batch.completions)[..., 0]
            found["scores"] = scores.gather(1, batch.lengths[:, None])[:, 0]
            found["token_scores"] = scores[:, 1:]
        if "length_scores" in needs:
            found["length_scores"] = self._length_scores(batch, prompts)
            overlap = (self.scorer.head.weight * self.length_head.weight).sum().abs()
            return Outputs(**{k: v for k, v in found.items() if k in needs}, head_overlap=overlap)
        if "parameters" in needs:
            found["parameters"] = dict(self.numbers)
        return Outputs(**{k: v for k, v in found.items() if k in needs})

    def _length_scores(self, batch: Batch, prompts: Tensor) -> Tensor:
        states = self.length_head(self.scorer.states(prompts, batch.completions))[..., 0]
        return states.gather(1, batch.lengths[:, None])[:, 0]

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


def next_logprobs(learner: Learner, prompts: Tensor, tokens: Tensor) -> Tensor:
    return learner.policy(prompts[:, None], tokens)[:, -1].log_softmax(-1)


@torch.no_grad()
def drawn(prompts: Tensor, logprobs_of: NextLogprobs) -> tuple[Tensor, Tensor]:
    """Return WIDTH tokens of each prompt, drawn one by one, and their log-probs."""
    tokens, logprobs = torch.zeros(len(prompts), 0, dtype=torch.long), []
    for _ in range(WIDTH):
        now = logprobs_of(prompts, tokens)
        new = torch.multinomial(now.exp(), 1)
        tokens = torch.cat([tokens, new], 1)
        logprobs.append(now.gather(1, new))
    return tokens, torch.cat(logprobs, 1)


def rollouts(
    learner: Learner, num_prompts: int, group_size: int, opponent: NextLogprobs | None = None
) -> Batch:
    """Sample a group for each prompt, up to EOS, and reward the share of WIDTH that holds p + 1.

    An opponent draws the second half of each group.
    """
    groups = torch.arange(num_prompts).repeat_interleave(group_size)
    prompts, theirs = groups % PROMPTS, torch.arange(len(groups)) % group_size >= group_size // 2

    def logprobs_of(prompts: Tensor, tokens: Tensor) -> Tensor:
        own = next_logprobs(learner, prompts, tokens)
        return own if opponent is None else torch.where(theirs[:, None], opponent(prompts, tokens), own)

    tokens, logprobs = drawn(prompts, logprobs_of)
    return rewarded(
        prompts, tokens, groups=groups, sampler_logprobs=logprobs,
        by_opponent=None if opponent is None else theirs,
    )  # fmt: skip


def rewarded(prompts: Tensor, tokens: Tensor, **fields: Any) -> Batch:
    """Return the batch of these tokens up to EOS, with their rewards."""
    ended = tokens == EOS
    lengths = torch.where(ended.any(-1), ended.long().argmax(-1) + 1, WIDTH)
    batch = make_batch(prompts, tokens, lengths, truncated=~ended.any(-1), **fields)
    right = (batch.completions == prompts[:, None] + 1) & batch.mask
    return replace(batch, rewards=right.sum(-1) / WIDTH)


def greedy_rewards(learner: Learner, prompts: Tensor) -> Tensor:
    """Return the reward of the likeliest token after the other: the baseline of ReMax."""

    def likeliest(prompts: Tensor, tokens: Tensor) -> Tensor:
        now = next_logprobs(learner, prompts, tokens)
        return torch.where(now == now.amax(-1, keepdim=True), 0.0, -torch.inf)

    return rewarded(prompts, drawn(prompts, likeliest)[0], groups=torch.arange(len(prompts))).rewards


def mixed_groups(batch: Batch, low: float, high: float) -> Batch:
    """Return the first 8 groups whose share of right completions is in [low, high], or the first 8."""
    groups = batch.units()
    shares = [(batch.rewards[group] >= 0.5).float().mean().item() for group in groups]
    kept = [g for g, share in zip(groups, shares, strict=True) if low <= share <= high]
    return batch.rows(torch.tensor([row for group in (kept or groups)[:8] for row in group]))


TOLD = 2  # where the environment speaks in a conversation of two turns: tokens 0-1, then 3-5


def two_turns(learner: Learner, num_prompts: int, group_size: int) -> Batch:
    """Sample conversations: two tokens, one that the environment tells, three more.

    The first turn is paid for p + 1; the second, whose reward is the conversation's, for told + 1.
    """
    groups = torch.arange(num_prompts).repeat_interleave(group_size)
    prompts = groups % PROMPTS
    environment = torch.tensor([1.0] * PROMPTS + [0.0] * (VOCAB - PROMPTS)).div(PROMPTS).log()

    def logprobs_of(prompts: Tensor, tokens: Tensor) -> Tensor:
        speaks = tokens.shape[1] == TOLD
        return environment.expand(len(prompts), -1) if speaks else next_logprobs(learner, prompts, tokens)

    tokens, logprobs = drawn(prompts, logprobs_of)
    batch = make_batch(prompts, tokens, torch.full_like(prompts, WIDTH), groups=groups)
    paid = torch.full(tokens.shape, torch.nan)
    paid[:, TOLD - 1] = (tokens[:, :TOLD] == prompts[:, None] + 1).float().mean(-1)
    paid[:, -1] = (tokens[:, TOLD + 1 :] == tokens[:, TOLD : TOLD + 1] + 1).float().mean(-1)
    turns = torch.tensor([0, 0, -1, 1, 1, 1]).repeat(len(prompts), 1)
    return replace(
        batch, mask=turns >= 0, turns=turns, turn_rewards=paid, rewards=paid[:, -1],
        truncated=torch.zeros(len(prompts), dtype=torch.bool),
        sampler_logprobs=torch.where(turns >= 0, logprobs, torch.nan),
    )  # fmt: skip


def noisy(prompts: Tensor, share: float) -> Tensor:
    """Return completions whose tokens are p + 1 with this probability, and any token otherwise."""
    right = torch.rand(len(prompts), WIDTH) < share
    return torch.where(right, prompts[:, None] + 1, torch.randint(0, VOCAB, (len(prompts), WIDTH)))


def pairs(num_rows: int) -> Batch:
    num = num_rows // 2
    prompts = torch.randint(0, PROMPTS, (num,)).repeat(2)
    tokens = torch.cat([noisy(prompts[:num], 0.85), noisy(prompts[:num], 0.0)])
    lengths = torch.randint(4, WIDTH + 1, (2 * num,))
    return make_batch(prompts, tokens, lengths, groups=torch.arange(num).repeat(2), paired=True)


def unpaired(num: int) -> Batch:
    prompts, good = torch.randint(0, PROMPTS, (num,)), torch.arange(num) % 2 == 0
    tokens = torch.where(good[:, None], noisy(prompts, 0.85), noisy(prompts, 0.0))
    lengths = torch.randint(4, WIDTH + 1, (num,))
    return make_batch(prompts, tokens, lengths, groups=torch.arange(num), labels=good.float())


TEACHER = 0.8  # probability of p + 1 instead of any token, so the entropy is known
ENTROPY = float(torch.special.entr(torch.tensor([TEACHER + 0.2 / VOCAB] + [0.2 / VOCAB] * 6)).sum())


def demonstrations(num: int) -> Batch:
    prompts = torch.randint(0, PROMPTS, (num,))
    lengths = torch.randint(2, WIDTH + 1, (num,))
    return make_batch(prompts, noisy(prompts, TEACHER), lengths, groups=torch.arange(num))


def self_play(learner: Learner, num: int) -> Batch:
    """Pair demonstrations with the learner's own samples of the same prompts and lengths."""
    shown = demonstrations(num)
    tokens, logprobs = drawn(prompt_ids(shown)[:, 0], lambda p, t: next_logprobs(learner, p, t))
    differ = ((tokens != shown.completions) & shown.mask).any(-1)
    both = make_batch(
        prompt_ids(shown)[:, 0].repeat(2), torch.cat([shown.completions, tokens]), shown.lengths.repeat(2),
        groups=torch.arange(num).repeat(2), paired=True, by_opponent=torch.arange(2 * num) < num,
        sampler_logprobs=torch.cat([torch.full_like(logprobs, torch.nan), logprobs]),
    )  # fmt: skip
    return both.rows(differ.repeat(2).nonzero().flatten())


class Teacher:
    """The policy behind `demonstrations`, exactly; implements a learner's `forward`."""

    def forward(self, batch: Batch, needs: frozenset[str]) -> Outputs:
        right = batch.completions == prompt_ids(batch) + 1
        return Outputs(logprobs=((1 - TEACHER) / VOCAB + TEACHER * right).log())


def graded(num_groups: int, size: int) -> Batch:
    """Return completions in which a share of the tokens, drawn for each completion, is p + 1."""
    groups = torch.arange(num_groups).repeat_interleave(size)
    prompts = torch.randint(0, PROMPTS, (num_groups,))[groups]
    right = torch.rand(len(prompts), WIDTH) < torch.rand(len(prompts), 1)
    tokens = torch.where(right, prompts[:, None] + 1, torch.randint(0, VOCAB, (len(prompts), WIDTH)))
    return make_batch(prompts, tokens, torch.full((len(prompts),), WIDTH), groups=groups)


def right_tokens(batch: Batch) -> Tensor:
    """Return where a completion has p + 1: 1 or 0 of each token."""
    return ((batch.completions == prompt_ids(batch) + 1) & batch.mask).float()


def rankings(num: int, noise: float = 0.0) -> Batch:
    """Rank four completions by how many tokens are right, as judges with this noise see it; some tie."""
    batch = graded(num // 4, 4)
    seen = (right_tokens(batch).sum(-1) + noise * torch.randn(len(batch))).round().view(-1, 4)
    return replace(batch, ranks=1 + (seen[:, None, :] > seen[:, :, None]).sum(-1).flatten())


def steps(num: int, noise: float = 0.0) -> Batch:
    """Label two steps of three tokens by whether most of the step's tokens are right."""
    batch = graded(num, 1)
    right = right_tokens(batch).view(num, 2, WIDTH // 2).sum(-1)
    labels = torch.full((num, WIDTH), torch.nan)
    labels[:, [WIDTH // 2 - 1, WIDTH - 1]] = (right + noise / 2 * torch.randn(num, 2) > WIDTH / 4).float()
    return replace(batch, step_labels=labels)


DATA: dict[str, Callable[[int], Batch]] = {
    "demonstrations": demonstrations, "pairs": pairs, "unpaired": unpaired, "rankings": rankings, "steps": steps,
}  # fmt: skip


@dataclass
class ToyRun:
    """Implements `truing.train.run.Run` in memory."""

    algorithm: Algorithm
    config: Any
    learner: Learner
    num_steps: int
    seed: int
    num_minibatches: int = 1
    group_size: int = 8
    two_turns: bool = False
    staleness: int = 0  # how many steps the sampler's weights are behind
    data: Callable[[int], Batch] | None = None  # what gives this many rows, in place of DATA
    watch: Callable[[ToyRun], float] | None = None  # what docs/curves.py draws
    curve: list[tuple[int, float]] = field(default_factory=list)
    first_step: int = 0
    micro_batch_tokens: int = 200

    def __post_init__(self) -> None:
        self.reference = Teacher() if self.config.reference_required else copy.deepcopy(self.learner)
        self._versions = [copy.deepcopy(self.learner)]
        self._sums, self._updates, self.history = dict[str, Tensor](), 0, list[Mapping[str, float]]()

    def collect(self, step: int) -> Batch:
        torch.manual_seed(10_000 * self.seed + step)
        if self.config.data == "prompts":
            if self.two_turns or "turn_rewards" in self.config.needs():
                return two_turns(self.learner, 8, self.group_size)
            if hasattr(self.config, "accuracy_low"):
                many = rollouts(self.learner, 64, self.group_size)
                return mixed_groups(many, self.config.accuracy_low, self.config.accuracy_high)
            sampler = self._versions[0] if self.staleness else self.learner
            batch = rollouts(sampler, 8, self.group_size, self.opponent())
            if "baselines" not in self.config.needs():
                return batch
            return replace(batch, baselines=greedy_rewards(sampler, prompt_ids(batch)[:, 0]))
        if self.config.self_play:
            return self_play(self.learner, 32)
        return (self.data or DATA[self.config.data])(64)

    def opponent(self) -> NextLogprobs | None:
        """Return the policy that draws half of each group, where the method has one."""
        if self.config.opponent == "none":
            return None
        share = 1.0 if self.config.opponent == "reference" else self.config.mixture

        def logprobs_of(prompts: Tensor, tokens: Tensor) -> Tensor:
            own, fixed = (next_logprobs(who, prompts, tokens) for who in (self.learner, self.reference))
            return ((1 - share) * own + share * fixed).log_softmax(-1)

        return logprobs_of

    @torch.no_grad()
    def annotate(self, batch: Batch, needs: frozenset[str]) -> Batch:
        if self.config.data == "prompts" or "old_logprobs" in needs:
            old = self.learner.forward(batch, needs | {"logprobs"})
            batch = replace(
                batch, old_logprobs=old.logprobs, old_values=old.values,
                old_process_logprobs=old.process_logprobs,
            )  # fmt: skip
            if "old_entropy" in needs:
                batch = replace(batch, old_entropy=old.entropy)
        if "old_scores" in needs:
            old = self.learner.forward(batch, frozenset({"scores", "length_scores"}))
            batch = replace(batch, old_scores=old.scores, old_length_scores=old.length_scores)
        if "ref_logprobs" in needs:
            ref = self.reference.forward(batch, frozenset({"logprobs"}))
            batch = replace(batch, ref_logprobs=ref.logprobs)
        if "reference_point" in needs:
            point = reference_point(batch, self._logprobs(self.learner), self._logprobs(self.reference))
            batch = replace(batch, reference_point=point)
        return batch

    @staticmethod
    def _logprobs(learner: Learner) -> Callable[[Batch], Tensor]:
        return lambda batch: learner.forward(batch, frozenset({"logprobs"})).require("logprobs")

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
        """The sampler reads the learner's weights, or those of `staleness` steps ago."""
        if self.staleness:
            self._versions = [*self._versions, copy.deepcopy(self.learner)][-self.staleness - 1 :]

    def observe(self, step: int, batch: Batch, metrics: Mapping[str, float]) -> None:
        self.history.append(metrics)
        if self.watch is not None and (step < 3 or step % 5 == 4):
            self.curve.append((step + 1, self.watch(self)))


def learn(
    name: str,
    *,
    options: Mapping[str, Any] | None = None,
    seed: int = 0,
    learning_rate: float = 2e-2,
    num_steps: int = 50,
    num_minibatches: int | None = None,
    group_size: int = 8,
    two_turns: bool = False,
    staleness: int = 0,
    bug: Callable[[Algorithm], Algorithm] | None = None,
    data: Callable[[int], Batch] | None = None,
    watch: Callable[[ToyRun], float] | None = None,
) -> ToyRun:
    """Train a fresh toy network with the method; online methods make two updates of a batch by default."""
    algorithm = plugins.load("algorithms", name).ALGORITHM
    torch.manual_seed(seed)
    learner, config = Learner(learning_rate), algorithm.config(**(options or {}))
    run = ToyRun(
        bug(algorithm) if bug else algorithm, config, learner, num_steps=num_steps, seed=seed,
        num_minibatches=num_minibatches or (2 if config.data == "prompts" or config.self_play else 1),
        group_size=group_size, two_turns=two_turns, staleness=staleness,
        data=data, watch=watch,
    )  # fmt: skip
    if watch is not None:
        run.curve.append((0, watch(run)))
    train(run)
    return run


@dataclass(frozen=True)
class Case:
    """How a test trains a method, what it measures and what is enough; docs/curves.py draws the same."""

    method: str
    measure: Callable[[ToyRun], float]
    enough: float
    how: Mapping[str, Any] = field(default_factory=dict)

    def train(self, **changes: Any) -> ToyRun:
        """Train it as usual, but for the changes; changed options are laid over the usual ones."""
        options = {**self.how.get("options", {}), **changes.pop("options", {})}
        return learn(self.method, **{**self.how, "options": options, **changes})

    def achieved(self, **changes: Any) -> float:
        """Return what it reaches, with these changes."""
        return self.measure(self.train(**changes))


@torch.no_grad()
def mean_reward(run: ToyRun) -> float:
    """Return the mean reward of fresh rollouts; the best policy's is 1."""
    torch.manual_seed(999)
    return rollouts(run.learner, num_prompts=64, group_size=4).rewards.mean().item()


@torch.no_grad()
def turn_rewards(run: ToyRun) -> tuple[float, float]:
    """Return the mean rewards of both turns of fresh conversations; the best policy has 1 and 1."""
    torch.manual_seed(999)
    paid = two_turns(run.learner, num_prompts=64, group_size=4).turn_rewards
    return paid[:, TOLD - 1].mean().item(), paid[:, -1].mean().item()


@torch.no_grad()
def pair_accuracy(run: ToyRun, *, by: str) -> float:
    """Return how many of 1,000 held-out pairs are ranked right.

    By "scores" of the reward model, by "logprobs" a token, or by the "log_ratio" to the start.
    """
    torch.manual_seed(999)
    batch = pairs(2000)
    if by == "scores":
        rows = run.learner.forward(batch, frozenset({"scores"})).scores
    else:
        needs = frozenset({"logprobs"})
        logprobs = run.learner.forward(batch, needs).logprobs * batch.mask
        rows = logprobs.sum(-1) / batch.lengths
        if by == "log_ratio":
            rows = ((logprobs - run.reference.forward(batch, needs).logprobs) * batch.mask).sum(-1)
    chosen, rejected = rows.chunk(2)
    return (chosen > rejected).float().mean().item()


def by_scores(run: ToyRun) -> float:
    """Return `pair_accuracy` by the reward model's scores."""
    return pair_accuracy(run, by="scores")


def by_logprobs(run: ToyRun) -> float:
    """Return `pair_accuracy` by the log-prob of a token."""
    return pair_accuracy(run, by="logprobs")


def by_log_ratio(run: ToyRun) -> float:
    """Return `pair_accuracy` by the log-ratio to the start."""
    return pair_accuracy(run, by="log_ratio")


@torch.no_grad()
def imitation(run: ToyRun) -> float:
    """Return the teacher's entropy over the policy's held-out loss; the teacher itself has 1."""
    torch.manual_seed(999)
    batch = demonstrations(8000)
    logprobs = run.learner.forward(batch, frozenset({"logprobs"})).logprobs[batch.mask]
    return ENTROPY / -logprobs.mean().item()


def swapped_labels(algorithm: Algorithm) -> Algorithm:
    def credit(batch: Batch, config: Any) -> Batch:
        return algorithm.credit(replace(batch, labels=1 - batch.labels), config)

    return replace(algorithm, credit=credit)


def flipped_sign(algorithm: Algorithm) -> Algorithm:
    def loss(outputs: Outputs, batch: Batch, config: Any) -> list[Term]:
        return [replace(t, weight=-t.weight) for t in algorithm.loss(outputs, batch, config)]

    return replace(algorithm, loss=loss)


def swapped_pairs(algorithm: Algorithm) -> Algorithm:
    def credit(batch: Batch, config: Any) -> Batch:
        num_pairs = len(batch) // 2
        return algorithm.credit(batch.rows(torch.arange(2 * num_pairs).roll(num_pairs)), config)

    return replace(algorithm, credit=credit)


def advantages_of_other_rows(algorithm: Algorithm) -> Algorithm:
    def credit(batch: Batch, config: Any) -> Batch:
        return algorithm.credit(replace(batch, rewards=batch.rewards.roll(1)), config)

    return replace(algorithm, credit=credit)
