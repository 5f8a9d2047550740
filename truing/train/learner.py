"""The learner of one process: networks, float32 masters, AdamW, clipping, schedule."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from truing.config import LearnerConfig
from truing.errors import CheckpointError, ConfigError, ModelError, NonFiniteError
from truing.model.forward import (
    both_scores,
    policy_outputs,
    sequence_scores,
    token_scores,
    token_values,
)
from truing.model.heads import ScalarModel, lm_head_of
from truing.model.micro_batches import to_device
from truing.model.noise import embedding_noise
from truing.model.prompts import prompt_outputs
from truing.train.finite import FiniteWatch
from truing.train.optimizer import MasterAdamW
from truing.train.schedule import lr_factor
from truing.types import Batch, Outputs


class TorchLearner:
    """What updates, in one process: implements `truing.train.run.Learner`.

    The policy, or the scorer where a reward model is trained, moves at `learning_rate`; the critic
    at its own rate, with its own clipping. Networks run in `compute_dtype` with float32 masters
    (see MasterAdamW). Every dropout of a pretrained model is off, so that log-probs now and when
    the batch began are of one function; only lora.dropout acts, and only in passes with gradient.
    """

    def __init__(
        self,
        *,
        policy: nn.Module | None,
        critic: ScalarModel | None,
        scorer: ScalarModel | None,
        process: nn.Module | None = None,
        config: LearnerConfig,
        learning_rate: float,
        num_updates: int,
        compute_dtype: torch.dtype,
        temperature: float = 1.0,
        neftune_alpha: float = 0.0,
    ) -> None:
        """Take over the networks: cast them, switch dropout off, make the optimizer.

        Args:
            policy: a causal language model, with or without an adapter; None for a reward model's run.
            critic: the value network, for algorithms that need values.
            scorer: the reward model that is trained, for algorithms that need scores.
            process: a causal language model, for algorithms that need process_logprobs.
            config: clipping, decay, schedule, checkpointing.
            learning_rate: peak rate of the policy and the scorer.
            num_updates: optimizer steps of the whole run; the schedule's length.
            compute_dtype: of forward and backward: float32 or bfloat16.
            temperature: log-probs are of softmax(logits / temperature), as the sampler draws.
            neftune_alpha: noise on the policy's embeddings in passes with gradient; 0 for none.

        Raises:
            ConfigError: there is neither policy nor scorer.
            ModelError: a network trains nothing, shares a trained parameter with another, or the policy's
                LM head is of no known kind.
        """
        self.policy, self.critic, self.scorer = policy, critic, scorer
        given: dict[str, nn.Module | None] = {
            "policy": policy, "scorer": scorer, "critic": critic, "process": process,
        }  # fmt: skip
        self._networks = {name: module for name, module in given.items() if module is not None}
        if policy is None and scorer is None:
            raise ConfigError("a learner needs a policy or a scorer to train")
        self._config, self._learning_rate = config, learning_rate
        self._num_updates, self._temperature = num_updates, temperature
        self._neftune_alpha = neftune_alpha
        self.num_updates_done = 0
        self._switched = [
            m for net in self._networks.values() for m in _prepare(net, config.activation_checkpointing)
        ]
        self._rates = {"critic": config.critic_learning_rate, "process": config.process_learning_rate}
        self._optimizer = MasterAdamW(
            self._networks,
            learning_rates={name: self._rates.get(name, learning_rate) for name in self._networks},
            weight_decay=config.weight_decay,
            betas=config.betas,
            compute_dtype=compute_dtype,
        )
        if policy is not None:
            lm_head_of(policy)  # raises now, not in the first step, when the family's head is unknown
        self.device = next(next(iter(self._networks.values())).parameters()).device
        self._watch = FiniteWatch()
        self._sums: dict[str, Tensor] = {}
        self._num_summed = 0

    def forward(self, batch: Batch, needs: frozenset[str]) -> Outputs:
        """Return what `needs` names of Outputs, on the batch's device.

        With gradient, unless called under torch.no_grad.

        Raises:
            ConfigError: `needs` names what no network here can give.
        """
        home, inputs = batch.mask.device, to_device(batch, self.device)
        sharp_logprobs = self._sharp_logprobs(inputs) if "sharp_logprobs" in needs else None
        self._training(torch.is_grad_enabled())
        logprobs = entropy = values = prompt_logprobs = process_logprobs = None
        if "prompt_logprobs" in needs:
            policy = self._network("policy", "prompt_logprobs")
            logprobs, prompt_logprobs = prompt_outputs(policy, inputs, temperature=self._temperature)
        elif needs & {"logprobs", "entropy"}:
            policy, want = self._network("policy", "logprobs"), "entropy" in needs
            with embedding_noise(policy, inputs, self._neftune_alpha):
                logprobs, entropy = policy_outputs(
                    policy, inputs, temperature=self._temperature, entropy=want
                )
        if "process_logprobs" in needs:
            process = self._network("process", "process_logprobs")
            process_logprobs, _ = policy_outputs(process, inputs, temperature=self._temperature)
        if "values" in needs:
            values = token_values(self._network("critic", "values"), inputs)
        found = {
            "logprobs": logprobs, "entropy": entropy, "values": values,
            "prompt_logprobs": prompt_logprobs, "process_logprobs": process_logprobs,
            "sharp_logprobs": sharp_logprobs, **self._scores(inputs, needs),
        }  # fmt: skip
        outputs = Outputs(**{name: x.to(home) for name, x in found.items() if x is not None})
        if "parameters" in needs:
            numbers = self._network("scorer", "parameters").numbers
            outputs = replace(outputs, parameters={name: x.to(home) for name, x in numbers.items()})
        if torch.is_grad_enabled():
            self._watch.outputs(batch, outputs)
        return outputs

    def _scores(self, inputs: Batch, needs: frozenset[str]) -> dict[str, Tensor]:
        """Return what the scorer says, as far as `needs` names it."""
        found = dict[str, Tensor]()
        if "length_scores" in needs:
            network = self._network("scorer", "length_scores")
            scores, length_scores = both_scores(network, inputs)
            overlap = network.head_overlap()
            found = {"scores": scores, "length_scores": length_scores, "head_overlap": overlap}
        elif "scores" in needs:
            found["scores"] = sequence_scores(self._network("scorer", "scores"), inputs)
        if "token_scores" in needs:
            found["token_scores"] = token_scores(self._network("scorer", "token_scores"), inputs)
        return found

    def backward(self, loss: Tensor | float) -> None:
        """Add the gradient of one micro-batch's share of the loss, in float32."""
        value = loss if isinstance(loss, Tensor) else torch.tensor(float(loss))
        self._watch.loss(value)
        try:
            if value.requires_grad:
                value.backward()  # type: ignore[no-untyped-call]
        finally:
            self._training(False)

    @torch.no_grad()
    def optimizer_step(self) -> None:
        """Clip, step, advance the schedule, zero; all of it or nothing.

        Raises:
            NonFiniteError: a loss or a gradient is NaN or infinite. The message names the rows;
                weights, moments and schedule are as before, the gradients are dropped.
            ModelError: there were trained tokens and no trained parameter received a gradient.
        """
        try:
            norms = {name: self._optimizer.norm(name) for name in self._networks}
            self._check(norms)
            factor = self._factor()
            for name, norm in norms.items():
                self._optimizer.clip(name, norm, self._config.max_grad_norm)
            self._optimizer.step(factor)
            self.num_updates_done += 1
            self._tally(norms, factor)
        finally:
            self._optimizer.drop_gradients()
            self._watch.clear()

    def metrics(self) -> dict[str, Tensor | float]:
        """Return the means over the updates since the last call, and reset them; tensors are not read.

        train/grad_norm is before clipping, of the policy or scorer; train/clipped_fraction is the
        share of updates whose norm was over max_grad_norm. The same with `critic_` for the critic.
        """
        found: dict[str, Tensor | float] = {n: t / self._num_summed for n, t in self._sums.items()}
        found["train/num_updates"] = float(self.num_updates_done)
        self._sums, self._num_summed = {}, 0
        return found

    @property
    def networks(self) -> Mapping[str, nn.Module]:
        """Return what trains, by name: policy, scorer, critic."""
        return dict(self._networks)

    def master_weights(self, network: str = "policy") -> dict[str, Tensor]:
        """Return the float32 trained parameters of policy, critic or scorer by name, live."""
        return {name: master.detach() for name, master in self._optimizer.masters[network].items()}

    @torch.no_grad()
    def release(self) -> None:
        """End the training: put the float32 masters into the networks and free the optimizer.

        What is saved or merged after this is what was trained, not its low-precision copy.
        """
        self._optimizer.release()

    def state_dict(self) -> dict[str, dict[str, Any]]:
        """Return {"tensors": ..., "json": ...}: masters, moments, counts. The tensors are live.

        Frozen weights are not in it; a resumed run loads them from the start model.
        """
        return {"tensors": self._optimizer.tensors(), "json": {"num_updates_done": self.num_updates_done}}

    def load_state_dict(self, state: Mapping[str, Mapping[str, Any]]) -> None:
        """Take over a saved state; all of it or nothing.

        Raises:
            CheckpointError: the state is of other networks.
        """
        done = state["json"].get("num_updates_done")
        if not isinstance(done, int) or done < 0:
            raise CheckpointError(f"the learner's state has num_updates_done = {done!r}, not a count")
        self._optimizer.load(state["tensors"])
        self.num_updates_done = done
        self._watch.clear()
        self._sums, self._num_summed = {}, 0

    @torch.no_grad()
    def _sharp_logprobs(self, batch: Batch) -> Tensor:
        self._training(False)
        policy = self._network("policy", "sharp_logprobs")
        return policy_outputs(policy, batch, temperature=self._temperature / 2)[0]

    def _network(self, name: str, need: str) -> Any:
        if name not in self._networks:
            raise ConfigError(f"the algorithm needs {need}, and this learner was built without a {name}")
        return self._networks[name]

    def _factor(self) -> float:
        c = self._config
        return lr_factor(
            self.num_updates_done,
            self._num_updates,
            schedule=c.schedule,
            warmup=c.warmup,
            min_ratio=c.min_lr_ratio,
        )

    def _check(self, norms: Mapping[str, Tensor]) -> None:
        if not self._watch.ok(list(norms.values())):
            names = self._optimizer.nonfinite()
            gradient = f" Gradients that are not finite: {len(names)}, first {names[0]}." if names else ""
            raise NonFiniteError(
                f"update {self.num_updates_done} was not made, the weights are unchanged: "
                f"{self._watch.report()}.{gradient}"
            )
        if not any(self._optimizer.gradients(name) for name in self._networks) and self._watch.trained():
            raise ModelError("the loss depends on no trained parameter: was the forward pass under no_grad?")

    def _tally(self, norms: Mapping[str, Tensor], factor: float) -> None:
        seen: dict[str, Tensor] = {}
        for name, norm in norms.items():
            prefix = f"{name}_" if name in self._rates else ""
            rate = self._rates.get(name, self._learning_rate)
            seen[f"train/{prefix}grad_norm"] = norm
            seen[f"train/{prefix}clipped_fraction"] = (norm > self._config.max_grad_norm).float()
            seen[f"train/{prefix}learning_rate"] = torch.tensor(rate * factor)
        self._sums = {name: self._sums[name] + x if name in self._sums else x for name, x in seen.items()}
        self._num_summed += 1

    def _training(self, on: bool) -> None:
        for module in self._switched:
            module.training = on


def _prepare(network: nn.Module, activation_checkpointing: bool) -> list[nn.Module]:
    """Put the network in eval mode and return the modules that are in training mode with gradient.

    These are the adapter's dropouts, and the layers that recompute: transformers checkpoints a layer
    only while its own flag says training. The flags are set one by one, so what is inside a layer
    stays in eval mode.
    """
    network.eval()
    switched: list[nn.Module] = [
        m for n, m in network.named_modules() if ".lora_dropout." in n and isinstance(m, nn.Dropout)
    ]
    if activation_checkpointing:
        model: Any = network.backbone if isinstance(network, ScalarModel) else network
        # transformers renamed the method within version 5
        enable = (
            getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
        )
        enable({"use_reentrant": False})
        layers = [m for m in network.modules() if getattr(m, "gradient_checkpointing", False) is True]
        for layer in layers:
            for name, value in vars(layer).items():
                if "drop" in name and isinstance(value, float):
                    setattr(layer, name, 0.0)
        switched += layers
    return switched
