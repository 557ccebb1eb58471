"""What a run took: seconds of each phase, tokens, memory and the machine."""

from __future__ import annotations

from statistics import fmean

from hart_lite.report.reader import Run
from hart_lite.runs.metrics_file import StageRows, values
from hart_lite.runs.time_left import duration

PHASES = ("rollout", "reference", "update")
HARDWARE = ("device", "processor", "cores", "memory")  # keys of versions.json


def cost(run: Run) -> list[tuple[str, str]]:
    """(name, figure) pairs; nothing for a run without a step."""
    if not any(stage.rows for stage in run.stages):
        return []
    evaluations = sum(seconds for _, seconds in run.evaluation_seconds)
    steps = [(stage, sum(values(stage.rows, "seconds_step"))) for stage in run.stages if stage.rows]
    pairs = [("in all", f"{duration(evaluations + sum(s for _, s in steps))} in steps and evaluations")]
    if not run.finished and (left := run.seconds_left):
        pairs.append(("still to go", f"about {duration(left)}, if later steps take as long as those so far"))
    pairs += [(stage.name, f"{duration(seconds)}, {stage.done:,} steps{_phases(stage)}") for stage, seconds in steps]
    if run.evaluation_seconds:
        pairs.append(("evaluations", f"{duration(evaluations)}, {len(run.evaluation_seconds)} of them"))
    return pairs + _tokens(run) + [(name, str(run.versions[name])) for name in HARDWARE if name in run.versions]


def _phases(stage: StageRows) -> str:
    found = [(name, values(stage.rows, f"seconds_{name}")) for name in PHASES]
    shares = [f"{name} {fmean(seconds):.3g} s" for name, seconds in found if seconds]
    return f"; a step: {', '.join(shares)}" if shares else ""


def _tokens(run: Run) -> list[tuple[str, str]]:
    rows = [row for stage, _ in run.rl for row in stage.rows]
    sampled = sum(
        p[0] * s[0]
        for row in rows
        if (p := values([row], "tokens_per_second")) and (s := values([row], "seconds_rollout"))
    )
    peak = max((v for stage in run.stages for v in values(stage.rows, "peak_memory_gib")), default=0.0)
    figures = [
        ("tokens sampled", f"{sampled:,.0f}"),
        ("tokens trained on", f"{sum(values(rows, 'packed_tokens')):,.0f}"),
    ]
    return (figures if sampled else []) + ([("peak memory", f"{peak:.2f} GiB")] if peak else [])
