"""Attention of Qwen's vision tower over windows and images side by side, in one call a layer.

Without FlashAttention's package the library runs a call for each window of 64 patches, and asks the card for their
lengths in every layer. Registered under a name that says `flash`, this function is given all of them at once; their
boundaries stay on the host, where the family keeps them.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

from hart_lite.models.kernels import Call, Spans
from hart_lite.models.tree_attention import Tree, attend

NAME = "hart_lite_flash"


def register() -> str:
    """Make the function known to transformers, once or again; returns its name."""
    AttentionInterface.register(NAME, attention)
    return NAME


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    cu_seq_lens_q: Tensor,
    **options,
) -> tuple[Tensor, None]:
    """As the library calls it: (1, heads, T, D) of all sequences, in each of which every patch sees every other. Returns
    (1, T, heads, D)."""
    ends = cu_seq_lens_q.tolist()
    spans = Spans.of([stop - start for start, stop in pairwise(ends)], query.device)
    nothing = torch.zeros(0, dtype=torch.long, device=query.device)
    tree = Tree(Call(spans, spans, causal=False), nothing, nothing, None)
    q, k, v = (part[0].transpose(0, 1).contiguous() for part in (query, key, value))
    return attend(q, k, v, tree, scaling)[None], None


def as_matrix_product(patch_embed: nn.Module) -> None:
    """The patches do not overlap, so their convolution is a matrix product, which is many times faster on a card
    (EvolvingLMMs-Lab/lmms-engine #99)."""
    weight = patch_embed.proj.weight

    def forward(pixels: Tensor) -> Tensor:
        return nn.functional.linear(pixels.to(weight.dtype), weight.flatten(1), patch_embed.proj.bias)

    patch_embed.forward = forward
