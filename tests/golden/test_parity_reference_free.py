"""Methods without a reference, and KTO, against numbers from elsewhere: value and gradient."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from truing.math.odds import log1mexp
from truing.math.ratios import log_ratio
from truing.train.reference_point import donors


def shifted_logprobs(golden) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the log-probs [B, C] of every next token, the masks of completions and of text, and the logits."""
    logits = golden.inputs["logits"].clone().requires_grad_()
    ids = golden.inputs["input_ids"].long()[:, 1:]
    logprobs = logits[:, :-1].log_softmax(-1).gather(-1, ids[..., None])[..., 0]
    completions = golden.inputs["labels"].long()[:, 1:] != -100
    return logprobs, completions, golden.inputs["attention_mask"].bool()[:, 1:], logits


def check_pairs(golden, drive, make_batch, name, **options):
    """Drive a method of pairs on logits, compare loss and gradient, and return what was driven."""
    logprobs, mask, _, logits = shifted_logprobs(golden)
    got = drive(name, make_batch(mask, paired=True), options, logprobs=logprobs.detach())
    logprobs.backward(got.grad["logprobs"])
    golden.check(got.loss, golden.expected["loss"])
    golden.check(logits.grad, golden.expected["grad"]["logits"])
    return got


def check_metrics(golden, got):
    names = {"chosen": "chosen", "rejected": "rejected", "margin": "margins", "accuracy": "accuracies"}
    for ours, theirs in names.items():
        golden.check(got.terms[f"rewards/{ours}"], golden.expected["metrics"][f"rewards/{theirs}"], rtol=1e-6)


CPO = [
    ("cpo.sigmoid", {}),
    ("cpo.sigmoid_no_nll", {"nll_weight": 0.0}),
    ("cpo.label_smoothing", {"nll_weight": 0.0, "label_smoothing": 0.1}),
    ("cpo.ipo", {"nll_weight": 0.0, "loss": "ipo"}),
]


@pytest.mark.parametrize(("id", "options"), CPO)
def test_cpo(parity, drive, make_batch, id, options):
    golden = parity[id]
    got = check_pairs(golden, drive, make_batch, "cpo", **options)
    check_metrics(golden, got)
    if "nll_weight" not in options:
        golden.check(got.terms["loss/nll"], golden.expected["metrics"]["nll_loss"])


def test_cpo_s_other_likelihood_sums_over_a_completion(parity, drive, make_batch):
    golden = parity["cpo.sigmoid"]
    logprobs, mask, _, _ = shifted_logprobs(golden)
    batch = make_batch(mask, paired=True)
    got = drive("cpo", batch, {"nll_reduction": "sum"}, logprobs=logprobs.detach())
    plain = parity["cpo.sigmoid_no_nll"].expected["loss"]
    golden.check(got.loss, plain - (logprobs * mask).sum(-1)[:2].mean().item())


def test_simpo(parity, drive, make_batch):
    golden = parity["simpo.paper_default"]
    assert golden.params["simpo_gamma"] == golden.params["beta"] * 0.5
    check_metrics(golden, check_pairs(golden, drive, make_batch, "simpo"))


def test_simpo_with_a_likelihood_is_cpo_simpo(parity, drive, make_batch):
    golden = parity["simpo.cpo_simpo"]
    got = check_pairs(golden, drive, make_batch, "simpo", nll_weight=0.05)
    golden.check(got.terms["loss/nll"], golden.expected["metrics"]["nll_loss"])


def test_trl_s_defaults_are_another_simpo(parity, drive, make_batch):
    golden = parity["simpo.trl_defaults"]
    check_pairs(golden, drive, make_batch, "simpo", beta=0.1, gamma_over_beta=5.0, nll_weight=1.0)
    assert abs(golden.expected["loss"] - parity["simpo.paper_default"].expected["loss"]) > 0.5


def test_alphapo(parity, drive, make_batch):
    golden = parity["alphapo"]
    check_metrics(golden, check_pairs(golden, drive, make_batch, "alphapo"))


def test_alphapo_without_alpha_is_simpo(parity, drive, make_batch):
    golden = parity["simpo.paper_default"]
    check_pairs(golden, drive, make_batch, "alphapo", alpha=0.0)
    nearly = drive_on(golden, drive, make_batch, "alphapo", alpha=1e-7)
    golden.check(nearly, golden.expected["loss"], rtol=1e-5)


def drive_on(golden, drive, make_batch, name, **options):
    logprobs, mask, _, _ = shifted_logprobs(golden)
    return drive(name, make_batch(mask, paired=True), options, logprobs=logprobs.detach()).loss


