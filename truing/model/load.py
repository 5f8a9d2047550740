"""Models and tokenizers by name, ready to be trained: float32 masters, no dropout, a checked vocabulary."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from truing.errors import ModelError
from truing.model.names import locate
from truing.model.save import quiet, save_model

__all__ = ["Loaded", "eos_token_ids", "fingerprint", "load_model", "load_tokenizer", "save_model"]


@dataclass(frozen=True, slots=True)
class Loaded:
    """A causal language model with its tokenizer; `path` is the folder that its files came from."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    name: str
    path: Path


def load_model(
    name: str, *, dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu"
) -> Loaded:
    """Return the model and tokenizer of a folder, a hub id or a built-in alias, in eval mode.

    A folder with an `adapter_config.json` gives its base, found by the same rules, with the adapter
    merged in. All dropout is set to 0: old and new log-probs of one token must come from one function.
    Code that comes with a model is never run.

    Args:
        name: a folder, `owner/name` or `owner/name@revision` on the hub, or `smollm2-135m-instruct`.
        dtype: of the weights; training wants float32 masters whatever the compute dtype.
        device: where the weights go.

    Raises:
        ModelError: the model cannot be found or reached, its weights are incomplete, or its tokenizer
            knows ids that it has no embedding for.
    """
    path = locate(name)
    if (path / "adapter_config.json").is_file():
        return _with_adapter(path, name, dtype, device)
    model = _read_weights(path, dtype)
    tokenizer = load_tokenizer(str(path))
    _check_vocabulary(model, tokenizer, name)
    if model.config.pad_token_id is None:
        model.config.pad_token_id = tokenizer.pad_token_id
    return Loaded(model.to(device).eval(), tokenizer, name, path)


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """Return the tokenizer by the same names; one without a pad token pads with its EOS.

    Padding with EOS is safe here: masks come from positions, never from comparing ids with the pad id.

    Raises:
        ModelError: there is no tokenizer, or it has no EOS token, so nothing could learn to stop.
    """
    path = locate(name)
    if (path / "adapter_config.json").is_file() and not _has_tokenizer(path):
        return load_tokenizer(_base_name(path))
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(path), local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"model '{name}': no usable tokenizer in {path}: {error}") from error
    if tokenizer.eos_token_id is None:
        raise ModelError(f"the tokenizer of '{name}' has no eos_token; set it in tokenizer_config.json")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def eos_token_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """Return every id that ends a completion, sorted.

    The union of the tokenizer's EOS, the EOS list of the model's generation config, and the token
    with which the chat template ends an assistant turn: training ends turns with the last, so a
    sampler must stop at it, also where the tokenizer's EOS is another (`<|endoftext|>`).
    """
    configured = model.generation_config.eos_token_id if model.generation_config else None
    listed = configured if isinstance(configured, list) else [configured]
    found = {tokenizer.eos_token_id, *listed, _turn_end(tokenizer)}
    return tuple(sorted(int(i) for i in found if i is not None))


def fingerprint(model: torch.nn.Module, tokenizer: PreTrainedTokenizerBase | None = None) -> str:
    """Return the sha256 of the weights as they are now (and of the vocabulary and chat template).

    Two models with the same fingerprint give the same log-probs for the same ids.
    """
    digest = hashlib.sha256()
    for key, value in sorted(model.state_dict().items()):
        digest.update(f"{key} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    if tokenizer is not None:
        described = {"vocabulary": tokenizer.get_vocab(), "template": tokenizer.chat_template}
        digest.update(json.dumps(described, sort_keys=True).encode())
    return digest.hexdigest()


def _read_weights(path: Path, dtype: torch.dtype) -> PreTrainedModel:
    try:
        config = AutoConfig.from_pretrained(str(path), local_files_only=True)
        _without_dropout(config)
        with quiet():
            model, info = AutoModelForCausalLM.from_pretrained(
                str(path),
                config=config,
                dtype=dtype,
                local_files_only=True,
                use_safetensors=True,
                output_loading_info=True,
            )
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(
            f"cannot load a causal language model from {path}: {error}. "
            "It needs config.json and *.safetensors of an architecture that transformers knows."
        ) from error
    absent = sorted(info["missing_keys"]) + sorted(str(m[0]) for m in info["mismatched_keys"])
    if absent:
        raise ModelError(
            f"{path}: {len(absent)} weights are missing or have another shape and would be random: "
            f"{', '.join(absent[:5])}; the files are incomplete or belong to another config.json"
        )
    return model


def _without_dropout(config: PretrainedConfig) -> None:
    """Set every dropout probability of the config, and of the configs inside it, to 0."""
    for key, value in list(vars(config).items()):
        if isinstance(value, PretrainedConfig):
            _without_dropout(value)
        elif isinstance(value, float) and ("dropout" in key or key.endswith(("pdrop", "layerdrop"))):
            setattr(config, key, 0.0)


def _check_vocabulary(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    rows = model.get_input_embeddings().weight.shape[0]
    token, largest = max(tokenizer.get_vocab().items(), key=lambda item: item[1])
    if largest >= rows:
        raise ModelError(
            f"model '{name}': the tokenizer has id {largest} ({token!r}) but the model embeds "
            f"only {rows} ids; they belong to different models, or the embeddings were not resized"
        )


def _turn_end(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """Return the id that the chat template writes right after an assistant's text; None without one."""
    if tokenizer.chat_template is None:
        return None
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "truing"}]
    text = tokenizer.apply_chat_template(turns, tokenize=False)
    tail = tokenizer.encode(text.rpartition("truing")[2], add_special_tokens=False)
    return next((i for i in tail if i in tokenizer.all_special_ids or _is_special(tokenizer, i)), None)


def _is_special(tokenizer: PreTrainedTokenizerBase, token_id: int) -> bool:
    added = tokenizer.added_tokens_decoder.get(token_id)
    return added is not None and added.special


def _with_adapter(path: Path, name: str, dtype: torch.dtype, device: str | torch.device) -> Loaded:
    """Return the adapter's base with the adapter merged in float32, then cast."""
    base = load_model(_base_name(path), dtype=torch.float32)
    try:
        with quiet():
            wrapped = PeftModel.from_pretrained(base.model, str(path))
    except (OSError, ValueError, RuntimeError) as error:
        raise ModelError(f"cannot put the adapter of {path} on '{base.name}': {error}") from error
    model: Any = wrapped.merge_and_unload(safe_merge=True)
    tokenizer = load_tokenizer(str(path)) if _has_tokenizer(path) else base.tokenizer
    _check_vocabulary(model, tokenizer, name)
    return Loaded(model.to(device=device, dtype=dtype).eval(), tokenizer, name, path)


def _has_tokenizer(path: Path) -> bool:
    return any((path / f).is_file() for f in ("tokenizer.json", "tokenizer_config.json", "tokenizer.model"))


def _base_name(path: Path) -> str:
    """Return the name of an adapter's base; a relative folder is looked up beside the adapter too."""
    described = json.loads((path / "adapter_config.json").read_text(encoding="utf-8"))
    name = described.get("base_model_name_or_path")
    if not name:
        raise ModelError(f"{path}/adapter_config.json names no base_model_name_or_path: write the base there")
    beside = path / name
    found = str(beside) if not Path(name).is_dir() and beside.is_dir() else str(name)
    if Path(found).absolute() == path.absolute():
        raise ModelError(f"{path}/adapter_config.json names its own folder as its base")
    return found
