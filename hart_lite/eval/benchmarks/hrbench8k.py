"""HR-Bench at 8K."""

from __future__ import annotations

from hart_lite.eval.benchmarks import hrbench

BENCHMARK = hrbench.benchmark("8k")
