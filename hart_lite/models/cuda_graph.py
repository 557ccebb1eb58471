"""A piece of work on a CUDA card, recorded once and replayed: its kernels start without any Python between them."""

from __future__ import annotations

from collections.abc import Callable

import torch


def record(work: Callable[[], torch.Tensor]) -> tuple[Callable[[], None], torch.Tensor]:
    """(replay, out): every `replay()` does what `work` did, on the tensors it used, and leaves its result in `out`.

    `work` is run once before it is recorded, so that libraries set themselves up and caches are allocated outside the
    recording; it has to leave the same behind when it is run twice, and must not look at a value on the host. `out`
    is undefined before the first replay.
    """
    current, aside = torch.cuda.current_stream(), torch.cuda.Stream()
    aside.wait_stream(current)
    with torch.cuda.stream(aside):
        work()
    current.wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = work()
    return graph.replay, out
