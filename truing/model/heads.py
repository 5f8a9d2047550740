"""What reads hidden states: the causal model's LM head, and a scalar head for values and scores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from truing.errors import ModelError
from truing.math.scores import Calibration
from truing.model.support import evaluating


class ScalarModel(nn.Module):
    """A causal model's body with one number per position: a value network or a reward model.

    Args:
        backbone: the causal model without its LM head; LoRA layers inside it stay.
        hidden_size: of the backbone.
        length_head: whether a second head reads the same states, for what length explains.
        numbers: names and start values of learned numbers beside the heads.
    """

    def __init__(
        self,
        backbone: nn.Module,
        hidden_size: int,
        *,
        length_head: bool = False,
        numbers: Mapping[str, float] | None = None,
    ):
        super().__init__()
        self.backbone = backbone
        device = next(backbone.parameters()).device
        self.head = nn.Linear(hidden_size, 1, dtype=torch.float32, device=device)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.length_head: nn.Linear | None = None
        if length_head:  # not from 0: two heads that begin alike would long stay alike
            self.length_head = nn.Linear(hidden_size, 1, dtype=torch.float32, device=device)
            nn.init.normal_(self.length_head.weight, std=1 / hidden_size)
            nn.init.zeros_(self.length_head.bias)
        starts = {name: torch.tensor(start, device=device) for name, start in (numbers or {}).items()}
        self.numbers = nn.ParameterDict(starts)
        self.calibration: Calibration | None = None

    @classmethod
    def from_causal(cls, model: nn.Module, **how: Any) -> ScalarModel:
        """Return a scalar model over the body of a causal model, which is shared, not copied."""
        backbone: Any = backbone_of(model)
        return cls(backbone, backbone.config.get_text_config().hidden_size, **how)

    def forward(self, hidden: Float[Tensor, "K H"]) -> Float[Tensor, " K"]:
        """Return head(hidden) in float32, also inside autocast."""
        return _read(self.head, hidden)

    def length_scores(self, hidden: Float[Tensor, "K H"]) -> Float[Tensor, " K"]:
        """Return what the second head reads.

        Raises:
            ModelError: there is no second head.
        """
        return _read(self._length_head(), hidden)

    def head_overlap(self) -> Float[Tensor, ""]:
        """Return |w_quality . w_length| of the two heads."""
        return (self.head.weight * self._length_head().weight).sum().abs()

    def _length_head(self) -> nn.Linear:
        if self.length_head is None:
            raise ModelError("this network has no length head; build it with length_head=True")
        return self.length_head


def _read(head: nn.Linear, hidden: Float[Tensor, "K H"]) -> Float[Tensor, " K"]:
    with torch.autocast(hidden.device.type, enabled=False):
        return F.linear(hidden.to(head.weight.dtype), head.weight, head.bias)[:, 0]


@dataclass(frozen=True, slots=True)
class LmHead:
    """The linear map to logits and what the family does to them: see `math.logprobs`."""

    weight: Float[Tensor, "V H"]
    bias: Float[Tensor, " V"] | None
    scale: float
    softcap: float | None


def backbone_of(model: nn.Module) -> nn.Module:
    """Return the body of a causal model, of a peft model around one, or of a ScalarModel."""
    if isinstance(model, ScalarModel):
        return backbone_of(model.backbone)
    causal: Any = causal_of(model)
    backbone: Any = getattr(causal, "base_model", causal)
    if backbone is causal and hasattr(causal, "get_output_embeddings") and causal.get_output_embeddings():
        backbone = causal.get_decoder()  # Llama 4 keeps its body under another name than its class says
    return backbone


def causal_of(model: Any) -> nn.Module:
    """Return the transformers model inside a peft model; anything else is returned as it is.

    Raises:
        ModelError: the adapter is a prompt (prefix or prompt tuning), which a forest cannot carry.
    """
    if not hasattr(model, "peft_config"):
        return model
    if not hasattr(model, "get_base_model"):
        return model
    if any(config.is_prompt_learning for config in model.peft_config.values()):
        raise ModelError(
            "prompt-learning adapters (prefix tuning, prompt tuning) are not supported; use LoRA"
        )
    base: nn.Module = model.get_base_model()
    return base


_checked: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()


def lm_head_of(model: nn.Module) -> LmHead:
    """Return a causal model's LM head; once per model, its logits are compared with the model's own.

    Raises:
        ModelError: there is no plain linear head, or the family computes its logits in another way.
    """
    causal: Any = causal_of(model)
    module = causal.get_output_embeddings() if hasattr(causal, "get_output_embeddings") else None
    module = _active(module)
    if module is None or not isinstance(getattr(module, "weight", None), Tensor):
        raise ModelError(f"{type(causal).__name__} has no LM head; a policy needs one (AutoModelForCausalLM)")
    if hasattr(module, "lora_A"):
        raise ModelError("LoRA on the LM head is not supported; leave lm_head out of target_modules")
    config = causal.config.get_text_config()
    head = LmHead(module.weight, getattr(module, "bias", None), _logit_scale(config), _final_cap(config))
    if causal not in _checked:
        _check(causal, head)
        _checked[causal] = True
    return head


def _active(module: Any) -> Any:
    """Return the module that is in use inside peft's ModulesToSaveWrapper; others as they are."""
    saved = getattr(module, "modules_to_save", None)
    if saved is None:
        return module
    adapters = list(module.active_adapters)
    return module.original_module if module.disable_adapters or not adapters else saved[adapters[0]]


def _logit_scale(config: Any) -> float:
    """Return what multiplies the logits: Cohere multiplies, Granite divides, Falcon-H1 multiplies."""
    if getattr(config, "logits_scaling", None) is not None:
        return 1.0 / config.logits_scaling
    for name in ("logit_scale", "lm_head_multiplier"):
        if getattr(config, name, None) is not None:
            return float(getattr(config, name))
    return 1.0


def _final_cap(config: Any) -> float | None:
    cap = getattr(config, "final_logit_softcapping", None)
    return None if cap is None else float(cap)


@torch.no_grad()
def _check(causal: Any, head: LmHead) -> None:
    """Raise when the head's logits of a few tokens differ from those of the model's own forward."""
    device = head.weight.device
    tokens = torch.tensor([[1, 2, 3]], device=device) % len(head.weight)
    with evaluating(causal), torch.autocast(device.type, enabled=False):
        wanted = causal(input_ids=tokens, use_cache=False).logits.float()
        hidden = backbone_of(causal)(input_ids=tokens, use_cache=False).last_hidden_state
    found = F.linear(hidden.to(head.weight.dtype), head.weight, head.bias).float() * head.scale
    if head.softcap is not None:
        found = torch.tanh(found / head.softcap) * head.softcap
    error = ((found - wanted).norm() / wanted.norm().clamp(min=1e-12)).item()
    if error > (1e-3 if hidden.dtype == torch.float32 else 0.05):
        raise ModelError(
            f"{type(causal).__name__} changes its logits in a way that is not known here "
            f"(relative difference {error:.1e}); known: logits_scaling, logit_scale, final_logit_softcapping"
        )
