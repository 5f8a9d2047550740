"""TRL's side: its own trainers and its own loop, stopped at each step by a callback."""

from __future__ import annotations

import tempfile
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import DPOConfig, DPOTrainer, GRPOConfig, GRPOTrainer, SFTConfig, SFTTrainer

from benchmarks.gate import Gate, Stop
from benchmarks.work import BETA, LEARNING_RATE, MAX_GRAD_NORM, Work
from benchmarks.worker import dimensions

_ENDLESS = 100_000


class _AtEachStep(TrainerCallback):
    """Waits before a step; reports it when its loss and gradient norm have been logged."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        self._gate.wait()

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if logs and "grad_norm" in logs:
            self._gate.done(loss=float(logs["loss"]), grad_norm=float(logs["grad_norm"]))


def run(gate: Gate, work: Work, dtype: torch.dtype, variant: str, path: str) -> None:
    """Train, or generate, at the gate's pace until it stops.

    Args:
        variant: "default" keeps every default of TRL (bfloat16 autocast over float32 weights,
            checkpointing, the reference beside the policy). "best" is what was fastest here: no
            checkpointing, weights in the compute type, no autocast, the reference computed before.
    """
    tokenizer = AutoTokenizer.from_pretrained(path)
    weights = torch.float32 if variant == "default" else dtype
    model = AutoModelForCausalLM.from_pretrained(path, dtype=weights)
    gate.ready(dimensions(model.config))
    if work.kind == "sampling":
        return _generate(gate, work, model, tokenizer)
    make = {"sft": _sft, "dpo": _dpo, "grpo": _grpo, "iteration": _iteration}[work.kind]
    with tempfile.TemporaryDirectory() as folder:
        trainer = make(work, model, tokenizer, variant, _common(folder, variant))
        trainer.add_callback(_AtEachStep(gate))
        try:
            trainer.train()
        except Stop:
            return


def _common(folder: str, variant: str) -> dict[str, Any]:
    options: dict[str, Any] = {
        "output_dir": folder, "max_steps": _ENDLESS, "logging_steps": 1, "save_strategy": "no",
        "report_to": "none", "disable_tqdm": True, "use_cpu": not torch.cuda.is_available(),
        "learning_rate": LEARNING_RATE, "lr_scheduler_type": "constant", "weight_decay": 0.0,
        "max_grad_norm": MAX_GRAD_NORM,
    }  # fmt: skip
    if variant != "default":
        options |= {"gradient_checkpointing": False, "bf16": variant == "autocast"}
    return options


def _sft(work: Work, model: Any, tokenizer: Any, variant: str, options: dict[str, Any]) -> SFTTrainer:
    data = [{"prompt": p, "completion": c} for p, [c] in work.texts()]
    options["per_device_train_batch_size"] = len(data)
    if variant == "packed":
        options |= {"padding_free": True, "max_length": None}
    config = SFTConfig(**options)
    return SFTTrainer(model, config, train_dataset=Dataset.from_list(data), processing_class=tokenizer)


def _dpo(work: Work, model: Any, tokenizer: Any, variant: str, options: dict[str, Any]) -> DPOTrainer:
    data = [{"prompt": p, "chosen": c, "rejected": r} for p, [c, r] in work.texts()]
    options |= {"per_device_train_batch_size": len(data), "beta": BETA}
    options["precompute_ref_log_probs"] = variant != "default"
    config = DPOConfig(**options)
    return DPOTrainer(model, args=config, train_dataset=Dataset.from_list(data), processing_class=tokenizer)


class _Prepared(GRPOTrainer):
    """TRL's training step on a batch that is given, in place of one that it samples."""

    def _prepare_inputs(self, generation_batch: Any) -> dict[str, torch.Tensor]:
        return self.prepared


def _grpo(work: Work, model: Any, tokenizer: Any, variant: str, options: dict[str, Any]) -> GRPOTrainer:
    trainer = _grpo_trainer(_Prepared, work, model, tokenizer, options, rows=len(work.rewards()))
    [(prompt, completions)] = work.texts()
    prompts = torch.tensor([tokenizer(prompt)["input_ids"]] * len(completions))
    tokens = torch.tensor(tokenizer(completions)["input_ids"])
    rewards = torch.tensor(work.rewards())
    trainer.prepared = {
        "prompt_ids": prompts,
        "prompt_mask": torch.ones_like(prompts),
        "completion_ids": tokens,
        "completion_mask": torch.ones_like(tokens),
        "advantages": (rewards - rewards.mean()) / (rewards.std() + 1e-4),
        "num_items_in_batch": torch.tensor(tokens.numel()),
    }
    return trainer


def _iteration(work: Work, model: Any, tokenizer: Any, variant: str, options: dict[str, Any]) -> GRPOTrainer:
    return _grpo_trainer(GRPOTrainer, work, model, tokenizer, options, rows=len(work.trees[0].completions))


def _grpo_trainer(
    kind: type[GRPOTrainer], work: Work, model: Any, tokenizer: Any, options: dict[str, Any], *, rows: int
) -> GRPOTrainer:
    """Return the trainer; `rows` of the batch go through the model at a time."""
    group, length = len(work.trees[0].completions), work.trees[0].completions[0]
    config = GRPOConfig(
        **options, per_device_train_batch_size=rows, gradient_accumulation_steps=len(work.rewards()) // rows,
        num_generations=group, max_completion_length=length, loss_type="grpo", beta=0.0,
        generation_kwargs={"min_new_tokens": length},
    )  # fmt: skip
    data = Dataset.from_list([{"prompt": prompt} for prompt, _ in work.texts()])
    return kind(model, reward_funcs=_reward, args=config, train_dataset=data, processing_class=tokenizer)


def _reward(completions: list[str], **kwargs: Any) -> list[float]:
    """Return the number of different characters of each text."""
    return [float(len(set(text))) for text in completions]


@torch.no_grad()
def _generate(gate: Gate, work: Work, model: Any, tokenizer: Any) -> None:
    """Sample with `model.generate`: every row of the batch at once, as TRL's GRPOTrainer does."""
    texts = [prompt for prompt, completions in work.texts() for _ in completions]
    tokens = torch.tensor(tokenizer(texts)["input_ids"])
    length = work.trees[0].completions[0]
    while True:
        try:
            gate.wait()
        except Stop:
            return
        model.generate(
            input_ids=tokens, attention_mask=torch.ones_like(tokens), do_sample=True, temperature=1.0,
            top_k=0, top_p=1.0, min_new_tokens=length, max_new_tokens=length,
            pad_token_id=tokenizer.pad_token_id or tokenizer.eos_token_id,
        )  # fmt: skip
        gate.done()
