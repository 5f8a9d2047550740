"""From a checked stage to a StageRun: models, data, sampler, reference, learner."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from truing import plugins
from truing.config import Data, Environment, Evaluation, Generator, Options, Stage
from truing.data.rankings import rankings
from truing.data.readers import read_rows
from truing.data.records import Report, demonstrations, pairs, prompt_tokens, prompts, unpaired
from truing.data.steps import steps
from truing.errors import ConfigError, DataError
from truing.log import Progress, StageLog, Tracker
from truing.model.load import Loaded, eos_token_ids, load_model
from truing.model.reference import build_reference
from truing.rewards import load_term, load_terms
from truing.rollout.sampler import Sampler, SamplingParams
from truing.train.batches import batch_of
from truing.train.calibration import calibrate
from truing.train.collect import Collector, Offline
from truing.train.conversations import Conversations
from truing.train.drift import kl_from
from truing.train.evaluate import Evaluator
from truing.train.learner import TorchLearner
from truing.train.networks import Networks, make_networks
from truing.train.online import Online, accuracy_within, has_spread
from truing.train.opponents import Opposed, make_opponent
from truing.train.order import Order, seed_of
from truing.train.replay import Mixed, with_replay
from truing.train.reward_models import load_reward_models
from truing.train.scoring import Score, Scorer
from truing.train.self_play import SelfPlay
from truing.train.stage import StageRun
from truing.types import Pair, Prompt, Ranking, Row


def build(
    stage: Stage, *, model: str, reward_model: str | list[str] | None, reference: str | None, folder: Path,
    log: StageLog, progress: Progress, tracker: Tracker,
) -> StageRun:  # fmt: skip
    """Return the stage, ready to train. Model names are resolved: no `stage:` is left in them."""
    torch.manual_seed(stage.seed)
    assert stage.algorithm is not None
    algorithm = plugins.load("algorithms", stage.algorithm).ALGORITHM
    config = algorithm.config(**stage.options)
    device = pick_device(stage.device)
    dtype = pick_dtype(stage.dtype, device)
    needs = config.needs()
    progress.phase("load")
    networks = make_networks(stage, load_model(model, device=device), needs, config.parameters)
    rows, report = _rows(stage.data, config.data, networks.start, soft_labels="labels" in needs)
    log.event("data", f"{len(rows)} rows from {stage.data.train}", **asdict(report))
    if "parameters" in needs and "tie" in config.parameters:
        _require_ties(rows, stage)
    order = Order([r.uid for r in rows], seed=stage.seed, shuffle=stage.data.shuffle)
    sampler = _sampler(stage, networks, dtype)
    num_steps = stage.steps or math.ceil((stage.epochs or 1) * len(rows) / stage.batch_size)
    updates = num_steps * stage.learner.num_minibatches * stage.learner.num_epochs
    score = None
    if reward_model is not None:
        names = [reward_model] if isinstance(reward_model, str) else reward_model
        score = load_reward_models(
            names, stage.ensemble, dtype=dtype, device=device, max_tokens=stage.learner.micro_batch_tokens
        )
    opponent = _opponent(stage, config, networks, reference, dtype)
    collector = _collector(stage, config, networks.start, rows, order, sampler, score, opponent)
    micro_batch_tokens = stage.learner.micro_batch_tokens
    temperature = stage.sampler.temperature if stage.sampler else 1.0
    anchor = None
    if "ref_logprobs" in needs:
        kind = reference or _default_reference(stage, config)
        log.event("reference", f"the reference policy is '{kind}'", reference=kind)
        data = collector.every_row() if isinstance(collector, Offline) else None
        anchor = build_reference(
            kind, networks.writer(), start=networks.start, dtype=dtype, max_tokens=micro_batch_tokens,
            data=data, temperature=temperature,
        )  # fmt: skip
    if stage.replay is not None:
        algorithm = with_replay(algorithm, weight=stage.replay.weight)
        collector = _with_demonstrations(collector, stage, networks.start, log)
    start_rate = config.start_rate(lora=stage.learner.lora is not None)
    learner = TorchLearner(
        policy=networks.policy, critic=networks.critic, scorer=networks.scorer,
        process=networks.process, config=stage.learner,
        learning_rate=stage.learner.learning_rate or start_rate,
        num_updates=updates, compute_dtype=dtype,
        temperature=temperature, neftune_alpha=getattr(config, "neftune_alpha", 0.0),
    )  # fmt: skip
    evaluator = _evaluator(stage.evaluation, networks.start, rows, log) if stage.evaluation else None
    if evaluator is not None and stage.evaluation is not None and stage.evaluation.kl:
        start = anchor if anchor is not None and anchor.kind in ("copy", "base") else build_reference(
            "base" if stage.learner.lora else "copy", networks.writer(), start=networks.start, dtype=dtype,
            max_tokens=micro_batch_tokens, temperature=temperature,
        )  # fmt: skip
        evaluator = replace(evaluator, kl_of=kl_from(start, learner, micro_batch_tokens))
    return StageRun(
        stage=stage,
        algorithm=algorithm,
        config=config,
        learner=learner,
        collector=collector,
        reference=anchor,
        sampler=sampler,
        evaluator=evaluator,
        log=log,
        progress=progress,
        tracker=tracker,
        folder=folder,
        num_steps=num_steps,
        networks=networks,
        calibrate=_calibration(stage, networks, collector, log),
    )


def pick_device(name: str) -> torch.device:
    """Return the device of that name; "auto" is a GPU where there is one."""
    if name != "auto":
        return torch.device(name)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def pick_dtype(name: str, device: torch.device) -> torch.dtype:
    """Return the compute dtype; "auto" is bfloat16 where the hardware multiplies it."""
    if name != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16}[name]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    return torch.bfloat16 if torch.ops.mkldnn._is_mkldnn_bf16_supported() else torch.float32


def stop_token_ids(tokenizer: Any, model: nn.Module, extra: Sequence[str]) -> tuple[int, ...]:
    """Return the ids that end a completion: every EOS of the model, and the extra stop tokens.

    Raises:
        ConfigError: an extra stop string is not one token.
    """
    ids = list(eos_token_ids(model, tokenizer))
    for text in extra:
        found = tokenizer.encode(text, add_special_tokens=False)
        if len(found) != 1:
            raise ConfigError(f"sampler.stop: '{text}' is {len(found)} tokens; a stop must be exactly one")
        ids.append(found[0])
    return tuple(dict.fromkeys(ids))


def _rows(
    data: Data, kind: str, start: Loaded, *, soft_labels: bool
) -> tuple[list[Row] | list[Pair] | list[Prompt] | list[Ranking], Report]:
    source = read_rows(data.train, limit=data.limit)
    make: Any = {
        "demonstrations": demonstrations,
        "pairs": partial(pairs, soft_labels=soft_labels),
        "prompts": prompts,
        "unpaired": unpaired,
        "rankings": rankings,
        "steps": steps,
    }[kind]
    rows, report = make(source, start.tokenizer, data)
    if not rows:
        raise DataError(f"{data.train}: no row is left of {len(source)}: {report}")
    return rows, report


def _sampler(stage: Stage, networks: Networks, dtype: torch.dtype) -> Sampler | None:
    if networks.policy is None or (stage.sampler is None and stage.evaluation is None):
        return None
    engine = plugins.load("rollout", stage.sampler.engine if stage.sampler else "hf")
    made: Sampler = engine.SAMPLER(networks.policy, networks.start.tokenizer, dtype=dtype)
    return made


def _collector(
    stage: Stage,
    config: Any,
    start: Loaded,
    rows: Any,
    order: Order,
    sampler: Sampler | None,
    score: Score | None,
    opponent: Sampler | None,
) -> Collector:
    if config.data != "prompts" and not config.self_play:
        return Offline(rows, order, stage.batch_size)
    if stage.sampler is None or sampler is None:
        raise ConfigError(f"stage '{stage.name}': {stage.algorithm} samples, so it needs a [sampler] table")
    s = stage.sampler
    stops = stop_token_ids(start.tokenizer, start.model, s.stop)
    params = SamplingParams(max_tokens=s.max_tokens, temperature=s.temperature, stop_token_ids=stops)
    if config.self_play:
        return SelfPlay(
            rows=rows, order=order, sampler=sampler, params=params, decode=start.tokenizer.decode,
            batch_size=stage.batch_size, group_size=s.group_size, seed=stage.seed,
        )  # fmt: skip
    scorer = Scorer(load_terms(stage.rewards, scored=score is not None), score)
    if opponent is not None:
        return Opposed(
            prompts=rows, prompt_tokens=[prompt_tokens(start.tokenizer, p) for p in rows], order=order,
            sampler=sampler, opponent=opponent, params=params, scorer=scorer, batch_size=stage.batch_size,
            group_size=s.group_size, seed=stage.seed,
        )  # fmt: skip
    keeps, max_resamples = _filter(config)
    return Online(
        prompts=rows,
        prompt_tokens=[prompt_tokens(start.tokenizer, p) for p in rows],
        order=order,
        sampler=sampler,
        params=params,
        scorer=scorer,
        batch_size=stage.batch_size,
        group_size=s.group_size,
        seed=stage.seed,
        max_resamples=max_resamples,
        keeps=keeps,
        conversations=_conversations(stage.environment, start, sampler, scorer),
        greedy="baselines" in config.needs(),
    )


def _opponent(
    stage: Stage, config: Options, networks: Networks, reference: str | None, dtype: torch.dtype
) -> Sampler | None:
    """Return what draws half of each group, where the method has an opponent; before any update."""
    if config.opponent == "none" or stage.sampler is None:
        return None
    if stage.environment is not None:
        raise ConfigError(
            f"stage '{stage.name}': {stage.algorithm} compares single completions with an opponent's and "
            "plays no conversations; remove the [environment] table"
        )
    return make_opponent(
        config.opponent, networks.writer(), reference=reference or _default_reference(stage, config),
        start=networks.start, engine=stage.sampler.engine, dtype=dtype, share=getattr(config, "mixture", 1.0),
    )  # fmt: skip


def _filter(config: Any) -> tuple[Callable[[Sequence[float]], bool], int]:
    """Return which groups are trained, by their rewards, and how often the others are drawn anew."""
    if hasattr(config, "accuracy_low"):
        low, high = config.accuracy_low, config.accuracy_high
        return partial(accuracy_within, low=low, high=high), config.max_resamples
    return has_spread, config.max_resamples if getattr(config, "dynamic_sampling", False) else 0


def _conversations(
    environment: Environment | None, start: Loaded, sampler: Sampler, scorer: Scorer
) -> Conversations | None:
    if environment is None:
        return None
    module = plugins.load("environments", environment.name)
    return Conversations(
        sampler=sampler,
        tokenizer=start.tokenizer,
        reply=module.reply,
        config=module.Config(**environment.options),
        scorer=scorer,
        max_tokens=environment.max_tokens,
    )


def _with_demonstrations(collector: Collector, stage: Stage, start: Loaded, log: StageLog) -> Collector:
    assert stage.replay is not None
    data = stage.replay.data
    rows, report = demonstrations(read_rows(data.train, limit=data.limit), start.tokenizer, data)
    log.event("replay", f"{len(rows)} demonstrations from {data.train}", **asdict(report))
    order = Order([r.uid for r in rows], seed=seed_of(stage.seed, "replay"), shuffle=data.shuffle)
    return Mixed(collector, rows, order, stage.replay.share)


def _require_ties(records: Sequence[Any], stage: Stage) -> None:
    if not any(isinstance(r, Pair) and 0 < r.preference < 1 for r in records):
        raise DataError(
            f"{stage.data.train}: no pair is a tie (preference = 0.5), so {stage.algorithm} cannot learn how "
            "wide a tie is; use algorithm = 'reward_model'"
        )


def _calibration(
    stage: Stage, networks: Networks, collector: Collector, log: StageLog
) -> Callable[[], None] | None:
    """Return what fits the calibration of the scores, once the scorer is trained."""
    options = stage.calibration
    if options is None or networks.scorer is None or not isinstance(collector, Offline):
        return None
    if options.data is None:
        batch = collector.every_row()
    else:
        data = stage.data.model_copy(update={"train": options.data, "limit": options.limit})
        rows, report = demonstrations(read_rows(data.train, limit=data.limit), networks.start.tokenizer, data)
        log.event("calibration_data", f"{len(rows)} completions from {data.train}", **asdict(report))
        batch = batch_of(rows)
    if options.limit is not None:
        batch = batch.rows(torch.arange(min(options.limit, len(batch))))
    max_tokens = stage.learner.micro_batch_tokens
    return partial(calibrate, networks.scorer, batch, options, max_tokens=max_tokens, log=log)


def _default_reference(stage: Stage, config: Options) -> str:
    """Return the kind that costs least: a cache only where every row is known before training."""
    if stage.learner.lora:
        return "base"
    return "copy" if config.data == "prompts" or "reference_point" in config.needs() else "cache"


def _evaluator(evaluation: Evaluation, start: Loaded, rows: Sequence[Any], log: StageLog) -> Evaluator:
    data = Data(train=evaluation.data, limit=evaluation.limit, shuffle=False)
    held_out, _ = prompts(read_rows(evaluation.data, limit=evaluation.limit), start.tokenizer, data)
    tokens = [prompt_tokens(start.tokenizer, p) for p in held_out]
    trained = {tuple(r.prompt_tokens) for r in rows if isinstance(r, Row)}
    trained |= {tuple(row.prompt_tokens) for r in rows if isinstance(r, Ranking) for row in r.rows}
    trained |= {tuple(r.chosen.prompt_tokens) for r in rows if isinstance(r, Pair)}
    trained |= {prompt_tokens(start.tokenizer, r) for r in rows if isinstance(r, Prompt)}
    shared = [i for i, t in enumerate(tokens) if t in trained]
    if shared and not evaluation.allow_overlap:
        raise DataError(
            f"evaluation: {len(shared)} of {len(tokens)} prompts are also trained on, the first is row "
            f"{shared[0] + 1}. Hold them out of the training data, or set evaluation.allow_overlap = true."
        )
    log.event(
        "held_out", f"{len(tokens)} evaluation prompts, {len(shared)} of them trained on", shared=len(shared)
    )
    where = evaluation.data.generator if isinstance(evaluation.data, Generator) else evaluation.data
    if not held_out:
        raise DataError(f"evaluation: {where} has no rows")
    return Evaluator(
        prompts=held_out,
        prompt_tokens=tokens,
        term=load_term("verifier", evaluation.verifier, 1.0, evaluation.options),
        params=SamplingParams(
            max_tokens=evaluation.max_tokens,
            temperature=evaluation.temperature,
            stop_token_ids=stop_token_ids(start.tokenizer, start.model, ()),
            seed=seed_of("evaluation"),
        ),
    )
