"""Watch losses, outputs and their gradients for NaN and infinity, and name the rows that made them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields

import torch
from torch import Tensor

from truing.types import Batch, Outputs

_MAX_NAMED = 8


@dataclass(slots=True)
class _Micro:
    uids: tuple[str, ...]
    trained: Tensor  # whether any token is trained
    loss: Tensor | None = None
    rows: dict[str, Tensor] = field(default_factory=dict)  # what was looked at -> per row: all finite


class FiniteWatch:
    """Flags of the micro-batches since the last update; they stay on the device until `ok` reads them."""

    def __init__(self) -> None:
        self._micros: list[_Micro] = []

    def outputs(self, batch: Batch, outputs: Outputs) -> None:
        """Note which rows' outputs are finite on trained tokens, and hook their gradients."""
        uids = batch.uids or tuple(f"row {i}" for i in range(len(batch)))
        micro = _Micro(uids, batch.mask.any())
        self._micros.append(micro)
        for f in fields(outputs):
            value = getattr(outputs, f.name)
            if not isinstance(value, Tensor) or value.ndim == 0:
                continue  # numbers beside the rows: the gradient norm sees them
            micro.rows[f.name] = _finite_rows(value.detach(), batch.mask)
            if value.requires_grad:
                value.register_hook(_gradient_hook(micro, f.name, batch.mask))

    def loss(self, loss: Tensor) -> None:
        """Note the loss of the micro-batch that went forward last."""
        if not self._micros:
            self._micros.append(_Micro((), torch.zeros((), dtype=torch.bool)))
        self._micros[-1].loss = loss.detach()

    def ok(self, norms: Sequence[Tensor]) -> bool:
        """Return whether every loss and gradient norm is finite; the one read from the device."""
        losses = [m.loss for m in self._micros if m.loss is not None]
        device = norms[0].device
        values = torch.stack([v.to(device, torch.float32) for v in (*losses, *norms)])
        return bool(torch.isfinite(values).all())

    def trained(self) -> bool:
        """Return whether any micro-batch held a trained token."""
        return any(bool(m.trained) for m in self._micros)

    def report(self) -> str:
        """Return which micro-batches and rows are not finite, and in what."""
        parts = [text for i, micro in enumerate(self._micros) if (text := self._describe(i, micro))]
        if parts:
            return "; ".join(parts)
        uids = [uid for micro in self._micros for uid in micro.uids]
        return f"every loss and output is finite; the update's rows are {_names(uids)}"

    def clear(self) -> None:
        """Forget the micro-batches."""
        self._micros.clear()

    def _describe(self, number: int, micro: _Micro) -> str:
        blamed: list[str] = []
        for name, flags in micro.rows.items():
            uids = [uid for uid, fine in zip(micro.uids, flags.tolist(), strict=True) if not fine]
            if uids:
                blamed.append(f"{name} of {_names(uids)}")
        bad_loss = micro.loss is not None and not bool(torch.isfinite(micro.loss))
        if not blamed and not bad_loss:
            return ""
        loss = "none" if micro.loss is None else f"{float(micro.loss):g}"
        where = ", ".join(blamed) if blamed else f"only the loss, over {_names(micro.uids)}"
        return f"micro-batch {number + 1} of {len(self._micros)} (loss {loss}): not finite: {where}"


def _finite_rows(value: Tensor, mask: Tensor) -> Tensor:
    fine = torch.isfinite(value)
    return fine if value.ndim == 1 else (fine | ~mask.to(value.device)).all(dim=1)


def _gradient_hook(micro: _Micro, name: str, mask: Tensor) -> Callable[[Tensor], None]:
    def note(gradient: Tensor) -> None:
        micro.rows[f"gradient of {name}"] = _finite_rows(gradient, torch.ones_like(mask))

    return note


def _names(uids: Sequence[str]) -> str:
    rest = len(uids) - _MAX_NAMED
    shown = ", ".join(repr(uid) for uid in uids[:_MAX_NAMED])
    return f"{shown} and {rest} more" if rest > 0 else shown or "rows without ids"
