"""metrics.jsonl, one row for each step of a run: after a resume it goes on where training does."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hart_lite.config.schema import Recipe
from hart_lite.utils.files import write_whole
from hart_lite.utils.jsonl import read_jsonl

FIRST_STEPS = 3  # so many without any signal are worth a word


@dataclass(frozen=True)
class StageRows:
    """A stage's rows of metrics.jsonl. `begins` is the number of steps of the stages before it."""

    name: str
    kind: str
    begins: int
    steps: int
    rows: Sequence[dict]

    @property
    def done(self) -> int:
        """Steps taken."""
        return max((row["step"] for row in self.rows), default=0)


def rewind_metrics(path: Path, stage: str, step: int) -> None:
    """Drop the rows after a step of a stage, which will be written again, and what is no row: the last line of a run
    that was killed, or what a disk made of one."""
    if not path.exists():
        return
    rows = [row for _, row in read_jsonl(path, skip_broken=True) if "stage" in row and isinstance(row.get("step"), int)]
    kept = [row for row in rows if row["stage"] != stage or row["step"] <= step]
    write_whole(path, "".join(json.dumps(row) + "\n" for row in kept))


def read_metrics(path: Path) -> list[dict]:
    """The rows that can be read: the last line of a killed run breaks off."""
    rows = [row for _, row in read_jsonl(path, skip_broken=True)] if path.is_file() else []
    return [row for row in rows if _is_step(row)]


def _is_step(row: dict) -> bool:
    return type(row.get("step")) is int and row["step"] >= 0 and isinstance(row.get("stage"), str)


def values(rows: Sequence[dict], key: str) -> list[float]:
    """The finite ones, in order."""
    found = (row.get(key) for row in rows)
    return [float(v) for v in found if isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v)]


def without_signal(rows: Sequence[dict]) -> bool:
    """Whether all samples of each question earned the same in every step of RL so far, of which there are a few."""
    flat = values(rows, "flat_groups")
    return len(flat) >= FIRST_STEPS and min(flat) == 1


def rows_by_stage(recipe: Recipe, rows: Sequence[dict]) -> list[StageRows]:
    """Each stage of a recipe with its rows; one without a row has not begun."""
    stages, begins = [], 0
    for number, spec in enumerate(recipe.stages, 1):
        name = f"{number}-{spec.kind}"
        own = [row for row in rows if row["stage"] == name]
        steps = spec.steps or _steps_of_epochs(own, spec.epochs)
        stages.append(StageRows(name, spec.kind, begins, steps, own))
        begins += steps
    return stages


def _steps_of_epochs(rows: Sequence[dict], epochs: float) -> int:
    """By how far the last step got in an epoch; 0 before the first step."""
    for row in reversed(rows):
        if isinstance(row.get("epoch"), float) and row["epoch"] > 0:
            return max(row["step"], round(row["step"] / row["epoch"] * epochs))
    return max((row["step"] for row in rows), default=0)
