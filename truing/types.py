"""The records that every layer shares.

Axes: B rows, C completion tokens (right-padded to the longest row), T packed tokens, N pairs,
P prompts, G group, V vocabulary. A paired batch holds N chosen rows, then the N rejected rows
of the same pairs, so B = 2N. Every tensor of a Batch has B as its first axis.

Replay rows (`Batch.replay`) are demonstrations mixed into another method's batch, after its own rows.
They count only in the unit "replay_token", and the method itself never sees them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

Unit = Literal[
    "token", "chosen_token", "chosen_text_token", "sequence", "desirable", "undesirable", "pair", "prompt",
    "step", "replay_token",
]  # fmt: skip
FinishReason = Literal["stop", "length"]
Status = Literal["scored", "unparsable", "timed_out", "failed", "refused"]


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation; `role` is system, user, assistant or tool."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Prompt:
    """What a completion answers: the messages so far, and what a verifier compares with."""

    uid: str
    messages: tuple[Message, ...]
    reference: Any = None
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Completion:
    """What the sampler made of a prompt. The token ids are the truth; the text is for people.

    Args:
        tokens: ids without the prompt, the stop token included when finish_reason is "stop".
        sampler_logprobs: log-prob of each token as the sampler drew it, at its temperature [nats].
        policy_version: how often the sampler's weights had been published.
    """

    tokens: tuple[int, ...]
    text: str
    sampler_logprobs: tuple[float, ...]
    finish_reason: FinishReason
    policy_version: int = 0


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a verifier or judge says. Only status "scored" has a value; no failure becomes a 0."""

    status: Status
    value: float | None = None
    evidence: str = ""
    time_s: float = 0.0

    def __post_init__(self) -> None:
        if (self.status == "scored") != (self.value is not None):
            raise ValueError(f"a verdict has a value exactly when it is scored: {self}")


@dataclass(frozen=True, slots=True)
class Turn:
    """What the assistant said in one turn of a conversation.

    Args:
        start: place of its first token in the completion; its last is at stop - 1, its stop token or
            where the length limit cut it.
        stop: start + number of tokens.
        reward: of this turn alone; None where it is not judged.
    """

    start: int
    stop: int
    reward: float | None = None


@dataclass(frozen=True, slots=True)
class Rollout:
    """A completion with its prompt's ids, its verdicts by verifier name, and the scalar RL maximises.

    The completion of a conversation is all that follows the prompt: the assistant's turns, which are
    trained, and between them what the environment said, which is not and has sampler_logprobs NaN.
    """

    prompt: Prompt
    prompt_tokens: tuple[int, ...]
    completion: Completion
    group: int
    verdicts: Mapping[str, Verdict]
    reward: float | None  # None when any needed verdict is not "scored": the row is not trained
    turns: tuple[Turn, ...] = ()  # of a conversation; without any, the completion is one turn
    facts: Mapping[str, float] = field(default_factory=dict)  # what was counted beside it, by metric name
    baseline: float | None = None  # reward of the prompt's greedy completion, where one was drawn


@dataclass(frozen=True, slots=True)
class Row:
    """A tokenised training row: a prompt, what follows it, and which of that is trained."""

    uid: str
    prompt_tokens: tuple[int, ...]
    tokens: tuple[int, ...]
    mask: tuple[bool, ...]  # True on the trained tokens of `tokens`
    label: float | None = None  # unpaired feedback: how probably the completion is good, in [0, 1]
    step_labels: tuple[float, ...] | None = None  # aligned with `tokens`; NaN where no labelled step ends


@dataclass(frozen=True, slots=True)
class Pair:
    """A tokenised preference: two rows with one prompt.

    Args:
        margin: how much better the chosen one is [reward units].
        preference: how probably the chosen one is better, in [0, 1]: 1 for certain, 0.5 for a tie.
    """

    uid: str
    chosen: Row
    rejected: Row
    margin: float = 0.0
    preference: float = 1.0


