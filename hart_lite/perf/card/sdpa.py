"""What SDPA does with masks on this card, through the call that the language blocks make: which backend it takes,
whether its gradients are numbers (pytorch #196678), and what a shape that it has not seen costs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward

from hart_lite.perf.card.context import Card, relative
from hart_lite.perf.card.stages import part

HEADS, KEY_HEADS, WIDTH = 28, 4, 128
MODULE = SimpleNamespace(num_key_value_groups=HEADS // KEY_HEADS, is_causal=True, layer_idx=0)
SCALING = WIDTH**-0.5
FAR_BELOW = -200.0  # every score: its log-sum-exp is under -88.7, which float32's exp does not come back from


def sdpa(card: Card, found: dict[str, Any]) -> None:
    for length in (704, 1088, 640) if card.cuda else (64,):  # the last is no multiple of 128 plus 64
        part(found, f"every score about {FAR_BELOW:.0f}, {length} keys", nan_gradients, card, length, FAR_BELOW)
    part(found, "scores near 0, 704 keys", nan_gradients, card, 704 if card.cuda else 64, 0.0)
    fresh = iter(range(1, 100))
    for name, cudnn in (("as it comes", True), ("cudnn off", False)):
        part(found, f"fresh shapes, {name}", fresh_shapes, card, cudnn, fresh)


@contextmanager
def cudnn_sdp(enabled: bool) -> Iterator[None]:
    before = torch.backends.cuda.cudnn_sdp_enabled()
    torch.backends.cuda.enable_cudnn_sdp(enabled)
    try:
        yield
    finally:
        torch.backends.cuda.enable_cudnn_sdp(before)


def heads(card: Card, queries: int, keys: int, dtype=torch.bfloat16) -> list[Tensor]:
    """q (1, heads, queries, D), k, v (1, key heads, keys, D) with gradient, drawn anew."""
    shapes = (1, HEADS, queries, WIDTH), (1, KEY_HEADS, keys, WIDTH), (1, KEY_HEADS, keys, WIDTH)
    return [torch.randn(shape, device=card.device, dtype=dtype).requires_grad_() for shape in shapes]


def lower_right(queries: int, keys: int, device: torch.device) -> Tensor:
    """(1, 1, queries, keys) True where the last of the keys are the queries themselves, in order."""
    return torch.ones(queries, keys, dtype=torch.bool, device=device).tril(keys - queries)[None, None]


def run(tensors: Sequence[Tensor], mask: Tensor | None, backward: Tensor | None = None) -> list[Tensor]:
    """The output (1, queries, heads, D), and with `backward` the gradients of q, k, v."""
    out = sdpa_attention_forward(MODULE, *tensors, mask, scaling=SCALING)[0]
    return [out] if backward is None else [out, *torch.autograd.grad(out, tensors, backward)]


def exact(tensors: Sequence[Tensor], mask: Tensor, backward: Tensor) -> list[Tensor]:
    """The same in float64, written out."""
    q, k, v = (t.detach().double().requires_grad_() for t in tensors)
    keys, values = (repeat_kv(t, MODULE.num_key_value_groups) for t in (k, v))
    scores = (q @ keys.transpose(-1, -2) * SCALING).masked_fill(~mask, -torch.inf)
    out = (scores.softmax(-1) @ values).transpose(1, 2)
    return [out, *torch.autograd.grad(out, (q, k, v), backward.double())]


def nan_gradients(card: Card, length: int, score: float) -> dict[str, Any]:
    """With cuDNN on and off: numbers of output and gradients that are none, and errors against float64. A score far
    below zero in every place is what a massive activation makes of a head."""
    q, k, v = heads(card, min(length, 256), length)
    with torch.no_grad():  # one channel that all queries and keys share
        q[..., 0], k[..., 0] = 16.0, score / SCALING / 16.0
    mask = lower_right(q.shape[2], length, card.device)
    backward = torch.randn(1, q.shape[2], HEADS, WIDTH, device=card.device, dtype=q.dtype)
    right, found = exact((q, k, v), mask, backward), {}
    for name, cudnn in (("as it comes", True), ("cudnn off", False)):
        with cudnn_sdp(cudnn):
            out, takes = run((q, k, v), mask, backward), backend((q, k, v), mask)
        found[name] = {
            "takes": takes,
            "not finite (out, q, k, v)": [int((~t.isfinite()).sum()) for t in out],
            "error": [relative(t, r) for t, r in zip(out, right, strict=True)],
        }
    return found


def backend(tensors: Sequence[Tensor], mask: Tensor | None) -> str:
    """Which one SDPA takes for these tensors, by its own dispatch."""
    q, k, v = tensors
    gqa = mask is None
    if not gqa:
        k, v = (repeat_kv(t, MODULE.num_key_value_groups) for t in (k, v))
    return SDPBackend(torch._fused_sdp_choice(q, k, v, mask, 0.0, mask is None, scale=SCALING, enable_gqa=gqa)).name


def fresh_shapes(card: Card, cudnn: bool, numbers: Iterator[int]) -> list[dict[str, Any]]:
    """Seconds of forward and backward at shapes seen for the first time and for the second; the first row also sets the
    libraries up."""
    rows = []
    with cudnn_sdp(cudnn):
        for masked in (True, True, True, True, False, False):
            n = next(numbers)
            queries, keys = (331 + 17 * n, 1207 + 31 * n) if card.cuda else (5 + n, 9 + n)
            tensors = heads(card, queries, keys if masked else queries)
            mask = lower_right(queries, keys, card.device) if masked else None
            backward = torch.randn(1, queries, HEADS, WIDTH, device=card.device, dtype=torch.bfloat16)
            times = {"takes": backend(tensors, mask), "shape": f"{queries} x {keys}" + " masked" * masked}
            for time in ("first", "second"):
                times[f"{time} forward"] = card.seconds(lambda t=tensors, m=mask: run(t, m))
                times[f"{time} both"] = card.seconds(lambda t=tensors, m=mask, b=backward: run(t, m, b))
            rows.append(times)
    return rows
