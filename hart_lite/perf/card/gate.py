"""Is it right? The first layers at true width: in float32 against itself unpacked and the library's generate, and in 16
bits against float32, with keys as large as Qwen2.5's.

Its language blocks add up to +-150 to two channels of every key, which all keys share and softmax therefore ignores;
products of queries and keys then pass 65504, where float16 ends (transformers #33317).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import zip_longest
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from hart_lite.inference.protocols import hart
from hart_lite.models.attention import Level
from hart_lite.models.generation import Sampling, generate
from hart_lite.models.packing import pack
from hart_lite.models.policy import Policy
from hart_lite.perf.card.context import Card, relative, responded
from hart_lite.perf.card.stages import part
from hart_lite.perf.step_time.count import sequences_of
from hart_lite.perf.step_time.models import Workload, workload
from hart_lite.perf.step_time.presets import question
from hart_lite.perf.step_time.update import differences, packed_pass, unpacked_pass
from hart_lite.types import Tokens

KEY_BIAS = 150.0
QUERY_BIASES = (0.0, 20.0, 230.0)  # times 2 * 150: products of about 400 (the random queries' own), 6,000 and 69,000
OFFSETS = ((0.3, 150.0), (26.0, 150.0), (153.0, 150.0), (460.0, 150.0))  # of queries, of keys: 45 to 69,000


def gate(card: Card, found: dict[str, Any]) -> None:
    part(found, "attend against SDPA, errors", attend, card)
    preset = replace(card.sizes.narrow, device=card.device.type)
    work = workload(preset, card.folder)
    for parameter in work.runner.policy.model.parameters():  # numbers that bfloat16 has: one model in all precisions
        parameter.data = parameter.data.bfloat16().float()
    example = question(preset, card.folder, 0)
    part(found, "float32, packed - unpacked (log-probs, gradients)", equivalence, work, example)
    prompt = _prompt(work, example)
    part(found, "float32, tokens alike with the library's generate", like_the_library, work, prompt)
    if card.cuda:
        part(found, "float32, graph = eager", graph_like_eager, work, card)
    part(found, "precisions", precisions, work, prompt, card, found)
    work.runner.policy.forget_images()


# -- one call ----------------------------------------------------------------------------------------------------------


def attend(card: Card) -> list[dict[str, Any]]:
    """Decode attention of 64 rows under one prefix against float64, at offsets of one channel."""
    rows, keys, heads, key_heads, width = (64, 1480, 28, 4, 128) if card.cuda else (4, 32, 4, 2, 16)
    found = []
    for dtype in (torch.bfloat16, torch.float16):
        for of_queries, of_keys in OFFSETS:
            q = torch.randn(rows, heads, 1, width, device=card.device)
            k, v = (torch.randn(1, key_heads, keys, width, device=card.device) for _ in range(2))
            q[..., 0], k[..., 0] = of_queries, of_keys
            q, k, v = q.to(dtype), k.to(dtype), v.to(dtype)
            right = _attend_exactly(q.double(), k.double(), v.double())
            level = Level(
                torch.ones(1, keys, dtype=torch.bool, device=card.device),
                torch.zeros(rows, dtype=torch.long, device=card.device),
                [k],
                [v],
            )
            functions = {
                "ours": lambda level=level, q=q: _attend_level(level, q),
                "sdpa": lambda q=q, k=k, v=v: _attend_sdpa(q, k, v),
            }
            row = {"dtype": str(dtype), "q.k": of_queries * of_keys}
            for name, function in functions.items():
                row[name] = relative(function(), right)
                if card.cuda:
                    row[f"{name} ms"] = card.milliseconds(function, 20)
            found.append(row)
    return found


def _attend_exactly(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    k, v = (t.repeat_interleave(q.shape[1] // t.shape[1], dim=1) for t in (k, v))
    return (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(-1) @ v


def _attend_sdpa(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    k, v = (t.repeat_interleave(q.shape[1] // t.shape[1], dim=1).expand(len(q), -1, -1, -1) for t in (k, v))
    return F.scaled_dot_product_attention(q, k, v)


def _attend_level(level: Level, q: Tensor) -> Tensor:
    """All that the rows sampled has length 0 here."""
    rows, heads, _, width = q.shape
    query = q.view(rows, level.keys[0].shape[1], -1, width)
    weights = (level.scores(0, query) * width**-0.5).softmax(-1).to(q.dtype)
    return level.weighted(0, weights).reshape(rows, heads, 1, width)


# -- float32 -----------------------------------------------------------------------------------------------------------


def equivalence(work: Workload, example) -> dict[str, Any]:
    """Differences of one `hart` step's sequences; 1e-5 and 1e-4 are what the CPU keeps to."""
    sequences = sequences_of(work.runner.rollout([example], "hart", work.preset.samples, seed=0))
    found = dict(
        zip(
            ("log-probs", "gradients"),
            differences(packed_pass(work, sequences), unpacked_pass(work, sequences)),
            strict=True,
        )
    )
    return found | {"sequences": len(sequences), "tokens": sum(map(len, sequences))}


