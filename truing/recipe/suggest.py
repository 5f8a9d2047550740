"""What an unknown key may have been meant to be."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from truing.config import Stage

# What other libraries call it: the keys here that it may stand for, the first that applies is offered.
ALIASES: dict[str, tuple[str, ...]] = {
    name: tuple(ours.split())
    for ours, theirs in {
        "batch_size": "per_device_train_batch_size train_batch_size rollout_batch_size batchsize",
        "learner.micro_batch_tokens": "gradient_accumulation_steps micro_batch_size ppo_micro_batch_size",
        "epochs": "num_train_epochs num_epoch total_epochs max_epochs",
        "steps": "max_steps num_steps total_steps total_training_steps num_train_steps",
        "learner.learning_rate": "lr actor_lr peak_lr",
        "learner.critic_learning_rate": "critic_lr",
        "learner.weight_decay": "wd",
        "learner.warmup": "warmup_ratio warmup_steps lr_warmup_steps_ratio num_warmup_steps",
        "learner.schedule": "lr_scheduler_type lr_scheduler scheduler",
        "learner.min_lr_ratio": "min_lr lr_min",
        "learner.betas": "adam_beta1 adam_beta2",
        "learner.max_grad_norm": "grad_clip clip_grad gradient_clipping",
        "learner.activation_checkpointing": "gradient_checkpointing enable_gradient_checkpointing",
        "learner.num_minibatches": "num_mini_batches ppo_mini_batch_size",
        "learner.num_epochs": "ppo_epochs num_ppo_epochs num_iterations",
        "learner.lora": "use_peft peft_config load_adapter adapter",
        "learner.lora.rank": "lora_r lora_rank r",
        "learner.lora.alpha": "lora_alpha",
        "learner.lora.dropout": "lora_dropout",
        "learner.lora.target_modules": "lora_target_modules lora_target",
        "data.max_completion_tokens data.max_prompt_tokens": "max_seq_length max_length cutoff_len seq_len",
        "data.max_prompt_tokens": "max_prompt_length",
        "sampler.max_tokens": "max_completion_length max_new_tokens response_length max_response_length",
        "sampler.group_size": "num_generations n_samples_per_prompt num_return_sequences rollout_n",
        "data.train": "dataset dataset_name datasets train_file train_files train_data",
        "data.limit": "max_samples max_train_samples",
        "data.overlong": "truncation truncation_mode",
        "evaluation.data": "eval_dataset eval_data val_files validation_data",
        "evaluation.every": "eval_steps test_freq",
        "checkpoint.every": "save_steps save_freq save_interval",
        "checkpoint.keep": "save_total_limit max_ckpt_to_keep",
        "log.trackers": "report_to logger",
        "rewards": "reward_funcs reward_fn reward_function",
        "model": "model_name_or_path model_name base_model pretrained model_path",
        "reward_model": "reward_model_path rm_path",
        "reference": "ref_model ref_model_path reference_model",
        "algorithm": "method rl_algorithm trainer loss_type adv_estimator",
        "dtype": "bf16 fp16 torch_dtype precision",
        "output": "output_dir save_path",
        "stage": "stages",
        "name": "run_name experiment_name",
        "options.clip_low options.clip_high": "epsilon cliprange clip_range clip_ratio clip_eps epsilon_low",
        "options.clip_high": "epsilon_high clip_ratio_high",
        "options.kl_coef options.beta": "kl_beta kl_coeff init_kl_coef kl_loss_coef kl_penalty_coef beta",
        "options.beta": "dpo_beta pref_beta",
        "options.discount": "gamma",
        "options.gae_lambda": "lam lambd lambda gae_lam",
        "options.label_smoothing": "label_smoothing_factor",
    }.items()
    for name in theirs.split()
}


# Left out on purpose: why, and what to do instead.
REFUSED: dict[str, str] = {
    name: "left out on purpose: it cuts the distribution, so the sampler's log-probs would not be the "
    "learner's; use sampler.temperature"
    for name in ("top_p", "top_k", "min_p", "typical_p", "repetition_penalty")
}


def suggestions(
    path: tuple[Any, ...], siblings: Iterable[str], options: Iterable[str], top: Iterable[str]
) -> list[str]:
    """Return up to two keys that an unknown key at `path` may have been meant to be, best first.

    Args:
        path: the unknown key within its stage.
        siblings: valid keys of the same table.
        options: the algorithm's own option names.
        top: further valid keys of the top level.
    """
    name = str(path[-1])
    known = [*stage_keys(), *top, *(f"options.{o}" for o in options)]
    parent = ".".join(map(str, path[:-1]))
    aliased = [k for k in ALIASES.get(name.lower(), ()) if k in known][:1]
    same_name = [k for k in known if k.rpartition(".")[2] == name and k.rpartition(".")[0] != parent]
    here = [f"{parent}.{k}" if parent else k for k in difflib.get_close_matches(name, list(siblings), 1, 0.7)]
    leaves = {k.rpartition(".")[2]: k for k in reversed(known)}
    elsewhere = [leaves[n] for n in difflib.get_close_matches(name, leaves, n=1, cutoff=0.75)]
    exact = aliased + sorted(same_name, key=lambda k: not k.startswith("options."))
    found = exact or here or elsewhere
    return list(dict.fromkeys(found))[:2]


def stage_keys() -> list[str]:
    """Return the dotted name of every key of a stage, the algorithm's options aside."""
    return _keys(Stage, "")


def table_keys(path: tuple[Any, ...]) -> list[str]:
    """Return the keys that the table at a path of a stage may have; none where a table is free-form."""
    if not path:
        return list(Stage.model_fields)
    info = field_info(path)
    model = _table(info.annotation) if info is not None and path != ("rewards",) else None
    return list(model.model_fields) if model is not None else []


def _keys(model: type[BaseModel], prefix: str) -> list[str]:
    found = list[str]()
    for name, info in model.model_fields.items():
        found.append(prefix + name)
        inner = _table(info.annotation)
        if inner is not None:
            found += _keys(
                inner, f"{prefix}{name}." + ("NAME." if get_origin(info.annotation) is dict else "")
            )
    return found


def _table(annotation: Any) -> type[BaseModel] | None:
    """Return the model inside an annotation such as `Lora | None` or `dict[str, Reward]`."""
    if isinstance(annotation, type) and get_origin(annotation) is None:
        return annotation if issubclass(annotation, BaseModel) else None
    return next((m for m in map(_table, get_args(annotation)) if m is not None), None)


def field_info(path: tuple[Any, ...]) -> FieldInfo | None:
    """Return pydantic's record of the key at a path of a stage, None where there is none."""
    model: type[BaseModel] | None = Stage
    found = None
    for number, part in enumerate(path):
        if path[:1] == ("rewards",) and number == 1:  # a name that the user chose
            continue
        found = model.model_fields.get(part) if model is not None and isinstance(part, str) else None
        model = _table(found.annotation) if found is not None else None
    return found
