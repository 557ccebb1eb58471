"""Attention kernels of torch over sequences side by side, with the log-sum-exp of each query: what
`scaled_dot_product_attention` runs and does not give out. These are names that torch keeps to itself; they stand here
alone, and tests/models/test_kernels.py says what breaks when one of them changes.

Tensors are (T, heads, D) for all sequences one after the other; keys and values may have fewer heads. A log-sum-exp is
(heads, T) in float32. Two calls over parts of the keys can be merged by it, and `backward` takes the merged output and
log-sum-exp: FlashAttention's gradient needs nothing else of the other part (arXiv 2205.14135, appendix B.4).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

ROUND = 32  # the memory-efficient kernel pads its log-sum-exps to a multiple of this
CAUSAL, UNMASKED = 1, 0  # its masks


@dataclass(frozen=True)
class Spans:
    """Where sequences lie: `starts` (n + 1,) int32 on the device, with the end of the last; lengths as the host knows
    them, so that it never has to ask the card."""

    starts: Tensor
    lengths: tuple[int, ...]

    @classmethod
    def of(cls, lengths: Sequence[int], device: torch.device) -> Spans:
        ends = torch.tensor([0, *lengths]).cumsum(0).int()
        return cls(ends.to(device), tuple(lengths))

    @property
    def longest(self) -> int:
        return max(self.lengths)

    def slices(self) -> list[slice]:
        ends = [0]
        for length in self.lengths:
            ends.append(ends[-1] + length)
        return [slice(a, b) for a, b in pairwise(ends)]


@dataclass(frozen=True)
class Call:
    """Queries of each sequence of `q` meet the keys of the same sequence of `k`; causally where both are one."""

    q: Spans
    k: Spans
    causal: bool

    @property
    def pairs(self) -> int:
        """Of a query and a key that are computed."""
        if self.causal:
            return sum(n * (n + 1) // 2 for n in self.q.lengths)
        return sum(n * m for n, m in zip(self.q.lengths, self.k.lengths, strict=True))


def forward(q: Tensor, k: Tensor, v: Tensor, call: Call, scale: float) -> tuple[Tensor, Tensor, Any]:
    """(output, log-sum-exp, what `backward` wants to know)."""
    if not q.is_cuda:
        return *_on_cpu(q, k, v, call, scale), None
    if _has_flash(q):
        spans = call.q.starts, call.k.starts, call.q.longest, call.k.longest
        out, lse, *state, _ = torch.ops.aten._flash_attention_forward(
            q, k, v, *spans, 0.0, call.causal, False, scale=scale
        )
        return out, lse, tuple(state)
    return _efficient(q, k, v, call, scale)


def backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, call: Call, scale: float, state: Any
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k and v. `out` and `lse` are those of all the keys that q meets, in this call and elsewhere."""
    if not q.is_cuda:
        return _on_cpu_backward(grad, q, k, v, out, lse, call, scale)
    if _has_flash(q):
        spans = call.q.starts, call.k.starts, call.q.longest, call.k.longest
        return torch.ops.aten._flash_attention_backward(
            grad, q, k, v, out, lse, *spans, 0.0, call.causal, *state, scale=scale
        )
    return _efficient_backward(grad, q, k, v, out, lse, call, scale, state)


def _has_flash(q: Tensor) -> bool:
    """FlashAttention-2's kernels: 16 bits, and a card of capability 8.0 or newer."""
    return q.dtype in (torch.float16, torch.bfloat16) and torch.cuda.get_device_capability(q.device) >= (8, 0)


# -- memory-efficient attention: float32, and cards before Ampere ------------------------------------------------------


def _efficient(q: Tensor, k: Tensor, v: Tensor, call: Call, scale: float) -> tuple[Tensor, Tensor, Any]:
    keys, values = _for_each_head(q, k), _for_each_head(q, v)
    spans = call.q.starts, call.k.starts, call.q.longest, call.k.longest
    mask = CAUSAL if call.causal else UNMASKED
    out, lse, seed, offset, *longest = torch.ops.aten._efficient_attention_forward(
        q[None], keys[None], values[None], None, *spans, 0.0, mask, True, scale=scale
    )
    return out[0], _flat(lse, call.q), (seed, offset, *longest)


def _efficient_backward(grad, q, k, v, out, lse, call: Call, scale: float, state) -> tuple[Tensor, Tensor, Tensor]:
    keys, values = _for_each_head(q, k), _for_each_head(q, v)
    seed, offset, longest_q, longest_k = state
    padded = _padded(lse, call.q)
    dq, dk, dv, _ = torch.ops.aten._efficient_attention_backward(
        *(grad[None], q[None], keys[None], values[None], None, out[None], call.q.starts, call.k.starts),
        *(longest_q, longest_k, padded, 0.0, seed, offset, CAUSAL if call.causal else UNMASKED, False),
        scale=scale,
    )
    return dq[0], _sum_heads(dk[0], k), _sum_heads(dv[0], v)


