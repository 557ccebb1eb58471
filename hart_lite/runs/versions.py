"""Versions of Python and of the libraries that a run or an evaluation was made with."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

LIBRARIES = ("hart-lite", "torch", "transformers", "trl", "peft", "accelerate", "bitsandbytes", "datasets", "pillow")


def versions() -> dict[str, str]:
    out = {"python": platform.python_version(), "platform": platform.platform()}
    for library in LIBRARIES:
        try:
            out[library] = version(library)
        except PackageNotFoundError:
            out[library] = "not installed"
    return out
