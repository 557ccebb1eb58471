"""The factor of a loss before its backward pass: in float16 small gradients would come out as 0, and large ones as inf.

The adapters are float32, so what arrives at them is divided by it again. As in mixed-precision training at large
(arXiv 1710.03740, section 3.2), the factor follows what overflows.
"""

from __future__ import annotations

import logging

import torch

log = logging.getLogger(__name__)
START, SMALLEST, LARGEST = 1024.0, 1.0, 65536.0
GOOD_STEPS = 200  # in a row, after which twice the factor is tried


class LossScale:
    """1, and not to be moved, unless the model computes in float16."""

    def __init__(self, computes_in: torch.dtype) -> None:
        self.moves = computes_in == torch.float16
        self.value = START if self.moves else 1.0
        self.good = 0  # steps in a row

    def state(self) -> dict[str, float]:
        return {"value": self.value, "good": self.good}

    def restore(self, state: dict[str, float]) -> None:
        """A run that was resumed in another precision begins with that one's own factor."""
        if self.moves:
            self.value, self.good = state["value"], state["good"]

    def overflowed(self) -> None:
        """The loss was finite and its gradient was not."""
        self.good = 0
        if self.moves and self.value > SMALLEST:
            self.value /= 2
            log.warning("the gradient left float16: the loss is multiplied by %g from here on", self.value)

    def worked(self) -> None:
        """The gradient of a step was finite."""
        self.good += 1
        if self.moves and self.good >= GOOD_STEPS:
            self.good, self.value = 0, min(2 * self.value, LARGEST)
