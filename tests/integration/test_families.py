"""Each model family gives the same loss and gradients as a forest and as a plain padded batch."""

from __future__ import annotations

import logging
import re
import threading

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM

from truing.errors import DataError, ModelError
from truing.model import support
from truing.model.forward import policy_outputs, sequence_scores, token_values
from truing.model.heads import ScalarModel, backbone_of, lm_head_of
from truing.types import Batch

VOCABULARY = 96
SMALL = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "tie_word_embeddings": False,
}
LOCAL = {"sliding_window": 7}
FAMILIES = {
    "llama": ("llama", {}),
    "llama_tied": ("llama", {"tie_word_embeddings": True}),
    "qwen2": ("qwen2", {}),
    "qwen2_window": ("qwen2", {**LOCAL, "use_sliding_window": True, "max_window_layers": 1}),
    "qwen3": ("qwen3", {}),
    "mistral": ("mistral", LOCAL),
    "gemma2": (
        "gemma2",
        {**LOCAL, "query_pre_attn_scalar": 8, "attn_logit_softcapping": 0.5, "final_logit_softcapping": 0.7},
    ),
    "gemma3_text": (
        "gemma3_text",
        {**LOCAL, "tie_word_embeddings": True, "layer_types": ["sliding_attention", "full_attention"]},
    ),
    "phi3": ("phi3", {"sliding_window": None}),
    "phi": ("phi", {}),
    "granite": ("granite", {"logits_scaling": 4.0, "attention_multiplier": 0.2}),
    "cohere": ("cohere", {"logit_scale": 0.3}),
    "olmo2": ("olmo2", {}),
    "mixtral": ("mixtral", {"num_local_experts": 4, "sliding_window": None}),
    "qwen3_moe": (
        "qwen3_moe",
        {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24, "decoder_sparse_step": 1},
    ),
    "gpt2": ("gpt2", {"n_embd": 32, "n_layer": 2, "n_head": 4}),
}


def make_model(family, **changes):
    model_type, options = FAMILIES[family]
    torch.manual_seed(0)
    config = AutoConfig.for_model(model_type, **{**SMALL, **options, **changes})
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():  # larger than at initialisation, so that attention matters
            parameter.add_(torch.randn_like(parameter), alpha=0.15)
    return model.eval()


def make_batch(rows, mask=None, paired=False):
    """Return a batch of (prompt ids, completion ids) rows."""
    lengths = torch.tensor([len(c) for _, c in rows])
    completions = torch.zeros(len(rows), int(lengths.max()), dtype=torch.long)
    for i, (_, completion) in enumerate(rows):
        completions[i, : len(completion)] = torch.tensor(completion, dtype=torch.long)
    trained = torch.arange(completions.shape[1]) < lengths[:, None]
    return Batch(
        prompts=tuple(torch.tensor(p, dtype=torch.long) for p, _ in rows),
        completions=completions,
        lengths=lengths,
        mask=trained if mask is None else trained & mask(trained.shape),
        groups=torch.zeros(len(rows), dtype=torch.long),
        paired=paired,
    )


