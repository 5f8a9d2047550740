"""Annotations are forward passes without gradient, made before the update; see truing.model.micro_batches."""

from __future__ import annotations

from truing.model.micro_batches import in_micro_batches, to_device

__all__ = ["in_micro_batches", "to_device"]
