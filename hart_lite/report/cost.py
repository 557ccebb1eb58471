"""What a run took: seconds of each phase, tokens, memory, the machine, and how long the rest of it will take."""

from __future__ import annotations

from statistics import fmean

from hart_lite.report.reader import Run, StageRows
from hart_lite.report.warnings import values

PHASES = ("rollout", "reference", "update")
HARDWARE = ("device", "processor", "cores", "memory")  # keys of versions.json


def cost(run: Run) -> list[tuple[str, str]]:
    """(name, figure) pairs; nothing for a run without a step."""
    if not any(stage.rows for stage in run.stages):
        return []
    evaluations = sum(seconds for _, seconds in run.evaluation_seconds)
    steps = [(stage, sum(values(stage.rows, "seconds_step"))) for stage in run.stages if stage.rows]
    pairs = [("in all", f"{duration(evaluations + sum(s for _, s in steps))} in steps and evaluations")]
    if not run.finished and (left := seconds_left(run)):
        pairs.append(("still to go", f"about {duration(left)}, if later steps take as long as those so far"))
    pairs += [(stage.name, f"{duration(seconds)}, {stage.done:,} steps{_phases(stage)}") for stage, seconds in steps]
    if run.evaluation_seconds:
        pairs.append(("evaluations", f"{duration(evaluations)}, {len(run.evaluation_seconds)} of them"))
    return pairs + _tokens(run) + [(name, str(run.versions[name])) for name in HARDWARE if name in run.versions]


def seconds_left(run: Run) -> float | None:
    """By the pace of each stage's own last steps; a stage that has not begun goes by those of its kind, or by all. None
    before the first step."""
    paces = {stage.kind: pace for stage in run.stages if (pace := _pace(stage)) is not None}
    if not paces:
        return None
    steps = sum((stage.steps - stage.done) * paces.get(stage.kind, fmean(paces.values())) for stage in run.stages)
    return steps + _evaluations_left(run) * (
        fmean(seconds for _, seconds in run.evaluation_seconds) if run.evaluation_seconds else 0.0
    )


def duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _pace(stage: StageRows) -> float | None:
    taken = values(stage.rows, "seconds_step")[-20:]
    return fmean(taken) if taken else None


def _evaluations_left(run: Run) -> int:
    every, done = run.recipe.evaluate.every, {name for name, _ in run.evaluation_seconds}
    due = {"before", *(f"after-{stage.name}" for stage in run.stages)}
    for stage in run.stages if every else ():
        due |= {f"during-{stage.name}-{step:05d}" for step in range(every, stage.steps, every)}
    return len(due - done) if done else 0


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
