"""The reference policy: the frozen anchor that ref_logprobs come from, always chosen by name."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from truing.errors import ConfigError, ModelError
from truing.model.adapters import disabled_adapter, is_adapted
from truing.model.forward import policy_outputs
from truing.model.load import Loaded, fingerprint, load_model
from truing.model.micro_batches import in_micro_batches, to_device
from truing.model.precision import cast_parameters
from truing.model.ref_cache import cached_logprobs
from truing.types import Batch, Outputs

_PROBE_ROWS = 4
# bfloat16 sums in another order move a log-prob by up to 0.3 nats, float32 by less than 1e-4
_TOLERANCE = {torch.float32: 1e-2, torch.bfloat16: 0.1}


@dataclass(frozen=True, slots=True)
class Reference:
    """Where ref_logprobs come from. `equals_start`: it is the policy as it was before the first update."""

    kind: str
    equals_start: bool
    dtype: torch.dtype
    compute: Callable[[Batch], Tensor]

    def logprobs(self, batch: Batch) -> Float[Tensor, "B C"]:
        """Return the log-prob of each completion token [nats], without gradient, on the batch's device."""
        return self.compute(batch).to(batch.mask.device)


def build_reference(
    kind: str,
    policy: nn.Module,
    *,
    start: Loaded,
    dtype: torch.dtype,
    max_tokens: int,
    data: Batch | None = None,
    temperature: float = 1.0,
    cache_folder: Path | None = None,
) -> Reference:
    """Return the reference of that kind; call it before any update and before a checkpoint is loaded.

    Args:
        kind: "copy", a frozen copy of the policy as it is now; "base", the policy with its adapter off,
            for no extra memory; "cache", the policy's log-probs of `data`, computed once and kept on
            disk; or another model's name.
        policy: the model about to be trained.
        start: where it came from; a named reference must share its vocabulary.
        dtype: of compute, the same as the learner's.
        max_tokens: packed tokens of one forward pass.
        data: every row that will ever be asked for; only "cache" uses it.
        temperature: log-probs are of softmax(logits / temperature), the same as the learner's.
        cache_folder: of "cache"; None is $TRUING_CACHE or ~/.cache/truing, then ref_logprobs/.

    Raises:
        ConfigError: the kind does not fit: "base" without an adapter, "cache" without fixed rows.
        ModelError: the reference is not what it must be: it differs from the start policy, or has
            another vocabulary.
    """
    if kind == "base":
        reference = _base(policy, dtype, max_tokens, temperature)
        _probe(reference, policy, _probe_batch(policy, data), max_tokens, temperature)
        return reference
    if kind == "cache":
        if data is None:
            raise ConfigError(
                "reference = 'cache' needs a fixed data set, and this stage samples its completions; "
                "use 'copy', or 'base' with LoRA"
            )
        reference = _cache(policy, data, dtype, max_tokens, temperature, cache_folder)
        _probe(reference, policy, _probe_batch(policy, data), max_tokens, temperature)
        return reference
    frozen = frozen_copy(policy, dtype) if kind == "copy" else _named(kind, policy, start, dtype)
    return Reference(kind, kind == "copy", dtype, _forward(frozen, max_tokens, temperature))


def check_start(reference: Reference, batch: Batch, logprobs: Float[Tensor, "B C"]) -> float:
    """Return the mean of |logprobs - ref_logprobs| over the trained tokens, at step 0 [nats].

    Args:
        reference: any kind; only those that equal the start policy are held to it.
        batch: rows of the first step.
        logprobs: of the policy, before any update.

    Raises:
        ModelError: the reference must equal the start policy and does not.
    """
    gap = (logprobs.detach().to(batch.mask.device) - reference.logprobs(batch)).abs()[batch.mask]
    mean = float(gap.mean()) if gap.numel() else 0.0
    if reference.equals_start and not mean <= _TOLERANCE[reference.dtype]:  # also when it is NaN
        raise ModelError(
            f"the reference '{reference.kind}' is not the policy that training starts from: log-probs differ "
            f"by {mean:.3g} nats a token on average (allowed {_TOLERANCE[reference.dtype]}). With 'base' the "
            "policy carries a trained adapter: merge it first (truing.model.adapters.merged), or use 'copy'. "
            "Build the reference before a checkpoint is loaded."
        )
    return mean


