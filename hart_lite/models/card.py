"""What is set once for a process that computes on a CUDA card."""

from __future__ import annotations

import platform

import torch

SHARE = 0.95  # of the card's memory


def prepare_card(device: torch.device) -> None:
    """cuDNN's attention off: it is what torch takes first on cards of capability 9 and 10, where its gradients under a
    mask may be NaN (pytorch #196678) and each new shape costs about a second.

    On Windows and WSL the driver moves what does not fit to the computer's memory, many times slower, and nothing is
    ever out of memory; a limit below the card's makes it so.
    """
    if device.type != "cuda":
        return
    torch.backends.cuda.enable_cudnn_sdp(False)
    if drivers_spill():
        torch.cuda.set_per_process_memory_fraction(SHARE, device)


def drivers_spill() -> bool:
    return platform.system() == "Windows" or "microsoft" in platform.release().lower()
