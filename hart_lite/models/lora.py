"""Adapters in the precision of the model: y = W x + scaling B (A x), in two more products for a linear layer.

PEFT's own forward casts every input to the adapters' float32, keeps those copies for the backward pass, multiplies in
float32 and casts back. Here A and B are cast, which are small; the adapters themselves stay float32, and so do their
gradients and what the optimizer makes of them.
"""

from __future__ import annotations

from types import MethodType

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from torch.nn.functional import linear

ADAPTER = "default"


def speed_up_adapters(model: nn.Module) -> None:
    """Give every plain LoRA layer of the model this forward; others keep PEFT's."""
    for module in model.modules():
        if isinstance(module, LoraLayer) and _is_plain(module):
            module.forward = MethodType(_forward, module)


def _is_plain(module: LoraLayer) -> bool:
    """A linear layer with one adapter and nothing that changes the formula: no dropout, bias or variant (DoRA)."""
    return (
        list(getattr(module, "lora_A", ())) == [ADAPTER]
        and isinstance(module.lora_A[ADAPTER], nn.Linear)
        and isinstance(module.lora_dropout[ADAPTER], nn.Identity)
        and module.lora_B[ADAPTER].bias is None
        and not getattr(module, "lora_variant", {})
    )


def _forward(self: LoraLayer, x: Tensor) -> Tensor:
    if self.disable_adapters:
        return self.base_layer(x)
    a, b = _cast(self, x.dtype)
    rows = x.flatten(0, -2)
    out = self.base_layer(rows).addmm_(linear(rows, a), b.T, alpha=self.scaling[ADAPTER])  # in its place: it is large
    return out.view(*x.shape[:-1], -1)


def _cast(module: LoraLayer, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """A and B in this precision. Without gradient they are kept until the optimizer changes them."""
    a, b = module.lora_A[ADAPTER].weight, module.lora_B[ADAPTER].weight
    if torch.is_grad_enabled() or a.dtype == dtype:
        return a.to(dtype), b.to(dtype)
    version = (a.data_ptr(), a._version, b.data_ptr(), b._version, dtype)
    kept = getattr(module, "kept_cast", None)
    if kept is None or kept[0] != version:
        module.kept_cast = kept = version, (a.to(dtype), b.to(dtype))
    return kept[1]
