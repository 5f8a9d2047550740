from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from truing.config import LearnerConfig
from truing.errors import CheckpointError, ConfigError, ModelError, NonFiniteError
from truing.model.adapters import add_lora
from truing.model.heads import ScalarModel
from truing.train import learner as module
from truing.train.learner import TorchLearner
from truing.types import Batch, Outputs

LOGPROBS = frozenset({"logprobs"})
BF16 = torch.bfloat16


def tiny(tied=False):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        tie_word_embeddings=tied,
    )
    return LlamaForCausalLM(config)


def batch(rows=4, seed=0):
    g = torch.Generator().manual_seed(seed)
    lengths = torch.tensor([3 + i % 3 for i in range(rows)])
    mask = torch.arange(5) < lengths[:, None]
    return Batch(
        prompts=tuple(torch.randint(0, 64, (4,), generator=g) for _ in range(rows)),
        completions=torch.randint(0, 64, (rows, 5), generator=g) * mask,
        lengths=lengths,
        mask=mask,
        groups=torch.arange(rows),
        uids=tuple(f"row-{i}" for i in range(rows)),
    )


def make(policy=None, *, dtype=torch.float32, critic=None, scorer=None, updates=10, lr=1e-2, **options):
    options = {"schedule": "constant", "warmup": 0.0, **options}
    return TorchLearner(
        policy=policy,
        critic=critic,
        scorer=scorer,
        config=LearnerConfig(**options),
        learning_rate=lr,
        num_updates=updates,
        compute_dtype=dtype,
    )


def nll(outputs, micro):
    return -(outputs.require("logprobs") * micro.mask).sum()


def update(learner, micros, count=1.0, needs=LOGPROBS, loss=nll):
    for micro in micros:
        learner.backward(loss(learner.forward(micro, needs), micro) / count)
    learner.optimizer_step()


def weights(learner, network="policy"):
    return {n: w.clone() for n, w in learner.master_weights(network).items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a)


def gradients(learner, micros):
    for micro in micros:
        learner.backward(nll(learner.forward(micro, LOGPROBS), micro))
    return {n: m.grad.float() for n, m in learner._optimizer.masters["policy"].items()}


def test_an_update_is_adamw_on_the_clipped_gradient():
    learner, plain = make(tiny(), max_grad_norm=0.5, weight_decay=0.1), tiny()
    decayed = [p for n, p in plain.named_parameters() if p.ndim == 2 and "embed" not in n]
    other = [p for n, p in plain.named_parameters() if p.ndim != 2 or "embed" in n]
    adam = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.1}, {"params": other, "weight_decay": 0.0}], lr=1e-2
    )
    for seed in range(3):
        data = batch(seed=seed)
        update(learner, [data])
        nll(Outputs(module.policy_outputs(plain, data)[0]), data).backward()
        norm = torch.nn.utils.clip_grad_norm_(plain.parameters(), 0.5)
        adam.step()
        adam.zero_grad()
        assert learner.metrics()["train/grad_norm"].item() == pytest.approx(norm.item(), rel=1e-4)
    expected = dict(plain.named_parameters())
    for name, weight in weights(learner).items():
        torch.testing.assert_close(weight, expected[name].detach(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, BF16])
def test_peer_01_gradients_do_not_depend_on_the_split(dtype):
    data = batch(6)
    whole = gradients(make(tiny(), dtype=dtype), [data])
    parts = gradients(make(tiny(), dtype=dtype), [data.rows(torch.tensor([i])) for i in range(6)])
    # in bfloat16 each micro-batch's own gradient is rounded to 8 bits; their sum is not
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    for name, gradient in whole.items():
        assert (gradient - parts[name]).norm() <= tolerance * gradient.norm(), name


