"""DFT, NEFTune, packing and the log-probs of logits against numbers from elsewhere."""

from __future__ import annotations

from itertools import pairwise

import torch

from truing.math.logprobs import token_logprobs_of
from truing.math.noise import neftune_magnitude
from truing.model.forest import plant


def test_sft_with_the_dft_loss(parity, drive, make_batch):
    golden = parity["sft.dft"]
    logits = golden.inputs["logits"].clone().requires_grad_()
    labels = golden.inputs["labels"].long()[:, 1:]
    logprobs = logits[:, :-1].log_softmax(-1).gather(-1, labels.clamp(min=0)[..., None])[..., 0]
    got = drive("sft", make_batch(labels != -100), {"loss": "dft"}, logprobs=logprobs.detach())
    logprobs.backward(got.grad["logprobs"])
    golden.check(got.loss, golden.expected["loss"])
    golden.check(logits.grad, golden.expected["grad"]["logits"])
    assert got.terms["loss/nll"] > got.terms["loss/dft"]


def test_dft_has_the_gradient_of_minus_the_probability(drive, make_batch):
    logprobs = torch.log(torch.tensor([[0.9, 0.5, 0.01], [0.3, 0.7, 0.2]], dtype=torch.float64))
    got = drive("sft", make_batch(torch.ones(2, 3)), {"loss": "dft"}, logprobs=logprobs)
    torch.testing.assert_close(got.grad["logprobs"], -logprobs.exp() / 6)


def test_neftune_noise_is_of_the_row_s_own_length(parity):
    golden = parity["sft.neftune"]
    lengths, width, alpha = (
        golden.inputs["lengths"].long(),
        int(golden.inputs["hidden"]),
        golden.params["alpha"],
    )
    magnitude = neftune_magnitude(lengths, width=width, alpha=alpha)
    golden.check(magnitude, golden.expected["mag_true_length"], rtol=1e-6)
    real = torch.arange(6) < lengths[:, None]
    noise = golden.inputs["unit_noise"] * magnitude[:, None, None] * real[..., None]
    golden.check(noise, golden.expected["noise_true_length"], rtol=1e-6)
    padded = neftune_magnitude(lengths.max(), width=width, alpha=alpha)  # transformers' hook
    golden.check(padded, golden.expected["mag_padded_length"], rtol=1e-6)
    assert magnitude[1] > padded


def test_log_probs_and_entropy_of_logits(parity):
    golden = parity["core.logprob_entropy_from_logits"]
    logits, index = golden.inputs["logits"], golden.inputs["index"].long()
    eye = torch.eye(logits.shape[-1], dtype=logits.dtype)  # an LM head that returns its input
    logprobs, entropy = token_logprobs_of(logits.flatten(0, 1), eye, index.flatten(), entropy=True)
    golden.check(logprobs.view_as(index), golden.expected["logprobs"])
    golden.check(entropy.view_as(index), golden.expected["entropy"])


def test_peer_24_a_forest_of_documents_is_block_diagonal(parity):
    golden = parity["sft.packed_attention_mask"]
    segments = golden.inputs["segment_ids"].long().tolist()
    documents = [[10 * s + i for i in range(segments.count(s))] for s in (1, 2, 3)]
    forest = plant(documents)
    token = torch.arange(forest.num_tokens)
    allowed = (token[None] <= token[:, None]) & (token[:, None] < forest.stops[None])
    real = slice(0, forest.num_tokens)  # a forest holds no padding, which is segment 0
    golden.check(allowed.double(), torch.tensor(golden.expected["allowed"])[real, real].tolist())
    golden.check(forest.positions.double(), golden.expected["position_ids"][real])


def test_packed_documents_start_at_position_0_as_in_a_padding_free_batch(parity):
    expected = parity["sft.padding_free_collate"].expected
    tokens, positions = expected["input_ids"][0], expected["position_ids"][0]
    ends = expected["cu_seq_lens_q"]
    spans = [slice(a, b) for a, b in pairwise(ends)]
    forest = plant([tokens[span] for span in spans])
    for path, span in zip(forest.paths, spans, strict=True):
        assert forest.tokens[path].tolist() == tokens[span]
        assert forest.positions[path].tolist() == positions[span]
    assert forest.max_length == expected["max_length_q"] and forest.num_tokens == ends[-1]
    assert [n.parent for n in forest.nodes] == [None] * len(spans)
