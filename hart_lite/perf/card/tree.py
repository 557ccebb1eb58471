"""Attention of a real pack, forward and backward: the blocks as they are, and a candidate without masks.

The candidate makes two calls of FlashAttention-2's kernels for sequences of any length: every run of the trie on
itself, causally, and every run below another on all runs above it. Both are softmaxes over parts of the keys; their
log-sum-exps say what each part weighs. Backward, each call is given the merged output and log-sum-exp, and then yields
its share of the gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from hart_lite.models.attention import attention
from hart_lite.models.packing import Pack, pack
from hart_lite.perf.card.context import Card, relative
from hart_lite.perf.card.sdpa import HEADS, KEY_HEADS, MODULE, SCALING, WIDTH
from hart_lite.perf.card.stages import part
from hart_lite.perf.step_time.count import sequences_of


@dataclass(frozen=True)
class Spans:
    """Sequences side by side: where each begins, int32 and with the end of the last, and the longest."""

    starts: Tensor
    longest: int

    @classmethod
    def of(cls, lengths: list[int], device: torch.device) -> Spans:
        ends = torch.tensor([0, *lengths], device=device).cumsum(0).int()
        return cls(ends, max(lengths))


@dataclass(frozen=True)
class TwoCalls:
    """What a pack's two calls read. `below_Q`: the tokens that have runs above them; `above_K`: those runs' tokens,
    once for each group of neighbours that see the same."""

    own: Spans
    below_Q: Tensor
    above_K: Tensor
    queries: Spans
    keys: Spans

    @classmethod
    def of(cls, packed: Pack, device: torch.device) -> TwoCalls:
        segments = packed.segments_T.tolist()
        runs = [(segment, len(list(tokens))) for segment, tokens in groupby(segments)]
        starts = torch.tensor([0, *(length for _, length in runs)]).cumsum(0).tolist()
        tokens = {segment: range(a, b) for (segment, _), (a, b) in zip(runs, pairwise(starts), strict=True)}
        below, above, queries, keys, last = [], [], [], [], None
        for segment, length in runs:
            seen = [s for s in packed.sees_S_S[segment].nonzero()[:, 0].tolist() if s != segment]
            below += tokens[segment] if seen else ()
            if seen and seen == last:
                queries[-1] += length
            elif seen:
                queries.append(length)
                keys.append(sum(len(tokens[s]) for s in seen))
                above += [t for s in seen for t in tokens[s]]
            last = seen
        place = {"device": device}
        return cls(
            Spans.of([length for _, length in runs], device),
            torch.tensor(below, **place),
            torch.tensor(above, **place),
            Spans.of(queries, device),
            Spans.of(keys, device),
        )

    @property
    def pairs(self) -> int:
        """Of a query and a key that are computed."""
        own, queries, keys = (span.starts.diff().long() for span in (self.own, self.queries, self.keys))
        return int((own * (own + 1) // 2).sum() + (queries * keys).sum())


def flash(q: Tensor, k: Tensor, v: Tensor, of_q: Spans, of_k: Spans, causal: bool) -> tuple[Tensor, Tensor, tuple]:
    """(T, heads, D) output, (heads, T) log-sum-exp, and what the backward pass wants of it. torch's own kernels, by the
    call of `torch.nn.attention.varlen`, which hides the log-sum-exp from backward; written out on CPU."""
    if not q.is_cuda:
        return *_written_out(q, k, v, of_q, of_k, causal), ()
    spans = of_q.starts, of_k.starts, of_q.longest, of_k.longest
    out, lse, *state, _ = torch.ops.aten._flash_attention_forward(q, k, v, *spans, 0.0, causal, False, scale=SCALING)
    return out, lse, tuple(state)


def flash_backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    of_q: Spans,
    of_k: Spans,
    causal: bool,
    state,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k and v, where `out` and `lse` are those of all the keys that q meets, here and elsewhere."""
    if not q.is_cuda:
        return _written_out_backward(grad, q, k, v, out, lse, of_q, of_k, causal)
    spans = of_q.starts, of_k.starts, of_q.longest, of_k.longest
    return torch.ops.aten._flash_attention_backward(grad, q, k, v, out, lse, *spans, 0.0, causal, *state, scale=SCALING)


