"""What `hart-lite benchmarks` prints."""

from __future__ import annotations

import textwrap

from hart_lite.eval.benchmarks.base import Benchmark
from hart_lite.eval.benchmarks.registry import BENCHMARKS

_WIDTH = 110


def listing() -> str:
    """Every benchmark: size, licence, source, where the paper's figures come from, known faults of its scorer."""
    return "\n\n".join(map(_entry, BENCHMARKS.values()))


def _entry(benchmark: Benchmark) -> str:
    facts = {
        "questions": f"{benchmark.questions:,}" if benchmark.questions else "as many as there are",
        "aggregate": f"{benchmark.overall} mean",
        "licence": benchmark.licence,
        "source": f"https://huggingface.co/datasets/{benchmark.hub}" if benchmark.hub else "none to download",
        "in the paper": benchmark.tables,
        "official": benchmark.faults,
    }
    lines = [f"{benchmark.name}  {benchmark.title}"]
    for name, fact in facts.items():
        lines += textwrap.wrap(
            fact,
            width=_WIDTH,
            initial_indent=f"  {name + ':':<14}",
            subsequent_indent=" " * 16,
            break_long_words=False,
            break_on_hyphens=False,
        )
    return "\n".join(lines)
