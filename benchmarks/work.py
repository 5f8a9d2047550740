"""What is measured: the shapes, their texts and ids, and the FLOPs that nobody can avoid."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

MODEL = "smollm2-135m-instruct"
LEARNING_RATE = 1e-5
MAX_GRAD_NORM = 1.0
BETA = 0.1

# Each is one token with a leading space, and one without at the start of a text: the texts that TRL
# tokenizes have exactly as many tokens as they have words.
_WORDS = """the of and to in is that for it as was with be by on not but at are this have from or had an they
which one you were all her there would their we him been has when who will no more if out so said what up its
about into than them can only other time new some could these two may first then do any like my now over such
our man me even most made after also did many must before back through years where much your way well down
should because each just those people how too little good very make world still see own work long here get
both between""".split()  # noqa: SIM905


@dataclass(frozen=True, slots=True)
class Tree:
    """A prompt of so many tokens and the completions that follow it."""

    prompt: int
    completions: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Work:
    """A piece of work. `kind` is sft, dpo, grpo, iteration or sampling; `eos` adds a token to each row."""

    name: str
    title: str
    kind: str
    trees: tuple[Tree, ...]
    eos: bool = False  # the trainer ends each text with the stop token, which is trained too
    peers: tuple[str, ...] = ("best", "default")

    def lengths(self) -> list[tuple[int, list[int]]]:
        """Return (prompt tokens, completion tokens with the stop token) of each tree."""
        return [(t.prompt, [c + self.eos for c in t.completions]) for t in self.trees]

    def texts(self) -> list[tuple[str, list[str]]]:
        """Return each tree's prompt and completions; a completion begins with a space."""
        rng = random.Random(0)
        return [(_text(rng, t.prompt), [f" {_text(rng, c)}" for c in t.completions]) for t in self.trees]

    def rewards(self) -> list[float]:
        """Return a reward for each row: fixed, not all equal in any group."""
        return [float((3 * i) % 7) for t in self.trees for i, _ in enumerate(t.completions)]


def _text(rng: random.Random, num_tokens: int) -> str:
    return " ".join(rng.choices(_WORDS, k=num_tokens))


def works() -> dict[str, Work]:
    """Return every piece of work by name."""
    rng = random.Random(1)
    rows = tuple(Tree(rng.randint(20, 160), (rng.randint(40, 280),)) for _ in range(8))
    pairs = tuple(Tree(rng.randint(180, 220), (rng.randint(80, 120), rng.randint(80, 120))) for _ in range(4))
    group = Tree(256, (64,) * 8)
    iteration = "GRPO iteration with generation, 4 prompts, G = 8, 256 + 64"
    sampling = "generation, 8 prompts x 8 completions, 256 + 64"
    listed = [
        Work("sft", "SFT step, 8 rows of 60 to 440 tokens", "sft", rows, eos=True),
        Work("dpo", "DPO step, 4 pairs, prompts about 200, completions about 100", "dpo", pairs, eos=True),
        Work("grpo", "GRPO training step, G = 8, 256 + 64", "grpo", (group,)),
        Work("iteration", iteration, "iteration", (group,) * 4),
        Work("sampling", sampling, "sampling", (group,) * 8, peers=("best",)),
        Work("long8", "", "grpo", (Tree(1024, (64,) * 8),), peers=()),
        Work("long32", "", "grpo", (Tree(1024, (64,) * 32),), peers=()),
    ]
    return {w.name: w for w in listed}


@dataclass(frozen=True, slots=True)
class Dimensions:
    """What the FLOP counts need to know of a decoder."""

    num_layers: int
    hidden: int
    intermediate: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocabulary: int

    def trunk(self) -> int:
        """Return the matrix parameters of all layers, without embeddings and LM head."""
        attention = self.hidden * self.head_dim * 2 * (self.num_heads + self.num_kv_heads)
        return self.num_layers * (attention + 3 * self.hidden * self.intermediate)

    def head(self) -> int:
        """Return the parameters of the LM head."""
        return self.hidden * self.vocabulary


@dataclass(frozen=True, slots=True)
class Floor:
    """The least work: every prefix once, the head only where the next token is trained or drawn."""

    trunk_tokens: int
    head_tokens: int
    flops: float


def floor(work: Work, model: Dimensions) -> Floor:
    """Return a work's floor: 6 x parameters x tokens for training, 2 x for generation, and attention."""
    trunk = head = pairs = 0
    for prompt, completions in work.lengths():  # nothing reads the state of a row's last token
        trunk += prompt + sum(c - 1 for c in completions)
        head += sum(completions)
        pairs += _causal(0, prompt) + sum(_causal(prompt, c - 1) for c in completions)
    forward = 2 * (model.trunk() * trunk + model.head() * head)
    forward += 4 * model.num_layers * model.num_heads * model.head_dim * pairs
    passes = {"sampling": 1, "iteration": 4}.get(work.kind, 3)
    return Floor(trunk, head, float(passes * forward))


def _causal(before: int, length: int) -> int:
    """Return the query-key pairs of `length` tokens that follow `before` others."""
    return length * before + length * (length + 1) // 2


def median(values: Sequence[float]) -> float:
    """Return the middle value, or the mean of the two in the middle."""
    ordered, half = sorted(values), len(values) // 2
    return ordered[half] if len(values) % 2 else (ordered[half - 1] + ordered[half]) / 2
