"""What each metric means, in one line with its unit and a healthy reading.

The report's tooltips and the documentation's table are made from METRICS. A metric's name is
`area/what_unit`; a pattern is a name in which `*` stands for any characters.
"""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase

AREAS: Mapping[str, str] = {
    "reward": "what verifiers and reward models say",
    "rewards": "implicit or learned rewards of the pairs",
    "logprobs": "of the completions in the pairs",
    "rollout": "what the sampler drew",
    "loss": "what is minimised, term by term",
    "policy": "how the policy moves",
    "kl": "how far the policy is from its reference",
    "value": "the critic",
    "mismatch": "whether sampler and learner agree",
    "turns": "what the second attempt changes",
    "environment": "what a conversation's environment counted",
    "process": "the implicit process reward model",
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
    "reward/kept_mean": (
        "Mean reward of the completions that are trained on. Above reward/mean; when the gap closes, "
        "choosing the best of a group teaches nothing more."
    ),
    "reward/opponent_mean": (
        "Mean reward of what the opponent (reference or mixture) wrote for the same prompts. reward/mean "
        "should pull away from it."
    ),
    "reward/*_failed_share": (
        "Share [0-1] of completions that do not pass this gate, so that the other terms do not count. Falls; "
        "near 1 hardly anything else can be learned yet."
    ),
    "reward/*_ceiling_share": (
        "Share [0-1] of completions whose value is cut at this term's ceiling: beyond it, more earns nothing."
    ),
    "reward/*_floor_share": ("Share [0-1] of completions whose value is raised to this term's floor."),
    "reward/*_mean": (
        "Mean value of this term (verifier, reward model or length) over the completions that it could "
        "score, before bounds, scale and weight."
    ),
    "rewards/accuracy": (
        "Share [0-1] of pairs whose chosen side has the higher reward, ties counted half. 0.5 is chance; "
        "near 1.0 early, look for a give-away such as length."
    ),
    "rewards/margin": (
        "Mean reward of chosen minus rejected. Rises from 0; compare logprobs/chosen, which may fall "
        "meanwhile."
    ),
    "rewards/chosen": (
        "Mean reward of the chosen side: implicit (beta times the log-ratio to the reference) or a reward "
        "model's score. Rising with the margin is healthy."
    ),
    "rewards/rejected": "Mean reward of the rejected side, as rewards/chosen. Falls.",
    "rewards/pair_accuracy": (
        "Share [0-1] of a prompt's ranked pairs whose scores are in the right order, mean over prompts. 0.5 "
        "is chance."
    ),
    "rewards/best_accuracy": (
        "Share [0-1] of prompts whose highest score is that of a best completion. Chance is one over the "
        "number of completions; this is what best-of-n buys."
    ),
    "rewards/spread": (
        "Standard deviation of the scores of a prompt's completions, mean over prompts [score units]. Grows "
        "from 0; without end, the model is too sure."
    ),
    "rewards/outcome_accuracy": (
        "Share [0-1] of pairs whose most likely outcome (win, loss or tie) is the labelled one. A third is "
        "chance."
    ),
    "rewards/tie_share": "Share [0-1] of the step's pairs that are labelled as ties.",
    "rewards/tie_share_predicted": (
        "Mean probability of a tie. Nears rewards/tie_share; far from it the tie parameter does not fit."
    ),
    "rewards/tie_width": (
        "The tie parameter: Rao-Kupper's theta, 1 for no ties, or Davidson's nu, 0 for none. Settles within "
        "an epoch."
    ),
    "rewards/label_accuracy": (
        "Share [0-1] of completions, or of steps, whose score is on the right side of probability 1/2. "
        "Compare the share of the larger class: rewards/good_share, or 1 less that."
    ),
    "rewards/brier": (
        "Mean squared error of the probability that the score stands for. 0.25 is a coin; falls, and a rise "
        "beside a rising accuracy means overconfidence."
    ),
    "rewards/good_share": (
        "Share [0-1] of completions or steps that are labelled right. Steady; near 0 or 1 there is little to "
        "learn from: balance the data."
    ),
    "rewards/saturated_share": (
        "Share [0-1] of completions whose outcome has a probability above 0.95 or below 0.05 and that hardly "
        "train any more. At the start above 0, beta is too large."
    ),
    "rewards/weight_square_mean": (
        "Mean square of the pairs' weights, whose mean is 1. 1 is uniform; at w the batch counts as N/w "
        "pairs: above 4 lower tau or budget."
    ),
    "reward/member_std": (
        "Standard deviation over the ensemble's members of a completion's score, mean over completions. "
        "Rising, the policy leaves what the reward models know: stop, or penalise it."
    ),
    "rewards/residual": (
        "Mean margin of the log-ratios less IPO's target (2p - 1)/(2 tau) [nats]. Starts at minus the target "
        "and nears 0; above 0 the pairs are pushed past it."
    ),
    "rewards/shift": (
        "The reward that BCO takes to be neither good nor bad. Starts at 0 and follows the middle between "
        "rewards/chosen and rewards/rejected."
    ),
    "rewards/weight_mean": (
        "Mean weight of a pair: how likely both sides are under the policy, token by token. Near 1 for what "
        "it sampled itself; near 0 the data is foreign to it and hardly trains."
    ),
    "rewards/active_share": (
        "Share [0-1] of pairs whose margin is below the hinge's 1/beta, which still train. Starts at 1 and "
        "falls; near 0 there is nothing left to learn."
    ),
    "rewards/direction_accuracy": (
        "Share [0-1] of completions whose log-prob moved the way their win probability asks. Chance on the "
        "first update of a batch, near 1 after several."
    ),
    "rewards/opponent_beaten_share": (
        "Share [0-1] of untied pairs in which the policy's completion beats the opponent's. Rises from 0.5."
    ),
    "rewards/win_probability": (
        "Mean probability that a completion beats the opponent's. Rises from 0.5; stays near it where the "
        "opponent is close to the policy."
    ),
    "rewards/desirable": (
        "Mean reward beta * log-ratio to the reference of the good rows. Rises from 0; compare "
        "rewards/undesirable: the gap is what is learned."
    ),
    "rewards/undesirable": "Mean reward of the bad rows, as rewards/desirable. Falls.",
    "rewards/desirable_share": (
        "Share [0-1] of the step's rows that are good, soft labels counted by their value. Steady; at 0 or 1 "
        "a batch holds one class only: shuffle, or raise batch_size."
    ),
    "kl/reference_point": (
        "KTO's reference point before it is held above 0: mean log-ratio of mismatched rows [nats per "
        "completion]. Rises slowly; below 0 throughout it does nothing, and KTO is APO-zero."
    ),
    "logprobs/chosen": (
        "Mean log-prob of the chosen completions [nats per completion]. A small fall is normal; a large one"
        " together with the rejected side is likelihood displacement: add an NLL term or lower the learning"
        " rate."
    ),
    "logprobs/rejected": (
        "Mean log-prob of the rejected completions [nats per completion]. Falls, and should fall faster "
        "than logprobs/chosen."
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
        "Share [0-1] of completions that could not be scored; they are not trained and not counted as "
        "failures. Near 0."
    ),
    "rollout/kept_group_share": (
        "Share [0-1] of drawn groups that are trained. Below 1 where prompts without signal are drawn anew "
        "(dynamic sampling); the rest is sampling time that taught nothing."
    ),
    "rollout/identical_share": (
        "Share [0-1] of own samples that equal their demonstration; they are dropped. Near 1 the policy has "
        "reached the demonstrations: stop."
    ),
    "rollout/trained_group_share": (
        "Share [0-1] of sampled groups that are trained; the others tie, or too few of their completions "
        "could be scored. Near 0 nothing is learned: the prompts are too hard or too easy."
    ),
    "rollout/drawn_tokens": (
        "Completion tokens that the sampler drew in the step, those of groups that are not trained included."
    ),
    "loss/policy": (
        "Clipped policy-gradient loss. GRPO loss near 0 is normal, for advantages average to 0: look at "
        "reward/mean and reward/std instead."
    ),
    "loss/nll": (
        "Mean negative log-likelihood of the trained tokens [nats per token]. Falls, then flattens; near 0 "
        "the demonstrations are memorised."
    ),
    "loss/value": (
        "Squared error of the critic, clipped. Falls at first, then follows the spread of the returns."
    ),
    "loss/kl": "The KL penalty in the loss, before its coefficient [nats]. Starts at 0 and grows slowly.",
    "loss/dpo": (
        "DPO loss; ln 2 = 0.693 at the start. Below 0.3 within a few steps the pairs are being memorised."
    ),
    "loss/robust_dpo": (
        "DPO loss corrected for flipped labels; ln 2 = 0.693 at the start. It may fall below 0, and has no "
        "lowest value."
    ),
    "loss/hinge": "Mean of 1 - margin where that is above 0; 1 at the start, 0 when every pair is past it.",
    "loss/ipo": (
        "Squared distance of the margin from 1/(2 tau) [nats squared]; 25 at the start for tau = 0.1. Large "
        "values are normal; outliers are long completions."
    ),
    "loss/ln_dpo": "DPO loss on log-ratios per token; ln 2 = 0.693 at the start. Falls slowly.",
    "loss/f_dpo": "DPO loss under another divergence; ln 2 = 0.693 at the start. Falls.",
    "loss/exo": "KL of the policy's preference from the label; 2.76 at the start for e = 0.001. Falls to 0.",
    "loss/nca": "NCA loss; 2 ln 2 = 1.386 at the start. Falls, and not below 0.955.",
    "loss/bco": "Sum of both sides' classification losses; 2 ln 2 = 1.386 at the start. Falls.",
    "loss/apo": "APO loss in [0, 2]; 1 at the start. Falls; below 0.5 most pairs are apart.",
    "loss/aot": "DPO loss on sorted log-ratios; ln 2 = 0.693 at the start. Falls.",
    "loss/discopop": (
        "DiscoPOP's loss; 0.847 at the start. It may rise a little before it falls: it is not convex there."
    ),
    "loss/ld_dpo": "DPO loss with down-weighted tails; ln 2 = 0.693 at the start. Falls.",
    "loss/nll_per_completion": (
        "Mean negative log-likelihood of the chosen completions [nats per completion]. Falls, then flattens."
    ),
    "loss/dft": (
        "Negative log-likelihood, each token weighed by its own probability; at most 1/e = 0.37. Read "
        "loss/nll beside it: this one is small both for tokens that are certain and for impossible ones."
    ),
    "loss/odds_ratio": (
        "Odds-ratio loss of ORPO, before its weight; ln 2 = 0.693 where both sides are equally likely. Falls "
        "slowly while loss/nll leads."
    ),
    "loss/cpo": "Preference loss of CPO; ln 2 = 0.693 where both sides are equally likely. Falls.",
    "loss/simpo": (
        "SimPO loss; -log sigmoid(-gamma) where both sides are equally likely. Falls; watch logprobs/chosen, "
        "for no reference holds the policy."
    ),
    "loss/alphapo": "AlphaPO loss, as loss/simpo with a reward of another shape. Falls.",
    "loss/kto": (
        "KTO loss; between 0 and the class weights, and half of them at the start. Falls slowly; near 0 "
        "every row is saturated."
    ),
    "loss/wpo": (
        "DPO loss times the pairs' weights: ln 2 times rewards/weight_mean at the start. Falls; compare it "
        "only between steps of like weight."
    ),
    "loss/plackett_luce": (
        "Negative log-probability of a prompt's ranking [nats]; ln K! at the start. Falls."
    ),
    "loss/all_pairs": "Pairwise loss, mean over a prompt's pairs; ln 2 = 0.693 is chance. Falls.",
    "loss/thurstone": "Probit loss; ln 2 = 0.693 is chance. A spike is a pair ranked far wrongly.",
    "loss/rao_kupper": "Loss over win, loss and tie [nats]; about 1.1 at the start. Falls.",
    "loss/davidson": "Loss over win, loss and tie [nats]; about 1.1 at the start. Falls.",
    "loss/outcome": "Cross-entropy of the score with the label; ln 2 = 0.693 is a coin. Falls.",
    "loss/steps": "Cross-entropy at the ends of steps; ln 2 = 0.693 is a coin. Falls.",
    "loss/implicit_process": (
        "Cross-entropy of the summed implicit rewards with the label; ln 2 = 0.693 at the start. Falls "
        "slowly; near 0 at once, beta is too large."
    ),
    "loss/mars": "Weighted pairwise loss. Above loss/bradley_terry, for hard pairs count more.",
    "loss/length": (
        "ODIN's |corr(quality, length)| - corr(length head, length), in [-1, 2]. Falls towards -1: quality "
        "knows nothing of length, and the other head all."
    ),
    "loss/overlap": "|w_quality . w_length| of ODIN's two heads. Near 0.",
    "loss/bradley_terry": "Pairwise loss of the reward model; ln 2 = 0.693 is chance.",
    "loss/centering": "Square of the summed rewards of a pair, which keeps their mean near 0. Small.",
    "loss/replay": (
        "Mean NLL of the replayed demonstrations [nats per token], before its weight. Falls a little or "
        "stays; a rise means that the policy forgets them: raise replay.weight."
    ),
    "loss/first_turn_kl": (
        "KL of the first attempt from the reference [nats per conversation], before its coefficient. Stays "
        "near 0 in stage 1 of SCoRe; if it grows, raise first_kl_coef."
    ),
    "loss/process": (
        "Cross-entropy of the implicit process reward model on outcomes; ln 2 = 0.693 at the start. Falls "
        "slowly; near 0 at once, beta is too large for such long completions."
    ),
    "turns/accuracy_first": (
        "Share [0-1] of conversations whose first attempt is right, a reward of 0.5 or more. Steady in "
        "stage 1 of SCoRe, rising in stage 2."
    ),
    "turns/accuracy_second": "The same for the second attempt, a missing one counted as wrong. Rises.",
    "turns/accuracy_gain": (
        "Second minus first accuracy. Above 0 and rising; at 0 with few changes either way, the second "
        "attempt only repeats the first."
    ),
    "turns/incorrect_to_correct": (
        "Share [0-1] of conversations whose second attempt mends a wrong first one. Rises."
    ),
    "turns/correct_to_incorrect": (
        "Share [0-1] of conversations whose second attempt spoils a right first one. Falls."
    ),
    "environment/turns_per_conversation": (
        "Turns of the assistant [per conversation]. At the limit throughout, the policy never comes to an "
        "answer."
    ),
    "environment/malformed_per_conversation": (
        "Requests to the environment that it could not read, such as a broken tool call. Falls towards 0."
    ),
    "environment/exhausted_per_conversation": (
        "Requests beyond what is allowed, such as one call too many. Near 0; else raise the limit."
    ),
    "environment/failed_per_conversation": (
        "Conversations that the environment itself broke off; they have no reward and are not trained. 0."
    ),
    "process/accuracy": (
        "Share [0-1] of completions whose summed process reward has the sign of their outcome. 0.5 at "
        "first, then rises; at 0.5 for long, the process rewards are noise."
    ),
    "process/reward_per_sequence": (
        "Process reward summed over a completion, beta times its log-ratio [reward units]. Of the size of "
        "the outcome's rewards or below; a drift to one side is a bias of the process reward model."
    ),
    "loss/*": "This term of the loss, divided by its own count, before its weight. Falls or hovers.",
    "policy/entropy": (
        "Mean entropy of the next-token distribution [nats per token]. Falls slowly; a quick fall towards 0"
        " is mode collapse."
    ),
    "policy/clip_fraction_low": (
        "Share [0-1] of trained tokens whose ratio the lower bound clips. 0 on the first update of a batch;"
        " above 0.3 the batch is reused too often or the learning rate is too high."
    ),
    "policy/clip_fraction_high": (
        "Share [0-1] of trained tokens whose ratio the upper bound clips. 0 on the first update of a batch;"
        " above 0.3 the batch is reused too often or the learning rate is too high."
    ),
    "policy/ratio_mean": (
        "Mean of exp(logprobs - old_logprobs). 1 on the first update of a batch, and near 1 later."
    ),
    "policy/ratio_gap_mean": (
        "Mean |ratio - 1|. 0 on the first update of a batch: anything above 0.001 there is a bug."
    ),
    "policy/approx_kl": (
        "KL of the policy from the one that began the batch, k3 [nats per token]. 0 on the first update; "
        "above 0.05 the updates of a batch go too far."
    ),
    "policy/dead_group_share": (
        "Share [0-1] of trained completions in groups without any advantage. They give no gradient; a loss "
        "near 0 is normal, this near 1 is not."
    ),
    "policy/ref_kl_per_sequence": (
        "KL of the policy from the reference, k1 [nats per completion], when the batch began. Grows slowly "
        "from 0; a jump means that the policy has left the reference."
    ),
    "policy/log_ratio_gap": (
        "Mean |log pi - log pi_old| of a completion [nats]. 0 on the first update of a batch; far below "
        "eta/2, for gradient clipping sets the step."
    ),
    "policy/return_mean": (
        "Mean return [reward units], the KL penalty taken off, over trained tokens. Rises; the "
        "running baseline follows it."
    ),
    "policy/greedy_reward_mean": (
        "Mean reward of the greedy completions, the baseline. Rises; well above reward/mean the sampler's "
        "temperature costs reward."
    ),
    "policy/phi_mean": (
        "Mean weight phi of a trained token's completion. 1 on the first update of a batch; near 0 "
        "later, the policy has moved too far for this batch to teach."
    ),
    "kl/teacher_mean": (
        "Reverse KL of the student from the teacher [nats per token]: mean of log-prob minus the "
        "teacher's. Falls towards 0; where it stops, the student's size or the prompts set the limit."
    ),
    "rollout/greedy_mean_tokens": (
        "Mean length of the greedy completions drawn for baselines [tokens]: what they cost beside "
        "the rollouts."
    ),
    "rollout/unscored_baseline_share": (
        "Share [0-1] of rollouts whose prompt's greedy completion could not be scored; they are not trained. "
        "Near 0."
    ),
    "policy/kl_coef": "The KL coefficient now. Constant unless the controller adapts it.",
    "value/clip_fraction": "Share [0-1] of tokens whose value loss is the clipped one. Below 0.2.",
    "value/error_square_mean": (
        "Mean squared error of the critic. Explained variance is 1 - this / (value/return_square_mean - "
        "value/return_mean^2); near 0 the critic knows nothing."
    ),
    "value/return_mean": "Mean return that the critic learns to predict [reward units].",
    "value/return_square_mean": "Mean squared return [reward units squared].",
    "mismatch/logprob_gap_mean": (
        "Mean |sampler - learner| log-prob [nats per token], before the update. Below 0.02 in float32; a "
        "jump means that the sampler holds stale or wrong weights."
    ),
    "mismatch/kl": "KL of the learner from the sampler on the sampled tokens, k3 [nats per token]. Near 0.",
    "mismatch/weight_mean": (
        "Mean weight exp(old - sampler log-prob), within its cap, that corrects the mismatch. Near "
        "1; far below 1 under a mask, most tokens are dropped: raise mismatch_cap, or take the token level."
    ),
    "mismatch/weight_bounded_share": (
        "Share [0-1] of trained tokens whose weight the cap cuts or drops. Near 0; above 0.1 the "
        "sampler is too far from the learner."
    ),
    "mismatch/far_token_share": (
        "Share [0-1] of trained tokens in bad completions left out because the policy has moved away "
        "(max_gap). Near 0; above 0.1 rollouts are too stale."
    ),
    "train/grad_norm": (
        "Gradient norm before clipping. Steady within a factor of ten; spikes foretell divergence."
    ),
    "train/critic_grad_norm": "Gradient norm of the critic before clipping.",
    "train/process_grad_norm": "Gradient norm of the process reward model before clipping.",
    "train/*clipped_fraction": (
        "Share [0-1] of updates whose gradient norm was over max_grad_norm. At 1 throughout the limit, not "
        "the learning rate, sets the step."
    ),
    "train/*learning_rate": "Learning rate, mean over the step's updates. Follows the schedule.",
    "train/num_updates": "Optimizer updates since the stage began.",
    "train/completion_tokens": "Completion tokens of the step's batch, trained or not.",
    "train/flops": (
        "Floating-point operations of the step, estimated from weights and tokens: sampling, annotation, "
        "updates, not evaluation. Summed, it is the compute that methods are compared by."
    ),
    "time/collect_s": "Seconds to collect the batch: sampling and scoring online, next to nothing offline.",
    "time/annotate_s": (
        "Seconds for the forward passes before the update: old and reference log-probs, values."
    ),
    "time/step_s": "Seconds of the whole step.",
    "time/tokens_per_second": "Completion tokens of the batch per second of the whole step.",
    "time/*_s": "Seconds spent on this in the step.",
    "*/accuracy*": "Share [0-1] that the model gets right.",
    "*/*entropy*": "Mean entropy of a next-token distribution [nats per token].",
    "*/*kl*": "Estimate of a KL divergence [nats]. Grows slowly from 0; a jump means too large an update.",
    "*/*clip*": "Share [0-1] of trained tokens that are clipped. 0 on the first update of a batch.",
}


def help_of(name: str) -> str:
    """Return the help of a metric: its own entry, else the first pattern it matches, else ""."""
    return METRICS.get(name) or next((text for p, text in METRICS.items() if fnmatchcase(name, p)), "")


def area_of(name: str) -> str:
    """Return what stands before the slash."""
    return name.split("/", 1)[0]
