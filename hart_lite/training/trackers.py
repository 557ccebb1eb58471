"""TensorBoard and Weights & Biases: one run for all stages, whose steps go on counting, with the figures of each
evaluation and a few of its pictures. `report_to` names others as well; those are transformers' own callbacks.

RUN/tensorboard/     event files
RUN/wandb/           what wandb keeps of a run, also offline (WANDB_MODE=offline)
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from accelerate import PartialState
from PIL import Image
from transformers import TrainerCallback

from hart_lite.config.schema import Recipe
from hart_lite.data.drawing import numbered, panel
from hart_lite.eval.questions import Question
from hart_lite.eval.results import Evaluation
from hart_lite.eval.run_summary import run_metrics
from hart_lite.runs.layout import METRICS
from hart_lite.types import load_checked
from hart_lite.utils.jsonl import read_jsonl

OURS = ("tensorboard", "wandb")
PICTURES = 4  # of an evaluation


class Trackers:
    """Of one process of a run: the others track nothing."""

    def __init__(self, recipe: Recipe, run: Path) -> None:
        makers: dict[str, Callable[[Recipe, Path], Any]] = {"tensorboard": TensorBoard, "wandb": Wandb}
        names = recipe.report_to if PartialState().is_main_process else []
        self.run, self.writers = run, [makers[name](recipe, run) for name in names if name in OURS]
        self.begins = 0
        self.step = self._steps_but("")  # a run that is gone on with has some already

    def _steps_but(self, stage: str) -> int:
        """Steps of all stages but this one. Their last row says how many, and patience may have ended them early."""
        path = self.run / METRICS
        rows = [row for _, row in read_jsonl(path, skip_broken=True)] if path.is_file() and self.writers else []
        return sum({row["stage"]: row["step"] for row in rows if row["stage"] != stage}.values())

    def begin(self, stage: str, step: int) -> None:
        """A stage goes on after so many of its steps; what was tracked of later ones is tracked anew."""
        self.begins = self._steps_but(stage)
        self.step = self.begins + step
        for writer in self.writers:
            writer.begin(self.step + 1)

    def metrics(self, step: int, logs: dict[str, float]) -> None:
        """`step` is the stage's own."""
        for writer in self.writers:
            writer.figures({f"train/{name}": value for name, value in logs.items()}, self.begins + step)

    def evaluation(self, evaluation: Evaluation, questions: Sequence[Question]) -> None:
        if not self.writers:
            return
        figures = dict(flat("eval", run_metrics(evaluation)))
        pictures = dict(pictures_of(evaluation, questions))
        for writer in self.writers:
            writer.figures(figures, self.step)
            writer.pictures(pictures, self.step)

    def close(self) -> None:
        for writer in self.writers:
            writer.close()


def flat(place: str, value: Any) -> Iterator[tuple[str, float]]:
    """Numbers of nested figures by their names; lists, such as a curve, are left out."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from flat(f"{place}/{name}", inner)
    elif isinstance(value, int | float):
        yield place, value


def pictures_of(evaluation: Evaluation, questions: Sequence[Question]) -> Iterator[tuple[str, Image.Image]]:
    """The first questions with the boxes that the model named, question and answer."""
    rows = {row.id: row for row in evaluation.rows if row.mode != "full"}
    for question in questions[:PICTURES]:
        if row := rows.get(question.example.id):
            marks = numbered([box for box in row.boxes if box.image == 0])
            image = load_checked(question.example.images[0])
            answer = f"{row.answer or row.text} ({'right' if row.strict else 'wrong'})"
            yield f"looks/{row.id}", panel(image, marks, [row.question, answer])


class Track(TrainerCallback):
    """Hands each step's metrics on."""

    def __init__(self, trackers: Trackers) -> None:
        self.trackers = trackers

    def on_step_end(self, args, state, control, **kwargs) -> None:
        """Before an evaluation that is due after this step."""
        self.trackers.step = self.trackers.begins + state.global_step

    def on_log(self, args, state, control, logs=None, **kwargs) -> None:
        if logs and "train_runtime" not in logs:
            self.trackers.metrics(state.global_step, logs)


class TensorBoard:
    def __init__(self, recipe: Recipe, run: Path) -> None:
        self.folder, self.writer = run / "tensorboard", None
        self._open().add_text("recipe", f"```\n{yaml.safe_dump(recipe.model_dump(mode='json'), sort_keys=False)}```")

    def _open(self, purge: int | None = None) -> Any:
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(self.folder), purge_step=purge)
        return self.writer

    def begin(self, step: int) -> None:
        self.writer.close()
        self._open(purge=step)  # readers pass by what an earlier life of the run wrote from here on

    def figures(self, values: dict[str, float], step: int) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def pictures(self, pictures: dict[str, Image.Image], step: int) -> None:
        for name, picture in pictures.items():
            self.writer.add_image(name, np.asarray(picture), step, dataformats="HWC")
        self.writer.flush()

    def close(self) -> None:
        self.writer.close()


class Wandb:
    """A run that is gone on with keeps its id, which follows from its place."""

    def __init__(self, recipe: Recipe, run: Path) -> None:
        import wandb

        self.library = wandb
        self.run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "hart-lite"),
            name=recipe.name,
            id=hashlib.sha256(str(run.absolute()).encode()).hexdigest()[:16],
            resume="allow",
            dir=str(run),
            config=recipe.model_dump(mode="json"),
        )
        self.run.define_metric("*", step_metric="step")  # wandb's own count refuses steps that are taken again

    def begin(self, step: int) -> None:
        pass

    def figures(self, values: dict[str, float], step: int) -> None:
        self.run.log({**values, "step": step})

    def pictures(self, pictures: dict[str, Image.Image], step: int) -> None:
        self.run.log({name: self.library.Image(picture) for name, picture in pictures.items()} | {"step": step})

    def close(self) -> None:
        self.run.finish()
