"""Every benchmark by its name."""

from __future__ import annotations

from hart_lite.data.fields import nearest
from hart_lite.errors import HartError
from hart_lite.eval.benchmarks import (
    custom,
    held_out,
    hrbench4k,
    hrbench8k,
    mme_realworld,
    mme_realworld_lite,
    mmstar,
    toy,
    treebench,
    visual_cot,
    vstar,
)
from hart_lite.eval.benchmarks.base import Benchmark
from hart_lite.utils.text import shown

BENCHMARKS: dict[str, Benchmark] = {
    module.BENCHMARK.name: module.BENCHMARK
    for module in (
        *(mme_realworld_lite, treebench, vstar, hrbench4k, hrbench8k, mmstar, visual_cot, mme_realworld),
        *(toy, custom, held_out),
    )
}


def find(name: str) -> Benchmark:
    """Raises `HartError` naming the nearest for an unknown name."""
    if name not in BENCHMARKS:
        known = ", ".join(BENCHMARKS)
        raise HartError(f"unknown benchmark {shown(name)}{nearest(name, list(BENCHMARKS))}; allowed: {known}")
    return BENCHMARKS[name]
