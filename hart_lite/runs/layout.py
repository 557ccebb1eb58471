"""Where things lie in a run directory. No other module spells these names.

RUN/recipe.yaml            every value of the recipe
RUN/versions.json          of Python, the libraries and the base
RUN/metrics.jsonl          one row for each step
RUN/timing.jsonl           seconds of each evaluation
RUN/stages/1-rl/           checkpoints, rollouts with pictures, the stage's adapter when it is done
RUN/evaluation/            before, after-1-rl, ..: ordinary evaluations of the held-out questions
RUN/tracked/               a few questions all along the way, with pictures
RUN/served/                the adapter of the step under way, for vLLM servers to load
RUN/adapter/               the final adapter (PEFT) with tokenizer and image processor
RUN/summary.json, .md      before and after, side by side
RUN/report.html            all of it on one page
"""

from __future__ import annotations

from pathlib import Path

from hart_lite.config.recipe import load_recipe
from hart_lite.config.schema import Recipe
from hart_lite.errors import DataError

RECIPE = "recipe.yaml"
VERSIONS = "versions.json"
METRICS = "metrics.jsonl"
TIMING = "timing.jsonl"
STAGES = "stages"
EVALUATION = "evaluation"
BEFORE = "before"  # the evaluation before training
TRACKED = "tracked"
QUESTIONS = "questions.json"  # of the tracked samples, in their folder
ADAPTER = "adapter"
SERVED = "served"
ROLLOUTS = "rollouts"
SUMMARY = "summary.json"
REPORT = "report.html"


def is_run(folder: Path) -> bool:
    return (folder / RECIPE).is_file()


def read_recipe(run: Path) -> Recipe:
    """The recipe of a run. Raises `DataError` for a folder that holds none."""
    if not is_run(run):
        raise DataError(f"{run} holds no run (no {RECIPE}); `hart-lite train` makes one")
    return load_recipe(run / RECIPE)


def evaluation_before(evaluation: Path) -> Path | None:
    """The evaluation before training that belongs to one of the same run; None for it itself, and for others."""
    place = evaluation.absolute()
    before = place.with_name(BEFORE)
    ours = place.parent.name == EVALUATION and is_run(place.parent.parent)
    return before if ours and before.is_dir() and place.name != BEFORE else None
