"""What every method promises. A new file in truing/algorithms/ is tested here because it exists."""

from __future__ import annotations

import subprocess
import sys
import typing
from contextlib import nullcontext
from dataclasses import fields, replace

import pytest
import torch
from pydantic import ValidationError

from truing import plugins
from truing.config import DataKind
from truing.types import Batch, Outputs

each = pytest.mark.parametrize("name", plugins.names("algorithms"))
LENGTHS = [6, 4, 3, 2, 5, 4, 6, 1]
TRAINED = ["111111", "1111", "101", "01", "11011", "0000", "110011", "1"]  # holes are what a tool said


def algorithm_of(name):
    return plugins.load("algorithms", name).ALGORITHM


def example(name, config=None, *, pad=0, filler=0.0, seed=0, group_size=4):
    """Return a batch of 8 rows and outputs, with only what `config` needs; `filler` stands on masked tokens."""
    config = config or algorithm_of(name).config()
    generator, width = torch.Generator().manual_seed(seed), max(LENGTHS)
    rows, needs = len(LENGTHS), config.needs()
    mask = torch.tensor([[i < len(t) and t[i] == "1" for i in range(width + pad)] for t in TRAINED])

    def tokens(spread=1.0, shift=0.0):
        drawn = torch.randn(rows, width, generator=generator, dtype=torch.float64) * spread + shift
        wide = torch.cat([drawn, torch.zeros(rows, pad, dtype=torch.float64)], 1)
        return torch.where(mask, wide, torch.tensor(filler, dtype=torch.float64))

    drawn = {
        "new": tokens(shift=-2), "old": tokens(shift=-2), "ref": tokens(shift=-2), "sampler": tokens(shift=-2),
        "values": tokens(), "old_values": tokens(), "entropy": tokens().abs(),
    }  # fmt: skip

    def numbers(spread=1.0):
        return spread * torch.randn(rows, generator=generator).double()

    scores, rewards, online = numbers(), numbers(8), config.data == "prompts"
    drawn["token_scores"], drawn["process"] = tokens(), tokens(shift=-2)
    drawn["old_process"] = tokens(shift=-2)
    paired = config.data == "pairs" or config.self_play
    ends = mask & (torch.arange(width + pad) % 2 == 0)
    step_labels = torch.where(ends, (tokens() > 0).double(), torch.nan)
    half = torch.arange(rows) % group_size >= group_size // 2
    turns = (torch.arange(width + pad) >= 2).long().expand(rows, -1).contiguous()
    last = [mask & (turns == turn) for turn in (0, 1)]
    last = [m & (m.cumsum(-1) == m.sum(-1, keepdim=True)) for m in last]
    turn_rewards = torch.where(last[0] | last[1], tokens(), torch.nan)
    batch = Batch(
        prompts=tuple(torch.zeros(2, dtype=torch.long) for _ in range(rows)),
        completions=torch.zeros(mask.shape, dtype=torch.long),
        lengths=torch.tensor(LENGTHS),
        mask=mask,
        groups=GROUPS[config.data](rows, group_size) if not paired else torch.arange(rows) % (rows // 2),
        paired=paired,
        uids=tuple(str(i) for i in range(rows)),
        margins=torch.tensor([0.3, 1.0, 0.0, 2.0] * 2).double() if paired else None,
        labels=labels_of(config, paired),
        ranks=torch.tensor([2, 1, 2, 4, 1, 3, 2, 4]) if config.data == "rankings" else None,
        step_labels=step_labels if config.data == "steps" else None,
        truncated=torch.tensor([True, False, False, True] * 2) if online else None,
        rewards=rewards.double() if online and config.rewarded else None,
        turns=turns if "turn_rewards" in needs else None,
        turn_rewards=turn_rewards if "turn_rewards" in needs else None,
        baselines=numbers() if "baselines" in needs else None,
        by_opponent=half if config.opponent != "none" else None,
        sampler_logprobs=drawn["sampler"] if online else None,
        old_logprobs=drawn["old"] if online or "old_logprobs" in needs else None,
        old_entropy=drawn["entropy"].clone() if "old_entropy" in needs else None,
        ref_logprobs=drawn["ref"] if "ref_logprobs" in needs else None,
        old_values=drawn["old_values"] if "values" in needs else None,
        old_scores=numbers() if "old_scores" in needs else None,
        old_length_scores=numbers() if "old_length_scores" in needs else None,
        old_process_logprobs=drawn["old_process"] if "process_logprobs" in needs else None,
        reference_point=torch.full((rows,), 0.3).double() if "reference_point" in needs else None,
    )
    leaves = {
        "logprobs": drawn["new"],
        "entropy": drawn["entropy"],
        "values": drawn["values"],
        "scores": scores,
        "token_scores": drawn["token_scores"],
        "length_scores": numbers(),
        "process_logprobs": drawn["process"],
        "sharp_logprobs": 1.5 * drawn["new"],
        "prompt_logprobs": numbers() - 2,
    }
    found = {k: v.requires_grad_() for k, v in leaves.items() if k in needs}
    if "length_scores" in needs:
        found["head_overlap"] = torch.tensor(0.4).double().requires_grad_()
    if config.parameters:
        found["parameters"] = {k: torch.tensor(v).double() for k, v in config.parameters.items()}
    return batch, Outputs(**found)


GROUPS = {
    "demonstrations": lambda rows, size: torch.arange(rows),
    "unpaired": lambda rows, size: torch.arange(rows),
    "steps": lambda rows, size: torch.arange(rows),
    "prompts": lambda rows, size: torch.arange(rows) // size,
    "rankings": lambda rows, size: torch.arange(rows) // size,
}


def labels_of(config, paired):
    if config.data == "unpaired":
        return torch.tensor([1.0, 0.0, 0.7, 1.0, 0.0, 0.0, 1.0, 0.2]).double()
    if paired:
        return torch.tensor([1.0, 0.5, 0.8, 1.0] * 2 if "labels" in config.needs() else [1.0] * 8).double()
    return None


def leaves_of(outputs):
    """Return the outputs that belong to rows; the others are one number each."""
    found = {f.name: getattr(outputs, f.name) for f in fields(outputs)}
    return {k: v for k, v in found.items() if isinstance(v, torch.Tensor) and v.ndim}


def seen(outputs, batch):
    """Return the outputs of the batch's rows, which its uids name: credit may pick and reorder rows."""
    index, width = torch.tensor([int(u) for u in batch.uids], dtype=torch.long), batch.mask.shape[1]
    rows = {k: v[index] if v.ndim == 1 else v[index, :width] for k, v in leaves_of(outputs).items()}
    return replace(outputs, **rows)


def backward(name, config, batch, outputs, count=None):
    """Backpropagate the loop's loss of a credited batch; return every term, divided."""
    terms = algorithm_of(name).loss(seen(outputs, batch), batch, config)
    count = count or batch.count()
    sum(t.weight * t.total / count[t.unit].clamp(min=1) for t in terms).backward()
    return {t.name: (t.total / count[t.unit].clamp(min=1)).item() for t in terms}


def run(name, config=None, **how):
    config = config or algorithm_of(name).config()
    batch, outputs = example(name, config, **how)
    credited = algorithm_of(name).credit(batch, config)
    found = backward(name, config, credited, outputs)
    return found, {k: v.grad for k, v in leaves_of(outputs).items()}, credited


@each
def test_peer_25_masked_tokens_get_no_gradient_and_are_never_read(name):
    plain, expected, _ = run(name)
    found, grads, _ = run(name, filler=float("nan"))
    assert found == pytest.approx(plain)
    mask = example(name)[0].mask
    for key, grad in grads.items():
        if grad is not None:
            torch.testing.assert_close(grad, expected[key])
            assert grad.ndim == 1 or (grad[~mask] == 0).all()
    assert any(g is not None and g.abs().max() > 0 for g in grads.values())


@each
def test_peer_25_padding_changes_nothing(name):
    plain, expected, _ = run(name)
    found, grads, _ = run(name, pad=3, filler=float("nan"))
    assert found == pytest.approx(plain)
    for key, grad in grads.items():
        if grad is not None:
            torch.testing.assert_close(grad[:, : max(LENGTHS)] if grad.ndim == 2 else grad, expected[key])


def parts_by_rank(batch, num_parts, seed):
    """Deal the batch's units (pairs, groups) out to ranks at random."""
    units = batch.units()
    order = torch.randperm(len(units), generator=torch.Generator().manual_seed(seed)).tolist()
    dealt = [sorted(r for i in order[part::num_parts] for r in units[i]) for part in range(num_parts)]
    return [batch.rows(torch.tensor(rows)) for rows in dealt if rows]


@each
@pytest.mark.parametrize("max_tokens", [1, 7, 9, 12, 20, 10**6])
@pytest.mark.parametrize("num_ranks", [1, 2, 3])
def test_peer_01_any_split_gives_the_same_gradient(name, max_tokens, num_ranks):
    algorithm = algorithm_of(name)
    config = algorithm.config()
    whole, expected, _ = run(name)
    batch, outputs = example(name, config)
    batch = algorithm.credit(batch, config)
    count, found = batch.count(), dict.fromkeys(whole, 0.0)
    for part in parts_by_rank(batch, num_ranks, seed=max_tokens):
        for micro in part.split(max_tokens):
            for key, value in backward(name, config, micro, outputs, count).items():
                found[key] += value
    for key, leaf in leaves_of(outputs).items():
        if expected[key] is not None:
            torch.testing.assert_close(leaf.grad, expected[key])
    assert found == pytest.approx(whole)


@each
@pytest.mark.parametrize("gap", [50.0, -50.0, 500.0, -500.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_peer_15_extreme_log_ratios_stay_finite(name, gap, dtype):
    """With every coefficient that a log-ratio meets switched on."""
    algorithm = algorithm_of(name)
    rich = {
        "kl_coef": 0.1,
        "kl_estimator": "k3_ratio",
        "entropy_coef": 0.1,
        "dual_clip": 3.0,
        "missing_eos_penalty": 1.0,
    }
    config = algorithm.config(**{k: v for k, v in rich.items() if k in algorithm.config.model_fields})
    for moved in ("new", "old", "ref", "sampler"):
        batch, outputs = example(name, config, filler=float("inf"))
        batch = replace(batch, **{k: v.to(dtype) for k, v in vars_of(batch).items() if v.is_floating_point()})
        leaves = {k: v.detach().to(dtype) for k, v in leaves_of(outputs).items()}
        if moved == "new" and "logprobs" in leaves:
            leaves["logprobs"] = leaves["logprobs"] + gap
        key = f"{moved}_logprobs"
        if moved != "new" and getattr(batch, key) is not None:
            batch = replace(batch, **{key: getattr(batch, key) + gap})
        outputs = replace(outputs, **{k: v.requires_grad_() for k, v in leaves.items()})
        found = backward(name, config, algorithm.credit(batch, config), outputs)
        assert all(abs(v) < float("inf") for v in found.values()), found
        for leaf in leaves_of(outputs).values():
            assert leaf.grad is None or leaf.grad.isfinite().all()


def vars_of(batch):
    return {f.name: v for f in fields(batch) if isinstance(v := getattr(batch, f.name), torch.Tensor)}


@each
def test_what_is_not_needed_may_be_missing(name):
    """`example` fills only what `needs` names; old_logprobs go too, where one update is made."""
    algorithm = algorithm_of(name)
    config = algorithm.config()
    batch, outputs = example(name, config)
    if "old_logprobs" not in config.needs():
        batch = replace(batch, old_logprobs=None, sampler_logprobs=None)
    assert backward(name, config, algorithm.credit(batch, config), outputs)


@each
def test_a_missing_need_is_an_error(name):
    algorithm = algorithm_of(name)
    config = algorithm.config()
    batch, outputs = example(name, config)
    credited = algorithm.credit(batch, config)
    for need in sorted(config.needs() - {"entropy", "old_logprobs"}):
        with pytest.raises(ValueError, match="add it to the algorithm's needs"):
            if need in {f.name for f in fields(Batch)}:
                bare = algorithm.credit(replace(batch, **{need: None}), config)
                algorithm.loss(seen(outputs, bare), bare, config)
            else:
                algorithm.loss(seen(replace(outputs, **{need: None}), credited), credited, config)


@each
def test_names_its_source_in_record_and_docstring(name):
    module, source = plugins.load("algorithms", name), algorithm_of(name).source
    for paper in source.split("; "):
        assert paper.startswith(("arXiv:", "doi:"))  # doi: of what is older than arXiv
        assert paper.split()[0].removeprefix("arXiv:") in module.__doc__


@each
def test_metrics_carry_no_gradient(name):
    config = algorithm_of(name).config()
    batch, outputs = example(name, config)
    batch = algorithm_of(name).credit(batch, config)
    for term in algorithm_of(name).loss(seen(outputs, batch), batch, config):
        assert "/" in term.name
        assert term.total.ndim == 0
        assert term.weight != 0 or not term.total.requires_grad, term.name


@each
def test_options_are_described_bounded_and_round_trip(name):
    config = plugins.config_class("algorithms", name)
    assert config() == config.model_validate(config().model_dump())
    assert all(f.description for f in config.model_fields.values())
    assert config.data in typing.get_args(DataKind)
    assert len(config.learning_rate) == 2
    for key, field in config.model_fields.items():
        if field.annotation in (float, int):
            signed = (field.json_schema_extra or {}).get("signed", False)
            with nullcontext() if signed else pytest.raises(ValidationError):
                config(**{key: -1.0 if field.annotation is float else -1})
            with pytest.raises(ValidationError):
                config(**{key: float("nan")})


@each
def test_peer_30_an_unknown_option_is_an_error(name):
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        algorithm_of(name).config(no_such_option=1)


def test_a_config_is_read_without_torch():
    script = (
        "import sys\nfrom truing import plugins\n"
        "for name in plugins.names('algorithms'):\n"
        "    assert plugins.config_class('algorithms', name)().needs(), name\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


CANDIDATES = (None, False, True, 0, 0.01, 0.1, 0.5, 0.9, 1, 1.5, 2, 3, 6, 10, 30)


def alternatives(config_class, key):
    field = config_class.model_fields[key]
    literal = (
        typing.get_args(field.annotation) if typing.get_origin(field.annotation) is typing.Literal else ()
    )
    return [c for c in (field.default, *literal, *CANDIDATES) if valid(config_class, {key: c})]


def valid(config_class, options):
    try:
        config_class(**options)
    except ValidationError as error:
        return any("does nothing" in e["msg"] or "above" in e["msg"] for e in error.errors())
    return True


def fingerprint(name, config, seed=0):
    """Return everything that a method's options can change: needs, credit, terms, gradients, adaptation."""
    found, grads, batch = run(name, config, seed=seed)
    adapted = algorithm_of(name).adapt(config, dict.fromkeys(found, 8.0)).model_dump()
    changed = {k: v for k, v in adapted.items() if v != getattr(config, k)}
    tensors = [*vars_of(batch).values(), *(g for g in grads.values() if g is not None)]
    return str((sorted(config.needs()), found, [t.sum().item() for t in tensors], changed))


def has_effect(name, key):
    """Whether two values of an option differ in effect, alone or beside one other, on one of three examples."""
    config_class = algorithm_of(name).config
    others = [{}] + [
        {o: a} for o in config_class.model_fields if o != key for a in alternatives(config_class, o)
    ]
    for base, seed in [(base, seed) for seed in range(3) for base in others]:
        seen = set()
        for value in alternatives(config_class, key):
            try:
                seen.add(fingerprint(name, config_class(**{**base, key: value}), seed))
            except ValidationError:
                continue
            if len(seen) > 1:
                return True
    return False


OPTIONS = [(n, k) for n in plugins.names("algorithms") for k in algorithm_of(n).config.model_fields]


@pytest.mark.parametrize(("name", "key"), OPTIONS, ids=[f"{n}.{k}" for n, k in OPTIONS])
def test_peer_02_every_option_changes_something(name, key):
    extra = algorithm_of(name).config.model_fields[key].json_schema_extra or {}
    if extra.get("read_by") in ("collect", "learner"):
        return  # its effect is on which rollouts are drawn, or on the forward pass, and is tested there
    assert has_effect(name, key), f"{name}: '{key}' is accepted and ignored"


IGNORED = [
    ("score", {"alpha": 3.0}, "does nothing in stage 1"),
    ("score", {"stage": 2, "first_kl_coef": 0.2}, "does nothing in stage 2"),
    ("prime", {"prime_compat": True, "whiten_advantages": True}, "does nothing with prime_compat"),
    ("prime", {"accuracy_low": 0.0, "accuracy_high": 1.0, "max_resamples": 3}, "every group is trained"),
    ("prime", {"accuracy_low": 0.9}, "no group is left"),
    ("grpo", {"kl_estimator": "k2"}, "without kl_coef"),
    ("ppo", {"kl_horizon_steps": 10.0}, "without kl_target"),
    ("ppo", {"kl_target": 6.0, "kl_coef": 0.0}, "kl_coef is 0"),
    (
        "dapo",
        {"overlong_cache": 0, "max_tokens": 100},
        "without overlong_cache",
    ),
    ("dapo", {"dynamic_sampling": False, "max_resamples": 3}, "without dynamic_sampling"),
    ("dapo", {"max_tokens": 100}, "above max_tokens"),
    ("dapo", {"mismatch_cap": 0.0, "mismatch": "token_mask"}, "without mismatch_cap"),
    ("reinforce_pp_baseline", {"kl_coef": 0.0, "kl_estimator": "k3"}, "without kl_coef"),
    ("reinforce", {"baseline": "batch", "ema_decay": 0.5}, "unless baseline is 'ema'"),
    ("reinforce", {"baseline": "none", "running_return": 0.5}, "unless baseline is 'ema'"),
    ("grpo", {"kl_coef": 0.1, "kl_estimator": "k1"}, "k1 in the loss has gradient 0"),
    ("rloo", {"mismatch_cap": 0.5}, "a cap under 1 shrinks every weight"),
    ("f_dpo", {"alpha": 0.3}, "without divergence"),
    ("cpo", {"nll_weight": 0.0, "nll_reduction": "sum"}, "without nll_weight"),
    ("cpo", {"loss": "ipo", "label_smoothing": 0.1}, "with loss = 'ipo'"),
    ("kto", {"desirable_weight": 0.0, "undesirable_weight": 0.0}, "nothing to learn"),
    ("rebel", {"form": "paper"}, "while eta is 1"),
]


@pytest.mark.parametrize(("name", "options", "message"), IGNORED)
def test_peer_02_an_option_that_does_nothing_is_an_error(name, options, message):
    with pytest.raises(ValidationError, match=message):
        algorithm_of(name).config(**options)


PAPERS = [
    ("score", {"alpha": 10.0, "first_kl_coef": 0.1, "kl_coef": 0.01}),
    ("prime", {"beta": 0.05, "accuracy_low": 0.2, "accuracy_high": 0.8, "clip_low": 0.2, "clip_high": 0.2}),
    ("grpo", {"clip_low": 0.2, "clip_high": 0.2, "scale_rewards": "group", "kl_estimator": "k3"}),
    ("dapo", {"clip_low": 0.2, "clip_high": 0.28, "max_tokens": 20480, "overlong_cache": 4096}),
    ("dapo", {"dynamic_sampling": True, "max_resamples": 10}),
    ("dr_grpo", {"max_tokens": 3000, "clip_low": 0.2, "clip_high": 0.2}),
    ("gspo", {"clip_low": 3e-4, "clip_high": 4e-4, "scale_rewards": "group"}),
    ("luspo", {"clip_low": 3e-4, "clip_high": 4e-4}),
    ("cispo", {"ratio_max": 5.0, "ratio_min": 0.0}),
    ("sapo", {"temperature_positive": 1.0, "temperature_negative": 1.05}),
    ("gmpo", {"clip_log_low": 0.4, "clip_log_high": 0.4}),
    ("vespo", {"k_positive": 2.0, "lambda_positive": 3.0, "k_negative": 3.0, "lambda_negative": 2.0}),
    ("rloo", {"normalize": False, "ratio_level": "token"}),
    ("reinforce", {"baseline": "ema"}),
    ("reinforce_pp", {"kl_coef": 0.01, "discount": 1.0, "clip_low": 0.2, "clip_high": 0.2}),
    ("reinforce_pp_baseline", {"kl_estimator": "k2", "clip_low": 0.2, "clip_high": 0.2}),
    ("decoupled_ppo", {"clip_low": 0.2, "clip_high": 0.2, "mismatch": "token_mask", "mismatch_cap": 5.0}),
    ("distillation", {"discount": 0.0}),
    ("ppo", {"clip_low": 0.2, "clip_high": 0.2, "clip_value": 0.2, "discount": 1.0, "gae_lambda": 0.95}),
    ("dpo", {"beta": 0.1, "label_smoothing": 0.0, "use_labels": False}),
    ("ipo", {"tau": 0.1, "reduction": "sum"}),
    ("online_dpo", {"beta": 0.1, "loss": "sigmoid", "ties": "drop"}),
    ("iterative_dpo", {"beta": 0.1, "anchor": "round"}),
    ("spin", {"beta": 0.1}),
    ("sppo", {"eta": 1e3, "completions": "extremes"}),
    ("rebel", {"eta": 1.0, "kl_coef": 0.0}),
    ("xpo", {"beta": 0.1, "xpo_alpha": 1e-5}),
    ("nash_md", {"beta": 0.1, "mixture": 0.5}),
    ("rejection_sampling", {"keep": 1, "min_reward": None}),
    ("ln_dpo", {"beta": 5.0}),
    ("rpo", {"beta": 0.1, "nll_weight": 1.0, "nll_reduction": "sequence_mean"}),
    ("discopop", {"tau": 0.05}),
    ("ld_dpo", {"alpha": 0.5}),
    ("wpo", {"max_weight": 0.0}),
    ("orpo", {"lambda_or": 0.1, "nll_scope": "response"}),
    ("simpo", {"beta": 2.0, "gamma_over_beta": 0.5, "nll_weight": 0.0}),
    ("cpo", {"beta": 0.1, "nll_weight": 1.0, "loss": "sigmoid"}),
    ("alphapo", {"alpha": 0.25}),
    ("reward_model", {"use_margin": False, "centering_coef": 0.0, "use_labels": False}),
    ("plackett_luce", {"top_m": 0}),
    ("thurstone", {"scale": 1.0}),
    ("process_reward", {"reduction": "step_mean"}),
    ("implicit_process_reward", {"beta": 0.05}),
    ("odin", {"length_coef": 1.0, "overlap_coef": 1.0}),
    ("kto", {"beta": 0.1, "desirable_weight": 1.0, "undesirable_weight": 1.0, "kl_estimate": "mismatched"}),
    ("sft", {"loss": "nll", "reduction": "token_mean", "neftune_alpha": 0.0}),
]


@pytest.mark.parametrize(("name", "constants"), PAPERS)
def test_peer_36_defaults_are_the_paper_s(name, constants):
    config = algorithm_of(name).config()
    assert {k: getattr(config, k) for k in constants} == constants
