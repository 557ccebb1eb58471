"""Recordings on a card, with stand-ins for what torch needs a card for."""

import contextlib
import gc
import weakref
from types import SimpleNamespace

import pytest
import torch

from hart_lite.errors import ModelError
from hart_lite.models.cuda_graph import record, release


class Pool:
    """As torch's allocator counts: a pool that graphs were in and have all left takes none any more."""

    def __init__(self) -> None:
        self.graphs, self.used = weakref.WeakSet(), False

    def take(self, graph) -> None:
        gc.collect()
        assert len(self.graphs) or not self.used, "use_count > 0"
        self.graphs.add(graph)
        self.used = True


class Graph:
    def replay(self) -> None:
        pass


@pytest.fixture(autouse=True)
def card(monkeypatch):
    pool = Pool()

    @contextlib.contextmanager
    def capture(graph, pool, stream):
        yield
        pool.take(graph)

    pools = [pool]
    stream = SimpleNamespace(device_index=id(pool), wait_stream=lambda other: None)
    stand_ins = {
        "current_stream": lambda: stream,
        "Stream": lambda device: stream,
        "stream": lambda stream: contextlib.nullcontext(),
        "graph_pool_handle": lambda: pools.pop() if pools else Pool(),
        "empty_cache": lambda: None,
        "CUDAGraph": Graph,
        "graph": capture,
    }
    for name, stand_in in stand_ins.items():
        monkeypatch.setattr(torch.cuda, name, stand_in)
    return pool


def test_work_is_run_once_before_it_is_recorded_and_the_pool_can_be_recorded_into_again(card):
    runs = []
    replay, out = record(lambda: runs.append(1) or torch.tensor(len(runs)))
    assert (len(runs), out.item()) == (2, 2)
    del replay
    record(lambda: torch.zeros(1))
    gc.collect()
    assert len(card.graphs) == 1  # the one before it is gone


def test_after_a_release_nothing_is_kept_and_recording_goes_on_in_a_pool_of_its_own(card):
    record(lambda: torch.zeros(1))
    release()
    gc.collect()
    assert not card.graphs
    record(lambda: torch.zeros(1))
    assert not card.graphs


def test_what_cannot_be_recorded_says_which_setting_to_turn_off():
    runs = []

    def work():
        runs.append(1)
        if len(runs) == 2:
            raise RuntimeError("operation not permitted when stream is capturing")

    with pytest.raises(ModelError, match=r"not permitted .*rollout\.cuda_graph=false"):
        record(work)


def test_memory_that_runs_out_while_recording_is_no_fault_of_the_graph():
    runs = []

    def work():
        runs.append(1)
        if len(runs) == 2:
            raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        record(work)
