"""What each metric means, in one line with its unit and a healthy reading.

The report's tooltips and the documentation's table are made from METRICS. A metric's name is
`area/what_unit`; a pattern is a name in which `*` stands for any characters.
"""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase

AREAS: Mapping[str, str] = {
    "reward": "what the verifiers, judges and reward models say of the completions",
    "rollout": "what the sampler drew",
    "pairs": "how the chosen side of a pair stands to the rejected one",
    "loss": "what is minimised, term by term",
    "policy": "how the policy moves",
    "kl": "how far the policy is from its reference",
    "value": "the critic",
    "mismatch": "whether sampler and learner agree",
    "train": "the optimizer",
    "time": "where the seconds go",
}

METRICS: Mapping[str, str] = {
    "reward/mean": (
        "Mean reward of the step's scored completions. Rises in online RL; compare it with the held-out "
        "pass rate: a reward that rises alone is being gamed."
    ),
    "reward/std": (
        "Standard deviation of the reward over the step. Above 0: at 0 there is nothing to learn from."
    ),
    "reward/dead_group_share": (
        "Share [0-1] of groups whose completions all have one reward. They give no gradient; near 1 the "
        "prompts are too hard or too easy."
    ),
    "reward/*_mean": (
        "Mean value of this verifier over the completions that it could score, before its weight."
    ),
    "rollout/mean_tokens": (
        "Mean completion length [tokens]. Slow drift is normal; steady growth without more reward is a "
        "length bias."
    ),
    "rollout/truncated_share": (
        "Share [0-1] of completions that max_tokens cut off. Near 0; above 0.2 raise max_tokens, for a cut "
        "answer is seldom right."
    ),
    "rollout/unscored_share": (
        "Share [0-1] of completions that could not be scored; they are not trained and are not counted as "
        "failures. Near 0."
    ),
    "rollout/kept_group_share": (
        "Share [0-1] of drawn groups that are trained. Below 1 where prompts without signal are drawn anew "
        "(dynamic sampling); the rest is sampling time that taught nothing."
    ),
    "mismatch/logprob_gap_mean": (
        "Mean |sampler - learner| log-prob [nats per token], before the update. Below 0.02 in float32; a "
        "jump means the sampler holds stale or wrong weights."
    ),
    "mismatch/*": "Disagreement of sampler and learner on the same tokens. Near 0.",
    "loss/policy": (
        "Clipped policy-gradient loss. Near 0 is normal, for advantages average to 0: look at reward/mean "
        "and reward/std instead."
    ),
    "loss/nll": (
        "Mean negative log-likelihood of the trained tokens [nats per token]. Falls, then flattens; near 0 "
        "the demonstrations are memorised."
    ),
    "loss/value": "Squared error of the critic. Falls at first; judge it by the explained variance.",
    "loss/kl": "The KL penalty of the loss, before its coefficient [nats per token].",
    "loss/entropy": "The entropy term of the loss, before its coefficient [nats per token].",
    "loss/dpo": (
        "DPO loss; ln 2 = 0.693 at the start. Below 0.3 within a few steps is a sign of memorised pairs."
    ),
    "loss/bradley_terry": "Pairwise loss of the reward model; ln 2 = 0.693 is chance.",
    "loss/*": (
        "This term of the loss, divided by its own count, before its weight. Falls or hovers; must be finite."
    ),
    "*/accuracy*": (
        "Share [0-1] of pairs or targets that the model gets right, ties counted half. 0.5 is chance for a "
        "pair; near 1.0 early, look for a give-away such as length."
    ),
    "*/*margin*": (
        "Mean reward of chosen minus rejected. Rises; compare with chosen log-probs, which may fall."
    ),
    "*/chosen_reward*": (
        "Mean implicit or learned reward of the chosen side. Rising with the margin is healthy."
    ),
    "*/rejected_reward*": "Mean implicit or learned reward of the rejected side. Falls.",
    "*/chosen_logprob*": (
        "Mean log-prob of the chosen side [nats]. A small fall is normal; a large one along with the "
        "rejected side is likelihood displacement: add an NLL term or lower the learning rate."
    ),
    "*/rejected_logprob*": (
        "Mean log-prob of the rejected side [nats]. Falls, and should fall faster than chosen."
    ),
    "*/*entropy*": (
        "Mean entropy of the policy's next-token distribution [nats per token]. Falls slowly; a quick fall "
        "towards 0 is mode collapse."
    ),
    "*/*clip_*": (
        "Share [0-1] of trained tokens whose ratio was clipped. 0 on the first update of a batch; above 0.3"
        " the batch is reused too often or the learning rate is too high."
    ),
    "*/clip*": (
        "Share [0-1] of trained tokens whose ratio was clipped. 0 on the first update of a batch; above 0.3"
        " the batch is reused too often or the learning rate is too high."
    ),
    "*/*ratio*": (
        "exp(logprobs - old_logprobs). 1 on the first update of a batch; far from 1 the update is too large."
    ),
    "*/kl_coef": "The KL coefficient now. Constant unless the controller adapts it.",
    "kl/*": (
        "Estimate of the KL divergence from the reference [nats]. Grows slowly from 0; a jump means the "
        "policy has left the reference."
    ),
    "*/*kl*": "Estimate of a KL divergence [nats]. Grows slowly from 0; a jump means too large an update.",
    "*/explained_variance": (
        "1 - Var(returns - values) / Var(returns). Towards 1; below 0 the critic is worse than a constant."
    ),
    "value/*": "A figure of the critic, in units of the return.",
    "train/grad_norm": (
        "Gradient norm before clipping. Steady within a factor of ten; spikes foretell divergence."
    ),
    "train/critic_grad_norm": "Gradient norm of the critic before clipping.",
    "train/*clipped_fraction": (
        "Share [0-1] of updates whose gradient norm was over max_grad_norm. Always 1: the limit, not the "
        "learning rate, sets the step."
    ),
    "train/*learning_rate": "Learning rate of the last update. Follows the schedule.",
    "train/num_updates": "Optimizer updates since the stage began.",
    "train/completion_tokens": "Completion tokens of the step's batch, trained or not.",
    "time/collect_s": "Seconds to collect the batch: sampling and scoring online, next to nothing offline.",
    "time/annotate_s": (
        "Seconds for the forward passes before the update: old and reference log-probs, values."
    ),
    "time/step_s": "Seconds of the whole step.",
    "time/tokens_per_second": "Completion tokens of the batch per second of the whole step.",
    "time/*_s": "Seconds spent on this in the step.",
}


def help_of(name: str) -> str:
    """Return the help of a metric: its own entry, else the first pattern it matches, else ""."""
    return METRICS.get(name) or next((text for p, text in METRICS.items() if fnmatchcase(name, p)), "")


def area_of(name: str) -> str:
    """Return what stands before the slash."""
    return name.split("/", 1)[0]
