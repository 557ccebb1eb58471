"""A run directory, read for its report: as far as it got, whether it is finished, was killed or still goes on."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hart_lite.config.recipe import load_recipe
from hart_lite.config.schema import Recipe, RLStage
from hart_lite.errors import HartError

PROGRESS, QUESTIONS = "progress", "questions.json"  # folder of the looks, and in it what was asked
_NAME = re.compile(r"(before|after|during)(?:-(\d{1,4})-(rl|sft)(?:-(\d{1,9}))?)?")


@dataclass(frozen=True)
class Moment:
    """When an evaluation or a look took place: `at` counts the optimizer steps of all stages before it."""

    name: str
    at: int
    title: str


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


@dataclass(frozen=True)
class Run:
    """`evaluations` are {moment: figures}, in the order in which they took place; `answers` their rows, of the first
    and the last one; `looks` {moment: rows} of the questions that were watched."""

    folder: Path
    recipe: Recipe
    versions: dict[str, str]
    stages: Sequence[StageRows]
    evaluations: dict[Moment, dict]
    answers: dict[Moment, list[dict]]
    questions: Sequence[dict] = ()
    held_out: bool = True
    looks: dict[Moment, list[dict]] = field(default_factory=dict)

    @property
    def finished(self) -> bool:
        return (self.folder / "adapter").is_dir()

    @property
    def rl(self) -> list[tuple[StageRows, RLStage]]:
        pairs = zip(self.stages, self.recipe.stages, strict=True)
        return [(rows, spec) for rows, spec in pairs if isinstance(spec, RLStage)]


def is_run(folder: Path) -> bool:
    return (folder / "recipe.yaml").is_file()


def read_run(folder: Path) -> Run:
    """Raises `HartError` for a folder that holds no run, and for a file in it that is not what it should be."""
    if not is_run(folder):
        raise HartError(f"{folder} holds no run (no recipe.yaml); `hart-lite train` makes one")
    recipe = load_recipe(folder / "recipe.yaml")
    stages = _stages(recipe, _metrics(folder / "metrics.jsonl"))
    evaluations = {
        m: read_object(folder / "evaluation" / f"{m.name}.json") for m in _moments(folder / "evaluation", stages)
    }
    ends = list(evaluations)[:1] + list(evaluations)[1:][-1:]
    asked = read_object(folder / PROGRESS / QUESTIONS) if (folder / PROGRESS / QUESTIONS).is_file() else {}
    return Run(
        folder,
        recipe,
        read_object(folder / "versions.json") if (folder / "versions.json").is_file() else {},
        stages,
        evaluations,
        {moment: _lines(folder / "evaluation" / f"{moment.name}.jsonl") for moment in ends},
        asked.get("questions", []),
        asked.get("held_out", True),
        {m: read_json(folder / PROGRESS / f"{m.name}.json", list) for m in _moments(folder / PROGRESS, stages)},
    )


def read_object(path: Path) -> dict:
    return read_json(path, dict)


def read_json(path: Path, kind: type) -> Any:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise HartError(f"{path} cannot be read: {error}") from error
    if not isinstance(value, kind):
        raise HartError(f"{path} should hold a JSON {'object' if kind is dict else 'list'}")
    return value


def _metrics(path: Path) -> list[dict]:
    """The rows that can be read: the last line of a killed run breaks off."""
    return [row for row in _lines(path) if _is_step(row)]


def _is_step(row: dict) -> bool:
    return type(row.get("step")) is int and row["step"] >= 0 and isinstance(row.get("stage"), str)


def _lines(path: Path) -> list[dict]:
    if not path.is_file():
        return []
    rows = []
    for line in path.read_bytes().split(b"\n"):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(row, dict):
            rows.append(row)
    return rows


def _stages(recipe: Recipe, rows: Sequence[dict]) -> list[StageRows]:
    stages, begins = [], 0
    for number, spec in enumerate(recipe.stages, 1):
        name = f"{number}-{spec.kind}"
        own = [row for row in rows if row["stage"] == name]
        steps = spec.steps or max((row["step"] for row in own), default=0)  # a stage may go by epochs
        stages.append(StageRows(name, spec.kind, begins, steps, own))
        begins += steps
    return stages


def _moments(folder: Path, stages: Sequence[StageRows]) -> list[Moment]:
    """In the order of the run; other files are none of ours."""
    found = []
    for path in folder.glob("*.json"):
        match = _NAME.fullmatch(path.stem)
        if match and (moment := _moment(match, stages)):
            found.append(moment)
    return sorted(found, key=lambda moment: (moment.at, moment.name != "before", moment.name))


def _moment(match: re.Match, stages: Sequence[StageRows]) -> Moment | None:
    when, number, kind, step = match.groups()
    if when == "before":
        return Moment("before", 0, "before") if number is None else None
    stage = next((stage for stage in stages if stage.name == f"{number}-{kind}"), None)
    if stage is None or (when == "during") != (step is not None):
        return None
    if when == "after":
        return Moment(match[0], stage.begins + stage.steps, f"after {stage.name}")
    return Moment(match[0], stage.begins + int(step), f"{stage.name}, step {int(step):,}")
