"""One more token in each row: milliseconds, what is launched for it, and what the 4-bit products cost by their rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from hart_lite.inference.protocols import hart
from hart_lite.models.generation import Sampling, generate
from hart_lite.perf.card.context import Card, relative
from hart_lite.perf.card.stages import part
from hart_lite.perf.step_time.models import Workload
from hart_lite.perf.step_time.presets import question
from hart_lite.types import Tokens

FEW, MANY = 9, 25  # tokens of the two rollouts whose difference is taken; a graph is recorded once in each
ROWS = (1, 8, 16, 64, 512)  # of 4-bit products
KERNELS = 12


def decode(card: Card, found: dict[str, Any]) -> None:
    work = card.work()
    example = question(work.preset, card.folder, 0)
    prompt = work.runner.prompt(example, hart.full)
    found["prompt"] = len(prompt)
    weights = sum(p.nbytes for p in work.runner.policy.family.language(work.runner.policy.model).layers.parameters())
    found["weights_gb"] = (weights + work.runner.policy.model.lm_head.weight.nbytes) / 1e9
    for rows in card.sizes.rows:
        part(found, f"{rows} rows, ms a token", milliseconds, card, work, [prompt] * rows)
    for rows in card.sizes.rows[:2]:
        part(found, f"{rows} rows, launched for a token", launched, card, work, [prompt] * rows)
    if card.cuda:
        part(found, "4-bit products", products, card, work)


def milliseconds(card: Card, work: Workload, prompts: list[Tokens]) -> dict[str, float]:
    """Eager and from a graph; for the most rows also with the adapters off."""
    policy = work.runner.policy

    def a_token(graph: bool = False) -> float:
        few, many = (
            min(card.seconds(lambda n=n: generate(policy, prompts, Sampling(n, graph=graph))) for _ in range(2))
            for n in (FEW, MANY)
        )
        return 1e3 * (many - few) / (MANY - FEW)

    found = {"eager": a_token()}
    if card.cuda:
        part(found, "graph", a_token, True)
    if len(prompts) == max(card.sizes.rows):
        with policy.reference():
            found["eager, adapters off"] = a_token()
    return found


def launched(card: Card, work: Workload, prompts: list[Tokens]) -> dict[str, Any]:
    """Kernels of three tokens, a third each: their number, their time on the card, and the longest by name."""
    few, many = (_kernels(card, lambda n=n: generate(work.runner.policy, prompts, Sampling(n))) for n in (2, 5))
    by_name = {}
    for name, (count, micros) in many.items():
        before = few.get(name, (0, 0.0))
        by_name[name] = ((count - before[0]) / 3, (micros - before[1]) / 3e3)
    longest = sorted(by_name.items(), key=lambda item: -item[1][1])[:KERNELS]
    return {
        "kernels": sum(count for count, _ in by_name.values()),
        "ms": sum(ms for _, ms in by_name.values()),
        "longest": [f"{ms:.3f} ms in {count:.0f}: {name[:70]}" for name, (count, ms) in longest],
    }


def _kernels(card: Card, work: Callable[[], object]) -> dict[str, tuple[int, float]]:
    """Number and microseconds of kernels by name; on CPU of operations."""
    kind, activity = (DeviceType.CUDA, ProfilerActivity.CUDA) if card.cuda else (DeviceType.CPU, ProfilerActivity.CPU)
    with profile(activities=[activity]) as profiler:
        work()
        card.wait()
    rows = [row for row in profiler.key_averages() if row.device_type == kind]
    return {row.key: (row.count, row.self_device_time_total if card.cuda else row.self_cpu_time_total) for row in rows}


def products(card: Card, work: Workload) -> dict[str, dict[str, str]]:
    """Each shape of 4-bit linear in a block, by rows: the error against the unpacked weights in float32, microseconds,
    and those of the same product with a matrix in 16 bits."""
    from bitsandbytes.functional import dequantize_4bit
    from bitsandbytes.nn import Linear4bit

    block, found = work.runner.policy.family.language(work.runner.policy.model).layers[0], {}
    for name, module in block.named_modules():
        shape = isinstance(module, Linear4bit) and f"{module.in_features} to {module.out_features}"
        if not shape or shape in found:
            continue
        plain = dequantize_4bit(module.weight.data, module.weight.quant_state)
        found[shape] = {"first": name.removesuffix(".base_layer")}
        for rows in ROWS:
            x = torch.randn(rows, module.in_features, device=card.device, dtype=plain.dtype)
            found[shape][f"M={rows}"] = _product(card, module, plain, x)
    return found


@torch.no_grad()
def _product(card: Card, module: nn.Module, plain: torch.Tensor, x: torch.Tensor) -> str:
    bias = 0 if module.bias is None else module.bias.float()
    error = relative(module(x).float() - bias, x.float() @ plain.float().T)
    packed, unpacked = (card.milliseconds(function, 20) for function in (lambda: module(x), lambda: x @ plain.T))
    return f"error {error:.4f} {1e3 * packed:.0f} us (16 bits {1e3 * unpacked:.0f})"