def _each(q: Tensor, k: Tensor, v: Tensor, of_q: Spans, of_k: Spans, causal: bool) -> Iterator[tuple]:
    """Of every sequence: which queries, which keys, its keys and values for every head, and its scores, in float32."""
    for (a, b), (c, d) in zip(pairwise(of_q.starts.tolist()), pairwise(of_k.starts.tolist()), strict=True):
        keys, values = (t[c:d].repeat_interleave(q.shape[1] // t.shape[1], dim=1).float() for t in (k, v))
        scores = torch.einsum("qhd,khd->hqk", q[a:b].float(), keys) * SCALING
        if causal:
            scores = scores.masked_fill(~torch.ones_like(scores[0], dtype=torch.bool).tril(), -torch.inf)
        yield slice(a, b), slice(c, d), keys, values, scores


def _written_out(q: Tensor, k: Tensor, v: Tensor, of_q: Spans, of_k: Spans, causal: bool) -> tuple[Tensor, Tensor]:
    outs, sums = [], []
    for _, _, _, values, scores in _each(q, k, v, of_q, of_k, causal):
        outs.append(torch.einsum("hqk,khd->qhd", scores.softmax(-1), values).to(q.dtype))
        sums.append(scores.logsumexp(-1))
    return torch.cat(outs), torch.cat(sums, dim=1)


def _written_out_backward(grad, q, k, v, out, lse, of_q, of_k, causal) -> tuple[Tensor, Tensor, Tensor]:
    """As FlashAttention has it: dS = P (dP - rowsum(dO O)), with P = exp(S - lse)."""
    dq, dk, dv = (torch.zeros_like(t, dtype=torch.float32) for t in (q, k, v))
    own = (grad.float() * out.float()).sum(-1).T  # (heads, T)
    for at_q, at_k, keys, values, scores in _each(q, k, v, of_q, of_k, causal):
        weights = (scores - lse[:, at_q, None]).exp()
        moved = weights * (torch.einsum("qhd,khd->hqk", grad[at_q].float(), values) - own[:, at_q, None]) * SCALING
        dq[at_q] = torch.einsum("hqk,khd->qhd", moved, keys)
        by_head = (
            torch.einsum("hqk,qhd->khd", moved, q[at_q].float()),
            torch.einsum("hqk,qhd->khd", weights, grad[at_q].float()),
        )
        for total, share in zip((dk, dv), by_head, strict=True):
            total[at_k] = share.unflatten(1, (k.shape[1], -1)).sum(2)
    return dq.to(q.dtype), dk.to(k.dtype), dv.to(v.dtype)


class Merged(torch.autograd.Function):
    """(T, heads, D) from q of that shape and k, v (T, key heads, D)."""

    @staticmethod
    def forward(ctx, q: Tensor, k: Tensor, v: Tensor, calls: TwoCalls) -> Tensor:
        own, own_lse, own_state = flash(q, k, v, calls.own, calls.own, True)
        at = calls.below_Q
        above, above_lse, above_state = flash(
            q[at], k[calls.above_K], v[calls.above_K], calls.queries, calls.keys, False
        )
        lse = own_lse.clone()
        lse[:, at] = torch.logaddexp(own_lse[:, at], above_lse)
        out = own.clone()
        shares = [(part_lse - lse[:, at]).exp().T[..., None] for part_lse in (own_lse[:, at], above_lse)]
        out[at] = (own[at].float() * shares[0] + above.float() * shares[1]).to(out.dtype)
        ctx.save_for_backward(q, k, v, out, lse)
        ctx.calls, ctx.states = calls, (own_state, above_state)
        return out

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple:
        q, k, v, out, lse = ctx.saved_tensors
        calls, at, keys, grad = ctx.calls, ctx.calls.below_Q, ctx.calls.above_K, grad.contiguous()
        dq, dk, dv = flash_backward(grad, q, k, v, out, lse, calls.own, calls.own, True, ctx.states[0])
        part_q, part_k, part_v = flash_backward(
            *(grad[at], q[at], k[keys], v[keys], out[at], lse[:, at].contiguous()),
            *(calls.queries, calls.keys, False, ctx.states[1]),
        )
        dq = dq.index_add(0, at, part_q)
        return dq, dk.index_add(0, keys, part_k), dv.index_add(0, keys, part_v), None


# -- the stage ---------------------------------------------------------------------------------------------------------


def tree(card: Card, found: dict[str, Any]) -> None:
    """Errors against float32 with the whole mask, and milliseconds of forward and of both, by candidate."""
    packed = largest_pack(card)
    calls = TwoCalls.of(packed, card.device)
    blocks = [block.to(card.device) for block in packed.blocks]
    q, k, v = (
        torch.randn(1, n, len(packed), WIDTH, device=card.device, dtype=torch.bfloat16).requires_grad_()
        for n in (HEADS, KEY_HEADS, KEY_HEADS)
    )
    grad = torch.randn(1, len(packed), HEADS, WIDTH, device=card.device, dtype=torch.bfloat16)
    needed = int(packed.mask().sum())
    found["pack"] = {
        "tokens": len(packed),
        "segments": len(packed.sees_S_S),
        "blocks": len(blocks),
        "masked": sum(block.sees_Q_K is not None for block in blocks),
        "pairs of blocks / needed": sum((b.stop - b.start) * len(b.keys_K) for b in blocks) / needed,
        "pairs of two calls / needed": calls.pairs / needed,
    }

    def today() -> Tensor:
        return attention(MODULE, q, k, v, None, blocks=blocks, scaling=SCALING)[0]

    def merged() -> Tensor:
        return Merged.apply(*(t[0].transpose(0, 1).contiguous() for t in (q, k, v)), calls)[None]

    def repeated() -> Tensor:
        more = (t[0].transpose(0, 1).repeat_interleave(HEADS // KEY_HEADS, dim=1) for t in (k, v))
        return Merged.apply(q[0].transpose(0, 1).contiguous(), *more, calls)[None]

    right = _exactly(packed, q, k, v, grad)
    candidates: dict[str, tuple[Callable[[], Tensor], Any]] = {
        "today, cuDNN off": (today, nullcontext()),
        "two calls": (merged, nullcontext()),
        "two calls, keys repeated": (repeated, nullcontext()),
    }
    if (
        card.cuda
    ):  # with cuDNN on, each of the blocks would be planned for a second: the stage `sdpa` has what that brings
        efficient = sdpa_kernel([SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH])
        candidates["today, efficient alone"] = (today, efficient)
    for name, (function, within) in candidates.items():
        with within:
            part(found, name, timed, card, function, (q, k, v), grad, right)


def largest_pack(card: Card) -> Pack:
    """Of the last RL step, or of a rollout where there was none."""
    work = card.work()
    if not card.sequences:
        groups = work.runner.rollout(card.photos()[:4], "hart", work.preset.samples, seed=0)
        card.sequences = sequences_of(groups)
    return pack(card.sequences, work.runner.policy.family.positions, card.sizes.tokens_per_pack)[0]


def timed(card: Card, function: Callable[[], Tensor], tensors, grad: Tensor, right: list[Tensor]) -> dict[str, Any]:
    def both() -> list[Tensor]:
        out = function()
        return [out, *torch.autograd.grad(out, tensors, grad)]

    first = card.seconds(both)
    errors = [relative(found, exact) for found, exact in zip(both(), right, strict=True)]
    times = {"forward ms": card.milliseconds(function, 5), "both ms": card.milliseconds(both, 5)}
    return {"error (out, q, k, v)": errors, "first seconds": first} | times


def _exactly(packed: Pack, q: Tensor, k: Tensor, v: Tensor, grad: Tensor) -> list[Tensor]:
    """In float32, head by head: the whole mask at once would take several GiB."""
    mask = packed.mask().to(q.device)
    group = HEADS // KEY_HEADS
    outs, grads = [], [torch.zeros_like(t, dtype=torch.float32) for t in (q, k, v)]
    for head in range(HEADS):
        kept = head, head // group, head // group
        own = [t[0, n].detach().float().requires_grad_() for t, n in zip((q, k, v), kept, strict=True)]
        scores = (own[0] @ own[1].T * SCALING).masked_fill(~mask, -torch.inf)
        outs.append(scores.softmax(-1) @ own[2])
        for total, n, share in zip(
            grads, kept, torch.autograd.grad(outs[-1], own, grad[0, :, head].float()), strict=True
        ):
            total[0, n] += share
    return [torch.stack(outs, dim=1)[None].detach(), *grads]
