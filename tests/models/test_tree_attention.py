"""Two calls merged by their log-sum-exps against the softmax under the whole mask, in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from hart_lite.models import kernels
from hart_lite.models.packing import Pack, pack
from hart_lite.models.tree_attention import Tree, attend
from hart_lite.perf.card.tree import mask_of
from hart_lite.types import Tokens

HEADS, KEY_HEADS, WIDTH = 6, 2, 16
SCALE = WIDTH**-0.5
CPU = torch.device("cpu")


def said(ids: tuple[int, ...], n: int) -> Tokens:
    return Tokens(ids) + Tokens.response(tuple(range(100, 100 + n)))


SEQUENCES = {
    "nothing shared": [said((1, 2), 3), said((3, 4, 5), 2)],
    "one prefix": [said((1, 2, 3, 4), n) for n in (1, 4, 2)],
    "three levels": [said((1, 2, 3, 4, 5), 3), said((1, 2, 3, 4, 5), 2), said((1, 2, 6, 7), 4), said((1, 2, 6, 7), 1)],
    "a root beside them": [said((1, 2, 3), 2), said((1, 2, 3), 3), said((9, 8), 5)],
}


def packed(sequences: list[Tokens]) -> Pack:
    [one] = pack(sequences, lambda t: torch.arange(len(t))[None], 1000)
    return one


def tensors(tokens: int, dtype=torch.float32) -> tuple[Tensor, ...]:
    """q, k, v with gradient, and what comes back to the output."""
    torch.manual_seed(0)
    shapes = [(tokens, n, WIDTH) for n in (HEADS, KEY_HEADS, KEY_HEADS)]
    return *(torch.randn(s, dtype=dtype).requires_grad_() for s in shapes), torch.randn(tokens, HEADS, WIDTH)


def exactly(mask: Tensor, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    keys, values = (t.repeat_interleave(HEADS // KEY_HEADS, dim=1) for t in (k, v))
    scores = torch.einsum("qhd,khd->hqk", q, keys) * SCALE
    return torch.einsum("hqk,khd->qhd", scores.masked_fill(~mask, -torch.inf).softmax(-1), values)


def with_gradients(out: Tensor, parts: tuple[Tensor, ...], grad: Tensor) -> list[Tensor]:
    return [out, *torch.autograd.grad(out, parts, grad.to(out.dtype))]


def worst(found: list[Tensor], right: list[Tensor]) -> float:
    return max(((a.double() - b).norm() / b.norm()).item() for a, b in zip(found, right, strict=True))


def errors(row: Pack, dtype: torch.dtype) -> float:
    *parts, grad = tensors(len(row), dtype)
    ours = with_gradients(attend(*parts, row.tree(CPU), SCALE), parts, grad)
    exact = [p.detach().double().requires_grad_() for p in parts]
    return worst(ours, with_gradients(exactly(mask_of(row), *exact), exact, grad))


@pytest.mark.parametrize("name", SEQUENCES)
@pytest.mark.parametrize(("dtype", "most"), [(torch.float32, 1e-6), (torch.bfloat16, 2e-2)])
def test_output_and_gradients_are_those_under_the_whole_mask(name, dtype, most):
    assert errors(packed(SEQUENCES[name]), dtype) < most


@pytest.mark.parametrize("wrong", ["weight", "keys", "order"])
def test_what_is_merged_wrongly_shows(wrong, monkeypatch):
    row = packed(SEQUENCES["three levels"])
    if wrong == "weight":  # what is above weighs nothing
        monkeypatch.setattr(torch, "logaddexp", lambda own, above: own)
    elif wrong == "keys":
        row.tree(CPU).above_K.copy_(row.tree(CPU).above_K.flip(0))
    else:  # backward takes the log-sum-exp of its own call alone
        forward = kernels.forward

        def lowered(*arguments):
            out, lse, state = forward(*arguments)
            return out, lse - 0.3, state

        monkeypatch.setattr(kernels, "forward", lowered)
    assert errors(row, torch.float32) > 1e-2


@pytest.mark.parametrize("name", SEQUENCES)
def test_the_pairs_computed_are_those_needed(name):
    row = packed(SEQUENCES[name])
    assert row.tree(CPU).pairs == int(mask_of(row).sum())


def test_neighbours_that_see_the_same_are_one_sequence_of_the_second_call():
    row = packed(SEQUENCES["one prefix"])
    assert row.tree(CPU).own.q.lengths == (3, 2, 5, 3)
    assert (row.tree(CPU).above.q.lengths, row.tree(CPU).above.k.lengths) == ((10,), (3,))


@pytest.mark.parametrize("name", SEQUENCES)
def test_a_store_that_earlier_passes_filled_serves_as_well(name):
    """Runs read one at a time, as prompts are: the keys above them come from the store."""
    row = packed(SEQUENCES[name])
    *parts, _ = tensors(len(row))
    q, k, v = (p.detach() for p in parts)
    outs, start = [], 0
    for length, above in zip(row.runs, row.above, strict=True):
        own = slice(start, start + length)
        outs.append(attend(q[own], k[own], v[own], Tree.of([length], [above], CPU), SCALE, (k, v)))
        start += length
    torch.testing.assert_close(torch.cat(outs), exactly(mask_of(row), q, k, v), rtol=0, atol=1e-5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no card")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_card_s_kernels_agree(dtype):
    row = packed(SEQUENCES["three levels"])
    *parts, grad = (t.detach().cuda().requires_grad_() for t in tensors(len(row), dtype))
    ours = with_gradients(attend(*parts, row.tree(grad.device), SCALE), parts, grad)
    exact = [p.detach().double().requires_grad_() for p in parts]
    right = with_gradients(exactly(mask_of(row).cuda(), *exact), exact, grad)
    assert worst(ours, right) < (1e-5 if dtype == torch.float32 else 2e-2)