def ids(count, seed):
    return torch.randint(3, VOCABULARY, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


def mixed_rows():
    """Two groups of unequal prompts and completions, a packed document, and shared beginnings."""
    first, second = ids(17, 1), ids(5, 2)
    return [
        (first, ids(9, 3)),
        (first, ids(4, 4)),
        (second, ids(1, 5)),
        (second, [*ids(3, 6), *ids(6, 7)]),
        (second, [*ids(3, 6), *ids(2, 8)]),  # shares three completion tokens with its sibling
        (ids(1, 9), ids(12, 10)),  # a prompt of one token
    ]


def losses_and_gradients(model, batch, path, **options):
    model.zero_grad(set_to_none=True)
    logprobs, entropy = policy_outputs(model, batch, path=path, **options)
    weights = torch.randn(logprobs.shape, generator=torch.Generator().manual_seed(7))
    loss = (logprobs * weights).sum()
    if entropy is not None:
        loss = loss + 0.3 * (entropy * weights).sum()
    loss.backward()
    gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    return logprobs.detach(), entropy, gradients


def assert_same(model, batch, relative=1e-5, **options):
    found, _, found_gradients = losses_and_gradients(model, batch, "forest", **options)
    wanted, _, wanted_gradients = losses_and_gradients(model, batch, "padded", **options)
    assert wanted[batch.mask].abs().min() > 0
    assert not found[~batch.mask].any()
    assert (found - wanted).norm() <= relative * wanted.norm()
    assert found_gradients.keys() == wanted_gradients.keys()
    noise = 1e-7 * max(gradient.norm() for gradient in wanted_gradients.values())
    for name, wanted_gradient in wanted_gradients.items():
        error = (found_gradients[name] - wanted_gradient).norm()
        assert error <= relative * wanted_gradient.norm() + noise, f"{name}: {error / wanted_gradient.norm()}"
    return wanted_gradients


@pytest.mark.parametrize("family", FAMILIES)
def test_forest_equals_padded(family):
    model = make_model(family)
    gradients = assert_same(model, make_batch(mixed_rows()), temperature=0.8, entropy=True)
    unused = {n for n, p in model.named_parameters() if p.requires_grad} - gradients.keys()
    assert not unused


@pytest.mark.parametrize("family", FAMILIES)
def test_padded_equals_the_models_own_log_softmax(family):
    model, batch = make_model(family), make_batch(mixed_rows())
    found, entropy = policy_outputs(model, batch, path="padded", entropy=True)
    for i, (prompt, completion) in enumerate(mixed_rows()):
        logits = model(input_ids=torch.tensor([prompt + completion])).logits[0, len(prompt) - 1 : -1]
        log_p = logits.float().log_softmax(-1)
        wanted = log_p.gather(1, torch.tensor(completion)[:, None])[:, 0]
        torch.testing.assert_close(found[i, : len(completion)], wanted, rtol=1e-5, atol=2e-5)
        torch.testing.assert_close(
            entropy[i, : len(completion)], -(log_p.exp() * log_p).sum(1), rtol=1e-5, atol=2e-5
        )


@pytest.mark.parametrize("family", ["llama", "mistral", "gemma2"])
def test_nested_beginnings_of_depth_four(family):
    trunk, turn, branch = ids(6, 1), ids(5, 2), ids(4, 3)
    rows = [
        (trunk, [*turn, *branch, *ids(3, 4)]),
        (trunk, [*turn, *branch, *ids(3, 5)]),
        ([*trunk, *turn], [*branch, *ids(3, 4), *ids(7, 6)]),  # the first row goes on: a deeper leaf
        ([*trunk, *turn], ids(8, 7)),
        (trunk, ids(2, 8)),
        (trunk, [*turn, *branch, *ids(3, 4)]),  # equal to the first
        (ids(3, 9), ids(3, 10)),
    ]
    assert_same(make_model(family), make_batch(rows))


@pytest.mark.parametrize("family", ["llama", "mistral"])
def test_holes_in_the_mask(family):
    batch = make_batch(mixed_rows(), mask=lambda shape: torch.arange(shape[1]) % 3 != 1)
    assert_same(make_model(family), batch)


def test_a_row_without_trained_tokens_gives_zeros():
    batch = make_batch(mixed_rows(), mask=lambda shape: (torch.arange(shape[0]) != 2)[:, None].expand(shape))
    assert_same(make_model("llama"), batch)
    nothing = make_batch(mixed_rows(), mask=lambda shape: torch.zeros(shape, dtype=torch.bool))
    logprobs, entropy = policy_outputs(make_model("llama"), nothing, entropy=True)
    logprobs.sum().backward()
    assert not logprobs.any() and not entropy.any()


def test_single_tokens_everywhere():
    assert_same(make_model("llama"), make_batch([([5], [6]), ([5], [7]), ([8], [6])]))


def test_a_preference_pair_that_begins_alike():
    prompt, start = ids(8, 1), ids(6, 2)
    rows = [(prompt, [*start, *ids(5, 3)]), (prompt, [*start, *ids(3, 4)])]
    assert_same(make_model("qwen3"), make_batch(rows, paired=True))


def test_peer_24_packed_documents_do_not_attend_to_each_other():
    model, rows = make_model("llama"), [(ids(n, n), ids(n + 2, n + 50)) for n in (3, 9, 6, 1)]
    together, _ = policy_outputs(model, make_batch(rows), path="forest")
    for i, row in enumerate(rows):
        alone, _ = policy_outputs(model, make_batch([row]), path="forest")
        torch.testing.assert_close(together[i, : len(row[1])], alone[0], rtol=1e-5, atol=1e-5)


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")  # peft reads the old name
@pytest.mark.parametrize("family", ["llama", "gemma3_text"])
def test_lora_gradients(family):
    model = get_peft_model(make_model(family), LoraConfig(r=4, target_modules="all-linear"))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    gradients = assert_same(model, make_batch(mixed_rows()))
    assert gradients and all("lora" in name for name in gradients)


def checkpointing(model, **options):
    if hasattr(model, "activation_checkpointing_enable"):
        model.activation_checkpointing_enable(options)
    else:
        model.gradient_checkpointing_enable(options)
    return model.train()


@pytest.mark.parametrize("family", ["llama", "mistral", "gemma2"])
def test_activation_checkpointing(family):
    batch = make_batch(mixed_rows())
    _, _, wanted = losses_and_gradients(make_model(family), batch, "padded")
    model = checkpointing(make_model(family), use_reentrant=False)
    before = {
        m: m._gradient_checkpointing_func
        for m in model.modules()
        if hasattr(m, "_gradient_checkpointing_func")
    }
    _, _, found = losses_and_gradients(model, batch, "forest")
    for name, gradient in wanted.items():
        assert (found[name] - gradient).norm() <= 1e-5 * gradient.norm() + 1e-7
    assert model.config._attn_implementation != "truing_forest"
    assert all(m._gradient_checkpointing_func is function for m, function in before.items())


def test_checkpointing_runs_layers_again(monkeypatch):
    from truing.model import interface

    calls = []
    monkeypatch.setattr(
        interface, "attend", lambda *a, attend=interface.attend, **k: calls.append(1) or attend(*a, **k)
    )
    model = checkpointing(make_model("llama"), use_reentrant=False)
    losses_and_gradients(model, make_batch(mixed_rows()), "forest")
    assert len(calls) == 2 * model.config.num_hidden_layers


def test_reentrant_checkpointing_is_refused():
    model = checkpointing(make_model("llama"), use_reentrant=True)
    with pytest.raises(ModelError, match="use_reentrant"):
        policy_outputs(model, make_batch(mixed_rows()), path="forest")
    assert model.config._attn_implementation != "truing_forest"


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_generate_is_as_before_after_a_forest_pass(family):
    model = make_model(family)
    prompt = torch.tensor([ids(6, 1)])
    before = model.generate(prompt, max_new_tokens=5, do_sample=False)
    implementation = model.config._attn_implementation
    losses_and_gradients(model, make_batch(mixed_rows()), "forest")
    assert model.config._attn_implementation == implementation
    assert torch.equal(model.generate(prompt, max_new_tokens=5, do_sample=False), before)


def test_an_error_in_the_model_leaves_no_forest_behind(monkeypatch):
    model = make_model("llama")
    policy_outputs(model, make_batch(mixed_rows()))
    monkeypatch.setattr(model.model.norm, "forward", lambda x: (_ for _ in ()).throw(RuntimeError("broken")))
    with pytest.raises(RuntimeError, match="broken"):
        policy_outputs(model, make_batch(mixed_rows()))
    assert model.config._attn_implementation != "truing_forest"


def test_threads_share_a_model():
    model, errors = make_model("llama"), []
    batches = [make_batch(mixed_rows()[i:]) for i in range(4)]
    wanted = [policy_outputs(model, b)[0].detach() for b in batches]

    def work(batch, expected):
        for _ in range(5):
            found, _ = policy_outputs(model, batch)
            if not torch.allclose(found, expected, atol=1e-5):
                errors.append(float((found - expected).abs().max()))

    threads = [threading.Thread(target=work, args=pair) for pair in zip(batches, wanted, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors


def test_bfloat16_is_near_float32():
    batch, model = make_batch(mixed_rows()), make_model("llama")
    wanted, _ = policy_outputs(model, batch)
    with torch.autocast("cpu", torch.bfloat16):
        mixed, _ = policy_outputs(model, batch)
    low, _, gradients = losses_and_gradients(model.bfloat16(), batch, "forest")
    for found in (mixed, low):
        assert found.dtype == torch.float32
        assert (found - wanted).norm() < 0.05 * wanted.norm()
    assert all(g.isfinite().all() for g in gradients.values())


def test_dropout_is_drawn_only_in_training():
    model, batch = make_model("llama", attention_dropout=0.5), make_batch(mixed_rows())
    steady = [policy_outputs(model, batch)[0] for _ in range(2)]
    assert torch.equal(*steady)
    model.train()
    assert not torch.equal(*[policy_outputs(model, batch)[0] for _ in range(2)])


def test_policy_outputs_are_read_where_the_mask_is_true_only():
    model, batch = make_model("llama"), make_batch(mixed_rows())
    logprobs, entropy = policy_outputs(model, batch)
    assert entropy is None and logprobs.shape == batch.completions.shape
    assert (logprobs[batch.mask] < 0).all() and not logprobs[~batch.mask].any()


def test_an_empty_prompt_is_an_error_only_where_it_is_read():
    with pytest.raises(DataError, match="row 1 has an empty prompt"):
        policy_outputs(make_model("llama"), make_batch([([3], [4, 5]), ([], [4, 5])]))
    skipped = make_batch([([3], [4, 5]), ([], [4, 5])], mask=lambda shape: torch.arange(shape[1]) > 0)
    assert_same(make_model("llama"), skipped)


# --- scalar heads


def scalar_model(family):
    network = ScalarModel.from_causal(make_model(family))
    assert not network.head.weight.any() and network.head.weight.dtype == torch.float32
    with torch.no_grad():
        network.head.weight.normal_()
    return network


@pytest.mark.parametrize("family", ["llama", "mistral", "gemma3_text", "mixtral"])
@pytest.mark.parametrize("path", ["forest", "padded"])
def test_peer_33_values_and_scores_are_read_at_their_own_positions(family, path):
    network, rows = scalar_model(family), mixed_rows()
    values = token_values(network, make_batch(rows), path)
    scores = sequence_scores(network, make_batch(rows), path)
    for i, (prompt, completion) in enumerate(rows):
        tokens = torch.tensor([prompt + completion])
        wanted = network(network.backbone(input_ids=tokens).last_hidden_state[0])
        count, length = len(prompt), len(completion)
        torch.testing.assert_close(values[i, :length], wanted[count - 1 : -1], rtol=1e-4, atol=1e-4)
        assert not values[i, length:].any()
        torch.testing.assert_close(scores[i], wanted[-1], rtol=1e-4, atol=1e-4)


def test_peer_33_a_pad_id_inside_the_completion_does_not_move_the_score():
    network = scalar_model("llama")
    rows = [([5, 6], [7, 0, 8, 0]), ([5, 6], [0])]  # 0 is the model's pad id
    scores = sequence_scores(network, make_batch(rows))
    for i, (prompt, completion) in enumerate(rows):
        hidden = network.backbone(input_ids=torch.tensor([prompt + completion])).last_hidden_state[0]
        torch.testing.assert_close(scores[i], network(hidden)[-1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("read", [token_values, sequence_scores])
def test_scalar_gradients_equal_the_padded_path(read):
    gradients = []
    for path in ("forest", "padded"):
        network = scalar_model("qwen3")
        read(network, make_batch(mixed_rows()), path).square().sum().backward()
        gradients.append({n: p.grad for n, p in network.named_parameters()})
    for name, wanted in gradients[1].items():
        assert (gradients[0][name] - wanted).norm() <= 1e-5 * wanted.norm() + 1e-7


# --- families that cannot


def mamba():
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "mamba", vocab_size=VOCABULARY, hidden_size=16, state_size=4, num_hidden_layers=1, conv_kernel=3
    )
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()


@pytest.fixture
def warnings_of(caplog, monkeypatch):
    monkeypatch.setattr(support, "_warned", set())
    monkeypatch.setattr(logging.getLogger("truing"), "propagate", True)
    with caplog.at_level(logging.WARNING, logger="truing"):
        yield lambda: [r.getMessage() for r in caplog.records if r.name == "truing"]


def test_a_recurrent_family_takes_the_padded_path_and_says_so_once(warnings_of):
    model, batch = mamba(), make_batch(mixed_rows())
    found, _ = policy_outputs(model, batch)
    policy_outputs(mamba(), batch)
    assert [m for m in warnings_of() if "recurrent state" in m] == warnings_of()
    assert len(warnings_of()) == 1
    assert torch.equal(found, policy_outputs(model, batch, path="padded")[0])
    for i, (prompt, completion) in enumerate(mixed_rows()):
        alone, _ = policy_outputs(model, make_batch([(prompt, completion)]), path="padded")
        torch.testing.assert_close(found[i, : len(completion)], alone[0], rtol=1e-4, atol=1e-4)


def test_insisting_on_a_forest_of_a_recurrent_family_is_an_error():
    with pytest.raises(ModelError, match="cannot run as a forest: it has recurrent state"):
        policy_outputs(mamba(), make_batch(mixed_rows()), path="forest")


@pytest.mark.parametrize(
    "model_type, options, reason",
    [
        ("bloom", {"n_layer": 2, "n_head": 4}, "AttentionInterface|differ|Error"),
        ("gpt_oss", {"num_local_experts": 2, "num_experts_per_tok": 1}, "s_aux"),
        ("recurrent_gemma", {"lru_width": 32, "attention_window_size": 8}, "recurrent state"),
    ],
)
def test_other_families_that_cannot_say_why(model_type, options, reason, warnings_of):
    torch.manual_seed(0)
    config = AutoConfig.for_model(model_type, **{**SMALL, **options})
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    why = support.why_not_forest(backbone_of(model))
    assert why is not None and re.search(reason, why), why


def test_an_unknown_change_of_the_logits_is_refused(monkeypatch):
    model = make_model("llama")
    plain = type(model).forward

    def doubled(self, *args, **kwargs):
        out = plain(self, *args, **kwargs)
        out.logits = out.logits * 2
        return out

    monkeypatch.setattr(type(model), "forward", doubled)
    with pytest.raises(ModelError, match="changes its logits"):
        lm_head_of(model)


def test_a_scalar_model_is_not_a_policy():
    with pytest.raises(ModelError, match="has no LM head"):
        policy_outputs(scalar_model("llama"), make_batch(mixed_rows()))
