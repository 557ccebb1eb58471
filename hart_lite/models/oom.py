"""Out of memory: what did not fit is computed again in smaller pieces, from where it began, to the same result."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch

log = logging.getLogger(__name__)
T = TypeVar("T")
# What PyTorch says of it where it raises a plain RuntimeError: of the CPU's memory, and of a library's own on a card.
_WORDS = ("DefaultCPUAllocator: can't allocate memory", "std::bad_alloc", "CUBLAS_STATUS_ALLOC_FAILED")


def within_memory(work: Callable[[], T]) -> T | None:
    """What `work` returns; None where memory ran out in it: what it held is free again, what it did is not undone."""
    with torch.enable_grad():
        earlier = torch.zeros((), requires_grad=True) + 0
    try:
        return work()
    except (RuntimeError, MemoryError) as error:  # torch.OutOfMemoryError is a RuntimeError
        if not ran_out(error):
            raise
    # Out here: the error held the frames of what failed, and they its tensors.
    gc.collect()
    # A backward pass on CPU that fails leaves tasks in autograd's queue, which hold its graph. The youngest nodes come
    # first there: a pass through one that is older than all of them clears them away.
    earlier.backward()
    torch.cuda.empty_cache()  # nothing without a card
    return None


def ran_out(error: BaseException | None) -> bool:
    """Also where it was raised in the wake of that: the recording of a CUDA graph ends with another error."""
    if error is None:
        return False
    if isinstance(error, torch.OutOfMemoryError | MemoryError) or any(words in str(error) for words in _WORDS):
        return True
    return ran_out(error.__cause__ or error.__context__)


@dataclass
class Budget:
    """How much is computed at one time, by the recipe's `key` or, where none says it, what it counts. Halved, it stays
    so: what did not fit once will not."""

    key: str
    value: int
    in_recipe: bool = True

    def halve(self, where: str) -> None:
        before, self.value = self.value, max(self.value // 2, 1)
        advice = f". Set {self.key}={self.value} in the recipe to begin with what fits" if self.in_recipe else ""
        log.warning(
            "memory ran out in %s with %s=%d: again with %d, and so from here on. The samples and the result are the "
            "same%s",
            *(where, self.key, before, self.value, advice),
        )


class Draws:
    """The generators that a pass draws from (dropout), as they are now."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.cpu = torch.get_rng_state()
        self.card = torch.cuda.get_rng_state(device) if device.type == "cuda" else None

    def again(self) -> None:
        """What is drawn next is what was drawn next then."""
        torch.set_rng_state(self.cpu)
        if self.card is not None:
            torch.cuda.set_rng_state(self.card, self.device)
