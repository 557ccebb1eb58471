"""Keys as large as those of Qwen2.5, whose products with queries pass what 16 bits can tell apart (transformers
#33317): what is drawn is what is trained on, in every precision."""

from __future__ import annotations

import pytest
import torch
from large_keys import with_large_keys
from pictures import packed_logps, photo_view

from hart_lite.errors import NotFiniteError
from hart_lite.models import attention
from hart_lite.models.attention import Branches, Level
from hart_lite.models.generation import Response, Sampling, generate
from hart_lite.models.policy import Policy
from hart_lite.types import Tokens

QUERY_BIASES = (0.0, 20.0, 233.0)  # products of up to 2 * 150 * 233 = 70,000
SAMPLES, LONG = 8, 24


@pytest.fixture(scope="module", params=["float32", "bfloat16", "float16"])
def precision(request) -> str:
    return request.param


@pytest.fixture(scope="module", params=QUERY_BIASES)
def large(request) -> float:
    return request.param


@pytest.fixture(scope="module")
def policy(large, precision, new_policy) -> Policy:
    return with_large_keys(new_policy(dtype=precision), large)


def drawn(policy: Policy, temperature: float = 1.0) -> tuple[list[Tokens], list[Response]]:
    policy.forget_images()
    prompt = policy.family.chat((photo_view(112, 84, 1), "Which character is on the red square?"))
    prompts = [prompt] * SAMPLES
    responses = generate(policy, prompts, Sampling(LONG, temperature, seed=3))
    return [p + Tokens.response(r.ids, logps=r.logps) for p, r in zip(prompts, responses, strict=True)], responses


@torch.no_grad()
def gap(policy: Policy) -> float:
    """Mean |log-prob when drawn - log-prob in the pack|."""
    sequences, responses = drawn(policy)
    packed = torch.cat(packed_logps(policy, sequences, 4096))
    when_drawn = torch.tensor([logp for r in responses for logp in r.logps])
    assert len(set(packed.tolist())) > 20
    return (packed - when_drawn).abs().mean().item()


@pytest.mark.parametrize("products", [45, 3_900, 23_000, 69_000])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_attention_of_a_sampled_token_keeps_its_precision(products, dtype):
    """Rows under one prefix at the dimensions of 7B, whose keys share an offset in one channel, against float64."""
    torch.manual_seed(0)
    rows, keys, heads, key_heads, width = 64, 300, 28, 4, 128
    q = torch.randn(rows, 1, heads, width)
    k, v = (torch.randn(1, key_heads, keys, width) for _ in range(2))
    q[..., 0], k[..., 0] = products / 150, 150
    q, k, v = q.to(dtype), k.to(dtype), v.to(dtype)
    under = torch.zeros(rows, dtype=torch.long)
    level = Level(torch.ones(1, keys - 1, dtype=torch.bool), under, [k[:, :, 1:]], [v[:, :, 1:]])
    own_k, own_v = (t[:, :, 0].expand(rows, -1, -1)[:, None] for t in (k, v))
    branches = Branches([level], room=1)
    branches.go_to(0)
    ours = branches.attend(0, q, own_k, own_v, width**-0.5)
    kd, vd = (t[0].double().repeat_interleave(heads // key_heads, dim=0) for t in (k, v))
    scores = torch.einsum("nhd,hkd->nhk", q[:, 0].double(), kd) * width**-0.5
    right = torch.einsum("nhk,hkd->nhd", scores.softmax(-1), vd)
    most = 5e-3 if dtype == torch.bfloat16 else 1e-3
    if products > 65_504:  # where float32 itself tells 69,000 from its neighbours 0.008 away
        most = max(most, 2.5e-3)
    assert ((ours[:, 0].double() - right).norm() / right.norm()).item() < most


def test_log_probs_when_drawn_are_those_in_the_pack(policy, precision):
    """In 16 bits what is left is the rounding of the rest of the model: as much as without large keys."""
    assert gap(policy) < {"float32": 2e-4, "bfloat16": 1.2e-2, "float16": 3e-3}[precision]


@torch.no_grad()
def test_greedy_text_is_what_the_pack_finds_most_likely(policy, precision):
    """What was drawn is at most a rounding below the largest."""
    [tokens, *_], _ = drawn(policy, temperature=0.0)
    seen = []
    hook = policy.model.lm_head.register_forward_hook(lambda _, __, logits: seen.append(logits.float()))
    packed_logps(policy, [tokens], 4096)
    hook.remove()
    logits, [span] = torch.cat(seen), tokens.sampled
    logits[:, list(policy.family.banned_ids)] = -torch.inf
    chosen = logits.gather(-1, torch.tensor(tokens.ids[span.start : span.stop])[:, None])[:, 0]
    assert (logits.amax(-1) - chosen).max() < {"float32": 1e-3, "bfloat16": 0.07, "float16": 0.01}[precision]


def test_scores_rounded_to_16_bits_show(policy, precision, large, monkeypatch):
    """What the gap is there to catch: q.k in the precision of its factors."""
    if precision == "float32" or not large:
        pytest.skip("nothing is lost")
    monkeypatch.setattr(attention, "float32_product", lambda a, b: (a @ b).float())
    if precision == "float16" and large > 200:
        with pytest.raises(NotFiniteError, match="float16 is too narrow"):
            gap(policy)
    else:
        assert gap(policy) > 0.02
