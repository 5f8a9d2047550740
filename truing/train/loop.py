"""The outer loop, written once."""

from __future__ import annotations

from truing.train.run import Run


def train(run: Run) -> None:
    """Train run.learner with run.algorithm: collect, annotate, credit, update, publish, observe.

    The same lines serve SFT, reward models and the DPO family (rows of a data set) and online RL
    (scored rollouts of the sampler). Only `collect` and the Algorithm differ. A loss is a sum of
    terms, each divided once by the count of its unit over the whole optimizer step.
    """
    algorithm, learner = run.algorithm, run.learner
    for step in range(run.first_step, run.num_steps):
        config = run.config
        batch = run.collect(step)  # dataset rows, or rollouts scored by verifiers and judges
        batch = run.annotate(batch, config.needs())  # no grad: old_logprobs, ref_logprobs, values
        batch = algorithm.credit(batch, config)  # advantages and returns; identity when offline

        for minibatch in run.minibatches(batch):  # num_epochs shuffled passes over the batch
            count = run.sum_over_ranks(minibatch.count())  # {"token": ., "sequence": ., "pair": .}
            for micro in minibatch.split(run.micro_batch_tokens):
                terms = algorithm.loss(learner.forward(micro, config.needs()), micro, config)
                learner.backward(sum(t.weight * t.total / count[t.unit].clamp(min=1) for t in terms))
                run.tally(terms, count)  # every term by name, metrics (weight 0) too
            learner.optimizer_step()  # clip, step, schedule, zero; raises when not finite

        metrics = run.metrics()  # the tallied terms and the learner's own, read once a step
        run.config = algorithm.adapt(config, metrics)  # adaptive coefficients; identity otherwise
        run.publish(step)  # weights to the sampler; no-op when offline
        run.observe(step, batch, metrics)  # log, diagnose, evaluate, checkpoint
