"""Every benchmark, by its name on the command line."""

from __future__ import annotations

from hart_lite.benchmarks import own_rows, world
from hart_lite.benchmarks.base import Benchmark
from hart_lite.rows import nearest
from hart_lite.types import HartError, shown

BENCHMARKS: dict[str, Benchmark] = {module.BENCHMARK.name: module.BENCHMARK for module in (world, own_rows)}


def find(name: str) -> Benchmark:
    """Raises `HartError` for a benchmark that is not there."""
    if name not in BENCHMARKS:
        known = list(BENCHMARKS)
        raise HartError(f"unknown benchmark {shown(name)}{nearest(name, known)}; allowed: {', '.join(known)}")
    return BENCHMARKS[name]
