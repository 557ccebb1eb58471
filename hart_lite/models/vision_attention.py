"""Qwen's vision tower with all its windows and images in one call of attention a layer, and its patches as a product.

Without FlashAttention's package the library runs a call for each window of 64 patches, and asks the card for their
lengths in every layer. The modules and their weights stay the library's; tests/models/test_vision_attention.py holds
the two against each other.
"""

from __future__ import annotations

from itertools import pairwise
from types import MethodType

import torch
from torch import Tensor, nn

from hart_lite.models.kernels import Call, Spans
from hart_lite.models.tree_attention import Tree, attend


def windows_together(tower: nn.Module) -> None:
    """Give every attention layer of the tower the forward below."""
    for block in tower.blocks:
        block.attn.forward = MethodType(_attention, block.attn)


def _attention(
    self: nn.Module, hidden_states: Tensor, cu_seqlens: Tensor, position_embeddings: tuple[Tensor, Tensor], **_: object
) -> Tensor:
    """As the library's block calls it: (T, H) patches of all sequences, in each of which every patch sees every other.
    `cu_seqlens` is on the host, where the family keeps the grids."""
    q, k, v = self.qkv(hidden_states).unflatten(-1, (3, self.num_heads, -1)).unbind(1)
    cos, sin = (part[:, None].float() for part in position_embeddings)
    spans = Spans.of([stop - start for start, stop in pairwise(cu_seqlens.tolist())], q.device)
    nothing = torch.zeros(0, dtype=torch.long, device=q.device)
    tree = Tree(Call(spans, spans, causal=False), nothing, nothing, None)
    mixed = attend(_turned(q, cos, sin), _turned(k, cos, sin), v.contiguous(), tree, self.scaling)
    return self.proj(mixed.flatten(-2))


def _turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions, in float32 as the library turns them."""
    first, second = x.float().chunk(2, -1)
    return (x.float() * cos + torch.cat([-second, first], -1) * sin).to(x.dtype)


def as_matrix_product(patch_embed: nn.Module) -> None:
    """The patches do not overlap, so their convolution is a matrix product, which is many times faster on a card
    (EvolvingLMMs-Lab/lmms-engine #99)."""
    weight = patch_embed.proj.weight

    def forward(pixels: Tensor) -> Tensor:
        return nn.functional.linear(pixels.to(weight.dtype), weight.flatten(1), patch_embed.proj.bias)

    patch_embed.forward = forward
