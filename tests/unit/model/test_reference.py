from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from truing.errors import ConfigError, DataError, ModelError
from truing.model import reference as module
from truing.model.adapters import add_lora, merged
from truing.model.forward import policy_outputs
from truing.model.load import Loaded
from truing.model.micro_batches import in_micro_batches
from truing.model.reference import build_reference, check_start
from truing.types import Batch, Outputs


def tokenizer(*odd):
    vocabulary = {word: i for i, word in enumerate([*odd, *(f"t{i}" for i in range(64 - len(odd)))])}
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel(vocabulary, unk_token="t0")))


TOKENIZER = tokenizer()


def tiny(seed=0):
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2
    )
    return LlamaForCausalLM(config).eval()


START = tiny()


def batch(rows=6, paired=False):
    g = torch.Generator().manual_seed(0)
    lengths = torch.tensor([2 + i % 4 for i in range(rows)])
    mask = torch.arange(5) < lengths[:, None]
    prompts = tuple(torch.randint(0, 64, (3 + i % 3,), generator=g) for i in range(rows))
    groups = torch.arange(rows)
    if paired:
        prompts, groups = prompts[: rows // 2] * 2, groups % (rows // 2)
    return Batch(
        prompts=prompts,
        completions=torch.randint(0, 64, (rows, 5), generator=g) * mask,
        lengths=lengths,
        mask=mask,
        groups=groups,
        paired=paired,
        uids=tuple(f"row-{i}" for i in range(rows)),
    )


def build(kind, policy, data=None, dtype=torch.float32, **options):
    start = Loaded(START, TOKENIZER, "start", Path("start"))
    return build_reference(kind, policy, start=start, dtype=dtype, max_tokens=20, data=data, **options)


def logprobs(model, data, **options):
    with torch.no_grad():
        return policy_outputs(model, data, **options)[0]


def shift(model, names=""):
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if names in name:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model


@pytest.mark.parametrize("paired", [False, True])
@pytest.mark.parametrize("max_tokens", [1, 12, 30, 1000])
def test_micro_batches_come_back_in_the_order_of_the_rows(paired, max_tokens):
    data, seen = batch(8, paired), []

    def forward(micro):
        seen.append(micro.uids)
        return Outputs(logprobs=micro.completions.float(), scores=micro.lengths.float())

    found = in_micro_batches(data, max_tokens, forward)
    assert torch.equal(found.logprobs, data.completions.float())
    assert torch.equal(found.scores, data.lengths.float())
    assert found.values is None
    assert sorted(uid for uids in seen for uid in uids) == sorted(data.uids)


def test_an_empty_batch_cannot_be_annotated():
    with pytest.raises(ValueError, match="empty batch"):
        in_micro_batches(batch().rows(torch.tensor([], dtype=torch.long)), 10, lambda b: Outputs())


@pytest.mark.parametrize("kind", ["copy", "cache"])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_reference_is_the_start_policy_and_stays_it(kind, temperature, tmp_path):
    policy, data = tiny(), batch()
    before = logprobs(policy, data, temperature=temperature)
    reference = build(kind, policy, data, temperature=temperature, cache_folder=tmp_path)
    shift(policy)
    found = reference.logprobs(data)
    assert not found.requires_grad
    torch.testing.assert_close(found, before, rtol=1e-4, atol=1e-5)
    assert (logprobs(policy, data) - before).abs().mean() > 0.05


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_copy_is_frozen_and_in_the_compute_dtype(dtype):
    policy = tiny()
    frozen = module.frozen_copy(policy, dtype)
    assert {p.dtype for p in frozen.parameters()} == {dtype}
    assert not any(p.requires_grad for p in frozen.parameters())
    assert frozen.model.rotary_emb.inv_freq.dtype == torch.float32
    assert {p.dtype for p in policy.parameters()} == {torch.float32}
    assert all(p.requires_grad for p in policy.parameters())


def test_base_is_the_policy_with_its_adapter_off():
    data, start = batch(), logprobs(tiny(), batch())
    policy = add_lora(tiny(), rank=4, alpha=8.0)
    reference = build("base", policy)
    shift(policy, "lora_")
    assert (logprobs(policy, data) - start).abs().mean() > 0.05
    torch.testing.assert_close(reference.logprobs(data), start, rtol=1e-4, atol=1e-5)
    assert (logprobs(policy, data) - start).abs().mean() > 0.05, "the adapter is on again"


def test_peer_22_base_with_a_trained_adapter_is_refused():
    """The reference of a policy that continues an SFT adapter is not its raw base."""
    sft = shift(add_lora(tiny(), rank=4, alpha=8.0), "lora_")
    with pytest.raises(ModelError, match="merge it first"):
        build("base", sft)
    data, start = batch(), logprobs(sft, batch())
    policy = add_lora(merged(sft), rank=4, alpha=8.0)
    for kind in ("base", "copy"):
        torch.testing.assert_close(build(kind, policy).logprobs(data), start, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(build("copy", sft).logprobs(data), start, rtol=1e-4, atol=1e-5)


def test_base_without_an_adapter_and_cache_without_rows_are_errors():
    with pytest.raises(ConfigError, match=r"learner\.lora"):
        build("base", tiny())
    with pytest.raises(ConfigError, match="fixed data set"):
        build("cache", tiny())


def test_check_start_refuses_another_policy():
    data = batch()
    reference = build("copy", tiny())
    assert check_start(reference, data, logprobs(tiny(), data)) < 1e-4
    with pytest.raises(ModelError, match="not the policy that training starts from"):
        check_start(reference, data, logprobs(tiny(1), data))
    with pytest.raises(ModelError, match="nan"):
        check_start(reference, data, torch.full(data.mask.shape, torch.nan))


def test_the_gap_is_over_trained_tokens_only():
    data = batch()
    noise = torch.where(data.mask, 0.0, 50.0)
    assert check_start(build("copy", tiny()), data, logprobs(tiny(), data) + noise) < 1e-4


def test_a_named_reference_may_differ_and_must_share_the_vocabulary(monkeypatch):
    asked, theirs = [], [TOKENIZER]

    def load(name, *, dtype, device):
        asked.append((name, dtype))
        return Loaded(tiny(3).to(dtype), theirs[0], name, Path(name))

    monkeypatch.setattr(module, "load_model", load)
    data = batch()
    reference = build("teacher", tiny())
    assert asked == [("teacher", torch.float32)]
    torch.testing.assert_close(reference.logprobs(data), logprobs(tiny(3), data), rtol=1e-4, atol=1e-5)
    assert check_start(reference, data, logprobs(tiny(), data)) > 0.05
    theirs[0] = tokenizer("new")
    with pytest.raises(ModelError, match="another vocabulary"):
        build("teacher", tiny())


def counted(monkeypatch):
    """Count the rows that go through a network."""
    rows, real = [], module.policy_outputs

    def outputs(model, data, **options):
        rows.extend(data.uids)
        return real(model, data, **options)

    monkeypatch.setattr(module, "policy_outputs", outputs)
    return rows


def test_cache_is_computed_once_and_read_by_the_next_run(tmp_path, monkeypatch):
    rows, data = counted(monkeypatch), batch()
    first = build("cache", tiny(), data, cache_folder=tmp_path).logprobs(data)
    assert len(rows) == 6 + 4  # the data, and a probe of four rows
    rows.clear()
    second = build("cache", tiny(), data, cache_folder=tmp_path).logprobs(data)
    assert len(rows) == 4
    assert torch.equal(first, second)
    assert len(list(tmp_path.iterdir())) == 1


def test_cache_finds_rows_by_content_in_any_order_and_width(tmp_path):
    data = batch()
    reference = build("cache", tiny(), data, cache_folder=tmp_path)
    picked = data.rows(torch.tensor([4, 0]))
    assert picked.completions.shape[1] < 5
    torch.testing.assert_close(reference.logprobs(picked), logprobs(tiny(), picked), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("change", ["prompt", "completion", "mask"])
def test_peer_23_a_changed_row_misses_and_is_named(tmp_path, change):
    data = batch()
    reference = build("cache", tiny(), data, cache_folder=tmp_path)
    if change == "prompt":
        prompts = list(data.prompts)
        prompts[3] = prompts[3].flip(0)
        other = replace(data, prompts=tuple(prompts))
    else:
        field = {"completion": "completions", "mask": "mask"}[change]
        value = getattr(data, field).clone()
        value[3, 0] = not value[3, 0] if change == "mask" else (value[3, 0] + 1) % 64
        other = replace(data, **{field: value})
    with pytest.raises(DataError, match="row-3"):
        reference.logprobs(other)


@pytest.mark.parametrize("change", ["weights", "dtype", "temperature", "data"])
def test_peer_23_another_model_or_dtype_or_data_never_uses_the_old_numbers(tmp_path, monkeypatch, change):
    data = batch()
    build("cache", tiny(), data, cache_folder=tmp_path)
    rows = counted(monkeypatch)
    policy = tiny()
    options = {"dtype": torch.bfloat16} if change == "dtype" else {}
    options |= {"temperature": 0.5} if change == "temperature" else {}
    if change == "weights":
        with torch.no_grad():
            policy.lm_head.weight[7, 7] += 1e-3
    if change == "data":
        data = data.rows(torch.arange(5))
    build("cache", policy, data, cache_folder=tmp_path, **options)
    assert len(rows) == len(data) + 4
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("damage", ["cut", "altered"])
def test_a_damaged_cache_is_computed_again_and_said_so(tmp_path, caplog, damage):
    data = batch()
    expected = build("cache", tiny(), data, cache_folder=tmp_path).logprobs(data)
    (path,) = tmp_path.iterdir()
    content = bytearray(path.read_bytes())
    if damage == "cut":
        del content[-3:]
    else:
        content[-3] ^= 64
    path.write_bytes(content)
    with caplog.at_level(logging.WARNING):
        found = build("cache", tiny(), data, cache_folder=tmp_path).logprobs(data)
    assert torch.equal(found, expected)
    assert str(path) in caplog.text


def test_a_cache_with_other_numbers_is_caught_by_the_probe(tmp_path):
    """Also numbers that are sound on disk are held against the policy that training starts from."""
    from truing.model import ref_cache

    data = batch()
    build("cache", tiny(), data, cache_folder=tmp_path)
    (path,) = tmp_path.iterdir()
    stored = load_file(path)
    stored["logprobs"] = stored["logprobs"] - 1.0
    digest = ref_cache._digest(stored["keys"], stored["ends"], stored["logprobs"])
    save_file(stored, path, metadata={"sha256": digest})
    with pytest.raises(ModelError, match="'cache' is not the policy"):
        build("cache", tiny(), data, cache_folder=tmp_path)


def test_the_default_folder_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("TRUING_CACHE", str(tmp_path))
    build("cache", tiny(), batch())
    assert len(list((tmp_path / "ref_logprobs").iterdir())) == 1
