"""DPO from scratch: a tiny transformer learns which of two sums is right from pairs alone. Needs only torch.

    python examples/dpo_from_scratch.py

The task, the network and the careless teacher are those of grpo_from_scratch.py beside this file.

1. The policy imitates a teacher who is right half of the time; a frozen copy of it is the reference.
2. Pairs are made once: for each prompt one completion that is right and one that is wrong, both drawn
   from the reference.
3. Direct Preference Optimization (Rafailov et al. 2023, arXiv:2305.18290, eq. 7):
   loss = -log sigmoid(beta * ((log pi(y_w) - log ref(y_w)) - (log pi(y_l) - log ref(y_l)))).
   Nothing is sampled while it trains, and no reward model is fitted.

Watch log pi(chosen): it rises here; on real data it often falls while the margin grows, which DPO allows.
About a minute on two CPU cores.
"""

import copy
import random

import torch
import torch.nn.functional as F
from grpo_from_scratch import Policy, imitate, pass_rate, problems, sample, token_logprobs, verify
from torch import nn

BETA = 0.1


@torch.no_grad()
def make_pairs(reference, count, rng):
    """Return prompts [N, P], chosen [N, C] (right) and rejected [N, C] (wrong), drawn from the reference."""
    kept = []
    while sum(len(p) for p, _, _ in kept) < count:
        prompts, answers = problems(512, rng)
        first, second = sample(reference, prompts), sample(reference, prompts)
        right_first, right_second = verify(first, answers), verify(second, answers)
        use = right_first != right_second  # a pair with two equal sides says nothing
        first_wins = (right_first > right_second)[:, None]
        chosen = torch.where(first_wins, first, second)
        rejected = torch.where(first_wins, second, first)
        kept.append((prompts[use], chosen[use], rejected[use]))
    prompts, chosen, rejected = (torch.cat(parts)[:count] for parts in zip(*kept, strict=True))
    return prompts, chosen, rejected


def sequence_logprob(policy, prompts, completions):
    """Return log pi(y | x), summed over the completion's tokens [B]."""
    return token_logprobs(policy, prompts, completions).sum(-1)


def margins(policy, reference, pairs):
    """Return the implicit reward margin of each pair [N], and log pi(chosen) [N]."""
    prompts, chosen, rejected = pairs
    with torch.no_grad():
        ref_chosen = sequence_logprob(reference, prompts, chosen)
        ref_rejected = sequence_logprob(reference, prompts, rejected)
    log_chosen = sequence_logprob(policy, prompts, chosen)
    log_rejected = sequence_logprob(policy, prompts, rejected)
    return BETA * ((log_chosen - ref_chosen) - (log_rejected - ref_rejected)), log_chosen


def prefer(policy, reference, pairs, fresh, epochs=3, batch_size=128):
    """Minimise the DPO loss over the pairs."""
    optimizer = torch.optim.AdamW(policy.parameters(), lr=2e-4, weight_decay=0.0)
    for epoch in range(epochs):
        for index in torch.randperm(len(pairs[0])).split(batch_size):
            margin, _ = margins(policy, reference, tuple(t[index] for t in pairs))
            loss = -F.logsigmoid(margin).mean()
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
            optimizer.step()
        with torch.no_grad():
            margin, log_chosen = margins(policy, reference, fresh)
        right = (margin > 0).float().mean().item() + 0.5 * (margin == 0).float().mean().item()
        print(
            f"  dpo epoch {epoch + 1}   fresh pairs: loss {-F.logsigmoid(margin).mean().item():.3f}   "
            f"right way round {right:.1%}   log pi(chosen) {log_chosen.mean().item():.2f}"
        )


def main():
    torch.manual_seed(0)
    rng, held_out_rng = random.Random(0), random.Random(1)
    policy = Policy()
    imitate(policy, rng)
    reference = copy.deepcopy(policy).requires_grad_(False)
    before, width_before = pass_rate(policy, held_out_rng)
    pairs = make_pairs(reference, 6000, rng)
    prefer(policy, reference, pairs, make_pairs(reference, 500, held_out_rng))
    after, width_after = pass_rate(policy, held_out_rng)
    print(f"pass rate after imitation    {before:.1%} +- {width_before:.1%}")
    print(f"pass rate after preferences  {after:.1%} +- {width_after:.1%}")


if __name__ == "__main__":
    main()
