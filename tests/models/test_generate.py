"""Beside sampling the right text (test_policy.py): prompts are read in slices, tokens come from a graph."""

from __future__ import annotations

import pytest
import torch
from pictures import drawn, photo_view
from torch.utils._python_dispatch import TorchDispatchMode

import hart_lite.models.generation
from hart_lite.models import cuda_graph, prefill
from hart_lite.models.decoder import Decoder
from hart_lite.models.generation import Sampling, pick
from hart_lite.types import Tokens


@pytest.fixture(scope="module")
def talkative(new_policy):
    """Adapters so large that the greedy text varies; an untrained model repeats one token."""
    return new_policy(adapter_std=0.4)


def prompts(family) -> list[Tokens]:
    """Three questions on one image, one of them twice, and two on others: levels of different widths."""
    one, two, three = photo_view(112, 56, 1), photo_view(56, 84, 2), photo_view(28, 28, 3)
    contents = [(one, "Which?"), (one, "Which?"), (one, "What is on the red square?"), (two, three, "Where?"), ("a",)]
    return [family.chat(content) for content in contents]


class Tape(TorchDispatchMode):
    """A CUDA graph on paper: the kernels that ran, on the addresses they ran on. What it cannot hold it refuses, as the
    card does: a value that the host looks at."""

    def __init__(self) -> None:
        super().__init__()
        self.entries: list[tuple] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        assert function is not torch.ops.aten._local_scalar_dense.default, "the host looks at a value"
        assert function is not torch.ops.aten.nonzero.default, "a shape follows from values"
        out = function(*args, **(kwargs or {}))
        self.entries.append((function, args, kwargs or {}, out))
        return out

    def replay(self) -> None:
        for function, args, kwargs, out in self.entries:
            again = function(*args, **kwargs)
            for old, new in zip(tensors(out), tensors(again), strict=True):
                if old.data_ptr() != new.data_ptr():
                    old.copy_(new)


def tensors(out) -> list[torch.Tensor]:
    return [item for item in (out if isinstance(out, tuple | list) else [out]) if isinstance(item, torch.Tensor)]


def record_on_paper(work):
    """`cuda_graph.record` for a machine without a card."""
    work()
    with Tape() as tape:
        out = work()
    record_on_paper.tapes.append(tape)
    return tape.replay, out


@pytest.fixture
def tapes(monkeypatch) -> list[Tape]:
    record_on_paper.tapes = []
    monkeypatch.setattr(hart_lite.models.generation, "record", record_on_paper)
    monkeypatch.setattr(hart_lite.models.generation, "release", lambda: record_on_paper.tapes.append("released"))
    return record_on_paper.tapes


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("reach", [4, 64])
def test_tokens_replayed_from_a_graph_are_those_without(talkative, tapes, monkeypatch, temperature, reach):
    """With ends in reach, so that rows leave the recorded batch."""
    monkeypatch.setattr(hart_lite.models.generation, "GRAPH_REACH", reach)
    asked = prompts(talkative.family)
    free = drawn(talkative, asked, Sampling(20, temperature))
    monkeypatch.setattr(talkative.family, "eos_ids", (free[0][3], free[2][7]))
    expected = drawn(talkative, asked, Sampling(20, temperature))
    assert len({len(response) for response in expected}) > 1
    assert not tapes
    assert drawn(talkative, asked, Sampling(20, temperature, graph=True)) == expected
    assert len(tapes) < 20  # recorded for some tokens only


def test_a_graph_is_recorded_again_only_when_shapes_change(talkative, tapes, monkeypatch):
    monkeypatch.setattr(talkative.family, "eos_ids", ())  # nobody leaves
    monkeypatch.setattr(hart_lite.models.generation, "GRAPH_REACH", 8)
    drawn(talkative, prompts(talkative.family), Sampling(20, 0, graph=True))
    assert len(tapes) == 4  # tokens 0-7, 8-15, 16-18; the last one is drawn and never fed
    assert tapes.index("released") == 3


def test_what_was_recorded_is_given_back_though_sampling_fails(talkative, tapes, monkeypatch):
    short = Sampling(4, 0, graph=True)  # ends before a recording would pay
    drawn(talkative, prompts(talkative.family), short)
    assert not tapes

    def fails(logits, sampling, uniform):
        if tapes:
            raise KeyError("of a test")
        return pick(logits, sampling, uniform)

    monkeypatch.setattr(hart_lite.models.generation, "pick", fails)
    monkeypatch.setattr(talkative.family, "eos_ids", ())
    with pytest.raises(KeyError):
        drawn(talkative, prompts(talkative.family), Sampling(20, 0, graph=True))
    assert tapes[1:] == ["released"]


def test_places_to_come_are_hidden_from_a_recorded_token(talkative, tapes, monkeypatch):
    """They hold zeros, which would take their share of the attention."""

    def logits(graph: bool) -> torch.Tensor:
        seen = []

        def spy(logits, sampling, uniform):
            seen.append(logits)
            return pick(logits, sampling, uniform)

        with monkeypatch.context() as patch:
            patch.setattr(hart_lite.models.generation, "pick", spy)
            patch.setattr(talkative.family, "eos_ids", ())  # so that every row is in every step
            drawn(talkative, prompts(talkative.family), Sampling(6, 0, graph=graph))
        return torch.stack(seen).clamp(min=-1e9)  # banned ones are at minus infinity

    expected = logits(graph=False)
    torch.testing.assert_close(logits(graph=True), expected, rtol=0, atol=1e-4)
    monkeypatch.setattr(torch, "gt", lambda *_, out: out)  # nothing is hidden
    assert (logits(graph=True) - expected).abs().max() > 1e-3


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no card")
def test_a_graph_replays_what_was_recorded():
    x, out = torch.ones(3, device="cuda"), torch.zeros(3, device="cuda")
    replay, result = cuda_graph.record(lambda: out.copy_(x * 2))
    x.fill_(5)
    replay()
    assert result.tolist() == [10, 10, 10]


@pytest.mark.parametrize("most", [1, 7, 30, 60])
def test_prompts_read_in_slices_say_the_same(talkative, monkeypatch, most):
    """Also where a pass ends within an image."""
    asked = prompts(talkative.family)
    whole = drawn(talkative, asked, Sampling(8, 0))
    passes, read = [], Decoder.__call__
    monkeypatch.setattr(prefill, "FEED_TOKENS", most)
    monkeypatch.setattr(
        Decoder, "__call__", lambda self, embeds, *rest: passes.append(embeds.shape[:2]) or read(self, embeds, *rest)
    )
    assert drawn(talkative, asked, Sampling(8, 0)) == whole
    reading = [tokens for rows, tokens in passes if rows == 1]
    assert reading[:-1] == [most] * (len(reading) - 1) and 0 < reading[-1] <= most
