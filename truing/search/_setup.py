"""From a checked plan to what runs it: sampler, prompts, verifier, scorer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from truing import plugins
from truing.config import Data
from truing.data.readers import read_rows
from truing.data.records import prompt_tokens, prompts
from truing.errors import ModelError
from truing.model.load import Loaded, eos_token_ids, load_model, load_tokenizer
from truing.model.scalar import load_scalar
from truing.rewards import RewardTerm
from truing.rollout.hf import HFSampler
from truing.rollout.sampler import Sampler
from truing.search._engine import Engine, Scorer
from truing.search._plan import Sampling, ScorerOptions, plugin_options
from truing.search._scorers import OutcomeScorer, ProcessScorer, VerifierScorer
from truing.search._steps import Grammar, grammar_of
from truing.train.build import pick_device, pick_dtype
from truing.types import Prompt


@dataclass(frozen=True, slots=True)
class Setting:
    """The prompts of a plan, and the policy and the verifier that meet them."""

    policy: Loaded
    sampler: Sampler
    grammar: Grammar
    prompts: Sequence[Prompt]
    prompt_tokens: Sequence[tuple[int, ...]]
    verifier: RewardTerm

    def engine(self, plan: Sampling, scorer: Scorer | None = None, **how: Any) -> Engine:
        """Return what runs searches on them."""
        return Engine(
            self.sampler, self.grammar, scorer, max_tokens=plan.max_tokens,
            max_step_tokens=plan.max_step_tokens, temperature=plan.temperature, **how,
        )  # fmt: skip


def set_up(plan: Sampling) -> Setting:
    """Load the policy and the prompts of a plan.

    Raises:
        ConfigError: an option is wrong, or no token ends with the separator.
        DataError: the data cannot be read.
        ModelError: the model cannot be loaded.
    """
    verifier = verifier_of(plan.verifier, plan.options, "options")
    policy = load_model(plan.model, device=pick_device(plan.device))
    data = Data(train=plan.data, limit=plan.limit, max_prompt_tokens=1_000_000)
    found, _ = prompts(read_rows(plan.data, limit=plan.limit), policy.tokenizer, data)
    stops = eos_token_ids(policy.model, policy.tokenizer)
    return Setting(
        policy=policy,
        sampler=sampler_of(policy, plan),
        grammar=grammar_of(policy.tokenizer, stops, plan.separator),
        prompts=found,
        prompt_tokens=[prompt_tokens(policy.tokenizer, p) for p in found],
        verifier=verifier,
    )


def sampler_of(policy: Loaded, plan: Sampling) -> Sampler:
    """Return what draws with a policy."""
    return HFSampler(policy.model, policy.tokenizer, dtype=pick_dtype(plan.dtype, pick_device(plan.device)))


def verifier_of(name: str, options: dict[str, Any], where: str) -> RewardTerm:
    """Return a verifier with its checked options."""
    config = plugin_options("verifiers", name, options, where)
    return RewardTerm(name, 1.0, plugins.load("verifiers", name).verify, config)


def scorer_of(options: ScorerOptions, setting: Setting, plan: Sampling) -> Scorer:
    """Return what scores paths.

    Raises:
        ModelError: the reward model knows other tokens than the policy.
    """
    if options.verifier is not None:
        term = verifier_of(options.verifier, options.options, "scorer.options")
        return VerifierScorer(term, setting.prompts, setting.grammar)
    assert options.model is not None
    device = pick_device(plan.device)
    network = load_scalar(options.model, dtype=pick_dtype(plan.dtype, device), device=device)
    require_same_tokens(setting.policy, options.model)
    network.eval().requires_grad_(False)
    ids, max_tokens = [tuple(t) for t in setting.prompt_tokens], options.micro_batch_tokens
    if options.kind == "process":
        return ProcessScorer(network, ids, setting.grammar, max_tokens)
    return OutcomeScorer(network, ids, max_tokens)


def require_same_tokens(policy: Loaded, name: str) -> None:
    """Raise where another model reads the policy's ids as other tokens.

    Raises:
        ModelError: the vocabularies differ.
    """
    ours, theirs = policy.tokenizer.get_vocab(), load_tokenizer(name).get_vocab()
    if ours != theirs:
        odd = sorted(set(ours.items()) ^ set(theirs.items()))[:3]
        raise ModelError(
            f"'{name}' has another vocabulary than '{policy.name}' (first differences: {odd}); token ids "
            "travel between them, so they must be trained from one base"
        )
