"""Weights that are numbers."""

from __future__ import annotations

import torch
from torch import nn

from hart_lite.errors import HartError


def check_finite(model: nn.Module, source: str, trained: bool = False) -> None:
    """Refuse weights that are NaN or infinite, with `trained` among the adapters alone. `source` is for the message.

    The numbers of a 4-bit base are codes, none of which is NaN.
    """
    for name, parameter in model.named_parameters():
        if parameter.is_floating_point() and (parameter.requires_grad or not trained):
            low, high = torch.aminmax(parameter.detach())  # NaN comes through both; nothing of its size is made
            if not (low.isfinite() and high.isfinite()):
                raise HartError(
                    f"{source}: the weights {name.replace('.default', '')} are not finite (NaN or infinite); "
                    "nothing can be computed with them. Take an earlier one, or fetch it again"
                )
