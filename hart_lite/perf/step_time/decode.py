"""How far sampling is from its floor: the bytes a token has to move, over what the device's memory gives."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from hart_lite.models.generation import Sampling, generate
from hart_lite.models.packing import trie
from hart_lite.perf.step_time.count import size
from hart_lite.perf.step_time.models import Workload
from hart_lite.types import Tokens

STREAM = {"cpu": 256 << 20, "cuda": 4 << 30}  # bytes read to find the bandwidth: more than any cache holds


@dataclass(frozen=True)
class Decode:
    """One more token in each of `rows` rows: bytes of weights, of their unpacking and of the cache, bytes a second,
    and seconds measured with and without adapters, of the matrix products alone, and on a card from a graph."""

    rows: int
    weights: int
    unpacking: int
    cache: int
    bandwidth: float
    seconds: float
    without_adapters: float
    products: float
    as_graph: float | None

    @property
    def floor(self) -> float:
        """Seconds."""
        return (self.weights + self.unpacking + self.cache) / self.bandwidth


def decode(work: Workload, prompts: Sequence[Tokens]) -> Decode:
    """A row for each prompt. The cache is counted at the mean length of what the rows sample, prefixes once."""
    model, dims = work.runner.policy.model, work.dims
    number = model.get_input_embeddings().weight.element_size()
    parts = (model.model.language_model.layers, model.lm_head)
    held = size(trie(prompts)) + len(prompts) * work.preset.response // 2
    seconds = _seconds_a_token(work, prompts)
    with work.runner.policy.reference():
        without_adapters = _seconds_a_token(work, prompts)
    return Decode(
        rows=len(prompts),
        weights=sum(parameter.nbytes for part in parts for parameter in part.parameters()),
        # With more than one row a 4-bit matrix is written out whole, and the product reads that.
        unpacking=2 * number * dims.linears if work.preset.quant == "nf4" else 0,
        cache=held * 2 * dims.layers * dims.kv_width * number,
        bandwidth=_bandwidth(work),
        seconds=seconds,
        without_adapters=without_adapters,
        products=_products(work, parts, len(prompts)),
        as_graph=_seconds_a_token(work, prompts, graph=True) if work.device.type == "cuda" else None,
    )


def _bandwidth(work: Workload) -> float:
    """Bytes a second of a sum over a large tensor."""
    numbers = torch.ones(STREAM[work.device.type] // 4, device=work.device)
    return numbers.nbytes / _best(work, numbers.sum)


def _seconds_a_token(work: Workload, prompts: Sequence[Tokens], graph: bool = False) -> float:
    """What a rollout takes longer than one of a single token, for each further token."""
    policy, longest = work.runner.policy, work.preset.response
    short, long = (_best(work, lambda n=n: generate(policy, prompts, Sampling(n, graph=graph))) for n in (1, longest))
    return (long - short) / (longest - 1)


def _products(work: Workload, parts: Sequence[nn.Module], rows: int) -> float:
    """Seconds of the products with the base's matrices, without adapters. On a CPU they take longer than reading the
    matrices does: eight rows are eight times the arithmetic."""
    named = [(name, module) for part in parts for name, module in part.named_modules()]
    linears = [module for name, module in named if isinstance(module, nn.Linear) and ".lora_" not in name]
    weight = work.runner.policy.model.get_input_embeddings().weight
    inputs = {width: weight.new_ones(rows, width) for width in {module.in_features for module in linears}}

    def run() -> None:
        with torch.no_grad():
            for module in linears:
                module(inputs[module.in_features])

    return _best(work, run)


def _best(work: Workload, function: Callable[[], object]) -> float:
    """Seconds of the fastest of five: what else the machine does makes it slower only."""
    seconds = []
    for _ in range(5):
        work.wait()
        start = time.perf_counter()
        function()
        work.wait()
        seconds.append(time.perf_counter() - start)
    return min(seconds)