def test_bf16_gradients_add_up_in_float32():
    learner, data = make(tiny(), dtype=BF16), batch(1)
    once = gradients(learner, [data])
    learner._optimizer.drop_gradients()
    many = gradients(learner, [data] * 300)  # bfloat16 sums stop growing at 256 times a summand
    for name, gradient in once.items():
        torch.testing.assert_close(many[name], 300 * gradient, rtol=1e-4, atol=0)


def test_bf16_keeps_float32_masters_and_frees_parameter_gradients():
    policy = tiny(tied=True)
    start = {n: p.detach().clone() for n, p in policy.named_parameters()}
    learner = make(policy, dtype=BF16, lr=1e-6)
    assert same(weights(learner), start)
    assert policy.lm_head.weight is policy.model.embed_tokens.weight
    update(learner, [batch()])
    assert {p.dtype for p in policy.parameters()} == {BF16}
    assert all(p.grad is None for p in policy.parameters())
    moved = weights(learner)
    assert all(w.dtype == torch.float32 for w in moved.values())
    steps = torch.cat([(moved[n] - start[n]).abs().flatten() for n in start])
    assert steps.max() == pytest.approx(1e-6, rel=0.1), "too small for bfloat16, kept by the masters"
    for name, parameter in policy.named_parameters():
        assert torch.equal(parameter, moved[name].to(BF16))


def test_bf16_memory_is_18_bytes_a_trained_parameter():
    policy = tiny()
    learner = make(policy, dtype=BF16)
    update(learner, [batch()])
    count = sum(p.numel() for p in policy.parameters())
    for expected in (16, 18, 18):  # one micro-batch has nothing to add its gradient to
        learner.backward(nll(learner.forward(batch(), LOGPROBS), batch()))
        tensors = [
            *policy.parameters(),
            *(v for k, v in learner.state_dict()["tensors"].items() if "step" not in k),
        ]
        tensors += learner._optimizer.gradients("policy")
        assert sum(t.numel() * t.element_size() for t in tensors) == expected * count


def test_rotary_buffers_keep_float32():
    policy = tiny()
    make(policy, dtype=BF16)
    assert policy.model.rotary_emb.inv_freq.dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float32, BF16])
def test_lora_trains_the_adapter_only(dtype):
    policy = add_lora(tiny(), rank=4, alpha=8.0)
    learner = make(policy, dtype=dtype)
    frozen = {n: p.detach().clone() for n, p in policy.named_parameters() if "lora_" not in n}
    before = weights(learner)
    for seed in range(2):
        update(learner, [batch(seed=seed)])
    assert all("lora_" in n for n in before)
    assert all(not torch.equal(w, before[n]) for n, w in weights(learner).items())
    assert all(torch.equal(p, frozen[n]) for n, p in policy.named_parameters() if n in frozen)
    assert {p.dtype for p in policy.parameters()} == {dtype}


def test_gradient_hooks_survive_the_adapter_being_switched_off_and_on():
    policy = add_lora(tiny(), rank=4, alpha=8.0)
    learner = make(policy, dtype=BF16)
    with policy.disable_adapter():
        pass
    before = weights(learner)
    update(learner, [batch()])
    assert not same(weights(learner), before)


def test_the_loss_falls():
    learner, data, seen = make(tiny(), lr=1e-2), batch(), []
    for _ in range(12):
        with torch.no_grad():
            seen.append(float(nll(learner.forward(data, LOGPROBS), data)))
        update(learner, [data])
    assert seen[-1] < 0.5 * seen[0]


def test_forward_computes_only_what_is_needed():
    learner = make(tiny(), critic=ScalarModel.from_causal(tiny()))
    outputs = learner.forward(batch(), frozenset({"logprobs", "ref_logprobs", "old_logprobs"}))
    assert (outputs.entropy, outputs.values, outputs.scores) == (None, None, None)
    outputs = learner.forward(batch(), frozenset({"logprobs", "entropy", "values"}))
    assert outputs.logprobs.shape == outputs.entropy.shape == outputs.values.shape == (4, 5)
    with pytest.raises(ConfigError, match="scores"):
        learner.forward(batch(), frozenset({"scores"}))
    with torch.no_grad():
        assert not learner.forward(batch(), LOGPROBS).logprobs.requires_grad