def _places(spans: Spans, device: torch.device) -> tuple[Tensor, Tensor]:
    """(sequence, place in it) of each token."""
    lengths = torch.tensor(spans.lengths)
    sequence = torch.arange(len(lengths)).repeat_interleave(lengths)
    starts = lengths.cumsum(0) - lengths
    return sequence.to(device), (torch.arange(len(sequence)) - starts[sequence]).to(device)


def _flat(lse: Tensor, spans: Spans) -> Tensor:
    """(n, heads, padded) -> (heads, T)."""
    sequence, place = _places(spans, lse.device)
    return lse[sequence, :, place].T.contiguous()


def _padded(lse: Tensor, spans: Spans) -> Tensor:
    """(heads, T) -> (n, heads, padded)."""
    sequence, place = _places(spans, lse.device)
    room = -(-spans.longest // ROUND) * ROUND
    out = lse.new_zeros(len(spans.lengths), lse.shape[0], room)
    out[sequence, :, place] = lse.T
    return out


def _for_each_head(q: Tensor, k: Tensor) -> Tensor:
    """Keys or values for every query head."""
    repeat = q.shape[1] // k.shape[1]
    return k if repeat == 1 else k.repeat_interleave(repeat, dim=1)


def _sum_heads(grad: Tensor, k: Tensor) -> Tensor:
    """The gradient of keys that several query heads share."""
    return grad if grad.shape == k.shape else grad.unflatten(1, (k.shape[1], -1)).sum(2)


# -- CPU ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Batch:
    """Sequences of one length, (n, T): which tokens are theirs, of the queries and of the keys."""

    at_q: Tensor
    at_k: Tensor


def _batches(call: Call) -> list[_Batch]:
    """Sequences of equal lengths together, in one call of a kernel that knows no others."""
    groups: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for at_q, at_k in zip(call.q.slices(), call.k.slices(), strict=True):
        lengths = at_q.stop - at_q.start, at_k.stop - at_k.start
        groups.setdefault(lengths, []).append((at_q.start, at_k.start))
    out = []
    for lengths, starts in groups.items():
        firsts = torch.tensor(starts)  # (n, 2)
        out.append(_Batch(*(firsts[:, i, None] + torch.arange(length) for i, length in enumerate(lengths))))
    return out


def _taken(tensor: Tensor, at: Tensor) -> Tensor:
    """(T, heads, D) -> (n, heads, tokens of a sequence, D)."""
    return tensor[at].transpose(1, 2)


def _on_cpu(q: Tensor, k: Tensor, v: Tensor, call: Call, scale: float) -> tuple[Tensor, Tensor]:
    out, lse = torch.empty_like(q), q.new_empty(q.shape[1], q.shape[0], dtype=_sum_dtype(q))
    keys, values = _for_each_head(q, k), _for_each_head(q, v)
    for batch in _batches(call):
        parts = _taken(q, batch.at_q), _taken(keys, batch.at_k), _taken(values, batch.at_k)
        one, sums = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(*parts, 0.0, call.causal, scale=scale)
        out[batch.at_q], lse[:, batch.at_q] = one.transpose(1, 2), sums.transpose(0, 1)
    return out, lse


def _on_cpu_backward(grad, q, k, v, out, lse, call: Call, scale: float) -> tuple[Tensor, Tensor, Tensor]:
    keys, values = _for_each_head(q, k), _for_each_head(q, v)
    dq, dk, dv = torch.empty_like(q), torch.empty_like(keys), torch.empty_like(values)
    for batch in _batches(call):
        of_q, of_k = (_taken(t, batch.at_q) for t in (grad, q)), (_taken(t, batch.at_k) for t in (keys, values))
        sums = lse[:, batch.at_q].transpose(0, 1).contiguous()
        found = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
            *of_q, *of_k, _taken(out, batch.at_q), sums, 0.0, call.causal, scale=scale
        )
        for total, at, one in zip((dq, dk, dv), (batch.at_q, batch.at_k, batch.at_k), found, strict=True):
            total[at] = one.transpose(1, 2)
    return dq, _sum_heads(dk, k), _sum_heads(dv, v)


def _sum_dtype(q: Tensor) -> torch.dtype:
    return torch.float64 if q.dtype == torch.float64 else torch.float32
