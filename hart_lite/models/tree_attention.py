"""Attention of runs that share prefixes, without a mask: a token sees its own run up to itself, and all runs above.

Two calls compute exactly the pairs that are needed: every run on itself, causally, and every run on what is above it.
Both are softmaxes over parts of the keys, which their log-sum-exps merge.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hart_lite.models import kernels
from hart_lite.models.kernels import Call, Spans


@dataclass(frozen=True)
class Tree:
    """What the two calls of a pass read. Its runs lie one after the other; `below_Q` are the places of tokens that have
    runs above them, `above_K` those of the keys above: once for each group of neighbours that see the same."""

    own: Call
    below_Q: Tensor
    above_K: Tensor
    above: Call | None  # None where nothing is above anything

    @classmethod
    def of(cls, lengths: Sequence[int], above: Sequence[Sequence[range]], device: torch.device) -> Tree:
        """`lengths` of the runs of this pass; `above` names for each run the places of the keys above it, as ranges in
        the order of the text: in this pass, or in a store that earlier passes filled."""
        below: list[Tensor] = []
        keys: list[Tensor] = []
        of_q: list[int] = []
        of_k: list[int] = []
        start, last = 0, None
        for length, seen in zip(lengths, above, strict=True):
            if seen:
                below.append(torch.arange(start, start + length))
            if seen and seen == last:
                of_q[-1] += length
            elif seen:
                of_q.append(length)
                of_k.append(sum(map(len, seen)))
                keys += [torch.arange(part.start, part.stop) for part in seen]
            start, last = start + length, seen
        spans = Spans.of(lengths, device)
        if not below:
            empty = torch.zeros(0, dtype=torch.long, device=device)
            return cls(Call(spans, spans, True), empty, empty, None)
        call = Call(Spans.of(of_q, device), Spans.of(of_k, device), False)
        return cls(Call(spans, spans, True), torch.cat(below).to(device), torch.cat(keys).to(device), call)

    @property
    def pairs(self) -> int:
        return self.own.pairs + (self.above.pairs if self.above else 0)


def attend(
    q: Tensor, k: Tensor, v: Tensor, tree: Tree, scale: float, store: tuple[Tensor, Tensor] | None = None
) -> Tensor:
    """(T, heads, D) of q of that shape and k, v (T, key heads, D) of the pass. `store`: keys and values of all passes,
    to which `tree.above_K` points; without it, to those of this one. No gradient reaches a store."""
    if store is not None:
        return _merged(q, k, v, *store, tree, scale)[0]
    return _TreeAttention.apply(q, k, v, tree, scale)


def _merged(
    q: Tensor, k: Tensor, v: Tensor, all_k: Tensor, all_v: Tensor, tree: Tree, scale: float
) -> tuple[Tensor, Tensor, tuple]:
    """(output, log-sum-exp, states of the two calls)."""
    out, lse, own_state = kernels.forward(q, k, v, tree.own, scale)
    if tree.above is None:
        return out, lse, (own_state, None)
    at, keys = tree.below_Q, tree.above_K
    above, above_lse, above_state = kernels.forward(q[at], all_k[keys], all_v[keys], tree.above, scale)
    own_lse = lse[:, at]
    whole = torch.logaddexp(own_lse, above_lse)
    share = (above_lse - whole).exp().T[..., None]
    out[at] = torch.lerp(out[at].to(share.dtype), above.to(share.dtype), share).to(out.dtype)
    lse[:, at] = whole
    return out, lse, (own_state, above_state)


class _TreeAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q: Tensor, k: Tensor, v: Tensor, tree: Tree, scale: float) -> Tensor:
        out, lse, ctx.states = _merged(q, k, v, k, v, tree, scale)
        ctx.save_for_backward(q, k, v, out, lse)
        ctx.tree, ctx.scale = tree, scale
        return out

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, out, lse = ctx.saved_tensors
        tree, grad, (own_state, above_state) = ctx.tree, grad.contiguous(), ctx.states
        dq, dk, dv = kernels.backward(grad, q, k, v, out, lse, tree.own, ctx.scale, own_state)
        if tree.above is not None:
            at, keys = tree.below_Q, tree.above_K
            of_q, of_k, of_v = kernels.backward(
                *(grad[at], q[at], k[keys], v[keys], out[at], lse[:, at].contiguous()),
                *(tree.above, ctx.scale, above_state),
            )
            dq.index_add_(0, at, of_q)
            dk.index_add_(0, keys, of_k)
            dv.index_add_(0, keys, of_v)
        return dq, dk, dv, None, None
