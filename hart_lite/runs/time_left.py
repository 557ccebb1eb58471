"""How long the rest of a run will take, by what its steps and evaluations have taken so far."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from hart_lite.config.schema import Recipe
from hart_lite.runs.metrics_file import StageRows, values
from hart_lite.utils.jsonl import read_jsonl

RECENT = 20  # steps by whose pace a stage goes on

Timing = Sequence[tuple[str, float]]  # the name of an evaluation that has ended, and its seconds


def read_timing(path: Path) -> list[tuple[str, float]]:
    """From timing.jsonl; an evaluation that was broken off and finished later is there once, with all of its time."""
    rows = [row for _, row in read_jsonl(path, skip_broken=True)] if path.is_file() else []
    found: dict[str, float] = {}
    for row in rows:
        match row:
            case {"evaluation": str(name), "seconds": int() | float() as seconds}:
                found[name] = found.get(name, 0.0) + seconds
    return list(found.items())


def seconds_left(recipe: Recipe, stages: Sequence[StageRows], timing: Timing) -> float | None:
    """By the pace of each stage's own last steps; a stage that has not begun goes by those of its kind, or by all. None
    before the first step."""
    paces = {stage.kind: fmean(taken) for stage in stages if (taken := values(stage.rows, "seconds_step")[-RECENT:])}
    if not paces:
        return None
    steps = sum((stage.steps - stage.done) * paces.get(stage.kind, fmean(paces.values())) for stage in stages)
    return steps + (_evaluations_left(recipe, stages, timing) * fmean(s for _, s in timing) if timing else 0.0)


def _evaluations_left(recipe: Recipe, stages: Sequence[StageRows], timing: Timing) -> int:
    every = recipe.evaluate.every
    due = {"before", *(f"after-{stage.name}" for stage in stages)}
    for stage in stages if every else ():
        due |= {f"during-{stage.name}-{step:05d}" for step in range(every, stage.steps, every)}
    return len(due - {name for name, _ in timing})


def duration(seconds: float) -> str:
    """As people say it."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
