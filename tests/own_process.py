"""Functions in processes of their own, to be killed. These begin with the libraries loaded, since importing them takes
longer than a small run: one process imports, and all others are its forks. It computes nothing and has no threads."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["hart_lite.training.train"])


def own_process(function: Callable, *arguments: object) -> multiprocessing.Process:
    """Started; `function` is one of a module, by which the process finds it."""
    process = _CONTEXT.Process(target=function, args=arguments, daemon=True)
    process.start()
    return process
