"""Matrix products as they happen: every product that PyTorch dispatches, told apart by its shape."""

from __future__ import annotations

from collections import Counter as Tally
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.work import Dimensions

_aten = torch.ops.aten
_PRODUCTS = {_aten.mm, _aten.addmm, _aten.addmm_, _aten.bmm, _aten.baddbmm, _aten.baddbmm_}
# packet: (where query and key are, where is_causal is, products of two [tokens, head_dim] matrices)
_ATTENTION = {
    _aten._scaled_dot_product_flash_attention_for_cpu: (0, 4, 2),
    _aten._scaled_dot_product_flash_attention_for_cpu_backward: (1, 7, 5),
    _aten._scaled_dot_product_flash_attention: (0, 4, 2),
    _aten._scaled_dot_product_flash_attention_backward: (1, 10, 5),
}


class Counter(TorchDispatchMode):
    """Counts FLOPs of the trunk, the LM head and attention; a causal attention call counts what it sees."""

    def __init__(self, model: Dimensions) -> None:
        super().__init__()
        heads = {model.num_heads * model.head_dim, model.num_kv_heads * model.head_dim}
        self._widths = {model.hidden, model.intermediate, *heads}
        self.flops: Tally[str] = Tally()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        packet = func.overloadpacket
        if packet in _PRODUCTS:
            left, right = [a for a in args if isinstance(a, torch.Tensor)][-2:]
            self._product(left, right.shape[-1])
        elif packet is torch.ops.mkldnn._linear_pointwise:  # x @ weight.T with a packed weight [n, k]
            self._product(args[0].flatten(0, -2), args[1].shape[0])
        elif packet in _ATTENTION:
            first, flag, num_products = _ATTENTION[packet]
            causal = (kwargs or {}).get("is_causal", args[flag] if len(args) > flag else False)
            self._attend(args[first], args[first + 1], num_products, causal=causal)
        return result

    def _product(self, left: torch.Tensor, n: int) -> None:
        """Count [m, k] @ [k, n]: of the trunk when two of its sides are widths of a layer."""
        m, k = left.shape[-2:]
        trunk = n in self._widths and (k in self._widths or m in self._widths)
        kind = "attention" if left.ndim == 3 else "trunk" if trunk else "head"
        self.flops[kind] += 2 * left.numel() * n

    def _attend(self, query: torch.Tensor, key: torch.Tensor, num_products: int, *, causal: bool) -> None:
        num_queries, width = query.shape[-2:]
        num_keys = key.shape[-2]
        heads = query.numel() // (num_queries * width)
        short = min(num_queries, num_keys)
        unseen = short * (short - 1) // 2 if causal else 0
        self.flops["attention"] += 2 * num_products * heads * width * (num_queries * num_keys - unseen)
