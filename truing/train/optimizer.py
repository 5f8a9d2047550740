"""AdamW over float32 masters, with gradients that add up in float32 whatever the compute dtype."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from truing.errors import CheckpointError, ModelError
from truing.model.precision import cast_parameters
from truing.train.adamw import norms_by_parts, step_by_parts


class MasterAdamW:
    """AdamW (Loshchilov & Hutter 2017, arXiv:1711.05101) of several networks, each with its own peak rate.

    The trained parameters of every network are cast to the compute dtype; their float32 masters,
    gradients and moments live here: 2 (parameter) + 4 + 4 + 8 bytes each in bfloat16, 16 in float32.
    A hook moves the first micro-batch's gradient to the master as it is, in 2 bytes; the second and
    later ones are added in float32 as soon as they exist, so bfloat16 sums lose nothing over many.

    Weight decay applies to matrices only: not to vectors (norms, biases) and not to embeddings, nor
    to an output layer tied to one.
    """

    def __init__(
        self,
        networks: Mapping[str, nn.Module],
        *,
        learning_rates: Mapping[str, float],
        weight_decay: float,
        betas: tuple[float, float],
        compute_dtype: torch.dtype,
    ) -> None:
        """Cast the networks, make the masters and hook the gradients.

        Raises:
            ModelError: a network trains nothing, or two networks train one parameter.
        """
        self.parameters: dict[str, dict[str, nn.Parameter]] = {}
        self.masters: dict[str, dict[str, Tensor]] = {}
        groups: list[dict[str, Any]] = []
        for name, module in networks.items():
            masters = cast_parameters(module, compute_dtype)
            self.masters[name] = masters
            self.parameters[name] = {n: p for n, p in module.named_parameters() if n in masters}
            groups += _groups(module, masters, learning_rates[name], weight_decay)
        self._check_networks()
        self._hook()
        devices = {m.device.type for group in self.masters.values() for m in group.values()}
        self._by_parts = devices == {"cpu"}
        self._scales: dict[Tensor, Tensor] = {}  # what divides each master's gradient in the next step
        fused = devices <= {"cpu", "cuda"}
        self._adam = torch.optim.AdamW(groups, betas=betas, fused=fused, foreach=None if fused else True)

    def gradients(self, network: str) -> list[Tensor]:
        """Return the gradients of a network that have arrived: float32 once there is more than one to add."""
        return [m.grad for m in self.masters[network].values() if m.grad is not None]

    def norm(self, network: str) -> Tensor:
        """Return the global norm of a network's gradient; 0 where none has arrived."""
        found = self.gradients(network)
        if not found:
            return torch.zeros((), device=next(iter(self.masters[network].values())).device)
        by_foreach = partial(torch._foreach_norm, ord=2, dtype=torch.float32)
        norms = norms_by_parts(found) if self._by_parts else by_foreach(found)
        return torch.linalg.vector_norm(torch.stack([norm.to(norms[0].device) for norm in norms]))

    def clip(self, network: str, norm: Tensor, max_norm: float) -> None:
        """Let the next step scale a network's gradient to at most `max_norm`, given its norm."""
        scale = ((norm + 1e-6) / max_norm).clamp(min=1.0)
        self._scales |= dict.fromkeys(self.masters[network].values(), scale)

    @torch.no_grad()
    def step(self, factor: float) -> None:
        """Move the masters at `factor` of their peak learning rates, then refresh the parameters."""
        for group in self._adam.param_groups:
            group["lr"] = group["peak"] * factor
        if self._by_parts:
            step_by_parts(self._adam, self._copies(), self._scales)
            return
        for masters in self.masters.values():
            for master in masters.values():
                if master.grad is not None:
                    master.grad = master.grad.float()
                    if master in self._scales:
                        master.grad.div_(self._scales[master])
        self._adam.step()
        self._refresh()

    def drop_gradients(self) -> None:
        """Free every gradient, and forget how it was to be scaled."""
        self._scales.clear()
        for network in self.masters:
            for name, master in self.masters[network].items():
                master.grad = None
                self.parameters[network][name].grad = None

    def nonfinite(self) -> list[str]:
        """Return the names of trained parameters whose gradient holds NaN or infinity."""
        return [
            f"{network}.{name}"
            for network, masters in self.masters.items()
            for name, master in masters.items()
            if master.grad is not None and not bool(torch.isfinite(master.grad).all())
        ]

    def tensors(self) -> dict[str, Tensor]:
        """Return masters, moments and step counts by name; the tensors are live, not copies."""
        found: dict[str, Tensor] = {}
        for network, masters in self.masters.items():
            steps = [self._adam.state.get(m, {}).get("step", torch.zeros(())) for m in masters.values()]
            found[f"{network}/step"] = torch.stack([torch.as_tensor(s).float().cpu() for s in steps])
            for name, master in masters.items():
                found[f"{network}/master/{name}"] = master.detach()
                for key in ("exp_avg", "exp_avg_sq"):
                    if master in self._adam.state:
                        found[f"{network}/{key}/{name}"] = self._adam.state[master][key]
        return found

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over what `tensors` returned; nothing is changed unless everything fits.

        Raises:
            CheckpointError: a tensor is missing, left over or has another shape.
        """
        self._check(tensors)
        self.drop_gradients()
        for network, masters in self.masters.items():
            steps = tensors[f"{network}/step"]
            for i, (name, master) in enumerate(masters.items()):
                master.copy_(tensors[f"{network}/master/{name}"])
                self._adam.state.pop(master, None)
                if steps[i] > 0:
                    self._adam.state[master] = self._moments(tensors, network, name, master, steps[i])
        self._refresh()

    def release(self) -> None:
        """Make the masters the parameters and forget gradients and moments, at the end of training."""
        self.drop_gradients()
        for network, masters in self.masters.items():
            for name, master in masters.items():
                self.parameters[network][name].data = master.data
        self._adam.state.clear()

    def _moments(
        self, tensors: Mapping[str, Tensor], network: str, name: str, master: Tensor, step: Tensor
    ) -> dict[str, Tensor]:
        fused = bool(self._adam.defaults["fused"])
        state = {
            key: tensors[f"{network}/{key}/{name}"].to(master.device, torch.float32, copy=True)
            for key in ("exp_avg", "exp_avg_sq")
        }
        return {"step": step.to(master.device if fused else "cpu", torch.float32, copy=True), **state}

    def _check(self, tensors: Mapping[str, Tensor]) -> None:
        expected: dict[str, torch.Size] = {}
        for network, masters in self.masters.items():
            expected[f"{network}/step"] = torch.Size([len(masters)])
            steps = tensors.get(f"{network}/step", torch.zeros(0))
            for i, (name, master) in enumerate(masters.items()):
                keys = ("master", "exp_avg", "exp_avg_sq") if i < len(steps) and steps[i] > 0 else ("master",)
                expected |= {f"{network}/{key}/{name}": master.shape for key in keys}
        missing = sorted(expected.keys() - tensors.keys())
        unknown = sorted(tensors.keys() - expected.keys())
        shapes = sorted(n for n in expected.keys() & tensors.keys() if expected[n] != tensors[n].shape)
        if missing or unknown or shapes:
            raise CheckpointError(
                "the saved optimizer state is of another model or adapter: "
                f"missing {_some(missing)}; left over {_some(unknown)}; other shape {_some(shapes)}"
            )

    def _check_networks(self) -> None:
        owner: dict[int, str] = {}
        for network, parameters in self.parameters.items():
            if not parameters:
                raise ModelError(f"the {network} has no parameter that requires a gradient")
            for name, parameter in parameters.items():
                other = owner.setdefault(id(parameter), network)
                if other != network:
                    raise ModelError(f"{network} and {other} both train '{name}'; give each its own copy")

    def _hook(self) -> None:
        for network, masters in self.masters.items():
            for name, master in masters.items():
                parameter = self.parameters[network][name]
                if master is not parameter:
                    master.grad_dtype = None  # type: ignore[attr-defined]
                    parameter.register_post_accumulate_grad_hook(  # type: ignore[no-untyped-call]
                        partial(_add_gradient, master)
                    )

    def _copies(self) -> dict[Tensor, Tensor]:
        """Return the low-precision parameter of each master that has one."""
        pairs = [
            (master, self.parameters[network][name])
            for network, masters in self.masters.items()
            for name, master in masters.items()
        ]
        return {master: parameter for master, parameter in pairs if master is not parameter}

    def _refresh(self) -> None:
        copies = self._copies()
        if copies:
            torch._foreach_copy_(list(copies.values()), list(copies.keys()))


def _add_gradient(master: Tensor, parameter: Tensor) -> None:
    assert parameter.grad is not None
    if master.grad is None:
        master.grad = parameter.grad
    elif master.grad.dtype == torch.float32:
        master.grad.add_(parameter.grad)
    else:
        master.grad = master.grad.float().add_(parameter.grad)
    parameter.grad = None


def _groups(
    module: nn.Module, masters: Mapping[str, Tensor], peak: float, weight_decay: float
) -> list[dict[str, Any]]:
    embeddings = {id(p) for m in module.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
    parameters = dict(module.named_parameters())
    decayed = {n for n, m in masters.items() if m.ndim >= 2 and id(parameters[n]) not in embeddings}
    split = ([m for n, m in masters.items() if (n in decayed) is side] for side in (True, False))
    return [
        {"params": params, "weight_decay": decay, "peak": peak, "lr": peak}
        for params, decay in zip(split, (weight_decay, 0.0), strict=True)
        if params
    ]


def _some(names: list[str]) -> str:
    return f"{len(names)} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})" if names else "0"
