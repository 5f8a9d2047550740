"""NEFTune's noise: only where gradients flow, of the right size, the same after a resume; on both paths."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from truing.model import noise
from truing.model.forest import plant
from truing.model.forward import policy_outputs
from truing.model.noise import embedding_noise, longest_row
from truing.types import Batch

WIDTH = 32


@pytest.fixture
def model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64, hidden_size=WIDTH, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2
    )
    return LlamaForCausalLM(config).eval()


def rows(lengths: tuple[int, ...] = (3, 6, 2), trained: tuple[bool, ...] = (True, True, True)) -> Batch:
    width = max(lengths)
    on = torch.arange(width) < torch.tensor(lengths)[:, None]
    return Batch(
        prompts=tuple(torch.tensor([1, 2, 3 + i]) for i in range(len(lengths))),
        completions=torch.arange(10, 10 + width) * on,
        lengths=torch.tensor(lengths),
        mask=on & torch.tensor(trained)[:, None],
        groups=torch.arange(len(lengths)),
    )


def noisy_embeddings(model, batch, alpha, path, seed=0):
    """Return what the embeddings were moved by, one entry a computed token, and the log-probs."""
    seen = []
    embed = model.get_input_embeddings()
    handle = embed.register_forward_hook(lambda m, i, out: seen.append((i[0], out)))
    torch.manual_seed(seed)
    with embedding_noise(model, batch, alpha):
        late = embed.register_forward_hook(lambda m, i, out: seen.append((i[0], out)))
        logprobs, _ = policy_outputs(model, batch, path=path)
        late.remove()
    handle.remove()
    (_, before), (ids, after) = seen[-2:]
    return ids, (after - before).detach(), logprobs


@pytest.mark.parametrize("path", ["forest", "padded"])
def test_noise_is_bounded_by_the_row_s_own_length(model, path):
    policy_outputs(model, rows(), path=path)  # the trial pass of the family is over
    batch, alpha = rows((200, 20), (True, True)), 5.0
    batch = Batch(
        prompts=tuple(torch.tensor([i + 1]) for i in range(2)),  # rows that share nothing
        completions=batch.completions % 64, lengths=batch.lengths, mask=batch.mask, groups=batch.groups,
    )  # fmt: skip
    _, moved, _ = noisy_embeddings(model, batch, alpha, path)
    moved = moved.flatten(0, 1)
    for place, length in ((slice(0, 200), 201), (slice(200, 220), 21)):  # no row needs its last token
        bound, part = alpha / (length * WIDTH) ** 0.5, moved[place]
        assert part.abs().max() <= bound * 1.001
        assert part.abs().max() > 0.95 * bound
        assert part.std().item() == pytest.approx(bound / 3**0.5, rel=0.05)
        assert abs(part.mean().item()) < 0.1 * bound


def test_a_shared_beginning_has_the_noise_of_its_longest_row():
    forest = plant([[1, 2, 3], [1, 2, 4, 5, 6], [9]])
    found = longest_row(forest, torch.tensor([4, 6, 2]))
    assert [found[p].tolist() for p in forest.paths] == [[6, 6, 4], [6] * 5, [2]]


@pytest.mark.parametrize("path", ["forest", "padded"])
def test_noise_is_a_function_of_torch_s_state_and_gone_without_gradient(model, path):
    plain, _ = policy_outputs(model, rows(), path=path)
    one, two, other = (noisy_embeddings(model, rows(), 5.0, path, seed=s)[2] for s in (1, 1, 2))
    assert torch.equal(one, two) and not torch.equal(one, other) and not torch.equal(one, plain)
    with torch.no_grad():
        assert torch.equal(noisy_embeddings(model, rows(), 5.0, path, seed=1)[2], plain)
    assert torch.equal(policy_outputs(model, rows(), path=path)[0], plain), "the hook is gone"
    assert torch.equal(noisy_embeddings(model, rows(), 0.0, path)[2], plain)


def test_a_row_without_trained_tokens_may_be_among_them(model):
    batch = rows((3, 6, 2), (True, False, True))
    for path in ("forest", "padded"):
        _, _, logprobs = noisy_embeddings(model, batch, 5.0, path)
        assert logprobs.isfinite().all() and (logprobs[1] == 0).all()


def test_the_forest_computes_each_position_once(model):
    ids, moved, _ = noisy_embeddings(model, rows(), 5.0, "forest")
    assert ids.shape == (1, 2 + (1 + 2) + (1 + 5) + (1 + 1))  # [1, 2] once; no row needs its last token
    assert moved.shape == (*ids.shape, WIDTH)


def test_the_hook_leaves_also_when_the_pass_fails(model, monkeypatch):
    monkeypatch.setattr(noise, "neftune_magnitude", lambda *a, **k: 1 / 0)
    with pytest.raises(ZeroDivisionError), embedding_noise(model, rows(), 5.0):
        policy_outputs(model, rows())
    assert not model.get_input_embeddings()._forward_hooks
