"""What draws completions: the interface that training, evaluation and search use."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from truing.errors import ConfigError
from truing.types import Completion


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How completions are drawn.

    Args:
        max_tokens: most completion tokens of a row, the stop token counted.
        stop_token_ids: ids that end a completion; the one that did is its last token.
        temperature: of softmax(logits / temperature); 0 takes the likeliest token.
        top_p: draw from the smallest set of likeliest tokens that holds this probability; 1 is all.
        top_k: draw from this many likeliest tokens; 0 is all. Both are for evaluation: a policy
            gradient needs the distribution that was drawn from, and sampler_logprobs are of the
            full softmax whatever top_p and top_k cut away.
        seed: a token's random number is a function of (seed, prompt's index, sample's index, position).

    Raises:
        ConfigError: a value is outside its range.
    """

    max_tokens: int
    stop_token_ids: tuple[int, ...]
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        wrong = [
            text
            for bad, text in (
                (self.max_tokens < 1, f"max_tokens is {self.max_tokens}; it must be at least 1"),
                (
                    not 0 <= self.temperature < float("inf"),
                    f"temperature is {self.temperature}; it must be 0 or more",
                ),
                (not 0 < self.top_p <= 1, f"top_p is {self.top_p}; it must be in (0, 1]"),
                (self.top_k < 0, f"top_k is {self.top_k}; it must be 0 (all) or more"),
                (self.seed < 0, f"seed is {self.seed}; it must be 0 or more"),
            )
            if bad
        ]
        if wrong:
            raise ConfigError(f"sampling: {'; '.join(wrong)}")


@runtime_checkable
class Sampler(Protocol):
    """What draws completions of tokenised prompts with the weights of the last `publish`."""

    def generate(
        self, prompts: Sequence[Sequence[int]], params: SamplingParams, *, num_samples: int = 1
    ) -> list[list[Completion]]:
        """Return `num_samples` completions of each prompt, in the order of the prompts.

        Every completion bears the policy_version whose weights drew it, its tokens with the stop
        token, and sampler_logprobs: log softmax(logits / temperature) of each token, in float32
        (of softmax(logits) at temperature 0).

        Raises:
            ModelError: a prompt is empty, longer than the model's positions allow, or has ids that
                the model does not know.
        """
        ...

    def publish(self, version: int) -> None:
        """Take the learner's weights as they are now and stamp what they draw with this version."""
        ...
