"""`hart-lite benchmarks`: what can be evaluated on, and where it comes from."""

from __future__ import annotations

from hart_lite.benchmarks.registry import BENCHMARKS


def listing() -> str:
    """A block of lines for each benchmark."""
    return "\n\n".join(
        f"{b.name}: {b.title}, {b.questions or 'any number of'} questions, licence: {b.licence}\n"
        f"  data: {b.hub or 'local'}; overall: {b.overall}\n  in the paper: {b.tables}\n  official scorer: {b.faults}"
        for b in BENCHMARKS.values()
    )
