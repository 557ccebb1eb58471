"""Attention of a real pack, forward and backward: our two calls, and SDPA under the whole mask."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from hart_lite.models.packing import Pack, pack
from hart_lite.models.tree_attention import attend
from hart_lite.perf.card.context import Card, relative
from hart_lite.perf.card.sdpa import HEADS, KEY_HEADS, SCALING, WIDTH
from hart_lite.perf.card.stages import part
from hart_lite.perf.step_time.count import sequences_of


def tree(card: Card, found: dict[str, Any]) -> None:
    """Errors against float32 with the whole mask, and milliseconds of forward and of both, by way."""
    packed = largest_pack(card)
    calls, mask = packed.tree(card.device), mask_of(packed).to(card.device)
    q, k, v = (
        torch.randn(len(packed), n, WIDTH, device=card.device, dtype=torch.bfloat16).requires_grad_()
        for n in (HEADS, KEY_HEADS, KEY_HEADS)
    )
    grad = torch.randn(len(packed), HEADS, WIDTH, device=card.device, dtype=torch.bfloat16)
    needed = int(mask.sum())
    found["pack"] = {"tokens": len(packed), "runs": len(packed.runs), "pairs / needed": calls.pairs / needed}

    def masked() -> Tensor:
        keys, values = (t.repeat_interleave(HEADS // KEY_HEADS, dim=1) for t in (k, v))
        parts = (t.transpose(0, 1)[None] for t in (q, keys, values))
        return F.scaled_dot_product_attention(*parts, attn_mask=mask, scale=SCALING)[0].transpose(0, 1)

    right = _exactly(mask, q, k, v, grad)
    ways = {"two calls": lambda: attend(q, k, v, calls, SCALING), "whole mask": masked}
    for name, function in ways.items():
        part(found, name, timed, card, function, (q, k, v), grad, right)


def largest_pack(card: Card) -> Pack:
    """Of the last RL step, or of a rollout where there was none."""
    work = card.work()
    if not card.sequences:
        groups = work.runner.rollout(card.photos()[:4], "hart", work.preset.samples, seed=0)
        card.sequences = sequences_of(groups)
    return pack(card.sequences, work.runner.policy.family.positions, card.sizes.tokens_per_pack)[0]


def mask_of(packed: Pack) -> Tensor:
    """(T, T): which token sees which."""
    mask, start = torch.zeros(len(packed), len(packed), dtype=torch.bool), 0
    for length, above in zip(packed.runs, packed.above, strict=True):
        own = slice(start, start + length)
        mask[own, own] = torch.ones(length, length, dtype=torch.bool).tril()
        for seen in above:
            mask[own, seen.start : seen.stop] = True
        start += length
    return mask


def timed(card: Card, function: Callable[[], Tensor], tensors, grad: Tensor, right: list[Tensor]) -> dict[str, Any]:
    def both() -> list[Tensor]:
        out = function()
        return [out, *torch.autograd.grad(out, tensors, grad)]

    first = card.seconds(both)
    errors = [relative(found, exact) for found, exact in zip(both(), right, strict=True)]
    times = {"forward ms": card.milliseconds(function, 5), "both ms": card.milliseconds(both, 5)}
    return {"error (out, q, k, v)": errors, "first seconds": first} | times


def _exactly(mask: Tensor, q: Tensor, k: Tensor, v: Tensor, grad: Tensor) -> list[Tensor]:
    """In float32, head by head: all at once would take several GiB."""
    group = HEADS // KEY_HEADS
    outs, grads = [], [torch.zeros_like(t, dtype=torch.float32) for t in (q, k, v)]
    for head in range(HEADS):
        kept = head, head // group, head // group
        own = [t[:, n].detach().float().requires_grad_() for t, n in zip((q, k, v), kept, strict=True)]
        scores = (own[0] @ own[1].T * SCALING).masked_fill(~mask, -torch.inf)
        outs.append(scores.softmax(-1) @ own[2])
        shares = torch.autograd.grad(outs[-1], own, grad[:, head].float())
        for total, n, share in zip(grads, kept, shares, strict=True):
            total[:, n] += share
    return [torch.stack(outs, dim=1).detach(), *grads]
