"""Soft labels of Constitutional AI against numbers from elsewhere."""

from __future__ import annotations

import torch

from truing.ai_feedback.soft import COT_CLAMP, soft_label


def test_soft_labels_and_their_clamp(parity) -> None:
    golden = parity["cai.soft_label"]
    pairs = list(zip(golden.inputs["logp_A"].tolist(), golden.inputs["logp_B"].tolist(), strict=True))
    golden.check(
        torch.tensor([soft_label(a, b) for a, b in pairs], dtype=torch.float64), golden.expected["p_A"]
    )
    assert list(COT_CLAMP) == golden.params["cot_clamp"]
    clamped = torch.tensor([soft_label(a, b, clamp=COT_CLAMP) for a, b in pairs], dtype=torch.float64)
    golden.check(clamped, golden.expected["p_A_cot"])


def test_the_reward_model_learns_soft_labels(parity, drive, make_batch) -> None:
    golden = parity["cai.soft_bt_loss"]
    gap, p = golden.inputs["reward_difference"], golden.inputs["target_p"]
    batch = make_batch(torch.ones(2 * len(gap), 1), paired=True, labels=p.repeat(2))
    scores = torch.cat([gap, torch.zeros_like(gap)])
    got = drive("reward_model", batch, {"use_labels": True}, scores=scores)
    golden.check(got.loss, golden.expected["loss"])
    golden.check(got.grad["scores"][: len(gap)], golden.expected["grad"]["reward_difference"])
