"""A piece of work on a CUDA card, recorded once and replayed: its kernels start without any Python between them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
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
    room = _room(current.device_index)
    room.stream.wait_stream(current)
    with torch.cuda.stream(room.stream):
        work()
    current.wait_stream(room.stream)
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph, pool=room.pool, stream=room.stream):
            out = work()
    except RuntimeError as error:
        if ran_out(error):
            raise
        raise ModelError(
            f"the pass of a token cannot be recorded as a CUDA graph here: {error}; set rollout.cuda_graph=false"
        ) from error
    room.last = graph
    return graph.replay, out


def release() -> None:
    """Give the memory of all recordings back to the card: nothing else could use it. None of them may be replayed."""
    room = _room(torch.cuda.current_stream().device_index)
    room.last, room.pool = None, torch.cuda.graph_pool_handle()
    torch.cuda.empty_cache()


@dataclass
class _Room:
    """The stream and the memory of all recordings: every other stream would get a workspace of cuBLAS for good. A pool
    whose graphs are all gone cannot be recorded into again (torch's allocator asserts that it is in use), so the last
    graph stays until another takes its place."""

    stream: torch.cuda.Stream
    pool: tuple[int, int]
    last: torch.cuda.CUDAGraph | None = None


@lru_cache
def _room(device: int) -> _Room:
    return _Room(torch.cuda.Stream(device), torch.cuda.graph_pool_handle())