@torch.no_grad()
def frozen_copy(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Return a deep copy in eval mode that takes no gradient, its parameters in the compute dtype."""
    frozen = copy.deepcopy(model).requires_grad_(False).eval()
    cast_parameters(frozen, dtype)
    return frozen


def _forward(model: nn.Module, max_tokens: int, temperature: float) -> Callable[[Batch], Tensor]:
    def outputs(batch: Batch) -> Outputs:
        device = next(model.parameters()).device
        return Outputs(policy_outputs(model, to_device(batch, device), temperature=temperature)[0])

    return lambda batch: in_micro_batches(batch, max_tokens, outputs).require("logprobs")


def _base(policy: nn.Module, dtype: torch.dtype, max_tokens: int, temperature: float) -> Reference:
    if not is_adapted(policy):
        raise ConfigError(
            "reference = 'base' is the policy with its LoRA adapter off, and this policy has none; "
            "set learner.lora, or use 'copy' or 'cache'"
        )
    forward = _forward(policy, max_tokens, temperature)

    def compute(batch: Batch) -> Tensor:
        with disabled_adapter(policy):
            return forward(batch)

    return Reference("base", True, dtype, compute)


def _cache(
    policy: nn.Module,
    data: Batch,
    dtype: torch.dtype,
    max_tokens: int,
    temperature: float,
    folder: Path | None,
) -> Reference:
    device = next(policy.parameters()).device.type

    def compute_all() -> Tensor:
        same = all(p.dtype == dtype for p in policy.parameters())
        model = policy if same else frozen_copy(policy, dtype)
        return _forward(model, max_tokens, temperature)(data)

    facts = (fingerprint(policy), str(dtype), device, f"{temperature:.17g}")
    return Reference("cache", True, dtype, cached_logprobs(data, facts, compute_all, folder))


def _named(name: str, policy: nn.Module, start: Loaded, dtype: torch.dtype) -> nn.Module:
    found = load_model(name, dtype=dtype, device=next(policy.parameters()).device)
    ours, theirs = start.tokenizer.get_vocab(), found.tokenizer.get_vocab()
    if ours != theirs:
        odd = sorted(ours.items() ^ theirs.items())[:3]
        raise ModelError(
            f"the reference '{name}' has another vocabulary than '{start.name}' (first differences: {odd}); "
            "log-probs of different tokens cannot be compared. Choose a reference of the same family."
        )
    model: nn.Module = found.model
    return model.requires_grad_(False).eval()


def _probe(
    reference: Reference, policy: nn.Module, batch: Batch, max_tokens: int, temperature: float
) -> None:
    check_start(reference, batch, _forward(policy, max_tokens, temperature)(batch))


def _probe_batch(policy: nn.Module, data: Batch | None) -> Batch:
    """Return a few rows of the data, or of arbitrary ids where there is none yet."""
    if data is not None:
        return replace(data.rows(torch.arange(min(_PROBE_ROWS, len(data)))), paired=False)
    vocabulary = policy.get_input_embeddings().weight.shape[0]  # type: ignore[operator]
    ids = (torch.arange(16) * 7919 + 1) % vocabulary
    tokens = ids[8:].unsqueeze(0)
    return Batch(
        prompts=(ids[:8],),
        completions=tokens,
        lengths=torch.tensor([8]),
        mask=torch.ones_like(tokens, dtype=torch.bool),
        groups=torch.zeros(1, dtype=torch.long),
        uids=("probe",),
    )
