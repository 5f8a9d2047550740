"""Golden numbers of what rewards are made of."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from truing import plugins
from truing.math.lengths import repeated_share
from truing.rewards import RewardTerm, Shape, compose
from truing.terms import Written
from truing.types import Completion, Verdict


def test_repetition_penalty() -> None:
    every = json.loads(Path(__file__).with_name("parity.json").read_text(encoding="utf-8"))["fixtures"]
    golden = next(f for f in every if f["id"] == "reward.repetition_penalty")
    rows = golden["inputs"]["completion_ids"]
    ngram, weight = golden["params"]["ngram_size"], -golden["params"]["max_penalty"]
    written = [Written(Completion(tuple(r), "", (0.0,) * len(r), "stop"), 0) for r in rows]
    module = plugins.load("terms", "repeated_tokens")
    found = [weight * x for x in module.measure(written, module.Config(ngram=ngram))]
    assert found == pytest.approx(golden["expected"]["penalty"])
    assert [-repeated_share(r, ngram=ngram) for r in rows] == pytest.approx(golden["expected"]["penalty"])


@pytest.mark.parametrize(
    ("fixture", "scale"),
    [
        ("adv.multi_reward_sum_then_normalise", "none"),
        ("adv.multi_reward_normalise_then_sum", "group"),
    ],
)
def test_several_terms_through_grpo(parity, drive, make_batch, fixture, scale) -> None:
    """Scaled by group and then divided by the batch's deviation, terms are GDPO's (arXiv:2601.05242)."""
    golden = parity[fixture]
    values, size = golden.inputs["rewards_per_func"], golden.params["num_generations"]
    terms = [
        RewardTerm(str(k), w, lambda *_: Verdict("failed"), None, Shape(scale=scale))
        for k, w in enumerate(golden.params["weights"])
    ]
    groups = torch.arange(len(values)) // size
    said = [{str(k): Verdict("scored", v) for k, v in enumerate(row)} for row in values.tolist()]
    rewards = torch.tensor([c.reward for c in compose(terms, said, groups.tolist())], dtype=torch.float64)
    batch = make_batch(torch.ones(len(values), 1), groups=groups, rewards=rewards)
    options = {"scale_rewards": "batch" if scale == "group" else "group"}
    logprobs = torch.zeros(len(values), 1, dtype=torch.float64)
    found = drive("grpo", batch, options, credit=True, logprobs=logprobs).batch.advantages
    wanted = torch.tensor(golden.expected["advantages"], dtype=torch.float64)
    torch.testing.assert_close(
        found[:, 0], wanted, rtol=0, atol=1e-3
    )  # TRL adds 1e-4 to a deviation, we 1e-6
