"""A piece of work on a CUDA card, recorded once and replayed: its kernels start without any Python between them."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import torch

from hart_lite.errors import ModelError
from hart_lite.models.oom import ran_out


def record(work: Callable[[], torch.Tensor]) -> tuple[Callable[[], None], torch.Tensor]:
    """(replay, out): every `replay()` does what `work` did, on the tensors it used, and leaves its result in `out`.

    `work` is run once before it is recorded, so that libraries set themselves up and caches are allocated outside the
    recording; it has to leave the same behind when it is run twice, and must not look at a value on the host. `out`
    is undefined before the first replay. The graph recorded before must be done with: recordings share their memory.
    Raises `ModelError` where the card or a library cannot be recorded.
    """
    current = torch.cuda.current_stream()
    aside, pool = _aside(current.device_index)
    aside.wait_stream(current)
    with torch.cuda.stream(aside):
        work()
    current.wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph, pool=pool, stream=aside):
            out = work()
    except RuntimeError as error:
        if ran_out(error):
            raise
        raise ModelError(
            f"the pass of a token cannot be recorded as a CUDA graph here: {error}; set rollout.cuda_graph=false"
        ) from error
    return graph.replay, out


@lru_cache
def _aside(device: int) -> tuple[torch.cuda.Stream, tuple[int, int]]:
    """The stream and the memory of all recordings: every other stream would get a workspace of cuBLAS for good."""
    return torch.cuda.Stream(device), torch.cuda.graph_pool_handle()