@dataclass(frozen=True, slots=True)
class Ranking:
    """Tokenised completions of one prompt and their ranks: 1 is best, equal ranks are ties."""

    uid: str
    rows: tuple[Row, ...]
    ranks: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Batch:
    """What an algorithm sees of B rows; per-token tensors are aligned with the completions."""

    prompts: tuple[Int[Tensor, " _"], ...]  # ragged prompt ids, one entry a row
    completions: Int[Tensor, "B C"]
    lengths: Int[Tensor, " B"]  # completion tokens of each row, trained or not
    mask: Bool[Tensor, "B C"]  # True on the trained tokens
    groups: Int[Tensor, " B"]  # rows with the same number answer the same prompt
    paired: bool = False
    uids: tuple[str, ...] = ()
    margins: Float[Tensor, " B"] | None = None  # of a paired batch, the same on both sides
    labels: Float[Tensor, " B"] | None = None  # P(row is good); paired: P(chosen is better) on both sides
    ranks: Int[Tensor, " B"] | None = None  # within the group: 1 is best, equal ranks are ties
    step_labels: Float[Tensor, "B C"] | None = None  # P(step is right) on its last token, NaN elsewhere
    truncated: Bool[Tensor, " B"] | None = None  # True when the length limit ended the completion
    rewards: Float[Tensor, " B"] | None = None
    turns: Int[Tensor, "B C"] | None = None  # number of the assistant turn a token is of, from 0
    turn_rewards: Float[Tensor, "B C"] | None = None  # on the last token of each turn, NaN elsewhere
    baselines: Float[Tensor, " B"] | None = None  # reward of the prompt's greedy completion
    by_opponent: Bool[Tensor, " B"] | None = None  # True where another policy drew the completion
    replay: Bool[Tensor, " B"] | None = None  # True on demonstrations mixed in from other data
    sampler_logprobs: Float[Tensor, "B C"] | None = None
    old_logprobs: Float[Tensor, "B C"] | None = None
    old_entropy: Float[Tensor, "B C"] | None = None
    ref_logprobs: Float[Tensor, "B C"] | None = None
    old_values: Float[Tensor, "B C"] | None = None
    old_scores: Float[Tensor, " B"] | None = None  # of the reward model when the batch began
    old_length_scores: Float[Tensor, " B"] | None = None  # of its length head, then
    old_process_logprobs: Float[Tensor, "B C"] | None = None  # of the implicit process reward model, then
    reference_point: Float[Tensor, " B"] | None = None  # KTO's z0 before its clamp, the same on every row
    ref_margins: Float[Tensor, " B"] | None = None  # of the reference, where a credit deals them to pairs
    weights: Float[Tensor, " B"] | None = None  # of rows or pairs, where a method's credit sets them
    length_penalty: Float[Tensor, " B"] | None = None  # ODIN's, less what its slopes add, by credit
    score_slopes: Float[Tensor, " B"] | None = None  # of that penalty in the scores
    length_score_slopes: Float[Tensor, " B"] | None = None  # of that penalty in the length head's scores
    kept_share: Float[Tensor, " B"] | None = None  # of the groups, by credit; the same on every row
    advantages: Float[Tensor, "B C"] | None = None
    returns: Float[Tensor, "B C"] | None = None

    def __len__(self) -> int:
        return len(self.prompts)

    def require(self, name: str) -> Tensor:
        """Return the named tensor, or raise when `annotate` or `credit` did not fill it."""
        value = getattr(self, name)
        if not isinstance(value, Tensor):
            raise ValueError(f"the batch has no {name}; add it to the algorithm's needs")
        return value

    def count(self) -> dict[Unit, Tensor]:
        """Return how many tokens, sequences, pairs, prompts and steps are trained: what divides a Term.

        "chosen_token" counts the tokens of the chosen side; there are none in a batch without pairs.
        "chosen_text_token" adds those of its prompts that something precedes. "desirable" is the sum of the
        labels of unpaired rows, "undesirable" that of 1 - label.
        """
        main = torch.ones_like(self.lengths, dtype=torch.bool) if self.replay is None else ~self.replay
        rows = main.sum().float()
        prompts = torch.tensor(float(len(set(self.groups[main].tolist()))), device=self.mask.device)
        steps = torch.zeros_like(rows)
        if self.step_labels is not None:
            steps = (~self.step_labels.isnan() & main[:, None]).sum().float()
        num_pairs = int(rows) // 2 if self.paired else 0
        chosen = self.mask[:num_pairs].sum().float()
        labels = None if self.paired else self.labels
        good = 0 * rows if labels is None else labels[main].sum().float()
        return {
            "token": self.mask[main].sum().float(),
            "chosen_token": chosen,
            "chosen_text_token": chosen + sum(max(len(p) - 1, 0) for p in self.prompts[:num_pairs]),
            "sequence": rows,
            "desirable": good,
            "undesirable": good if labels is None else rows - good,
            "pair": rows / 2,
            "prompt": prompts,
            "step": steps,
            "replay_token": self.mask[~main].sum().float(),
        }

    def main(self) -> Batch:
        """Return the rows that are not replayed: the batch as the method sees it."""
        if self.replay is None:
            return self
        return replace(self.rows((~self.replay).nonzero()[:, 0]), replay=None)

    def rows(self, index: Int[Tensor, " K"]) -> Batch:
        """Return the selected rows of every field, trimmed to the longest completion among them."""
        picked: dict[str, Any] = {}
        width = int(self.lengths[index].max()) if len(index) else 0
        for f in fields(self):
            value = getattr(self, f.name)
            if isinstance(value, Tensor):
                picked[f.name] = value[index][:, :width] if value.ndim == 2 else value[index]
            elif isinstance(value, tuple) and value:
                picked[f.name] = tuple(value[i] for i in index.tolist())
        return replace(self, **picked)

    def units(self) -> list[list[int]]:
        """Return the row numbers that belong together: the two sides of a pair, a group, a replayed row."""
        if self.paired:
            num_rows = len(self) if self.replay is None else int((~self.replay).sum())
            pairs = [[i, i + num_rows // 2] for i in range(num_rows // 2)]
            return pairs + [[i] for i in range(num_rows, len(self))]
        members: dict[int, list[int]] = {}
        for row, group in enumerate(self.groups.tolist()):
            members.setdefault(group, []).append(row)
        return list(members.values())

    def split(self, max_tokens: int) -> Iterator[Batch]:
        """Yield micro-batches of at most `max_tokens` packed tokens, a shared prompt counted once.

        Groups and pairs stay together. A group larger than the budget is split by rows, which
        changes no gradient; a pair or a ranking never is, as its loss compares its rows, and goes alone.
        """
        for index in self.split_index(max_tokens):
            yield self.rows(index)

    def split_index(self, max_tokens: int) -> Iterator[Int[Tensor, " K"]]:
        """Yield the row numbers of each micro-batch of `split`; together they are every row once."""
        bins: list[tuple[int, list[int]]] = []
        for cost, unit in sorted(self._sized_units(max_tokens), key=lambda x: -x[0]):
            slot = next((i for i, (used, _) in enumerate(bins) if used + cost <= max_tokens), None)
            if slot is None:
                bins.append((cost, unit))
            else:
                bins[slot] = (bins[slot][0] + cost, bins[slot][1] + unit)
        for _, members in bins:  # chosen rows come before rejected ones, in the same order
            yield torch.tensor(sorted(members))

    def _sized_units(self, max_tokens: int) -> Iterator[tuple[int, list[int]]]:
        lengths, groups = self.lengths.tolist(), self.groups.tolist()
        whole = self.paired or self.ranks is not None
        for unit in self.units():  # the sides of a pair may answer two prompts, where a credit re-pairs them
            shared = sum(len(self.prompts[r]) for r in {groups[r]: r for r in unit}.values())
            room, part = max_tokens - shared, list[int]()
            for row in unit:
                used = sum(lengths[r] for r in part)
                if part and not whole and used + lengths[row] > room:
                    yield shared + used, part
                    part = []
                part = [*part, row]
            yield shared + sum(lengths[r] for r in part), part


@dataclass(frozen=True, slots=True)
class Outputs:
    """What the learner's networks say of a batch; values[t] is V before token t, scores[i] the row's."""

    logprobs: Float[Tensor, "B C"] | None = None
    entropy: Float[Tensor, "B C"] | None = None
    values: Float[Tensor, "B C"] | None = None
    scores: Float[Tensor, " B"] | None = None
    token_scores: Float[Tensor, "B C"] | None = None  # the scorer's number after each completion token
    length_scores: Float[Tensor, " B"] | None = None  # a second head's, that may explain length
    head_overlap: Float[Tensor, ""] | None = None  # |w_quality . w_length| of the two heads
    process_logprobs: Float[Tensor, "B C"] | None = None  # of the implicit process reward model
    sharp_logprobs: Float[Tensor, "B C"] | None = None  # at half the temperature, without gradient
    prompt_logprobs: Float[Tensor, " B"] | None = None  # of the prompt's tokens after its first, summed
    parameters: Mapping[str, Float[Tensor, ""]] | None = None  # learned numbers beside the network

    def require(self, name: str) -> Tensor:
        """Return the named tensor, or raise when the algorithm did not declare that it needs it."""
        value = getattr(self, name)
        if not isinstance(value, Tensor):
            raise ValueError(f"the outputs have no {name}; add it to the algorithm's needs")
        return value

    def parameter(self, name: str) -> Tensor:
        """Return a learned number, or raise when the algorithm did not declare that it needs parameters."""
        if self.parameters is None or name not in self.parameters:
            raise ValueError(f"the outputs have no parameter '{name}'; add it to the algorithm's needs")
        return self.parameters[name]

    def rows(self, index: Int[Tensor, " K"], width: int) -> Outputs:
        """Return the selected rows of every field, the first `width` completion tokens of each."""
        picked: dict[str, Any] = {}
        for f in fields(self):
            value = getattr(self, f.name)
            if isinstance(value, Tensor) and value.ndim:
                picked[f.name] = value[index][:, :width] if value.ndim == 2 else value[index]
        return replace(self, **picked)


@dataclass(frozen=True, slots=True)
class Term:
    """One additive part of a loss: a SUM, and the unit whose global count divides it.

    A term of weight 0 is a metric: it gets the same exact division and no gradient.
    """

    name: str
    total: Float[Tensor, ""]
    unit: Unit
    weight: float = 1.0


def _keep(batch: Batch, config: Any) -> Batch:
    return batch


def _same(config: Any, metrics: Mapping[str, float]) -> Any:
    return config


@dataclass(frozen=True, slots=True)
class Algorithm:
    """A method as a record of pure functions; `config` is the class that holds and checks its options."""

    source: str
    config: type[Any]
    loss: Callable[[Outputs, Batch, Any], Sequence[Term]]
    credit: Callable[[Batch, Any], Batch] = _keep  # batch-wide: baselines, advantages, returns
    adapt: Callable[[Any, Mapping[str, float]], Any] = _same  # the next step's config: adaptive KL
