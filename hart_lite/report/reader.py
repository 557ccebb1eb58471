"""A run directory, read for its report: as far as it got, whether it is finished, was killed or still goes on."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hart_lite.config.schema import Recipe
from hart_lite.config.sections import RLStage
from hart_lite.eval.prediction import Prediction, read_prediction
from hart_lite.eval.results import is_finished, read_evaluation
from hart_lite.eval.run_summary import run_metrics
from hart_lite.runs.layout import ADAPTER, EVALUATION, METRICS, QUESTIONS, TIMING, TRACKED, VERSIONS, read_recipe
from hart_lite.runs.metrics_file import StageRows, read_metrics, rows_by_stage
from hart_lite.runs.time_left import read_timing, seconds_left
from hart_lite.utils.jsonl import read_jsonl, read_object

_NAME = re.compile(r"(before|after|during)(?:-(\d{1,4})-(rl|sft|distil)(?:-(\d{1,9}))?)?")


@dataclass(frozen=True)
class Moment:
    """When an evaluation or a record of the tracked samples took place: `at` counts the optimizer steps of
    all stages before it."""

    name: str
    at: int
    title: str


@dataclass(frozen=True)
class Run:
    """`evaluations` are {moment: figures}, in the order in which they took place; `answers` their rows, of the first
    and the last one; `tracked` {moment: rows} of the samples that were tracked; `evaluation_seconds` (name, seconds) of
    the evaluations that ended."""

    folder: Path
    recipe: Recipe
    versions: dict[str, str]
    stages: Sequence[StageRows]
    evaluations: dict[Moment, dict]
    answers: dict[Moment, list[Prediction]]
    questions: Sequence[dict] = ()
    held_out: bool = True
    tracked: dict[Moment, list[Prediction]] = field(default_factory=dict)
    evaluation_seconds: Sequence[tuple[str, float]] = ()

    @property
    def finished(self) -> bool:
        return (self.folder / ADAPTER).is_dir()

    @property
    def seconds_left(self) -> float | None:
        return seconds_left(self.recipe, self.stages, self.evaluation_seconds)

    @property
    def rl(self) -> list[tuple[StageRows, RLStage]]:
        pairs = zip(self.stages, self.recipe.stages, strict=True)
        return [(rows, spec) for rows, spec in pairs if isinstance(spec, RLStage)]


def read_run(folder: Path) -> Run:
    """Raises `DataError` for a folder that holds no run, and for a file in it that is not what it should be."""
    recipe = read_recipe(folder)
    stages = rows_by_stage(recipe, read_metrics(folder / METRICS))
    moments = [m for m in _moments(folder / EVALUATION, stages) if is_finished(folder / EVALUATION / m.name)]
    evaluations = {moment: read_evaluation(folder / EVALUATION / moment.name) for moment in moments}
    ends = moments[:1] + moments[1:][-1:]
    tracked = folder / TRACKED
    asked = read_object(tracked / QUESTIONS) if (tracked / QUESTIONS).is_file() else {}
    return Run(
        folder,
        recipe,
        read_object(folder / VERSIONS) if (folder / VERSIONS).is_file() else {},
        stages,
        {moment: run_metrics(evaluation) for moment, evaluation in evaluations.items()},
        {moment: evaluations[moment].rows for moment in ends},
        asked.get("questions", []),
        asked.get("held_out", True),
        {moment: _predictions(tracked / f"{moment.name}.jsonl") for moment in _moments(tracked, stages)},
        read_timing(folder / TIMING),
    )


def _predictions(path: Path) -> list[Prediction]:
    return [read_prediction(row, f"{path}:{number}") for number, row in read_jsonl(path)]


def _moments(folder: Path, stages: Sequence[StageRows]) -> list[Moment]:
    """In the order of the run; other files are none of ours."""
    found = []
    for path in folder.glob("*"):
        match = _NAME.fullmatch(path.name.removesuffix(".jsonl"))
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