def test_orpo(parity, drive, make_batch):
    golden = parity["orpo.response_only_nll"]
    got = check_pairs(golden, drive, make_batch, "orpo")
    golden.check(got.terms["loss/nll"], golden.expected["nll"])
    golden.check(got.terms["loss/odds_ratio"], golden.expected["odds_ratio_loss"])
    assert (
        abs(got.terms["loss/nll"] - golden.expected["nll_mean_of_sequence_means"]) > 0.05
    )  # LLaMA-Factory's


def test_orpo_with_the_likelihood_of_the_prompt_is_trl_s(parity, drive, make_batch):
    golden = parity["orpo.trl"]
    logprobs, mask, text, logits = shifted_logprobs(golden)
    of_prompt = text & ~mask
    batch = make_batch(mask, paired=True)
    batch = replace(
        batch, prompts=tuple(torch.zeros(int(n) + 1, dtype=torch.long) for n in of_prompt.sum(-1))
    )
    prompts = (logprobs * of_prompt).sum(-1)
    got = drive(
        "orpo", batch, {"nll_scope": "all"}, logprobs=logprobs.detach(), prompt_logprobs=prompts.detach()
    )
    torch.autograd.backward([logprobs, prompts], [got.grad["logprobs"], got.grad["prompt_logprobs"]])
    golden.check(got.loss, golden.expected["loss"])
    golden.check(got.terms["loss/nll"], golden.expected["nll"])
    golden.check(got.terms["loss/odds_ratio"], golden.expected["odds_ratio_loss"])
    golden.check(logits.grad, golden.expected["grad"]["logits"])


def test_log1mexp(parity):
    golden = parity["orpo.log1mexp"]
    golden.check(log1mexp(golden.inputs["x"]), golden.expected["y"])


def kto_batch(golden, make_batch):
    inputs, fields = golden.inputs, {}
    if "kl_completion_mask" in inputs:
        ratios = log_ratio(
            inputs["kl_per_token_logps"],
            inputs["kl_ref_per_token_logps"],
            inputs["kl_completion_mask"][:, 1:].bool(),
        )
        fields["reference_point"] = ratios.sum(-1).mean().expand(len(ratios)).contiguous()
    return make_batch(
        inputs["completion_mask"][:, 1:],
        labels=inputs["label_desirable"],
        ref_logprobs=inputs["ref_per_token_logps"],
        **fields,
    )


KTO = ["kto.positive_z0_w1_1", "kto.positive_z0_w1_1.33", "kto.clamped_z0_w1_1", "kto.clamped_z0_w1_1.33"]


@pytest.mark.parametrize("id", [*KTO, "kto.all_desirable", "kto.apo_zero_unpaired"])
def test_kto(parity, drive, make_batch, id):
    golden = parity[id]
    batch = kto_batch(golden, make_batch)
    options = {"beta": golden.params["beta"]}
    if "undesirable_weight" in golden.params:
        options |= {k: golden.params[k] for k in ("desirable_weight", "undesirable_weight")}
    if batch.reference_point is None:
        options["kl_estimate"] = "none"
    got = drive("kto", batch, options, logprobs=golden.inputs["per_token_logps"])
    golden.check(got.loss, golden.expected["loss"])
    if "grad" in golden.expected:
        golden.check(got.grad["logprobs"], golden.expected["grad"]["per_token_logps"])
    if "z0" in golden.expected:
        golden.check(max(0.0, got.terms["kl/reference_point"]), golden.expected["z0"])


def test_kto_rotates_as_trl_does_and_refuses_a_row_alone(parity, make_batch):
    golden = parity["kto.mismatch_rotation"]
    completions, expected = golden.inputs["completion"].long(), []
    for chunk in completions.split(golden.params["chunk"]):
        batch = make_batch(torch.ones(len(chunk), 1))
        batch = replace(batch, prompts=tuple(chunk[:, None] - 10), completions=chunk[:, None])
        expected += [None if j is None else chunk[j].item() for j in donors(batch)]
    assert expected == [*golden.expected["kl_completion"][:-1], None]  # theirs: 18 with its own prompt


def test_kto_with_a_reference_point_below_zero_is_apo_zero(parity, drive, make_batch):
    clamped, golden = parity["kto.clamped_z0_w1_1"], parity["kto.apo_zero_unpaired"]
    batch = kto_batch(clamped, make_batch)
    assert batch.reference_point.max() < 0
    golden.check(
        drive("kto", batch, logprobs=clamped.inputs["per_token_logps"]).loss, golden.expected["loss"]
    )
