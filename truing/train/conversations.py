"""Conversations of the sampler with an environment, turn after turn, on token ids.

The ids of a conversation only ever grow: what was read and said, then the ids of the reply. Nothing that
was sampled is tokenised again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from truing.data.chat import render_observation
from truing.environments import Reply
from truing.rollout.sampler import Sampler, SamplingParams
from truing.train.order import seed_of
from truing.train.scoring import Scorer
from truing.types import Completion, Message, Prompt, Rollout, Turn, Verdict

NAN = float("nan")


@dataclass(slots=True)
class Conversation:
    """One conversation as it grows; `tokens` is all that follows the prompt."""

    prompt: Prompt
    prompt_tokens: tuple[int, ...]
    group: int
    messages: list[Message]
    tokens: list[int] = field(default_factory=list)
    sampler_logprobs: list[float] = field(default_factory=list)
    turns: list[Turn] = field(default_factory=list)
    said: list[Completion] = field(default_factory=list)
    replies: list[Reply] = field(default_factory=list)
    is_over: bool = False
    truncated: bool = False

    def hear(self, completion: Completion) -> None:
        """Add a turn of the assistant; one that the length limit cut is the last."""
        start = len(self.tokens)
        self.tokens += completion.tokens
        self.sampler_logprobs += completion.sampler_logprobs
        self.turns.append(Turn(start, len(self.tokens)))
        self.said.append(completion)
        self.messages.append(Message("assistant", completion.text))
        self.is_over = self.truncated = completion.finish_reason == "length"

    def tell(self, tokens: Sequence[int], messages: Sequence[Message]) -> None:
        """Add what the environment said."""
        self.tokens += tokens
        self.sampler_logprobs += [NAN] * len(tokens)
        self.messages += messages

    def text(self) -> str:
        """Return all turns and replies, as a person reads them."""
        later = self.messages[len(self.prompt.messages) :]
        marked = [m.content if i == 0 else f"[{m.role}] {m.content}" for i, m in enumerate(later)]
        return "\n\n".join(marked)


@dataclass(frozen=True, slots=True)
class Conversations:
    """Draws conversations and has them judged.

    Args:
        sampler: what speaks for the policy.
        tokenizer: whose chat template renders the replies.
        reply: what answers; see `truing.environments`.
        config: the environment's options.
        scorer: what judges the turns.
        max_tokens: of a conversation after its prompt.
    """

    sampler: Sampler
    tokenizer: Any
    reply: Callable[[Sequence[Message], Prompt, Any], Reply]
    config: Any
    scorer: Scorer
    max_tokens: int

    def __call__(
        self,
        prompts: Sequence[Prompt],
        prompt_tokens: Sequence[tuple[int, ...]],
        params: SamplingParams,
        groups: Sequence[int],
        group_size: int,
    ) -> list[Rollout]:
        """Return `group_size` conversations of each prompt; the reward of one is its last turn's.

        Args:
            prompts: one a group.
            prompt_tokens: their ids.
            params: of each turn; later turns are drawn from seeds of their own.
            groups: the group's number.
            group_size: conversations of each prompt.
        """
        talks = [
            Conversation(prompt, tuple(ids), group, list(prompt.messages))
            for prompt, ids, group in zip(prompts, prompt_tokens, groups, strict=True)
            for _ in range(group_size)
        ]
        first = self.sampler.generate(prompt_tokens, params, num_samples=group_size)
        drawn = [completion for group in first for completion in group]
        open_talks = talks
        for number in range(1, self.config.max_turns() + 1):
            for talk, completion in zip(open_talks, drawn, strict=True):
                talk.hear(completion)
                if not talk.is_over:
                    self._answer(talk, params.max_tokens, is_last=number == self.config.max_turns())
            open_talks = [talk for talk in talks if not talk.is_over]
            if not open_talks:
                break
            later = replace(params, seed=seed_of(params.seed, "turn", number))
            ids = [(*talk.prompt_tokens, *talk.tokens) for talk in open_talks]
            drawn = [c for (c,) in self.sampler.generate(ids, later)]
        return self._judged(talks)

    def _answer(self, talk: Conversation, turn_tokens: int, *, is_last: bool) -> None:
        """Let the environment answer, where another turn is allowed and fits."""
        found = self.reply(talk.messages, talk.prompt, self.config)
        talk.replies.append(found)
        if is_last or not found.messages:
            talk.is_over = True
            return
        end, ids = render_observation(self.tokenizer, talk.messages, found.messages)
        end_id = self.tokenizer.convert_tokens_to_ids(end)
        if talk.tokens[-1] != end_id:  # another stop token ended the turn: the template's own follows it
            ids = (end_id, *ids)
        if len(talk.tokens) + len(ids) + turn_tokens > self.max_tokens:
            talk.is_over = talk.truncated = True
            return
        talk.tell(ids, found.messages)

    def _judged(self, talks: Sequence[Conversation]) -> list[Rollout]:
        """Return the rollouts; every turn that is judged is scored as an answer to what came before it."""
        places = [(n, turn) for n, talk in enumerate(talks) for turn in self._judged_turns(talk)]
        found = self.scorer(
            [talks[n].prompt for n, _ in places],
            [(*talks[n].prompt_tokens, *talks[n].tokens[: talks[n].turns[turn].start]) for n, turn in places],
            [talks[n].said[turn] for n, turn in places],
            [talks[n].group for n, _ in places],
        )
        of_talk = list[list[Rollout]]([] for _ in talks)
        for (n, turn), scored in zip(places, found, strict=True):
            talks[n].turns[turn] = replace(talks[n].turns[turn], reward=scored.reward)
            of_talk[n].append(scored)
        return [_rollout(talk, scored) for talk, scored in zip(talks, of_talk, strict=True)]

    def _judged_turns(self, talk: Conversation) -> Iterator[int]:
        last = len(talk.turns) - 1
        return iter(range(last + 1) if self.config.judged == "every" else (last,))


def _rollout(talk: Conversation, scored: Sequence[Rollout]) -> Rollout:
    last, reply = scored[-1], talk.replies[-1] if talk.replies else Reply()
    reward, verdicts = last.reward, last.verdicts
    if reply.status == "failed":
        said = f"the environment failed: {reply.evidence}"
        reward, verdicts = None, {name: Verdict("failed", evidence=said) for name in verdicts}
    elif any(s.reward is None for s in scored):
        reward = None
    completion = Completion(
        tokens=tuple(talk.tokens),
        text=talk.text(),
        sampler_logprobs=tuple(talk.sampler_logprobs),
        finish_reason="length" if talk.truncated else "stop",
        policy_version=talk.said[-1].policy_version,
    )
    statuses = [r.status for r in talk.replies]
    facts = {
        **last.facts,
        "environment/turns_per_conversation": float(len(talk.turns)),
        "environment/malformed_per_conversation": float(statuses.count("malformed")),
        "environment/exhausted_per_conversation": float(statuses.count("exhausted")),
        "environment/failed_per_conversation": float(statuses.count("failed")),
    }
    return Rollout(
        talk.prompt, talk.prompt_tokens, completion, talk.group, verdicts, reward, tuple(talk.turns), facts
    )