def test_the_scorer_learns_to_rank():
    learner = make(scorer=ScalarModel.from_causal(tiny()), dtype=BF16, lr=3e-3)
    data = replace(batch(), paired=True)

    def loss(outputs, micro):
        chosen, rejected = outputs.require("scores").chunk(2)
        return -torch.nn.functional.logsigmoid(chosen - rejected).sum()

    for _ in range(15):
        update(learner, [data], needs=frozenset({"scores"}), loss=loss)
    with torch.no_grad():
        chosen, rejected = learner.forward(data, frozenset({"scores"})).scores.chunk(2)
    assert (chosen > rejected).all()
    assert learner.scorer.head.weight.dtype == torch.float32
    assert "train/grad_norm" in learner.metrics()


@pytest.mark.parametrize("dtype", [torch.float32, BF16])
def test_a_scorer_with_an_adapter_trains_adapter_and_head(dtype):
    scorer = ScalarModel.from_causal(tiny())
    scorer.backbone = add_lora(scorer.backbone, rank=4, alpha=8.0)
    learner = make(scorer=scorer, dtype=dtype, activation_checkpointing=True)
    before = weights(learner, "scorer")
    for _ in range(3):  # the head starts at 0, then B, then A
        update(learner, [batch()], needs=frozenset({"scores"}), loss=lambda o, micro: o.scores.sum())
    assert {"lora_" in n or n.startswith("head.") for n in before} == {True}
    assert all(not torch.equal(w, before[n]) for n, w in weights(learner, "scorer").items())


def test_the_critic_has_its_own_rate_and_its_own_clipping():
    policy, critic = tiny(), ScalarModel.from_causal(tiny())
    learner = make(policy, critic=critic, critic_learning_rate=1e-4, max_grad_norm=1e-3)

    def loss(outputs, micro):
        return nll(outputs, micro) + 1e6 * ((outputs.require("values") - 1) ** 2 * micro.mask).sum()

    before = weights(learner), weights(learner, "critic")
    update(learner, [batch()], needs=frozenset({"logprobs", "values"}), loss=loss)
    moved = [
        max((now[n] - then[n]).abs().max().item() for n in now)
        for now, then in zip((weights(learner), weights(learner, "critic")), before, strict=True)
    ]
    assert moved == pytest.approx([1e-2, 1e-4], rel=0.02)
    found = learner.metrics()
    assert found["train/critic_grad_norm"] > 1e3 * found["train/grad_norm"]
    assert found["train/critic_learning_rate"] == pytest.approx(1e-4)
    assert found["train/clipped_fraction"] == 1.0


def test_metrics_are_means_over_the_updates_and_reset():
    learner = make(tiny(), schedule="linear", updates=4)
    for _ in range(2):
        update(learner, [batch()])
    found = learner.metrics()
    assert found["train/learning_rate"] == pytest.approx((1e-2 + 0.75e-2) / 2)
    assert found["train/num_updates"] == 2.0
    update(learner, [batch()])
    assert learner.metrics()["train/learning_rate"] == pytest.approx(0.5e-2)
    assert learner.metrics() == {"train/num_updates": 3.0}


def poisoned(monkeypatch, row):
    """Make the forward pass give NaN on one row."""
    real = module.policy_outputs

    def outputs(model, data, **options):
        logprobs, entropy = real(model, data, **options)
        bad = torch.tensor([uid == row for uid in data.uids])
        return torch.where(bad[:, None], torch.nan, logprobs), entropy

    monkeypatch.setattr(module, "policy_outputs", outputs)


def state_of(learner):
    state = learner.state_dict()
    return {n: t.clone() for n, t in state["tensors"].items()}, state["json"]