def like_the_library(work: Workload, prompt: Tokens) -> dict[str, Any]:
    """Greedy tokens of ours and of `generate` as the library has it, which knows no prefixes."""
    policy, longest = work.runner.policy, work.preset.response
    ours, again = (said.ids for said in generate(policy, [prompt, prompt], Sampling(longest, temperature=0)))
    batch = policy.family.collate([prompt])
    del batch["position_ids"]
    out = policy.model.generate(
        **{name: value.to(work.device) for name, value in batch.items()},
        max_new_tokens=longest,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=policy.family.pad_id,
        suppress_tokens=list(policy.family.banned_ids),
    )
    theirs = tuple(out[0, len(prompt) :].tolist())
    alike = sum(a == b for a, b in zip(ours, theirs, strict=True))
    return {"alike": alike, "of": longest, "words": len(set(ours)), "rows alike": ours == again}


def graph_like_eager(work: Workload, card: Card) -> dict[str, Any]:
    """Samples of several prompts that end at different times, eager and from a graph. Drawn, since what this model says
    greedily is one word over and over."""
    policy = work.runner.policy
    prompts = [_prompt(work, question(work.preset, card.folder, n)) for n in range(8)]
    free = generate(policy, prompts, Sampling(48))
    policy.family.eos_ids = tuple({row.ids[8 + 5 * n] for n, row in enumerate(free)})
    try:
        eager, graph = (generate(policy, prompts, Sampling(48, graph=graph)) for graph in (False, True))
    finally:
        policy.family.eos_ids = ()
    first = [
        next((n for n, (x, y) in enumerate(zip_longest(a.ids, b.ids)) if x != y), None)
        for a, b in zip(eager, graph, strict=True)
    ]
    return {"rows differ from token": first, "lengths": [len(row.ids) for row in eager]}


# -- 16 bits -----------------------------------------------------------------------------------------------------------


def precisions(work: Workload, prompt: Tokens, card: Card, found: dict[str, Any]) -> str:
    """Fills `found` with a row for each precision and size of queries: packed log-probs against float32, and how far
    those of the tokens as they were drawn are from the packed ones (the sampling gap)."""
    policy = work.runner.policy
    plain = [p.detach().clone() for p in _biases(policy)]
    right: dict[float, tuple[list[Tokens], Tensor]] = {}
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        for parameter in policy.model.parameters():
            if not parameter.requires_grad:  # adapters stay in float32
                parameter.data = parameter.data.to(dtype)
        policy.forget_images()
        for query_bias in QUERY_BIASES:
            _set_biases(policy, plain, query_bias)
            name = f"{str(dtype).removeprefix('torch.')}, q.k about {max(2 * KEY_BIAS * query_bias, 400):,.0f}"
            if dtype == torch.float32:
                right[query_bias] = _exact(work, prompt)
            part(found, name, _precision, work, prompt, *right[query_bias])
        if card.cuda and dtype == torch.bfloat16:
            part(found, "bfloat16, graph = eager", graph_like_eager, work, card)
    return "below"


def _exact(work: Workload, prompt: Tokens) -> tuple[list[Tokens], Tensor]:
    """Samples of the prompt, and their log-probs."""
    policy, prompts = work.runner.policy, [prompt] * work.preset.samples
    sequences = responded(prompts, generate(policy, prompts, Sampling(work.preset.response, seed=1)))
    return sequences, _packed(policy, sequences)


def _precision(work: Workload, prompt: Tokens, sequences: list[Tokens], exact: Tensor) -> dict[str, float]:
    policy, samples = work.runner.policy, work.preset.samples
    packed = (_packed(policy, sequences) - exact).abs()
    found = {"packed - float32, mean": packed.mean().item(), "most": packed.max().item()}
    said = generate(policy, [prompt] * samples, Sampling(work.preset.response, seed=2))
    when_drawn = torch.tensor([logp for response in said for logp in response.logps], device=work.device)
    gap = (when_drawn - _packed(policy, responded([prompt] * samples, said))).abs()
    return found | {"sampling gap, mean": gap.mean().item(), "gap, most": gap.max().item()}


@torch.no_grad()
def _packed(policy: Policy, sequences: Sequence[Tokens]) -> Tensor:
    """(N,) log-probs, by sequence and then by token."""
    [packed] = pack(sequences, policy.family.positions, 1 << 20)
    logps = policy.logps(packed)
    order = (packed.owners_N * (1 << 20) + packed.offsets_N).argsort()
    return logps[order.to(logps.device)]


def _biases(policy: Policy) -> list[Tensor]:
    """Of the queries and keys of every language block, in turn."""
    named = policy.family.language(policy.model).named_parameters()
    return [p for name, p in named if name.endswith("bias") and (".q_proj." in name or ".k_proj." in name)]


@torch.no_grad()
def _set_biases(policy: Policy, plain: Sequence[Tensor], query_bias: float) -> None:
    """+-150 in two slow channels of each key head, and so much more in the same of each query head."""
    config = policy.family.language(policy.model).config
    width = config.hidden_size // config.num_attention_heads
    slow = [width // 2 - 2, width // 2 - 1]  # rotation hardly turns them
    for n, (bias, before) in enumerate(zip(_biases(policy), plain, strict=True)):
        bias.copy_(before)
        by_head = bias.view(-1, width)
        signs = torch.tensor([1.0, -1.0], device=bias.device, dtype=bias.dtype)
        is_key = len(by_head) == config.num_key_value_heads and n % 2 == 1
        by_head[:, slow] += signs * (KEY_BIAS if is_key else query_bias)


def _prompt(work: Workload, example) -> Tokens:
    return work.runner.prompt(example, hart.full)
