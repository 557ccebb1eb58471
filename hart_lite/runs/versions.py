"""Versions of Python and of the libraries that a run or an evaluation was made with, and the machine it ran on."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

LIBRARIES = ("hart-lite", "torch", "transformers", "trl", "peft", "accelerate", "bitsandbytes", "datasets", "pillow")


def versions() -> dict[str, str]:
    out = {"python": platform.python_version(), "platform": platform.platform()}
    for library in LIBRARIES:
        try:
            out[library] = version(library)
        except PackageNotFoundError:
            out[library] = "not installed"
    return out


def hardware(device: str) -> dict[str, str]:
    """`device` is the one that the model is on, such as "cuda:0"."""
    import torch  # here, so that what only reads versions starts at once

    out = {"device": device, "processor": _processor(), "cores": str(os.cpu_count()), "memory": _memory()}
    if device.startswith("cuda"):
        card = torch.cuda.get_device_properties(device)
        out["device"] = f"{card.name}, {card.total_memory / 2**30:.0f} GiB"
    return {name: value for name, value in out.items() if value}


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:  # no Linux
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _memory() -> str:
    if not hasattr(os, "sysconf"):  # Windows
        return ""
    return f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB"