@pytest.mark.parametrize("dtype", [torch.float32, BF16])
def test_a_nonfinite_loss_names_its_rows_and_leaves_no_half_state(monkeypatch, dtype):
    learner, data = make(tiny(), dtype=dtype), batch(6)
    micros = [data.rows(torch.tensor(i)) for i in ([0, 1, 2], [3, 4, 5])]
    update(learner, micros)
    before = state_of(learner)
    with monkeypatch.context() as patch:
        poisoned(patch, "row-4")
        with pytest.raises(
            NonFiniteError, match=r"update 1 .*micro-batch 2 of 2 .*logprobs of 'row-4'"
        ) as error:
            update(learner, micros)
    assert "row-3" not in str(error.value)
    after = state_of(learner)
    assert same(before[0], after[0])
    assert before[1] == after[1]
    twin = make(tiny(), dtype=dtype)
    for one in (learner, twin):
        update(one, micros)
    update(twin, micros)
    assert same(weights(learner), weights(twin)), "the refused update left something behind"


def test_a_nonfinite_gradient_of_a_finite_loss_names_its_row():
    learner, data = make(tiny()), batch()

    def loss(outputs, micro):  # sqrt has an infinite slope at 0
        zero = (outputs.require("logprobs") * 0)[2].sum()
        return nll(outputs, micro) + torch.sqrt(zero)

    before = weights(learner)
    with pytest.raises(
        NonFiniteError, match=r"gradient of logprobs of 'row-2'.*Gradients that are not finite"
    ):
        update(learner, [data], loss=loss)
    assert same(weights(learner), before)


def test_nan_under_the_mask_is_not_blamed(monkeypatch):
    learner, data = make(tiny()), batch()
    real = module.policy_outputs

    def outputs(model, micro, **options):
        logprobs, entropy = real(model, micro, **options)
        return torch.where(micro.mask, logprobs, torch.nan), entropy

    monkeypatch.setattr(module, "policy_outputs", outputs)

    def loss(found, micro):
        kept = torch.where(micro.mask, found.logprobs, 0.0)
        return -(kept.sum() + torch.tensor(math.inf) * (torch.tensor(micro.uids == data.uids)))

    with pytest.raises(NonFiniteError, match="only the loss, over 'row-0', 'row-1'"):
        update(learner, [data], loss=loss)


def test_a_loss_that_reaches_no_weight_is_an_error():
    learner = make(tiny())
    with pytest.raises(ModelError, match="no trained parameter"):
        update(learner, [batch()], loss=lambda outputs, micro: outputs.logprobs.detach().sum())


def test_an_update_without_trained_tokens_moves_nothing():
    learner, data = make(tiny()), batch()
    empty = replace(data, mask=torch.zeros_like(data.mask))
    before = weights(learner)
    update(learner, [empty], loss=lambda outputs, micro: 0)
    assert same(weights(learner), before)


@pytest.mark.parametrize("dtype", [torch.float32, BF16])
def test_peer_19_a_restored_learner_goes_on_bit_for_bit(dtype):
    def fresh():
        policy = add_lora(tiny(), rank=4, alpha=8.0)
        return make(
            policy, dtype=dtype, critic=ScalarModel.from_causal(tiny()), schedule="cosine", warmup=0.3
        )

    def loss(outputs, micro):
        return nll(outputs, micro) + (outputs.require("values") ** 2 * micro.mask).sum()

    needs = frozenset({"logprobs", "values"})
    whole, first, second = fresh(), fresh(), fresh()
    for seed in range(5):
        update(whole, [batch(seed=seed)], needs=needs, loss=loss)
    for seed in range(3):
        update(first, [batch(seed=seed)], needs=needs, loss=loss)
    tensors, counts = state_of(first)
    second.load_state_dict({"tensors": tensors, "json": counts})
    for seed in range(3, 5):
        update(second, [batch(seed=seed)], needs=needs, loss=loss)
    assert same(state_of(whole)[0], state_of(second)[0])
    assert all(
        torch.equal(a, b) for a, b in zip(whole.policy.parameters(), second.policy.parameters(), strict=True)
    )


