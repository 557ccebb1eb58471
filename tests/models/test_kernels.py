"""What breaks when torch changes the kernels that it keeps to itself: order of arguments and number of results.

On a card a wrong order is a wrong gradient or a refused call in mid-training; here it is a failed test. What the CPU's
kernels compute is held against plain attention.
"""

import pytest
import torch

from hart_lite.models.kernels import Call, Spans, backward, forward

SEQUENCES = ("query", "key", "value", "cum_seq_q", "cum_seq_k", "max_q", "max_k", "dropout_p", "is_causal")
ROWS = ("query", "key", "value", "bias", "cu_seqlens_q", "cu_seqlens_k", "max_seqlen_q", "max_seqlen_k")
KERNELS = {
    "_flash_attention_forward": ((*SEQUENCES, "return_debug_mask"), 5),
    "_flash_attention_backward": (
        ("grad_out", *SEQUENCES[:3], "out", "logsumexp", *SEQUENCES[3:], "rng_state", "unused"),
        3,
    ),
    "_efficient_attention_forward": ((*ROWS, "dropout_p", "custom_mask_type", "compute_log_sumexp"), 6),
    "_efficient_attention_backward": (
        (
            *("grad_out_", *ROWS[:4], "out", *ROWS[4:], "logsumexp", "dropout_p", "philox_seed", "philox_offset"),
            *("custom_mask_type", "bias_requires_grad"),
        ),
        4,
    ),
    "_scaled_dot_product_flash_attention_for_cpu": (("query", "key", "value", "dropout_p", "is_causal"), 2),
    "_scaled_dot_product_flash_attention_for_cpu_backward": (
        ("grad_out", "query", "key", "value", "out", "logsumexp", "dropout_p", "is_causal"),
        3,
    ),
}


@pytest.mark.parametrize("name", KERNELS)
def test_arguments_and_results_are_those_that_are_passed_and_taken(name):
    schema = getattr(torch.ops.aten, name).default._schema
    arguments, results = KERNELS[name]
    given = [argument.name for argument in schema.arguments]
    assert tuple(given[: len(arguments)]) == arguments
    assert "scale" in given and len(schema.returns) == results


@pytest.mark.parametrize("causal", [True, False])
def test_sequences_side_by_side_are_each_attended_to_alone(causal):
    torch.manual_seed(0)
    lengths_q, lengths_k, heads, key_heads, width = (3, 5, 3), (3, 5, 3) if causal else (4, 2, 6), 4, 2, 8
    q = torch.randn(sum(lengths_q), heads, width).requires_grad_()
    k, v = (torch.randn(sum(lengths_k), key_heads, width).requires_grad_() for _ in range(2))
    spans = [Spans.of(lengths, torch.device("cpu")) for lengths in (lengths_q, lengths_k)]
    call = Call(*spans, causal)
    grad = torch.randn_like(q)
    with torch.no_grad():
        out, lse, state = forward(q, k, v, call, 0.3)
        grads = backward(grad, q, k, v, out, lse, call, 0.3, state)
    rows = []
    for at_q, at_k in zip(spans[0].slices(), spans[1].slices(), strict=True):
        keys, values = (t[at_k].repeat_interleave(heads // key_heads, dim=1) for t in (k, v))
        scores = torch.einsum("qhd,khd->hqk", q[at_q], keys) * 0.3
        if causal:
            scores = scores.masked_fill(~torch.ones(scores.shape[-2:]).tril().bool(), -torch.inf)
        rows.append(torch.einsum("hqk,khd->qhd", scores.softmax(-1), values))
        torch.testing.assert_close(lse[:, at_q], scores.logsumexp(-1), rtol=0, atol=1e-5)
    torch.testing.assert_close(out, torch.cat(rows), rtol=0, atol=1e-5)
    for found, expected in zip(grads, torch.autograd.grad(torch.cat(rows), (q, k, v), grad), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
