"""What a weight becomes when an adapter is merged into it: W + scale * B @ A, summed in float32 and rounded once."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from hart_lite.errors import HartError
from hart_lite.export.lora import Pair


@dataclass(frozen=True)
class Sum:
    """Of one weight. `pair` None: nothing is added. `quantised`: W gives way to what its 4 bits stand for, first, when
    quantised from `dtype` (None: its own)."""

    name: str
    pair: Pair | None
    scale: float
    quantised: bool
    dtype: torch.dtype | None = None

    def start(self, weight: torch.Tensor) -> torch.Tensor:
        """What B @ A is added to."""
        return through_nf4(weight.to(self.dtype or weight.dtype)) if self.quantised else weight

    def __call__(self, weight: torch.Tensor) -> torch.Tensor:
        """Same dtype. Raises `HartError` where the sum is no number there."""
        value = self.start(weight).float()
        if self.pair is not None:
            value = value.add(self.pair.B.float() @ self.pair.A.float(), alpha=self.scale)
        value = value.to(weight.dtype)
        if not value.isfinite().all():
            raise HartError(f"{self.name}: the sum does not fit {weight.dtype}; the adapter or the base is damaged")
        return value


def through_nf4(weight: torch.Tensor) -> torch.Tensor:
    """nf4 with double quantisation and back, as bitsandbytes does it for a base loaded with model.quant=nf4."""
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit  # here: merging without it does not need it

    return dequantize_4bit(*quantize_4bit(weight.contiguous(), quant_type="nf4", compress_statistics=True))
