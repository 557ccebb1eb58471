"""The same few questions, answered greedily at fixed points of a run, so that a reader sees the boxes move.

RUN/tracked/questions.json                what was asked, with ground truth where there is one
RUN/tracked/0.jpg                         the (first) image of question 0, scaled down
RUN/tracked/0-truth-0.jpg                 what lies in its first ground-truth box
RUN/tracked/during-1-rl-00025.jsonl       where the model looked then and what it answered from the crops alone
RUN/tracked/during-1-rl-00025-0-1.jpg     its second crop of question 0

Tracking changes nothing of what is trained: it draws from no generator and leaves the policy as it was.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from pathlib import Path

from accelerate import PartialState
from PIL import Image

from hart_lite.data.drawing import crop_of, scaled
from hart_lite.data.images import jpeg
from hart_lite.errors import CheckpointError
from hart_lite.eval.benchmarks import held_out
from hart_lite.eval.evaluator import prediction
from hart_lite.eval.questions import Question
from hart_lite.inference.protocols import hart
from hart_lite.inference.rollout import Runner
from hart_lite.runs.layout import QUESTIONS, TRACKED
from hart_lite.types import Example, load_checked
from hart_lite.utils.files import write_whole
from hart_lite.utils.jsonl import write_jsonl
from hart_lite.utils.phase import begin_phase

SIDE = 1280  # pixels of the longer side of a kept image
CROP_SIDE = 480  # of a kept crop: one up to that size keeps its own pixels
CROPS = 4  # kept of each answer, and of the ground truth


def quarters(steps: int) -> set[int]:
    """The steps at which a stage of so many is a quarter, a half and three quarters done."""
    return {steps * n // 4 for n in (1, 2, 3)} - {0}


def select_tracked(examples: Sequence[Example], count: int, failed: Collection[str] = ()) -> list[Example]:
    """At most `count`, on different images, from all over the data set; half of them, and first, those whose ids are
    in `failed`, as far as there are any."""
    distinct = list({example.images[0].key: example for example in reversed(examples)}.values())[::-1]
    hard = [example for example in distinct if example.id in failed]
    easy = [example for example in distinct if example.id not in failed]
    few = max(count - len(easy), min(len(hard), -(-count // 2)))
    return _spread(hard, few) + _spread(easy, count - few)


def _spread(examples: Sequence[Example], count: int) -> list[Example]:
    count = min(count, len(examples))
    return [examples[n * len(examples) // count] for n in range(count)]


class SampleTracker:
    """`held_out`: no stage trains on the questions."""

    def __init__(self, run: Path, runner: Runner, examples: Sequence[Example], held_out: bool) -> None:
        self.folder, self.runner, self.examples, self.held_out = run / TRACKED, runner, examples, held_out

    def record(self, name: str) -> None:
        """Once per name; a resumed run keeps what was seen."""
        if not self.examples:
            return
        begin_phase("tracking")
        target = self.folder / f"{name}.jsonl"
        with PartialState().main_process_first():  # the others find the file and go on
            if not target.exists():
                self._record(target)

    def _record(self, target: Path) -> None:
        if not (self.folder / QUESTIONS).exists():
            self._keep_questions()
        engine, model = self.runner.engine, self.runner.policy.model
        training = model.training
        conversations = dict(engine.answer([hart.crops(example, self.runner.setting) for example in self.examples]))
        engine.forget_images()
        model.train(training)
        rows = []
        for n, example in enumerate(self.examples):
            for number, view in enumerate(conversations[n].outcome.crops[:CROPS]):
                crop = crop_of(load_checked(view.source), view.box, CROP_SIDE)
                _save(crop, self.folder / f"{target.stem}-{n}-{number}.jpg")
            rows.append(prediction(Question(held_out.BENCHMARK, example), "crops", conversations[n]).to_dict())
        write_jsonl(target, rows)

    def _keep_questions(self) -> None:
        self.folder.mkdir(exist_ok=True)
        questions = []
        for n, example in enumerate(self.examples):
            image = load_checked(example.images[0])
            _save(scaled(image, min(1.0, SIDE / max(image.size))), self.folder / f"{n}.jpg")
            for number, box in enumerate([box for box in example.boxes if box.image == 0][:CROPS]):
                _save(crop_of(image, box, CROP_SIDE), self.folder / f"{n}-truth-{number}.jpg")
            questions.append({"id": example.id, "picture": f"{n}.jpg", "size": list(image.size)})
        text = json.dumps({"held_out": self.held_out, "questions": questions}, ensure_ascii=False, indent=1)
        write_whole(self.folder / QUESTIONS, text + "\n")


def _save(image: Image.Image, path: Path) -> None:
    try:
        write_whole(path, jpeg(image, quality=85))
    except OSError as error:
        message = f"{path} cannot be written: {error}. Free some space, then go on with --resume"
        raise CheckpointError(message) from error