def test_a_state_before_the_first_update_is_restored_too():
    learner, other = make(tiny()), make(tiny())
    update(other, [batch()])
    tensors, counts = state_of(learner)
    other.load_state_dict({"tensors": tensors, "json": counts})
    assert same(state_of(other)[0], tensors)


def test_a_state_of_another_model_is_refused_and_changes_nothing():
    learner, other = make(tiny()), make(add_lora(tiny(), rank=4, alpha=8.0))
    update(other, [batch()])
    before = weights(learner)
    with pytest.raises(CheckpointError, match="another model or adapter"):
        learner.load_state_dict(other.state_dict())
    tensors, counts = state_of(learner)
    tensors["policy/master/lm_head.weight"] = torch.zeros(3)
    with pytest.raises(CheckpointError, match="other shape 1"):
        learner.load_state_dict({"tensors": tensors, "json": counts})
    assert same(weights(learner), before)


@pytest.mark.parametrize("lora", [False, True])
def test_activation_checkpointing_changes_no_gradient(lora):
    def learner(on):
        policy = add_lora(tiny(), rank=4, alpha=8.0) if lora else tiny()
        return make(policy, activation_checkpointing=on)

    plain, recomputed = (gradients(learner(on), [batch()]) for on in (False, True))
    for name, gradient in plain.items():
        torch.testing.assert_close(recomputed[name], gradient)


def test_activation_checkpointing_recomputes_layers():
    policy, calls = tiny(), []
    learner = make(policy, activation_checkpointing=True)
    learner.forward(batch(1), LOGPROBS)  # the first call checks the family with forward passes of its own
    policy.model.layers[0].self_attn.register_forward_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        learner.forward(batch(1), LOGPROBS)
    once = len(calls)
    calls.clear()
    learner.backward(nll(learner.forward(batch(1), LOGPROBS), batch(1)))
    assert len(calls) == 2 * once


def test_dropout_of_a_pretrained_model_is_off_and_of_lora_acts_only_with_gradient():
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=2, n_positions=32)
    assert config.resid_pdrop > 0
    for checkpointing in (False, True):
        learner = make(GPT2LMHeadModel(config).train(), activation_checkpointing=checkpointing)
        a, b = (learner.forward(batch(), LOGPROBS).logprobs for _ in range(2))
        assert torch.equal(a, b)
    policy = add_lora(tiny(), rank=4, alpha=8.0, dropout=0.5)
    learner = make(policy, lr=0.1)
    update(learner, [batch()])
    assert not any(m.training for m in policy.modules()), "a sampler would draw with dropout"
    a, b = (learner.forward(batch(), LOGPROBS).logprobs for _ in range(2))
    assert not torch.equal(a, b)
    with torch.no_grad():
        c, d = (learner.forward(batch(), LOGPROBS).logprobs for _ in range(2))
    assert torch.equal(c, d)
    assert not any(m.training for m in policy.modules())


def test_release_leaves_the_float32_masters_in_the_networks():
    policy = tiny()
    learner = make(policy, dtype=BF16, lr=1e-6)
    update(learner, [batch()])
    expected = weights(learner)
    learner.release()
    assert same({n: p.detach() for n, p in policy.named_parameters()}, expected)
    assert same(weights(learner), expected)


def test_networks_are_checked():
    with pytest.raises(ConfigError, match="policy or a scorer"):
        make(critic=ScalarModel.from_causal(tiny()))
    with pytest.raises(ModelError, match="requires a gradient"):
        make(tiny().requires_grad_(False))
    policy = tiny()
    with pytest.raises(ModelError, match="its own copy"):
        make(policy, critic=ScalarModel.from_causal(policy))
