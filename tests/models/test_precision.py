"""Half precisions, as cards compute in them (float16 and SDPA: T4 class), against float32 on the same base."""

from __future__ import annotations

import pytest
import torch
from pictures import drawn, packed_logps, photo_view

from hart_lite.models.generation import Sampling
from hart_lite.types import Tokens

# A log-prob of about 13 has units of 1/16 and 1/128 in the last place of eight and eleven bits: four of them.
TOLERANCE = {"bfloat16": 4 / 16, "float16": 4 / 128}


def sequences(family) -> list[Tokens]:
    """Three samples of one prompt, and two of another with a crop each."""
    first = family.chat((photo_view(112, 56, 1), "Which character is on the red square?"))
    second = [family.chat(("Which?\n", photo_view(56, 56, n))) for n in (2, 3)]
    said = torch.randint(20, 600, (5, 6), generator=torch.Generator().manual_seed(0)).tolist()
    return [p + Tokens.response(tuple(ids)) for p, ids in zip([first] * 3 + second, said, strict=True)]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_packed_log_probs_and_gradients_are_those_of_float32(new_policy, dtype):
    found = {}
    for name in ("float32", dtype):
        policy = new_policy(dtype=name)
        with policy.reference():
            reference = torch.cat(packed_logps(policy, sequences(policy.family), 4096))
        logps = torch.cat(packed_logps(policy, sequences(policy.family), 4096))
        assert logps.dtype == torch.float32 and logps.isfinite().all()
        scale = 1024 if name == "float16" else 1  # as hart_lite.training.rl_trainer does
        (logps.mean() * scale).backward()
        gradient = torch.cat([p.grad.flatten() / scale for p in policy.adapter_parameters])
        found[name] = (logps.detach(), reference, gradient)
    (ours, our_reference, our_gradient), (exact, exact_reference, exact_gradient) = found[dtype], found["float32"]
    assert (exact - exact_reference).abs().max() > TOLERANCE[dtype]  # the adapter matters
    torch.testing.assert_close(ours, exact, rtol=0, atol=TOLERANCE[dtype])
    torch.testing.assert_close(our_reference, exact_reference, rtol=0, atol=TOLERANCE[dtype])
    assert (our_gradient - exact_gradient).norm() < 0.1 * exact_gradient.norm()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_what_is_sampled_with_shared_prefixes_has_the_log_probs_that_are_packed(new_policy, dtype):
    """Sampled at a temperature near zero, a token is the packed scores' best, or as good within the precision."""
    policy = new_policy(dtype=dtype, adapter_std=0.4)
    prompts = [Tokens(s.ids[: s.sampled[0].start], s.slots) for s in sequences(policy.family)]
    responses = drawn(policy, prompts, Sampling(6, temperature=0))
    assert len(set(responses)) > 1
    said = [p + Tokens.response(r) for p, r in zip(prompts, responses, strict=True)]
    with torch.no_grad():
        taken = torch.cat(packed_logps(policy, said, 4096))
    others = [Tokens.response(tuple((i + 7) % 600 + 20 for i in r)) for r in responses]
    with torch.no_grad():
        other = torch.cat(packed_logps(policy, [p + o for p, o in zip(prompts, others, strict=True)], 4096))
    assert (taken > other - TOLERANCE[dtype]).float().mean() > 0.95
