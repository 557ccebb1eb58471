"""Keys as large as those of Qwen2.5 on a tiny base."""

from __future__ import annotations

import torch

from hart_lite.models.policy import Policy

KEY_BIAS = 150.0


def with_large_keys(policy: Policy, query_bias: float) -> Policy:
    """+-150 added in the two slowest channels of each key head, which rotation hardly turns, and so much to those of
    each query head. All keys share it, so that softmax leaves it out: exact arithmetic says the same as without."""
    with torch.no_grad():
        for layer in policy.family.language(policy.model).layers:
            block = layer.self_attn
            slow = [block.head_dim // 2 - 2, block.head_dim // 2 - 1]
            for projection, size in ((block.k_proj, KEY_BIAS), (block.q_proj, query_bias)):
                bias = projection.base_layer.bias
                by_head = bias.view(-1, block.head_dim)
                by_head[:, slow] = torch.tensor([size, -size], dtype=bias.dtype)
    return policy
